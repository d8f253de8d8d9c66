"""``ddbench evaluate``: train students on a synset and test each once; measure calibration and robustness."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Common, worker_count
from ddbench.measurements.suite import BUDGETS, NOISE, Choice
from ddbench.networks.check import check_student
from ddbench.networks.names import default_student, expand_students
from ddbench.protocols.protocol import Protocol, changed, protocol, result_name
from ddbench.protocols.teacher import protocol_teacher
from ddbench.registry import unknown
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
    label_smoothing: float | None = None
    """Smoothing of hard labels, such as 0.1: non-standard; not for soft or teacher labels."""
    mixup: float | None = None
    """MixUp with this alpha after the protocol's augmentation, such as 1: non-standard."""
    focal_gamma: float | None = None
    """Focal loss with this gamma, such as 3: non-standard; not for soft or teacher labels."""
    lr_source: Literal["protocol", "synset", "search"] | None = None
    """Where the learning rate comes from, other than the protocol says; search: tried on held-out training images."""
    teacher: Path | None = None
    """Teacher file, for protocols with a teacher; default: the synset's own, else the best one in --teachers."""
    teachers: Path = Path("teachers")
    """Root of the teachers (ddbench teacher)."""
    labels: Path | None = None
    """Stored labels, for protocols that replay them; default: labels.safetensors beside the synset."""
    calibration: bool = False
    """Measure calibration (ECE, NLL, Brier, ...) before and after temperature scaling, on the whole test set."""
    robustness: str | None = None
    """Attack the students; alone, or with a budget: quick, full, ddrobustbench, guard, legacy (docs/robustness.md)."""
    corruptions: bool = False
    """Test on corrupted images: the types of CIFAR-10-C at five severities."""
    ood: str | None = None
    """Tell images of other data from the test images by the student's confidence: AUROC and FPR at 95 % TPR; alone
    against noise, or against another dataset with images of this shape, such as fashion-mnist (docs/robustness.md)."""
    corruption_reference: Path | None = None
    """With --corruptions: evaluation of method full, measured with --corruptions, which the mCE is relative to."""
    max_images: int | None = None
    """With --robustness, --corruptions, --ood: test images they use, instead of 1,000, or of all for --ood.
    Without them: test on the first so many images only, which is non-standard."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is recorded in the result and never mixed with float32 rows."""
    workers: int = 0
    """Runs at once, each in its own process; 0: one a core."""
    at_once: int = 1
    """Seeds trained at once on one device, their weights stacked: pays on a GPU with small networks. Rounding depends
    on it, so blocks are trained whole: --seeds best is a multiple."""
    size: int | None = None
    """Side in pixels, for image folders and ImageNet; default: the synset's."""
    out: Path | None = None
    """Result file; default: RUN/evaluations/<protocol>.json."""


