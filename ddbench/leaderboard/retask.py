"""Doing the tasks of a row again: from the synset beside it, its recipe and the question in the row.

What the question asks for is looked at first: a row may not keep a machine busy for ever, nor read folders of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ddbench.config import apply_config, check_config
from ddbench.data.specs import is_read_elsewhere
from ddbench.leaderboard.packing import SYNSET_FILE
from ddbench.leaderboard.result import Result, TaskInfo, plain
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, text_hash, write_json
from ddbench.tasks import TASKS, task_class

LARGEST = 10_000
"""Of a number in a task's config: shadows, images, networks, passes."""
MAX_SEEDS, MAX_EPOCHS = 200, 100_000
MAX_STEPS = 1_000_000
"""Of a whole number in the settings of a method that is run again, or of its experts."""


class How(Protocol):
    """What of :class:`ddbench.leaderboard.retrain.Request` tasks are done by."""

    @property
    def work(self) -> Path: ...
    @property
    def data(self) -> Path | None: ...
    @property
    def threads(self) -> int: ...
    @property
    def compile(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def folders(self) -> bool: ...
    @property
    def quiet(self) -> bool: ...


def check_tasks(result: Result, request: How) -> None:
    """Refuse tasks that are not known here, or ask for what this machine must not do.

    Raises:
        UserError: names the task and the setting.
    """
    for name, info in (result.tasks or {}).items():
        where = f"row {result.id}: task {name}"
        if name not in TASKS:
            raise UserError(f"{where}: this ddbench has no such task; verify the row without --measured")
        if result.synset.modality != "image":
            raise UserError(f"{where}: tasks are about images; verify the row without --measured")
        question, kind = plain(info.question), task_class(name)
        config = apply_config(kind.config_class, question["config"], where)
        check_config(config)
        for key, value in question["config"].items():
            if isinstance(value, str) and is_read_elsewhere(value) and not request.folders:
                raise UserError(f"{where}: {key} {value[:80]} is data of its submitter's own: --allow-folders reads it")
            if isinstance(value, int | float) and not abs(value) <= LARGEST:
                raise UserError(f"{where}: {key} {value} is more than verification does again ({LARGEST:,})")
        seeds, epochs = question["seeds"], _epochs(question) or 1
        if type(seeds) is not int or not 1 <= seeds <= MAX_SEEDS:
            raise UserError(f"{where}: {str(seeds)[:40]!a} seeds; verification takes 1 to {MAX_SEEDS}")
        if type(epochs) is not int or not 1 <= epochs <= MAX_EPOCHS:
            raise UserError(f"{where}: {str(epochs)[:40]!a} epochs; verification trains at most {MAX_EPOCHS:,}")
        if kind.distils(config):
            _check_recipe(result, where)


def _check_recipe(result: Result, where: str) -> None:
    """Refuse a distillation, or experts for it, that take more than verification does again."""
    recipe = plain(result.recipe or {})
    experts, teacher = recipe.get("experts"), recipe.get("teacher")
    experts = experts if isinstance(experts, dict) else {}
    own = experts.get("recipe")
    if type(count := experts.get("count", 1)) is not int or not 1 <= count <= MAX_SEEDS:
        raise UserError(f"{where}: {str(count)[:40]!a} experts; verification records 1 to {MAX_SEEDS}")
    network = teacher.get("student") if isinstance(teacher, dict) else None
    if not isinstance(network, str | None):
        raise UserError(f"{where}: its teacher is {str(network)[:40]!a}, which is no network")
    settings = {**plain(result.synset.config), **(own if isinstance(own, dict) else {})}
    for key, value in settings.items():
        if type(value) is int and value > MAX_STEPS:
            raise UserError(
                f"{where}: {key} {value} of the method is more than verification does again ({MAX_STEPS:,})"
            )


def _epochs(question: Mapping[str, Any]) -> Any:
    protocol = question["protocol"]
    changed = protocol.get("changed") if isinstance(protocol, dict) else None
    return (changed.get("epochs") or changed.get("full_epochs")) if isinstance(changed, dict) else None


def tasks_again(result: Result, request: How, synset: Path, device: str) -> dict[str, TaskInfo]:
    """The row's tasks with what they give here; killed, the same call goes on.

    Args:
        synset: the row's file, checked.
        device: as a job's.

    Raises:
        UserError: as :func:`check_tasks`, or a question that this ddbench would ask otherwise.
    """
    check_tasks(result, request)
    run = _run_folder(result, request.work / result.id / "run", synset)
    return {name: _again(result, name, info, request, run, device) for name, info in (result.tasks or {}).items()}


def _run_folder(result: Result, folder: Path, synset: Path) -> Path:
    """The synset with the record of its run beside it, as far as the row has it: what its experts were."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(synset, folder / SYNSET_FILE)
    write_json(folder / "config.json", {"kind": "ddbench-run", **plain(result.recipe or {})})
    return folder


def _again(result: Result, name: str, info: TaskInfo, request: How, run: Path, device: str) -> TaskInfo:
    from ddbench.tasks import start

    question, where = plain(info.question), f"row {result.id}: task {name}"
    protocol = question["protocol"] if isinstance(question["protocol"], dict) else {}
    threads = request.threads or info.threads
    key = text_hash([question, device, threads])[:12]
    shared = {
        "student": question["student"],
        "seeds": question["seeds"],
        "protocol": protocol.get("name"),
        "epochs": _epochs(question),
        "data": request.data,
        "device": device,
        "threads": threads,
        "compile": request.compile,
        "workers": request.workers,
        "size": result.synset.shape[-1] if len(result.synset.shape) > 1 else None,
        "out": request.work / result.id / f"{name}-{key}.json",
        "quiet": request.quiet,
    }
    asked, config = start.asked_of(name, {**question["config"], **shared})
    ours = json.loads(canonical_json(start.question(name, [run], asked, config)))
    differing = sorted(part for part in question.keys() | ours.keys() if question.get(part) != ours.get(part))
    if differing:
        raise UserError(
            f"{where}: this ddbench would ask otherwise ({differing[0]} differs); verify it without --measured"
        )
    made = start.run(name, [run], asked, config)
    told = task_class(name).told(made.data["head"], made.data["units"], made.labels[0])
    again = TaskInfo.from_json(json.loads(canonical_json(told.to_json(made.data["head"]))))
    _check_described(info, again, where)
    return again


def _check_described(claimed: TaskInfo, again: TaskInfo, where: str) -> None:
    """Refuse numbers that the task does not tell, or tells otherwise: what is better, in which unit, over what."""
    if claimed.over != again.over:
        raise UserError(f"{where}: values over {claimed.over}s, but this ddbench has them over {again.over}s")
    for metric in sorted(claimed.metrics.keys() | again.metrics.keys()):
        own, ours = claimed.metrics.get(metric), again.metrics.get(metric)
        if own is None or own != ours or claimed.is_stated(metric) != again.is_stated(metric):
            raise UserError(f"{where}: {metric} is not what this ddbench tells; verify the row without --measured")
