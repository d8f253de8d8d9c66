"""What recording experts will take, from a few steps of one on this device; nothing is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from ddbench.data.dataset import Dataset, Split, holdout_split, validation_sample
from ddbench.data.load import kept_root
from ddbench.data.preprocess import fit_preprocess
from ddbench.experts.recipe import ExpertRecipe
from ddbench.experts.record import checked
from ddbench.experts.store import check_root, expert_file, store_folder
from ddbench.experts.train import attention_for, predict_all, trajectories
from ddbench.networks.build import build_student
from ddbench.runtime import device as devices
from ddbench.runtime.forecast import Forecast, Measured, clocked, count_flops, free_memory, taken_memory, waiter
from ddbench.training.flat import flatten_buffers, flatten_parameters
from ddbench.training.loops import Inputs, forward_flops, inputs_of

BATCHES = 4
"""Batches of the real images that are trained on while the clock runs."""

JUDGED = 512
"""Images that are judged while the clock runs."""


def forecast(
    *,
    root: Path,
    dataset: Dataset,
    data: Path | None,
    student: str,
    recipe: ExpertRecipe,
    experts: int,
    threads: int,
    device: str,
    at_once: int,
    seconds: float,
) -> Forecast:
    """What :func:`ddbench.experts.record.record` will take with these settings; a unit is ``at_once`` experts.

    Args:
        seconds: that are spent on steps.

    Raises:
        UserError: as :func:`ddbench.experts.record.record`.
    """
    recipe, spec = checked(recipe, dataset, student, experts, at_once, device), dataset.spec
    preprocess = fit_preprocess(dataset, recipe.preprocess, kept_root(data))
    check_root(root)
    folder = store_folder(root, spec.name, student, recipe.key(student, dataset.fingerprint))
    known = {index for index in range(experts) if (folder / expert_file(index)).exists()}
    left = [first for first in range(0, experts, at_once) if set(range(first, min(first + at_once, experts))) - known]
    place = devices.resolve_device(device)
    devices.prepare(threads)
    split, held_out = holdout_split(dataset.train, recipe.holdout, spec.classes, dataset.root, names=spec.class_names)
    some = inputs_of(_first(split, BATCHES * recipe.batch), preprocess, place)
    judged = inputs_of(_first(dataset.test, JUDGED), preprocess, place)
    build = {"channels": spec.channels, "size": spec.size, "classes": spec.classes}
    nets = [build_student(student, **build, seed=seed).to(place) for seed in range(min(at_once, experts))]
    one = inputs_of(_first(split, recipe.batch), preprocess, place)
    with attention_for(recipe, nets[0], spec.shape, spec.classes, student):
        flops = count_flops(lambda: trajectories(nets[:1], one, None, replace(recipe, epochs=1), [0], None))
        step, looked = _measured(nets, some, judged, recipe, seconds)
    steps = recipe.epochs * math.ceil(len(split) / recipe.batch)
    looks = (recipe.epochs * len(validation_sample(held_out)) + len(dataset.test)) / len(judged)
    numbers = sum(len(part) for part in (flatten_parameters(nets[0]), flatten_buffers(nets[0])))
    weights = 4 * (recipe.epochs + 1) * numbers
    forward = forward_flops(nets[0], some.shape) * len(judged) * looks
    missing = len(set(range(experts)) - known)
    return Forecast(
        what=f"{experts} experts ({recipe.kind}) of {student} on {spec.name}, {recipe.epochs} epochs",
        unit="expert" if at_once == 1 else f"block of {at_once} experts",
        all=math.ceil(experts / at_once),
        done=math.ceil(experts / at_once) - len(left),
        seconds=[steps * step.seconds + looks * looked.seconds] * len(left),
        flops=missing * (steps * flops + forward),
        measured=[replace(step, flops=flops * len(nets)), looked],
        memory=taken_memory(place) + len(nets) * weights * (place.type == "cpu"),
        free=free_memory(place),
        disk=missing * weights,
        place=str(folder),
        device=devices.describe(place),
        threads=threads,
        notes=["measured without torch.compile"],
    )


def _measured(
    nets: Sequence[nn.Module], some: Inputs, judged: Inputs, recipe: ExpertRecipe, seconds: float
) -> tuple[Measured, Measured]:
    """A step of training, and a look at images to judge the networks."""
    wait = waiter(some.device)

    def train(epochs: int) -> None:
        trajectories(nets, some, None, replace(recipe, epochs=epochs), list(range(len(nets))), None)

    _, first = clocked(lambda _: train(1), 0, 1, wait)
    passes = max(1, int(seconds / max(first, 1e-6)))
    _, whole = clocked(lambda _: train(passes), 0, 1, wait)
    steps = passes * math.ceil(len(some) / recipe.batch)
    predict_all(nets, judged)
    times, look = clocked(lambda _: predict_all(nets, judged), seconds / 4, 10, wait)
    return (
        Measured(what="step of training", times=steps, seconds=whole / steps),
        Measured(what=f"look at {len(judged):,} images", times=times, seconds=look),
    )


def _first(split: Split, count: int) -> Split:
    return Split(split.images[:count], split.labels[:count])
