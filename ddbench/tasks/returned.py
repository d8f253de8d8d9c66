"""What a task returns, looked at before it is used, so that a mistake of its author is one line and no traceback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ddbench.runtime import authors
from ddbench.runtime.files import canonical_json
from ddbench.tasks.base import Task, Unit


def json_of(task: Task[Any], what: str, found: object) -> dict[str, Any]:
    """JSON by name that a task returned.

    Args:
        what: returned it, such as ``decides()``.

    Raises:
        UserError: it is none, or holds NaN or infinity.
    """
    reason = ""
    if isinstance(found, dict) and all(isinstance(name, str) for name in found):
        try:
            canonical_json(found)
            return found
        except (TypeError, ValueError, RecursionError) as error:
            reason = f" ({error})"
    raise _wrong(task, what, found, f"JSON by name{reason}")


def stages_of(task: Task[Any]) -> list[list[Unit]]:
    """The units of a task, stage by stage.

    Raises:
        UserError: there are none, other things than units, or two of one name.
    """
    found, names = task.stages(), set()
    if not isinstance(found, Sequence) or not all(isinstance(one, Sequence) for one in found) or not any(found):
        raise _wrong(task, "stages()", found, "lists of ddbench.tasks.base.Unit, a list a stage")
    for unit in (unit for stage in found for unit in stage):
        if not isinstance(unit, Unit) or not isinstance(unit.name, str):
            raise _wrong(task, "a unit of stages()", unit, "ddbench.tasks.base.Unit with a name")
        if unit.name in names:
            raise _wrong(task, "a unit of stages()", authors.Said(f"{unit.name!r:.60} twice"), "names of their own")
        names.add(unit.name)
    return [list(stage) for stage in found]


def remembered_of(task: Task[Any]) -> dict[str, dict[str, Any]]:
    """Records that other tasks left.

    Raises:
        UserError: no records by the name of a unit.
    """
    found = task.remembered()
    if not isinstance(found, Mapping) or not all(isinstance(one, dict) for one in found.values()):
        raise _wrong(task, "remembered()", found, "records by the name of a unit")
    return dict(found)


def _wrong(task: Task[Any], what: str, found: object, expected: str) -> Exception:
    return authors.wrong(type(task), f"task {task.job.task}", what, found, expected)
