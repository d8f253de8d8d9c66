"""``ddbench scores``: DD-Ranking's HLR, IOR, LRS and ARS of a synset, from evaluations that are all kept.

What is the same for every synset of a cell (all real images, random subsets) lies in a cache of ordinary runs and is
trained once; a further synset costs its own trainings.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Common, worker_count
from ddbench.evaluate.protocols import Protocol, protocol, result_name
from ddbench.evaluate.scores import (
    RANDOM,
    REAL,
    SCORES,
    SYNSET,
    WEIGHT,
    Accuracies,
    Leg,
    legs,
    own_protocol,
    repeat_scores,
    summary,
)
from ddbench.networks.names import check_student, default_student, parse_student
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable, file_hash, read_json, text_hash, write_json
from ddbench.runtime.progress import Console

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset
    from ddbench.data.preprocess import Preprocess
    from ddbench.evaluate.evaluator import Job
    from ddbench.synset import Synset

KIND = "ddbench-scores"
SCHEMA = 1
HOLDOUT = 0.1
"""Fraction held out where a synset does not say its own, and for the learning rate of the real images."""

LONGEST = 200
"""A longer file name is none that ``ddbench evaluate`` could have written."""

TITLES = {
    "hlr": "HLR  real - synset, hard labels (lower is better)",
    "ior": "IOR  synset - random, own protocol",
    "a1": "A1   the same, with augmentation",
    "a0": "A0   synset - random, without augmentation",
    "lrs": "LRS  of HLR and IOR, 0 to 100",
    "ars": "ARS  of A1 and A0, 0 to 100",
    "real_hard": "all real images, hard labels",
    "syn_hard": "synset, hard labels",
    "syn": "synset, own protocol",
    "random": "random real images, own protocol",
    "syn_plain": "synset, without augmentation",
    "random_plain": "random real images, without augmentation",
}


@dataclass(frozen=True, kw_only=True)
class Args(Common):
    """DD-Ranking's scores of a synset: how well it does without soft labels and augmentation, against random images.

    Everything trained is kept: killed at any moment, the same command goes on.
    """

    run: tyro.conf.Positional[Path]
    """A run folder, or a synset file."""
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
    """Other number of epochs than the protocol's, for all real images too: non-standard."""
    weight: float = WEIGHT
    """Weight of IOR in LRS and of A1 in ARS, 0 to 1; other than 0.5: non-standard."""
    hard_augmentation: bool = False
    """Augment the trainings with hard labels as the protocol says: non-standard."""
    workers: int = 0
    """Trainings at once, each in its own process; 0: one a core."""
    out: Path | None = None
    """Result file; default: RUN/scores/<protocol>.json."""


EXAMPLES = """  ddbench scores runs/digits-ipc1-mtt-s0
  ddbench scores runs/digits-ipc1-mtt-s0 --student mlp-d3-w128 --repeats 10
  ddbench scores runs/my-rded --protocol rded --teacher teachers/cifar10/convnet-d3-w128-bn/0a1b2c3d.safetensors
  ddbench scores runs/digits-ipc1-mtt-s0 --epochs 100 --cache /tmp/cache     # a quick look: non-standard"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    run_scores(parse(Args, argv, "ddbench scores", str(Args.__doc__), EXAMPLES))


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all trainings share.

    Attributes:
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
        from ddbench.evaluate.evaluator import Job

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
        rates: learning rate of each subject.
        sources: where those came from.
        synsets: sha256 of each subject's file.
        trained, found: trainings (searched rates included) that this command did, and that were there before.
        wall_seconds, cpu_seconds: of all of them.
    """

    accuracies: dict[int, float] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
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
            rates=self.rates + other.rates,
            sources=self.sources + other.sources,
            synsets=self.synsets + other.synsets,
            trained=self.trained + other.trained,
            found=self.found + other.found,
            wall_seconds=self.wall_seconds + other.wall_seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
        )


