"""How one student is trained on one synset: a protocol, the synset, the dataset and what labels it, put together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.data.dataset import Dataset, Split
from ddbench.data.decode import decode
from ddbench.data.policy import Policy, parse_policy
from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import resolve_augmentation
from ddbench.evaluate.labels import StoredLabels
from ddbench.evaluate.protocols import Protocol
from ddbench.networks.build import build_student
from ddbench.runtime import device as devices
from ddbench.runtime import seeds as randomness
from ddbench.runtime.device import Compiler
from ddbench.runtime.errors import UserError
from ddbench.synset import Synset
from ddbench.teachers.store import Teacher, check_teacher
from ddbench.training.loops import (
    Inputs,
    Labels,
    Loss,
    Optimizer,
    OptimizerSettings,
    Resume,
    View,
    accuracy,
    autocast,
    forward_flops,
    inputs_of,
    optimizer_state,
    own_labels,
    own_loss,
    predict,
    train,
)
from ddbench.training.losses import cross_entropy, focal, smoothed, soft_target_kl


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a process computes: device by name, threads, precision (``float32`` or ``bfloat16``), compile mode."""

    device: str
    threads: int
    precision: str = "float32"
    compile: str = "off"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a student's training on a synset needs.

    Attributes:
        synset, protocol, preprocess: what is trained on, how, and how pixels become its network input.
        flip: whether the dataset's images may be mirrored.
        teacher: for ``labels`` "teacher".
        stored: for ``labels`` "stored".
        synset_sha256: hash of the synset's file, which stored labels name; empty for one that is in no file.
    """

    synset: Synset
    protocol: Protocol
    preprocess: Preprocess
    flip: bool
    teacher: Teacher | None = None
    stored: StoredLabels | None = None
    synset_sha256: str = ""

    @property
    def epochs(self) -> int:
        """Passes over the synset."""
        whole = self.synset.budget.unit == "all"
        return self.protocol.full_epochs if whole else self.protocol.epochs

    @property
    def stages(self) -> int:
        """How many trainings follow each other: one a stage of the synset where the protocol is sequential, else 1."""
        stage = self.synset.stage
        return 1 if stage is None or not self.protocol.sequential else int(stage.max()) + 1

    @property
    def batch(self) -> int:
        """Images a step."""
        return self.protocol.batch_for(self.synset.decoded_images, self.synset.classes)

    @property
    def policy(self) -> Policy | None:
        """The augmentation, for this dataset and this synset's patches."""
        return policy_of(self.protocol, self.synset, self.flip)

    def inputs(self, device: torch.device) -> Inputs:
        """The synset as network inputs, decoded, with the labels that the protocol takes from it."""
        synset, images, labels = self.synset, self.synset.images, self.synset.labels
        if self.protocol.labels in ("hard", "teacher", "stored"):
            labels = synset.hard_labels()
        elif synset.label_kind == "soft":
            labels = labels / self.protocol.temperature
        raw = synset.space == "pixels"
        if synset.decode_factor > 1:
            # In pixel space: ZCA does not commute with cutting and enlarging.
            tiles = images.float() / 255 if raw else self.preprocess.invert(images)
            images, raw = self.preprocess.apply(decode(tiles, synset.decode_factor)), False
            labels = labels.repeat(synset.decode_factor**2, *[1] * (labels.ndim - 1))
        preprocess, space = (self.preprocess, None) if raw else (None, self.preprocess)
        return Inputs(images, labels, preprocess, device, space=space, classes=synset.classes)


def policy_of(protocol: Protocol, synset: Synset, flip: bool) -> Policy | None:
    """The augmentation policy of a protocol for a synset.

    Raises:
        UserError: the protocol's augmentation is none that is known.
    """
    factor = synset.patches
    return parse_policy(
        resolve_augmentation(protocol.augmentation, flip),
        flip=flip,
        crop_scale=protocol.crop_scale or 1 / factor,
        factor=factor,
        mix_alpha=protocol.mix_alpha,
        mix_probability=protocol.mix_probability,
    )


