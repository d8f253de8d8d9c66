"""Students trained on a plan, and tested once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.data.dataset import Split, chunks
from ddbench.networks.build import build_student
from ddbench.networks.initialise import initialise
from ddbench.protocols.plan import Plan, optimizer_settings, rate_of
from ddbench.protocols.replay import replay, replay_network
from ddbench.protocols.seen import seen_views
from ddbench.protocols.targets import targets
from ddbench.runtime import device as devices
from ddbench.runtime import seeds as randomness
from ddbench.runtime.device import Compiler
from ddbench.runtime.errors import UserError
from ddbench.training.averaging import Averaging
from ddbench.training.flat import drawing_modules, draws
from ddbench.training.loops import Inputs, Resume, accuracy, forward_flops, inputs_of, predict, train
from ddbench.training.optimizers import Optimizer, optimizer_state
from ddbench.training.recorded import recordable


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a process computes: device by name, threads, precision (``float32`` or ``bfloat16``), compile mode."""

    device: str
    threads: int
    precision: str = "float32"
    compile: str = "off"


class DivergedError(UserError):
    """A student's outputs are no longer finite."""


def train_student(
    plan: Plan, test: Split, student: str, seed: int, settings: Settings, lr: float | None = None
) -> dict[str, float]:
    """One run: a fresh student is trained on the synset and tested once, on the last epoch's weights.

    Args:
        lr: a learning rate that a search found; default: that of the synset or protocol.

    Returns:
        ``{"accuracy": fraction}``.

    Raises:
        DivergedError: the student diverged.
    """
    return train_students(plan, test, student, [seed], settings, lr)[0]


def train_students(
    plan: Plan, test: Split, student: str, seeds: Sequence[int], settings: Settings, lr: float | None = None
) -> list[dict[str, float]]:
    """As :func:`train_student` for several seeds; networks without dropout are trained at once, on one device.

    Raises:
        DivergedError: one diverged.
    """
    nets, compiler = trained_students(plan, student, seeds, settings, lr, tests=len(test))
    scores = tested_students(plan, test, dict(zip(seeds, nets, strict=True)), settings, compiler)
    found = []
    for seed, score in zip(seeds, scores, strict=True):
        if score is None:
            raise DivergedError(f"{student}, seed {seed}: {diverged(plan, student, lr)}")
        found.append(score)
    return found


def diverged(plan: Plan, student: str, lr: float | None) -> str:
    """What is said of a student that :func:`tested_students` has no score of."""
    rate = lr or rate_of(plan, student)
    return f"the student's outputs are not finite after {plan.epochs} epochs at learning rate {rate:g}"


def tested_students(
    plan: Plan, test: Split, nets: dict[int, nn.Module], settings: Settings, compiler: Compiler | None
) -> list[dict[str, float] | None]:
    """Accuracy of trained networks, by seed; None for one whose outputs are not finite."""
    inputs = inputs_to_test(plan, test, next(next(iter(nets.values())).parameters()).device)
    found: list[dict[str, float] | None] = []
    for net in nets.values():
        logits = predict(net, inputs, precision=settings.precision, compiler=compiler)
        finite = bool(torch.isfinite(logits).all())
        found.append({"accuracy": accuracy(logits, test.labels)} if finite else None)
    return found


def trained_students(
    plan: Plan, student: str, seeds: Sequence[int], settings: Settings, lr: float | None = None, tests: int = 0
) -> tuple[list[nn.Module], Compiler | None]:
    """Fresh students, one a seed, trained on the synset to the last epoch; and the compiler that was used.

    Where the protocol averages weights, they hold the average.

    Args:
        tests: images that will be tested afterwards, for deciding whether compiling pays.
    """
    device = devices.resolve_device(settings.device)
    nets = [fresh_student(plan, student, seed).to(device) for seed in seeds]
    if plan.protocol.replay:
        for net in nets:
            replay(net, plan, device, settings.precision)
        return nets, None
    parts = [stage_plan(plan, stage) for stage in range(plan.stages)]
    inputs = [part.inputs(device) for part in parts]
    seen = sum(len(own) * part.epochs for own, part in zip(inputs, parts, strict=True))
    flops = forward_flops(nets[0], inputs[0].shape) * (3 * seen + tests)
    compiler = devices.choose_compiler(settings.compile, flops, device, print)
    if len(nets) > 1 and alone(plan, nets[0]) is None:
        from ddbench.training.many import train_many  # torch.func is slow to import

        how = _how(plan, inputs[0], student, settings, lr, compiler)
        for _ in train_many(nets, inputs[0], seeds=seeds, average=_averaging(plan), **how):
            pass
        return nets, compiler
    averaging = _averaging(plan)
    for seed, net in zip(seeds, nets, strict=True):
        gathered: dict[str, Tensor] = {}
        average = averaging.of(net.parameters(), net.buffers()) if averaging else None
        for stage, (part, own) in enumerate(zip(parts, inputs, strict=True)):
            named = randomness.derive(seed, "stage", stage) if stage else seed
            how = _how(part, own, student, settings, lr, compiler)
            if average is not None:
                how["after_step"] = average.update
            if len(parts) == 1 and recordable(net, device):
                how["seen"] = seen_views(part, own)
            gathered = _train(net, own, named, gathered, how)
        if average is not None:
            average.put()
    return nets, compiler


