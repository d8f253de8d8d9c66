"""Which part of a board is asked for: tables by dataset, budget and labels; rows by student and verification."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ddbench.leaderboard.grouping import Group
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

    def fits(self, group: Group) -> bool:
        """Whether a table is asked for, its rows aside."""
        return (
            self.dataset in ("", group.dataset)
            and self.labels in ("", group.label_kind)
            and (self.ipc is None or group.budget == Budget("ipc", self.ipc))
            and (not self.student or self.student in group.students)
        )


def check_selection(selection: Selection, groups: Sequence[Group]) -> None:
    """Refuse a value that no table of the board has.

    Raises:
        UserError: names the flag and what there is.
    """
    _check("--dataset", selection.dataset, (group.dataset for group in groups))
    _check("--labels", selection.labels, (group.label_kind for group in groups))
    _check("--student", selection.student, (name for group in groups for name in group.students))
    budgets = {str(group.budget.value) for group in groups if group.budget.unit == "ipc"}
    _check("--ipc", "" if selection.ipc is None else str(selection.ipc), budgets)


def only_verified(cells: Sequence[Cell]) -> list[Cell]:
    """The tables that have a verified method, with such rows and the references."""
    found = [replace(cell, rows=tuple(row for row in cell.rows if row.verified or row.reference)) for cell in cells]
    return [cell for cell in found if any(not row.reference for row in cell.rows)]


def _check(flag: str, value: str, known: Iterable[str]) -> None:
    names = sorted(set(known))
    if value and value not in names:
        raise UserError(
            f"{flag} {value}: not on this board{suggest(value, names)}; it has: {', '.join(names[:12]) or 'nothing'}"
        )
