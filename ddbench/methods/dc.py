"""DC: dataset condensation with gradient matching.

Zhao, Mopuri, Bilen; ICLR 2021; arXiv 2006.05929; code: VICO-UoE/DatasetCondensation.

Algorithm 1 of the paper, with the distance of its section 3 (one cosine an output unit of each layer); see
:mod:`ddbench.methods.families.gradient_matching`. Deviations from the public code are listed in
``methods/dc/README.md``: explicit seeds, the gradient class by class, only gradients that are compared, a step that is
not finite is not taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.methods.facts import Facts
from ddbench.methods.families.gradient_matching import GradientMatching, GradientMatchingConfig


@dataclass(frozen=True, kw_only=True)
class DCConfig(GradientMatchingConfig):
    """Settings of DC."""


class DC(GradientMatching[DCConfig]):
    """Dataset condensation with gradient matching."""

    config_class = DCConfig
    facts = Facts(
        title="DC",
        line="gradient matching: dataset condensation",
        family="gradient matching",
        paper="Dataset Condensation with Gradient Matching",
        authors=("Bo Zhao", "Konda Reddy Mopuri", "Hakan Bilen"),
        venue="ICLR",
        year=2021,
        arxiv="2006.05929",
        code="https://github.com/VICO-UoE/DatasetCondensation",
        licence="MIT",
    )
