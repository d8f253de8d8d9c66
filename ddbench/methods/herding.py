"""``herding``: real images whose mean feature follows that of their class; a coreset, not a distilled set.

Welling: "Herding dynamical weights to learn", ICML 2009; in the greedy form of iCaRL (Rebuffi et al., CVPR 2017,
algorithm 4; arXiv 1611.07725) and of DC's baseline (Zhao et al., ICLR 2021; pseudocode in issue 15 of its repository),
class by class, without replacement.

Deviations, all listed in ``methods/herding/README.md``: the teacher is a file with a hash; float64, ties by position;
held-out images are not candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ddbench.data.coreset import herding, unit_length
from ddbench.methods.facts import Facts
from ddbench.methods.families.coreset import Coreset


@dataclass(frozen=True, kw_only=True)
class HerdingConfig:
    """Settings of herding."""

    normalise: bool = False
    """Divide each feature vector by its length first, as iCaRL does; DC's pseudocode does not."""


class Herding(Coreset[HerdingConfig]):
    """Herding in the teacher's features."""

    config_class = HerdingConfig
    variants: ClassVar = {"graph": "ddbench.methods.families.graphs:HerdedGraphs"}
    facts = Facts(
        title="Herding",
        line="a coreset: real images whose mean feature follows the class mean",
        family="coreset",
        student=False,
        paper="Herding Dynamical Weights to Learn",
        authors=("Max Welling",),
        venue="ICML",
        year=2009,
        doi="10.1145/1553374.1553517",
    )

    def choose(self, features: Tensor, label: int) -> Tensor:
        return herding(unit_length(features) if self.config.normalise else features, self.context.ipc)