def run_scores(args: Args) -> dict[str, Any]:
    """Score as the flags say and print the table; returns the result."""
    base = protocol(args.protocol) if args.protocol is not None else None
    student = str(parse_student(args.student)) if args.student is not None else None
    if args.repeats < 2:
        raise UserError(f"--repeats {args.repeats}: expected at least 2, one number has no interval")
    if not 0 <= args.weight <= 1:
        raise UserError(f"--weight {args.weight:g}: expected 0 to 1")
    workers, threads = worker_count(args.workers, args.threads)

    from ddbench.data.specs import FOLDER, dataset_spec
    from ddbench.runtime import device as devices
    from ddbench.synset import read_synset, synset_path

    path = synset_path(args.run)
    synset = read_synset(path)
    if synset.budget.unit != "ipc":
        raise UserError(
            f"{path}: holds all real images (method {synset.method}), expected a synset with a budget in images per "
            "class: the scores compare it with random subsets of its size"
        )
    base = base or protocol(own_protocol(synset.label_kind))
    _, channels, size, _ = synset.images.shape
    usual = synset.student or default_student(size)
    student = student or usual
    check_student(student, channels, size)
    devices.resolve_device(args.device)
    labeller = args.teacher if synset.label_kind == "soft" and base.labels in ("own", "soft") else None
    plan = legs(
        base,
        epochs=args.epochs,
        soft=synset.label_kind == "soft",
        soft_random=labeller is not None,
        learned_lr=synset.learned_lr is not None and synset.learned_lr.ndim == 0,
        hard_augmentation=args.hard_augmentation,
    )
    resizable = dataset_spec(synset.dataset, size if synset.dataset.startswith(FOLDER) else None).resizable
    work = Work(
        student=student,
        data=args.data,
        size=size if resizable else None,
        device=args.device,
        threads=threads,
        compile=args.compile,
        teacher=None if labeller else _teacher(args, base, synset),
        versions=devices.versions(),
    )
    name = result_name(base, _marks(plan["syn"], args)) + (f"-{student}" if student != usual else "")
    out = args.out or path.parent / "scores" / f"{name}.json"
    head = _head(args, synset, file_hash(path), work, plan["syn"], labeller)
    _check_out(out, head)
    dataset, preprocess = _check(work, plan, path, labeller)
    console = Console(args.quiet)
    subjects = _subjects(args, synset, dataset, preprocess, labeller, console)
    ensure_writable(out.parent)
    scored = _train(work, plan, path, subjects, range(args.repeats), workers, console)
    result = {**head, **_tables(scored, plan, args)}
    write_json(out.with_name(f"{out.stem}.cost.json"), _costs(scored))
    write_json(out, result)
    _print(result, _marks(plan["syn"], args), out)
    return result


# Before anything is written


def _teacher(args: Args, base: Protocol, synset: Synset) -> Path | None:
    """The teacher's file, for a protocol that needs one.

    Raises:
        UserError: there is none, or one was given that nothing needs.
    """
    if not base.needs_teacher:
        if args.teacher is not None:
            raise UserError(f"--teacher: protocol {base.name} has no teacher; use e.g. --protocol kd-v1")
        return None
    if args.teacher is not None:
        return args.teacher

    from ddbench.experts.teacher import find_teacher

    if synset.teacher is not None:
        found = find_teacher(args.teachers, sha256=synset.teacher["sha256"])
    else:
        found = find_teacher(
            args.teachers,
            dataset=synset.dataset,
            fingerprint=synset.fingerprint,
            preprocess_kind=str(synset.preprocess.get("kind")),
        )
    if found is None:
        own = f" (the synset's own: sha256 {synset.teacher['sha256'][:12]})" if synset.teacher else ""
        raise UserError(
            f"protocol {base.name} needs a teacher{own}, and {args.teachers} holds none that fits: train one with "
            f"`ddbench teacher --dataset {synset.dataset}`, or give --teacher FILE"
        )
    return found.path


def _marks(own: Leg, args: Args) -> dict[str, Any]:
    """What makes a result non-standard."""
    marks = dict(own.difference)
    if args.weight != WEIGHT:
        marks["weight"] = f"{args.weight:g}"
    if args.hard_augmentation:
        marks["hard_augmentation"] = True
    return marks


