"""Doing a task: its units on several processes, each record kept at once; the last one puts the result together."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.config import recorded_config
from ddbench.data.load import data_changed
from ddbench.runtime import device as devices
from ddbench.runtime.errors import OutOfMemory, UserError
from ddbench.runtime.files import (
    canonical_json,
    ensure_writable,
    gone,
    listed,
    read_json,
    text_hash,
    write_json,
    write_text,
)
from ddbench.runtime.progress import Bar, Console
from ddbench.runtime.shards import WHOLE, Shard, State, Units, run_common, run_units
from ddbench.runtime.temporary import sweep
from ddbench.tasks import task_class
from ddbench.tasks.base import Job, Task, Unit
from ddbench.tasks.record import KIND, MALFORMED, SCHEMA, check_result, extended, read_result
from ddbench.tasks.returned import json_of, remembered_of, stages_of

WORK = "ddbench.tasks.runner:work"
HEAD = "head.json"


@functools.lru_cache(maxsize=1)
def task_of(job: Job) -> Task[Any]:
    """The task of a job, with its data; read once a process."""
    made: Task[Any] = task_class(job.task)(job.config, job)
    return made


@dataclass(frozen=True)
class _Shared:
    """What every worker is given: the job, and what its data are, which may change before a worker reads them."""

    job: Job
    data: tuple[str, str]


def _data_of(task: Task[Any]) -> tuple[str, str]:
    return task.dataset.fingerprint, canonical_json(json_of(task, "decides()", task.decides()))


def work(shared: _Shared, unit: Unit) -> dict[str, Any]:
    """One unit; run by a worker.

    Raises:
        UserError: names the unit, since what a method or student says does not.
    """
    job = shared.job
    devices.prepare(job.settings.threads)
    task = task_of(job)
    if _data_of(task) != shared.data:
        raise data_changed(job.dataset)
    try:
        found = task.work(unit)
    except OutOfMemory:
        raise
    except UserError as error:
        raise UserError(f"{unit.name}: {error}") from error
    return json_of(task, f"work() of {unit.name}", found)


def parts_folder(out: Path) -> Path:
    """Where a task keeps its records until it is finished."""
    return out.with_name(f"{out.stem}.parts")


def do(job: Job, changed: Mapping[str, Any], out: Path, workers: int, console: Console, shard: Shard = WHOLE) -> Any:
    """Do a task and write its result; what ``out`` or the records beside it hold is not done again.

    The bytes of ``out`` depend neither on the number of workers nor on interruptions.

    Args:
        changed: settings of the protocol that were altered.
        shard: the share of each stage's units that is done here.

    Returns:
        The result, JSON.

    Raises:
        UserError: whatever the user can mend, before anything is written.
        Unfinished: the shard's units are done, those of others are not.
    """
    devices.resolve_device(job.settings.device)
    task = task_of(job)
    task.check()
    head = head_of(task, changed)
    found = {**remembered_of(task), **_kept(task, out, head)}
    folder, stages, read = parts_folder(out), stages_of(task), set(found)
    names = {unit.name for stage in stages for unit in stage}
    if out.exists() and all(_done(task, unit, found) for stage in stages for unit in stage):
        console.say(f"finished already: {out}")
    else:
        ensure_writable(folder)
        devices.tell_shared(workers, job.settings.device, console.say)
        with Units(folder / "units").process():  # so that no other one that ends takes the folder away
            write_text(folder / HEAD, canonical_json(head) + "\n")
            run = _Run(task=task, head=head, found=found, out=out, workers=workers, console=console, shard=shard)
            left = (stage for stage in stages if run.missing(stage))
            for number, stage in enumerate(left):
                do_stage = _do_later if number and shard.count > 1 else _do_first
                do_stage(run, stage)
    units = {name: record for name, record in sorted(found.items()) if name in names}  # the order of the file
    result = {
        "kind": KIND,
        "schema": SCHEMA,
        "task": job.task,
        "head": head,
        "units": units,
        "results": _results(task, head, units, bool(read & names), folder),
    }
    check_result(out, result)
    task.remember(found)
    _kept(task, out, head)  # another process may have ended with more seeds or runs meanwhile: that stays
    if not out.exists() or read_json(out, "result of a task") != result:
        write_json(out, result)
    _clear(folder, names)
    return result


def _results(
    task: Task[Any], head: Mapping[str, Any], units: Mapping[str, Any], read: bool, folder: Path
) -> dict[str, Any]:
    """What the records say.

    Args:
        read: whether some were read from files.

    Raises:
        UserError: records that were read are not the task's, or the task gives no JSON.
    """
    try:
        found = task.results(head, units)
    except MALFORMED as error:
        if not read:
            raise
        raise UserError(
            f"{folder}: its records are not of this task ({error!r:.80}); remove it, and the result beside it if there "
            "is one, and repeat the task"
        ) from error
    return json_of(task, "results()", found)


def status(job: Job, changed: Mapping[str, Any], out: Path) -> list[State]:
    """What became of each unit, by all processes; nothing is written.

    Raises:
        UserError: as :func:`do`.
    """
    task = task_of(job)
    task.check()
    found = {**remembered_of(task), **_kept(task, out, head_of(task, changed))}
    units = [unit for stage in stages_of(task) for unit in stage]
    done = {unit.name for unit in units if _done(task, unit, found)}
    return Units(parts_folder(out) / "units").states([unit.name for unit in units], done)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A task at work.

    Attributes:
        head: the question that it answers.
        found: unit -> record, of those that are known to be there.
        out: the result.
        shard: the share of it that is done here.
    """

    task: Task[Any]
    head: Mapping[str, Any]
    found: dict[str, dict[str, Any]]
    out: Path
    workers: int
    console: Console
    shard: Shard

    def missing(self, units: Sequence[Unit]) -> list[Unit]:
        """Those of the units that are not known to be there."""
        return [unit for unit in units if not _done(self.task, unit, self.found)]

    def look(self) -> None:
        """Know what other processes have left by now."""
        self.found.update(_kept(self.task, self.out, self.head))

    def bar(self, units: int, missing: int) -> Bar:
        """The progress of so many units, of which some are missing."""
        return self.console.bar(self.task.job.task, units, units - missing)

    def given(self) -> tuple[_Shared, Units]:
        """What workers are given, and who is at which unit."""
        return _Shared(self.task.job, _data_of(self.task)), Units(parts_folder(self.out) / "units")

    def keep(self, unit: Unit, record: dict[str, Any], bar: Bar) -> None:
        """Put the record of a unit on the disk.

        Raises:
            UserError: the disk refuses, or the folder was taken away.
        """
        self.found[unit.name] = record
        _check_there(self.out)
        text = canonical_json({"unit": unit.name, "record": record})
        write_text(_part(parts_folder(self.out), unit.name), f"{text}\n")
        bar.advance(unit.name)


