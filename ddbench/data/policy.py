"""Augmentation policies by name: DSA, crop, flip, RandomResizedCrop, RandAugment, AutoAugment, CutMix, MixUp.

A policy is a string of parts joined by ``+``, done in order to network input: ``dsa``, ``crop+flip``,
``rrc+flip+cutmix``. Every image has draws of its own (DSA: one family a batch, as the field has it; mixing: one box or
share a batch, as public code has it). All draws come from an explicit generator, on the CPU.

===============  ====================================================================================================
part             what it does
===============  ====================================================================================================
``dsa``          all families of DSA; ``color_crop_...`` some of them (:mod:`ddbench.data.augment`)
``crop``         zero padding by ``floor(size / 8 + 0.5)`` (4 at 32 px), then a random window
``flip``         mirrored left-right with probability 1/2; left out for digits
``rrc``          RandomResizedCrop: area ``[crop_scale, 1]``, aspect ratio log-uniform in [3/4, 4/3], bilinear
``patchshuffle`` columns, then rows of the ``factor x factor`` patches are permuted (RDED)
``randaugment``  torchvision's RandAugment (2 operations, magnitude 9) on uint8 pixels
``autoaugment``  torchvision's AutoAugment, CIFAR-10 policy, on uint8 pixels
``cutmix``       a box of another image, about ``1 - lam`` of the area, lam from Beta(alpha, alpha), one box a batch
``mixup``        ``lam x + (1 - lam) x'``, lam from Beta(alpha, alpha), one a batch
===============  ====================================================================================================
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddbench.data.augment import FAMILIES, Strategy, apply, draw, parse_strategy
from ddbench.data.specs import DSA, resolve_augmentation, resolve_strategy
from ddbench.registry import unknown
from ddbench.runtime import seeds
from ddbench.runtime.device import sent
from ddbench.runtime.errors import UserError

if TYPE_CHECKING:
    from ddbench.data.preprocess import Preprocess

ALWAYS = {"crop": Strategy(("crop",)), "flip": Strategy(("flip",))}
"""Parts that are a single family of DSA: the only one to choose from, it is always done."""

ON_PIXELS = ("randaugment", "autoaugment")
"""Parts that torchvision does to uint8 pixels."""

PARTS = (*ALWAYS, "rrc", "patchshuffle", *ON_PIXELS)
"""Parts beside the strategies of DSA."""

MIXES = ("cutmix", "mixup")
"""Parts that mix the images of a batch; one at most, the last."""

ALIASES = {"randomresizedcrop": "rrc", "dsa": DSA}
"""Other names of parts; upper and lower case are the same."""

TRIES = 10
"""Boxes that ``rrc`` draws before it takes the whole image."""

LEAST_RATIO, LARGEST_RATIO = 3 / 4, 4 / 3
"""Width to height of the boxes of ``rrc``."""


@dataclass(frozen=True)
class Policy:
    """What is done to a batch.

    Attributes:
        parts: DSA strategies and names of the table, in order, without the mixing one.
        mix: ``none``, ``cutmix`` or ``mixup``; always last.
        crop_scale: least share of the area that ``rrc`` keeps, in [0, 1].
        factor: patches a side of ``patchshuffle``.
        mix_alpha, mix_probability: Beta parameter, and how often a batch is mixed at all.
    """

    parts: tuple[Strategy | str, ...]
    mix: str = "none"
    crop_scale: float = 0.08
    factor: int = 1
    mix_alpha: float = 1.0
    mix_probability: float = 1.0

    def __post_init__(self) -> None:
        if any(isinstance(part, str) and part not in PARTS for part in self.parts) or self.mix not in ("none", *MIXES):
            raise ValueError(f"parts {self.parts}, mix {self.mix!r}: expected names of {PARTS} and {MIXES}")
        if not (0 <= self.crop_scale <= 1 and 0 <= self.mix_probability <= 1 and self.factor >= 1):
            raise ValueError("crop_scale and mix_probability lie in [0, 1], factor is at least 1")
        if not 0 < self.mix_alpha < math.inf:
            raise ValueError(f"mix_alpha {self.mix_alpha}: expected a positive number")


@dataclass(frozen=True)
class Mix:
    """How the images of a batch were mixed.

    Attributes:
        partner: int64 ``(n,)``: position in the batch of the image that was mixed in.
        share: what is left of the image itself, in [0, 1].
    """

    partner: Tensor
    share: float

    def blend(self, rows: Tensor) -> Tensor:
        """``share rows + (1 - share) rows[partner]``, of labels as probabilities ``(n, K)``."""
        return self.share * rows + (1 - self.share) * rows[self.partner]


def parse_policy(
    text: str,
    *,
    flip: bool = True,
    crop_scale: float = 0.08,
    factor: int = 1,
    mix_alpha: float = 1.0,
    mix_probability: float = 1.0,
) -> Policy | None:
    """The policy of a string; None for ``none``, or when nothing is left of it.

    A single word ``crop`` or ``flip`` is the part of the table; other families, and families joined by ``_``, are a
    strategy of DSA.

    Args:
        flip: False leaves mirroring out, as a part and in DSA (digits: ``DatasetSpec.flip``).
        crop_scale, factor, mix_alpha, mix_probability: as in :class:`Policy`; without patches (factor 1)
            ``patchshuffle`` is left out.

    Raises:
        UserError: an unknown part (with a suggestion), one named twice, ``none`` beside others, a mixing part that is
            not the last, or torchvision is wanted and not installed.
        ValueError: a number that :class:`Policy` does not take.
    """
    names = _names(text)
    if names in (["none"], [""]):
        return None
    parts: list[Strategy | str] = []
    for name in names:
        if name == "none":
            raise UserError(f"--augmentation {text}: 'none' stands alone; leave it out")
        known = name in PARTS or name in MIXES
        if not known and not set(name.split("_")) & set(FAMILIES):
            raise unknown("augmentation", name, {*PARTS, *MIXES, *FAMILIES, *ALIASES, "none"}, "--augmentation")
        if names.count(name) > 1:
            raise UserError(f"--augmentation {text}: {name!r} is named twice")
        if name in ON_PIXELS and importlib.util.find_spec("torchvision") is None:
            raise UserError(f"--augmentation {text}: {name!r} needs the package 'torchvision': pip install torchvision")
        if not known:
            strategy = parse_strategy(name, flip=flip)
            if strategy is not None:
                parts.append(strategy)
        elif name in PARTS and (flip or name != "flip") and (factor > 1 or name != "patchshuffle"):
            parts.append(name)
    mixes = [name for name in names if name in MIXES]
    if len(mixes) > 1:
        raise UserError(f"--augmentation {text}: {mixes[0]!r} and {mixes[1]!r} exclude each other; keep one")
    if mixes and names[-1] != mixes[0]:
        raise UserError(f"--augmentation {text}: {mixes[0]!r} mixes finished images; put it last")
    mix = mixes[0] if mixes else "none"
    if not parts and mix == "none":
        return None
    return Policy(tuple(parts), mix, crop_scale, factor, mix_alpha, mix_probability)


def resolve_policy(text: str, flip: bool) -> str:
    """The string of what a policy does to a dataset.

    As :func:`ddbench.data.specs.resolve_augmentation`; one that mirrors where ``flip`` is False is written out in plain
    names without that. Others keep their spelling: recipes are kept, and found again, by it.
    """
    text = resolve_augmentation(text, flip)
    names = _names(text)
    if flip or not any("flip" in name.split("_") for name in names):
        return text
    kept = [resolve_strategy(name, flip) for name in names]
    return "+".join(name for name in kept if name != "none") or "none"


def _names(text: str) -> list[str]:
    """The parts of a policy, in plain names."""
    return [ALIASES.get(name, name) for name in text.lower().split("+")]


def augment(
    policy: Policy, x: Tensor, generator: torch.Generator, preprocess: Preprocess | None
) -> tuple[Tensor, Mix | None]:
    """Augment network input.

    Args:
        x: float ``(n, C, H, W)``.
        generator: a CPU generator; no other source of randomness is used, and none is left in another state.
        preprocess: how pixels became ``x``; only ``randaugment`` and ``autoaugment`` need it.

    Returns:
        The augmented images, of the same shape, dtype and device; and how they were mixed. A policy with a mix always
        returns one, with share 1 for a batch that was spared, so that labels have one form throughout.

    Raises:
        ValueError: no preprocess where one is needed, or images smaller than the number of patches.
    """
    for part in policy.parts:
        if isinstance(part, Strategy) or part in ALWAYS:
            strategy = part if isinstance(part, Strategy) else ALWAYS[part]
            x = apply(draw(strategy, len(x), x.shape[-1], generator), x)
        elif part == "rrc":
            x = _resized_crop(x, _draw_boxes(len(x), x.shape[2], x.shape[3], policy.crop_scale, generator))
        elif part == "patchshuffle":
            x = _shuffle_patches(x, policy.factor, generator)
        else:
            x = _on_pixels(part, x, generator, preprocess)
    return (x, None) if policy.mix == "none" else _mixed(policy, x, generator)


def _draw_boxes(n: int, height: int, width: int, least: float, generator: torch.Generator) -> Tensor:
    """Boxes of RandomResizedCrop: int64 ``(n, 4)`` top, left, height, width.

    The first of ten draws that fits; if none does, the largest centred box whose aspect ratio is allowed, which is the
    whole of a square image. At ``least`` 1, all boxes that fit a square image are the whole of it.
    """
    u = torch.rand(n, TRIES, 2, generator=generator, dtype=torch.float64)
    area = height * width * (least + (1 - least) * u[..., 0])
    low, high = math.log(LEAST_RATIO), math.log(LARGEST_RATIO)
    ratio = (low + (high - low) * u[..., 1]).exp()
    wide, tall = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = torch.where(fits, torch.arange(TRIES), TRIES).amin(1)
    found = first < TRIES
    pick = first.clamp(max=TRIES - 1).unsqueeze(1)
    whole = (min(height, round(width / LEAST_RATIO)), min(width, round(height * LARGEST_RATIO)))
    tall = torch.where(found, tall.gather(1, pick).squeeze(1), whole[0])
    wide = torch.where(found, wide.gather(1, pick).squeeze(1), whole[1])
    spare = torch.stack([height - tall, width - wide], 1)
    place = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    corner = torch.where(found.unsqueeze(1), (place * (spare + 1)).long(), spare // 2)
    return torch.stack([corner[:, 0], corner[:, 1], tall, wide], 1)


def _resized_crop(x: Tensor, boxes: Tensor) -> Tensor:
    """Each image's box ``(n, 4)`` (top, left, height, width), enlarged to the size of the image, bilinear.

    The same as cutting out and resizing without ``align_corners``; the whole image comes back bit for bit.
    """
    top, left, height, width = boxes.unbind(1)
    return _stretch(_stretch(x, 2, top, height), 3, left, width)


def _stretch(x: Tensor, axis: int, first: Tensor, length: Tensor) -> Tensor:
    """Linear interpolation along an axis: ``length`` pixels from ``first`` on (per image) fill the whole axis."""
    size = x.shape[axis]
    last = (length - 1).unsqueeze(1)
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * (length / size).unsqueeze(1) - 0.5
    # Beyond the outermost pixel centres the crop's own edge goes on; what lies outside the crop is never read.
    centre = centre.clamp(min=0).minimum(last)
    below = centre.long()
    above = (below + 1).minimum(last)
    weight = sent(_along(centre - below, axis), x.device, x.dtype)
    low, high = (_take(x, axis, first.unsqueeze(1) + index) for index in (below, above))
    return torch.lerp(low, high, weight)


def _along(rows: Tensor, axis: int) -> Tensor:
    """``(n, S)`` as ``(n, 1, S, 1)`` for axis 2, ``(n, 1, 1, S)`` for axis 3."""
    return rows[:, None, :, None] if axis == 2 else rows[:, None, None, :]


def _take(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """Rows (axis 2) or columns (axis 3) of each image, by int64 ``(n, S)``."""
    return x.gather(axis, sent(_along(index, axis), x.device).expand(x.shape))


def _shuffle_patches(x: Tensor, factor: int, generator: torch.Generator) -> Tensor:
    """Permute ``factor`` strips of columns, then of rows, per image (RDED, student's views).

    What a size that ``factor`` does not divide leaves at the right and at the bottom stays where it is.

    Raises:
        ValueError: a side shorter than ``factor``.
    """
    if min(x.shape[2:]) < factor:
        raise ValueError(f"images of {x.shape[2]} x {x.shape[3]} pixels cannot have {factor} patches a side")
    for axis in (3, 2):
        size = x.shape[axis]
        side = size // factor
        order = torch.rand(len(x), factor, generator=generator).argsort(1)
        inside = torch.arange(side * factor)
        moved = order[:, inside // side] * side + inside % side
        rest = torch.arange(side * factor, size).expand(len(x), -1)
        x = _take(x, axis, torch.cat([moved, rest], 1))
    return x


def _on_pixels(part: str, x: Tensor, generator: torch.Generator, preprocess: Preprocess | None) -> Tensor:
    """RandAugment (Cubuk et al., CVPR Workshops 2020) or AutoAugment (Cubuk et al., CVPR 2019), image by image.

    Done on the CPU, so that a GPU sees the same images. torchvision draws from torch's global generator.

    Raises:
        ValueError: no preprocess.
    """
    if preprocess is None:
        raise ValueError(f"{part} works on pixels and needs the preprocess that the input was made with")
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy, RandAugment

    made = RandAugment(num_ops=2, magnitude=9) if part == "randaugment" else AutoAugment(AutoAugmentPolicy.CIFAR10)
    number = int(torch.randint(2**63 - 1, (), generator=generator))
    pixels = preprocess.invert(x.detach()).clamp_(0, 1).mul_(255).round_().to("cpu", torch.uint8)
    with seeds.isolated(number, part):
        for position, image in enumerate(pixels):
            pixels[position] = made(image)
    return preprocess.apply(pixels.to(x.device)).to(x.dtype)


def _mixed(policy: Policy, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Mix]:
    """CutMix (Yun et al., ICCV 2019) or MixUp (Zhang et al., ICLR 2018): one partner an image, one share a batch."""
    n, _, height, width = x.shape
    if float(torch.rand((), generator=generator)) >= policy.mix_probability:
        return x, Mix(torch.arange(n, device=x.device), 1.0)
    share = _beta(policy.mix_alpha, generator)
    partner = sent(torch.randperm(n, generator=generator), x.device)
    if policy.mix == "mixup":
        return share * x + (1 - share) * x[partner], Mix(partner, share)
    half = [int(size * math.sqrt(1 - share)) // 2 for size in (height, width)]
    centre = [int(torch.randint(size, (), generator=generator)) for size in (height, width)]
    top, left = (max(0, middle - reach) for middle, reach in zip(centre, half, strict=True))
    bottom, right = min(height, centre[0] + half[0]), min(width, centre[1] + half[1])
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x[partner, :, top:bottom, left:right]
    return mixed, Mix(partner, 1 - (bottom - top) * (right - left) / (height * width))


def _beta(alpha: float, generator: torch.Generator) -> float:
    """A draw of Beta(alpha, alpha), in [0, 1], as ``g / (g + g')`` of two gamma variables.

    ``torch.distributions`` takes no generator; the function below, which it calls, does.
    """
    one, other = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator).tolist()
    return float(one / (one + other))
