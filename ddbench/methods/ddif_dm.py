"""DDiF over DM: images as small networks of sines, matched as DM matches.

Shin, Bae, Sim, Kang, Moon; ICLR 2025; arXiv 2503.04835; code: aailab-kaist/DDiF.

What DM does (mean features of networks that are not trained;
:mod:`ddbench.methods.families.distribution`) with images that are decoded
(:mod:`ddbench.methods.families.ddif`). Deviations from the public code: ``methods/ddif-dm/README.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ddbench.config import setting
from ddbench.methods import papers
from ddbench.methods.base import Context
from ddbench.methods.facts import Facts
from ddbench.methods.families.ddif import NO_MOMENTUM, DdifConfig, DdifMethod
from ddbench.methods.families.distribution import DistributionConfig, MeanMatching


@dataclass(frozen=True, kw_only=True)
class DdifDMConfig(DistributionConfig, DdifConfig):
    """Settings of DM and of DDiF's decoder."""

    lr_images: float = setting(5e-05, above=0)
    """Learning rate of the fields' parameters (Adam); the default is as published for 128 pixels."""


class DdifDM(DdifMethod[DdifDMConfig], MeanMatching[DdifDMConfig]):
    """DDiF over DM."""

    config_class = DdifDMConfig
    facts = Facts(
        title="DDiF+DM",
        line="distribution matching, each image a small network",
        family="distribution matching",
        **papers.DDIF,
    )

    @classmethod
    def idle(cls, config: DdifDMConfig, context: Context) -> Mapping[str, str]:
        """Momentum, which Adam has no use for."""
        return {**super().idle(config, context), **NO_MOMENTUM}
