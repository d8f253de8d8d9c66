"""``ddbench scores``: DD-Ranking's HLR, IOR, LRS and ARS of a synset, from evaluations that are all kept.

What is the same for every synset of a cell (all real images, random subsets) lies in a cache of ordinary runs and is
trained once; a further synset costs its own trainings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Common, worker_count
from ddbench.evaluation.ddranking.definitions import SCORES, TITLES, WEIGHT, legs, own_protocol
from ddbench.networks.check import check_student
from ddbench.networks.names import default_student, parse_student
from ddbench.protocols.protocol import protocol, result_name
from ddbench.protocols.teacher import protocol_teacher
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable, file_hash, write_json
from ddbench.runtime.jobs import warm
from ddbench.runtime.progress import Console


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


def run_scores(args: Args) -> dict[str, Any]:
    """Score as the flags say and print the table; returns the result."""
    base = protocol(args.protocol) if args.protocol is not None else None
    student = str(parse_student(args.student)) if args.student is not None else None
    if args.repeats < 2:
        raise UserError(f"--repeats {args.repeats}: expected at least 2, one number has no interval")
    if not 0 <= args.weight <= 1:
        raise UserError(f"--weight {args.weight:g}: expected 0 to 1")
    workers, threads = worker_count(args.workers, args.threads)
    if workers > 1:
        warm("ddbench.evaluation.ddranking.trainings")

    from ddbench.data.specs import FOLDER, dataset_spec
    from ddbench.evaluation.ddranking.file import check_out, costs, head, marks, tables
    from ddbench.evaluation.ddranking.trainings import Work, check_legs, train_legs
    from ddbench.leaderboard.references import make_references
    from ddbench.runtime import device as devices
    from ddbench.synset import read_synset, synset_path
    from ddbench.teachers.store import check_teacher, read_teacher

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
    # With soft labels and no teacher in the protocol, --teacher is for the labels of the random images.
    labels_random = args.teacher is not None and synset.label_kind == "soft" and base.labels in ("own", "soft")
    plan = legs(
        base,
        epochs=args.epochs,
        soft=synset.label_kind == "soft",
        soft_random=labels_random,
        learned_lr=synset.learned_lr is not None and synset.learned_lr.ndim == 0,
        hard_augmentation=args.hard_augmentation,
    )
    labeller = read_teacher(args.teacher) if args.teacher is not None and labels_random else None
    teacher = None if labels_random else protocol_teacher(base, synset, given=args.teacher, root=args.teachers)
    resizable = dataset_spec(synset.dataset, size if synset.dataset.startswith(FOLDER) else None).resizable
    work = Work(
        student=student,
        data=args.data,
        size=size if resizable else None,
        device=args.device,
        threads=threads,
        compile=args.compile,
        teacher=teacher.path if teacher else None,
        versions=devices.versions(),
    )
    marked = marks(plan["syn"], args.weight, args.hard_augmentation)
    name = result_name(base, marked) + (f"-{student}" if student != usual else "")
    out = args.out or path.parent / "scores" / f"{name}.json"
    used = teacher or labeller
    start = head(
        synset,
        sha256=file_hash(path),
        own=plan["syn"],
        work=work,
        weight=args.weight,
        hard_augmentation=args.hard_augmentation,
        teacher=used.sha256 if used else None,
    )
    check_out(out, start)
    dataset, preprocess = check_legs(work, plan, path)
    if labeller is not None:
        check_teacher(labeller, dataset, preprocess)
    console = Console(args.quiet)
    references = make_references(
        synset,
        name=str(args.run),
        cache=args.cache,
        repeats=args.repeats,
        dataset=dataset,
        data=args.data,
        preprocess=preprocess,
        labeller=labeller,
        device=args.device,
        console=console,
    )
    ensure_writable(out.parent)
    scored = train_legs(
        work, plan, synset=path, real=references.real, random=references.random, workers=workers, console=console
    )
    result = {**start, **tables(scored, plan, args.repeats, args.weight)}
    write_json(out.with_name(f"{out.stem}.cost.json"), costs(scored))
    write_json(out, result)
    _print(result, marked, out)
    return result


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
