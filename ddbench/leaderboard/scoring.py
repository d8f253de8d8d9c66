"""DD-Ranking's scores of a synset, from names and settings to the file: what the command line and a caller share.

What is the same for every synset of a cell (all real images, random subsets) lies in a cache of ordinary runs and is
trained once; a further synset costs its own trainings. Loads torch when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ddbench.evaluation.ddranking.definitions import WEIGHT, Leg, legs, own_protocol
from ddbench.networks.check import check_student
from ddbench.networks.names import default_student, parse_student
from ddbench.protocols.protocol import Protocol, protocol, result_name
from ddbench.protocols.teacher import protocol_teacher, recorded
from ddbench.runtime.common import Common
from ddbench.runtime.device import begun_threads, own_threads, tell_shared, tell_threads, worker_count
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import check_same, check_writable, ensure_writable, file_hash, write_json
from ddbench.runtime.jobs import warm
from ddbench.runtime.numbers import check_count
from ddbench.runtime.progress import Console
from ddbench.runtime.shards import WHOLE, Shard, State

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset
    from ddbench.data.preprocess import Preprocess
    from ddbench.evaluation.ddranking.trainings import Work
    from ddbench.synset import Synset
    from ddbench.teachers.store import Teacher


@dataclass(frozen=True, kw_only=True)
class Asked(Common):
    """How a synset is to be scored: what the flags of ``ddbench scores`` say."""

    protocol: str | None = None
    """The synset's own protocol; default: hard-v1 for hard labels, soft-v1 for soft ones."""
    student: str | None = None
    """Network; default: the one it was distilled on."""
    repeats: int = 5
    """Repeats: network seeds 0 to n-1, each with a random subset of its own."""
    cache: Path = Path("ddbench-scores")
    """Folder for what other synsets of the same data can share: runs of random and full, with their evaluations."""
    teacher: Path | None = None
    """Teacher file: for protocols with a teacher (default: the synset's own, else the best one in --teachers); for
    soft-v1 it labels the random images."""
    teachers: Path = Path("teachers")
    """Root of the teachers (ddbench teacher)."""
    epochs: int | None = None
    """Other number of epochs than the protocol's, for all real images too: non-standard. Its own alters nothing."""
    weight: float = WEIGHT
    """Weight of IOR in LRS and of A1 in ARS, 0 to 1; other than 0.5: non-standard."""
    hard_augmentation: bool = False
    """Augment the trainings with hard labels as the protocol says: non-standard."""
    workers: int = 0
    """Trainings at once, each in its own process; 0: one a core, on a GPU one."""
    out: Path | None = None
    """Result file; default: RUN/scores/<protocol>.json, for a row of a board scores/<id>/<protocol>.json."""


@dataclass(frozen=True)
class Scored:
    """Scores of a synset.

    Attributes:
        path: the file.
        data: its content.
        marks: what makes them non-standard; empty: nothing.
    """

    path: Path
    data: dict[str, Any]
    marks: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """What is trained: the student, the six legs, and who gives labels.

    Attributes:
        teacher: of the protocol.
        labeller: of the random images, where the protocol has no teacher.
        marked: what the file's name says of settings that are not the usual ones.
        out: the file.
    """

    student: str
    plan: dict[str, Leg]
    teacher: Teacher | None
    labeller: Teacher | None
    marked: dict[str, Any]
    out: Path

    @property
    def teacher_hash(self) -> str | None:
        used = self.teacher or self.labeller
        return used.sha256 if used else None


