"""``kcenter``: real images such that no other of their class is far from all of them; a coreset.

Sener, Savarese: "Active learning for convolutional neural networks: a core-set approach", ICLR 2018, algorithm 1;
arXiv 1708.00489; as DC's baseline (Zhao et al., ICLR 2021; pseudocode in issue 21 of its repository),
class by class, begun at the image nearest to the class mean.

Deviations, all listed in ``methods/kcenter/README.md``: the teacher is a file with a hash; float64, ties by position;
an image is never chosen twice; held-out images are not candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ddbench.data.coreset import k_center, unit_length
from ddbench.methods.facts import Facts
from ddbench.methods.families.coreset import Coreset


@dataclass(frozen=True, kw_only=True)
class KCenterConfig:
    """Settings of k-center."""

    normalise: bool = False
    """Divide each feature vector by its length first, so that angles count and not lengths."""


class KCenter(Coreset[KCenterConfig]):
    """Greedy k-center in the teacher's features."""

    config_class = KCenterConfig
    variants: ClassVar = {"graph": "ddbench.methods.families.graphs:KCenterGraphs"}
    facts = Facts(
        title="k-center",
        line="a coreset: real images that cover their class, farthest first",
        family="coreset",
        student=False,
        paper="Active Learning for Convolutional Neural Networks: A Core-Set Approach",
        authors=("Ozan Sener", "Silvio Savarese"),
        venue="ICLR",
        year=2018,
        arxiv="1708.00489",
    )

    def choose(self, features: Tensor, label: int) -> Tensor:
        return k_center(unit_length(features) if self.config.normalise else features, self.context.ipc)
