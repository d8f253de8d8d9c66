"""Scoring a synset: students x seeds under one protocol; each run is kept as soon as it ends.

Extra measurements (calibration, robustness, corruptions: :mod:`ddbench.measurements.suite`) follow the trainings: the
trained students lie in a folder beside the evaluation while probes are open, and each finding is kept at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.evaluation.kept import Kept, cost_path, read_kept, same_head
from ddbench.evaluation.parts import HEAD, Writer, part_name, parts_folder, remove_parts, writers, writing
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
from ddbench.runtime.files import canonical_json, ensure_writable, file_hash, read_json, text_hash, write_json
from ddbench.runtime.jobs import run_jobs
from ddbench.runtime.progress import Console
from ddbench.statistics import count_words

SEARCH_SEED = named_seeds.derive(0, "learning-rate search") % 2**31
"""Network seed of every learning-rate search: none of the seeds that are scored."""

NONE = {"accuracy": float("nan")}
"""Metrics of a run that diverged."""


@dataclass(kw_only=True)
class _Work:
    """What is to be done: the job, what is there already, and who is told.

    Attributes:
        identity: hash of the evaluation's head.
        folder: where trained students are kept.
        wanted, missing: (student, seed) of all runs, and of those that are not there yet.
        open: (student, seed, suite, probe) of measurements that are not there yet.
        out: the result; beside it are the records.
        writer: keeps a record on disk.
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
    out: Path
    head: dict[str, Any]
    writer: Writer | None = None
    keep_weights: bool = False
    pairs: frozenset[tuple[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.pairs = frozenset(self.wanted)

    def keep(self, record: dict[str, Any]) -> None:
        """Put a record on disk and into the tables."""
        assert self.writer is not None
        self.writer.append(record)
        self.kept.take(record)


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

    Runs and measurements that ``out`` (finished) or the records beside it (killed) hold are not repeated; a run whose
    student is needed for a measurement and is not there any more is trained again and must give the same accuracy. The
    bytes of ``out`` do not depend on the number of workers nor on interruptions; costs go to ``<out stem>.cost.json``.

    Several processes may extend one ``out`` at once, also on several machines that share the folder: the last one to
    end leaves a result with the runs of all. A student with a seed that diverged has no place in the summary; the seeds
    are told in ``diverged``.

    Args:
        difference: protocol settings that were altered by flags; not empty: the result is non-standard.
        choices: extra measurements.
        keep_weights: the trained students stay beside ``out``, up to :data:`ddbench.evaluation.weights.LIMIT` bytes.

    Raises:
        UserError: synset, dataset, students, teacher and protocol do not fit each other, or ``out`` is another
            evaluation, or measured otherwise.
    """
    work = _prepare(job, students, seeds, difference, out, workers, console, choices)
    work.keep_weights = keep_weights
    kept, wanted = work.kept, work.wanted
    if not work.missing and not work.open and not kept.fresh and _combined(work):
        console.say(f"finished already: all {len(wanted)} runs are in {out}")
        result = whole(work.head, work.plan, kept)
        write_files(out, work.suites, result, only_missing=True)
        if not writers(parts_folder(out)):
            _clear(work, kept)
        return result
    ensure_writable(out.parent)
    if len(work.missing) < len(wanted):
        console.say(f"{len(wanted) - len(work.missing)} of {len(wanted)} runs are there; going on with the others")
    folder = parts_folder(out)
    with writing(folder) as writer:
        work.writer = writer
        same_head(folder / HEAD, writer.claim(HEAD, work.head), work.head)
        _do(work)
        return _finish(work, writer)


def _prepare(
    job: Job,
    students: Sequence[str],
    seeds: Sequence[int],
    difference: dict[str, Any],
    out: Path,
    workers: int,
    console: Console,
    choices: Sequence[Choice],
) -> _Work:
    """What is to be done; everything is checked, nothing is written."""
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
    return _Work(
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
        missing=[pair for pair in wanted if not kept.tried(*pair)],
        open=open_probes(kept, wanted, suites),
        out=out,
        head=head,
    )


def _do(work: _Work) -> None:
    """Train and measure what is missing, each record kept at once."""
    job, kept = work.job, work.kept
    if work.open and not work.console.quiet:
        runs = [(suite.kind, probe.name, student) for student, _, suite, probe in work.open]
        tell(work.console, work.suites, estimates(work.suites, runs, work.plan, job.settings, work.workers))
    for suite in work.suites:
        if not kept.holds(suite.kind):
            _claim(work, suite)
    if work.missing and job.protocol.lr_source == "search":
        _train(work, "learning rates", _search_tasks(job.protocol, work.missing, kept, work.sha256))
    _train(work, f"evaluate ({job.protocol.name})", _run_tasks(work, work.missing), len(work.wanted))
    work.open = [probe for probe in work.open if probe[0] not in kept.lost()]
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


def _claim(work: _Work, suite: Suite) -> None:
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


def _combined(work: _Work) -> bool:
    """Whether what was measured is in the result."""
    return all(
        (*pair, suite.kind) in work.kept.findings
        for pair in work.wanted
        for suite in work.suites
        if pair[0] not in work.kept.lost()
    )


def _finish(work: _Work, writer: Writer) -> dict[str, Any]:
    """Put together what is there, of all processes, and remove the records if this one is the last.

    A process that read before another one wrote may replace a better result by a worse one: the records are there until
    a process finds nobody else at work, and nothing to add.
    """
    job, out = work.job, work.out
    device = devices.describe(devices.resolve_device(job.device))
    while True:
        kept, result = _put_together(work)
        _check_scored(work, kept, writer)
        write_files(out, work.suites, result)
        write_json(cost_path(out), kept.cost_report(device, devices.cores()))
        write_json(out, result)
        writer.leave()
        if writer.others():
            if work.keep_weights:
                clear(out, keep=True)  # lists them, so that the last one leaves them
            work.console.say(f"another process is at work on {out}; it will add its runs")
            return result
        kept, again = _put_together(work)
        costs = read_json(cost_path(out), "cost record")
        if read_json(out, "evaluation") == again and costs["runs"] == kept.cost_report("", 0)["runs"]:
            _clear(work, kept)
            return result
        writer.enter()


def _check_scored(work: _Work, kept: Kept, writer: Writer) -> None:
    """Refuse an evaluation of which every run diverged.

    Raises:
        UserError: names the first.
    """
    if any(pair in kept.runs for pair in work.wanted):
        return
    if not writer.others():
        remove_parts([path for path, record in kept.records if "diverged" in record], parts_folder(work.out))
    student, seed = work.wanted[0]
    raise UserError(f"{student}, seed {seed}: {kept.diverged[student, seed]}; no student is left to be scored")


def _put_together(work: _Work) -> tuple[Kept, dict[str, Any]]:
    """What result and records hold now, and the evaluation made of it."""
    kept = read_kept(work.out, work.head)
    if open_probes(kept, work.wanted, work.suites):
        raise UserError(f"{work.out}: another process measured with other settings meanwhile; choose another --out")
    combine(kept, work.suites)
    return kept, whole(work.head, work.plan, kept)


def _clear(work: _Work, kept: Kept) -> None:
    """Remove the records that are in the result, and the students that are not kept.

    What was begun with other measurements stays for who goes on.
    """
    begun = {
        str(record["kind"])
        for _, record in kept.records
        if "probe" in record
        and record["settings"] == kept.identity(record["kind"])
        and (record["student"], record["seed"], record["kind"]) not in kept.findings
        and record["student"] not in kept.lost()
    }
    left = [path for path, record in kept.records if {record.get("measured"), record.get("kind")} & begun]
    remove_parts([path for path, _ in kept.records if path not in left], parts_folder(work.out))
    found = clear(work.out, work.keep_weights) if work.keep_weights or not left else None
    if found is None or not work.keep_weights:
        return
    students = count_words(len(kept.runs), "student")
    said = f"{found.files} of {students} kept, {found.bytes / 1e6:.1f} MB: {work.folder}"
    if found.left_out:
        said += f"; more would be beyond {LIMIT / 1e9:g} GB"
    elif found.files < len(kept.runs):
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
                if "diverged" in record and (record["student"], record["seed"]) not in kept.runs:
                    work.keep(record)
                    bar.advance(f"{record['student']} diverged")
                    continue
                known = None if "searched_lr" in record else kept.runs.get((record["student"], record["seed"]))
                if known is None:
                    work.keep(record)
                elif known["accuracy"] != (now := record.get("metrics", NONE)["accuracy"]):
                    raise UserError(
                        f"{record['student']}, seed {record['seed']}: trained again its accuracy is {now:.6f}, in the "
                        f"evaluation it is {known['accuracy']:.6f} "
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
            work.keep({**record, "settings": work.kept.identity(record["kind"])})
            bar.advance(f"{record['student']} {record['probe']}")
