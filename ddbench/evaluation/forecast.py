"""What an evaluation will take, from a short training of each student on this device; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddbench.data.dataset import Split, balanced
from ddbench.evaluation.evaluator import prepared
from ddbench.evaluation.probing import estimates
from ddbench.evaluation.tasks import Job, load_plan
from ddbench.evaluation.weights import LIMIT
from ddbench.evaluation.work import Work, run_tasks, trained_again
from ddbench.measurements.suite import Choice
from ddbench.measurements.trained import weights_bytes
from ddbench.modalities import require_forecast
from ddbench.protocols.plan import Plan
from ddbench.protocols.training import Settings, tested_students, trained_students
from ddbench.runtime import device as devices
from ddbench.runtime.forecast import Forecast, Measured, clocked, count_flops, free_memory, taken_memory, waiter
from ddbench.runtime.progress import Console
from ddbench.runtime.shards import WHOLE
from ddbench.training.loops import forward_flops

TESTED = 512
"""Test images that are judged while the clock runs."""

RUN_BYTES = 1000
"""About what a result and its costs have of a run."""


def forecast(
    *,
    job: Job,
    students: Sequence[str],
    seeds: Sequence[int],
    difference: dict[str, Any],
    out: Path,
    workers: int,
    console: Console,
    choices: Sequence[Choice],
    keep_weights: bool,
    seconds: float,
) -> Forecast:
    """What :func:`ddbench.evaluation.evaluator.evaluate` will take with these arguments; a unit is a student's run.

    Args:
        seconds: that each student is trained.

    Raises:
        UserError: as the evaluation.
    """
    work = prepared(job, students, seeds, difference, out, workers, console, choices, WHOLE)
    devices.prepare(job.threads)
    device = devices.resolve_device(job.device)
    plan, dataset = load_plan(job, work.sha256)
    require_forecast(plan.synset.modality)
    test = balanced(dataset.test, job.max_images or len(dataset.test), dataset.spec.classes)
    missing = [student for student, _ in work.missing]
    tasks = run_tasks(work, work.missing) + run_tasks(work, trained_again(work))
    trained = [task.student for task in tasks for _ in task.seeds]
    tries = len(_grid(job))
    measured: list[Measured] = []
    left: list[float] = []
    flops, weights = 0.0, 0
    for student in dict.fromkeys(trained):
        settings = replace(job.settings, compile="off")
        found, run, operations, kept = _student(plan, test, student, settings, work.together[student], seconds)
        measured += found
        tried = work.kept.searches.get(student, {})
        trainings = trained.count(student) + (student in missing) * sum(rate not in tried for rate in _grid(job))
        left += [run] * trainings
        flops += operations * trainings
        weights += kept * missing.count(student)
    measurements = _measurements(work)
    notes = ["measured without torch.compile"]
    if measurements:
        notes.append(f"{measurements:.3g} s of it, coarsely, for the measurements beside accuracy")
        left = [one + measurements / len(left) for one in left] if left else [measurements]
    return Forecast(
        what=f"{_counted(students, 'student')} x {_counted(seeds, 'seed')}, protocol {job.protocol.name}, "
        f"{max(plan.epochs, plan.stages)} epochs" + (f", {tries} learning rates searched" if tries else ""),
        unit="run",
        all=len(work.wanted),
        done=len(work.wanted) - len(missing),
        seconds=left,
        flops=flops,
        measured=measured,
        memory=taken_memory(device),
        free=free_memory(device),
        disk=RUN_BYTES * len(missing) + (min(weights, LIMIT) if keep_weights else 0),
        place=str(out.parent),
        device=devices.describe(device),
        threads=job.threads,
        notes=notes,
    )


def _counted(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' if len(things) != 1 else ''}"


def _grid(job: Job) -> Sequence[float]:
    return job.protocol.lr_grid if job.protocol.lr_source == "search" else ()


def _student(
    plan: Plan, test: Split, student: str, settings: Settings, at_once: int, seconds: float
) -> tuple[list[Measured], float, float, int]:
    """What was measured of a student; and of one of its runs the seconds, operations, and bytes of its weights."""
    device = devices.resolve_device(settings.device)
    wait, together = waiter(device), range(at_once)
    least = 1 if plan.protocol.replay else plan.stages

    def train(epochs: int, seeds: Sequence[int] = together) -> Any:
        fresh = replace(plan.synset)  # of another synset no views are kept: making them is part of an epoch
        short = replace(plan, synset=fresh, protocol=replace(plan.protocol, epochs=epochs, full_epochs=epochs))
        return trained_students(short, student, seeds, settings)[0]

    operations = count_flops(lambda: train(least, (0,)))
    if at_once > 1:
        train(least)  # what stacked networks need is loaded before the clock runs
    _, first = clocked(lambda _: train(least), 0, 1, wait)
    net = train(least, (0,))[0]
    more = 0 if plan.protocol.replay else max(1, min(int(seconds / max(first, 1e-6)), 100)) * least
    _, longer = clocked(lambda _: train(least + more), 0, 1, wait) if more else (1, first)
    epoch = (longer - first) / more if longer > first else first / least  # the longer one was quicker: other work
    epochs = least if plan.protocol.replay else max(plan.epochs, least)  # a stage has one pass at least
    some = Split(test.images[:TESTED], test.labels[:TESTED])
    times, judged = clocked(lambda _: tested_students(plan, some, {0: net}, settings, None), seconds / 4, 10, wait)
    looks = len(test) / len(some)
    measured = [
        Measured(what=f"epoch of {student}", times=more or 1, seconds=epoch / at_once, flops=operations / least),
        Measured(what=f"test of {len(some):,} images by {student}", times=times, seconds=judged),
    ]
    run = (first + epoch * (epochs - least)) / at_once + judged * looks
    forward = forward_flops(net, tuple(test.images.shape[1:])) * len(test)
    return measured, run, operations / least * epochs + forward, weights_bytes(net)


def _measurements(work: Work) -> float:
    """Seconds of the measurements beside accuracy, for one worker."""
    if not work.open:
        return 0.0
    runs = [(suite.kind, probe.name, student) for student, _, suite, probe in work.open]
    return 60 * sum(one.minutes for one in estimates(work.suites, runs, work.plan, work.job.settings, 1))
