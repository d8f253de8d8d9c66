"""DSA, the differentiable siamese augmentation of Zhao and Bilen (ICML 2021), without hidden state.

A :class:`Strategy` says what may be done, :func:`draw` draws what is done to each image from an explicit generator,
:func:`apply` does it: a pure function of images and parameters, differentiable in the images. It works on *network
input*, as the field does, so "zero" outside the image is the dataset's mean. The families, as DSA and DiffAugment
define them (``u`` is uniform in [0, 1), per image):

========  ===========================================================================================================
color     brightness ``x + (u - 0.5) b``, then saturation ``(x - m_c)(u s) + m_c`` about the mean over channels of each
          pixel, then contrast ``(x - m)(u + c) + m`` about the mean of the image
crop      shift by whole pixels in ``[-r, r]`` on each axis, ``r = floor(crop_pad size + 0.5)``, zeros come in
cutout    a zero square of side ``r = floor(cutout size + 0.5)``, clipped at the border
flip      mirrored left-right with probability ``flip``
scale     sampling grid stretched by ``[1/scale, scale]``, independently on the two axes, zeros outside
rotate    sampling grid rotated by ``[-rotate, rotate]`` degrees, zeros outside
========  ===========================================================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.registry import unknown
from ddbench.runtime.device import sent
from ddbench.runtime.errors import UserError

FAMILIES = ("color", "crop", "cutout", "flip", "scale", "rotate")
"""The families, in the order of the field's strategy string."""


@dataclass(frozen=True)
class Strategy:
    """What may be done to a batch.

    Attributes:
        ops: families to choose from, each equally likely.
        brightness, saturation, contrast, crop_pad, cutout, flip, scale: strengths, see the module's table.
        rotate: largest angle in degrees.
        align_corners: of the sampling grid; True as in MTT, False as in DC, DSA and DM. Images are square and scaled or
            turned about their centre, so both give the same pixels but for the last bits of float32.
        per: ``batch`` draws one family for a whole call (the field's mode S), its parameters still per image;
            ``image`` draws a family for every image.
        siamese: one draw for all images, and for batches of any length.
    """

    ops: tuple[str, ...] = FAMILIES
    brightness: float = 1.0
    saturation: float = 2.0
    contrast: float = 0.5
    crop_pad: float = 0.125
    cutout: float = 0.5
    flip: float = 0.5
    scale: float = 1.2
    rotate: float = 15.0
    align_corners: bool = True
    per: Literal["batch", "image"] = "batch"
    siamese: bool = False


@dataclass(frozen=True)
class Draw:
    """What is done to each image of a batch; all tensors are small and on the CPU.

    Attributes:
        strategy: what it was drawn from.
        size: side of the images in pixels.
        family: of all images, or None when they differ.
        families: int64 ``(n,)`` positions in ``strategy.ops``, when they differ.
        values: per family its parameters, a row an image: ``color`` (brightness offset, saturation factor, contrast
            factor), ``crop`` int64 shifts (down, right) of the window, ``cutout`` int64 centres (row, column),
            ``flip`` bool ``(n, 1)``, ``scale`` factors of the grid (x, y), ``rotate`` radians ``(n, 1)``. A siamese
            draw has a single row.
    """

    strategy: Strategy
    size: int
    family: str | None
    families: Tensor | None
    values: dict[str, Tensor]

    def select(self, index: Tensor) -> Draw:
        """The draw of the images at positions ``index`` (int64, or a bool mask); all of a siamese one."""
        if self.strategy.siamese:
            return self
        index = index.cpu()
        families = None if self.families is None else self.families[index]
        return replace(self, families=families, values={name: rows[index] for name, rows in self.values.items()})


def parse_strategy(
    text: str,
    *,
    flip: bool = True,
    per: Literal["batch", "image"] = "batch",
    siamese: bool = False,
    align_corners: bool = True,
) -> Strategy | None:
    """The strategy of a string such as ``color_crop_cutout_flip_scale_rotate``; None for ``none`` or an empty string.

    Args:
        flip: False leaves the flip out (digits: ``DatasetSpec.flip``).

    Raises:
        UserError: an unknown family (with a suggestion), or one named twice.
    """
    if text.lower() in ("", "none"):
        return None
    names = text.split("_")
    for name in names:
        if name not in FAMILIES:
            raise unknown("augmentation", name, FAMILIES, "--augmentation")
        if names.count(name) > 1:
            raise UserError(f"--augmentation {text}: {name!r} is named twice")
    ops = tuple(name for name in names if flip or name != "flip")
    return Strategy(ops, per=per, siamese=siamese, align_corners=align_corners) if ops else None


def draw(strategy: Strategy, n: int, size: int, generator: torch.Generator) -> Draw:
    """Draw what is done to ``n`` images of ``size`` x ``size`` pixels.

    Args:
        generator: a CPU generator; no other source of randomness is used.
    """
    rows = 1 if strategy.siamese else n
    if strategy.per == "batch" or strategy.siamese:
        family = strategy.ops[int(torch.randint(len(strategy.ops), (1,), generator=generator))]
        return Draw(strategy, size, family, None, {family: _values(strategy, family, rows, size, generator)})
    families = torch.randint(len(strategy.ops), (n,), generator=generator)
    values = {name: _values(strategy, name, n, size, generator) for name in strategy.ops}
    return Draw(strategy, size, None, families, values)


