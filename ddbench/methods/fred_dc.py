"""FreD over DC: images as masked cosine coefficients, matched as DC matches.

Shin, Shin, Moon; NeurIPS 2023; arXiv 2311.08819; code: sdh0818/FreD.

What DC does (gradients of a network under one augmentation (DSA);
:mod:`ddbench.methods.families.gradient_matching`) with images that are decoded
(:mod:`ddbench.methods.families.fred`). Deviations from the public code: ``methods/fred-dc/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.config import setting
from ddbench.methods import papers
from ddbench.methods.facts import Facts
from ddbench.methods.families.decoded import DecodedMatching
from ddbench.methods.families.fred import FredConfig, FredMethod
from ddbench.methods.families.gradient_matching import AugmentedConfig


@dataclass(frozen=True, kw_only=True)
class FredDCConfig(AugmentedConfig, FredConfig):
    """Settings of DC and of FreD's decoder."""

    lr_images: float = setting(0.244, above=0)
    """Learning rate of the coefficients (orthonormal transform); the default is the published 1e3 over (2 x 32)^2."""


class FredDC(FredMethod[FredDCConfig], DecodedMatching[FredDCConfig]):
    """FreD over DC."""

    config_class = FredDCConfig
    facts = Facts(
        title="FreD+DC",
        line="gradient matching, images as masked cosine coefficients",
        family="gradient matching",
        **papers.FRED,
    )
