"""What a run's experts and teacher cost: recorded beside them when they were trained, repeated in the run's record."""

from __future__ import annotations

from typing import Any

from ddbench.experts.record import recorded_cost
from ddbench.experts.store import TrajectoryStore
from ddbench.experts.teacher import Teacher
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_json


def upstream_cost(store: TrajectoryStore | None, teacher: Teacher | None) -> dict[str, Any]:
    """Cost of what a run needed; None where it needed none, or nothing that can be read was recorded.

    Experts and teachers serve many runs, so these seconds are told beside the run's own and never added to them.

    Returns:
        ``experts``: their number, ``wall_seconds`` and ``cpu_seconds`` of the whole store; ``teacher``: its seconds.
    """
    return {
        "experts": None if store is None else _experts(store),
        "teacher": None if teacher is None else _teacher(teacher),
    }


def _experts(store: TrajectoryStore) -> dict[str, Any] | None:
    try:
        return recorded_cost(store.folder)
    except (UserError, KeyError, TypeError, AttributeError):  # a damaged record must not end a run that is done
        return None


def _teacher(teacher: Teacher) -> dict[str, Any] | None:
    path = teacher.path.with_name(f"{teacher.path.stem}.cost.json")
    if not path.exists():
        return None
    try:
        cost = read_json(path, "cost record")
        return {name: round(float(cost[name]), 3) for name in ("wall_seconds", "cpu_seconds")}
    except (UserError, KeyError, TypeError, ValueError):
        return None
