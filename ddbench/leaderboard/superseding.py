"""What a row must have that takes the place of another one."""

from __future__ import annotations

from pathlib import Path

from ddbench.data.specs import dataset_slug
from ddbench.leaderboard.result import Result
from ddbench.runtime.errors import UserError


def check_nothing_lost(latest: Result, result: Result, run: Path) -> None:
    """A row has all that the one has whose place it takes.

    Raises:
        UserError: names what it lacks, and how to add it.
    """
    students = [student for student in latest.students if student not in result.students]
    measured = sorted(set(latest.measured or {}) - set(result.measured or {}))
    tasks = sorted(set(latest.tasks or {}) - set(result.tasks or {}))
    if students:
        lost, remedy = students, f"evaluate with --students {','.join([*result.students, *students])}"
    elif measured:
        lost, remedy = measured, f"evaluate with {' '.join(f'--{kind}' for kind in measured)}"
    elif tasks:
        file = f"tasks/{dataset_slug(result.synset.dataset)}-{tasks[0]}.json"
        lost, remedy = [f"the task {' and '.join(tasks)}"], f"give its result with --task {file}"
    elif latest.scores and not result.scores:
        lost, remedy = ["DD-Ranking's scores"], f"run `ddbench scores {run}`"
    else:
        return
    raise UserError(
        f"the board's row of this synset under this protocol ({latest.id}) has {' and '.join(lost)}, this evaluation "
        f"has not: {remedy}, then submit again"
    )
