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
from ddbench.methods.base import Distilled, Method
from ddbench.methods.facts import Facts
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.methods.parts.features import choose_images
from ddbench.runtime import seeds


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    """``kmeans`` has no settings of its own; ``--seed`` names the clustering."""


class KMeans(Method[KMeansConfig]):
    """Images nearest to k-means centres in the teacher's features."""

    config_class = KMeansConfig
    distinct = True
    facts = Facts(
        title="k-means",
        line="a coreset: real images nearest to k-means centres of their class",
        family="coreset",
        paper="DC-BENCH: Dataset Condensation Benchmark",
        authors=("Justin Cui", "Ruochen Wang", "Si Si", "Cho-Jui Hsieh"),
        venue="NeurIPS",
        year=2022,
        arxiv="2207.09639",
    )

    @classmethod
    def needs(cls, config: KMeansConfig) -> tuple[TrainedTeacher]:
        """A teacher."""
        return (TrainedTeacher(),)

    def setup(self) -> None:
        """Choose the images."""
        self._chosen = choose_images(self.context, "kmeans", self._choose)

    def _choose(self, features: Tensor, label: int) -> Tensor:
        return k_means(features, self.context.ipc, seeds.derive(self.context.seed, "kmeans", label))

    def distilled(self) -> Distilled:
        """The subset: uint8 pixels, hard labels, in a class in the order of the training set."""
        return self._chosen
