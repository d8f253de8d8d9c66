"""Scoring a synset: students x seeds under one protocol; each run is kept as soon as it ends.

Extra measurements (calibration, robustness, corruptions: :mod:`ddbench.measurements.suite`) follow the trainings: the
trained students lie in a folder beside the evaluation while probes are open, and each finding is kept at once.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddbench.data.dataset import Dataset, Split, holdout_split, validation_sample
from ddbench.data.load import load_dataset
from ddbench.evaluation.kept import KIND, SCHEMA, Kept, cost_path, partial_log, partial_path, read_kept
from ddbench.evaluation.probing import build_suites, check_measured, combine, estimates, open_probes, tell, write_files
from ddbench.evaluation.storage import storage
from ddbench.measurements.suite import Choice, Probe, Suite, Trained
from ddbench.measurements.trained import has_weights, measure, open_student, weights_folder, write_weights
from ddbench.networks.check import check_student
from ddbench.protocols.labels import read_labels
from ddbench.protocols.plan import Plan, check_plan, learned_rate, rate_of
from ddbench.protocols.protocol import Protocol
from ddbench.protocols.training import Settings, tested_students, train_student, trained_students
from ddbench.runtime import device as devices
from ddbench.runtime import seeds as named_seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, ensure_writable, file_hash, text_hash, write_json
from ddbench.runtime.jobs import run_jobs
from ddbench.runtime.progress import Console
from ddbench.runtime.resources import Meter, peak_memory
from ddbench.synset import check_against, read_synset
from ddbench.teachers.store import read_teacher

METRICS = {"accuracy": {"unit": "fraction", "better": "higher", "title": "Test accuracy"}}

SEARCH_SEED = named_seeds.derive(0, "learning-rate search") % 2**31
"""Network seed of every learning-rate search: none of the seeds that are scored."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker needs to train any student on the synset.

    Attributes:
        synset: the file.
        data: folder with the datasets.
        size: side in pixels, for datasets that come in any size.
        teacher: file of the teacher, for protocols whose labels come from one.
        labels: file of stored labels, for protocols that replay them.
        max_images: test on the first so many images only.
        at_once: seeds trained at once on one device; rounding then depends on it, so it is recorded.
    """

    synset: Path
    data: Path | None
    size: int | None
    protocol: Protocol
    device: str
    threads: int
    precision: str
    compile: str
    max_images: int | None
    teacher: Path | None = None
    labels: Path | None = None
    at_once: int = 1

    @property
    def settings(self) -> Settings:
        """How its processes compute."""
        return Settings(device=self.device, threads=self.threads, precision=self.precision, compile=self.compile)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training: a student's runs with some seeds at once, or (``search``) one learning rate on held-out images.

    Attributes:
        keep: folder in which the trained students are kept; None: nowhere.
        identity: of the evaluation, written into them.
    """

    student: str
    seeds: tuple[int, ...]
    sha256: str
    lr: float | None = None
    search: bool = False
    keep: Path | None = None
    identity: str = ""


@dataclass(frozen=True, kw_only=True)
class ProbeTask:
    """One probe of one trained student, which lies in ``folder``; on so many test ``images``."""

    student: str
    seed: int
    sha256: str
    kind: str
    probe: Probe
    images: int
    folder: Path


@dataclass(kw_only=True)
class _Work:
    """What is to be done: the job, what is there already, and who is told.

    Attributes:
        identity: hash of the evaluation's head.
        folder: where trained students are kept.
        pairs: (student, seed) that are wanted.
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
    pairs: frozenset[tuple[str, int]]
    append: Any = None
    open: list[tuple[str, int, Suite, Probe]] = field(default_factory=list)


@functools.lru_cache(maxsize=1)
def _loaded(
    synset: Path, sha256: str, data: Path | None, size: int | None, teacher: Path | None, labels: Path | None
) -> tuple[Plan, Dataset]:
    """Synset, teacher, labels and data of a job, read once a process; the plan's protocol is set by the caller."""
    content = read_synset(synset)
    dataset = load_dataset(content.dataset, data, size=size)
    plan = Plan(
        synset=content,
        protocol=Protocol(name="none"),
        preprocess=check_against(synset, content, dataset),
        flip=dataset.spec.flip,
        teacher=read_teacher(teacher) if teacher else None,
        stored=read_labels(labels) if labels else None,
        synset_sha256=sha256,
    )
    return plan, dataset


def load_plan(job: Job, sha256: str) -> tuple[Plan, Dataset]:
    """The plan of a job, and its dataset.

    Raises:
        UserError: one of its files is missing or malformed, or they do not belong together.
    """
    plan, dataset = _loaded(job.synset, sha256, job.data, job.size, job.teacher, job.labels)
    return replace(plan, protocol=job.protocol), dataset


