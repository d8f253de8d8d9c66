"""From names and settings to a task: what the command line and a caller share. Loads torch when it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ddbench.config import apply_config, check_config, types_of
from ddbench.data.specs import dataset_slug, size_to_load
from ddbench.networks.check import check_student
from ddbench.networks.names import default_student, parse_student
from ddbench.protocols.protocol import changed, protocol
from ddbench.registry import suggest
from ddbench.runtime.common import Common
from ddbench.runtime.device import begun_threads, own_threads, threads_of, worker_count
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash, read_json
from ddbench.runtime.numbers import check_count
from ddbench.runtime.progress import Console
from ddbench.runtime.shards import WHOLE, Shard, State
from ddbench.tasks import task_class
from ddbench.tasks.result import TaskResult
from ddbench.tasks.told import question_of

if TYPE_CHECKING:
    from ddbench.tasks.base import Job, Run


@dataclass(frozen=True, kw_only=True)
class Asked(Common):
    """What is asked of every task."""

    student: str | None = None
    """Network that is trained; default: the one that the first run was distilled on, else one that fits. For nas the
    grid says it."""
    seeds: int = 5
    """Number of fresh networks; seeds 0 to n-1, the same for every run, so that rows are paired."""
    protocol: str | None = None
    """How students learn (ddbench list protocols); default: the task's own."""
    epochs: int | None = None
    """Other number of epochs than the protocol's: recorded as a change."""
    workers: int = 0
    """Units at once, each in its own process; 0: one a core, on a GPU one."""
    size: int | None = None
    """Side in pixels, for image folders and ImageNet; default: the synsets'."""
    out: Path | None = None
    """Result file; default: tasks/<dataset>-<task>.json. More runs or seeds extend a file that is there."""


@dataclass(frozen=True)
class Order:
    """A task that can begin.

    Attributes:
        changed: settings of the protocol that were altered.
    """

    job: Job
    changed: dict[str, Any]
    out: Path
    workers: int
    console: Console


def run(name: str, runs: Sequence[Path], asked: Asked, config: Any, shard: Shard = WHOLE) -> TaskResult:
    """Do a task; what is there already is not done again.

    Args:
        runs: run folders or synset files of one dataset.
        config: instance of the task's config class.

    Raises:
        UserError: whatever the user can mend, before anything is written.
        Unfinished: the shard's units are done, those of others are not.
    """
    from ddbench.tasks import runner

    order = _order(name, runs, asked, config)
    made = runner.do(order.job, order.changed, order.out, order.workers, order.console, shard)
    return TaskResult(path=order.out, data=made)


def asked_of(name: str, settings: Mapping[str, Any]) -> tuple[Asked, Any]:
    """What a caller in Python asks for: fields of :class:`Asked` and of the task's config by name. Paths may be texts.

    Raises:
        UserError: no such task, an unknown setting, with a suggestion, or a value of another type.
    """
    kind = task_class(name).config_class
    own = {item.name for item in fields(kind)}
    types = types_of(Asked)
    shared: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in own:
            path = isinstance(value, str) and Path in (types.get(key), *get_args(types.get(key)))
            shared[key] = Path(value) if path else value
    known = [*types, *own]
    for key in shared:
        if key not in types:
            raise UserError(f"task {name}: unknown setting {key!r}{suggest(key, known)}")
    made: Asked = apply_config(Asked, shared, f"task {name}")
    return made, apply_config(kind, {key: value for key, value in settings.items() if key in own}, f"task {name}")


def status(name: str, runs: Sequence[Path], asked: Asked, config: Any) -> tuple[Path, list[State]]:
    """The result's file, and what became of each unit; nothing is written.

    Raises:
        UserError: as :func:`run`.
    """
    from ddbench.tasks import runner

    order = _order(name, runs, asked, config)
    return order.out, runner.status(order.job, order.changed, order.out)


def question(name: str, runs: Sequence[Path], asked: Asked, config: Any) -> dict[str, Any]:
    """What :func:`run` would ask, as :func:`ddbench.tasks.told.question_of`; nothing is written.

    Raises:
        UserError: as :func:`run`.
    """
    from ddbench.tasks import runner

    order = _order(name, runs, asked, config)
    task = runner.task_of(order.job)
    task.check()
    return question_of(runner.head_of(task, order.changed))


