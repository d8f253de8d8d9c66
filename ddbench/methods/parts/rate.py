"""A student's learning rate that is learned with the synset: raw, as published, or by its logarithm."""

from __future__ import annotations

import torch
from torch import Tensor

from ddbench.methods.parts.canvas import Learned


class LearnedRate(Learned):
    """beta, learned by SGD with momentum.

    Args:
        beta: where it begins, above 0.
        lr: learning rate of beta, or of its logarithm.
        momentum: 0 to below 1.
        log: learn log beta, so that beta stays positive; raw beta can turn negative.

    Attributes:
        value: beta, or its logarithm; a float32 scalar.
    """

    def __init__(self, beta: float, *, lr: float, momentum: float, log: bool, device: torch.device) -> None:
        start = torch.tensor(beta, dtype=torch.float32)
        value = (start.log() if log else start).to(device)
        super().__init__(value, lr=lr, momentum=momentum, name="raw_lr", velocity="lr_momentum")
        self.log = log

    @property
    def beta(self) -> Tensor:
        """The rate as it is now, a new scalar."""
        return self.value.exp() if self.log else self.value.clone()

    def step(self, gradient: Tensor) -> None:
        """Descend by the gradient in beta."""
        super().step(gradient * self.beta if self.log else gradient)
