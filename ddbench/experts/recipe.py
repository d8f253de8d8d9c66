"""How experts are trained: everything that decides their weights, and nothing else. Imports no torch."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, fields
from typing import Any

from ddbench.data.specs import PREPROCESS_KINDS
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash

KINDS = ("sgd", "gsam", "smooth")
"""How experts can be trained here; a store may also hold ``imported`` ones."""

OWN = {"gsam": ("rho", "alpha"), "smooth": ("clip", "clip_epochs", "penalty", "drop")}
"""Settings that only one kind has; the records of other kinds do not hold them."""


@dataclass(frozen=True, kw_only=True)
class ExpertRecipe:
    """Settings of an expert; two experts with equal recipes differ by their index (seed) only.

    Attributes:
        epochs: E; the store keeps E+1 snapshots.
        optimizer, lr, momentum, weight_decay, options: an optimiser of ``torch.optim``; MTT uses plain SGD at 0.01.
        batch: images a step.
        decay: multiply the learning rate by 0.1 after epoch E // 2 + 1 (MTT's ``--decay``; off in its paper).
        augmentation: DSA families joined by ``_``, or ``none``; ``dsa`` means all six, without ``flip`` for digits.
        preprocess: one of :data:`ddbench.data.specs.PREPROCESS_KINDS` (``meanstd``, ``zca``, ...).
        holdout: fraction of the training images that experts never see, kept for validation.
        seed: expert k is trained with the seed derived from (seed, k).
        precision: ``float32`` or ``bfloat16`` (autocast).
        kind: ``sgd``: trained by the optimiser alone; ``gsam``: by adaptive GSAM around it (FTD); ``smooth``: with a
            clipped loss and a gradient penalty (AST); ``imported``: read from somebody's buffer.
        rho, alpha: of ``gsam``: radius of the ascent step, and share of the gradient's part across the ascent gradient
            that is taken back. FTD: 0.01; 0.3 for CIFAR-10 at IPC 1 and 10, else 1. Both constant.
        clip, clip_epochs: of ``smooth``: the loss is multiplied by ``clip`` in the first epoch, rising linearly to 1 in
            epoch ``clip_epochs`` (from 0).
        penalty: of ``smooth``: lambda, weight of the gradient penalty; 0: none.
        drop: of ``smooth``: learning-rate factor of the epochs from E // 2 + 2 (from 0); the momentum is lost there.
    """

    epochs: int = 50
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    options: tuple[tuple[str, float], ...] = ()
    batch: int = 256
    decay: bool = False
    augmentation: str = "dsa"
    preprocess: str = "meanstd"
    holdout: float = 0.1
    seed: int = 0
    precision: str = "float32"
    kind: str = "sgd"
    rho: float = 0.01
    alpha: float = 0.3
    clip: float = 0.5
    clip_epochs: int = 10
    penalty: float = 2.0
    drop: float = 0.6

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the settings of other kinds are left out."""
        values = {**asdict(self), "options": dict(self.options)}
        for kind, names in OWN.items():
            if kind != self.kind:
                for name in names:
                    del values[name]
        return values

    @staticmethod
    def from_json(data: Any, where: str) -> ExpertRecipe:
        """Read a recipe back.

        Raises:
            UserError: unknown or missing settings, or values of another type.
        """
        if not isinstance(data, dict):
            raise UserError(f"{where}: the recipe is not a table")
        known = {field.name: field for field in fields(ExpertRecipe)}
        values = {}
        for name, value in data.items():
            if name not in known:
                raise UserError(f"{where}: unknown expert setting {name!r} (made by a newer ddbench?)")
            default = known[name].default
            if name == "options":
                if not isinstance(value, dict) or not all(isinstance(v, int | float) for v in value.values()):
                    raise UserError(f"{where}: expert setting 'options' is not a table of numbers")
                value = tuple(sorted(value.items()))
            elif isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            elif type(value) is not type(default):
                raise UserError(f"{where}: expert setting {name!r} is {value!r}, expected {type(default).__name__}")
            values[name] = value
        return ExpertRecipe(**values)

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: names the flag and the value.
        """
        for name, value, least in (("epochs", self.epochs, 1), ("batch", self.batch, 1), ("seed", self.seed, 0)):
            if value < least:
                raise UserError(f"--{name} {value}: expected at least {least}")
        if not 0 < self.lr < float("inf"):
            raise UserError(f"--lr {self.lr}: expected a positive number")
        if not 0 <= self.holdout <= 0.9:
            raise UserError(f"--holdout {self.holdout}: expected a fraction from 0 to 0.9")
        for name, text, known in (
            ("preprocess", self.preprocess, PREPROCESS_KINDS),
            ("precision", self.precision, ("float32", "bfloat16")),
            ("kind", self.kind, KINDS),
        ):
            if text not in known:
                raise UserError(f"--{name} {text!r} is none of {', '.join(known)}")
        self._check_own()

    def _check_own(self) -> None:
        """Refuse numbers of the kind that are out of range, and numbers that only another kind has."""
        default = ExpertRecipe()
        for kind, names in OWN.items():
            for name in names:
                if kind != self.kind and getattr(self, name) != getattr(default, name):
                    flag = f"--{name.replace('_', '-')}"
                    raise UserError(f"{flag} {getattr(self, name)}: a setting of --kind {kind}, not of {self.kind}")
        if self.kind == "smooth" and self.decay:
            raise UserError("--decay: smooth experts lower their learning rate by --drop; leave --decay out")
        for name, least, most in (
            ("rho", 0.0, float("inf")),
            ("alpha", 0.0, float("inf")),
            ("clip", 0.0, 1.0),
            ("clip_epochs", 0, float("inf")),
            ("penalty", 0.0, float("inf")),
            ("drop", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not (least <= value <= most and value < float("inf")):
                limits = f"from {least:g} to {most:g}" if most < float("inf") else f"of at least {least:g}"
                raise UserError(f"--{name.replace('_', '-')} {value}: expected a number {limits}")

    def key(self, student: str, fingerprint: str) -> str:
        """Name of the store folder: a hash of the recipe, the student and the data, 12 hex digits."""
        return text_hash({"recipe": self.to_json(), "student": student, "fingerprint": fingerprint})[:12]

    def flags(self) -> str:
        """The ``ddbench buffer`` flags that differ from the defaults."""
        default = ExpertRecipe()
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value in (getattr(default, field.name), "imported") or field.name == "epochs":
                continue
            flag = f"--{field.name.replace('_', '-')}"
            if isinstance(value, bool):
                parts.append(flag if value else f"--no-{flag[2:]}")
            elif field.name == "options":
                parts.append(f"{flag} {' '.join(f'{name}={number:g}' for name, number in value)}")
            else:
                parts.append(f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}")
        return " ".join(parts)


def buffer_command(
    dataset: str, student: str, recipe: ExpertRecipe, experts: int, buffers: str, size: int | None
) -> str:
    """The command that records the experts that somebody asked for."""
    parts = [f"ddbench buffer --dataset {shlex.quote(dataset)}"]
    if size is not None:
        parts.append(f"--size {size}")
    parts.append(f"--student {student} --experts {experts} --epochs {recipe.epochs}")
    if recipe.flags():
        parts.append(recipe.flags())
    if buffers != "expert_trajectories":
        parts.append(f"--buffers {shlex.quote(buffers)}")
    return " ".join(parts)
