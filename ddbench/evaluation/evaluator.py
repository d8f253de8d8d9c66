"""Scoring a synset: students x seeds under one protocol; each run is kept as soon as it ends.

Extra measurements (calibration, robustness, corruptions: :mod:`ddbench.measurements.suite`) follow the trainings: the
trained students lie in a folder beside the evaluation while probes are open, and each finding is kept at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.evaluation.kept import Kept, cost_path, partial_log, partial_path, read_kept
from ddbench.evaluation.probing import build_suites, check_measured, combine, estimates, open_probes, tell, write_files
from ddbench.evaluation.record import head_of, whole
from ddbench.evaluation.tasks import Job, ProbeTask, Task, load_plan
from ddbench.evaluation.weights import LIMIT, clear, usable
from ddbench.measurements.suite import Choice, Probe, Suite
from ddbench.measurements.trained import weights_folder
from ddbench.networks.check import check_student
from ddbench.protocols.plan import Plan, check_plan
from ddbench.protocols.protocol import Protocol
from ddbench.runtime import device as devices
from ddbench.runtime import seeds as named_seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, ensure_writable, file_hash, text_hash, write_json
from ddbench.runtime.jobs import run_jobs
from ddbench.runtime.progress import Console
from ddbench.statistics import count_words

SEARCH_SEED = named_seeds.derive(0, "learning-rate search") % 2**31
"""Network seed of every learning-rate search: none of the seeds that are scored."""


@dataclass(kw_only=True)
class _Work:
    """What is to be done: the job, what is there already, and who is told.

    Attributes:
        identity: hash of the evaluation's head.
        folder: where trained students are kept.
        wanted, missing: (student, seed) of all runs, and of those that are not there yet.
        open: (student, seed, suite, probe) of measurements that are not there yet.
        append: keeps one record on disk.
        keep_weights: whether students stay when all is done.
    """

    job: Job
    plan: Plan
    kept: Kept
    suites: Sequence[Suite]
    sha256: str
    identity: str
    folder: Path
    workers: int
    console: Console
    wanted: list[tuple[str, int]]
    missing: list[tuple[str, int]]
    open: list[tuple[str, int, Suite, Probe]]
    append: Callable[[dict[str, Any]], None] = lambda record: None
    keep_weights: bool = False
    pairs: frozenset[tuple[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.pairs = frozenset(self.wanted)


def evaluate(
    *,
    job: Job,
    students: Sequence[str],
    seeds: Sequence[int],
    difference: dict[str, Any],
    out: Path,
    workers: int,
    console: Console,
    choices: Sequence[Choice] = (),
    keep_weights: bool = False,
) -> dict[str, Any]:
    """Score the synset of ``job``; returns the evaluation that is also written to ``out``.

    Runs and measurements that ``out`` (finished) or ``out``'s partial file (killed) hold are not repeated; a run whose
    student is needed for a measurement and is not there any more is trained again and must give the same accuracy. The
    bytes of ``out`` do not depend on the number of workers nor on interruptions; costs go to ``<out stem>.cost.json``.

    Args:
        difference: protocol settings that were altered by flags; not empty: the result is non-standard.
        choices: extra measurements.
        keep_weights: the trained students stay beside ``out``, up to :data:`ddbench.evaluation.weights.LIMIT` bytes.

    Raises:
        UserError: synset, dataset, students, teacher and protocol do not fit each other, or ``out`` is another
            evaluation, or measured otherwise.
    """
    work, head = _prepare(job, students, seeds, difference, out, workers, console, choices)
    work.keep_weights = keep_weights
    kept, wanted = work.kept, work.wanted
    if not work.missing and not work.open and not kept.fresh:
        console.say(f"finished already: all {len(wanted)} runs are in {out}")
        result = whole(head, work.plan, kept)
        write_files(out, work.suites, result, only_missing=True)
        _clear(out, work)
        return result
    ensure_writable(out.parent)
    if len(work.missing) < len(wanted):
        console.say(f"{len(wanted) - len(work.missing)} of {len(wanted)} runs are there; going on with the others")
    if work.missing or work.open:
        with partial_log(out, head) as append:
            work.append = append
            _do(work)
    combine(kept, wanted, work.suites)
    result = whole(head, work.plan, kept)
    device = devices.describe(devices.resolve_device(job.device))
    write_files(out, work.suites, result)
    write_json(cost_path(out), kept.cost_report(device, devices.cores()))
    write_json(out, result)
    _clear(out, work)
    return result


def _prepare(
    job: Job,
    students: Sequence[str],
    seeds: Sequence[int],
    difference: dict[str, Any],
    out: Path,
    workers: int,
    console: Console,
    choices: Sequence[Choice],
) -> tuple[_Work, dict[str, Any]]:
    """What is to be done, and the head of the evaluation; everything is checked, nothing is written."""
    devices.resolve_device(job.device)
    sha256 = file_hash(job.synset)
    plan, dataset = load_plan(job, sha256)
    for student in students:
        check_student(student, dataset.spec.channels, dataset.spec.size)
    check_plan(plan, dataset)
    if job.at_once < 1:
        raise UserError(f"--at-once {job.at_once}: expected at least 1")
    if job.max_images is not None:
        if job.max_images < 1:
            raise UserError(f"--max-images {job.max_images}: expected at least 1")
        difference = {**difference, "max_images": job.max_images}
    suites = build_suites(choices, plan, dataset)
    head = head_of(job, plan, sha256, dataset, difference)
    kept = read_kept(out, head)
    check_measured(out, kept, suites)
    wanted = [(student, seed) for student in students for seed in seeds]
    work = _Work(
        job=job,
        plan=plan,
        kept=kept,
        suites=suites,
        sha256=sha256,
        identity=text_hash(head)[:16],
        folder=weights_folder(out),
        workers=workers,
        console=console,
        wanted=wanted,
        missing=[pair for pair in wanted if pair not in kept.runs],
        open=open_probes(kept, wanted, suites),
    )
    return work, head


def _do(work: _Work) -> None:
    """Train and measure what is missing, each record kept at once."""
    job, kept = work.job, work.kept
    if work.open and not work.console.quiet:
        runs = [(suite.kind, probe.name, student) for student, _, suite, probe in work.open]
        tell(work.console, work.suites, estimates(work.suites, runs, work.plan, job.settings, work.workers))
    for suite in work.suites:
        if not kept.holds(suite.kind):
            record = {"measured": suite.kind, "settings": json.loads(canonical_json(suite.settings))}
            work.append(record)
            kept.take(record)
    if work.missing and job.protocol.lr_source == "search":
        _train(work, "learning rates", _search_tasks(job.protocol, work.missing, kept, work.sha256))
    _train(work, f"evaluate ({job.protocol.name})", _run_tasks(work, work.missing), len(work.wanted))
    _train(work, "students that are measured, again", _run_tasks(work, _trained_again(work)))
    _probe(work)


def _trained_again(work: _Work) -> list[tuple[str, int]]:
    """Runs that are there, have open probes, and whose students are not there; with those of their blocks."""
    kept, block = work.kept, work.job.at_once
    gone = {
        (student, seed // block)
        for student, seed, _, _ in work.open
        if (student, seed) in kept.runs
        and not usable(work.folder, student, seed, kept.runs[student, seed]["accuracy"], work.identity)
    }
    return [pair for pair in work.wanted if pair in kept.runs and (pair[0], pair[1] // block) in gone]


def _clear(out: Path, work: _Work) -> None:
    """Remove what is only for a killed evaluation; of the students what is not kept."""
    partial_path(out).unlink(missing_ok=True)
    found = clear(out, work.keep_weights)
    if found is None or not work.keep_weights:
        return
    students = count_words(len(work.kept.runs), "student")
    said = f"{found.files} of {students} kept, {found.bytes / 1e6:.1f} MB: {work.folder}"
    if found.left_out:
        said += f"; more would be beyond {LIMIT / 1e9:g} GB"
    elif found.files < len(work.kept.runs):
        said += "; the others were trained before, without --keep-weights"
    work.console.say(said)


def _search_tasks(protocol: Protocol, missing: list[tuple[str, int]], kept: Kept, sha256: str) -> list[Task]:
    students = dict.fromkeys(student for student, _ in missing)
    return [
        Task(student=student, seeds=(SEARCH_SEED,), sha256=sha256, lr=rate, search=True)
        for student in students
        for rate in protocol.lr_grid
        if rate not in kept.searches.get(student, {})
    ]


def _run_tasks(work: _Work, pairs: list[tuple[str, int]]) -> list[Task]:
    """Runs in whole blocks of ``at_once`` neighbouring seeds, wanted or not: rounding depends on the block."""
    size = work.job.at_once
    blocks = dict.fromkeys((student, seed // size) for student, seed in pairs)
    search = work.job.protocol.lr_source == "search"
    return [
        Task(
            student=student,
            seeds=tuple(range(block * size, (block + 1) * size)),
            sha256=work.sha256,
            lr=work.kept.best_rate(student) if search else None,
            keep=work.folder if work.suites or work.keep_weights else None,
            needed=bool(work.suites),
            identity=work.identity,
        )
        for student, block in blocks
    ]


def _train(work: _Work, title: str, tasks: list[Task], total: int = 0) -> None:
    """Do the trainings, keeping each as soon as it ends; one that was done before must end as it did."""
    if not tasks:
        return
    kept = work.kept
    todo = sum(task.search or (task.student, seed) in work.pairs for task in tasks for seed in task.seeds)
    with work.console.bar(title, total or todo, (total or todo) - todo) as bar:
        for _, records in run_jobs("ddbench.evaluation.tasks:run_task", work.job, tasks, work.workers):
            for record in records:
                if "searched_lr" not in record and (record["student"], record["seed"]) not in work.pairs:
                    continue  # of a block that is not wanted whole
                known = None if "searched_lr" in record else kept.runs.get((record["student"], record["seed"]))
                if known is None:
                    work.append(record)
                    kept.take(record)
                elif known["accuracy"] != record["metrics"]["accuracy"]:
                    raise UserError(
                        f"{record['student']}, seed {record['seed']}: trained again its accuracy is "
                        f"{record['metrics']['accuracy']:.6f}, in the evaluation it is {known['accuracy']:.6f} "
                        "(another device or number of threads?); evaluate everything at once into another --out"
                    )
                value = record["holdout_accuracy"] if "searched_lr" in record else record["metrics"]["accuracy"]
                bar.advance(f"{record['student']} {value:.3f}")


def _probe(work: _Work) -> None:
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
    with work.console.bar("measure " + ", ".join(suite.kind for suite in work.suites), len(tasks)) as bar:
        for _, record in run_jobs("ddbench.evaluation.tasks:run_probe", work.job, tasks, work.workers):
            work.append(record)
            work.kept.take(record)
            bar.advance(f"{record['student']} {record['probe']}")
