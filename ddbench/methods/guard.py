"""GUARD: SRe2L's recovery from a teacher whose loss is flat around its training images.

Xue, Li, Liu, Wang, Shen, Wang: "Towards Adversarially Robust Dataset Distillation by Curvature Regularization"; AAAI
2025; arXiv 2403.10045; code: yumozi/GUARD.

All that is particular is the squeeze stage: the teacher is trained with a penalty on the curvature of its loss
(:mod:`ddbench.training.curvature`, both published forms). Recovery and relabelling are SRe2L's, optionally with CDA's
crops; no adversarial example is used anywhere.

Deviations from the public code, all listed in ``methods/guard/README.md``: those of SRe2L; step and weight of the
penalty are settings of the run, so that a teacher with others is never taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ddbench.config import setting
from ddbench.methods.base import Context
from ddbench.methods.facts import Facts
from ddbench.methods.families.recovery import MILESTONE, Recovery, RecoveryConfig, crop_lower_bound, idle_curriculum
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.runtime.errors import UserError
from ddbench.runtime.numbers import exact
from ddbench.teachers.recipe import PENALTY_WEIGHTS
from ddbench.teachers.store import penalty_of

LEAST_GAIN = 2.0
"""A teacher that is less often right than so many times chance is warned of: its penalty left it nothing to learn."""

MOST_GAIN = 0.1
"""Of few classes so much above chance is enough: twice chance is everything of two."""


def learned_little(accuracy: float, classes: int) -> bool:
    """Whether a teacher is hardly more often right, a fraction, than by chance."""
    return accuracy < min(LEAST_GAIN / classes, 1 / classes + MOST_GAIN)


@dataclass(frozen=True, kw_only=True)
class GUARDConfig(RecoveryConfig):
    """Settings of GUARD; the defaults are those of its public code on CIFAR."""

    penalty: Literal["curvature", "loss-gap"] = "curvature"
    """Form of the teacher's penalty: of the CIFAR script, or the simpler one of the ImageNet script."""
    penalty_weight: float = setting(0.0, at_least=0, expected="a positive number, or 0: the default")
    """Its weight; 0: 100 for curvature (at batch 128), 1e-4 for loss-gap."""
    penalty_step: float = setting(3.0, above=0, expected="a positive number")
    """Length of its step along the input gradient, in units of the network input."""
    curriculum: Literal["none", "cosine", "linear", "step"] = "none"
    """CDA's: how the least share of the image that a view shows falls from 1 to --crop-scale, which must be below 1."""
    milestone: float = setting(1.0, at_least=0, at_most=1, expected=MILESTONE, unless=("curriculum", "none"))
    """Fraction of a batch's iterations after which it has fallen."""


class GUARD(Recovery[GUARDConfig]):
    """SRe2L from a curvature-regularised teacher."""

    config_class = GUARDConfig
    facts = Facts(
        title="GUARD",
        line="SRe2L from a teacher with a flat loss, for robustness",
        family="recovery from a teacher",
        protocol="kd-v1",
        student=False,
        paper="Towards Adversarially Robust Dataset Distillation by Curvature Regularization",
        authors=("Eric Xue", "Yijiang Li", "Haoyang Liu", "Peiran Wang", "Yifan Shen", "Haohan Wang"),
        venue="AAAI",
        year=2025,
        arxiv="2403.10045",
        code="https://github.com/yumozi/GUARD",
        licence="none stated",
    )

    @classmethod
    def needs(cls, config: GUARDConfig) -> tuple[TrainedTeacher]:
        """A teacher that was trained with the penalty."""
        weight = config.penalty_weight or PENALTY_WEIGHTS[config.penalty]
        return (TrainedTeacher(config.penalty, weight, config.penalty_step),)

    @classmethod
    def idle(cls, config: GUARDConfig, context: Context) -> Mapping[str, str]:
        """A curriculum of no crops, or of no length."""
        return idle_curriculum(config.crop_scale, config.milestone)

    def setup(self) -> None:
        """As for every recovery, if the teacher is the one that is asked for.

        Raises:
            UserError: it was trained otherwise (a context made by hand).
        """
        teacher = self.context.given(TrainedTeacher)
        wanted, found = self.needs(self.config)[0].penalised, penalty_of(teacher.recipe)
        if found != wanted:
            raise UserError(
                f"{teacher.path}: was trained with {found or 'no penalty'}, GUARD asks for {wanted}; train one with "
                f"ddbench teacher --penalty {wanted['penalty']} --penalty-weight {exact(wanted['penalty_weight'])} "
                f"--penalty-step {exact(wanted['penalty_step'])}"
            )
        if teacher.accuracy is not None and learned_little(teacher.accuracy, self.context.classes):
            self.context.console.say(
                f"warning: {teacher.path} is right on {teacher.accuracy:.1%} of its held-out images, hardly more than "
                "by chance: a lower --penalty-weight or --penalty-step lets it learn"
            )
        super().setup()

    def crop_scale(self, step: int) -> float:
        """Constant, or by CDA's curriculum."""
        config = self.config
        return crop_lower_bound(config.curriculum, step, config.iterations, config.milestone, config.crop_scale)
