"""Several trained teachers put into one file, tested together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ddbench.data.dataset import Dataset, holdout_split, validation_sample
from ddbench.data.preprocess import Preprocess
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable, recorded_seconds, write_json
from ddbench.runtime.progress import Console
from ddbench.teachers.remedy import together_file
from ddbench.teachers.store import Teacher, check_teacher, read_teacher, same_preprocess, write_teacher
from ddbench.teachers.together import JOIN, MOST, Together
from ddbench.training.loops import accuracy, inputs_of, predict


def joined_file(root: Path, teachers: Sequence[Teacher]) -> Path:
    """Where teachers that are taken together in this order belong."""
    return together_file(root, teachers[0].dataset, [one.sha256 for one in teachers])


def read_joined(root: Path, teachers: Sequence[Teacher]) -> Teacher | None:
    """The file of teachers that were put together in this order before; None: it is not there.

    Raises:
        UserError: it is damaged, or holds others.
    """
    path = joined_file(root, teachers)
    if not path.exists():
        return None
    found = read_teacher(path)
    if [one["sha256"] for one in found.members] != [one.sha256 for one in teachers]:
        raise UserError(f"{path}: holds other teachers than those that its name stands for; remove it")
    return found


def check_members(teachers: Sequence[Teacher]) -> None:
    """Refuse teachers that cannot be one.

    Raises:
        UserError: fewer than two or too many, one twice, other shapes, classes, data, preprocess or held-out images;
            names the file and what differs.
    """
    if not 2 <= len(teachers) <= MOST:
        raise UserError(f"FILES: {len(teachers)} teacher(s) to join, expected 2 to {MOST} (ddbench teacher trains one)")
    first = teachers[0]
    for position, one in enumerate(teachers):
        if one.members:
            raise UserError(f"{one.path}: holds {len(one.members)} teachers already; give the files of single ones")
        twin = next((other for other in teachers[:position] if other.sha256 == one.sha256), None)
        if twin is not None:
            raise UserError(f"{one.path}: the same teacher as {twin.path} (sha256 {one.sha256[:12]}); give each once")
        for what, own, wanted in (
            ("input", list(one.shape), list(first.shape)),
            ("classes", list(one.class_names), list(first.class_names)),
            ("data", f"{one.dataset} {one.fingerprint[:12]}", f"{first.dataset} {first.fingerprint[:12]}"),
            ("preprocess", one.preprocess, first.preprocess),
            ("held-out fraction", one.holdout, first.holdout),
        ):
            if own != wanted and not (what == "preprocess" and same_preprocess(one.preprocess, first.preprocess)):
                raise UserError(
                    f"{one.path}: its {what} is {own!s:.60}, that of {first.path} is {wanted!s:.60}; teachers that are "
                    "taken together are of the same images"
                )


def join_teachers(
    root: Path,
    teachers: Sequence[Teacher],
    *,
    dataset: Dataset,
    preprocess: Preprocess,
    device: torch.device,
    console: Console,
) -> Teacher:
    """The teachers as one, in a file of the store; one that is there is read.

    Beside it lies what the teachers cost together, where that is known of each.

    Args:
        root: of the store.
        dataset, preprocess: what they were trained on; the mean of their logits is tested on it.

    Raises:
        UserError: they cannot be one (:func:`check_members`), or are of other data; their file holds others
            (:func:`read_joined`); or the folder cannot be written to.
    """
    check_members(teachers)
    for one in teachers:
        check_teacher(one, dataset, preprocess)
    if (known := read_joined(root, teachers)) is not None:
        return known
    path = joined_file(root, teachers)
    ensure_writable(path.parent)
    first = teachers[0]
    net = Together([one.network(device) for one in teachers])
    _, held_out = holdout_split(
        dataset.train, first.holdout, dataset.spec.classes, dataset.root, names=dataset.spec.class_names
    )
    tests = {"holdout": validation_sample(held_out), "test": dataset.test}
    scores = {
        name: round(accuracy(predict(net, inputs_of(split, preprocess, device)), split.labels), 6)
        for name, split in tests.items()
        if len(split)
    }
    costs = [recorded_seconds(one.path.with_name(f"{one.path.stem}.cost.json")) for one in teachers]
    if all(cost is not None for cost in costs):
        total = {name: sum(cost[name] for cost in costs if cost) for name in ("wall_seconds", "cpu_seconds")}
        write_json(path.with_name(f"{path.stem}.cost.json"), total)
    write_teacher(
        path,
        net,
        dataset=dataset,
        preprocess=preprocess,
        student=JOIN.join(one.student for one in teachers),
        recipe={"holdout": first.holdout, "preprocess": first.recipe.get("preprocess"), "seed": None},
        curves={"holdout_accuracy": [scores["holdout"]] if "holdout" in scores else []},
        test_accuracy=scores["test"],
        versions=devices.versions(),
        members=[one.reference() | {"recipe": one.recipe} for one in teachers],
    )
    console.say(f"{len(teachers)} teachers in one file: {path}")
    return read_teacher(path)