def alone(plan: Plan, net: nn.Module) -> str | None:
    """Why students like this one are trained one after another on a plan; None: several are trained at once."""
    from ddbench.training.many import ELEMENTWISE, draws_in_training

    protocol, shape = plan.protocol, tuple(plan.synset.images.shape[1:])
    device = next(net.parameters()).device
    if protocol.replay:
        return "a learned recipe is replayed on one network"
    if plan.stages > 1:
        return "a stage follows the other"
    if protocol.optimizer not in ELEMENTWISE:
        return f"optimiser {protocol.optimizer} does not go number by number"
    if draws_in_training(net, shape):
        return "it draws at random in training, as dropout does"
    if _teacher_draws(plan, shape, device):
        return "the teacher draws at random when it labels"
    return None


def _teacher_draws(plan: Plan, shape: tuple[int, ...], device: torch.device) -> bool:
    """Whether the labels of views are drawn too, by dropout of a teacher in batch mode: each student has draws of its
    own, and is trained by itself.
    """
    if plan.teacher is None or plan.protocol.labels != "teacher" or plan.protocol.teacher_mode != "batch":
        return False
    net = plan.teacher.network(device)
    return next(drawing_modules(net), None) is not None or draws(net, shape)


def fresh_student(plan: Plan, student: str, seed: int) -> nn.Module:
    """A student as its training on the plan begins with it, on the CPU; of a learned recipe that of the recipe."""
    if plan.protocol.replay:
        return replay_network(plan.synset, student, seed)
    _, channels, size, _ = plan.synset.images.shape
    net = build_student(student, channels=channels, size=size, classes=plan.synset.classes, seed=seed)
    return initialise(net, plan.protocol.init or "default", seed)


def _averaging(plan: Plan) -> Averaging | None:
    protocol = plan.protocol
    return Averaging(decay=protocol.ema_decay, buffers=protocol.ema_buffers) if protocol.ema_decay else None


def train_network(net: nn.Module, plan: Plan, student: str, seed: int, settings: Settings) -> None:
    """Train a network that is there already, in place, on a synset of one stage; an optimiser of its own is used.

    It ends with its last weights, whatever the protocol averages.

    Args:
        net: a ``student``, on the device of the settings.
    """
    inputs = plan.inputs(devices.resolve_device(settings.device))
    _train(net, inputs, seed, {}, _how(plan, inputs, student, settings, None, None))


def _train(
    net: nn.Module, inputs: Inputs, seed: int, gathered: dict[str, Tensor], how: dict[str, Any]
) -> dict[str, Tensor]:
    """Train in place, with what an optimiser has gathered before; returns what it has gathered then."""
    last: list[Optimizer] = []
    resume = Resume(epochs=0, optimizer=gathered) if gathered else None
    for _ in train(net, inputs, seed=seed, resume=resume, checkpoint=lambda _, stepper: last.append(stepper), **how):
        del last[:-1]
    return optimizer_state(last[-1], "optimizer")


def _how(
    plan: Plan, inputs: Inputs, student: str, settings: Settings, lr: float | None, compiler: Compiler | None
) -> dict[str, Any]:
    """How :func:`ddbench.training.loops.train` is to train on a plan of one stage."""
    protocol = plan.protocol
    labels, loss = targets(plan, inputs, inputs.device, settings.precision)
    return {
        "epochs": plan.epochs,
        "batch": plan.batch,
        "optimizer": optimizer_settings(protocol, lr or rate_of(plan, student)),
        "policy": plan.policy,
        "factor": functools.partial(protocol.factor, epochs=plan.epochs, student=student),
        "rebuild": protocol.rebuild,
        "labels": labels,
        "loss": loss,
        "view_seed": plan.stored.seed if protocol.labels == "stored" and plan.stored else None,
        "precision": settings.precision,
        "compiler": compiler,
    }


def stage_plan(plan: Plan, stage: int) -> Plan:
    """Training on one stage and those before it, as a plan of its own; the plan itself where there is one only.

    The passes are divided equally, the last stage has those that remain; each has one at least. The learning rate is
    the stage's own where one a stage was learned.

    Args:
        stage: from 0.
    """
    if plan.stages == 1:
        return plan
    synset, protocol = plan.synset, plan.protocol
    assert synset.stage is not None
    rate = synset.learned_lr
    each, last = max(1, plan.epochs // plan.stages), plan.stages - 1
    epochs = each if stage < last else max(1, plan.epochs - each * last)
    seen = synset.stage <= stage
    part = replace(
        synset,
        images=synset.images[seen],
        labels=synset.labels[seen],
        learned_lr=rate if rate is None or rate.ndim == 0 else rate[stage],
        stage=None,
    )
    return replace(plan, synset=part, protocol=replace(protocol, epochs=epochs, full_epochs=epochs, sequential=False))


def inputs_to_test(plan: Plan, test: Split, device: torch.device) -> Inputs:
    """Real images as the protocol tests them."""
    return inputs_of(split_to_test(plan, test), plan.preprocess, device)


def split_to_test(plan: Plan, test: Split) -> Split:
    """Real images, uint8, enlarged and cut where the protocol tests them so."""
    size = test.images.shape[-1]
    wide = size // 7 * 8
    if not plan.protocol.test_zoom or wide <= size:
        return test
    inside = slice((wide - size) // 2, (wide - size) // 2 + size)
    cut, start = torch.empty_like(test.images), 0
    for piece in chunks(test.images):  # all of a large test set as floats are beyond memory
        zoomed = torch.nn.functional.interpolate(
            piece.float(), size=(wide, wide), mode="bilinear", antialias=True, align_corners=False
        )
        cut[start : start + len(piece)] = zoomed[:, :, inside, inside].round().clamp(0, 255).to(torch.uint8)
        start += len(piece)
    return Split(cut, test.labels)