def _head(args: Args, synset: Synset, sha256: str, work: Work, own: Leg, labeller: Path | None) -> dict[str, Any]:
    """Everything of a result but what was measured; another head is another result."""
    teacher = work.teacher or labeller
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "synset": {
            "sha256": sha256,
            "method": synset.method,
            "dataset": synset.dataset,
            "dataset_fingerprint": synset.fingerprint,
            "budget": {"unit": synset.budget.unit, "value": synset.budget.value},
            "label_kind": synset.label_kind,
            "seed": synset.seed,
        },
        "student": work.student,
        "protocol": {"name": own.base.name, "hash": own.protocol.hash, "changed": own.difference},
        "standard": not _marks(own, args),
        "weight": args.weight,
        "hard_augmentation": args.hard_augmentation,
        "random_labels": "teacher" if labeller or own.protocol.needs_teacher else "hard",
        "teacher": None if teacher is None else file_hash(_existing(teacher)),
        "precision": "float32",
        "threads": work.threads,
        "versions": work.versions,
    }


def _existing(teacher: Path) -> Path:
    if not teacher.is_file():
        raise UserError(f"--teacher {teacher}: no such file; train one with ddbench teacher")
    return teacher


def _check_out(out: Path, head: dict[str, Any]) -> None:
    """Refuse a file that is no result of these scores; more repeats of the same may replace it.

    Raises:
        UserError: it is something else.
    """
    if not out.exists():
        return
    old = read_json(out, "scores file")
    if not isinstance(old, dict) or old.get("kind") != KIND:
        raise UserError(f"{out}: holds something else than scores; choose another --out")
    for name in ("schema", "synset", "student", "protocol", "weight", "hard_augmentation", "random_labels", "teacher"):
        if old.get(name) != head[name]:
            raise UserError(f"{out}: holds other scores ({name} differs); remove it or choose another --out")


def _check(work: Work, plan: dict[str, Leg], path: Path, labeller: Path | None) -> tuple[Dataset, Preprocess]:
    """Make sure that synset, data, protocols and teacher fit, before anything is made.

    Raises:
        UserError: they do not.
    """
    from ddbench.evaluate.evaluator import load_plan
    from ddbench.evaluate.plan import check_plan
    from ddbench.experts.teacher import check_teacher, read_teacher

    for name in ("syn_hard", "syn_plain", "syn"):
        one, dataset = load_plan(work.job(plan[name], path), file_hash(path))
        check_plan(one, dataset)
    if labeller is not None:
        check_teacher(read_teacher(labeller), dataset, one.preprocess)
    return dataset, one.preprocess


# What is trained on besides the synset


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """Files of the real images and of the random subset of each repeat."""

    real: Path
    random: tuple[Path, ...]


def _subjects(
    args: Args,
    synset: Synset,
    dataset: Dataset,
    preprocess: Preprocess,
    labeller: Path | None,
    console: Console,
) -> Subjects:
    """Make what the cache lacks: ordinary runs of the methods ``random`` and ``full``.

    Raises:
        UserError: the synset's held-out fraction is none, there are not so many real images, or a folder of the cache
            is another run.
    """
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.data.specs import dataset_slug

    holdout = synset.config.get("holdout", HOLDOUT)
    if isinstance(holdout, bool) or not isinstance(holdout, int | float) or not 0 <= holdout <= 0.9:
        raise UserError(f"{args.run}: the synset's held-out fraction is {str(holdout)[:40]!r}, expected 0 to 0.9")
    kind = _preprocess_kind(dataset, preprocess)
    fitted = fit_preprocess(dataset, kind)
    if fitted != preprocess:
        console.say(f"the synset's preprocess is of its own; real images get that of {dataset.spec.name} ({kind})")
    cell = args.cache / f"{dataset_slug(dataset.spec.name)}-{dataset.fingerprint[:12]}"
    ipc = synset.budget.value
    run = functools.partial(_run, dataset=dataset, data=args.data, preprocess=kind)
    random = []
    for repeat in range(args.repeats):
        name = f"random-ipc{ipc}-holdout{holdout:g}-{fitted.key}-s{repeat}"
        path = run(cell / name, "random", ipc=ipc, seed=repeat, holdout=float(holdout))
        if labeller is not None:
            place = cell / f"{name}-teacher-{file_hash(labeller)[:12]}"
            path = _labelled(path, place, labeller, dataset, args.device)
        random.append(path)
    real = run(cell / f"full-{fitted.key}", "full", ipc=0, seed=0, holdout=HOLDOUT)
    return Subjects(real=real, random=tuple(random))


