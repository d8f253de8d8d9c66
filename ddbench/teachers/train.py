"""Training teachers: one network on the real training images, resumable, tested once after its last epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.data.dataset import Dataset, holdout_split, validation_sample
from ddbench.data.load import kept_root
from ddbench.data.policy import Policy
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.networks.build import build_student
from ddbench.networks.check import check_student
from ddbench.networks.names import parse_student
from ddbench.runtime import device as devices
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError, memory_words
from ddbench.runtime.files import ensure_writable, write_json
from ddbench.runtime.interruption import Interruption, interruptible
from ddbench.runtime.progress import Console
from ddbench.runtime.resources import Meter
from ddbench.runtime.signs import end_turn, turn
from ddbench.runtime.tensors import finite_tensors, open_tensors, write_tensors
from ddbench.teachers.recipe import TeacherRecipe
from ddbench.teachers.store import (
    Teacher,
    check_teacher,
    checkpoint_file,
    default_teacher,
    find_teacher,
    penalty_of,
    read_teacher,
    teacher_file,
    write_teacher,
)
from ddbench.training.curvature import PENALTIES
from ddbench.training.loops import (
    Epoch,
    Inputs,
    Penalty,
    Resume,
    accuracy,
    forward_flops,
    inputs_of,
    own_loss,
    predict,
    train,
)
from ddbench.training.optimizers import (
    Optimizer,
    check_optimizer,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)
from ddbench.training.twice import attention_of

CHECKPOINT_KIND = "ddbench-teacher-checkpoint"
CHECKPOINT_SECONDS = 20.0
"""Least time between two checkpoints; the last epoch always makes one."""


def fitting_teacher(
    *,
    root: Path,
    dataset: Dataset,
    student: str,
    preprocess: Preprocess,
    holdout: float,
    console: Console,
    penalty: Mapping[str, Any] = MappingProxyType({}),
) -> Teacher | None:
    """The teacher of the store that fits (the best on held-out images), said on the console; None: there is none.

    Args:
        penalty: as :func:`ddbench.teachers.store.penalty_of`.

    Raises:
        UserError: a file of the store cannot be read.
    """
    found = find_teacher(
        root,
        dataset=dataset.spec.name,
        fingerprint=dataset.fingerprint,
        student=student,
        preprocess=preprocess.to_json(),
        holdout=holdout,
        penalty=penalty,
    )
    if found is not None:
        check_teacher(found, dataset, preprocess)
        console.say(f"teacher: {found.path} ({summary(found)})")
    return found


def ensure_teacher(
    *,
    root: Path,
    dataset: Dataset,
    data: Path | None,
    student: str | None = None,
    preprocess_kind: str,
    holdout: float,
    device: str,
    threads: int,
    compile: str,
    console: Console,
    penalty: Mapping[str, Any] = MappingProxyType({}),
) -> Teacher:
    """The teacher of the store that fits (the best on held-out images), else one trained by the default recipe, kept.

    Args:
        student: its architecture; default: :func:`ddbench.teachers.store.default_teacher`.
        holdout: fraction of the training images that it must not have seen.
        penalty: fields of :class:`TeacherRecipe` that begin with ``penalty`` and that it must have been trained with.

    Raises:
        UserError: as :func:`train_teacher`, or a file of the store that cannot be read.
    """
    spec = dataset.spec
    student = str(parse_student(student)) if student else default_teacher(spec.size)
    check_student(student, spec.channels, spec.size)
    recipe = TeacherRecipe(preprocess=preprocess_kind, holdout=holdout, **penalty)
    recipe.check()
    preprocess = fit_preprocess(dataset, preprocess_kind, kept_root(data))
    found = fitting_teacher(
        root=root,
        dataset=dataset,
        student=student,
        preprocess=preprocess,
        holdout=holdout,
        console=console,
        penalty=penalty_of(recipe.to_json()),
    )
    if found is not None:
        return found
    wanted = "" if recipe.penalty == "none" else f", penalty {recipe.penalty} {recipe.weight:g}"
    console.say(
        f"no teacher {student} of {spec.name} in {root} (preprocess {preprocess_kind}, holdout {holdout:g}{wanted}): "
        f"training one first, {recipe.epochs} epochs; it is kept for the next run"
    )
    return train_teacher(
        root=root,
        dataset=dataset,
        data=data,
        student=student,
        recipe=recipe,
        device=device,
        threads=threads,
        compile=compile,
        console=console,
    )


def train_teacher(
    *,
    root: Path,
    dataset: Dataset,
    data: Path | None,
    student: str,
    recipe: TeacherRecipe,
    device: str,
    threads: int,
    compile: str,
    console: Console,
) -> Teacher:
    """Train a teacher on the training images less the held-out ones; a finished one is read, a killed one goes on.

    Nothing is chosen: the last epoch's weights are kept, and tested once.

    Raises:
        UserError: settings out of range, a student that does not fit the images, a folder that cannot be written to
            (all before anything is written), a checkpoint that is damaged, or training that diverges.
    """
    meter = Meter()
    recipe.check()
    spec, student = dataset.spec, str(parse_student(student))
    check_student(student, spec.channels, spec.size)
    policy = recipe.policy(spec.flip)
    place = devices.resolve_device(device)
    split, held_out = holdout_split(dataset.train, recipe.holdout, spec.classes, dataset.root, names=spec.class_names)
    seed = seeds.derive(recipe.seed, "teacher")
    net = build_student(student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=seed)
    check_optimizer(net.parameters(), recipe.optimizer_settings(), place)
    preprocess = fit_preprocess(dataset, recipe.preprocess, kept_root(data))
    path = teacher_file(root, spec.name, student, recipe.key(student, dataset.fingerprint))
    partial = checkpoint_file(path)
    if path.exists():
        return _finished(path, partial, dataset, preprocess, console)
    net = net.to(place)
    attention: AbstractContextManager[None] = nullcontext()
    if recipe.penalty == "curvature":  # it is a gradient that is differentiated
        attention = attention_of(net, spec.shape, spec.classes, student, "--penalty curvature")
    ensure_writable(path.parent)
    devices.prepare(threads, say=console.say)
    with turn(path, "teacher", console.say, meter):
        if path.exists():  # another process trained it meanwhile
            return _finished(path, partial, dataset, preprocess, console)
        progress = _Progress(partial, net, recipe, meter)
        with attention:
            _train(
                progress,
                inputs_of(split, preprocess, place),
                inputs_of(validation_sample(held_out), preprocess, place) if len(held_out) else None,
                policy=policy,
                seed=seed,
                compile=compile,
                console=console,
                dataset=spec.name,
                student=student,
            )
        _write(path, progress, dataset=dataset, preprocess=preprocess, student=student, place=place)
        partial.unlink(missing_ok=True)
    return read_teacher(path)


def _write(
    path: Path,
    progress: _Progress,
    *,
    dataset: Dataset,
    preprocess: Preprocess,
    student: str,
    place: torch.device,
) -> None:
    """Test the trained network once and write it, and what it cost beside it."""
    net, recipe = progress.net, progress.recipe
    test = predict(net, inputs_of(dataset.test, preprocess, place), precision=recipe.precision)
    cost = progress.meter.report(devices.describe(place), epochs=recipe.epochs)
    write_json(path.with_name(f"{path.stem}.cost.json"), cost)
    write_teacher(
        path,
        net,
        dataset=dataset,
        preprocess=preprocess,
        student=student,
        recipe=recipe.to_json(),
        curves=progress.curves,
        test_accuracy=round(accuracy(test, dataset.test.labels), 6),
        versions=devices.versions(),
    )


def _train(
    progress: _Progress,
    inputs: Inputs,
    held_out: Inputs | None,
    *,
    policy: Policy | None,
    seed: int,
    compile: str,
    console: Console,
    student: str,
    dataset: str,
) -> None:
    """The epochs that an earlier try has not done, each entered in the curves and, when it is due, the checkpoint.

    Raises:
        UserError: the checkpoint is damaged, or training diverges; then it is removed.
    """
    net, recipe = progress.net, progress.recipe
    flops = 3 * forward_flops(net, inputs.shape) * len(inputs) * recipe.epochs
    if recipe.penalty != "none":  # the compiler cannot differentiate twice
        if compile == "on":
            console.say(f"--compile on: a teacher with --penalty {recipe.penalty} is trained eagerly")
        compile = "off"
    done = progress.load(inputs.device)
    if done:
        console.say(f"going on after epoch {done} of {recipe.epochs}")
        devices.go_on(progress.header, inputs.device, console.say)
    with (
        console.bar(f"teacher ({student}, {dataset}, {recipe.epochs} epochs)", recipe.epochs, done) as bar,
        interruptible(console, "epoch", recipe.epochs, done) as progress.interruption,
    ):
        for epoch in train(
            net,
            inputs,
            epochs=recipe.epochs,
            batch=recipe.batch,
            optimizer=recipe.optimizer_settings(),
            policy=policy,
            seed=seed,
            factor=recipe.factor,
            penalty=_penalty(net, recipe, mixed=policy is not None and policy.mix != "none"),
            precision=recipe.precision,
            compiler=devices.choose_compiler(compile, flops, inputs.device, console.say),
            resume=Resume(epochs=done, optimizer=progress.optimizer) if done else None,
            checkpoint=progress.hold,
        ):
            if not math.isfinite(epoch.loss) or not _finite(net):
                progress.path.unlink(missing_ok=True)
                raise UserError(
                    f"teacher {student}: its training diverged, after epoch {epoch.number} loss or weights are not "
                    f"finite; lower --lr (now {recipe.lr:g})"
                )
            bar.advance(progress.take(epoch, held_out))


def _penalty(net: nn.Module, recipe: TeacherRecipe, *, mixed: bool) -> Penalty | None:
    """The recipe's penalty, if it has one.

    It looks at the view that the loop trains on, with the network in evaluation mode: its norms use the running
    statistics and leave them alone.
    """
    if recipe.penalty == "none":
        return None
    flatness, plain = PENALTIES[recipe.penalty], own_loss(mixed)

    def penalty(x: Tensor, target: Tensor) -> Tensor:
        net.eval()
        flat = flatness(lambda x: plain(net(x), target), x, recipe.penalty_step)
        net.train()
        return recipe.weight * flat

    return penalty


def summary(teacher: Teacher) -> str:
    """How well a teacher does, in a few words."""
    held_out = "" if teacher.accuracy is None else f"held-out accuracy {teacher.accuracy:.3f}, "
    return f"{held_out}test accuracy {teacher.test_accuracy:.3f}"


def _finished(path: Path, partial: Path, dataset: Dataset, preprocess: Preprocess, console: Console) -> Teacher:
    """A teacher that is trained already, and fits; what a killed training left is removed.

    Raises:
        UserError: the file is damaged, or the teacher of other data.
    """
    try:
        teacher = read_teacher(path)
    except UserError as error:
        raise UserError(f"{error}; remove the file, and the same command trains it again") from None
    check_teacher(teacher, dataset, preprocess)
    partial.unlink(missing_ok=True)
    end_turn(path)
    console.say(f"trained already: {path}")
    return teacher


def _finite(net: nn.Module) -> bool:
    """Whether all weights and running statistics are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in net.state_dict().values())


