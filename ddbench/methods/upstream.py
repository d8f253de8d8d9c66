"""What a run's experts, teacher and diffusion model cost: recorded beside them, repeated in the run's record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddbench.diffusion.store import COST, DiffusionModel
from ddbench.experts.record import recorded_cost
from ddbench.experts.store import TrajectoryStore
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_json
from ddbench.teachers.store import Teacher


def upstream_cost(
    store: TrajectoryStore | None, teacher: Teacher | None, diffusion: DiffusionModel | None = None
) -> dict[str, Any]:
    """Cost of what a run needed; None where it needed none, or nothing that can be read was recorded.

    Experts, teachers and diffusion models serve many runs, so these seconds are told beside the run's own and never
    added to them.

    Returns:
        ``experts``: their number, ``wall_seconds`` and ``cpu_seconds`` of the whole store; ``teacher``: its seconds;
        ``diffusion``, for runs with such a model: its ``parameters``, and its seconds where it was trained here.
    """
    found = {
        "experts": None if store is None else _experts(store),
        "teacher": None if teacher is None else _seconds(teacher.path.with_name(f"{teacher.path.stem}.cost.json")),
    }
    if diffusion is not None:
        found["diffusion"] = {"parameters": diffusion.parameters, **(_seconds(diffusion.folder / COST) or {})}
    return found


def _experts(store: TrajectoryStore) -> dict[str, Any] | None:
    try:
        return recorded_cost(store.folder)
    except (UserError, KeyError, TypeError, AttributeError):  # a damaged record must not end a run that is done
        return None


def _seconds(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        cost = read_json(path, "cost record")
        return {name: round(float(cost[name]), 3) for name in ("wall_seconds", "cpu_seconds")}
    except (UserError, KeyError, TypeError, ValueError):
        return None
