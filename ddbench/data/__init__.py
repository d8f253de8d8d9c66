"""Data: what the datasets are, how they are read, how pixels become network input, how they are augmented.

Importing this package loads no torch: only the table of datasets is re-exported. The modules that compute are
``dataset`` (splits), ``load`` (reading), ``preprocess`` (mean/std, ZCA) and ``augment`` (DSA).
"""

from ddbench.data.specs import DATASETS, PREPROCESS_KINDS, STATISTICS, DatasetSpec, dataset_spec

__all__ = ["DATASETS", "PREPROCESS_KINDS", "STATISTICS", "DatasetSpec", "dataset_spec"]
