"""A finished task for a caller in Python. Imports no torch until its lines are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.tasks import task_class
from ddbench.tasks.costs import SetsCost, cost_of_sets


@dataclass(frozen=True, repr=False)
class TaskResult:
    """What a task measured of some runs; prints as the lines of the command line.

    Attributes:
        path: the file.
        data: its content: ``head`` (the question), ``units`` (single measurements), ``results``.
    """

    path: Path
    data: dict[str, Any]

    @property
    def results(self) -> dict[str, Any]:
        """What follows from the units: ``rows``, one a run, ``differences``, and what else the task tells."""
        return dict(self.data["results"])

    @property
    def labels(self) -> tuple[str, ...]:
        """What the runs are called in ``rows``, in the order in which they were named."""
        return tuple(run["label"] for run in self.data["head"]["runs"])

    @property
    def cost(self) -> SetsCost | None:
        """What the sets beside the result took that the task distilled; None where there are none."""
        return cost_of_sets(self.path)

    def __str__(self) -> str:
        lines: list[str] = task_class(self.data["task"]).lines(self.data["results"])
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<task {self.data['task']}: {self.path}>"
