"""Random masks of pixels: what masked temperature scaling and masked distillation training multiply images by."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_mask(n: int, height: int, width: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Masks ``(n, 1, H, W)`` of 0 and 1, float32 on the CPU: every pixel is 0 with probability ``ratio``, in all
    channels alike.

    Args:
        generator: a CPU generator; no other source of randomness is used.
    """
    return (torch.rand(n, 1, height, width, generator=generator) >= ratio).float()
