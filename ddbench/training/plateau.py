"""A learning rate that is halved where the loss has stopped falling, with a state that can be written down."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

FACTOR = 0.5
LEAST = 1e-4
"""Share of the best loss by which another one must be below it to count as better."""


class Plateau:
    """As ``torch``'s ReduceLROnPlateau with factor 0.5 and its other defaults.

    Args:
        rate: the rate at the start.
        patience: the rate is halved where more steps than this in a row were not better than the best; 0: never.

    Attributes:
        rate: the rate as it is now.
    """

    def __init__(self, rate: float, patience: int) -> None:
        self.rate, self.patience = rate, patience
        self._best, self._bad = math.inf, 0

    def after(self, loss: float) -> float:
        """The rate of the next step, after a step with this loss."""
        if loss < self._best * (1 - LEAST):
            self._best, self._bad = loss, 0
        else:
            self._bad += 1
        if self.patience and self._bad > self.patience:
            self.rate, self._bad = self.rate * FACTOR, 0
        return self.rate

    def state(self) -> dict[str, Tensor]:
        """Rate, best loss and steps since, as one float64 tensor ``(3,)`` named ``plateau``."""
        best = min(self._best, sys.float_info.max)  # states hold finite numbers only
        return {"plateau": torch.tensor([self.rate, best, self._bad], dtype=torch.float64)}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        self.rate, self._best, bad = tensors["plateau"].tolist()
        self._bad = int(bad)
