"""From names and settings to an evaluation: what the command line and a caller in Python share.

Loads torch when it is used.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from ddbench.config import apply_config, types_of
from ddbench.measurements.suite import BUDGETS, NOISE, Choice
from ddbench.modalities import Modality, modality, modality_at
from ddbench.protocols.protocol import result_name
from ddbench.registry import unknown
from ddbench.runtime.common import Common
from ddbench.runtime.device import begun_threads, own_threads, worker_count
from ddbench.runtime.errors import Unfinished, UserError
from ddbench.runtime.jobs import warm
from ddbench.runtime.numbers import check_count
from ddbench.runtime.progress import Console
from ddbench.runtime.shards import WHOLE, Shard, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddbench.evaluation.result import Evaluation
    from ddbench.evaluation.tasks import Job
    from ddbench.runtime.forecast import Forecast


@dataclass(frozen=True, kw_only=True)
class Asked(Common):
    """How a synset is to be scored: what the flags of ``ddbench evaluate`` and :func:`ddbench.evaluate` say."""

    protocol: str | None = None
    """Protocol (ddbench list protocols), or a TOML file with one of your own; default: hard-v1, for graphs graph-v1.
    Typed, also several joined by commas, or regimes: hard labels, one soft label an image, a label of every view."""
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
    Without them: test on so many images only, of the classes alike, which is non-standard."""
    keep_weights: bool = False
    """Keep the trained students beside the result, up to 1 GB, so that a later measurement need not train again."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is recorded in the result and never mixed with float32 rows."""
    workers: int = 0
    """Runs at once, each in its own process; 0: one a core, on a GPU one."""
    at_once: int = 1
    """Seeds trained at once on one device, their weights stacked: pays on a GPU with small networks. Rounding depends
    on it, so blocks are trained whole: --seeds best is a multiple. Networks with dropout go one after another."""
    size: int | None = None
    """Side in pixels, for image folders and ImageNet; default: the synset's."""
    out: Path | None = None
    """Result file; default: RUN/evaluations/<protocol>.json, for a row of a board evaluations/<id>/<protocol>.json."""


class Order(TypedDict):
    """Arguments of :func:`ddbench.evaluation.evaluator.evaluate`."""

    job: Job
    students: Sequence[str]
    seeds: Sequence[int]
    difference: dict[str, Any]
    out: Path
    workers: int
    console: Console
    choices: Sequence[Choice]
    keep_weights: bool


def asked(settings: Mapping[str, Any]) -> Asked:
    """What a caller in Python asks for: fields of :class:`Asked` by name.

    Paths may be texts, ``students`` a sequence; ``robustness`` and ``ood`` may be True (the first budget; noise) or
    False.

    Raises:
        UserError: an unknown setting, with a suggestion, or a value of another type.
    """
    types = types_of(Asked)
    words = {"robustness": BUDGETS[0], "ood": NOISE}
    found = dict(settings)
    for name, value in settings.items():
        if name in words and isinstance(value, bool):
            found[name] = words[name] if value else None
        elif name == "students" and isinstance(value, list | tuple):
            found[name] = ",".join(value)
        elif isinstance(value, str) and Path in (types.get(name), *get_args(types.get(name))):
            found[name] = Path(value)
    made: Asked = apply_config(Asked, found, "evaluate")
    return made


def evaluate(run: Path, asked: Asked, shard: Shard = WHOLE) -> Evaluation:
    """Score a synset; what is there already is not done again.

    Args:
        run: a run folder, or a synset file.
        shard: the share of the runs that is done here.

    Raises:
        UserError: whatever the user can mend, before anything is written.
        Unfinished: the shard's runs are done, and not all runs are.
    """
    order = _order(run, asked)

    from ddbench.evaluation import evaluator
    from ddbench.evaluation.result import Evaluation

    return Evaluation(path=order["out"], data=evaluator.evaluate(**order, shard=shard))


REGIMES = "regimes"
"""Name for the three protocols that differ in their labels only."""

LABELS = ("labels-hard", "labels-once", "labels-view")
"""They, in the order in which they are compared with the first one."""


RELABELLED = "fkd"
"""Protocol that ``ddbench relabel`` makes labels for where none is named."""


def evaluate_all(run: Path, asked: Asked, shard: Shard = WHOLE) -> list[Evaluation]:
    """As :func:`evaluate` by every protocol of a comma-separated list; all are looked at before the first one begins.

    ``regimes`` stands for :data:`LABELS`. A teacher or stored labels that are given go to the protocols that take them.

    Raises:
        UserError: as :func:`evaluate`, a protocol named twice, or one file asked for several results.
        Unfinished: as :func:`evaluate`.
    """
    each = each_protocol(run, asked)
    for order in [_order(run, one) for one in each] if len(each) > 1 else ():
        from ddbench.evaluation import evaluator

        evaluator.status(**order)  # which looks at all that the evaluation looks at
    found, left = [], []
    for one in each:
        try:
            found.append(evaluate(run, one, shard))
        except Unfinished as error:  # its share of the other protocols is not done yet
            left.append(error)
    if left:
        raise Unfinished("; ".join(map(str, left)), sum(one.left for one in left))
    return found


