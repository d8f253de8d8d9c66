"""The doing of an evaluation's units: learning rates, trainings, probes; each is kept as soon as it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.evaluation.kept import Kept, check_there, read_kept
from ddbench.evaluation.parts import Writer, part_name, probe_unit, rate_unit, run_unit, units_of
from ddbench.evaluation.probing import estimates, tell
from ddbench.evaluation.result import ranked_by
from ddbench.evaluation.tasks import Job, ProbeTask, Task
from ddbench.evaluation.weights import usable
from ddbench.measurements.suite import Probe, Suite
from ddbench.runtime import device as devices
from ddbench.runtime import seeds as named_seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json
from ddbench.runtime.progress import Bar, Console
from ddbench.runtime.shards import Shard, run_common, run_units

SEARCH_SEED = named_seeds.derive(0, "learning-rate search") % 2**31
"""Network seed of every learning-rate search: none of the seeds that are scored."""

TRAIN, PROBE = "ddbench.evaluation.tasks:run_task", "ddbench.evaluation.tasks:run_probe"
"""What workers do."""

NONE = {"accuracy": float("nan")}
"""Metrics of a run that diverged."""


@dataclass(kw_only=True)
class Work:
    """What is to be done: the job, what is there already, and who is told.

    Attributes:
        identity: hash of the evaluation's head.
        folder: where trained students are kept.
        wanted, own: (student, seed) of all runs, and of those of this shard.
        missing: those of its own that are not there yet.
        open: (student, seed, suite, probe) of measurements that are not there yet.
        out: the result; beside it are the records.
        together: student -> how many neighbouring seeds one training has.
        writer: keeps a record on disk.
        keep_weights: whether students stay when all is done.
        lost_too: whether an evaluation of which every run diverged is kept.
    """

    job: Job
    plan: Any
    kept: Kept
    suites: Sequence[Suite]
    sha256: str
    identity: str
    folder: Path
    workers: int
    console: Console
    wanted: list[tuple[str, int]]
    own: list[tuple[str, int]]
    missing: list[tuple[str, int]]
    open: list[tuple[str, int, Suite, Probe]]
    out: Path
    head: dict[str, Any]
    shard: Shard
    together: Mapping[str, int]
    writer: Writer | None = None
    keep_weights: bool = False
    lost_too: bool = False
    pairs: frozenset[tuple[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.pairs = frozenset(self.wanted)

    def block(self, student: str, seed: int) -> tuple[str, int]:
        """Which training a run is part of."""
        return student, seed // self.together[student]

    def keep(self, record: dict[str, Any]) -> None:
        """Put a record on disk and into the tables.

        Raises:
            UserError: the disk refuses, or the folder was taken away.
        """
        assert self.writer is not None
        check_there(self.out, self.head)
        self.writer.append(record)
        self.kept.take(record)


def do(work: Work) -> None:
    """Train and measure what is missing, each record kept at once."""
    job, kept = work.job, work.kept
    devices.tell_threads(job.threads, work.console.say)
    if work.open and not work.console.quiet:
        runs = [(suite.kind, probe.name, student) for student, _, suite, probe in work.open]
        tell(work.console, work.suites, estimates(work.suites, runs, work.plan, job.settings, work.workers))
    for suite in work.suites:
        if not kept.holds(suite.kind):
            _claim(work, suite)
    if work.missing and job.protocol.lr_source == "search":
        _search(work)
    _train(work, f"evaluate ({job.protocol.name})", run_tasks(work, work.missing), len(work.own))
    work.open = [probe for probe in work.open if probe[0] not in kept.lost()]
    _train(work, "students that are measured, again", run_tasks(work, trained_again(work)))
    _probe(work)


def trained_again(work: Work) -> list[tuple[str, int]]:
    """Runs that are there, have open probes, and whose students are not there; with those of their blocks."""
    kept = work.kept
    gone = {
        work.block(student, seed)
        for student, seed, _, _ in work.open
        if (student, seed) in kept.runs
        and not usable(work.folder, student, seed, kept.runs[student, seed]["accuracy"], work.identity)
    }
    return [pair for pair in work.wanted if pair in kept.runs and work.block(*pair) in gone]


def _claim(work: Work, suite: Suite) -> None:
    """Say with which settings a kind is measured here; those of a killed try are replaced.

    Raises:
        UserError: another process is at it with other settings.
    """
    assert work.writer is not None
    record = {"measured": suite.kind, "settings": json.loads(canonical_json(suite.settings))}
    if work.writer.claim(part_name(record), record) != record:
        if work.writer.others():
            raise UserError(
                f"{work.out}: another process measures {suite.kind} with other settings; wait for it, or choose "
                "another --out"
            )
        work.writer.append(record)
    work.kept.take(record)


def _search(work: Work) -> None:
    """Try the learning rates of the students that are missing; shards share them out."""
    kept = work.kept
    tasks = [
        Task(student=student, seeds=(SEARCH_SEED,), sha256=work.sha256, lr=rate, search=True)
        for student in dict.fromkeys(student for student, _ in work.missing)
        for rate in work.job.protocol.lr_grid
        if rate not in kept.searches.get(student, {})
    ]

    def done() -> set[str]:
        for student, found in read_kept(work.out, work.head).searches.items():
            kept.searches.setdefault(student, {}).update(found)
        return {rate_unit(student, rate) for student, found in kept.searches.items() for rate in found}

    if not tasks:
        return
    units, names = units_of(work.out), [rate_unit(task.student, task.lr or 0.0) for task in tasks]
    with work.console.bar("learning rates", len(tasks)) as bar:
        for _, records in run_common(
            TRAIN, work.job, tasks, work.workers, units=units, names=names, done=done, shard=work.shard
        ):
            for record in records:
                work.keep(record)
                bar.advance(f"{record['student']} {record['holdout_accuracy']:.3f}")


def run_tasks(work: Work, pairs: list[tuple[str, int]]) -> list[Task]:
    """Runs in whole blocks of neighbouring seeds, wanted or not: rounding depends on the block."""
    blocks = {}
    for student, number in dict.fromkeys(work.block(*pair) for pair in pairs):
        size = work.together[student]
        blocks[student, number] = range(number * size, (number + 1) * size)
    search = work.job.protocol.lr_source == "search"
    return [
        Task(
            student=student,
            seeds=tuple(seeds),
            sha256=work.sha256,
            asked=tuple(seed for seed in seeds if (student, seed) in work.pairs),
            lr=work.kept.best_rate(student) if search else None,
            keep=work.folder if work.suites or work.keep_weights else None,
            needed=bool(work.suites),
            identity=work.identity,
        )
        for (student, _), seeds in blocks.items()
    ]


def _train(work: Work, title: str, tasks: list[Task], total: int = 0) -> None:
    """Do the trainings, keeping each as soon as it ends; one that was done before must end as it did."""
    if not tasks:
        return
    todo = sum((task.student, seed) in work.pairs for task in tasks for seed in task.seeds)
    names = [tuple(run_unit(task.student, seed) for seed in task.seeds) for task in tasks]
    with work.console.bar(title, total or todo, (total or todo) - todo) as bar:
        for _, records in run_units(TRAIN, work.job, tasks, work.workers, units=units_of(work.out), names=names):
            for record in records:
                _take(work, record, bar)


def _take(work: Work, record: dict[str, Any], bar: Bar) -> None:
    """Keep a run, unless it is of a block that is not wanted whole.

    Raises:
        UserError: it is there, with another accuracy.
    """
    pair = record["student"], record["seed"]
    if pair not in work.pairs:
        return
    known = work.kept.runs.get(pair)
    if known is None:
        work.keep(record)
    elif known["accuracy"] != (now := record.get("metrics", NONE)["accuracy"]):
        raise UserError(
            f"{record['student']}, seed {record['seed']}: trained again its accuracy is {now:.6f}, in the "
            f"evaluation it is {known['accuracy']:.6f} "
            "(another device or number of threads?); evaluate everything at once into another --out"
        )
    metrics = record.get("metrics")
    bar.advance(f"{record['student']} " + (f"{metrics[ranked_by(metrics)]:.3f}" if metrics else "diverged"))


def _probe(work: Work) -> None:
    """Do the open probes, keeping each finding as soon as it is there."""
    tasks = [
        ProbeTask(
            student=student,
            seed=seed,
            sha256=work.sha256,
            kind=suite.kind,
            probe=probe,
            images=suite.images,
            folder=work.folder,
        )
        for student, seed, suite, probe in work.open
    ]
    if not tasks:
        return
    names = [(probe_unit(task.student, task.seed, task.kind, task.probe.name),) for task in tasks]
    with work.console.bar("measure " + ", ".join(suite.kind for suite in work.suites), len(tasks)) as bar:
        for _, record in run_units(PROBE, work.job, tasks, work.workers, units=units_of(work.out), names=names):
            work.keep({**record, "settings": work.kept.identity(record["kind"])})
            bar.advance(f"{record['student']} {record['probe']}")
