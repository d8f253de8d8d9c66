"""DDiF over DC: images as small networks of sines, matched as DC matches.

Shin, Bae, Sim, Kang, Moon; ICLR 2025; arXiv 2503.04835; code: aailab-kaist/DDiF.

What DC does (gradients of a network under one augmentation (DSA);
:mod:`ddbench.methods.families.gradient_matching`) with images that are decoded
(:mod:`ddbench.methods.families.ddif`). Deviations from the public code: ``methods/ddif-dc/README.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ddbench.config import setting
from ddbench.methods import papers
from ddbench.methods.base import Context
from ddbench.methods.facts import Facts
from ddbench.methods.families.ddif import NO_MOMENTUM, DdifConfig, DdifMethod
from ddbench.methods.families.decoded import DecodedMatching
from ddbench.methods.families.gradient_matching import AugmentedConfig


@dataclass(frozen=True, kw_only=True)
class DdifDCConfig(AugmentedConfig, DdifConfig):
    """Settings of DC and of DDiF's decoder."""

    lr_images: float = setting(5e-05, above=0)
    """Learning rate of the fields' parameters (Adam); the default is as published for 128 pixels."""


class DdifDC(DdifMethod[DdifDCConfig], DecodedMatching[DdifDCConfig]):
    """DDiF over DC."""

    config_class = DdifDCConfig
    facts = Facts(
        title="DDiF+DC",
        line="gradient matching, each image a small network",
        family="gradient matching",
        **papers.DDIF,
    )

    @classmethod
    def idle(cls, config: DdifDCConfig, context: Context) -> Mapping[str, str]:
        """Momentum, which Adam has no use for."""
        return {**super().idle(config, context), **NO_MOMENTUM}
