"""How one student is trained on one synset: a protocol, the synset, the dataset and what labels it, put together."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.data.policy import Policy, parse_policy
from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import dataset_flags, resolve_augmentation
from ddbench.protocols.labels import StoredLabels
from ddbench.protocols.protocol import PROTOCOLS, Protocol
from ddbench.runtime.errors import UserError
from ddbench.synset import Synset, beside, on_board
from ddbench.teachers.store import Teacher, check_teacher
from ddbench.training.loops import Inputs
from ddbench.training.optimizers import OptimizerSettings, check_optimizer


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
        if self.protocol.replay and self.synset.schedule is not None:
            return self.synset.schedule.epochs
        whole = self.synset.budget.unit == "all"
        return self.protocol.full_epochs if whole else self.protocol.epochs

    @property
    def stages(self) -> int:
        """How many trainings follow each other: one a stage of the synset where the protocol is sequential, else 1."""
        stage = self.synset.stage
        alone = stage is None or not self.protocol.sequential or self.synset.schedule is not None
        return 1 if alone or stage is None else int(stage.max()) + 1

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
        synset, labels = self.synset, self.synset.labels
        if self.protocol.labels in ("hard", "once", "teacher", "stored"):
            labels = synset.hard_labels()
        elif synset.label_kind != "hard":
            labels = synset.logits() / self.protocol.temperature
        if self.protocol.loss == "mse":
            labels = regression_targets(synset, hard=self.protocol.labels == "hard")
        images, raw = synset.images, synset.space == "pixels"
        if synset.decoder is not None:
            images, raw = synset.decoded(self.preprocess), False
            labels = labels.repeat(synset.decoder.copies, *[1] * (labels.ndim - 1))
        preprocess, space = (self.preprocess, None) if raw else (None, self.preprocess)
        return Inputs(images, labels, preprocess, device, space=space, classes=synset.classes)


def regression_targets(synset: Synset, hard: bool = False) -> Tensor:
    """What a squared error compares with, float32 ``(N, K)``.

    A synset's targets as they are, or else the probabilities of its labels less 1/K, so that they sum to 0.

    Args:
        hard: of the class of each image, whatever the labels are.
    """
    if synset.label_kind == "targets" and not hard:
        return synset.labels
    soft = synset.label_kind == "soft" and not hard
    one_hot = torch.nn.functional.one_hot(synset.hard_labels(), synset.classes).float()
    return (synset.labels.softmax(1) if soft else one_hot) - 1 / synset.classes


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


def own_protocol(synset: Synset) -> str:
    """The protocol that a synset's form asks for, of those that need no teacher: a replay of its recipe, or a
    regression, or a training stage by stage, or on all of it.
    """
    if synset.schedule is not None:
        return "dd-recipe"
    if synset.label_kind == "targets":
        return "mse-v1"
    return "hard-v1" if synset.stage is None else "pdd"


def check_plan(plan: Plan, dataset: Dataset) -> None:
    """Refuse what cannot work before anything is trained.

    Raises:
        UserError: soft labels wanted of a hard synset, no teacher, a teacher of other data, a learned rate that trains
            nothing, a search for which nothing can be held out, an unknown augmentation, or stored labels of another
            synset or protocol.
    """
    synset, protocol = plan.synset, plan.protocol
    if protocol.labels == "soft" and synset.label_kind == "targets":
        raise UserError(
            f"protocol {protocol.name} learns distributions, but the labels of the synset ({synset.method} on "
            f"{synset.dataset}) are targets of a regression; use --protocol mse-v1, or hard-v1, which takes the "
            "softmax of them times their scale"
        )
    if protocol.labels == "soft" and synset.label_kind != "soft":
        raise UserError(
            f"protocol {protocol.name} needs soft labels, but the synset ({synset.method} on {synset.dataset}) has "
            "hard ones; use --protocol hard-v1, or kd-v1 with a teacher"
        )
    if (protocol.label_smoothing or protocol.focal_gamma) and protocol.labels == "own" and synset.label_kind != "hard":
        what = "label smoothing" if protocol.label_smoothing else "focal loss"
        raise UserError(f"{what} is n/a: the synset ({synset.method} on {synset.dataset}) has soft labels")
    if protocol.needs_teacher:
        if plan.teacher is None:
            train = shlex.join(["ddbench", "teacher", *dataset_flags(synset.dataset, dataset.spec.size)])
            raise UserError(f"protocol {protocol.name} needs a teacher: train one with {train}, or give --teacher FILE")
        check_teacher(plan.teacher, dataset, plan.preprocess)
    if protocol.labels == "stored":
        if plan.stored is None:
            raise UserError(
                f"protocol {protocol.name} replays stored labels: make them with ddbench relabel, then give --labels "
                "FILE (default: labels.safetensors beside the synset)"
            )
        check_labels(plan.stored, plan)
    if protocol.replay:
        _check_replay(synset, protocol)
    if protocol.lr_source == "search" and int(torch.bincount(dataset.train.labels).max()) < 2:
        raise UserError(
            f"a learning rate is searched on held-out training images, and every class of {dataset.spec.name} has one "
            "image only; use --lr-source protocol, or --lr"
        )
    learned_rate(synset, protocol)
    plan.policy  # noqa: B018 (parsed, so that a wrong name is told now)
    if protocol.name not in PROTOCOLS:
        _check_optimizer(protocol)


def _check_optimizer(protocol: Protocol) -> None:
    """Refuse an optimiser that can take no step with weights of the shapes that networks have.

    Raises:
        UserError: it cannot, or takes other options.
    """
    weights = [torch.zeros(shape) for shape in ((1, 1, 1, 1), (1, 1), (1,))]
    try:
        check_optimizer(weights, optimizer_settings(protocol, protocol.lr))
    except UserError as error:
        reason = str(error).removeprefix(f"--optimizer {protocol.optimizer}: ").removeprefix("--")
        raise UserError(f"protocol {protocol.name}: optimizer {protocol.optimizer!r}: {reason}") from None


def optimizer_settings(protocol: Protocol, lr: float) -> OptimizerSettings:
    """How a protocol moves the weights, with a learning rate."""
    return OptimizerSettings(
        name=protocol.optimizer,
        lr=lr,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
        decay_vectors=protocol.decay_vectors,
    )


def _check_replay(synset: Synset, protocol: Protocol) -> None:
    if synset.schedule is None:
        raise UserError(
            f"protocol {protocol.name} replays a learned recipe, but the synset ({synset.method} on {synset.dataset}) "
            "has none; use --protocol hard-v1"
        )
    assert synset.learned_lr is not None
    if float(synset.learned_lr.min()) <= 0:
        raise UserError(
            f"a rate of the synset's learned recipe is {float(synset.learned_lr.min()):g}, expected above 0"
        )


POSITIVE_RATES = "distil with --lr-parametrisation log or a smaller --lr-lr"
"""What to do about a learned rate that trains nothing."""


def one_rate(synset: Synset) -> Tensor | None:
    """The learned learning rate where there is a single one for the whole synset, else None."""
    lr = synset.learned_lr
    return lr if lr is not None and (lr.ndim == 0 or (lr.numel() == 1 and synset.stage is None)) else None


def learned_rates(synset: Synset, protocol: Protocol) -> list[float] | None:
    """The synset's learned learning rates where the protocol uses them, else None: one, or one a stage.

    Raises:
        UserError: one is not positive.
    """
    lr = synset.learned_lr
    if protocol.lr_source != "synset" or lr is None:
        return None
    if one_rate(synset) is None and (synset.stage is None or synset.schedule is not None):
        return None
    if float(lr.min()) <= 0:
        raise UserError(
            f"the synset's learned learning rate is {float(lr.min()):g}, which trains nothing: {POSITIVE_RATES}, or "
            f"evaluate with --protocol dc-legacy (lr {protocol.lr:g})"
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
    if plan.protocol.replay and plan.synset.learned_lr is not None:
        return float(plan.synset.learned_lr.mean())  # of a recipe with one rate a step, for telling
    learned = learned_rate(plan.synset, plan.protocol)
    return plan.protocol.rate(student) if learned is None else learned


def labels_path(synset: Path) -> Path:
    """Where relabelled labels of a synset lie by default."""
    folder = synset.parent if on_board(synset) is None else beside(synset, "evaluations")
    return folder / "labels.safetensors"


def row_labels(synset: Path) -> Path | None:
    """Stored labels that lie beside a row on its board, with the row's synset; None: there are none."""
    path = synset.with_name(f"{on_board(synset)}.labels.safetensors")
    return path if path.is_file() else None


