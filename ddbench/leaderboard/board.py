"""A board that was read and checked: what pages, terminal and exports are made from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ddbench.leaderboard.coverage import all_checked
from ddbench.leaderboard.grouping import Group, Known, groups
from ddbench.leaderboard.rates import packed_bytes
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.rows import Cell
from ddbench.leaderboard.schema import load_results
from ddbench.leaderboard.select import Selection, check_selection, only_verified
from ddbench.leaderboard.verification import Verification, load_verifications
from ddbench.runtime.errors import UserError


class Board:
    """A board that was read: its tables and its verifications."""

    def __init__(self, root: Path, results: Sequence[Result], verifications: dict[str, Verification]) -> None:
        self.root = root
        self.results = results
        self.verifications = verifications
        self.checked = all_checked(results, verifications)
        self._known = Known(self.checked, packed_bytes(root, results))

    @cached_property
    def groups(self) -> list[Group]:
        """The results of each table."""
        return groups(self.results)

    @cached_property
    def cells(self) -> list[Cell]:
        """All tables."""
        return [group.cell(self._known) for group in self.groups]

    def select(self, selection: Selection) -> list[Cell]:
        """The tables that fit, with the rows that do; the others are not made.

        Raises:
            UserError: nothing of the board is all that is asked for.
        """
        check_selection(selection, self.groups)
        found = [group.cell(self._known) for group in self.groups if selection.fits(group)]
        return only_verified(found) if selection.verified else found


def read_board(root: Path, results: Sequence[Result] | None = None) -> Board:
    """Read and check a board.

    Args:
        results: its rows where they were read already.

    Raises:
        UserError: no such folder, or a result or verification is refused.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such leaderboard folder; `ddbench submit RUN --leaderboard {root}` makes one")
    results = load_results(root) if results is None else results
    return Board(root, results, load_verifications(root, results))
