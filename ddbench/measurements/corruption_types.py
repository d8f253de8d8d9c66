"""The corruptions of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019) but frost, for images of any size.

The constants are those that its authors used for images of 32 pixels. In larger images lengths (radii, shifts, standard
deviations of blurs) grow with the side; in smaller ones they stay, as less than a pixel would be no blur; intensities
are the same. Every function takes one image, float64 ``(H, W, C)`` in [0, 1] with one or three channels, a severity
from 1 to 5 and a generator of its own, and gives one that may leave [0, 1].

Where this is not theirs, bit for bit: grey images are corrupted in their one channel (as three channels and averaged,
noise would shrink by the root of three); the result is rounded to 8 bits, not cut off, and only at the end; motion blur
follows ImageMagick's kernel without its rounding to 8 bits. Frost needs photographs of frost: it is not imitated but
left out, and the set says so (C14).
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ddbench.runtime.seeds import derive

Image = NDArray[np.float64]

SEVERITIES = (1, 2, 3, 4, 5)

SMALLEST = 24
"""Side in pixels below which the types of :data:`TOO_FINE` are left out."""

TOO_FINE = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow", "pixelate")
"""In very small images their lengths are large parts of the picture, or several severities are the same."""

NOISE = ("gaussian_noise", "shot_noise", "impulse_noise")


def corruption_types(size: int) -> tuple[str, ...]:
    """Names of the corruptions for images of a side in pixels: 14, or 8 below :data:`SMALLEST` pixels."""
    return tuple(name for name in TYPES if size >= SMALLEST or name not in TOO_FINE)


def corrupt(images: NDArray[np.uint8], name: str, severity: int) -> NDArray[np.uint8]:
    """Corrupted images, of the same shape; the same in every process.

    The draws of an image are named by type, severity and its position, so they depend on no other image.

    Args:
        images: ``(N, C, H, W)`` with one or three channels.
        severity: from 1 to 5.

    Raises:
        ValueError: another number of channels, or images that are not square.
    """
    if images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
        raise ValueError(f"images of shape {list(images.shape)}, expected [N, 1 or 3, S, S]")
    change, made = TYPES[name], np.empty_like(images)
    for position, image in enumerate(images):
        randomness = np.random.default_rng(derive(0, "corruption", name, severity, position))
        result = change(image.transpose(1, 2, 0) / 255, severity, randomness)
        made[position] = np.rint(np.clip(result, 0, 1) * 255).transpose(2, 0, 1)
    return made


def _scale(x: Image) -> float:
    """What the authors' lengths are multiplied by."""
    return max(1.0, len(x) / 32)


# Noise


def gaussian_noise(x: Image, severity: int, randomness: Generator) -> Image:
    """Normal noise."""
    return x + randomness.normal(scale=(0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1], size=x.shape)


def shot_noise(x: Image, severity: int, randomness: Generator) -> Image:
    """A Poisson count of photons instead of the expected one."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return randomness.poisson(x * photons) / photons


def impulse_noise(x: Image, severity: int, randomness: Generator) -> Image:
    """A share of the values set to 0 or 1, either as likely."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    draw = randomness.random(x.shape)
    return np.where(draw < share / 2, 0.0, np.where(draw < share, 1.0, x))


# Blur


