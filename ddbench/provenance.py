"""What a synset says of itself, whatever it holds: how large it may be, what it stands for, what made it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.data.spec import LONGEST_NAME
from ddbench.runtime.errors import UserError

MAX_CLASSES = 100_000


def hard_label_bytes(count: int, classes: int) -> int:
    """Bytes of so many hard labels: ``ceil(log2 K / 8)`` each."""
    return count * max(1, math.ceil(math.log2(max(2, classes)) / 8))


@dataclass(frozen=True)
class Budget:
    """How large it may be: ``ipc`` images per class, ``bytes``, or ``all`` (the training set; value = its size)."""

    unit: str
    value: int

    def __str__(self) -> str:
        return "all images" if self.unit == "all" else f"{self.unit} {self.value}"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a synset says of itself, whatever it holds.

    Attributes:
        budget: what the method was allowed.
        dataset, fingerprint, class_names: the real data it stands for.
        method, config, seed, student, versions, parents: what made it, of which libraries and files (hashes).
        modality: what it holds (:mod:`ddbench.modalities`).
    """

    budget: Budget
    dataset: str
    fingerprint: str
    class_names: tuple[str, ...]
    method: str
    config: dict[str, Any]
    seed: int
    student: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    modality: str

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)


def provenance(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """The fields of :class:`Provenance` out of a header.

    Raises:
        UserError: one is missing or of another type.
    """
    budget = field_of(path, header, "budget", dict)
    class_names = field_of(path, header, "class_names", list)
    short = all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in class_names)
    if not 2 <= len(class_names) <= MAX_CLASSES or not short:
        raise UserError(f"{path}: class_names is not a list of 2 to {MAX_CLASSES} short names")
    student = header.get("student")
    plain = {"dataset": str, "method": str, "config": dict, "seed": int, "versions": dict, "parents": dict}
    return {
        **{name: field_of(path, header, name, kind) for name, kind in plain.items()},
        "budget": Budget(field_of(path, budget, "unit", str), field_of(path, budget, "value", int)),
        "fingerprint": field_of(path, header, "dataset_fingerprint", str),
        "class_names": tuple(class_names),
        "student": student if isinstance(student, str) else None,
        "modality": field_of(path, header, "modality", str),
    }


def field_of(path: Path, header: dict[str, Any], name: str, kind: type) -> Any:
    """A field of a header.

    Raises:
        UserError: it is missing or of another type.
    """
    value = header.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{path}: header field {name!r} is {value!r:.60}, expected {kind.__name__}")
    return value
