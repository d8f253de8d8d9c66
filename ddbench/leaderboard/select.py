"""Which part of a board: tables by dataset, budget, labels and protocol; rows by student and verification."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ddbench.leaderboard.grouping import Group, usual_labellers
from ddbench.leaderboard.ranking import Ranking
from ddbench.leaderboard.result import Budget
from ddbench.leaderboard.rows import Cell, Row, in_order
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError

MOST = 20
"""Names that a message lists."""


@dataclass(frozen=True)
class Selection:
    """What to keep; an empty field keeps all.

    Attributes:
        ipc: images per class.
        labels: ``hard``, ``soft``, ``targets`` or ``teacher``.
        protocol: its name.
        student: tables that have it; the rank is then by it.
        verified: only rows that were verified, and the references.
    """

    dataset: str = ""
    ipc: int | None = None
    labels: str = ""
    protocol: str = ""
    student: str = ""
    verified: bool = False

    def fits(self, group: Group) -> bool:
        """Whether a table is asked for, its rows aside."""
        return (
            self.dataset in ("", group.dataset)
            and self.labels in ("", group.label_kind)
            and self.protocol in ("", group.protocol)
            and (self.ipc is None or group.budget == Budget("ipc", self.ipc))
            and (not self.student or self.student in group.students)
        )


def check_selection(selection: Selection, groups: Sequence[Group]) -> None:
    """Refuse a value that no table of the board has, and values that no table has together.

    Raises:
        UserError: names the flags, and what there is of one.
    """
    _check("--dataset", selection.dataset, (group.dataset for group in groups))
    _check("--labels", selection.labels, (group.label_kind for group in groups))
    _check("--protocol", selection.protocol, (group.protocol for group in groups))
    _check("--student", selection.student, (name for group in groups for name in group.students))
    budgets = {str(group.budget.value) for group in groups if group.budget.unit == "ipc"}
    ipc = "" if selection.ipc is None else str(selection.ipc)
    _check("--ipc", ipc, budgets)
    if groups and not any(selection.fits(group) for group in groups):
        said = {"dataset": selection.dataset, "ipc": ipc, "labels": selection.labels}
        said |= {"protocol": selection.protocol, "student": selection.student}
        flags = " ".join(f"--{name} {value}" for name, value in said.items() if value)
        raise UserError(f"{flags}: no table of this board is all of that; leave one of these out")


def only_verified(cells: Sequence[Cell]) -> list[Cell]:
    """The tables that have a verified method, with such rows and the references, ranked among themselves.

    Raises:
        UserError: there are tables, and none has one.
    """
    left = [some for cell in cells if (some := verified_part(cell)) is not None]
    if cells and not left:
        raise UserError("--verified: no row of these tables is verified yet (ddbench leaderboard verify)")
    return left


def verified_part(cell: Cell) -> Cell | None:
    """A table of its verified rows and the references: places, and what most rows have in common, are among these.

    None: no method of it is verified.
    """
    rows: Sequence[Row] = [row for row in cell.rows if row.verified or row.reference]
    if all(row.reference for row in rows):
        return None
    student = cell.students[0]
    for measure in cell.measures:
        rows = Ranking(measure, student).ranked(rows)
    return replace(cell, rows=tuple(in_order(rows, cell.main(student))), labellers=usual_labellers(rows))


def _check(flag: str, value: str, known: Iterable[str]) -> None:
    names = sorted(set(known))
    if value and value not in names:
        more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
        there = ", ".join(names[:MOST]) or "nothing"
        raise UserError(f"{flag} {value}: not on this board{suggest(value, names)}; it has: {there}{more}")
