"""``ddbench evaluate``: train students on a synset and test each once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Common, worker_count
from ddbench.cli.teachers import protocol_teacher
from ddbench.evaluate.protocols import Protocol, changed, protocol, result_name
from ddbench.networks.names import check_student, default_student, expand_students
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console


@dataclass(frozen=True, kw_only=True)
class Args(Common):
    """Score a synset: students x seeds under a protocol; accuracy of the last epoch, the test set used once a run."""

    run: tyro.conf.Positional[Path]
    """A run folder, or a synset file."""
    protocol: str = "hard-v1"
    """Protocol (ddbench list protocols), or a TOML file with one of your own."""
    students: str | None = None
    """Comma-separated networks or groups (quick, mtt, all-small, ...); default: the network it was distilled on."""
    seeds: int = 5
    """Number of fresh networks; seeds 0 to n-1, the same for every synset, so that rows can be paired."""
    epochs: int | None = None
    """Other number of epochs than the protocol's: the result is then non-standard, and says so."""
    lr: float | None = None
    """Other learning rate than the protocol's or the synset's: non-standard."""
    augmentation: str | None = None
    """Other augmentation than the protocol's: non-standard."""
    lr_source: Literal["protocol", "synset", "search"] | None = None
    """Where the learning rate comes from, other than the protocol says; search: tried on held-out training images."""
    teacher: Path | None = None
    """Teacher file, for protocols with a teacher; default: the synset's own, else the best one in --teachers."""
    teachers: Path = Path("teachers")
    """Root of the teachers (ddbench teacher)."""
    labels: Path | None = None
    """Stored labels, for protocols that replay them; default: labels.safetensors beside the synset."""
    max_images: int | None = None
    """Test on the first so many images only: non-standard."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is recorded in the result and never mixed with float32 rows."""
    workers: int = 0
    """Runs at once, each in its own process; 0: one a core."""
    at_once: int = 1
    """Seeds trained at once on one device, their weights stacked: pays on a GPU with small networks."""
    size: int | None = None
    """Side in pixels, for image folders and ImageNet; default: the synset's."""
    out: Path | None = None
    """Result file; default: RUN/evaluations/<protocol>.json."""


EXAMPLES = """  ddbench evaluate runs/digits-ipc1-mtt-s0
  ddbench evaluate runs/digits-ipc1-mtt-s0 --students convnet-d3-w32-in,mlp-d3-w128 --seeds 10
  ddbench evaluate synset.safetensors --protocol dc-legacy --out score.json
  ddbench evaluate runs/digits-ipc1-mtt-s0 --lr-source search
  ddbench evaluate runs/digits-ipc10-random-s0 --protocol kd-v1        # after: ddbench teacher
  ddbench evaluate runs/digits-ipc1-mtt-s0 --protocol my-protocol.toml"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench evaluate", str(Args.__doc__), EXAMPLES)
    run_evaluation(args)


def run_evaluation(args: Args) -> dict[str, Any]:
    """Evaluate as the flags say and print the table; returns the evaluation."""
    base = protocol(args.protocol)
    settings = {"epochs": args.epochs, "full_epochs": args.epochs, "lr": args.lr, "augmentation": args.augmentation}
    source: dict[str, Any] = {"lr_source": args.lr_source}
    if args.lr is not None:
        source = {"lr_source": "protocol", "lr_students": ()}
    if args.lr is not None and args.lr_source is not None:
        raise UserError(f"--lr {args.lr:g} --lr-source {args.lr_source}: give one of the two")
    altered, difference = changed(base, **settings, **source)
    students = expand_students(args.students) if args.students else None
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: expected at least 1")
    workers, threads = worker_count(args.workers, args.threads)

    from ddbench.data.specs import FOLDER, dataset_spec
    from ddbench.evaluate.evaluator import Job, evaluate
    from ddbench.synset import read_synset, synset_path

    path = synset_path(args.run)
    synset = read_synset(path)
    _, channels, size, _ = synset.images.shape
    students = students or (synset.student or default_student(size),)
    for student in students:
        check_student(student, channels, size)
    resizable = dataset_spec(synset.dataset, size if synset.dataset.startswith(FOLDER) else None).resizable
    teacher = protocol_teacher(altered, synset, given=args.teacher, root=args.teachers)
    out = args.out or path.parent / "evaluations" / f"{result_name(base, _marks(difference, args))}.json"
    result = evaluate(
        job=Job(
            synset=path,
            data=args.data,
            size=(args.size or size) if resizable else None,
            protocol=altered,
            device=args.device,
            threads=threads,
            precision=args.precision,
            compile=args.compile,
            max_images=args.max_images,
            teacher=teacher.path if teacher else None,
            labels=_labels(args, altered, path),
            at_once=args.at_once,
        ),
        students=students,
        seeds=range(args.seeds),
        difference=difference,
        out=out,
        workers=workers,
        console=Console(args.quiet),
    )
    _print(result, out)
    return result


def _labels(args: Args, wanted: Protocol, synset: Path) -> Path | None:
    """The file of stored labels, for a protocol that replays them.

    Raises:
        UserError: it is not there.
    """
    if wanted.labels != "stored":
        if args.labels is not None:
            raise UserError(f"--labels: protocol {wanted.name} takes no stored labels; use --protocol fkd")
        return None
    path = args.labels or synset.parent / "labels.safetensors"
    if not path.is_file():
        raise UserError(
            f"protocol {wanted.name} replays stored labels, and {path} is not there: make them with `ddbench relabel "
            f"{synset.parent}`"
        )
    return path


def _marks(difference: dict[str, Any], args: Args) -> dict[str, Any]:
    """What the file name says about a non-standard evaluation."""
    marks = dict(difference)
    if args.max_images is not None:
        marks["max_images"] = args.max_images
    if args.precision != "float32":
        marks["precision"] = args.precision
    if args.at_once != 1:
        marks["at_once"] = args.at_once
    return marks


def _print(result: dict[str, Any], out: Path) -> None:
    synset, standard = result["synset"], result["protocol"]["standard"]
    budget = f"{synset['budget']['unit']} {synset['budget']['value']}"
    title = f"{synset['method']} on {synset['dataset']}, {budget}, {result['protocol']['name']}"
    print(title + ("" if standard else f"  NON-STANDARD: {result['protocol']['changed']}"))
    for student, metrics in result["summary"].items():
        entry, rate = metrics["accuracy"], result["learning_rates"][student]
        interval = (
            f"  95 % interval {100 * entry['low']:.2f} to {100 * entry['high']:.2f}" if entry["low"] is not None else ""
        )
        print(f"  {student:<24} {100 * entry['mean']:6.2f} %{interval}  ({entry['n']} seeds)  lr {rate['rate']:g}")
    stored = synset["bytes"]
    parts = ", ".join(
        f"{name} {stored[name]:,}" for name in ("images", "labels", "augmentation", "teacher", "other") if stored[name]
    )
    share = f"1/{stored['real_images'] / synset['images']:.0f} of the images"
    print(f"  bytes {stored['total']:,} ({parts}): {stored['total'] / stored['real']:.2%} of the real set, {share}")
    print(f"result: {out}")
