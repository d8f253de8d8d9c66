"""What a worker of an evaluation does: train and test students, try a learning rate, measure a trained student."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddbench.data.dataset import Dataset, holdout_split, validation_sample
from ddbench.evaluation.weights import room
from ddbench.measurements.suite import Probe, Trained
from ddbench.measurements.trained import measure, open_student, weights_bytes, weights_path, write_weights
from ddbench.modalities import modality, modality_at
from ddbench.protocols.plan import Plan
from ddbench.protocols.training import DivergedError, Settings, train_student
from ddbench.runtime import device as devices
from ddbench.runtime.files import gone
from ddbench.runtime.resources import Meter, peaks


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker needs to train any student on the synset.

    Attributes:
        synset: the file; its modality says what the rest is.
        data: folder with the datasets.
        size: side in pixels, for datasets that come in any size.
        teacher: file of the teacher, for protocols whose labels come from one.
        labels: file of stored labels, for protocols that replay them.
        max_images: test on so many images only, of the classes alike.
        at_once: seeds trained at once on one device; rounding then depends on it, so it is recorded.
    """

    synset: Path
    data: Path | None
    size: int | None
    protocol: Any
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
        asked: those of the seeds that are asked for; the others are there for the rounding only.
        keep: folder in which the trained students of these are kept; None: nowhere.
        needed: they are measured afterwards: kept whatever their size.
        identity: of the evaluation, written into them.
    """

    student: str
    seeds: tuple[int, ...]
    sha256: str
    lr: float | None = None
    search: bool = False
    asked: tuple[int, ...] = ()
    keep: Path | None = None
    needed: bool = True
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


def _state(path: Path | None) -> tuple[int, ...] | None:
    """What is another where a file was written anew; None: there is none."""
    if path is None or not path.exists():
        return None
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


@functools.lru_cache(maxsize=1)
def _loaded(
    synset: Path,
    sha256: str,
    data: Path | None,
    size: int | None,
    teacher: Path | None,
    labels: Path | None,
    states: tuple[Any, ...],
) -> tuple[Any, Any]:
    """Plan and dataset of a job, read once a process while its files are in these states; the plan's protocol is set by
    the caller.
    """
    return modality_at(synset).open(synset, sha256, data, size, teacher, labels)


def load_plan(job: Job, sha256: str) -> tuple[Any, Any]:
    """The plan of a job, and its dataset.

    Raises:
        UserError: one of its files is missing or malformed, or they do not belong together.
    """
    states = (_state(job.teacher), _state(job.labels))
    plan, dataset = _loaded(job.synset, sha256, job.data, job.size, job.teacher, job.labels, states)
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
    seconds = {"wall_seconds": meter.wall / len(found), "cpu_seconds": meter.cpu / len(found)}
    cost = seconds | peaks(str(devices.resolve_device(job.device)))
    return [{"student": task.student, **record, "cost": cost} for record in found]


def _train_and_test(job: Job, task: Task, plan: Any, dataset: Any) -> list[dict[str, Any]]:
    kind = modality(plan.synset.modality)
    found: list[dict[str, Any]] = []
    for one in kind.train_and_test(plan, dataset, task.student, task.seeds, job.settings, task.lr, job.max_images):
        if isinstance(one.metrics, str):
            found.append({"seed": one.seed, "diverged": one.metrics})
            continue
        found.append({"seed": one.seed, "metrics": one.metrics})
        if task.keep is not None and not task.keep.parent.is_dir():
            raise gone(task.keep.parent)
        if task.keep is None or one.net is None or one.seed not in task.asked:
            continue
        if task.needed or room(task.keep, weights_bytes(one.net)):
            own = one.metrics["accuracy"]
            write_weights(task.keep, one.net, student=task.student, seed=one.seed, accuracy=own, identity=task.identity)
    return found


@functools.lru_cache(maxsize=1)
def _opened(job: Job, sha256: str, folder: Path, student: str, seed: int, images: int, state: Any) -> Trained:
    """The student of the last probe, which is often that of the next, while its file is in this state."""
    plan, dataset = load_plan(job, sha256)
    return open_student(plan, dataset, folder, student, seed, job.settings, images)


def run_probe(job: Job, task: ProbeTask) -> dict[str, Any]:
    """One probe; run by a worker."""
    devices.prepare(job.threads)
    meter = Meter()
    state = _state(weights_path(task.folder, task.student, task.seed))
    trained = _opened(job, task.sha256, task.folder, task.student, task.seed, task.images, state)
    finding = measure(trained, task.probe)
    most = peaks(str(devices.resolve_device(job.device)))
    cost = {"wall_seconds": meter.wall, "cpu_seconds": meter.cpu, **most}
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
    rest, held_out = holdout_split(dataset.train, fraction, classes, dataset.root, keep_single=True)
    if synset.budget.unit == "all":
        plan = replace(plan, synset=replace(synset, images=rest.images, labels=rest.labels))
    try:
        found = train_student(plan, validation_sample(held_out), task.student, task.seeds[0], settings, task.lr)
    except DivergedError:  # the worst of rates, not the end of the search
        return 0.0
    return found["accuracy"]
