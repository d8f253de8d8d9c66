"""Synsets as Hugging Face's ``datasets`` reads them: parquet files, a card, and one JSON that gives the synset back.

A folder holds ``synset.json`` (:data:`INFO`, everything that is no column), ``data/train-*.parquet`` (a row an image),
``labels/train-*.parquet`` (a row a stored label of a view, where there are such), ``README.md`` with the configurations
and the card, and ``preview.png``. Parquet is written and read by pyarrow alone. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from ddbench.runtime.hub_library import parquet as parquet

KIND = "ddbench-hub"
SCHEMA = 1
INFO = "synset.json"
CARD = "README.md"
PREVIEW = "preview.png"
DATA = "data"
LABELS = "labels"
FILES = (INFO, CARD, PREVIEW, f"{DATA}/train-*.parquet", f"{LABELS}/train-*.parquet")
"""Every file of such a folder: what is pushed, and all that is pulled."""


def is_hub(path: Path) -> bool:
    """Whether a folder is an export of the form ``hub``."""
    return path.is_dir() and (path / INFO).is_file()


def shard_name(number: int, count: int) -> str:
    """Name of a parquet file, as ``datasets`` itself names them: ``train-00000-of-00003.parquet``."""
    return f"train-{number:05d}-of-{count:05d}.parquet"