class _References(TypedDict):
    """Which references are asked for."""

    name: str
    cache: Path
    repeats: int
    dataset: Dataset
    preprocess: Preprocess
    labeller: Teacher | None


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is to be scored, and how.

    Attributes:
        path: of the synset.
        start: what the result begins with.
        marked: what makes it non-standard.
        asked: of the references.
    """

    path: Path
    synset: Synset
    chosen: _Chosen
    work: Work
    workers: int
    out: Path
    start: dict[str, Any]
    marked: dict[str, Any]
    asked: _References


def score(run: Path, asked: Asked, shard: Shard = WHOLE) -> Scored:
    """Score a synset; every training that is there already is not done again.

    Args:
        run: a run folder, or a synset file.
        shard: do its share of the trainings only; who finds all of them there writes the scores.

    Raises:
        UserError: whatever the user can mend, before anything is written.
        Unfinished: the shard's trainings are done, those of other shards are not.
    """
    job = _prepare(run, asked)

    from ddbench.evaluation.ddranking.file import costs, tables
    from ddbench.evaluation.ddranking.trainings import train_legs
    from ddbench.leaderboard.references import make_references

    console, plan = Console(asked.quiet), job.chosen.plan
    check_writable(job.out.parent)
    tell_threads(job.work.threads, console.say)
    tell_shared(job.workers, asked.device, console.say)
    references = make_references(job.synset, **job.asked, data=asked.data, device=asked.device, console=console)
    check_same(job.path, job.start["synset"]["sha256"])  # the references may have taken long
    ensure_writable(job.out.parent)
    scored = train_legs(
        job.work,
        plan,
        synset=job.path,
        real=references.real,
        random=references.random,
        workers=job.workers,
        console=console,
        out=job.out,
        shard=shard,
    )
    result = {**job.start, **tables(scored, plan, asked.repeats, asked.weight)}
    check_same(job.path, job.start["synset"]["sha256"])
    write_json(job.out.with_name(f"{job.out.stem}.cost.json"), costs(scored))
    write_json(job.out, result)
    return Scored(job.out, result, job.marked)


def status(run: Path, asked: Asked) -> tuple[Path, list[State]]:
    """The file of the scores, and what became of each training for them, by all processes; nothing is written.

    Raises:
        UserError: as :func:`score`.
    """
    job = _prepare(run, asked)

    from ddbench.evaluation.ddranking.trainings import states
    from ddbench.leaderboard.references import planned_references

    there = planned_references(job.synset, **job.asked)
    return job.out, states(job.work, job.chosen.plan, synset=job.path, real=there.real, random=there.random)


def _fetched(asked: Asked, synset: Synset) -> int | None:
    """Side of the data to load, after what ``--download`` and ``--skip-broken`` want of them."""
    from ddbench.data.load import load_dataset
    from ddbench.data.specs import size_to_load

    size = size_to_load(synset.dataset, synset.images.shape[2])
    if asked.download or asked.skip_broken:
        load_dataset(synset.dataset, asked.data, size=size, download=asked.download, skip_broken=asked.skip_broken)
    return size


def _prepare(run: Path, asked: Asked) -> _Job:
    """What is to be scored, and how; nothing is written.

    Raises:
        UserError: whatever the user can mend.
    """
    base = protocol(asked.protocol) if asked.protocol is not None else None
    student = str(parse_student(asked.student)) if asked.student is not None else None
    _check_numbers(asked)
    if worker_count(asked.workers, asked.threads)[0] > 1:
        warm("ddbench.evaluation.ddranking.trainings")
    from ddbench.evaluation.ddranking.file import check_out, head
    from ddbench.evaluation.ddranking.trainings import Work, begun_legs, check_legs
    from ddbench.runtime import device as devices
    from ddbench.teachers.store import check_teacher

    path, synset = _subject(run)
    base = base or protocol(own_protocol(synset.label_kind))
    chosen = _choose(asked, path, synset, base, student)
    out = chosen.out
    threads = asked.threads or begun_threads(out, *begun_legs(chosen.plan, chosen.student, path))
    workers = worker_count(asked.workers, threads, asked.device)[0]
    threads = own_threads(threads, synset.images.shape[2], workers)
    size = _fetched(asked, synset)
    work = Work(
        student=chosen.student,
        data=asked.data,
        size=size,
        device=asked.device,
        threads=threads,
        compile=asked.compile,
        teacher=chosen.teacher.path if chosen.teacher else None,
        versions=devices.versions(),
    )
    start = head(
        synset,
        sha256=file_hash(path),
        own=chosen.plan["syn"],
        work=work,
        weight=asked.weight,
        hard_augmentation=asked.hard_augmentation,
        teacher=chosen.teacher_hash,
    )
    check_out(out, start, asked.repeats)
    dataset, preprocess = check_legs(work, chosen.plan, path)
    if chosen.labeller is not None:
        check_teacher(chosen.labeller, dataset, preprocess)
    return _Job(
        path=path,
        synset=synset,
        chosen=chosen,
        work=work,
        workers=workers,
        out=out,
        start=start,
        marked=chosen.marked,
        asked={
            "name": str(run),
            "cache": asked.cache,
            "repeats": asked.repeats,
            "dataset": dataset,
            "preprocess": preprocess,
            "labeller": chosen.labeller,
        },
    )


def _check_numbers(asked: Asked) -> None:
    """Refuse numbers that are out of range.

    Raises:
        UserError: names the flag.
    """
    if asked.repeats < 2:
        raise UserError(f"--repeats {asked.repeats}: expected at least 2, one number has no interval")
    check_count("--repeats", asked.repeats, least=2)
    if not 0 <= asked.weight <= 1:
        raise UserError(f"--weight {asked.weight:g}: expected 0 to 1")


def _subject(run: Path) -> tuple[Path, Synset]:
    """The synset that is scored, and its file.

    Raises:
        UserError: it cannot be read, or holds all real images.
    """
    from ddbench.synset import read_synset, synset_path

    path = synset_path(run)
    synset = read_synset(path)
    if synset.budget.unit != "ipc":
        raise UserError(
            f"{path}: holds all real images (method {synset.method}), expected a synset with a budget in images per "
            "class: the scores compare it with random subsets of its size"
        )
    return path, synset


def _check_begun(path: Path, root: Path, teacher: Teacher, earlier: set[str]) -> None:
    """Refuse to begin anew, unasked, because the teacher of a killed try is gone.

    Args:
        root: of the teachers.
        teacher: the one that would be taken.
        earlier: sha256 of those that legs were begun with.

    Raises:
        UserError: the teacher is none of them.
    """
    if earlier and teacher.sha256 not in earlier:
        gone = " or ".join(sha256[:12] for sha256 in sorted(earlier))
        raise UserError(
            f"{path}: its scores were begun with a teacher (sha256 {gone}) that is not in {root}; give --teachers DIR "
            f"or --teacher FILE to go on with it, or begin anew with --teacher {teacher.path}"
        )


def _choose(asked: Asked, path: Path, synset: Synset, base: Protocol, student: str | None) -> _Chosen:
    """The student, the legs, the teachers and the file.

    Raises:
        UserError: a student that does not fit, a device that is not there, settings or a teacher that no leg can use.
    """
    from ddbench.evaluation.ddranking.file import marks
    from ddbench.evaluation.ddranking.trainings import begun_under
    from ddbench.protocols.plan import learned_rates
    from ddbench.runtime.device import resolve_device
    from ddbench.synset import beside
    from ddbench.teachers.store import read_teacher

    _, channels, size, _ = synset.images.shape
    usual = synset.student or default_student(size)
    student = student or usual
    check_student(student, channels, size)
    resolve_device(asked.device)
    soft = synset.label_kind == "soft"
    # With soft labels and no teacher in the protocol, --teacher is for the labels of the random images.
    labels_random = asked.teacher is not None and soft and base.labels in ("own", "soft")
    plan = legs(
        base,
        epochs=asked.epochs,
        soft=synset.label_kind != "hard",
        soft_random=labels_random,
        learned_lr=learned_rates(synset, base) is not None,
        hard_augmentation=asked.hard_augmentation,
    )
    labeller = read_teacher(asked.teacher) if asked.teacher is not None and labels_random else None
    marked = marks(plan["syn"], asked.weight, asked.hard_augmentation)
    suffix = "" if student == usual else f"-{student}"
    out = asked.out or beside(path, "scores") / f"{result_name(base, marked)}{suffix}.json"
    teacher = None
    if not labels_random:
        begun = begun_under(plan["syn"], student, path)  # all that there is of a killed one
        teacher = protocol_teacher(
            base, synset, given=asked.teacher, root=asked.teachers, path=path, begun=(out, *begun)
        )
        if teacher is not None and asked.teacher is None and not out.exists():
            _check_begun(path, asked.teachers, teacher, set(recorded(begun, path)))
    return _Chosen(student=student, plan=plan, teacher=teacher, labeller=labeller, marked=marked, out=out)