def check_plan(plan: Plan, dataset: Dataset) -> None:
    """Refuse what cannot work before anything is trained.

    Raises:
        UserError: soft labels wanted of a hard synset, no teacher, a teacher of other data, a learned rate that trains
            nothing, an unknown augmentation, or stored labels of another synset or protocol.
    """
    synset, protocol = plan.synset, plan.protocol
    if protocol.labels == "soft" and synset.label_kind != "soft":
        raise UserError(
            f"protocol {protocol.name} needs soft labels, but the synset ({synset.method} on {synset.dataset}) has "
            "hard ones; use --protocol hard-v1, or kd-v1 with a teacher"
        )
    if (protocol.label_smoothing or protocol.focal_gamma) and protocol.labels == "own" and synset.label_kind == "soft":
        what = "label smoothing" if protocol.label_smoothing else "focal loss"
        raise UserError(f"{what} is n/a: the synset ({synset.method} on {synset.dataset}) has soft labels")
    if protocol.labels == "teacher":
        if plan.teacher is None:
            raise UserError(
                f"protocol {protocol.name} needs a teacher: train one with ddbench teacher --dataset {synset.dataset}, "
                "or give --teacher FILE"
            )
        check_teacher(plan.teacher, dataset, plan.preprocess)
    if protocol.labels == "stored":
        if plan.stored is None:
            raise UserError(
                f"protocol {protocol.name} replays stored labels: make them with ddbench relabel, then give --labels "
                "FILE (default: labels.safetensors beside the synset)"
            )
        plan.stored.check(plan)
    learned_rate(synset, protocol)
    plan.policy  # noqa: B018 (parsed, so that a wrong name is told now)


def learned_rates(synset: Synset, protocol: Protocol) -> list[float] | None:
    """The synset's learned learning rates where the protocol uses them, else None: one, or one a stage.

    Raises:
        UserError: one is not positive.
    """
    lr = synset.learned_lr
    if protocol.lr_source != "synset" or lr is None or (lr.ndim and synset.stage is None):
        return None
    if float(lr.min()) <= 0:
        raise UserError(
            f"the synset's learned learning rate is {float(lr.min()):g}, which trains nothing: distil with "
            f"--lr-parametrisation log or a smaller --lr-lr, or evaluate with --protocol dc-legacy (lr {protocol.lr:g})"
        )
    return [float(rate) for rate in lr.reshape(-1)]


def learned_rate(synset: Synset, protocol: Protocol) -> float | None:
    """The synset's learned learning rate where the protocol uses it, else None; of several stages that of the last.

    Raises:
        UserError: it is not positive.
    """
    rates = learned_rates(synset, protocol)
    return None if rates is None else rates[-1]


def rate_of(plan: Plan, student: str) -> float:
    """The learning rate without a search: the synset's where the protocol says so (of several stages the last one's),
    else the protocol's.
    """
    learned = learned_rate(plan.synset, plan.protocol)
    return plan.protocol.rate(student) if learned is None else learned


def train_student(
    plan: Plan, test: Split, student: str, seed: int, settings: Settings, lr: float | None = None
) -> dict[str, float]:
    """One run: a fresh student is trained on the synset and tested once, on the last epoch's weights.

    Args:
        lr: a learning rate that a search found; default: that of the synset or protocol.

    Returns:
        ``{"accuracy": fraction}``.

    Raises:
        UserError: the student diverged.
    """
    return train_students(plan, test, student, [seed], settings, lr)[0]


def train_students(
    plan: Plan, test: Split, student: str, seeds: Sequence[int], settings: Settings, lr: float | None = None
) -> list[dict[str, float]]:
    """As :func:`train_student` for several seeds; networks without dropout are trained at once, on one device."""
    nets, compiler = trained_students(plan, student, seeds, settings, lr, tests=len(test))
    return tested_students(plan, test, student, dict(zip(seeds, nets, strict=True)), settings, lr, compiler)