def view_settings(plan: Plan) -> dict[str, Any]:
    """Everything but the synset and the seed that decides the views and how a teacher labels them, as JSON."""
    protocol, synset = plan.protocol, plan.synset
    return {
        "batch": min(plan.batch, synset.decoded_images),
        "augmentation": resolve_augmentation(protocol.augmentation, plan.flip),
        "crop_scale": protocol.crop_scale or 1 / synset.patches,
        "mix_alpha": protocol.mix_alpha,
        "mix_probability": protocol.mix_probability,
        "patches": synset.patches,
        "flip": plan.flip,
        "teacher_mode": protocol.teacher_mode,
    }


def check_labels(stored: StoredLabels, plan: Plan) -> None:
    """Refuse labels that are not those of a plan's views.

    Raises:
        UserError: of another synset, of other views, of fewer epochs than the plan trains, or with NaN in one of
            those (they are read once for that, as every student will).
    """
    here = (plan.synset.decoded_images, plan.synset.classes)
    if (stored.images, stored.classes) != here:
        raise UserError(
            f"{stored.path}: labels of {stored.images} images and {stored.classes} classes, but the synset has "
            f"{here[0]} and {here[1]}; make its own with ddbench relabel"
        )
    if stored.synset_sha256 != plan.synset_sha256:
        raise UserError(
            f"{stored.path}: labels of another synset (sha256 {stored.synset_sha256[:12]}, this one has "
            f"{plan.synset_sha256[:12] or 'none'}); make its own with ddbench relabel"
        )
    wanted, name = view_settings(plan), plan.protocol.name
    for key, value in wanted.items():
        found = stored.views.get(key)
        if found != value:
            raise UserError(
                f"{stored.path}: labels of views with {key} {str(found)[:60]}, but protocol {name} has {key} "
                f"{value}; make labels for it with ddbench relabel --protocol"
            )
    if stored.epochs < plan.epochs:
        raise UserError(
            f"{stored.path}: labels of {stored.epochs} epochs, but protocol {name} trains {plan.epochs}; make more "
            f"with ddbench relabel RUN --epochs {plan.epochs} --out FILE, which --labels then names, or train with "
            f"--epochs {stored.epochs} (non-standard)"
        )
    stored.verify(plan.epochs)
