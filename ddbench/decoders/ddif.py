"""``ddif``: each image is a small network of sines, from coordinates to colours (DDiF; ICLR 2025).

A field with L sine layers of width d: ``h_1 = sin(w_first (A_1 x + b_1))``, ``h_l = sin(w (A_l h_{l-1} + b_l))``, and
the channels are ``A h_L + b``; x is a pixel of the grid on [-1, 1]^2, corners included. (SIREN: Sitzmann et al., 2020.)
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

MAX_LAYERS, MAX_WIDTH, MAX_OMEGA = 16, 1024, 1e4

AT_ONCE = 2**22
"""Numbers of a layer that are computed at once."""


@functools.lru_cache(maxsize=16)
def _grid(height: int, width: int) -> Tensor:
    """Coordinates (row, column) of every pixel, float64 ``(H W, 2)``."""
    axes = [
        torch.linspace(-1, 1, side, dtype=torch.float64) if side > 1 else torch.zeros(1) for side in (height, width)
    ]
    return torch.cartesian_prod(*(axis.double() for axis in axes))


@dataclass(frozen=True, kw_only=True)
class Ddif(Decoder):
    """Network input out of fields.

    Arrays: ``fields`` float32 ``(N, P)``, class-major: weights ``(out, in)`` and biases of each layer, in order.

    Attributes:
        shape: ``(C, H, W)``.
        layers: L, layers with a sine.
        width: d.
        omega_first, omega: w_first and w.
    """

    kind: ClassVar[str] = "ddif"

    shape: tuple[int, int, int]
    layers: int
    width: int
    omega_first: float
    omega: float

    @property
    def described(self) -> str:
        """For a card."""
        return (
            f"a network of {self.layers} sine layers of width {self.width} ({self.parameters} parameters) from "
            "coordinates to colours becomes an image"
        )

    @property
    def makes(self) -> tuple[int, int, int]:
        """The settings' shape."""
        return self.shape

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(out, in) of each linear map, the last without a sine."""
        return [(self.width, 2), *[(self.width, self.width)] * (self.layers - 1), (self.shape[0], self.width)]

    @property
    def parameters(self) -> int:
        """P: weights and biases of a field."""
        return sum(out * (into + 1) for out, into in self.sizes)

    @property
    def at_once(self) -> int:
        """Fields whose layers are computed together."""
        return max(1, AT_ONCE // (self.width * self.shape[1] * self.shape[2]))

    def declared(self, items: int, classes: int) -> dict[str, Declared]:
        """The fields."""
        return {"fields": Declared("F32", (items, self.parameters))}

    def per_class(self, ipc: int) -> int:
        """``floor(ipc C H W / P)``: as many parameters as ``ipc`` images have numbers."""
        return ipc * math.prod(self.shape) // self.parameters

    def check(self, path: Path, shape: tuple[int, ...]) -> None:
        """A network of bounded size."""
        super().check(path, shape)
        if not (1 <= self.layers <= MAX_LAYERS and 1 <= self.width <= MAX_WIDTH):
            raise UserError(
                f"{path}: its fields have {self.layers} layers of width {self.width}, expected 1 to {MAX_LAYERS} of 1 "
                f"to {MAX_WIDTH}"
            )
        if not all(0 < one <= MAX_OMEGA for one in (self.omega_first, self.omega)):
            raise UserError(
                f"{path}: its fields have frequencies {self.omega_first} and {self.omega}, expected above 0 to "
                f"{MAX_OMEGA:g}"
            )

    def initial(self, count: int, generator: torch.Generator) -> Tensor:
        """Random fields ``(count, P)``.

        Weights and biases are uniform within 1/2 in the first layer, then within ``sqrt(6 / in) / w``.
        """
        parts = []
        for number, (out, into) in enumerate(self.sizes):
            bound = 1 / into if number == 0 else math.sqrt(6 / into) / self.omega
            parts += [(torch.rand(count, size, generator=generator) * 2 - 1) * bound for size in (out * into, out)]
        return torch.cat(parts, 1)

    def decode(self, arrays: Arrays, preprocess: Preprocess) -> Tensor:
        """Every field at every pixel; the network input itself, no pixels."""
        fields = arrays["fields"]
        channels, height, width = self.shape
        grid = _grid(height, width).to(fields)
        pixels = max(1, AT_ONCE // self.width)
        parts = [
            torch.cat([self._colours(some, part) for part in grid.split(pixels)], 1)
            for some in fields.split(self.at_once)
        ]
        return torch.cat(parts).transpose(1, 2).reshape(-1, channels, height, width)

    def _colours(self, fields: Tensor, coordinates: Tensor) -> Tensor:
        """``(n, p, C)`` of fields ``(n, P)`` at coordinates ``(p, 2)``."""
        h = coordinates.expand(len(fields), -1, -1)
        first, last = 0, len(self.sizes) - 1
        for number, (out, into) in enumerate(self.sizes):
            weight = fields[:, first : first + out * into].view(-1, out, into)
            bias = fields[:, first + out * into : first + out * (into + 1)]
            first += out * (into + 1)
            h = torch.baddbmm(bias[:, None, :], h, weight.transpose(1, 2))
            if number < last:
                h = torch.sin((self.omega_first if number == 0 else self.omega) * h)
        return h


DECODER = Ddif
