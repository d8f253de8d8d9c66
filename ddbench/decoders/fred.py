"""``fred``: images as some of the coefficients of their discrete cosine transform (FreD; NeurIPS 2023).

Of each channel's H x W coefficients only those at the ``kept`` positions of the class's mask are stored. The transform
is DCT-II, orthonormal: ``F = D_H x D_W^T``, ``x = D_H^T F D_W``: lengths and gradients are the same on both sides.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ddbench.data.preprocess import Preprocess
from ddbench.decoders.base import Arrays, Declared, Decoder
from ddbench.runtime.errors import UserError


@functools.lru_cache(maxsize=16)
def _basis(side: int) -> Tensor:
    """Row k is the k-th cosine, float64 ``(side, side)``, orthonormal."""
    k = torch.arange(side, dtype=torch.float64)
    rows = torch.cos(math.pi / side * k[:, None] * (k[None, :] + 0.5)) * math.sqrt(2 / side)
    rows[0] /= math.sqrt(2)
    return rows


def dct(images: Tensor) -> Tensor:
    """Coefficients of images ``(..., H, W)``, same shape; differentiable."""
    rows, columns = (_basis(side).to(images) for side in images.shape[-2:])
    return rows @ images @ columns.T


def inverse_dct(coefficients: Tensor) -> Tensor:
    """Images of coefficients ``(..., H, W)``, same shape; differentiable."""
    rows, columns = (_basis(side).to(coefficients) for side in coefficients.shape[-2:])
    return rows.T @ coefficients @ columns


def published_scale(height: int, width: int) -> Tensor:
    """What the unnormalised DCT of FreD's code is larger by, float64 ``(H, W)``: ``2 sqrt(N)`` at frequency 0 of an
    axis of N pixels, else ``sqrt(2 N)``.
    """
    axes = []
    for side in (height, width):
        axis = torch.full((side,), math.sqrt(2 * side), dtype=torch.float64)
        axis[0] *= math.sqrt(2)
        axes.append(axis)
    return axes[0][:, None] * axes[1][None, :]


@dataclass(frozen=True, kw_only=True)
class Fred(Decoder):
    """Network input out of masked coefficients.

    Arrays: ``coefficients`` float32 ``(N, C, kept)``, class-major; ``masks`` int16 (int32 from 2^15 pixels on)
    ``(K, kept)``, ascending positions in the flattened H x W plane.

    Attributes:
        shape: ``(C, H, W)``.
        kept: m, coefficients of a channel.
    """

    kind: ClassVar[str] = "fred"

    shape: tuple[int, int, int]
    kept: int

    @property
    def described(self) -> str:
        """For a card."""
        return f"{self.kept} cosine coefficients a channel, at the positions of the class's mask, become an image"

    @property
    def makes(self) -> tuple[int, int, int]:
        """The settings' shape."""
        return self.shape

    @property
    def plane(self) -> int:
        """Coefficients of a whole channel."""
        return self.shape[1] * self.shape[2]

    @property
    def mask_type(self) -> torch.dtype:
        """The smallest type that holds every position."""
        return torch.int16 if self.plane <= 2**15 else torch.int32

    def declared(self, items: int, classes: int) -> dict[str, Declared]:
        """Coefficients and masks."""
        return {
            "coefficients": Declared("F32", (items, self.shape[0], self.kept)),
            "masks": Declared("I16" if self.mask_type == torch.int16 else "I32", (classes, self.kept)),
        }

    def per_class(self, ipc: int) -> int:
        """``floor(ipc H W / m)``: as many coefficients as ``ipc`` images have pixels; masks do not count."""
        return ipc * self.plane // self.kept

    def check(self, path: Path, shape: tuple[int, ...]) -> None:
        """A mask that fits the image."""
        super().check(path, shape)
        if not 1 <= self.kept <= self.plane:
            raise UserError(
                f"{path}: its decoder keeps {self.kept} coefficients of images of {shape[1]} x {shape[2]}, expected 1 "
                f"to {self.plane}"
            )

    def check_arrays(self, path: Path, arrays: Arrays) -> None:
        """Ascending positions within the plane."""
        masks = arrays["masks"].long()
        if int(masks.min()) < 0 or int(masks.max()) >= self.plane or bool((masks.diff(dim=1) <= 0).any()):
            raise UserError(
                f"{path}: masks hold positions from {int(masks.min())} to {int(masks.max())}, expected ascending ones "
                f"from 0 to {self.plane - 1} in each row"
            )

    def decode(self, arrays: Arrays, preprocess: Preprocess) -> Tensor:
        """Coefficients to their places, then the inverse transform; the network input itself, no pixels."""
        coefficients, masks = arrays["coefficients"], arrays["masks"].long()
        classes, (channels, height, width) = len(masks), self.shape
        rows = coefficients.reshape(classes, -1, self.kept)
        places = masks[:, None, :].expand_as(rows)
        plane = rows.new_zeros(classes, rows.shape[1], self.plane).scatter(2, places, rows)
        return inverse_dct(plane.view(-1, channels, height, width))


DECODER = Fred
