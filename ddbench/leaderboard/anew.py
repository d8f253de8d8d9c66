"""What earlier verifications left in the work folder: trainings that ``--again`` makes anew, and signs of the dead."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from ddbench.leaderboard.result import Result
from ddbench.leaderboard.schema import RESULTS
from ddbench.leaderboard.verification import SUFFIX, verification_path
from ddbench.runtime.files import ensure_writable, write_text
from ddbench.runtime.shards import Units
from ddbench.runtime.signs import turn

MARK = "again"
"""Beside the trainings of a row: they were begun by ``--again``, and the command has not ended."""


def begin_anew(root: Path, work: Path, units: Units, rows: Sequence[Result]) -> None:
    """Remove what verified rows were trained to, and mark the rows: the same command, killed and typed again, goes on.

    Rows that another process is at are left as they are.

    Raises:
        UserError: the work folder cannot be written to.
    """
    with turn(work / MARK, "verification"):
        running = units.running()
        for row in rows:
            folder = work / row.id
            if (folder / MARK).exists():
                continue
            if row.id not in running and verification_path(root, row).exists():
                shutil.rmtree(folder, ignore_errors=True)
            ensure_writable(folder)
            write_text(folder / MARK, "")


def end_anew(work: Path, rows: Iterable[str]) -> None:
    """Take the marks off again, once the command has tried all of its rows and verified these."""
    for name in rows:
        (work / name / MARK).unlink(missing_ok=True)


def bury(root: Path, units: Units) -> None:
    """Take away the signs of processes that were killed when their rows were verified already."""
    units.bury(lambda: {path.name.removesuffix(SUFFIX) for path in (root / RESULTS).rglob(f"*{SUFFIX}")})