def _preprocess_kind(dataset: Dataset, preprocess: Preprocess) -> str:
    """The name of a synset's preprocess for a run; the dataset's own where it has none."""
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.data.specs import PREPROCESS_KINDS, STATISTICS

    if preprocess.kind == "zca":
        return "zca"
    for kind in PREPROCESS_KINDS:
        if kind == "zca" or (kind in STATISTICS and len(STATISTICS[kind][0]) != dataset.spec.channels):
            continue
        if fit_preprocess(dataset, kind) == preprocess:
            return kind
    return "meanstd"


def _run(
    folder: Path,
    method: str,
    *,
    ipc: int,
    seed: int,
    holdout: float,
    dataset: Dataset,
    data: Path | None,
    preprocess: str,
) -> Path:
    """The synset of a run of the cache, made if it is not there.

    Raises:
        UserError: what is there is another run.
    """
    from ddbench.methods import METHODS
    from ddbench.methods.runner import RunSettings, distill
    from ddbench.runtime.tensors import open_tensors
    from ddbench.synset import FILE
    from ddbench.synset import KIND as SYNSET_KIND
    from ddbench.synset import SCHEMA as SYNSET_SCHEMA

    path = folder / FILE
    if path.exists():
        wanted = {"method": method, "seed": seed, "dataset_fingerprint": dataset.fingerprint}
        with open_tensors(path, SYNSET_KIND, SYNSET_SCHEMA) as (_, header):
            differing = [name for name, value in wanted.items() if header.get(name) != value]
        if differing:
            raise UserError(
                f"{path}: another run ({', '.join(differing)} differ(s)); remove it or choose another --cache"
            )
        return path
    kind = METHODS.get(method)
    return distill(
        method,
        kind,
        kind.config_class(),
        dataset=dataset,
        data=data,
        settings=RunSettings(
            ipc=ipc,
            student=default_student(dataset.spec.size),  # recorded only: real images are of no student
            seed=seed,
            preprocess=preprocess,
            holdout=holdout,
            buffers=Path("expert_trajectories"),
            experts=None,
            validate_every=0,
            validate_epochs=1,
            track="jsonl",
            checkpoint_every=0,
            device="cpu",
            threads=1,
            compile="off",
        ),
        out=folder,
        console=Console(quiet=True),
    )


def _labelled(path: Path, folder: Path, labeller: Path, dataset: Dataset, device: str) -> Path:
    """A random subset with a teacher's logits for labels: what ``soft-v1`` is for images that nobody distilled."""
    from ddbench.experts.teacher import read_teacher
    from ddbench.runtime import device as devices
    from ddbench.synset import FILE, check_against, read_synset, write_synset
    from ddbench.training.loops import Inputs, predict

    made = folder / FILE
    if made.exists():
        return made
    synset, teacher, place = read_synset(path), read_teacher(labeller), devices.resolve_device(device)
    inputs = Inputs(synset.images, synset.labels, check_against(path, synset, dataset), place)
    logits = predict(teacher.network(place), inputs)
    given = {"label_teacher": teacher.sha256}
    parents = {**synset.parents, "teacher": teacher.sha256}
    write_synset(made, replace(synset, labels=logits, config={**synset.config, **given}, parents=parents))
    return made


# Training


