"""Multi-formation: one stored image carries several smaller ones (IDC, Kim et al., ICML 2022, section 4.1)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

LARGEST_FACTOR = 8
PADDING = 0.5
"""Pixel value beyond the right and lower border, where the factor does not divide the side."""


def decode(images: Tensor, factor: int) -> Tensor:
    """Cut each image into ``factor x factor`` tiles and enlarge each to the image's size, bilinearly.

    Args:
        images: float ``(N, C, H, W)``, pixels in [0, 1]; gradients pass through.
        factor: tiles a side.

    Returns:
        ``(factor^2 N, C, H, W)``, tile by tile: the upper left tile of all images, the one to its right of all, ...
        Labels go with it as ``labels.repeat(factor ** 2)``.
    """
    if factor == 1:
        return images
    height, width = images.shape[2:]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    padded = F.pad(images, (0, columns * factor - width, 0, rows * factor - height), value=PADDING)
    n, channels = images.shape[:2]
    tiles = padded.view(n, channels, factor, rows, factor, columns).permute(2, 4, 0, 1, 3, 5)
    tiles = tiles.reshape(factor * factor * n, channels, rows, columns)
    return F.interpolate(tiles, size=(height, width), mode="bilinear", align_corners=False)
