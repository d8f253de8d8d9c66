"""What filling a plan will take: the plan's own minutes, times how much longer one of its cells takes here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ddbench.leaderboard.plans import Plan, PlanCell
from ddbench.leaderboard.reproduction import Workshop, distill_flags, evaluate_flags, rows_of
from ddbench.runtime.forecast import Forecast

YARDSTICK = "random"
"""Method of the cell that is measured: its images cost nothing, so that its minutes are those of an evaluation."""


def forecast(
    plan: Plan,
    cells: Sequence[PlanCell],
    workshop: Workshop,
    threads: int,
    *,
    make: Callable[[list[str]], object],
    score: Callable[[list[str]], Forecast],
) -> Forecast:
    """What the cells without a row will take; a unit is a cell.

    Args:
        threads: of each worker.
        make: runs a command of the command line.
        score: what a command that evaluates will take.

    Raises:
        UserError: the board is broken, or the dataset of the measured cell is not there.
    """
    rows = rows_of(cells, workshop.leaderboard)
    left = [cell for cell in cells if rows[cell.name] is None]
    fitting = [cell for cell in plan.cells if cell.method == YARDSTICK and cell.teacher is None]
    yardstick = min(fitting, key=lambda cell: cell.minutes, default=None)
    factor, source, found = 1.0, "its own minutes", None
    if left and yardstick is not None:
        with tempfile.TemporaryDirectory() as scratch:
            elsewhere = replace(workshop, out=Path(scratch))
            make([*distill_flags(yardstick, elsewhere), *workshop.flags(yardstick)])
            found = score(evaluate_flags(yardstick, elsewhere, None))
        factor = found.wall(1) / (60 * yardstick.minutes)
        source = f"times {factor:.3g}: {yardstick.name} takes {found.wall(1):.3g} s here, not {yardstick.minutes:g} min"
    return Forecast(
        what=f"plan {plan.name}: {len(cells)} cells",
        unit="cell",
        all=len(cells),
        done=len(cells) - len(left),
        seconds=[60 * cell.minutes * factor for cell in left],
        flops=None,
        measured=[] if found is None else found.measured,
        memory=0 if found is None else found.memory,
        free=None if found is None else found.free,
        disk=None,
        place=str(workshop.out),
        device="nothing" if found is None else found.device,
        threads=threads if found is None else found.threads,
        notes=[
            f"minutes are those that the plan expects, {source}",
            "what cells share is in them",
        ],
    )
