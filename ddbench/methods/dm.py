"""DM: dataset condensation with distribution matching.

Zhao, Bilen; WACV 2023; arXiv 2110.04181; code: VICO-UoE/DatasetCondensation.

Each iteration: a network with fresh random weights, never trained; for every class a batch of real images and all
synthetic ones, under the same draw of DSA; the loss is the squared distance of their mean features, summed over classes
(section 3, an empirical maximum mean discrepancy with a linear kernel); one step of SGD with momentum on the images.
In a network with batch norm the images of all classes go through together, one pass for each side.

Deviations from the public code, all listed in ``methods/dm/README.md``: explicit seeds; real images go through without
gradient, in passes of bounded size; a step whose loss or gradient is not finite is not taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.methods.facts import Facts
from ddbench.methods.families.distribution import DistributionConfig, MeanMatching


@dataclass(frozen=True, kw_only=True)
class DMConfig(DistributionConfig):
    """Settings of DM; the defaults are those of the public code."""


class DM(MeanMatching[DMConfig]):
    """Distribution matching."""

    config_class = DMConfig
    facts = Facts(
        title="DM",
        line="distribution matching",
        family="distribution matching",
        paper="Dataset Condensation with Distribution Matching",
        authors=("Bo Zhao", "Hakan Bilen"),
        venue="WACV",
        year=2023,
        arxiv="2110.04181",
        code="https://github.com/VICO-UoE/DatasetCondensation",
        licence="MIT",
    )