def each_protocol(run: Path, asked: Asked) -> list[Asked]:
    """What is asked for by each protocol of the list.

    Raises:
        UserError: a protocol named twice, or one file asked for several results.
    """
    said = [name.strip() for name in (asked.protocol or "").split(",")]
    names = tuple(name for one in said for name in (LABELS if one == REGIMES else (one,)))
    if len(names) == 1:
        return [asked]
    if len(set(names)) < len(names):
        raise UserError(f"--protocol {asked.protocol}: a protocol is named twice")
    if asked.out is not None:
        raise UserError(f"--out {asked.out}: one file for {len(names)} results; leave it out, or give one --protocol")
    kind = _kind(run)
    learned = [kind.protocol(name).labels for name in names]

    def given(file: Path | None, labels: str, *takers: str) -> Path | None:
        """A file for the protocols that take it; for all where none does, which then say so."""
        return file if labels in takers or not set(learned) & set(takers) else None

    return [
        replace(
            asked,
            protocol=name,
            teacher=given(asked.teacher, labels, "once", "teacher"),
            labels=given(asked.labels, labels, "stored"),
        )
        for name, labels in zip(names, learned, strict=True)
    ]


def status(run: Path, asked: Asked) -> tuple[Path, list[State]]:
    """The result's file, and what became of each run and measurement that is asked for; nothing is written.

    Raises:
        UserError: as :func:`evaluate`.
    """
    order = _order(run, replace(asked, download=False))

    from ddbench.evaluation import evaluator

    return order["out"], evaluator.status(**order)


def forecast(run: Path, asked: Asked, seconds: float) -> Forecast:
    """What :func:`evaluate_all` will take; under each protocol each student is trained for some ``seconds``.

    Nothing is written.

    Raises:
        UserError: as :func:`evaluate_all`.
    """
    orders = [_order(run, one) for one in each_protocol(run, asked)]

    from ddbench.evaluation import forecast as forecasts
    from ddbench.runtime.forecast import added

    return added([forecasts.forecast(**order, seconds=seconds) for order in orders])


def _order(run: Path, asked: Asked) -> Order:
    """What the evaluator is asked for.

    Raises:
        UserError: whatever the user can mend.
    """
    kind = _kind(run)
    kind.check_asked(asked)
    device = kind.device(asked.device, asked.compile)
    base = kind.protocol(asked.protocol or kind.usual_protocol)
    students = kind.students(asked.students) if asked.students is not None else None
    check_count("--seeds", asked.seeds)
    if worker_count(asked.workers, asked.threads)[0] > 1:
        warm("ddbench.evaluation.tasks")
    choices = _choices(asked)

    from ddbench.data.load import load_dataset
    from ddbench.evaluation.parts import HEAD, parts_folder
    from ddbench.evaluation.tasks import Job
    from ddbench.synset import beside, synset_path

    path = synset_path(run)
    synset = kind.read(path)
    students = students or (synset.student or kind.default_student(synset),)
    for student in students:
        kind.check_student(student, synset)
    altered, difference = _altered(asked, base, kind, students, whole=synset.budget.unit == "all")
    side = kind.side(synset, asked.size)
    labels = _labels(asked, altered, path)
    name = result_name(base, _marks(difference, asked), _how(asked))
    out = asked.out or beside(path, "evaluations") / f"{name}.json"
    begun = (out, parts_folder(out) / HEAD)
    teacher = kind.teacher(altered, synset, path, asked.teacher, asked.teachers, begun)
    threads = asked.threads or begun_threads(*begun)
    workers = worker_count(asked.workers, threads, device)[0]
    threads = own_threads(threads, kind.pixels(synset), workers)
    if asked.download or asked.skip_broken:
        load_dataset(
            synset.dataset,
            asked.data,
            size=side,
            download=asked.download,
            skip_broken=asked.skip_broken,
            modality=kind.name,
        )
    return Order(
        job=Job(
            synset=path,
            data=asked.data,
            size=side,
            protocol=altered,
            device=device,
            threads=threads,
            precision=asked.precision,
            compile=asked.compile,
            max_images=None if _extra(asked) else asked.max_images,
            teacher=teacher.path if teacher else None,
            labels=labels,
            at_once=asked.at_once,
        ),
        students=students,
        seeds=range(asked.seeds),
        difference=difference,
        out=out,
        workers=workers,
        console=Console(asked.quiet),
        choices=choices,
        keep_weights=asked.keep_weights,
    )


def _kind(run: Path) -> Modality:
    """The modality of a synset; of a place without one that of images, which says what is missing."""
    path = run / "synset.safetensors" if run.is_dir() else run
    return modality_at(path) if path.is_file() else modality("image")


