"""``full``: all real training images, the upper row of every table.

Nothing is distilled: the "synset" is the whole training set (held-out images included), so that it is scored by the
same evaluator, protocol and seeds as every other row; the protocol states its own number of epochs for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ddbench.methods.base import Distilled, Method
from ddbench.methods.facts import Facts
from ddbench.synset import Budget


@dataclass(frozen=True, kw_only=True)
class FullConfig:
    """``full`` has no settings."""


class Full(Method[FullConfig]):
    """The real training set."""

    config_class = FullConfig
    variants: ClassVar = {"graph": "ddbench.methods.families.graphs:FullGraphs"}
    facts = Facts(
        title="All real images",
        line="all real training images: the upper row",
        family="reference",
        student=False,
    )
    unit = "all"

    @property
    def budget(self) -> Budget:
        """All images."""
        return Budget("all", len(self.context.dataset.train.labels))

    def distilled(self) -> Distilled:
        """The training split as it is."""
        train = self.context.dataset.train
        return Distilled(images=train.images, labels=train.labels)