def reach(strategy: Strategy, family: str, size: int) -> int:
    """Largest shift of ``crop``, or side of the square of ``cutout``, in pixels."""
    return math.floor((strategy.crop_pad if family == "crop" else strategy.cutout) * size + 0.5)


def _values(strategy: Strategy, family: str, n: int, size: int, generator: torch.Generator) -> Tensor:
    if family == "crop":
        shift = reach(strategy, "crop", size)
        return torch.randint(-shift, shift + 1, (n, 2), generator=generator)
    if family == "cutout":
        # An even square has its centre between two pixels, so it can be cut at either border alike.
        centres = size + (1 - reach(strategy, "cutout", size) % 2)
        return torch.randint(0, centres, (n, 2), generator=generator)
    if family == "color":
        u = torch.rand(n, 3, generator=generator)
        gain = torch.tensor([strategy.brightness, strategy.saturation, 1.0])
        return u * gain + torch.tensor([-0.5 * strategy.brightness, 0.0, strategy.contrast])
    if family == "scale":
        least = 1 / strategy.scale
        return torch.rand(n, 2, generator=generator) * (strategy.scale - least) + least
    u = torch.rand(n, 1, generator=generator)
    if family == "flip":
        return u < strategy.flip
    return (2 * u - 1) * math.radians(strategy.rotate)


def apply(draw: Draw, x: Tensor) -> Tensor:
    """The augmented images: same shape, dtype and device, contiguous, differentiable in ``x``.

    Args:
        x: float ``(N, C, S, S)`` with the draw's ``N`` (any for a siamese draw) and ``S``.

    Raises:
        ValueError: a shape the draw is not for.
    """
    if x.ndim != 4 or x.shape[2:] != (draw.size, draw.size):
        raise ValueError(f"images of shape {list(x.shape)}, the draw is for {draw.size} x {draw.size} pixels")
    if not draw.strategy.siamese:
        n = len(next(iter(draw.values.values())))
        if len(x) != n:
            raise ValueError(f"{len(x)} images, the draw is for {n}")
    if len(x) == 0:
        return x
    if draw.families is None:
        assert draw.family is not None
        return _APPLY[draw.family](x, draw.values[draw.family], draw.strategy).contiguous()
    parts, order = [], []
    for position, family in enumerate(draw.strategy.ops):
        index = (draw.families == position).nonzero().flatten()
        if len(index):
            chosen = x.index_select(0, sent(index, x.device))
            parts.append(_APPLY[family](chosen, draw.values[family][index], draw.strategy))
            order.append(index)
    back = sent(torch.argsort(torch.cat(order)), x.device)
    return torch.cat(parts).index_select(0, back).contiguous()


def _color(x: Tensor, values: Tensor, _: Strategy) -> Tensor:
    brightness, saturation, contrast = sent(values, x.device, x.dtype).view(-1, 3, 1, 1, 1).unbind(1)
    x = x + brightness
    if x.shape[1] > 1:  # a single channel is its own mean
        x = torch.lerp(x.mean(1, keepdim=True), x, saturation)
    return torch.lerp(x.mean((1, 2, 3), keepdim=True), x, contrast)


def _crop(x: Tensor, values: Tensor, _: Strategy) -> Tensor:
    # One ring of zeros is enough: a window that reaches further out keeps reading it.
    n, channels, size, _side = x.shape
    wide = size + 2
    window = (sent(values, x.device).T.unsqueeze(2) + torch.arange(1, size + 1, device=x.device)).clamp_(0, size + 1)
    rows, columns = window
    index = (rows.unsqueeze(2) * wide + columns.unsqueeze(1)).flatten(1).unsqueeze(1)
    source = F.pad(x, (1, 1, 1, 1)).flatten(2)
    return source.gather(2, index.expand(n, channels, size * size)).view(x.shape)


def _cutout(x: Tensor, values: Tensor, strategy: Strategy) -> Tensor:
    side = reach(strategy, "cutout", x.shape[2])
    first = (sent(values, x.device) - side // 2).unsqueeze(2)
    pixel = torch.arange(x.shape[2], device=x.device)
    rows, columns = ((pixel >= first) & (pixel < first + side)).unbind(1)
    return x.masked_fill((rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1), 0)


def _flip(x: Tensor, values: Tensor, _: Strategy) -> Tensor:
    return torch.where(sent(values, x.device).view(-1, 1, 1, 1), x.flip(3), x)


def _scale(x: Tensor, values: Tensor, strategy: Strategy) -> Tensor:
    return _resample(x, torch.diag_embed(values), strategy)


def _rotate(x: Tensor, values: Tensor, strategy: Strategy) -> Tensor:
    angle = values.double()
    cos, sin = angle.cos(), angle.sin()
    return _resample(x, torch.stack([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)], 1), strategy)


def _resample(x: Tensor, matrix: Tensor, strategy: Strategy) -> Tensor:
    """Bilinear sampling at the grid multiplied by ``matrix`` ``(n or 1, 2, 2)``, zeros outside.

    Half precision is widened: its rounding would shift the sampling points visibly.
    """
    exact = x if x.dtype == torch.float64 else x.float()
    theta = F.pad(sent(matrix, x.device, exact.dtype), (0, 1)).expand(len(x), 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=strategy.align_corners)
    return F.grid_sample(exact, grid, padding_mode="zeros", align_corners=strategy.align_corners).to(x.dtype)


_APPLY = {"color": _color, "crop": _crop, "cutout": _cutout, "flip": _flip, "scale": _scale, "rotate": _rotate}
