"""Several teachers as one: a file that holds them all, a network whose logits are the mean of theirs.

To everything that takes a teacher (protocols, ``relabel``, the board) it is one: one file, one hash, bytes of all. It
is found by its hash only, never chosen by itself. Names of networks are joined by ``+``, in the order in which methods
take the teachers in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.networks.base import Student
from ddbench.networks.build import build_student
from ddbench.networks.check import check_student
from ddbench.networks.names import parse_student
from ddbench.runtime.errors import UserError

JOIN = "+"
MOST = 16
"""Teachers that can be joined."""


class Together(Student):
    """Networks of the same input and classes; its logits are the mean of theirs. It has no features."""

    def __init__(self, members: Sequence[Student]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)``."""
        return torch.stack([member(x) for member in self.members]).mean(0)


def build_together(names: str, *, channels: int, size: int, classes: int) -> Student:
    """The network of a name, or those of several names joined by ``+``."""
    made = [build_student(name, channels=channels, size=size, classes=classes, seed=0) for name in names.split(JOIN)]
    return made[0] if len(made) == 1 else Together(made)


def check_together(names: str, channels: int, size: int) -> str:
    """The canonical form of a name, or of several joined by ``+``, of networks that can take images of this shape.

    Raises:
        UserError: one is unknown or does not fit, or they are too many.
    """
    parts = names.split(JOIN)
    if len(parts) > MOST:
        raise UserError(f"{len(parts)} networks joined by {JOIN!r}, expected at most {MOST}")
    for part in parts:
        check_student(part, channels, size)
    return JOIN.join(str(parse_student(part)) for part in parts)


def check_member_records(path: Any, records: Any, count: int) -> tuple[dict[str, Any], ...]:
    """What a file's header says of the teachers in it; empty where it holds one.

    Raises:
        UserError: not a list of as many references as networks.
    """
    if records is None and count == 1:
        return ()
    whole = isinstance(records, list) and len(records) == count > 1
    if not whole or not all(isinstance(one, dict) and isinstance(one.get("sha256"), str) for one in records):
        raise UserError(f"{path}: field 'members' is no list of references to its {count} network(s); it is damaged")
    return tuple(records)