def _train(
    work: Work,
    plan: dict[str, Leg],
    synset: Path,
    subjects: Subjects,
    seeds: Sequence[int],
    workers: int,
    console: Console,
) -> dict[str, Scored]:
    """Train every leg that is not finished; equal legs are trained once."""
    done: dict[tuple[str, str], Scored] = {}
    places = {REAL: subjects.real, SYNSET: synset}
    for name, leg in plan.items():
        if leg.subject != RANDOM and _key(leg) not in done:
            console.say(f"{TITLES[name]}: {leg.base.name} {leg.difference or ''}".rstrip())
            done[_key(leg)] = score(work, leg, places[leg.subject], seeds, workers, console)
    pairs = list({_key(leg): leg for leg in plan.values() if leg.subject == RANDOM}.values())
    for key, scored in _train_random(work, pairs, subjects.random, workers, console):
        done[key] = done.get(key, Scored()) + scored
    return {name: done[_key(leg)] for name, leg in plan.items()}


def _key(leg: Leg) -> tuple[str, str]:
    return leg.subject, leg.protocol.hash


def _train_random(
    work: Work, pairs: list[Leg], subsets: Sequence[Path], workers: int, console: Console
) -> list[tuple[tuple[str, str], Scored]]:
    """Each random subset with the network seed of its repeat; several subsets at once."""
    from ddbench.runtime.jobs import run_jobs

    tasks = [RandomTask(leg=leg, subset=path, seed=seed) for seed, path in enumerate(subsets) for leg in pairs]
    found: dict[int, Scored] = {}
    missing = []
    for index, task in enumerate(tasks):
        if _holds(_place(work, task.leg, task.subset), work.student, (task.seed,)):
            found[index] = random_task(work, task)
        else:
            missing.append(index)
    with console.bar("random subsets", len(tasks), len(found)) as bar:
        target = "ddbench.cli.scores:random_task"
        for position, scored in run_jobs(target, work, [tasks[index] for index in missing], workers):
            found[missing[position]] = scored
            bar.advance(f"{tasks[missing[position]].leg.base.name} {min(scored.accuracies.values()):.3f}")
    return [(_key(tasks[index].leg), found[index]) for index in range(len(tasks))]


@dataclass(frozen=True, kw_only=True)
class RandomTask:
    """One leg of one random subset, with the network seed of its repeat."""

    leg: Leg
    subset: Path
    seed: int


def random_task(work: Work, task: RandomTask) -> Scored:
    """Score a random subset; run by a worker."""
    return score(work, task.leg, task.subset, (task.seed,), 1, Console(quiet=True))


def score(work: Work, leg: Leg, synset: Path, seeds: Sequence[int], workers: int, console: Console) -> Scored:
    """One leg of one subject through the evaluator, which keeps every run and repeats none.

    Raises:
        UserError: as :func:`ddbench.evaluate.evaluator.evaluate`.
    """
    from ddbench.evaluate.evaluator import evaluate

    def run(out: Path) -> Scored:
        before = _costs_of(out, work.student, seeds)
        result = evaluate(
            job=work.job(leg, synset),
            students=(work.student,),
            seeds=seeds,
            difference=leg.difference,
            out=out,
            workers=workers,
            console=console,
        )
        accuracies = {
            one["seed"]: one["metrics"]["accuracy"] for one in result["runs"] if one["student"] == work.student
        }
        rate, costs = result["learning_rates"][work.student], _costs_of(out, work.student, seeds)
        return Scored(
            accuracies={seed: accuracies[seed] for seed in seeds},
            rates=(rate["rate"],),
            sources=(rate["source"],),
            synsets=(result["synset"]["sha256"],),
            trained=len(costs) - len(before),
            found=len(before),
            wall_seconds=sum(cost["wall_seconds"] for cost in costs),
            cpu_seconds=sum(cost["cpu_seconds"] for cost in costs),
        )

    own = _place(work, leg, synset)
    earlier = synset.parent / "evaluations" / f"{result_name(leg.base, leg.difference)}.json"
    if not own.exists() and len(earlier.name) < LONGEST and _holds(earlier, work.student, seeds):
        try:  # what `ddbench evaluate` trained; it is read only, as no run is missing
            return run(earlier)
        except UserError:  # of other threads, libraries or teacher
            pass
    return run(own)


