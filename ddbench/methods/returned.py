"""What a method returns, looked at before it is used, so that a mistake of its author is one line and no traceback."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.data.preprocess import OVERSHOOT, are_pixels255
from ddbench.decoders import DECODERS
from ddbench.decoders.base import Decoder, read_decoder
from ddbench.methods.base import Distilled, Method, State
from ddbench.runtime import authors
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json
from ddbench.runtime.tensors import not_finite
from ddbench.schedule import Replay, read_schedule
from ddbench.synset import Budget


def called(method: Method[Any]) -> str:
    """A method at the beginning of a message."""
    return f"method {str(method.title)[:60] or type(method).__name__}"


def wrong(method: Method[Any], what: str, found: object, expected: str) -> UserError:
    """That a method returns what it must not.

    Args:
        what: is wrong, such as ``state()`` or ``labels of distilled()``.
    """
    return authors.wrong(type(method), called(method), what, found, expected)


def check_sizes(method: Method[Any]) -> None:
    """What a method says of itself before its first step.

    Raises:
        UserError: iterations that are no number of steps, no budget, no name of an augmentation, or pieces that are not
            all steps in order.
    """
    steps = method.iterations
    if type(steps) is not int or steps < 0:
        raise wrong(method, "iterations", steps, "a whole number of steps (0: one shot)")
    budget = method.budget
    if not isinstance(budget, Budget) or type(budget.value) is not int or not isinstance(budget.unit, str):
        raise wrong(method, "budget", budget, "ddbench.synset.Budget of a unit and a whole number")
    if not isinstance(method.augmentation, str):
        raise wrong(method, "augmentation", method.augmentation, "the name of a strategy, such as 'none'")
    pieces = method.pieces()
    ranges = isinstance(pieces, Sequence) and all(isinstance(one, range) and one.step == 1 for one in pieces)
    if not ranges or (pieces and [step for one in pieces for step in one] != list(range(steps))):
        raise wrong(method, "pieces()", pieces, f"ranges that are the {steps} steps in order, or ()")
    _check_written(method, bool(pieces))


def _check_written(method: Method[Any], in_parts: bool) -> None:
    """That what a method says of itself is not without the code for it.

    Raises:
        UserError: names what is missing, and why it is needed.
    """
    wanted = {
        "distilled": "which gives the product",
        "step": f"which does one of its {method.iterations} iterations" if method.iterations else "",
        "load_state": "which takes over what state() gives" if _written(method, "state") else "",
        "merge": "which puts together what pieces() share out" if in_parts else "",
    }
    for name, why in wanted.items():
        if why and not _written(method, name):
            raise UserError(f"{called(method)}: {name}() is missing, {why}; {authors.mend(type(method))}")


def _written(method: Method[Any], name: str) -> bool:
    """Whether a method has code of its own for what the base leaves open."""
    return getattr(getattr(method, name), "__func__", None) is not getattr(Method, name)


def metrics_of(method: Method[Any], iteration: int, found: object) -> dict[str, float]:
    """What a step returned.

    Raises:
        UserError: no numbers by name.
    """
    if isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(value, int | float) for name, value in found.items()
    ):
        return found
    raise UserError(
        f"iteration {iteration}: step() of {method.title} returned {authors.seen(found)}, expected numbers by name, "
        f"such as {{'loss': 0.5}}; {authors.mend(type(method))}"
    )


def state_of(method: Method[Any]) -> State:
    """What a method must have to go on.

    Raises:
        UserError: no state, or one that cannot be kept.
    """
    return checked_state(method, method.state(), "state()")


def checked_state(method: Method[Any], found: object, what: str) -> State:
    """A state that can be written down and gone on from.

    Raises:
        UserError: no state, no tensors by name, values that are no JSON, or NaN or infinities in either.
    """
    if not isinstance(found, State):
        raise wrong(method, what, found, "ddbench.methods.base.State, such as State(tensors={'images': images})")
    if not isinstance(found.tensors, Mapping) or not all(isinstance(name, str) for name in found.tensors):
        raise wrong(method, f"tensors of {what}", found.tensors, "tensors by name")
    for name, tensor in found.tensors.items():
        if not isinstance(tensor, Tensor) or tensor.is_sparse or tensor.is_quantized or tensor.is_complex():
            raise wrong(method, f"tensor {name!r} of {what}", tensor, "a dense tensor of real numbers")
        if not_finite(tensor):
            raise wrong(
                method, f"tensor {name!r} of {what}", authors.Said("with NaN or infinity in it"), "finite numbers"
            )
    if not isinstance(found.values, dict) or not all(isinstance(name, str) for name in found.values):
        raise wrong(method, f"values of {what}", found.values, "JSON by name")
    try:
        canonical_json(found.values)
    except (TypeError, ValueError, RecursionError) as error:
        raise wrong(method, f"values of {what}", found.values, f"JSON ({error})") from None
    return found


def look_ahead(method: Method[Any]) -> None:
    """Look at state and product of somebody's own method before its first step: its author need not wait for the end.

    Raises:
        UserError: as :func:`state_of` and :func:`product_of`; a product that is there only after all steps is let be.
    """
    if authors.shipped(type(method)):
        return
    state_of(method)
    try:
        product_of(method)
    except UserError:
        raise
    except Exception:
        return


def product_of(method: Method[Any]) -> Distilled:
    """What a method made, as it is now: of the right types and number of axes; contents are the synset's own matter.

    Raises:
        UserError: no product, or images or labels that no synset can have.
    """
    found = method.distilled()
    if not isinstance(found, Distilled):
        raise wrong(method, "distilled()", found, "ddbench.methods.base.Distilled")
    of = "of distilled()"
    images, labels, shape = found.images, found.labels, tuple(method.context.dataset.spec.shape)
    kinds = (torch.uint8, torch.float32)
    if not isinstance(images, Tensor) or images.dtype not in kinds or images.ndim != 4 or images.shape[1:] != shape:
        raise wrong(method, f"images {of}", images, f"uint8 (pixels) or float32 (network input) {('N', *shape)}")
    _check_range(method, images)
    hard = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.ndim == 1
    soft = isinstance(labels, Tensor) and labels.dtype == torch.float32 and labels.ndim == 2
    if not (hard or soft):
        raise wrong(method, f"labels {of}", labels, "int64 (N,), or float32 (N, classes)")
    if not isinstance(found.parameters, Mapping) or not all(
        isinstance(one, Tensor) for one in found.parameters.values()
    ):
        raise wrong(method, f"parameters {of}", found.parameters, "tensors by name")
    for name, one in (("learned_lr", found.learned_lr), ("stage", found.stage)):
        if one is not None and not isinstance(one, Tensor):
            raise wrong(method, f"{name} {of}", one, "a tensor, or None")
    scale = found.label_scale
    if scale is not None and not (isinstance(scale, float) and math.isfinite(scale)):
        raise wrong(method, f"label_scale {of}", scale, "a number, or None")
    if found.decoder is not None and not isinstance(found.decoder, Decoder):
        raise wrong(method, f"decoder {of}", found.decoder, "ddbench.decoders.base.Decoder, or None")
    if type(found.patches) is not int:
        raise wrong(method, f"patches {of}", found.patches, "a whole number")
    _check_readable(method, found)
    return found


def _check_readable(method: Method[Any], found: Distilled) -> None:
    """Refuse stages, rates, a recipe or a decoder that a file would take and no reader would.

    Raises:
        UserError: names what is wrong.
    """
    stage, rates, of = found.stage, found.learned_lr, "of distilled()"
    if stage is not None and (stage.dtype != torch.int64 or stage.ndim != 1):
        raise wrong(method, f"stage {of}", stage, "int64 (N,)")
    if rates is not None and (not rates.numel() or (rates.ndim and stage is None)):
        raise wrong(method, f"learned_lr {of}", rates, "one number, or one a stage (or step) beside stage")
    if found.schedule is not None and not isinstance(found.schedule, Replay):
        raise wrong(method, f"schedule {of}", found.schedule, "ddbench.synset.Replay, or None")
    kind = str(getattr(found.decoder, "kind", None))
    if found.decoder is not None and kind not in DECODERS:
        unknown = authors.Said(f"of the kind {kind!r:.60}, which no reader knows")
        raise wrong(method, f"decoder {of}", unknown, "one with an entry point in the group ddbench.decoders")
    try:
        for said, read in ((found.decoder, read_decoder), (found.schedule, read_schedule)):
            read(Path("distilled()"), None if said is None else json.loads(canonical_json(said.to_json())))
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{called(method)}: {error}; {authors.mend(type(method))}") from None


def _check_range(method: Method[Any], images: Tensor) -> None:
    """Refuse floats of somebody's own method that ``ddbench import`` would take for pixels from 0 to 255.

    Raises:
        UserError: says the range.
    """
    if images.dtype == torch.uint8 or not images.numel() or authors.shipped(type(method)):
        return
    low, high = float(images.min()), float(images.max())
    if high > 1 + OVERSHOOT and are_pixels255(images, low, high):
        said = authors.Said(f"float32 values from {low:.4g} to {high:.4g}, which are pixels from 0 to 255")
        raise wrong(
            method,
            "images of distilled()",
            said,
            "uint8 (pixels) or float32 (network input, such as self.context.preprocess.apply(pixels) makes)",
        )
