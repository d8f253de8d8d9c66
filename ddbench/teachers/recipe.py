"""Settings that decide a teacher's bytes. Imports no torch at module level."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ddbench.config import check_config, recorded_config, setting
from ddbench.data.specs import PREPROCESS_KINDS, resolve_augmentation
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash

if TYPE_CHECKING:
    from ddbench.data.policy import Policy
    from ddbench.training.optimizers import OptimizerSettings


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """Everything that decides a teacher's weights, with its student and data.

    The defaults are ours, for small images. SRe2L's squeeze stage on CIFAR is lr 0.1, 200 epochs.
    """

    epochs: int = setting(30, at_least=1)
    """Passes over the training images; the last one's weights are kept."""
    optimizer: str = "sgd"
    """Any optimiser of torch.optim, in lower case."""
    lr: float = setting(0.05, above=0, expected="a positive number")
    """Learning rate."""
    momentum: float = setting(0.9, at_least=0)
    """Momentum; without the flag, optimisers other than sgd have none."""
    weight_decay: float = setting(5e-4, at_least=0)
    """Weight decay."""
    options: tuple[tuple[str, float], ...] = ()
    """Further optimiser options as name=number."""
    batch: int = setting(128, at_least=2)
    """Images a step."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the epochs: cosine to 0, or constant."""
    warmup: int = setting(0, at_least=0)
    """Epochs of linear warm-up from 0.01 of the learning rate, before the schedule."""
    augmentation: str = "crop+flip"
    """Parts joined by + (crop+flip, rrc+flip+cutmix, dsa), or none; flip is left out on digits."""
    preprocess: str = setting("meanstd", choices=PREPROCESS_KINDS)
    """meanstd or zca."""
    holdout: float = setting(0.1, at_least=0, at_most=0.9, expected="a fraction from 0 to 0.9")
    """Fraction of the training images that the teacher never sees (for validation while distilling)."""
    seed: int = setting(0, at_least=0)
    """Names its initial weights, order and augmentation."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """float32 or bfloat16."""
    penalty: Literal["none", "curvature", "loss-gap"] = setting("none", omit_default=True)
    """Flatten the loss around the images, for GUARD: curvature (a step costs about seven) or the simpler loss-gap."""
    penalty_weight: float | None = setting(None, above=0, expected="a positive number", omit_default=True)
    """Weight of the penalty; default: 100 for curvature, 1e-4 for loss-gap. That of curvature counts 1/B a sample: at
    another batch size B than 128, multiply it by B/128."""
    penalty_step: float = setting(3.0, above=0, expected="a positive number", omit_default=True)
    """Length of the penalty's step along the input gradient, in units of the network input."""

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: names the flag and the value.
        """
        check_config(self)
        if self.warmup >= self.epochs:
            raise UserError(f"--warmup {self.warmup}: expected fewer than the {self.epochs} epochs")
        given = self.penalty_weight is not None or self.penalty_step != type(self).penalty_step
        if given and self.penalty == "none":
            ways = " or ".join(PENALTY_WEIGHTS)
            raise UserError(f"--penalty-weight and --penalty-step belong to a penalty: give --penalty {ways}")

    @property
    def weight(self) -> float:
        """Weight of the penalty."""
        return PENALTY_WEIGHTS.get(self.penalty, 1.0) if self.penalty_weight is None else self.penalty_weight

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; without a penalty, nothing is said about one."""
        options = {"options": dict(self.options)}
        if self.penalty != "none":
            return {**asdict(self), **options, "penalty_weight": self.weight}
        return {**recorded_config(self), **options}

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
        from ddbench.data.policy import parse_policy

        return parse_policy(resolve_augmentation(self.augmentation, flip), flip=flip)

    def optimizer_settings(self) -> OptimizerSettings:
        """The optimiser at its full learning rate."""
        from ddbench.training.optimizers import OptimizerSettings

        return OptimizerSettings(
            name=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            options=self.options,
        )


PENALTY_WEIGHTS = {"curvature": 100.0, "loss-gap": 1e-4}
"""Weights of the penalties in GUARD's public scripts (CIFAR at batch 128, and ImageNet)."""


WARMUP_START = 0.01
"""Share of the learning rate at the start of a warm-up (SRe2L's code for Tiny-ImageNet)."""
