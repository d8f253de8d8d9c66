"""Square crops of real images, and images stitched of such crops (RDED's patches).

A crop is torchvision's RandomResizedCrop at aspect ratio 1: a square of a random share of the area, resized with
antialiased bilinear weights. Resizing is two multiplications with small matrices an image, so a whole batch is done at
once and enlarging and reducing are the same code.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

WHOLE_NUMBER = 1e-6
"""A grey level that lies so little below a whole number is that number: rounding errors do not decide over a level."""

JPEG_QUALITY = 75


def draw_squares(n: int, side: int, least: float, generator: torch.Generator) -> Tensor:
    """Square boxes in square images: areas uniform in ``[least, 1]``, positions uniform.

    Args:
        n: how many.
        side: of the images, in pixels.
        least: smallest share of the area, in [0, 1].
        generator: a CPU generator.

    Returns:
        int64 ``(n, 3)``: top, left, side of the box in pixels.
    """
    u = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    length = (side * (least + (1 - least) * u[:, 0]).sqrt()).round().long().clamp(1, side)
    corner = (u[:, 1:] * (side - length + 1).unsqueeze(1)).long()
    return torch.cat([corner, length.unsqueeze(1)], 1)


def resample_matrices(first: Tensor, length: Tensor, source: int, target: int) -> Tensor:
    """Weights that resize ``length`` pixels from ``first`` on to ``target`` pixels, as ``antialias=True`` has it.

    Output pixel i lies at ``c = (i + 1/2) length / target``; the weight of input pixel j of the box falls linearly from
    its centre, ``max(0, 1 - |j + 1/2 - c| / max(1, length / target))``, and the weights sum to 1. Where the box is
    not larger than the target this is plain bilinear interpolation without ``align_corners``.

    Args:
        first, length: int64 ``(n,)``, in pixels.
        source: pixels of the whole axis.
        target: pixels of the result.

    Returns:
        float64 ``(n, target, source)``; zero outside the box.
    """
    scale = length.double() / target
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * scale[:, None] + first[:, None]
    pixel = torch.arange(source)
    reach = scale.clamp(min=1)[:, None, None]
    weights = (1 - (pixel + 0.5 - centre[..., None]).abs() / reach).clamp_(min=0)
    inside = (pixel >= first[:, None]) & (pixel < (first + length)[:, None])
    weights *= inside[:, None]
    return weights / weights.sum(2, keepdim=True)


def resize_squares(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Each image's box, resized.

    Args:
        images: floating point ``(n, C, S, S)``, on any device; the result is computed in their dtype.
        boxes: int64 ``(n, 3)`` as of :func:`draw_squares`, on the CPU.
        size: side of the result in pixels.

    Returns:
        ``(n, C, size, size)``.
    """
    n, channels, source, _ = images.shape
    top, left, length = boxes.unbind(1)
    rows = resample_matrices(top, length, source, size).to(images)
    columns = resample_matrices(left, length, source, size).to(images)
    # Fewer, larger products: all channels of an image share its matrices.
    narrow = torch.bmm(images.reshape(n, channels * source, source), columns.transpose(1, 2))
    wide = narrow.view(n, channels, source, size).transpose(1, 2).reshape(n, source, channels * size)
    return torch.bmm(rows, wide).view(n, size, channels, size).transpose(1, 2)


def centred(crops: Tensor, canvas: Tensor) -> Tensor:
    """Crops in the middle of a canvas; an odd remainder goes to the right and to the bottom.

    Args:
        crops: ``(n, C, s, s)``.
        canvas: ``(1, C, S, S)`` of the same dtype and device, S at least s.

    Returns:
        ``(n, C, S, S)``; the crops themselves where they fill the canvas.
    """
    size, side = crops.shape[-1], canvas.shape[-1]
    if size == side:
        return crops
    first = (side - size) // 2
    made = canvas.repeat(len(crops), 1, 1, 1)
    made[:, :, first : first + size, first : first + size] = crops
    return made


def grey_levels(images: Tensor) -> Tensor:
    """Pixels of any floating type in [0, 255] as uint8, the fraction cut off (see :data:`WHOLE_NUMBER`)."""
    return (images + WHOLE_NUMBER).floor_().clamp_(0, 255).to(torch.uint8)


def cells(side: int, factor: int) -> list[int]:
    """Lengths of the cells of a side: ``side // factor`` pixels, the first ``side % factor`` of them one more."""
    return [side // factor + (k < side % factor) for k in range(factor)]


def stitch(patches: Tensor, ipc: int, factor: int, side: int) -> Tensor:
    """Images of ``factor x factor`` patches: cell k (row by row) of image j shows patch ``k ipc + j``.

    So the best ``ipc`` patches of a ranked list are the upper left cells. A patch that is smaller than its cell is
    fitted by its nearest pixels.

    Args:
        patches: ``(ipc factor^2, C, s, s)``, s = ``side // factor``.
        ipc: images.
        side: of the images, in pixels.

    Returns:
        ``(ipc, C, side, side)`` of the same dtype.

    Raises:
        ValueError: another number or size of patches.
    """
    size = side // factor
    if len(patches) != ipc * factor**2 or patches.shape[2:] != (size, size) or size < 1:
        raise ValueError(f"patches of shape {list(patches.shape)} for {ipc} images of {factor}x{factor} cells")
    source = torch.cat([torch.arange(length) * size // length for length in cells(side, factor)])
    cell = torch.arange(factor).repeat_interleave(torch.tensor(cells(side, factor)))
    number = (cell[:, None] * factor + cell) * ipc
    chosen = number + torch.arange(ipc)[:, None, None]
    made = patches[chosen, :, source[:, None], source]
    return made.permute(0, 3, 1, 2).contiguous()


def jpeg(images: Tensor, quality: int = JPEG_QUALITY) -> Tensor:
    """Images after a round through JPEG (colour: chroma halved, 4:2:0).

    Args:
        images: uint8 ``(n, C, H, W)``, C 1 or 3.
        quality: 1 to 95.

    Returns:
        uint8 of the same shape.
    """
    from PIL import Image

    made = torch.empty_like(images)
    for position, image in enumerate(images):
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer, formats=["JPEG"]) as opened:
            decoded = torch.from_numpy(np.array(opened))
        made[position] = decoded if len(image) == 1 else decoded.permute(2, 0, 1)
    return made
