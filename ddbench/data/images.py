"""Image files as pixels: what they are, decoding, turning, resizing, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddbench.data.dataset import chunks
from ddbench.data.specs import Statistics
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import plain_file

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"))
"""Files with another ending are left alone."""

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
"""What Pillow is asked to read, whatever the name of a file says: others start programs (EPS) or have no end.

GIF is for images of hubs, which have no names.
"""

DEEPEST = 16
"""Bits of a deep grey image where nothing else is known: its values are divided by 256."""

MAX_PIXELS = 2**30 // 12
"""An image has no more pixels; Pillow warns from here on."""

MAX_IMAGE_BYTES = 2**28
"""An image file is no larger."""

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

# What EXIF says about the side that is up -> how Pillow turns it.
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


@dataclass(frozen=True)
class Facts:
    """What a file is, without its pixels.

    Attributes:
        mode: Pillow's name.
        size: width and height in px, as stored.
        orientation: EXIF's, 1 to 8; 1: upright.
        tiff: whether it is a TIFF, which Pillow turns itself when it is decoded.
        alpha: whether it has transparency.
        highest: largest value of an image of more than 8 bits; None: it has 8.
    """

    mode: str
    size: tuple[int, int]
    orientation: int
    tiff: bool
    alpha: bool
    highest: int | None

    @property
    def grey(self) -> bool:
        """Whether it is grey by its mode."""
        return self.mode in ("1", "L", "LA") or self.mode.startswith("I")


def look_at(path: Path, *, whole: bool) -> Facts:
    """Look at an image file.

    Args:
        whole: read its pixels too, so that a truncated file is found; else the header alone, but for images of more
            than 8 bits.

    Raises:
        UserError: no plain file, not a readable image, too many pixels, or values that are negative or no integers.
    """
    with _opened(path) as image:
        mode, size, orientation = image.mode, image.size, _orientation(image)
        highest = None
        if mode.startswith("I"):
            highest = int(_deep(path, image).max(initial=0))
        elif mode == "F":
            raise UserError(f"{path}: an image of floating-point values; save it with 8 bits")
        elif whole:
            _load(image)
        alpha = mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info
    return Facts(mode, size, orientation, image.format == "TIFF", alpha, highest)


def read_image(path: Path, channels: int, size: int, bits: int = DEEPEST, upright: bool = False) -> Pixels:
    """Decode a file to uint8 ``(channels, size, size)``.

    The shorter side is resized to ``size`` (bilinear, antialiased), then the centre is cut out, as torchvision's
    ``Resize`` and ``CenterCrop`` do on PIL images. Transparency is dropped: the colours below it are used.

    Args:
        bits: 8 to 31, of the values of a grey image of more than 8 bits; the upper 8 are kept.
        upright: turn the image as its EXIF orientation says; not so for datasets whose field leaves it. A TIFF is
            turned either way: Pillow does so when it decodes one, for the field too.

    Raises:
        UserError: see :func:`look_at`.
    """
    with _opened(path) as opened:
        if opened.format == "TIFF":
            _load(opened)  # turns it and takes the tag away; of other files the tag is read from the header alone
        turn = _TURNS.get(_orientation(opened)) if upright else None
        _load(opened)
        mode = opened.mode
        image: PilImage = opened
        if mode.startswith("I"):  # PIL would clip, not scale
            from PIL import Image

            image = Image.fromarray((_deep(path, opened) >> (bits - 8)).clip(0, 255).astype(np.uint8))
        elif mode == "P":
            image = opened.convert("RGBA")  # a palette with transparency has no direct way to RGB
        elif mode == "F":
            raise UserError(f"{path}: an image of floating-point values; save it with 8 bits")
        image = image.convert("L" if channels == 1 else "RGB")
        if turn is not None:
            from PIL import Image

            image = image.transpose(Image.Transpose(turn))
        pixels = np.asarray(_fit(image, size), dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


@contextmanager
def _opened(path: Path) -> Iterator[PilImage]:
    """An image file, opened; whatever Pillow says about its content becomes one line."""
    from PIL import Image

    if path.is_symlink() and not path.exists():
        raise UserError(f"{path}: cannot read this image: the link leads nowhere")
    plain_file(path, "image", MAX_IMAGE_BYTES)
    try:
        with _own_errors():
            opened = Image.open(path, formats=FORMATS)
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            yield image
    except (OSError, ValueError, MemoryError, OverflowError) as error:
        raise UserError(f"{path}: cannot decode this image: {error}") from error


def _load(image: PilImage) -> None:
    """Decode it, if it is not yet."""
    with _own_errors():
        image.load()


@contextmanager
def _own_errors() -> Iterator[None]:
    """What Pillow raises of a damaged file (of a tag of another type a TypeError) as a ValueError."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _deep(path: Path, image: PilImage) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    _load(image)
    values = np.asarray(image).astype(np.int64)
    if values.min(initial=0) < 0:
        raise UserError(
            f"{path}: pixel values from {values.min()} to {values.max()}, expected none below 0; shift them and save "
            "the image with 8 or 16 bits"
        )
    return values


def _orientation(image: PilImage) -> int:
    """EXIF's orientation from the header; 1 where there is none, or it makes no sense."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole image to look behind it
    try:
        found = image.getexif().get(274, 1)
    except Exception:  # Pillow raises many kinds for a damaged tag, which is no part of the picture
        return 1
    return found if found in _TURNS else 1


def _fit(image: PilImage, size: int) -> PilImage:
    from PIL import Image

    width, height = image.size
    if (width, height) == (size, size):
        return image
    if width <= height:
        wide, high = size, int(size * height / width)
    else:
        wide, high = int(size * width / height), size
    left, top = round((wide - size) / 2), round((high - size) / 2)
    if wide * high > MAX_PIXELS:  # a strip: the whole of it would take any memory, for a square of its middle
        x, y = width / wide, height / high
        shown = (left * x, top * y, (left + size) * x, (top + size) * y)
        return image.resize((size, size), Image.Resampling.BILINEAR, box=shown)
    return image.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


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
