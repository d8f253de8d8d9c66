"""Images that carry several smaller ones, as methods begin, augment and read them (:mod:`ddbench.data.formation`)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.data.augment import Strategy, parse_strategy
from ddbench.data.formation import decode
from ddbench.data.mapped import gather
from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import resolve_augmentation
from ddbench.methods.base import Context
from ddbench.methods.parts.sampling import initial_positions
from ddbench.runtime.errors import UserError
from ddbench.training.flat import refuses_one


def check_formation(context: Context, factor: int, augmentation: str) -> None:
    """Tiles that fit the images and all hold a part of them, and a known augmentation.

    Raises:
        UserError: names the flag, its value and what is possible.
    """
    side = context.dataset.spec.size
    if factor > side:
        raise UserError(f"--factor {factor}: expected 1 to {side} tiles a side")
    if blank_tiles(side, factor):
        fits = max(one for one in range(1, factor) if not blank_tiles(side, one))
        raise UserError(
            f"--factor {factor}: tiles of {math.ceil(side / factor)} pixels fill {side} before the last of them, which "
            f"would be blank; use --factor {fits}"
        )
    formation_strategies(augmentation, context.dataset.spec.flip, siamese=True)


def check_single(context: Context, net: nn.Module, synthetic: int, real: int) -> None:
    """Refuse batches of one image for a network that cannot be trained on one.

    Args:
        synthetic: decoded images of a class in a step.
        real: real ones at most, ``--batch-real``.

    Raises:
        UserError: names the student and what else to use.
    """
    counts = context.train.labels.bincount(minlength=context.classes)
    least = int(counts.argmin())
    if min(synthetic, real, int(counts[least])) > 1 or not refuses_one(net, context.dataset.spec.shape):
        return
    has, remedy = f"a class has at --ipc {context.ipc}", "--factor 2, a larger --ipc or"
    if synthetic > 1:
        has, remedy = f"class {context.dataset.spec.class_names[least]!r} has", ""
        if real == 1:
            has, remedy = "a class has at --batch-real 1", "a larger one or"
    raise UserError(
        f"--student {context.student}: it cannot be trained on one image (a norm of one value), and that is all that "
        f"{has}; use {f'{remedy} ' if remedy else ''}another student"
    )


def blank_tiles(side: int, factor: int) -> bool:
    """Whether the last row and column of tiles lie beyond the image, since a tile's side is rounded up."""
    return (factor - 1) * math.ceil(side / factor) >= side


def first_images(ipc: int, init: str, factor: int) -> int:
    """Real images of a class that :func:`first_formed` takes."""
    return ipc if init == "real" else ipc * factor**2


def first_formed(context: Context, init: str, factor: int, purpose: str) -> Tensor:
    """First stored images, pixels in [0, 1] on the device, ``(K ipc, C, H, W)``, class-major.

    Args:
        init: ``real``: one real image each; ``mix``: factor x factor reduced ones; ``dream``: such chosen by DREAM.
        purpose: names the draw.
    """
    tiles = 1 if init == "real" else factor
    kind = "dream" if init == "dream" else "random"
    positions = initial_positions(context, kind, first_images(context.ipc, init, factor), purpose)
    stored = [form(gather(context.train.images, row).float() / 255, tiles) for row in positions]
    return torch.cat(stored).to(context.device)


def form(images: Tensor, factor: int) -> Tensor:
    """Reduce images and lay ``factor x factor`` of them into one, where :func:`ddbench.data.formation.decode` cuts.

    Each is reduced by averaging to a tile; what goes beyond the right and lower border, where the factor does not
    divide the side, is lost.

    Args:
        images: float ``(N factor^2, C, H, W)``.

    Returns:
        ``(N, C, H, W)``; tile t of image n is image ``t N + n``.
    """
    if factor == 1:
        return images
    height, width = images.shape[2:]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    tiles = F.adaptive_avg_pool2d(images, (rows, columns))
    n, channels = len(images) // factor**2, images.shape[1]
    laid = tiles.view(factor, factor, n, channels, rows, columns).permute(2, 3, 0, 4, 1, 5)
    return laid.reshape(n, channels, factor * rows, factor * columns)[:, :, :height, :width].contiguous()


def formed_input(stored: Tensor, factor: int, keep: Tensor | None, preprocess: Preprocess) -> Tensor:
    """Network input of the images that stored ones carry.

    Args:
        stored: pixels in [0, 1], ``(n, C, H, W)``; gradients pass through.
        keep: positions of the decoded images that are used, int64; None: all ``n factor^2``.
    """
    decoded = decode(stored, factor)
    return preprocess.apply(decoded if keep is None else decoded[keep.to(decoded.device)])


def formation_strategies(text: str, flip: bool, *, siamese: bool, cutout: bool = True) -> list[Strategy]:
    """What is done to a batch, in IDC's order: flip, colour, one of crop, scale and rotate, cutout.

    Args:
        text: families joined by ``_``, ``dsa`` for all, or ``none``.
        flip: False leaves flip out.
        siamese: one draw for all images, else every image has its own (but the family that is drawn is one).
        cutout: False leaves cutout out.

    Raises:
        UserError: an unknown family, or one named twice.
    """
    parsed = parse_strategy(resolve_augmentation(text, flip), flip=flip)
    named = parsed.ops if parsed else ()
    groups = (("flip",), ("color",), ("crop", "scale", "rotate"), ("cutout",) if cutout else ())
    found = [tuple(name for name in group if name in named) for group in groups]
    return [Strategy(ops, align_corners=False, siamese=siamese) for ops in found if ops]
