"""DDiF over MTT: images as small networks of sines, matched as MTT matches.

Shin, Bae, Sim, Kang, Moon; ICLR 2025; arXiv 2503.04835; code: aailab-kaist/DDiF.

What MTT does (the trajectories of experts;
:mod:`ddbench.methods.families.trajectory`) with images that are decoded
(:mod:`ddbench.methods.families.ddif`). Deviations from the public code: ``methods/ddif-mtt/README.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ddbench.config import setting
from ddbench.methods.facts import Facts
from ddbench.methods.families.ddif import DdifConfig, DdifMethod
from ddbench.methods.families.trajectory import InnerConfig, TrajectoryMethod
from ddbench.methods.parts.segments import Segment
from ddbench.training.problem import InnerResult


@dataclass(frozen=True, kw_only=True)
class DdifMTTConfig(InnerConfig, DdifConfig):
    """Settings of MTT and of DDiF's decoder."""

    lr_images: float = setting(0.0001, above=0)
    """Learning rate of the fields' parameters (Adam); the default is as published for 128 pixels."""
    least_lr: float = setting(1e-3, at_least=0)
    """The learned rate beta is kept at or above this."""


class DdifMTT(DdifMethod[DdifMTTConfig], TrajectoryMethod[DdifMTTConfig]):
    """DDiF over MTT."""

    config_class = DdifMTTConfig
    facts = Facts(
        title="DDiF+MTT",
        line="trajectory matching, each image a small network",
        family="trajectory matching",
        paper="Distilling Dataset into Neural Field",
        authors=("Donghyeok Shin", "HeeSun Bae", "Gyuwon Sim", "Wanmo Kang", "Il-Chul Moon"),
        venue="ICLR",
        year=2025,
        arxiv="2503.04835",
        code="https://github.com/aailab-kaist/DDiF",
    )

    def after_step(self, iteration: int, segment: Segment, result: InnerResult) -> dict[str, float]:
        """Keep the learned rate where it trains something."""
        least = self.config.least_lr
        if least:
            self.rate.value.clamp_(min=math.log(least) if self.rate.log else least)
        return super().after_step(iteration, segment, result)
