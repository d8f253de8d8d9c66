"""``multi-formation``: each stored image carries several smaller ones (IDC; :mod:`ddbench.data.formation`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ddbench.data.formation import LARGEST_FACTOR, decode
from ddbench.data.preprocess import Preprocess
from ddbench.decoders.base import Arrays, Decoder
from ddbench.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MultiFormation(Decoder):
    """Cut each stored image into tiles and enlarge each to the image's size.

    Attributes:
        factor: tiles a side.
    """

    kind: ClassVar[str] = "multi-formation"

    factor: int

    @property
    def described(self) -> str:
        """For a card."""
        return f"each image is cut into {self.factor} x {self.factor} tiles, each enlarged to the size of the image"

    @property
    def copies(self) -> int:
        """Tiles of an image."""
        return self.factor**2

    def check(self, path: Path, shape: tuple[int, ...]) -> None:
        """At least a pixel a tile."""
        if not 1 <= self.factor <= min(LARGEST_FACTOR, *shape[1:]):
            raise UserError(f"{path}: decoder factor is {self.factor}, expected 1 to {LARGEST_FACTOR}")

    def decode(self, arrays: Arrays, preprocess: Preprocess) -> Tensor:
        """Tile by tile, each of all images; in pixel space, as ZCA does not commute with cutting and enlarging."""
        images = arrays["images"]
        tiles = images.float() / 255 if images.dtype == torch.uint8 else preprocess.invert(images)
        return preprocess.apply(decode(tiles, self.factor))


DECODER = MultiFormation


def formation(factor: int) -> MultiFormation | None:
    """The decoder of so many tiles a side; None for 1, where each image is whole."""
    return None if factor == 1 else MultiFormation(factor=factor)
