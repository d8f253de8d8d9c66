"""The trainings that DD-Ranking's scores need: each an ordinary evaluation that is kept, none done twice."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddbench.data.dataset import Dataset
from ddbench.data.preprocess import Preprocess
from ddbench.evaluation.ddranking.definitions import RANDOM, REAL, SYNSET, TITLES, Leg
from ddbench.evaluation.evaluator import evaluate
from ddbench.evaluation.kept import cost_path
from ddbench.evaluation.parts import HEAD, parts_folder, read_parts, run_unit, units_of
from ddbench.evaluation.tasks import Job, load_plan
from ddbench.protocols.plan import check_plan
from ddbench.protocols.protocol import result_name
from ddbench.runtime.device import recorded_kind
from ddbench.runtime.errors import Unfinished, UserError
from ddbench.runtime.files import file_hash, read_json, text_hash
from ddbench.runtime.jobs import run_jobs
from ddbench.runtime.progress import Console
from ddbench.runtime.shards import WHOLE, Shard, State
from ddbench.synset import beside

LONGEST = 200
"""A longer file name is none that ``ddbench evaluate`` could have written."""

DECIDES = 12
"""Letters of the hash in the name of a leg's evaluation."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all trainings share.

    Attributes:
        size: side in pixels, for datasets that come in any size.
        teacher: file for the legs whose protocol needs one.
        versions: libraries that a result depends on.
    """

    student: str
    data: Path | None
    size: int | None
    device: str
    threads: int
    compile: str
    teacher: Path | None
    versions: dict[str, str]

    def job(self, leg: Leg, synset: Path) -> Job:
        """The evaluator's job for a leg and the file of its subject."""
        return Job(
            synset=synset,
            data=self.data,
            size=self.size,
            protocol=leg.protocol,
            device=self.device,
            threads=self.threads,
            precision="float32",
            compile=self.compile,
            max_images=None,
            teacher=self.teacher if leg.protocol.needs_teacher else None,
        )


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One leg, trained.

    Attributes:
        accuracies: by network seed.
        diverged: what became of the others, by network seed.
        rates: learning rate of each subject; None: every run of it diverged.
        sources: where those came from.
        synsets: sha256 of each subject's file.
        trained, found: trainings (searched rates included) that this command did, and that were there before.
        wall_seconds, cpu_seconds: of all of them.
    """

    accuracies: dict[int, float] = field(default_factory=dict)
    diverged: dict[int, str] = field(default_factory=dict)
    rates: tuple[float | None, ...] = ()
    sources: tuple[str, ...] = ()
    synsets: tuple[str, ...] = ()
    trained: int = 0
    found: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: Scored) -> Scored:
        """Two subjects of the same leg, such as two random subsets."""
        return Scored(
            accuracies={**self.accuracies, **other.accuracies},
            diverged={**self.diverged, **other.diverged},
            rates=self.rates + other.rates,
            sources=self.sources + other.sources,
            synsets=self.synsets + other.synsets,
            trained=self.trained + other.trained,
            found=self.found + other.found,
            wall_seconds=self.wall_seconds + other.wall_seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
        )


def check_legs(work: Work, plan: dict[str, Leg], synset: Path) -> tuple[Dataset, Preprocess]:
    """Make sure that synset, data, protocols and teacher fit, before anything is made.

    Returns:
        The synset's dataset and preprocess.

    Raises:
        UserError: they do not.
    """
    for name in ("syn_hard", "syn_plain", "syn"):
        one, dataset = load_plan(work.job(plan[name], synset), file_hash(synset))
        check_plan(one, dataset)
    return dataset, one.preprocess


def train_legs(
    work: Work,
    plan: dict[str, Leg],
    *,
    synset: Path,
    real: Path,
    random: Sequence[Path],
    workers: int,
    console: Console,
    out: Path,
    shard: Shard = WHOLE,
) -> dict[str, Scored]:
    """Train every leg that is not finished, by the names of ``plan``; equal legs are trained once.

    Args:
        synset: file of the synset that is scored.
        real: that of all real images.
        random: those of the random subsets, one a repeat; the repeat is the network seed of every leg.
        out: what comes of it, for messages.
        shard: do its share of the trainings only.

    Raises:
        UserError: as :func:`score`.
        Unfinished: the shard's trainings are done, those of other shards are not.
    """
    done: dict[tuple[str, str], Scored] = {}
    places, repeats, left = {REAL: real, SYNSET: synset}, range(len(random)), 0
    for name, leg in plan.items():
        if leg.subject != RANDOM and _key(leg) not in done:
            console.say(f"{TITLES[name]}: {leg.base.name} {leg.difference or ''}".rstrip())
            done[_key(leg)] = Scored()
            try:
                done[_key(leg)] = score(work, leg, places[leg.subject], repeats, workers, console, shard)
            except Unfinished as part:
                left += part.left
    own = len(done) * len(shard.own(repeats))
    pairs = list({_key(leg): leg for leg in plan.values() if leg.subject == RANDOM}.values())
    tasks = [RandomTask(leg=leg, subset=path, seed=seed) for seed, path in enumerate(random) for leg in pairs]
    total = len(done) * len(random) + len(tasks)
    found = _train_random(work, tasks, workers, console, shard)
    for index, scored in sorted(found.items()):
        key = _key(tasks[index].leg)
        done[key] = done.get(key, Scored()) + scored
    left += len(tasks) - len(found)
    if left:
        raise shard.unfinished("training", own + len(shard.own(tasks)), left, total, str(out))
    return {name: done[_key(leg)] for name, leg in plan.items()}


def states(work: Work, plan: dict[str, Leg], *, synset: Path, real: Path, random: Sequence[Path]) -> list[State]:
    """What became of each training of :func:`train_legs`, by all processes; nothing is written."""
    found: list[State] = []
    distinct: dict[tuple[str, str], tuple[str, Leg]] = {}
    for name, leg in plan.items():
        distinct.setdefault(_key(leg), (name, leg))
    for name, leg in distinct.values():
        for seed, subset in enumerate(random):
            path = {REAL: real, SYNSET: synset, RANDOM: subset}[leg.subject]
            state = _state(work, leg, path, seed) if path.exists() else State(unit="", state="open")
            found.append(replace(state, unit=f"{TITLES[name]}, repeat {seed}"))
    return found


def _state(work: Work, leg: Leg, path: Path, seed: int) -> State:
    """What became of one training of a subject that is there."""
    place, unit = _place(work, leg, path), run_unit(work.student, seed)
    records = [record for _, record in read_parts(parts_folder(place), lambda record: None)]
    runs = [record for record in records if {"metrics", "diverged"} & set(record)]
    done = {run_unit(record["student"], record["seed"]) for record in runs}
    if any(out is not None and _holds(out, work.student, (seed,)) for out in (place, _earlier(leg, path))):
        done.add(unit)
    return units_of(place).states([unit], done)[0]


def _key(leg: Leg) -> tuple[str, str]:
    return leg.subject, leg.protocol.hash


def _train_random(
    work: Work, tasks: list[RandomTask], workers: int, console: Console, shard: Shard
) -> dict[int, Scored]:
    """Each random subset with the network seed of its repeat; several subsets at once.

    Returns:
        By the number of the task; those of other shards that are not there are left out.
    """
    own = set(shard.own(range(len(tasks))))
    found: dict[int, Scored] = {}
    missing = []
    for index, task in enumerate(tasks):
        if _holds(_place(work, task.leg, task.subset), work.student, (task.seed,)):
            found[index] = random_task(work, task)
        elif (there := _reused(work, task.leg, task.subset, (task.seed,))) is not None:
            found[index] = there
        elif index in own:
            missing.append(index)
    with console.bar("random subsets", len(found) + len(missing), len(found)) as bar:
        target = "ddbench.evaluation.ddranking.trainings:random_task"
        for position, scored in run_jobs(target, work, [tasks[index] for index in missing], workers):
            found[missing[position]] = scored
            told = f"{min(scored.accuracies.values()):.3f}" if scored.accuracies else "diverged"
            bar.advance(f"{tasks[missing[position]].leg.base.name} {told}")
    return found


@dataclass(frozen=True, kw_only=True)
class RandomTask:
    """One leg of one random subset, with the network seed of its repeat."""

    leg: Leg
    subset: Path
    seed: int


def random_task(work: Work, task: RandomTask) -> Scored:
    """Score a random subset; run by a worker."""
    return score(work, task.leg, task.subset, (task.seed,), 1, Console(quiet=True), lost_too=True)


def score(
    work: Work,
    leg: Leg,
    synset: Path,
    seeds: Sequence[int],
    workers: int,
    console: Console,
    shard: Shard = WHOLE,
    lost_too: bool = False,
) -> Scored:
    """One leg of one subject through the evaluator, which keeps every run and repeats none.

    Args:
        lost_too: go on where every run diverges.

    Raises:
        UserError, Unfinished: as :func:`ddbench.evaluation.evaluator.evaluate`.
    """
    found = _reused(work, leg, synset, seeds)
    place = _place(work, leg, synset)
    return found or _scored(work, leg, synset, seeds, workers, console, place, shard, lost_too)


def _earlier(leg: Leg, synset: Path) -> Path | None:
    """Where ``ddbench evaluate`` writes what it trains for such a leg; None: it could not."""
    path = beside(synset, "evaluations") / f"{result_name(leg.base, leg.difference)}.json"
    return path if len(path.name) < LONGEST else None


def _reused(work: Work, leg: Leg, synset: Path, seeds: Sequence[int]) -> Scored | None:
    """A leg that ``ddbench evaluate`` trained; it is read only, as no run is missing. None: there is none that fits."""
    earlier = _earlier(leg, synset)
    if earlier is None or _place(work, leg, synset).exists() or not _holds(earlier, work.student, seeds):
        return None
    try:
        return _scored(work, leg, synset, seeds, 1, Console(quiet=True), earlier, WHOLE)
    except UserError:  # of other threads, libraries or teacher
        return None


def _scored(
    work: Work,
    leg: Leg,
    synset: Path,
    seeds: Sequence[int],
    workers: int,
    console: Console,
    out: Path,
    shard: Shard,
    lost_too: bool = False,
) -> Scored:
    before = _costs_of(out, work.student, seeds)
    result = evaluate(
        job=work.job(leg, synset),
        students=(work.student,),
        seeds=seeds,
        difference=leg.difference,
        out=out,
        workers=workers,
        console=console,
        shard=shard,
        lost_too=lost_too,
    )
    own = [one for one in [*result["runs"], *result.get("diverged", [])] if one["student"] == work.student]
    by_seed = {one["seed"]: one for one in own if one["seed"] in seeds}
    rate, costs = result["learning_rates"].get(work.student), _costs_of(out, work.student, seeds)
    return Scored(
        accuracies={seed: by_seed[seed]["metrics"]["accuracy"] for seed in seeds if "metrics" in by_seed[seed]},
        diverged={seed: by_seed[seed]["diverged"] for seed in seeds if "diverged" in by_seed[seed]},
        rates=(rate["rate"] if rate else None,),
        sources=(rate["source"],) if rate else (),
        synsets=(result["synset"]["sha256"],),
        trained=len(costs) - len(before),
        found=len(before),
        wall_seconds=sum(cost["wall_seconds"] for cost in costs),
        cpu_seconds=sum(cost["cpu_seconds"] for cost in costs),
    )


def _place(work: Work, leg: Leg, synset: Path) -> Path:
    """The evaluation of a leg: named by all that decides its numbers, so that no other one is ever in its place."""
    decides = {
        "synset": file_hash(synset),
        "protocol": [leg.protocol.name, leg.protocol.hash],
        "threads": work.threads,
        "versions": work.versions,
        "teacher": file_hash(work.teacher) if work.teacher is not None and leg.protocol.needs_teacher else None,
        **recorded_kind(work.device),
    }
    name = f"{leg.base.name}-{work.student}-{text_hash(decides)[:DECIDES]}.json"
    # A folder of its own: `ddbench submit RUN` looks for the evaluations beside it.
    return beside(synset, "evaluations") / "scores" / name


def begun_legs(plan: dict[str, Leg], student: str, synset: Path) -> list[Path]:
    """Files that say what the legs of a synset were begun with, whatever that was: of finished ones, and of others."""
    folder, names = beside(synset, "evaluations") / "scores", {leg.base.name for leg in plan.values()}
    short = "?" * DECIDES  # a star would also fit students whose names are longer
    patterns = [f"{name}-{student}-{short}{end}" for name in sorted(names) for end in (".json", f".parts/{HEAD}")]
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def begun_under(leg: Leg, student: str, synset: Path) -> list[Path]:
    """Those of :func:`begun_legs` that were begun under the very protocol of a leg."""
    return [path for path in begun_legs({"": leg}, student, synset) if _protocol_of(path) == leg.protocol.hash]


def _protocol_of(path: Path) -> object:
    """Hash of the protocol that an evaluation, or the head of one, says; None: it is damaged, or gone by now."""
    with suppress(UserError, KeyError, TypeError):
        return read_json(path, "evaluation")["protocol"]["hash"]
    return None


def _holds(out: Path, student: str, seeds: Sequence[int]) -> bool:
    """Whether a finished evaluation has all runs that are wanted, or says that they diverged."""
    if not out.is_file():
        return False
    old = read_json(out, "evaluation")
    runs = [*(old.get("runs") or ()), *(old.get("diverged") or ())] if isinstance(old, dict) else []
    there = {(run.get("student"), run.get("seed")) for run in runs if isinstance(run, dict)}
    return all((student, seed) in there for seed in seeds)


def _costs_of(out: Path, student: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What the trainings of a student took, those of the searched learning rates included."""
    path = cost_path(out)
    entries = read_json(path, "cost record")["runs"] if path.exists() else []
    return [one for one in entries if one["student"] == student and ("searched_lr" in one or one["seed"] in seeds)]
