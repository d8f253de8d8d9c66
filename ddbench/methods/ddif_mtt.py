"""DDiF over MTT: images as small networks of sines, matched as MTT matches.

Shin, Bae, Sim, Kang, Moon; ICLR 2025; arXiv 2503.04835; code: aailab-kaist/DDiF.

What MTT does (the trajectories of experts;
:mod:`ddbench.methods.families.trajectory`) with images that are decoded
(:mod:`ddbench.methods.families.ddif`). Deviations from the public code: ``methods/ddif-mtt/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.config import setting
from ddbench.methods import papers
from ddbench.methods.facts import Facts
from ddbench.methods.families.ddif import DdifConfig, DdifMethod
from ddbench.methods.families.decoded import DecodedTrajectory, DecodedTrajectoryConfig


@dataclass(frozen=True, kw_only=True)
class DdifMTTConfig(DecodedTrajectoryConfig, DdifConfig):
    """Settings of MTT and of DDiF's decoder."""

    lr_images: float = setting(0.0001, above=0)
    """Learning rate of the fields' parameters (Adam); the default is as published for 128 pixels."""


class DdifMTT(DdifMethod[DdifMTTConfig], DecodedTrajectory[DdifMTTConfig]):
    """DDiF over MTT."""

    config_class = DdifMTTConfig
    facts = Facts(
        title="DDiF+MTT",
        line="trajectory matching, each image a small network",
        family="trajectory matching",
        **papers.DDIF,
    )