def defocus_blur(x: Image, severity: int, randomness: Generator) -> Image:
    """A disk whose edge is softened by a small Gaussian."""
    from scipy.ndimage import convolve

    kernel = disk(*((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1], _scale(x))
    return np.stack([convolve(channel, kernel, mode="mirror") for channel in np.moveaxis(x, 2, 0)], 2)


@functools.cache
def disk(radius: float, alias: float, scale: float) -> Image:
    """Kernel of a disk of a radius, softened with a Gaussian of ``alias``, both times ``scale``; its sum is 1."""
    from scipy.ndimage import convolve1d

    soft = round(scale)
    reach = math.ceil(radius * scale) + soft
    grid = np.arange(-reach, reach + 1)
    made = (grid**2 + grid[:, None] ** 2 <= (radius * scale) ** 2).astype(np.float64)
    weights = np.exp(-(np.arange(-soft, soft + 1) ** 2) / (2 * (alias * scale) ** 2))
    for axis in (0, 1):
        made = convolve1d(made, weights, axis=axis, mode="constant")
    made /= made.sum()
    return made


def glass_blur(x: Image, severity: int, randomness: Generator) -> Image:
    """Pixels exchanged with near ones, between two slight blurs.

    Of colour images a pixel becomes the near one, which stays: the authors' exchange of two rows of an array does that,
    and the images of CIFAR-10-C were made with it.
    """
    sd, shift, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    side, scale = len(x), _scale(x)
    shift = round(shift * scale)
    order, grey = list(range(side * side)), x.shape[2] == 1
    places = range(side - shift, shift, -1)
    for _ in range(rounds):
        moves = randomness.integers(-shift, shift, size=(len(places), len(places), 2)).tolist()
        for row, line in zip(places, moves, strict=True):
            for column, (down, right) in zip(places, line, strict=True):
                here, there = row * side + column, (row + down) * side + column + right
                order[here], order[there] = order[there], order[here] if grey else order[there]
    return _blur(_blur(x, sd * scale).reshape(side * side, -1)[order].reshape(x.shape), sd * scale)


def _blur(x: Image, sd: float) -> Image:
    from scipy.ndimage import gaussian_filter

    made: Image = gaussian_filter(x, sd, mode="nearest", axes=(0, 1))
    return made


def motion_blur(x: Image, severity: int, randomness: Generator) -> Image:
    """Smeared in one direction, by up to 45 degrees from the horizontal."""
    radius, sd = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    scale = _scale(x)
    return smear(x, radius * scale, sd * scale, randomness.uniform(-45, 45))


def smear(x: Image, radius: float, sd: float, angle: float) -> Image:
    """ImageMagick's motion blur: the falling half of a Gaussian along a direction, nearest pixels, edges repeated.

    Args:
        x: ``(H, W, C)``.
        angle: in degrees, clockwise from the right.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sd**2))
    weights /= weights.sum()
    turn = math.radians(angle)
    right, down = (np.ceil(steps * part - 0.5).astype(int) for part in (math.cos(turn), math.sin(turn)))
    reach = len(steps)
    wide = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    height, width, _ = x.shape
    made = np.zeros_like(x)
    for weight, dx, dy in zip(weights, right, down, strict=True):
        made += weight * wide[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
    return made


def zoom_blur(x: Image, severity: int, randomness: Generator) -> Image:
    """The mean of the image and of enlargements by 1.00, 1.01, ... of its middle.

    The last enlargement is by 1.06, 1.11, 1.15, 1.20 and 1.25: the authors' ``arange`` rounds, and takes in its end.
    """
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01).tolist()
    return np.asarray((x + sum(enlarge(x, factor) for factor in factors)) / (len(factors) + 1))


def enlarge(x: Image, factor: float) -> Image:
    """The middle of an image ``(S, S, C)``, linearly enlarged to its size."""
    matrix = _enlargement(len(x), factor)
    made: Image = np.einsum("ij,jkc,lk->ilc", matrix, x, matrix, optimize=True)
    return made


@functools.cache
def _enlargement(side: int, factor: float) -> Image:
    """Weights ``(side, side)`` of a linear enlargement: whole pixels are cut out of the middle, and cut again after."""
    cut = math.ceil(side / factor)
    size = round(cut * factor)
    first, trim = (side - cut) // 2, (size - side) // 2
    made = np.zeros((side, side))
    for row in range(side):
        place = (row + trim) * (cut - 1) / max(1, size - 1)
        low = min(int(place), cut - 1)
        made[row, first + low] += 1 - (place - low)
        if place > low:
            made[row, first + low + 1] += place - low
    return made


# Weather


def fog(x: Image, severity: int, randomness: Generator) -> Image:
    """A cloud of random midpoint displacement, and what that adds taken back from the brightest."""
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    side, top = len(x), x.max()
    cloud = plasma(1 << (side - 1).bit_length(), decay, randomness)[:side, :side, None]
    made: Image = (x + amount * cloud) * top / (top + amount)
    return made


def plasma(side: int, decay: float, randomness: Generator) -> Image:
    """A fractal ``(side, side)`` from 0 to 1 by the diamond-square algorithm on a torus.

    Args:
        side: a power of two.
        decay: the displacement of a level is that of the one before, divided by its square.
    """
    made, step, height = np.zeros((side, side)), side, 100.0

    def displaced(total: Image) -> Image:
        return total / 4 + randomness.uniform(-(height**2), height**2, total.shape)

    while step >= 2:
        half = step // 2
        corners = made[::step, ::step]
        rows = corners + np.roll(corners, -1, 0)
        made[half::step, half::step] = displaced(rows + np.roll(rows, -1, 1))
        middles = made[half::step, half::step]
        for axis, edge in ((0, np.s_[::step, half::step]), (1, np.s_[half::step, ::step])):
            made[edge] = displaced(middles + np.roll(middles, 1, axis) + corners + np.roll(corners, -1, 1 - axis))
        step, height = half, height / decay
    made -= made.min()
    top = made.max()
    return made / top if top else made


def snow(x: Image, severity: int, randomness: Generator) -> Image:
    """Falling flakes, seen from both sides, before a whitened image."""
    mean, sd, factor, threshold, radius, blur, keep = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    side, scale = len(x), _scale(x)
    flakes = enlarge(randomness.normal(mean, sd, (side, side, 1)), factor)
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1))
    flakes = smear(flakes, radius * scale, blur * scale, randomness.uniform(-135, -45))
    grey = x if x.shape[2] == 1 else x @ np.array([[0.299], [0.587], [0.114]])
    white = keep * x + (1 - keep) * np.maximum(x, grey * 1.5 + 0.5)
    return np.asarray(white + flakes + flakes[::-1, ::-1])


def brightness(x: Image, severity: int, randomness: Generator) -> Image:
    """Value of HSV raised; hue and saturation stay, so the channels grow in proportion."""
    value = x.max(2, keepdims=True)
    raised = np.minimum(value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1], 1)
    made: Image = np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised)
    return made


# Digital


def contrast(x: Image, severity: int, randomness: Generator) -> Image:
    """Distance from each channel's mean reduced."""
    mean = x.mean((0, 1), keepdims=True)
    return np.asarray((x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1] + mean)


def elastic_transform(x: Image, severity: int, randomness: Generator) -> Image:
    """Three points moved, then every pixel by a smooth field."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    alpha, smooth, affine = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity - 1]
    side = len(x)
    centre, arm = side // 2, side // 3
    corners = np.array([[centre + arm, centre + arm], [centre + arm, centre - arm], [centre - arm, centre - arm]])
    moved = corners + randomness.uniform(-affine * side, affine * side, corners.shape)
    # Where a pixel of the result comes from: the affine map that takes the moved points back.
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners.astype(np.float64))
    rows, columns = np.mgrid[:side, :side].astype(np.float64)
    source = np.stack([rows, columns, np.ones_like(rows)], 2) @ back
    field = randomness.uniform(-1, 1, (2, side, side))
    shift = gaussian_filter(field, (0, smooth * side, smooth * side), mode="reflect", truncate=3) * alpha * side

    def warp(image: Image, places: Any, mode: str) -> Image:
        channels = [map_coordinates(channel, places, order=1, mode=mode) for channel in np.moveaxis(image, 2, 0)]
        return np.stack(channels, 2)

    turned = warp(x, np.moveaxis(source, 2, 0), "mirror")
    return warp(turned, np.stack([rows, columns]) + shift, "reflect")


def pixelate(x: Image, severity: int, randomness: Generator) -> Image:
    """Reduced by averaging, and enlarged again without."""
    from PIL.Image import Resampling

    picture, side = _picture(x), len(x)
    small = int(side * (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1])
    return _pixels(picture.resize((small, small), Resampling.BOX).resize((side, side), Resampling.BOX), x)


def jpeg_compression(x: Image, severity: int, randomness: Generator) -> Image:
    """Stored as JPEG (with Pillow's library) and read again."""
    from PIL import Image as Pictures

    with io.BytesIO() as stored:
        _picture(x).save(stored, "JPEG", quality=(80, 65, 58, 50, 40)[severity - 1])
        with Pictures.open(stored) as read:
            return _pixels(read, x)


def _picture(x: Image) -> Any:
    from PIL import Image as Pictures

    values = np.rint(x * 255).astype(np.uint8)
    return Pictures.fromarray(values[:, :, 0] if x.shape[2] == 1 else values)


def _pixels(picture: Any, x: Image) -> Image:
    return (np.asarray(picture) / 255).reshape(x.shape)


TYPES: dict[str, Callable[[Image, int, Generator], Image]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
"""The corruptions by their names in CIFAR-10-C, in its order, less frost."""
