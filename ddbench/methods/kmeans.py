"""``kmeans``: the real images nearest to the centres of their class's k-means clusters; a coreset.

As compared by DC-BENCH (Cui, Wang, Si, Hsieh, NeurIPS 2022; arXiv 2207.09639): k-means in an embedding space, class by
class, k = IPC, and of each cluster the real image nearest to its centre.

Deviations, all listed in ``methods/kmeans/README.md``: DC-BENCH publishes neither its selection code nor its embedding,
ours is the teacher's features; the images are different ones; the clustering is named by ``--seed``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ddbench.data.coreset import k_means
from ddbench.methods.facts import Facts
from ddbench.methods.families.coreset import Coreset
from ddbench.runtime import seeds


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    """``kmeans`` has no settings of its own; ``--seed`` names the clustering."""


class KMeans(Coreset[KMeansConfig]):
    """Images nearest to k-means centres in the teacher's features."""

    config_class = KMeansConfig
    facts = Facts(
        title="k-means",
        line="a coreset: real images nearest to k-means centres of their class",
        family="coreset",
        student=False,
        paper="DC-BENCH: Dataset Condensation Benchmark",
        authors=("Justin Cui", "Ruochen Wang", "Si Si", "Cho-Jui Hsieh"),
        venue="NeurIPS",
        year=2022,
        arxiv="2207.09639",
    )

    def choose(self, features: Tensor, label: int) -> Tensor:
        return k_means(features, self.context.ipc, seeds.derive(self.context.seed, "kmeans", label))