def _order(name: str, places: Sequence[Path], asked: Asked, config: Any) -> Order:
    from ddbench.data.load import load_dataset
    from ddbench.protocols.training import Settings
    from ddbench.synset import read_synset, synset_path
    from ddbench.tasks.base import Job
    from ddbench.tasks.runner import HEAD, parts_folder

    kind = task_class(name)
    check_config(config)
    check_count("--seeds", asked.seeds)
    runs = _runs(places, kind.distils(config))
    first = read_synset(synset_path(places[0]))
    _, channels, size, _ = first.images.shape
    student = str(parse_student(asked.student)) if asked.student else first.student or default_student(size)
    check_student(student, channels, size)
    base = protocol(asked.protocol or kind.protocol)
    if base.needs_teacher or base.labels == "stored":
        raise UserError(f"--protocol {base.name}: it takes a teacher's labels, which no task has; e.g. hard-v1")
    if base.lr_source == "search":
        raise UserError(
            f"--protocol {base.name}: it searches a learning rate, which no task does; use one with lr_source "
            '"synset" or "protocol", e.g. hard-v1'
        )
    epochs = None if asked.epochs == base.epochs else asked.epochs  # what it says anyway alters nothing
    altered, difference = changed(base, epochs=epochs, full_epochs=epochs)
    out = asked.out or Path("tasks") / f"{dataset_slug(first.dataset)}-{name}.json"
    begun = _begun(out) or begun_threads(parts_folder(out) / HEAD)
    threads = own_threads(asked.threads or begun, size)
    workers, _ = worker_count(asked.workers, threads, asked.device)
    side = size_to_load(first.dataset, size, asked.size)
    load_dataset(first.dataset, asked.data, size=side, download=asked.download, skip_broken=asked.skip_broken)
    kind.fetch(config, asked.data, side or size, asked.download, asked.skip_broken)
    job = Job(
        task=name,
        config=config,
        runs=runs,
        dataset=first.dataset,
        size=side,
        data=asked.data,
        student=student,
        seeds=asked.seeds,
        protocol=altered,
        settings=Settings(device=asked.device, threads=threads, compile=asked.compile),
        folder=out.with_name(f"{out.stem}.files"),
    )
    return Order(job=job, changed=difference, out=out, workers=workers, console=Console(asked.quiet))


def _begun(out: Path) -> int:
    """Threads that a finished result was made with; 0: there is none that says so."""
    if not out.is_file():
        return 0
    found = read_json(out, "result of a task")
    return threads_of(found.get("head")) if isinstance(found, dict) else 0


def _runs(places: Sequence[Path], distils: bool) -> tuple[Run, ...]:
    """The synsets, labelled.

    Args:
        distils: whether their methods are run again.

    Raises:
        UserError: none, one twice, or of several datasets.
    """
    from ddbench.synset import read_synset, synset_path
    from ddbench.tasks.base import Run
    from ddbench.tasks.distilling import needs_of, recorded_run

    if not places:
        raise UserError("no RUN is named: give run folders or synset files, e.g. runs/digits-ipc10-dm-s0")
    found: dict[str, Run] = {}
    of: dict[str, Path] = {}
    for place in places:
        path = synset_path(place)
        synset = read_synset(path)
        of.setdefault(synset.fingerprint, place)
        if len(of) > 1:
            one, other = of.values()
            raise UserError(f"{other} is of other data than {one}: name runs of one dataset")
        sha256 = file_hash(path)
        label = f"{synset.method}-{str(synset.budget).replace(' ', '')}-s{synset.seed}-{sha256[:8]}"
        if label in found:
            raise UserError(f"{place}: the same synset as {found[label].path}; name each once")
        needs = needs_of(recorded_run(path), synset.images.shape[-1]) if distils else {}
        found[label] = Run(label=label, path=path, sha256=sha256, method=synset.method, needs=needs)
    return tuple(found.values())