def _do_first(run: _Run, stage: Sequence[Unit]) -> None:
    """The shard's units of the first stage that is not done, or of any where there are no shards.

    Raises:
        Unfinished: they are done, those of others are not.
    """
    own = run.shard.own(stage)
    missing = run.missing(own)
    if missing:
        names = [(unit.name,) for unit in missing]
        with run.bar(len(own), len(missing)) as bar:
            shared, units = run.given()
            for index, record in run_units(WORK, shared, missing, run.workers, units=units, names=names):
                run.keep(missing[index], record, bar)
    if run.shard.count > 1:
        run.look()  # whoever was last has moved the records into the result
        left = run.missing(stage)
        if left:
            raise run.shard.unfinished("unit", len(own), len(left), len(stage), str(run.out))


def _do_later(run: _Run, stage: Sequence[Unit]) -> None:
    """All units of a later stage that nobody else is at: shards that ended before it began do not come again."""
    missing = run.missing(stage)
    with run.bar(len(stage), len(missing)) as bar:

        def done() -> set[str]:
            run.look()
            there = {unit.name for unit in missing} - {unit.name for unit in run.missing(missing)}
            if others := len(stage) - len(missing) + len(there) - bar.done:
                bar.advance(units=others)
            return there

        shared, units = run.given()
        names = [unit.name for unit in missing]
        jobs = run_common(WORK, shared, missing, run.workers, units=units, names=names, done=done, shard=run.shard)
        for index, record in jobs:
            run.keep(missing[index], record, bar)


def _check_there(out: Path) -> None:
    """Refuse to write where the records of a task at work were taken away; another process may have finished it.

    Raises:
        UserError: neither their head is there nor the result.
    """
    head = parts_folder(out) / HEAD
    if not head.exists() and not out.exists():
        raise gone(head)


def _done(task: Task[Any], unit: Unit, found: Mapping[str, dict[str, Any]]) -> bool:
    return unit.name in found and task.there(unit, found[unit.name])


def head_of(task: Task[Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """The question that the result answers: all that decides it."""
    job, spec = task.job, task.dataset.spec
    return {
        "config": recorded_config(job.config),
        "dataset": {"name": spec.name, "fingerprint": task.dataset.fingerprint, "size": spec.size},
        "decides": json_of(task, "decides()", task.decides()),
        "precision": job.settings.precision,
        "protocol": {"name": job.protocol.name, "hash": job.protocol.hash, "changed": dict(changed)},
        "runs": [run.to_json() for run in job.runs],
        "seeds": job.seeds,
        "student": job.student,
        "threads": job.settings.threads,
        "versions": devices.versions(),
        **devices.recorded_kind(job.settings.device),
    }


def _kept(task: Task[Any], out: Path, head: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Records of the result and of those beside it.

    Raises:
        UserError: they are of another question.
    """
    parts = _parts(parts_folder(out))  # before the result: who removes one has put it there
    found: dict[str, dict[str, Any]] = {}
    if out.exists():
        old = read_result(out)
        extended(out, old["head"], head, task.grows)
        found.update(old["units"])
    begun = parts_folder(out) / HEAD
    if begun.exists():
        other = read_json(begun, "head of a task")
        if not isinstance(other, dict) or not {"runs", "seeds"} <= set(other):
            raise UserError(f"{begun}: not the head of a task; remove {begun.parent}")
        extended(begun.parent, other, head, task.grows)
    else:
        parts = {}  # nobody knows of what; who removes a head has put its records into the result
    return {**found, **parts}


def _parts(folder: Path) -> dict[str, dict[str, Any]]:
    """The records that are there; those that are damaged are passed over, and done again."""
    found = {}
    for path in listed(folder, "*.part"):
        with contextlib.suppress(UserError, KeyError, TypeError):
            part = read_json(path, "record of a task")
            found[str(part["unit"])] = dict(part["record"])
    return found


def _part(folder: Path, unit: str) -> Path:
    return folder / f"{text_hash(unit)[:20]}.part"


def _clear(folder: Path, done: Collection[str]) -> None:
    """Remove the records that are in the result; the rest stays for who is at work on more runs or seeds.

    Args:
        done: names of the units in the result.
    """
    units = Units(folder / "units")
    units.clear()
    for path in {_part(folder, name) for name in done} & set(listed(folder, "*.part")):
        path.unlink(missing_ok=True)
    if listed(folder, "*.part") or units.running() or not units.at_rest():
        return
    sweep(folder)
    (folder / HEAD).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another process has just begun there, or it is gone
        folder.rmdir()