def _place(work: Work, leg: Leg, synset: Path) -> Path:
    """The evaluation of a leg: named by all that decides its numbers, so that no other one is ever in its place."""
    decides = {
        "synset": file_hash(synset),
        "protocol": [leg.protocol.name, leg.protocol.hash],
        "threads": work.threads,
        "versions": work.versions,
        "teacher": file_hash(work.teacher) if work.teacher is not None and leg.protocol.needs_teacher else None,
    }
    name = f"{leg.base.name}-{work.student}-{text_hash(decides)[:12]}.json"
    # A folder of its own: `ddbench submit RUN` looks for the evaluations beside it.
    return synset.parent / "evaluations" / "scores" / name


def _holds(out: Path, student: str, seeds: Sequence[int]) -> bool:
    """Whether a finished evaluation has all runs that are wanted."""
    if not out.is_file():
        return False
    old = read_json(out, "evaluation")
    runs = old.get("runs") if isinstance(old, dict) else None
    there = {(run.get("student"), run.get("seed")) for run in runs or () if isinstance(run, dict)}
    return all((student, seed) in there for seed in seeds)


def _costs_of(out: Path, student: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What the trainings of a student took, those of the searched learning rates included."""
    from ddbench.evaluate.kept import cost_path

    path = cost_path(out)
    entries = read_json(path, "cost record")["runs"] if path.exists() else []
    return [one for one in entries if one["student"] == student and ("searched_lr" in one or one["seed"] in seeds)]


# Results


def _tables(scored: dict[str, Scored], plan: dict[str, Leg], args: Args) -> dict[str, Any]:
    """What was measured: every accuracy of every repeat, the scores, their statistics, and how each leg was trained."""
    repeats = [
        repeat_scores(Accuracies(**{name: one.accuracies[seed] for name, one in scored.items()}), args.weight)
        for seed in range(args.repeats)
    ]
    return {
        "legs": {
            name: {
                "subject": leg.subject,
                "shared": leg.subject != SYNSET,
                "protocol": {"name": leg.base.name, "hash": leg.protocol.hash, "changed": leg.difference},
                "learning_rates": list(scored[name].rates),
                "learning_rate_sources": sorted(set(scored[name].sources)),
                "synsets": list(scored[name].synsets),
            }
            for name, leg in plan.items()
        },
        "repeats": [{"seed": seed, **repeat} for seed, repeat in enumerate(repeats)],
        "summary": summary(repeats),
    }


def _costs(scored: dict[str, Scored]) -> dict[str, Any]:
    """What each leg took, now and before; ``found`` trainings were in the cache or in the run already."""
    rows = {
        name: {
            "trained": one.trained,
            "found": one.found,
            "wall_seconds": round(one.wall_seconds, 3),
            "cpu_seconds": round(one.cpu_seconds, 3),
        }
        for name, one in scored.items()
    }
    distinct = list({id(one): one for one in scored.values()}.values())  # equal legs are one training
    return {
        "legs": rows,
        "trained": sum(one.trained for one in distinct),
        "found": sum(one.found for one in distinct),
        "wall_seconds": round(sum(one.wall_seconds for one in distinct), 3),
        "cpu_seconds": round(sum(one.cpu_seconds for one in distinct), 3),
    }


def _print(result: dict[str, Any], marks: dict[str, Any], out: Path) -> None:
    synset, own = result["synset"], result["protocol"]
    subject = f"{synset['method']} on {synset['dataset']}, ipc {synset['budget']['value']}"
    print(f"{subject}, {own['name']}, {result['student']}, {len(result['repeats'])} repeats (mean, 95 % interval)")
    if marks:
        print(f"  NON-STANDARD: {marks}")
    width = max(map(len, TITLES.values()))
    for name in (*SCORES, *result["legs"]):
        if name == next(iter(result["legs"])):
            print("  test accuracy (fraction)")
        entry, digits = result["summary"][name], 2 if name in ("lrs", "ars") else 4
        low, high = (f"{entry[end]:.{digits}f}" for end in ("low", "high"))
        print(f"  {TITLES[name]:<{width}} {entry['mean']:8.{digits}f}   {low} to {high}")
    print(f"result: {out}")
