"""FreD over DM: images as masked cosine coefficients, matched as DM matches.

Shin, Shin, Moon; NeurIPS 2023; arXiv 2311.08819; code: sdh0818/FreD.

What DM does (mean features of networks that are not trained;
:mod:`ddbench.methods.families.distribution`) with images that are decoded
(:mod:`ddbench.methods.families.fred`). Deviations from the public code: ``methods/fred-dm/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.config import setting
from ddbench.methods import papers
from ddbench.methods.facts import Facts
from ddbench.methods.families.distribution import DistributionConfig, MeanMatching
from ddbench.methods.families.fred import FredConfig, FredMethod


@dataclass(frozen=True, kw_only=True)
class FredDMConfig(DistributionConfig, FredConfig):
    """Settings of DM and of FreD's decoder."""

    lr_images: float = setting(244.0, above=0)
    """Learning rate of the coefficients (orthonormal transform); the default is the published 1e6 over (2 x 32)^2."""


class FredDM(FredMethod[FredDMConfig], MeanMatching[FredDMConfig]):
    """FreD over DM."""

    config_class = FredDMConfig
    facts = Facts(
        title="FreD+DM",
        line="distribution matching, images as masked cosine coefficients",
        family="distribution matching",
        **papers.FRED,
    )
