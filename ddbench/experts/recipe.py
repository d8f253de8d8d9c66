"""How experts are trained: everything that decides their weights, and nothing else. Imports no torch."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from ddbench.config import apply_config, check_config, setting
from ddbench.data.specs import PREPROCESS_KINDS
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash
from ddbench.runtime.numbers import exact

Kind = Literal["sgd", "gsam", "smooth"]

IMPORTED: Any = "imported"
"""Kind of experts that were read from somebody's buffer: stores hold them, nothing here trains them."""

BUFFERS = "expert_trajectories"
"""Where ``ddbench buffer`` records, and methods look, unless they are told otherwise."""

KINDS: tuple[str, ...] = get_args(Kind)
"""How experts can be trained here; a store may also hold ``imported`` ones."""


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Settings of every expert; ``sgd`` ones have no others."""

    epochs: int = setting(50, at_least=1)
    """Epochs of each expert; MTT needs T+ - 1 + M of them. The store keeps one snapshot more."""
    optimizer: str = "sgd"
    """Any optimiser of torch.optim, in lower case."""
    lr: float = setting(0.01, above=0, expected="a positive number")
    """Learning rate."""
    momentum: float = setting(0.0, at_least=0)
    """Momentum, for optimisers that have one."""
    weight_decay: float = setting(0.0, at_least=0)
    """Weight decay."""
    options: tuple[tuple[str, float], ...] = ()
    """Further optimiser options as name=number."""
    batch: int = setting(256, at_least=1)
    """Images a step."""
    decay: bool = False
    """Multiply the learning rate by 0.1 after half of the epochs."""
    augmentation: str = "dsa"
    """DSA families joined by _, dsa for all, parts joined by + (crop+flip, rrc+flip+cutmix), or none; flip is left out
    on digits."""
    preprocess: str = setting("meanstd", choices=PREPROCESS_KINDS)
    """meanstd or zca."""
    holdout: float = setting(0.1, at_least=0, at_most=0.9, expected="a fraction from 0 to 0.9")
    """Fraction of the training images that experts never see (for validation while distilling)."""
    seed: int = setting(0, at_least=0)
    """Expert k is trained with the seed derived from (seed, k)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """float32 or bfloat16."""
    kind: Kind = "sgd"
    """sgd: the optimiser alone; gsam: flat experts (FTD, DATM); smooth: clipped loss and gradient penalty (AST)."""


@dataclass(frozen=True, kw_only=True)
class Gsam:
    """Settings that only ``gsam`` experts have (FTD): adaptive GSAM around the optimiser; both are constant."""

    rho: float = setting(0.01, at_least=0)
    """gsam: radius of the step to sharper weights, relative to each weight."""
    alpha: float = setting(0.3, at_least=0)
    """gsam: share of the plain gradient's orthogonal part that is taken back (FTD: 0.3 or 1)."""


@dataclass(frozen=True, kw_only=True)
class Smooth:
    """Settings that only ``smooth`` experts have (AST): a clipped loss and a gradient penalty."""

    clip: float = setting(0.5, at_least=0, at_most=1)
    """smooth: factor of the loss in the first epoch, rising to 1."""
    clip_epochs: int = setting(10, at_least=0)
    """smooth: epochs until that factor is 1."""
    penalty: float = setting(2.0, at_least=0)
    """smooth: weight of the gradient penalty; 0: none."""
    drop: float = setting(0.6, at_least=0, at_most=1)
    """smooth: learning-rate factor of the second half, from epoch E // 2 + 2 on; the momentum is lost there."""


OWN = {kind: tuple(item.name for item in fields(own)) for kind, own in (("gsam", Gsam), ("smooth", Smooth))}
"""Settings that only one kind has; the records of other kinds do not hold them."""


@dataclass(frozen=True, kw_only=True)
class ExpertRecipe(Smooth, Gsam, Sgd):
    """Settings of an expert; two experts with equal recipes differ by their index (seed) only.

    Those of a kind that is not the recipe's are at their defaults.
    """

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the settings of other kinds are left out."""
        others = {name for kind, names in OWN.items() if kind != self.kind for name in names}
        values = {**asdict(self), "options": dict(self.options)}
        return {name: value for name, value in values.items() if name not in others}

    @staticmethod
    def from_json(data: Any, where: str) -> ExpertRecipe:
        """Read a recipe back, also that of ``imported`` experts.

        Raises:
            UserError: unknown settings, or values of another type or out of range.
        """
        if not isinstance(data, dict):
            raise UserError(f"{where}: the recipe is not a table")
        values = dict(data)
        for name in values:
            if name not in {field.name for field in fields(ExpertRecipe)}:
                raise UserError(f"{where}: unknown expert setting {name!r} (made by a newer ddbench?)")
        imported = values.get("kind") == IMPORTED
        if imported:
            del values["kind"]
        if "options" in values:
            if not isinstance(values["options"], dict) or not all(map(_is_finite, values["options"].values())):
                raise UserError(f"{where}: expert setting 'options' is not a table of numbers")
            values["options"] = sorted(values["options"].items())
        recipe: ExpertRecipe = apply_config(ExpertRecipe, values, where, noun="expert setting")
        return replace(recipe, kind=IMPORTED) if imported else recipe

    def check(self) -> None:
        """Refuse settings out of range, and numbers that only another kind has.

        Raises:
            UserError: names the flag and the value.
        """
        check_config(self)
        for item in fields(self):
            owner = next((kind for kind, names in OWN.items() if item.name in names), self.kind)
            value = getattr(self, item.name)
            if owner != self.kind and value != item.default:
                flag = f"--{item.name.replace('_', '-')}"
                raise UserError(f"{flag} {value}: a setting of --kind {owner}, not of {self.kind}")
        if self.kind == "smooth" and self.decay:
            raise UserError("--decay: smooth experts lower their learning rate by --drop; leave --decay out")

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
                parts.append(f"{flag} {' '.join(f'{name}={exact(number)}' for name, number in value)}")
            else:
                parts.append(f"{flag} {exact(value)}" if isinstance(value, float) else f"{flag} {value}")
        return " ".join(parts)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


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
    if buffers != BUFFERS:
        parts.append(f"--buffers {shlex.quote(buffers)}")
    return " ".join(parts)
