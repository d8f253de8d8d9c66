"""DSA: dataset condensation with differentiable siamese augmentation.

Zhao, Bilen; ICML 2021; arXiv 2102.08259; code: VICO-UoE/DatasetCondensation.

DC (:mod:`ddbench.methods.families.gradient_matching`) with one augmentation a class and image step, its family and
parameters the same for every real and every synthetic image (section 3 of the paper); the network's training on the
synset augments each image by itself. Deviations from the public code: ``methods/dsa/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.methods.facts import Facts
from ddbench.methods.families.gradient_matching import AugmentedConfig, AugmentedMatching


@dataclass(frozen=True, kw_only=True)
class DSAConfig(AugmentedConfig):
    """Settings of DSA: DC's, real first images, and the augmentation."""


class DSA(AugmentedMatching[DSAConfig]):
    """Dataset condensation with differentiable siamese augmentation."""

    config_class = DSAConfig
    facts = Facts(
        title="DSA",
        line="DC with differentiable siamese augmentation",
        family="gradient matching",
        paper="Dataset Condensation with Differentiable Siamese Augmentation",
        authors=("Bo Zhao", "Hakan Bilen"),
        venue="ICML",
        year=2021,
        arxiv="2102.08259",
        code="https://github.com/VICO-UoE/DatasetCondensation",
        licence="MIT",
    )
