"""``random``: real images chosen at random, the baseline of every table.

Each class gives ``ipc`` different training images, uniformly; pixels are kept as uint8. ``--seed`` names the subset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ddbench.methods.base import Distilled, Method
from ddbench.methods.facts import Facts


@dataclass(frozen=True, kw_only=True)
class RandomConfig:
    """``random`` has no settings of its own; ``--seed`` chooses the subset."""


class Random(Method[RandomConfig]):
    """A random subset of the real training images."""

    config_class = RandomConfig
    variants: ClassVar = {"graph": "ddbench.methods.families.graphs:RandomGraphs"}
    distinct = True
    facts = Facts(
        title="Random real images",
        line="real images chosen at random: the baseline",
        family="reference",
        student=False,
    )

    def distilled(self) -> Distilled:
        """The subset: uint8 pixels, hard labels."""
        return Distilled(images=self.context.random_images("random"), labels=self.context.hard_labels())
