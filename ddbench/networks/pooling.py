"""Average pooling over 2 x 2 pixels on a CPU: torch's numbers, bit for bit, in less than its time.

Torch's kernel is not vectorised, nor is its backward, and what autograd makes of slices is not lean. Here forward is a
sum of slices, and backward writes each gradient into its four places. Two orders of summation are kept as they were, by
size, so that networks give the bits that they gave.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_FIRST = 2**16
"""Numbers from which rows are added before columns; below, the four pixels are added in turn, as torch does."""

SMALL = 2**15
"""Numbers below which calls cost more than arithmetic, and torch's kernels are used."""


def average_pool(x: Tensor) -> Tensor:
    """``F.avg_pool2d(x, 2)`` of ``(N, C, H, W)``; an odd last row or column is left out. Differentiable, twice too.

    On a CPU it takes a third to a half of the library's time, forward and backward (``benchmarks/pooling.py``). The
    compiler fuses the library's own form, and ``torch.func`` differentiates slices.
    """
    if x.device.type != "cpu" or x.numel() < SMALL or torch.compiler.is_compiling():
        return F.avg_pool2d(x, 2)
    if x.numel() < ROWS_FIRST and x.dtype in (torch.bfloat16, torch.float16):
        return F.avg_pool2d(x, 2)  # which adds half precision in single
    if torch._C._are_functorch_transforms_active():
        return F.avg_pool2d(x, 2) if x.numel() < ROWS_FIRST else _rows_first(x)
    pooled: Tensor = _Mean.apply(x)
    return pooled


class _Mean(torch.autograd.Function):
    """The means; its backward is :class:`_Spread`, whose backward it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C, H // 2, W // 2)``."""
        ctx.shape = x.shape
        return _rows_first(x) if x.numel() >= ROWS_FIRST else _in_turn(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        spread: Tensor = _Spread.apply(gradient, ctx.shape)
        return spread


class _Spread(torch.autograd.Function):
    """A quarter of each number in its four places."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, shape: torch.Size) -> Tensor:
        """``(N, C, H // 2, W // 2)`` to ``shape``."""
        n, c, h, w = shape
        quarter = (gradient * 0.25).add_(0.0)  # no zero is negative: torch adds to zeros
        even = gradient.new_empty(n, c, h // 2, 2, w // 2, 2)
        even[:, :, :, 0, :, 0] = quarter
        even[:, :, :, 0, :, 1] = quarter
        even[:, :, :, 1] = even[:, :, :, 0]
        whole = even.view(n, c, h // 2 * 2, w // 2 * 2)
        return whole if (h % 2, w % 2) == (0, 0) else F.pad(whole, (0, w % 2, 0, h % 2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return average_pool(gradient), None


def _rows_first(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2 * 2)
    x = (x[:, :, :, 0] + x[:, :, :, 1]).reshape(n, c, h // 2, w // 2, 2)
    return (x[..., 0] + x[..., 1]) * 0.25


def _in_turn(x: Tensor) -> Tensor:
    h, w = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    rows = [x[:, :, first:h:2] for first in (0, 1)]
    total = rows[0][..., 0:w:2] + rows[0][..., 1:w:2]
    for row, column in ((1, 0), (1, 1)):
        total += rows[row][..., column:w:2]
    return total.mul_(0.25).add_(0.0)