def tested_students(
    plan: Plan,
    test: Split,
    student: str,
    nets: dict[int, nn.Module],
    settings: Settings,
    lr: float | None,
    compiler: Compiler | None,
) -> list[dict[str, float]]:
    """Accuracy of trained networks, by seed.

    Raises:
        UserError: one diverged.
    """
    inputs = inputs_to_test(plan, test, next(next(iter(nets.values())).parameters()).device)
    found = []
    for seed, net in nets.items():
        logits = predict(net, inputs, precision=settings.precision, compiler=compiler)
        if not bool(torch.isfinite(logits).all()):
            raise UserError(
                f"{student}, seed {seed}: the student's outputs are not finite after {plan.epochs} epochs at learning "
                f"rate {lr or rate_of(plan, student):g}"
            )
        found.append({"accuracy": accuracy(logits, test.labels)})
    return found


def trained_students(
    plan: Plan, student: str, seeds: Sequence[int], settings: Settings, lr: float | None = None, tests: int = 0
) -> tuple[list[nn.Module], Compiler | None]:
    """Fresh students, one a seed, trained on the synset to the last epoch; and the compiler that was used.

    Args:
        tests: images that will be tested afterwards, for deciding whether compiling pays.
    """
    device = devices.resolve_device(settings.device)
    _, channels, size, _ = plan.synset.images.shape
    nets: list[nn.Module] = [
        build_student(student, channels=channels, size=size, classes=plan.synset.classes, seed=seed).to(device)
        for seed in seeds
    ]
    parts = [stage_plan(plan, stage) for stage in range(plan.stages)]
    inputs = [part.inputs(device) for part in parts]
    seen = sum(len(own) * part.epochs for own, part in zip(inputs, parts, strict=True))
    flops = forward_flops(nets[0], inputs[0].shape) * (3 * seen + tests)
    compiler = devices.choose_compiler(settings.compile, flops, device, print)
    if len(nets) > 1 and len(parts) == 1:
        from ddbench.training.many import draws_in_training, train_many  # torch.func is slow to import

        if not draws_in_training(nets[0]):
            how = _how(plan, inputs[0], student, settings, lr, compiler)
            for _ in train_many(nets, inputs[0], seeds=seeds, **how):
                pass
            return nets, compiler
    for seed, net in zip(seeds, nets, strict=True):
        gathered: dict[str, Tensor] = {}
        for stage, (part, own) in enumerate(zip(parts, inputs, strict=True)):
            named = randomness.derive(seed, "stage", stage) if stage else seed
            how = _how(part, own, student, settings, lr, compiler)
            gathered = _train(net, own, named, gathered, how)
    return nets, compiler


def stage_plan(plan: Plan, stage: int) -> Plan:
    """Training on one stage and those before it, as a plan of its own; the plan itself where there is one only.

    The passes are divided equally; the last stage has those that remain. The learning rate is the stage's own where
    one a stage was learned.

    Args:
        stage: from 0.
    """
    if plan.stages == 1:
        return plan
    synset, protocol = plan.synset, plan.protocol
    assert synset.stage is not None
    rate = synset.learned_lr
    each, rest = divmod(plan.epochs, plan.stages)
    epochs = max(1, each + (rest if stage == plan.stages - 1 else 0))
    seen = synset.stage <= stage
    part = replace(
        synset,
        images=synset.images[seen],
        labels=synset.labels[seen],
        learned_lr=rate if rate is None or rate.ndim == 0 else rate[stage],
        stage=None,
    )
    return replace(plan, synset=part, protocol=replace(protocol, epochs=epochs, full_epochs=epochs, sequential=False))


