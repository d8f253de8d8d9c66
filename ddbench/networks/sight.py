"""Which pixels a network sees: asked by gradient, of networks of other libraries.

Networks that cut images into patches leave out what does not fill a patch, some without a word: distilled images would
keep dead rows there, and scores would ignore them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.networks.names import SMALLEST_EXTERNAL, StudentName
from ddbench.runtime.errors import UserError
from ddbench.runtime.seeds import isolated

Make = Callable[[StudentName, int, int, int], nn.Module]
"""Builds a network of a student's name, channels, size and classes."""

OTHER = "tv-resnet18"
"""Named in messages: it sees every pixel at every size that it takes."""


@dataclass(frozen=True)
class Sight:
    """What a network sees of square images.

    Attributes:
        rows, columns: how many whole ones have no influence on the logits; all of them: the logits are constant.
        share: fraction of the pixels in those.
        patch: side in px of the patches that the images are cut into and do not divide into; None: no such layer.
    """

    rows: int
    columns: int
    share: float
    patch: int | None


def check_sight(student: StudentName, channels: int, size: int, make: Make) -> None:
    """Refuse a network that leaves out part of the images.

    One row and column may be lost where convolutions overlap: so does SqueezeNet at its own size, for want of padding.

    Raises:
        UserError: says what is lost and names sizes and a student without loss.
    """
    found = sight(student, channels, size, make)
    lost = max(found.rows, found.columns)
    if lost == 0 or (lost == 1 and found.patch is None):
        return
    if found.share == 1:
        raise UserError(
            f"student '{student}': its logits do not depend on images of {size} px (a norm of maps of one pixel gives "
            f"a constant); use larger images or {OTHER}"
        )
    cut, sizes = "", "another size"
    if found.patch is not None:
        cut = f" (it cuts them into patches of {found.patch} px)"
        below = size // found.patch * found.patch
        near = [side for side in (below, below + found.patch) if side >= SMALLEST_EXTERNAL]
        whole = [f"{side}" for side in near if sight(student, channels, side, make).share == 0]
        sizes = f"{' or '.join(whole)} px" if whole else sizes
    raise UserError(
        f"student '{student}' does not see {found.share:.0%} of the pixels of {size} px images: {found.rows} of {size} "
        f"rows and {found.columns} of {size} columns have no influence{cut}; use {sizes}, or {OTHER}"
    )


@functools.cache
def sight(student: StudentName, channels: int, size: int, make: Make) -> Sight:
    """What a student's network sees, whatever its weights: those that start at zero get other values.

    Raises:
        UserError: the network fails on such images.
    """
    try:
        with torch.device("cpu"), isolated(0, "sight"):
            net = make(student, channels, size, 2)
            for parameter in net.parameters():
                parameter.requires_grad_(False)
                if not parameter.any():
                    parameter.normal_(0, 0.02)
            found = _look(net.eval(), torch.randn(2, channels, size, size))
            if found.share:
                # Dead units and small numbers hide pixels too: ask again, where these are rare.
                wide = net.double().train()
                found = _look(wide, torch.randn(4, channels, size, size, dtype=torch.float64))
            return found
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"student '{student}' does not take images of {channels} x {size} x {size}: "
            f"{type(error).__name__}: {reason}; use another size or student"
        ) from error


def _look(net: nn.Module, images: Tensor) -> Sight:
    size = images.shape[-1]
    patches: list[int] = []

    def watch(module: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        assert isinstance(module, nn.Conv2d)
        if inputs and inputs[0].shape[-1] == size and module.kernel_size == module.stride and size % module.stride[0]:
            patches.append(module.stride[0])

    hooks = [m.register_forward_hook(watch) for m in net.modules() if isinstance(m, nn.Conv2d)]
    logits = net(images.requires_grad_())
    for hook in hooks:
        hook.remove()
    # Rounding leaves gradients even where logits are constant, so that is asked of the logits.
    apart, dust = (logits - logits.mean(0)).abs().max(), 1e4 * torch.finfo(logits.dtype).eps
    if apart <= dust * logits.abs().max():
        return Sight(size, size, 1.0, None)
    (gradient,) = torch.autograd.grad((logits * torch.randn_like(logits)).sum(), images)
    seen = gradient.abs().amax((0, 1)) > 0
    rows, columns = int((~seen.any(1)).sum()), int((~seen.any(0)).sum())
    share = 1 - (size - rows) * (size - columns) / size**2
    return Sight(rows, columns, share, patches[0] if patches else None)