def run_task(job: Job, task: Task) -> list[dict[str, Any]]:
    """One training, and a record of each run in it; run by a worker."""
    devices.prepare(job.threads)
    meter = Meter()
    plan, dataset = load_plan(job, task.sha256)
    if task.search:
        found: list[dict[str, Any]] = [
            {"searched_lr": task.lr, "holdout_accuracy": _try_rate(plan, dataset, task, job.settings)}
        ]
    else:
        found = _train_and_test(job, task, plan, dataset)
    cost = {
        "wall_seconds": meter.wall / len(found),
        "cpu_seconds": meter.cpu / len(found),
        "peak_memory_bytes": peak_memory(),
    }
    return [{"student": task.student, **record, "cost": cost} for record in found]


def _train_and_test(job: Job, task: Task, plan: Plan, dataset: Dataset) -> list[dict[str, Any]]:
    test = Split(dataset.test.images[: job.max_images], dataset.test.labels[: job.max_images])
    nets, compiler = trained_students(plan, task.student, task.seeds, job.settings, task.lr, tests=len(test))
    by_seed = dict(zip(task.seeds, nets, strict=True))
    scores = tested_students(plan, test, task.student, by_seed, job.settings, task.lr, compiler)
    for (seed, net), score in zip(by_seed.items(), scores, strict=True):
        if task.keep is not None:
            own = score["accuracy"]
            write_weights(task.keep, net, student=task.student, seed=seed, accuracy=own, identity=task.identity)
    return [{"seed": seed, "metrics": metrics} for seed, metrics in zip(task.seeds, scores, strict=True)]


@functools.lru_cache(maxsize=1)
def _opened(job: Job, sha256: str, folder: Path, student: str, seed: int, images: int) -> Trained:
    """The student of the last probe, which is often that of the next."""
    plan, dataset = load_plan(job, sha256)
    return open_student(plan, dataset, folder, student, seed, job.settings, images)


def run_probe(job: Job, task: ProbeTask) -> dict[str, Any]:
    """One probe; run by a worker."""
    devices.prepare(job.threads)
    meter = Meter()
    trained = _opened(job, task.sha256, task.folder, task.student, task.seed, task.images)
    finding = measure(trained, task.probe)
    cost = {"wall_seconds": meter.wall, "cpu_seconds": meter.cpu, "peak_memory_bytes": peak_memory()}
    named = {"student": task.student, "seed": task.seed, "kind": task.kind, "probe": task.probe.name}
    return {**named, "finding": finding.to_json(), "cost": cost}


SEARCH_HOLDOUT = 0.1


def _try_rate(plan: Plan, dataset: Dataset, task: Task, settings: Settings) -> float:
    """Accuracy on held-out *training* images of a student trained on the synset with one learning rate.

    The held-out images are those that the synset's method did not see, where it kept some back. The whole training set
    (method ``full``) is searched without them.
    """
    synset, classes = plan.synset, plan.synset.classes
    fraction = synset.config.get("holdout")
    fraction = fraction if isinstance(fraction, float) and 0 < fraction <= 0.9 else SEARCH_HOLDOUT
    rest, held_out = holdout_split(dataset.train, fraction, classes, dataset.root)
    if synset.budget.unit == "all":
        plan = replace(plan, synset=replace(synset, images=rest.images, labels=rest.labels))
    try:
        found = train_student(plan, validation_sample(held_out), task.student, task.seeds[0], settings, task.lr)
    except UserError:  # it diverged: the worst of rates, not the end of the search
        return 0.0
    return found["accuracy"]


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
) -> dict[str, Any]:
    """Score the synset of ``job``; returns the evaluation that is also written to ``out``.

    Runs and measurements that ``out`` (finished) or ``out``'s partial file (killed) hold are not repeated; a run whose
    student is needed for a measurement and is not there any more is trained again and must give the same accuracy. The
    bytes of ``out`` do not depend on the number of workers nor on interruptions; costs go to ``<out stem>.cost.json``.

    Args:
        difference: protocol settings that were altered by flags; not empty: the result is non-standard.
        choices: extra measurements.

    Raises:
        UserError: synset, dataset, students, teacher and protocol do not fit each other, or ``out`` is another
            evaluation, or measured otherwise.
    """
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
    head = _head(job, plan, sha256, dataset, difference)
    kept = read_kept(out, head)
    check_measured(out, kept, suites)
    wanted = [(student, seed) for student in students for seed in seeds]
    missing = [pair for pair in wanted if pair not in kept.runs]
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
        pairs=frozenset(wanted),
    )
    work.open = open_probes(kept, wanted, suites)
    if not missing and not work.open and not kept.fresh:
        console.say(f"finished already: all {len(wanted)} runs are in {out}")
        result = _result(head, plan, kept)
        write_files(out, suites, result, only_missing=True)
        _clear(out)
        return result
    ensure_writable(out.parent)
    if len(missing) < len(wanted):
        console.say(f"{len(wanted) - len(missing)} of {len(wanted)} runs are there; going on with the others")
    if missing or work.open:
        open_runs = [(suite.kind, probe.name, student) for student, _, suite, probe in work.open]
        if work.open and not console.quiet:
            tell(console, suites, estimates(suites, open_runs, plan, job.settings, workers))
        with partial_log(out, head) as append:
            work.append = append
            for suite in suites:
                if not kept.holds(suite.kind):
                    record = {"measured": suite.kind, "settings": json.loads(canonical_json(suite.settings))}
                    append(record)
                    kept.take(record)
            if missing and job.protocol.lr_source == "search":
                _train(work, "learning rates", _search_tasks(job.protocol, missing, kept, sha256))
            _train(work, f"evaluate ({job.protocol.name})", _run_tasks(work, missing), len(wanted))
            _train(work, "students that are measured, again", _run_tasks(work, _trained_again(work, wanted)))
            _probe(work)
    combine(kept, wanted, suites)
    result = _result(head, plan, kept)
    device = devices.describe(devices.resolve_device(job.device))
    write_files(out, suites, result)
    write_json(cost_path(out), kept.cost_report(device, devices.cores()))
    write_json(out, result)
    _clear(out)
    return result


