"""Which part of a board is asked for: tables by dataset, budget and labels; rows by student and verification."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ddbench.leaderboard.result import Budget
from ddbench.leaderboard.rows import Cell
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError


@dataclass(frozen=True)
class Selection:
    """What to keep; an empty field keeps all.

    Attributes:
        ipc: images per class.
        labels: ``hard``, ``soft`` or ``teacher``.
        student: tables that have it; the rank is then by it.
        verified: only rows that were verified, and the references.
    """

    dataset: str = ""
    ipc: int | None = None
    labels: str = ""
    student: str = ""
    verified: bool = False


def select(cells: Sequence[Cell], selection: Selection) -> list[Cell]:
    """The tables that fit, with the rows that do.

    Raises:
        UserError: a value that no table of the board has.
    """
    _check("--dataset", selection.dataset, (cell.dataset for cell in cells))
    _check("--labels", selection.labels, (cell.label_kind for cell in cells))
    _check("--student", selection.student, (name for cell in cells for name in cell.students))
    budgets = {str(cell.budget.value) for cell in cells if cell.budget.unit == "ipc"}
    _check("--ipc", "" if selection.ipc is None else str(selection.ipc), budgets)
    found = []
    for cell in cells:
        fits = (
            selection.dataset in ("", cell.dataset)
            and selection.labels in ("", cell.label_kind)
            and (selection.ipc is None or cell.budget == Budget("ipc", selection.ipc))
            and (not selection.student or selection.student in cell.students)
        )
        if fits and selection.verified:
            cell = replace(cell, rows=tuple(row for row in cell.rows if row.verified or row.reference))
        if fits and (not selection.verified or any(not row.reference for row in cell.rows)):
            found.append(cell)
    return found


def _check(flag: str, value: str, known: Iterable[str]) -> None:
    names = sorted(set(known))
    if value and value not in names:
        raise UserError(
            f"{flag} {value}: not on this board{suggest(value, names)}; it has: {', '.join(names[:12]) or 'nothing'}"
        )