class _Progress:
    """The checkpoint of a training: weights, buffers, optimiser, curves and cost after some epoch.

    Args:
        path: the checkpoint's file.
        net: the network that is trained in place.
        meter: counts the cost; earlier tries are added to it.
    """

    def __init__(self, path: Path, net: nn.Module, recipe: TeacherRecipe, meter: Meter) -> None:
        self.path, self.net, self.recipe, self.meter = path, net, recipe, meter
        self.curves: dict[str, list[float]] = {"loss": [], "train_accuracy": [], "holdout_accuracy": []}
        self.optimizer: dict[str, Tensor] = {}
        self.header: dict[str, Any] = {}
        self.interruption: Interruption
        self._stepper: Optimizer | None = None
        self._saved = time.monotonic()

    def hold(self, epochs: int, stepper: Optimizer) -> None:
        """Take the optimiser of the epoch that ended; its curves are not known yet."""
        self._stepper = stepper

    def take(self, epoch: Epoch, held_out: Inputs | None) -> str:
        """Enter an epoch in the curves and, when it is due, write the checkpoint; returns an accuracy, for people."""
        self.curves["loss"].append(round(epoch.loss, 6))
        self.curves["train_accuracy"].append(round(epoch.accuracy, 6))
        note = f"train accuracy {epoch.accuracy:.3f}"
        if held_out is not None:
            logits = predict(self.net, held_out, precision=self.recipe.precision)
            self.curves["holdout_accuracy"].append(round(accuracy(logits, held_out.labels), 6))
            note = f"held-out accuracy {self.curves['holdout_accuracy'][-1]:.3f}"
        self.save(epoch.number)
        return note

    def save(self, epochs: int) -> None:
        """Write the checkpoint when it is due."""
        assert self._stepper is not None
        due = epochs == self.recipe.epochs or time.monotonic() - self._saved >= CHECKPOINT_SECONDS
        if not due and not self.interruption.asked:
            return
        tensors = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        header = {
            "kind": CHECKPOINT_KIND,
            "schema": 1,
            "done": epochs,
            "threads": torch.get_num_threads(),
            **devices.kind_record(next(self.net.parameters()).device),
            "curves": self.curves,
            "wall_seconds": self.meter.wall,
            "cpu_seconds": self.meter.cpu,
        }
        write_tensors(self.path, {**tensors, **optimizer_state(self._stepper, "optimizer")}, header)
        self._saved = time.monotonic()
        self.interruption.kept(epochs)

    def load(self, device: torch.device) -> int:
        """Take an earlier try over; returns the epochs that it did.

        Raises:
            UserError: the file is damaged, or not of this network.
        """
        if not self.path.exists():
            return 0
        try:
            with open_tensors(self.path, CHECKPOINT_KIND, 1) as (handle, header):
                tensors = finite_tensors(handle)
            done = int(header["done"])
            curves = {name: [float(value) for value in header["curves"][name]] for name in self.curves}
            if not 0 < done <= self.recipe.epochs or {len(curves["loss"]), len(curves["train_accuracy"])} != {done}:
                raise ValueError(f"epoch {done} of {self.recipe.epochs}")
            weights = {name.removeprefix("net."): t for name, t in tensors.items() if name.startswith("net.")}
            self.net.load_state_dict(weights)
            stepper = make_optimizer(self.net.parameters(), self.recipe.optimizer_settings())
            load_optimizer_state(stepper, "optimizer", tensors)  # now, while its file can be named
            wall, cpu = float(header["wall_seconds"]), float(header["cpu_seconds"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if memory_words(error):
                raise
            raise UserError(
                f"{self.path}: not a checkpoint of this teacher ({' '.join(str(error).split()):.160}); remove it to "
                "start again"
            ) from None
        self.curves, self.header = curves, header
        self.meter.earlier_wall, self.meter.earlier_cpu = wall, cpu
        # Step counters stay on the CPU, where torch keeps them.
        self.optimizer = {
            name: tensor.to(device) if tensor.ndim else tensor
            for name, tensor in tensors.items()
            if name.startswith("optimizer.")
        }
        return done
