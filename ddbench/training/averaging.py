"""The exponential moving average of weights over the steps of a training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


class MovingAverage:
    """``a <- d a + (1 - d) p`` after every step; ``a`` begins as ``p`` before the first one, and no bias is taken out.

    Args:
        tensors: followed by reference: they must be updated in place. Those of whole numbers are left alone.
        decay: d, from 0 (the tensors as they are) to below 1.
    """

    def __init__(self, tensors: Iterable[Tensor], decay: float) -> None:
        self._tensors = [one for one in tensors if one.is_floating_point()]
        self.averages = [one.detach().clone() for one in self._tensors]
        self._share = 1 - decay

    @torch.no_grad()
    def update(self) -> None:
        """Take in what the tensors are now."""
        torch._foreach_lerp_(self.averages, self._tensors, self._share)

    @torch.no_grad()
    def put(self) -> None:
        """The averages take the place of what the tensors were."""
        torch._foreach_copy_(self._tensors, self.averages)


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """What of a network is averaged.

    Attributes:
        decay: see :class:`MovingAverage`.
        buffers: the statistics of norms too; else they stay those of the training's last steps.
    """

    decay: float
    buffers: bool = False

    def of(self, parameters: Iterable[Tensor], buffers: Iterable[Tensor]) -> MovingAverage:
        """The average of a network's weights, or of a stack of several networks'."""
        return MovingAverage([*parameters, *(buffers if self.buffers else ())], self.decay)
