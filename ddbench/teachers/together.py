"""Several teachers as one: a file that holds them all, a network whose logits are the mean of theirs.

To everything that takes a teacher (protocols, ``relabel``, the board) it is one: one file, one hash, bytes of all. It
is found by its hash only, never chosen by itself. Names of networks are joined by ``+``, in the order in which methods
take the teachers in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ddbench.networks.base import Student
from ddbench.networks.build import build_student
from ddbench.networks.check import check_student
from ddbench.networks.names import parse_student
from ddbench.runtime.errors import UserError

if TYPE_CHECKING:
    from ddbench.teachers.store import Teacher

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


def check_members(teachers: Sequence[Teacher]) -> None:
    """Refuse teachers that cannot be one.

    Raises:
        UserError: fewer than two or too many, one twice, other shapes, classes, data, preprocess or held-out images;
            names the file and what differs.
    """
    if not 2 <= len(teachers) <= MOST:
        raise UserError(f"{len(teachers)} teacher(s) to join, expected 2 to {MOST}")
    first = teachers[0]
    for position, one in enumerate(teachers):
        if one.members:
            raise UserError(f"{one.path}: holds {len(one.members)} teachers already; give the files of single ones")
        twin = next((other for other in teachers[:position] if other.sha256 == one.sha256), None)
        if twin is not None:
            raise UserError(f"{one.path}: the same teacher as {twin.path} (sha256 {one.sha256[:12]}); give each once")
        for what, own, wanted in (
            ("input", list(one.shape), list(first.shape)),
            ("classes", list(one.class_names), list(first.class_names)),
            ("data", f"{one.dataset} {one.fingerprint[:12]}", f"{first.dataset} {first.fingerprint[:12]}"),
            ("preprocess", one.preprocess, first.preprocess),
            ("held-out fraction", one.holdout, first.holdout),
        ):
            if own != wanted:
                raise UserError(
                    f"{one.path}: its {what} is {own!s:.60}, that of {first.path} is {wanted!s:.60}; teachers that are "
                    "taken together are of the same images"
                )


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