def _altered(
    asked: Asked, base: Any, kind: Modality, students: Sequence[str], *, whole: bool
) -> tuple[Any, dict[str, Any]]:
    """The protocol with what was altered, and what differs from its standard.

    Epochs and rates that are what the protocol gives these students and this synset alter nothing. Other epochs are
    both those of a synset and those of all real data, so that the two stand in one table; as do a synset for as many
    epochs as all real data have anyway and these, whose evaluation is standard.

    Args:
        whole: the synset is all real data.

    Raises:
        UserError: an unknown protocol, or a setting out of range or against another one.
    """
    if asked.lr is not None and asked.lr_source is not None:
        raise UserError(f"--lr {asked.lr:g} --lr-source {asked.lr_source}: give one of the two")
    epochs = asked.epochs
    if epochs is not None and epochs == (base.full_epochs if whole else base.epochs):
        epochs = None
    settings: dict[str, Any] = {
        "epochs": epochs,
        "full_epochs": epochs,
        "label_smoothing": asked.label_smoothing,
        "focal_gamma": asked.focal_gamma,
        "augmentation": _augmentation(asked, base),
        "mix_alpha": asked.mixup,
        "lr_source": asked.lr_source,
    }
    if asked.lr is not None and not _is_rate(asked.lr, base, students):
        settings |= {"lr": asked.lr, "lr_source": "protocol", "lr_students": ()}
    return kind.changed(base, **settings)


def _is_rate(lr: float, base: Any, students: Sequence[str]) -> bool:
    """Whether it is the rate that a protocol gives all of the students, whatever the synset."""
    return base.lr_source == "protocol" and all(base.rate(student) == lr for student in students)


def _extra(asked: Asked) -> bool:
    """Whether the number of images is that of a measurement, not of the test."""
    return bool(asked.robustness or asked.corruptions or asked.ood)


def _choices(asked: Asked) -> list[Choice]:
    """The extra measurements that are asked for.

    Raises:
        UserError: an unknown budget, or a reference for nothing.
    """
    if asked.robustness is not None and asked.robustness not in BUDGETS:
        raise unknown("budget", asked.robustness, BUDGETS, "--robustness")
    if asked.corruption_reference is not None and not asked.corruptions:
        raise UserError(f"--corruption-reference {asked.corruption_reference}: give --corruptions with it")
    return [
        *([Choice(kind="calibration")] if asked.calibration else []),
        *(
            [Choice(kind="robustness", budget=asked.robustness, max_images=asked.max_images)]
            if asked.robustness is not None
            else []
        ),
        *(
            [Choice(kind="corruptions", max_images=asked.max_images, reference=asked.corruption_reference)]
            if asked.corruptions
            else []
        ),
        *([Choice(kind="ood", other=asked.ood, max_images=asked.max_images)] if asked.ood is not None else []),
    ]


def _augmentation(asked: Asked, base: Any) -> str | None:
    """The augmentation that is asked for, MixUp with it.

    Raises:
        UserError: images are mixed already.
    """
    if asked.mixup is None:
        return asked.augmentation
    given = asked.augmentation or base.augmentation
    if {"mixup", "cutmix"} & set(given.lower().split("+")):
        raise UserError(f"--mixup {asked.mixup:g}: the augmentation {given!r} mixes images already; leave it out")
    return "mixup" if given == "none" else f"{given}+mixup"


def _labels(asked: Asked, wanted: Any, synset: Path) -> Path | None:
    """The file of stored labels, for a protocol that replays them.

    Raises:
        UserError: it is not there.
    """
    if wanted.labels != "stored":
        if asked.labels is not None:
            raise UserError(f"--labels: protocol {wanted.name} takes no stored labels; use --protocol fkd")
        return None
    from ddbench.protocols.plan import labels_path, row_labels
    from ddbench.synset import FILE

    path = asked.labels or row_labels(synset) or labels_path(synset)
    if not path.is_file():
        subject = synset.parent if synset.name == FILE else synset
        other = [] if asked.protocol in (None, RELABELLED) else ["--protocol", str(asked.protocol)]
        command = shlex.join(["ddbench", "relabel", str(subject), *other])
        raise UserError(
            f"protocol {wanted.name} replays stored labels, and {path} is not there: make them with `{command}`"
        )
    return path


def _marks(difference: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """What the file name says about a non-standard evaluation."""
    marks = dict(difference)
    if asked.max_images is not None and not _extra(asked):
        marks["max_images"] = asked.max_images
    return marks


def _how(asked: Asked) -> dict[str, Any]:
    """What the file name says about how a standard evaluation was computed, where it is not the usual way."""
    usual = {"precision": "float32", "at_once": 1}
    return {name: getattr(asked, name) for name, value in usual.items() if getattr(asked, name) != value}
