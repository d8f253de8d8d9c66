"""CDA: curriculum data augmentation, SRe2L with views that go from the whole image to small crops.

Yin, Shen; TMLR 2024; arXiv 2311.18838; code: the CDA folder of VILA-Lab/SRe2L.

SRe2L's recovery with one change (section 3): the least share of the image that a view shows falls with the iterations
(:func:`ddbench.methods.families.recovery.crop_lower_bound`), so that an image gets its outline first and its details
later.

Deviations from the public code, all listed in ``methods/cda/README.md``: those of SRe2L; the milestone is 1 by default,
as in all published runs (the public flag's default 0 is silently SRe2L).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ddbench.config import setting
from ddbench.methods.base import Context
from ddbench.methods.facts import Facts
from ddbench.methods.families.recovery import (
    MILESTONE,
    SHARE,
    Recovery,
    RecoveryConfig,
    crop_lower_bound,
    idle_curriculum,
)


@dataclass(frozen=True, kw_only=True)
class CDAConfig(RecoveryConfig):
    """Settings of CDA; the defaults are those of GUARD's code on CIFAR, the only public ones for small images."""

    crop_scale: float = setting(0.4, above=0, at_most=1, expected=SHARE)
    """Least share of the image that a view shows at the end of the curriculum."""
    flip: bool = True
    """Mirror views at random; left out on digits."""
    curriculum: Literal["cosine", "linear", "step"] = "cosine"
    """How the least share falls from 1 to crop-scale."""
    milestone: float = setting(1.0, at_least=0, at_most=1, expected=MILESTONE)
    """Fraction of a batch's iterations after which it has fallen."""


class CDA(Recovery[CDAConfig]):
    """SRe2L with crops that get smaller."""

    config_class = CDAConfig
    facts = Facts(
        title="CDA",
        line="SRe2L with crops that go from the whole image to details",
        family="recovery from a teacher",
        protocol="kd-v1",
        student=False,
        paper="Dataset Distillation via Curriculum Data Synthesis in Large Data Era",
        authors=("Zeyuan Yin", "Zhiqiang Shen"),
        venue="TMLR",
        journal=True,
        year=2024,
        arxiv="2311.18838",
        code="https://github.com/VILA-Lab/SRe2L",
        licence="none stated",
    )

    @classmethod
    def idle(cls, config: CDAConfig, context: Context) -> Mapping[str, str]:
        """A curriculum of no crops, or of no length."""
        return idle_curriculum(config.crop_scale, config.milestone)

    def crop_scale(self, step: int) -> float:
        """By the curriculum."""
        config = self.config
        return crop_lower_bound(config.curriculum, step, config.iterations, config.milestone, config.crop_scale)
