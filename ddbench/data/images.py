"""Image files as pixels: decoding, resizing, grey or colour, statistics."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddbench.data.dataset import chunks
from ddbench.data.specs import Statistics
from ddbench.runtime.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"))
"""Files with another ending are left alone."""

SAMPLED = 256
"""So many images, evenly spread, decide whether a folder is grey."""

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def read_image(path: Path, channels: int, size: int) -> Pixels:
    """Decode a file to uint8 ``(channels, size, size)``.

    The shorter side is resized to ``size`` (bilinear, antialiased), then the centre is cut out, as torchvision's
    ``Resize`` and ``CenterCrop`` do on PIL images. Transparency and EXIF orientation are ignored, as in the field.

    Raises:
        UserError: not a readable image, or one of floating-point values.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            mode = opened.mode
            image: Image.Image = opened
            if mode.startswith("I"):  # 16 bits in 16 or 32: PIL would clip, not scale
                image = Image.fromarray((np.asarray(opened).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            elif mode == "P":
                image = opened.convert("RGBA")  # a palette with transparency has no direct way to RGB
            image = _fit(image.convert("L" if channels == 1 else "RGB"), size)
            pixels = np.asarray(image, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot decode this image: {error}; mend or remove the file") from error
    if mode == "F":
        raise UserError(f"{path}: an image of floating-point values; save it with 8 bits")
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _fit(image: PilImage, size: int) -> PilImage:
    from PIL import Image

    width, height = image.size
    if (width, height) == (size, size):
        return image
    if width <= height:
        width, height = size, int(size * height / width)
    else:
        width, height = int(size * width / height), size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def count_channels(paths: Sequence[Path]) -> int:
    """1 when every image of an even sample is grey by its mode, else 3.

    Raises:
        UserError: a file of the sample is no image.
    """
    from PIL import Image

    for path in paths[:: max(1, len(paths) // SAMPLED)]:
        try:
            with Image.open(path) as image:
                grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
        except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: cannot decode this image: {error}; mend or remove the file") from error
        if not grey:
            return 3
    return 1


def statistics(images: Tensor) -> Statistics:
    """Mean and standard deviation per channel of uint8 images ``(N, C, H, W)``, of pixels in [0, 1].

    Exact (from counts of the 256 values), rounded to 6 digits; a channel of one value gets a deviation of 1.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for piece in chunks(images):
        for channel in range(len(counts)):
            counts[channel] += torch.bincount(piece[:, channel].flatten(), minlength=256)
    weights = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = weights @ values
    std = (weights * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return (
        tuple(round(float(value), 6) for value in mean),
        tuple(round(float(value), 6) if value > 1e-4 else 1.0 for value in std),
    )
