"""FreD over MTT: images as masked cosine coefficients, matched as MTT matches.

Shin, Shin, Moon; NeurIPS 2023; arXiv 2311.08819; code: sdh0818/FreD.

What MTT does (the trajectories of experts;
:mod:`ddbench.methods.families.trajectory`) with images that are decoded
(:mod:`ddbench.methods.families.fred`). Deviations from the public code: ``methods/fred-mtt/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.config import setting
from ddbench.methods import papers
from ddbench.methods.facts import Facts
from ddbench.methods.families.decoded import DecodedTrajectory, DecodedTrajectoryConfig
from ddbench.methods.families.fred import FredConfig, FredMethod


@dataclass(frozen=True, kw_only=True)
class FredMTTConfig(DecodedTrajectoryConfig, FredConfig):
    """Settings of MTT and of FreD's decoder."""

    lr_images: float = setting(24400.0, above=0)
    """Learning rate of the coefficients (orthonormal transform); the default is the published 1e8 over (2 x 32)^2."""


class FredMTT(FredMethod[FredMTTConfig], DecodedTrajectory[FredMTTConfig]):
    """FreD over MTT."""

    config_class = FredMTTConfig
    facts = Facts(
        title="FreD+MTT",
        line="trajectory matching, images as masked cosine coefficients",
        family="trajectory matching",
        **papers.FRED,
    )
