"""DSA: dataset condensation with differentiable siamese augmentation.

Zhao, Bilen; ICML 2021; arXiv 2102.08259; code: VICO-UoE/DatasetCondensation.

DC (:mod:`ddbench.methods.families.gradient_matching`) with one augmentation a class and image step, its family and
parameters the same for every real and every synthetic image (section 3 of the paper); the network's training on the
synset augments each image by itself. Deviations from the public code: ``methods/dsa/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ddbench.data.augment import Strategy, parse_strategy
from ddbench.data.specs import resolve_augmentation
from ddbench.methods.base import Context
from ddbench.methods.facts import Facts
from ddbench.methods.families.gradient_matching import GradientMatching, GradientMatchingConfig
from ddbench.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DSAConfig(GradientMatchingConfig):
    """Settings of DSA: DC's, real first images, and the augmentation."""

    init: Literal["noise", "real"] = "real"
    """First images: random real ones of the class, or standard normal noise."""
    augmentation: str = "dsa"
    """DSA families joined by _, or dsa for all (no flip on digits)."""


class DSA(GradientMatching[DSAConfig]):
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

    @classmethod
    def check(cls, config: DSAConfig, context: Context) -> None:
        """As DC, and an augmentation there must be."""
        super().check(config, context)
        if _strategy(config, context) is None:
            raise UserError(f"--augmentation {config.augmentation}: nothing is left to augment; that is --method dc")

    @property
    def augmentation(self) -> str:
        """The resolved strategy."""
        return resolve_augmentation(self.config.augmentation, self.context.dataset.spec.flip)

    @property
    def strategy(self) -> Strategy | None:
        """The resolved strategy."""
        return _strategy(self.config, self.context)


def _strategy(config: DSAConfig, context: Context) -> Strategy | None:
    names = resolve_augmentation(config.augmentation, context.dataset.spec.flip)
    return parse_strategy(names, align_corners=False)