EXAMPLES = """  ddbench evaluate runs/digits-ipc1-mtt-s0
  ddbench evaluate runs/digits-ipc1-mtt-s0 --students convnet-d3-w32-in,mlp-d3-w128 --seeds 10
  ddbench evaluate synset.safetensors --protocol dc-legacy --out score.json
  ddbench evaluate runs/digits-ipc1-mtt-s0 --lr-source search
  ddbench evaluate runs/digits-ipc1-mtt-s0 --calibration                # extends an evaluation that is there
  ddbench evaluate runs/digits-ipc1-mtt-s0 --robustness quick --corruptions --max-images 1000
  ddbench evaluate runs/mnist-ipc1-dm-s0 --ood fashion-mnist
  ddbench evaluate runs/digits-ipc10-random-s0 --protocol kd-v1        # after: ddbench teacher
  ddbench evaluate runs/digits-ipc1-mtt-s0 --protocol my-protocol.toml"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, _completed(argv), "ddbench evaluate", str(Args.__doc__), EXAMPLES)
    run_evaluation(args)


ALONE = {"--robustness": BUDGETS[0], "--ood": NOISE}
"""What a flag means that stands alone or before the run."""


def _completed(argv: list[str]) -> list[str]:
    """The flags, with the values of those that were left without one."""
    found = []
    for token, following in zip(argv, [*argv[1:], ""], strict=True):
        found.append(token)
        if token in ALONE and (not following or following.startswith("-") or _is_run(following)):
            found.append(ALONE[token])
    return found


def _is_run(token: str) -> bool:
    """Whether it is rather a run or a synset than a value, were it misspelt."""
    from ddbench.data.specs import DATASETS, FOLDER

    if token in (*BUDGETS, NOISE, *DATASETS) or token.startswith(FOLDER):
        return False
    return bool({"/", os.sep, "."} & set(token)) or Path(token).exists()


def run_evaluation(args: Args) -> dict[str, Any]:
    """Evaluate as the flags say and print the table; returns the evaluation."""
    base = protocol(args.protocol)
    settings = {
        "epochs": args.epochs,
        "full_epochs": args.epochs,
        "lr": args.lr,
        "label_smoothing": args.label_smoothing,
        "focal_gamma": args.focal_gamma,
        "augmentation": _augmentation(args, base),
        "mix_alpha": args.mixup,
    }
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
    choices = _choices(args)
    extra = bool(args.robustness or args.corruptions or args.ood)

    from ddbench.data.specs import FOLDER, dataset_spec
    from ddbench.evaluation.evaluator import evaluate
    from ddbench.evaluation.tasks import Job
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
            max_images=None if extra else args.max_images,
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
        choices=choices,
    )
    _print(result, out)
    return result


def _choices(args: Args) -> list[Choice]:
    """The extra measurements that the flags ask for.

    Raises:
        UserError: an unknown budget, or a reference for nothing.
    """
    if args.robustness is not None and args.robustness not in BUDGETS:
        raise unknown("budget", args.robustness, BUDGETS, "--robustness")
    if args.corruption_reference is not None and not args.corruptions:
        raise UserError(f"--corruption-reference {args.corruption_reference}: give --corruptions with it")
    return [
        *([Choice(kind="calibration")] if args.calibration else []),
        *(
            [Choice(kind="robustness", budget=args.robustness, max_images=args.max_images)]
            if args.robustness is not None
            else []
        ),
        *(
            [Choice(kind="corruptions", max_images=args.max_images, reference=args.corruption_reference)]
            if args.corruptions
            else []
        ),
        *([Choice(kind="ood", other=args.ood, max_images=args.max_images)] if args.ood is not None else []),
    ]


def _augmentation(args: Args, base: Protocol) -> str | None:
    """The augmentation of the flags, MixUp with it.

    Raises:
        UserError: images are mixed already.
    """
    if args.mixup is None:
        return args.augmentation
    given = args.augmentation or base.augmentation
    if {"mixup", "cutmix"} & set(given.lower().split("+")):
        raise UserError(f"--mixup {args.mixup:g}: the augmentation {given!r} mixes images already; leave it out")
    return "mixup" if given == "none" else f"{given}+mixup"


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
    if args.max_images is not None and not (args.robustness or args.corruptions or args.ood):
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
        _print_measured(result["metrics"], metrics)
    stored = synset["bytes"]
    parts = ", ".join(
        f"{name} {stored[name]:,}" for name in ("images", "labels", "augmentation", "teacher", "other") if stored[name]
    )
    share = f"1/{stored['real_images'] / synset['images']:.0f} of the images"
    print(f"  bytes {stored['total']:,} ({parts}): {stored['total'] / stored['real']:.2%} of the real set, {share}")
    print(f"result: {out}")


NOT_PRINTED = ("accuracy", "adaptive_ece", "classwise_ece", "nll_scaled", "brier")
"""What metrics begin with that are in the file only: the accuracy has a line of its own, and calibration has many."""


ORDER = (
    "ece",
    "nll",
    "overconfidence",
    "temperature",
    "robust",
    "cw",
    "deepfool",
    "beard",
    "corruption",
    "noise",
    "mce",
    "ood",
)
"""What metrics begin with, in the order of their lines."""


def _print_measured(known: dict[str, Any], metrics: dict[str, Any]) -> None:
    """One line a metric that was measured beside the accuracy."""
    shown = [name for name in known if name in metrics and not name.startswith(NOT_PRINTED)]
    places = {name: next((place for place, start in enumerate(ORDER) if name.startswith(start)), 99) for name in shown}
    for name in sorted(shown, key=lambda name: (places[name], name)):
        entry, metric = metrics[name], known[name]
        interval = f"  {entry['low']:.4f} to {entry['high']:.4f}" if entry["low"] is not None else ""
        print(f"    {metric['title']:<52} {entry['mean']:8.4f}{interval}  ({entry['n']} seeds)")