def _trained_again(work: _Work, wanted: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Runs that are there, have open probes, and whose students are not there; with those of their blocks."""
    kept, block = work.kept, work.job.at_once
    gone = {
        (student, seed // block)
        for student, seed, _, _ in work.open
        if (student, seed) in kept.runs
        and not has_weights(work.folder, student, seed, kept.runs[student, seed]["accuracy"], work.identity)
    }
    return [pair for pair in wanted if pair in kept.runs and (pair[0], pair[1] // block) in gone]


def _clear(out: Path) -> None:
    """Remove what is only for a killed evaluation."""
    partial_path(out).unlink(missing_ok=True)
    shutil.rmtree(weights_folder(out), ignore_errors=True)


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
            keep=work.folder if work.suites else None,
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
        for _, records in run_jobs("ddbench.evaluation.evaluator:run_task", work.job, tasks, work.workers):
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
        for _, record in run_jobs("ddbench.evaluation.evaluator:run_probe", work.job, tasks, work.workers):
            work.append(record)
            work.kept.take(record)
            bar.advance(f"{record['student']} {record['probe']}")


def _result(head: dict[str, Any], plan: Plan, kept: Kept) -> dict[str, Any]:
    """The evaluation: head, learning rates, runs, statistics."""
    rates: dict[str, Any] = {}
    for student in sorted({student for student, _ in kept.runs}):
        searched = kept.searches.get(student, {})
        rates[student] = {
            "rate": kept.best_rate(student) if searched else rate_of(plan, student),
            "source": _rate_source(plan, bool(searched)),
            "searched": {repr(rate): value for rate, value in sorted(searched.items())},
        }
    made = {**head, "metrics": {**METRICS, **kept.metrics}, "learning_rates": rates, **kept.tables()}
    if kept.findings:
        kinds = {kind for _, _, kind in kept.findings}
        made["measured"] = {kind: settings for kind, settings in kept.measured.items() if kind in kinds}
        made["details"] = kept.details
        made["findings"] = [
            {"student": student, "seed": seed, "kind": kind, "details": details}
            for (student, seed, kind), details in sorted(kept.findings.items())
        ]
    return made


def _rate_source(plan: Plan, searched: bool) -> str:
    if searched:
        return "search on held-out training images"
    return "protocol" if learned_rate(plan.synset, plan.protocol) is None else "synset"


def _head(job: Job, plan: Plan, sha256: str, dataset: Dataset, difference: dict[str, Any]) -> dict[str, Any]:
    """Everything of an evaluation but its runs; two evaluations with equal heads can share runs."""
    synset, lr = plan.synset, plan.synset.learned_lr
    teacher, stored = plan.teacher, plan.stored
    kinds = {"teacher": "teacher", "stored": "teacher", "hard": "hard"}
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "synset": {
            "sha256": sha256,
            "method": synset.method,
            "dataset": synset.dataset,
            "dataset_fingerprint": synset.fingerprint,
            "modality": synset.modality,
            "budget": {"unit": synset.budget.unit, "value": synset.budget.value},
            "classes": synset.classes,
            "shape": list(synset.images.shape[1:]),
            "images": len(synset.images),
            "decoded_images": synset.decoded_images,
            "label_kind": kinds.get(job.protocol.labels, synset.label_kind),
            "student": synset.student,
            "seed": synset.seed,
            "preprocess": synset.preprocess,
            "config": synset.config,
            "learned_lr": float(lr) if lr is not None and lr.ndim == 0 else None,
            "bytes": storage(plan, dataset),
        },
        "teacher": teacher.reference() if job.protocol.labels == "teacher" and teacher else None,
        "labels": stored.reference() if job.protocol.labels == "stored" and stored else None,
        "protocol": {
            "name": job.protocol.name,
            "hash": job.protocol.hash,
            "standard": not difference,
            "changed": difference,
            "settings": job.protocol.settings(),
        },
        "precision": job.precision,
        "threads": job.threads,
        "at_once": job.at_once,
        "versions": devices.versions(),
    }
