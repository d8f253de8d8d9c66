"""DataDAM: dataset distillation with attention matching.

Sajedi, Khaki, Amjadian, Liu, Lawryshyn, Plataniotis; ICCV 2023; arXiv 2310.00093; code: DataDistillation/DataDAM.

As DM, with a second loss: of every block but the last, the class means of spatial attention maps, taken after the ReLU
and before the pooling. With ``z = a / |a|_2``, ``a = sum over channels of |activation|^p``, image by image:

    L_SAM = sum_c sum_l |mean_T z_l - mean_S z_l|^2        L_MMD = sum_c |mean_T phi - mean_S phi|^2
    L = factor (L_SAM + lambda L_MMD)

Two forms are published under this name. ``code`` is the released script: p = 1, on networks with batch norm; ``paper``
is the paper and its table of hyper-parameters: p = 4, with instance norm. The student's name says the norm.

Deviations from the public code, all listed in ``methods/datadam/README.md``: explicit seeds; the last iterate is
delivered; a step whose loss or gradient is not finite is not taken; nothing is chosen on the test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor

from ddbench.config import Here, setting
from ddbench.methods.base import Context
from ddbench.methods.facts import Facts
from ddbench.methods.families.distribution import DistributionConfig, DistributionMatching
from ddbench.networks.base import Student
from ddbench.networks.convnet import ConvNet
from ddbench.networks.names import parse_student
from ddbench.runtime.errors import UserError
from ddbench.training.distribution import attention_map, attention_match, mean_match

POWERS = {"code": 1, "paper": 4}
"""The exponent p of each form."""


@dataclass(frozen=True, kw_only=True)
class DataDAMConfig(DistributionConfig):
    """Settings of DataDAM; the defaults are those of the released script."""

    batch_real: int = setting(64, at_least=1)
    """Real images of each class in an iteration, all different (all there are in a smaller class)."""
    form: Literal["code", "paper"] = "code"
    """Exponent of the attention maps: code is p = 1 (use a -bn student), paper p = 4 (use an -in student)."""
    feature_weight: float = setting(0.01, at_least=0)
    """lambda: weight of L_MMD; 0.01 for low and 0.02 for high resolution."""
    factor: float = setting(100.0, above=0)
    """Both losses are multiplied by it; 100 in the released script, not in the paper."""


class DataDAM(DistributionMatching[DataDAMConfig]):
    """Attention matching."""

    config_class = DataDAMConfig
    facts = Facts(
        title="DataDAM",
        line="attention and distribution matching",
        family="distribution matching",
        paper="DataDAM: Efficient Dataset Distillation with Attention Matching",
        authors=(
            "Ahmad Sajedi",
            "Samir Khaki",
            "Ehsan Amjadian",
            "Lucy Z. Liu",
            "Yuri A. Lawryshyn",
            "Konstantinos N. Plataniotis",
        ),
        venue="ICCV",
        year=2023,
        arxiv="2310.00093",
        code="https://github.com/DataDistillation/DataDAM",
        licence="none stated",
    )

    @classmethod
    def idle(cls, config: DataDAMConfig, context: Context) -> Mapping[str, str]:
        """Of attention maps, where there are none."""
        one = parse_student(context.student).depth == 1
        return {"form": Here(f"with --student {context.student}: one block has no attention maps")} if one else {}

    @classmethod
    def check(cls, config: DataDAMConfig, context: Context) -> None:
        """As :class:`DistributionMatching`; besides, a ConvNet."""
        if parse_student(context.student).family != "convnet":
            raise UserError(
                f"--student {context.student}: datadam matches the maps of every block, which only ConvNets name here; "
                "use a convnet-..., for example convnet-d3-w128-bn"
            )
        super().check(config, context)

    def setup(self) -> None:
        """As :class:`DistributionMatching`; says so where there are no maps to match."""
        super().setup()
        if parse_student(self.context.student).depth == 1:
            self.context.console.say(
                f"{self.context.student} has one block: no attention maps to match, only features (as dm)"
            )

    def measure(self, net: Student, x: Tensor) -> list[Tensor]:
        """Attention maps of every block but the last, then the flattened features."""
        blocks, features = cast(ConvNet, net).blocks_and_features(x)
        power = POWERS[self.config.form]
        return [*(attention_map(block, power) for block in blocks[:-1]), features]

    def objective(self, synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> dict[str, Tensor]:
        """Both losses with their weights."""
        config = self.config
        terms = {"feature_loss": config.factor * config.feature_weight * mean_match(synthetic[-1], real[-1])}
        if len(synthetic) > 1:
            terms["attention_loss"] = config.factor * attention_match(synthetic[:-1], real[:-1])
        return terms
