"""Settings that decide a teacher's bytes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ddbench.data.policy import Policy, parse_policy
from ddbench.data.specs import PREPROCESS_KINDS, resolve_augmentation
from ddbench.registry import unknown
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash
from ddbench.teachers.store import PENALTY_FIELDS
from ddbench.training.curvature import PENALTIES
from ddbench.training.loops import OptimizerSettings


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """Everything that decides a teacher's weights, with its student and data.

    The defaults are ours, for small images. SRe2L's squeeze stage on CIFAR is lr 0.1, 200 epochs.

    Attributes:
        epochs: passes over the training images; the weights of the last one are the teacher.
        optimizer, lr, momentum, weight_decay, options: an optimiser of ``torch.optim``.
        batch: images a step.
        schedule: ``cosine`` (to 0 after the last epoch) or ``constant``; one value an epoch.
        warmup: epochs of linear warm-up from 0.01 of the learning rate, before the schedule.
        augmentation: a policy (:mod:`ddbench.data.policy`); its flip is left out where images may not be mirrored.
        preprocess: one of :data:`ddbench.data.specs.PREPROCESS_KINDS`.
        holdout: fraction of the training images that the teacher never sees.
        seed: names its initial weights, order and augmentation.
        precision: ``float32`` or ``bfloat16`` (autocast).
        penalty: ``none``; or one of :data:`ddbench.training.curvature.PENALTIES` is added to the loss (GUARD).
        penalty_weight: its weight; None: :data:`PENALTY_WEIGHTS`. ``curvature`` looks at gradients of a batch mean, so
            that its weight counts 1/B a sample: at another batch size B than 128, multiply it by B/128.
        penalty_step: length of its step along the input gradient, in units of the network input.
    """

    epochs: int = 30
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    options: tuple[tuple[str, float], ...] = ()
    batch: int = 128
    schedule: str = "cosine"
    warmup: int = 0
    augmentation: str = "crop+flip"
    preprocess: str = "meanstd"
    holdout: float = 0.1
    seed: int = 0
    precision: str = "float32"
    penalty: str = "none"
    penalty_weight: float | None = None
    penalty_step: float = 3.0

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: names the flag and the value.
        """
        least = (
            ("epochs", self.epochs, 1),
            ("batch", self.batch, 2),
            ("warmup", self.warmup, 0),
            ("seed", self.seed, 0),
        )
        for name, value, low in least:
            if value < low:
                raise UserError(f"--{name} {value}: expected at least {low}")
        if not 0 < self.lr < math.inf:
            raise UserError(f"--lr {self.lr}: expected a positive number")
        for name, number in (("momentum", self.momentum), ("weight-decay", self.weight_decay)):
            if not 0 <= number < math.inf:
                raise UserError(f"--{name} {number}: expected 0 or a positive number")
        if not 0 <= self.holdout <= 0.9:
            raise UserError(f"--holdout {self.holdout}: expected a fraction from 0 to 0.9")
        if self.warmup >= self.epochs:
            raise UserError(f"--warmup {self.warmup}: expected fewer than the {self.epochs} epochs")
        for name, text, known in (
            ("schedule", self.schedule, SCHEDULES),
            ("preprocess", self.preprocess, PREPROCESS_KINDS),
            ("precision", self.precision, ("float32", "bfloat16")),
            ("penalty", self.penalty, ("none", *PENALTIES)),
        ):
            if text not in known:
                raise unknown(name, text, known, f"--{name}")
        self._check_penalty()

    def _check_penalty(self) -> None:
        for name, number in (("penalty-weight", self.weight), ("penalty-step", self.penalty_step)):
            if not 0 < number < math.inf:
                raise UserError(f"--{name} {number:g}: expected a positive number")
        given = self.penalty_weight is not None or self.penalty_step != type(self).penalty_step
        if given and self.penalty == "none":
            raise UserError(
                f"--penalty-weight and --penalty-step belong to a penalty: give --penalty {' or '.join(PENALTIES)}"
            )

    @property
    def weight(self) -> float:
        """Weight of the penalty."""
        return PENALTY_WEIGHTS.get(self.penalty, 1.0) if self.penalty_weight is None else self.penalty_weight

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; without a penalty, nothing is said about one."""
        values = {**asdict(self), "options": dict(self.options)}
        if self.penalty != "none":
            return {**values, "penalty_weight": self.weight}
        return {
            name: value
            for name, value in values.items()
            if name not in PENALTY_FIELDS or value != getattr(type(self), name)
        }

    def key(self, student: str, fingerprint: str) -> str:
        """Name of the file: a hash of the recipe, the student and the data, 12 hex digits."""
        return text_hash({"recipe": self.to_json(), "student": student, "fingerprint": fingerprint})[:12]

    def factor(self, epoch: int) -> float:
        """Learning-rate factor of an epoch, counted from 0."""
        if epoch < self.warmup:
            return WARMUP_START + (1 - WARMUP_START) * epoch / self.warmup
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (epoch - self.warmup) / (self.epochs - self.warmup)))

    def policy(self, flip: bool) -> Policy | None:
        """The augmentation for a dataset.

        Raises:
            UserError: it is none that is known.
        """
        return parse_policy(resolve_augmentation(self.augmentation, flip), flip=flip)

    def optimizer_settings(self) -> OptimizerSettings:
        """The optimiser at its full learning rate."""
        return OptimizerSettings(
            name=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            options=self.options,
        )


PENALTY_WEIGHTS = {"curvature": 100.0, "loss-gap": 1e-4}
"""Weights of the penalties in GUARD's public scripts (CIFAR at batch 128, and ImageNet)."""


SCHEDULES = ("cosine", "constant")


WARMUP_START = 0.01
"""Share of the learning rate at the start of a warm-up (SRe2L's code for Tiny-ImageNet)."""