def train_network(net: nn.Module, plan: Plan, student: str, seed: int, settings: Settings) -> None:
    """Train a network that is there already, in place, on a synset of one stage; an optimiser of its own is used.

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
        "optimizer": OptimizerSettings(
            name=protocol.optimizer,
            lr=lr or rate_of(plan, student),
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
            decay_vectors=protocol.decay_vectors,
        ),
        "policy": plan.policy,
        "factor": functools.partial(protocol.factor, epochs=plan.epochs),
        "rebuild": protocol.rebuild,
        "labels": labels,
        "loss": loss,
        "view_seed": plan.stored.seed if protocol.labels == "stored" and plan.stored else None,
        "precision": settings.precision,
        "compiler": compiler,
    }


def targets(plan: Plan, inputs: Inputs, device: torch.device, precision: str) -> tuple[Labels, Loss]:
    """What the student learns from each view, and the loss for it."""
    protocol = plan.protocol
    if protocol.labels == "stored":
        assert plan.stored is not None
        return plan.stored.labels(device), _soft_loss(protocol)
    if protocol.labels != "teacher":
        return own_labels(inputs), _class_loss(plan)
    assert plan.teacher is not None
    label = teacher_labels(plan.teacher, protocol, device, precision)
    if protocol.loss == "kl":
        return label, _soft_loss(protocol)
    own = own_labels(inputs)

    def with_classes(view: View) -> Tensor:
        shares = own(view)
        if shares.dtype == torch.int64:
            shares = torch.nn.functional.one_hot(shares, inputs.classes).float()
        return torch.stack([label(view), shares])

    def squared_error(logits: Tensor, target: Tensor) -> Tensor:
        truth = -(target[1] * logits.log_softmax(1)).sum(1).mean()
        return (logits - target[0]).square().mean() + protocol.gt_weight * truth

    return with_classes, squared_error


def _class_loss(plan: Plan) -> Loss:
    """Cross-entropy with the synset's labels, or what a baseline of calibration puts in its place."""
    protocol, policy = plan.protocol, plan.policy
    if protocol.focal_gamma:
        return functools.partial(focal, gamma=protocol.focal_gamma)
    loss = own_loss(policy is not None and policy.mix != "none")
    return smoothed(loss, protocol.label_smoothing) if protocol.label_smoothing else loss


def _soft_loss(protocol: Protocol) -> Loss:
    if protocol.loss == "ce":
        return cross_entropy
    return lambda logits, teacher: soft_target_kl(logits, teacher, protocol.temperature, protocol.tau_squared)


def teacher_labels(teacher: Teacher, protocol: Protocol, device: torch.device, precision: str) -> Labels:
    """Labels every view with the teacher's logits ``(n, K)``, without gradients."""
    net = teacher.network(device)
    net.train(protocol.teacher_mode == "batch")

    @torch.no_grad()
    def labels(view: View) -> Tensor:
        with autocast(precision, device):
            logits: Tensor = net(view.x)
        return logits.float()

    return labels


def inputs_to_test(plan: Plan, test: Split, device: torch.device) -> Inputs:
    """Real images as the protocol tests them."""
    return inputs_of(split_to_test(plan, test), plan.preprocess, device)


def split_to_test(plan: Plan, test: Split) -> Split:
    """Real images, uint8, enlarged and cut where the protocol tests them so."""
    size = test.images.shape[-1]
    wide = size // 7 * 8
    if not plan.protocol.test_zoom or wide <= size:
        return test
    zoomed = torch.nn.functional.interpolate(
        test.images.float(), size=(wide, wide), mode="bilinear", antialias=True, align_corners=False
    )
    first = (wide - size) // 2
    cut = zoomed[:, :, first : first + size, first : first + size].round().clamp(0, 255).to(torch.uint8)
    return Split(cut, test.labels)


def labels_path(synset: Path) -> Path:
    """Where relabelled labels of a synset lie by default."""
    return synset.parent / "labels.safetensors"
