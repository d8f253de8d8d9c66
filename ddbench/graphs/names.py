"""Names of students for graphs, which say the whole architecture. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ddbench.runtime.errors import UserError

MAX_DEPTH = 8
MAX_WIDTH = 1024
_NAME = re.compile(r"(gin|gcn|gat)-d([1-9][0-9]{0,8})-w([1-9][0-9]{0,8})-(sum|mean)(?:-(bn|ln))?")


@dataclass(frozen=True)
class GraphStudentName:
    """The parts of a student's name."""

    family: str
    depth: int
    width: int
    pooling: str
    norm: str | None


def is_student(name: str) -> bool:
    """Whether a name has the form of a graph student's."""
    return _NAME.fullmatch(name) is not None


def parse_student(name: str) -> GraphStudentName:
    """Read a student's name.

    Raises:
        UserError: not of this form, or out of range.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise UserError(
            f"graph student {name!r}: expected gin, gcn or gat, then depth, width, sum or mean, and -bn or -ln if "
            "wanted, for example gin-d3-w64-mean"
        )
    depth, width = int(found[2]), int(found[3])
    if depth > MAX_DEPTH or width > MAX_WIDTH:
        raise UserError(f"graph student {name!r}: expected a depth up to {MAX_DEPTH} and a width up to {MAX_WIDTH}")
    return GraphStudentName(found[1], depth, width, found[4], found[5])
