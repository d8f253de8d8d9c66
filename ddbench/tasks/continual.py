"""``continual``: class-incremental learning with a memory of distilled images, in the manner of GDumb, as DM does it.

The classes come in steps, in several orders. A memory keeps so many images of each class that was seen, and after each
step a fresh network is trained on the whole memory, with an output for every class and DSA for every method; it is
tested on the test images of all classes seen so far. DM's protocol: 5 or 10 equal steps, 20 images a class, class
orders that are NumPy's permutations under the seeds 0 to 4, 1,000 passes at rate 0.01.

A step's images are distilled from that step's classes only, by the method, config and seed of the RUN. A set that was
distilled from all classes at once has seen classes of later steps; with ``--joint`` it is used all the same, and its
row says that it leaks. Labels are the images' classes and the rate is the protocol's for every method.

The record of a unit holds the whole matrix: accuracy on the classes of step s after step t. From it follow accuracy on
what was seen after each step, *final* (after the last), *average* (over steps) and *forgetting*. Random images and
herding at the same memory are learned beside the runs. The unit of the intervals is the class order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ddbench.config import setting
from ddbench.data.dataset import Dataset, Split, make_dataset
from ddbench.data.preprocess import kind_of
from ddbench.methods import METHODS
from ddbench.runtime.device import resolve_device
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash
from ddbench.runtime.numbers import check_count, whole
from ddbench.statistics import FRACTION, summarise_groups
from ddbench.synset import FILE, Budget, Synset, read_synset
from ddbench.tasks.base import BASELINE, STATISTICS_SCHEMA, Job, Records, Task, Unit, refuse_recipe, shown
from ddbench.tasks.distilling import (
    Source,
    again,
    check_again,
    check_source,
    hardest,
    most_images,
    source_of,
    sources_beside,
)
from ddbench.tasks.learning import outputs_of, real_inputs, trained
from ddbench.tasks.measures import forgetting, paired_groups, seen_accuracies
from ddbench.tasks.told import Described, Told

METRICS = {
    "final": Described("fraction", "higher", "Accuracy on all classes after the last step"),
    "average": Described("fraction", "higher", "Accuracy on the classes seen so far, mean over steps"),
    "forgetting": Described("1", "lower", "Best accuracy on a step's classes less that at the end, mean over steps"),
}


@dataclass(frozen=True, kw_only=True)
class ContinualConfig:
    """Settings of continual."""

    memory: int = setting(20, at_least=1)
    """Images that are kept of each class."""
    steps: int = setting(5, at_least=1)
    """Steps in which the classes come, as equal as can be."""
    orders: int = setting(5, at_least=1, at_most=1000)
    """Class orders: NumPy's permutations under the seeds 0 to n-1."""
    order: str | None = None
    """One class order of your own instead: all labels from 0, with commas."""
    joint: bool = False
    """Use the runs' synsets as they are, distilled from all classes at once: their rows are marked as leaking."""
    against: str = "random,herding"
    """Methods that are learned beside the runs, with their defaults; empty: none."""


class Continual(Task[ContinualConfig]):
    """Memories of distilled images, step by step."""

    config_class = ContinualConfig
    protocol = "dc-legacy"
    units: ClassVar[Mapping[str, str]] = {"forgetting": "difference"}
    schema: ClassVar[Mapping[str, Any]] = {
        "required": ["rows", "differences"],
        "additionalProperties": False,
        "properties": {
            "rows": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["run", "leaks", "metrics", "steps", "matrix"],
                    "additionalProperties": False,
                    "properties": {
                        "run": {"type": "string"},
                        "leaks": {"type": "boolean"},
                        "metrics": {"type": "object", "additionalProperties": STATISTICS_SCHEMA},
                        "steps": {"type": "array", "items": STATISTICS_SCHEMA},
                        "matrix": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                    },
                },
            },
            "differences": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["run", "against", "metrics"],
                    "additionalProperties": False,
                    "properties": {
                        "run": {"type": "string"},
                        "against": {"type": "string"},
                        "metrics": {"type": "object", "additionalProperties": STATISTICS_SCHEMA},
                    },
                },
            },
        },
    }

    def __init__(self, config: ContinualConfig, job: Job) -> None:
        super().__init__(config, job)
        self.orders = class_orders(self.dataset.spec.classes, config)
        first = self.synsets[job.runs[0].label]
        self.holdout = _holdout(first)
        self.preprocess = self.plan(job.runs[0].label).preprocess
        self.beside = sources_beside(config.against, self.dataset.spec.size)
        self.sources = [*(source_of(run, self.synsets[run.label]) for run in job.runs), *self.beside]
        self.by_label = {source.label: source for source in self.sources}

    @classmethod
    def distils(cls, config: ContinualConfig) -> bool:
        return not config.joint

    def _joint(self, label: str) -> Synset | None:
        """The set of all classes that fills the memory of a run; None: its steps are distilled."""
        return self.synsets.get(label) if self.config.joint else None

    def check(self) -> None:
        refuse_recipe(self.job.protocol, "a memory has none")
        super().check()
        config, classes = self.config, self.dataset.spec.classes
        check_count("--seeds times --orders", self.job.seeds * len(self.orders))
        if config.steps > classes:
            raise UserError(f"--steps {config.steps}: {self.dataset.spec.name} has {classes} classes only")
        if config.steps > classes // 2:
            raise UserError(
                f"--steps {config.steps}: some step of {classes} classes would have a single one, which nothing can be "
                f"distilled from; choose --steps {classes // 2} or less"
            )
        self._check_tested()
        for run in self.job.runs:
            synset = self.synsets[run.label]
            if _holdout(synset) != self.holdout:
                raise UserError(
                    f"{run.path} was made with --holdout {_holdout(synset):g}, {self.job.runs[0].path} with "
                    f"{self.holdout:g}: their steps would see other images; name runs of one --holdout"
                )
            if kind_of(self.plan(run.label).preprocess, self.dataset) != "meanstd":
                raise UserError(f"{run.path}: its preprocess is not meanstd: a whitening of all classes would leak")
            if config.joint:
                _check_joint(run.path, synset, config.memory)
        own = "leave it out, or give --joint, which uses the set as it is and marks its row as leaking"
        for source in self.sources:
            if self._joint(source.label) is None:
                remedy = "leave it out of --against" if source in self.beside else own
                check_source(source, remedy)
                if METHODS.get(source.method).unit != "ipc":
                    raise UserError(f"{source.label}: {source.method} has no images per class; {remedy}")
                most = most_images(source, self.dataset, self.holdout)
                if most is not None and config.memory > most:
                    raise UserError(
                        f"--memory {config.memory}: {source.label} takes different images, and some class has {most}; "
                        f"choose --memory {most} or less, or {remedy}"
                    )
                parts = map(self._part, self._hardest())
                check_again(source, parts, self.job, ipc=config.memory, holdout=self.holdout, remedy=remedy)

    def _check_tested(self) -> None:
        """Refuse a step that no test image is of: there is no accuracy on its classes."""
        counts = self.dataset.test.labels.bincount(minlength=self.dataset.spec.classes)
        steps = [own for order in self.orders for own in steps_of(order, self.config.steps)]
        if empty := [own for own in steps if not int(counts[own].sum())]:
            raise UserError(
                f"--steps {self.config.steps}: no test image is of the classes of a step ({str(empty[0])[1:-1]:.60}); "
                "choose fewer --steps, or another --order"
            )

    def _hardest(self) -> list[list[int]]:
        """The classes of the steps that a method may have too few images of."""
        counts = self.dataset.train.labels.bincount(minlength=self.dataset.spec.classes)
        steps = [own for order in self.orders for own in steps_of(order, self.config.steps)]
        return [steps[place] for place in hardest([counts[own] for own in steps])]

    def _part(self, classes: Sequence[int]) -> Dataset:
        return of_classes(self.dataset, classes)

    def decides(self) -> dict[str, Any]:
        return {"orders": self.orders, "holdout": self.holdout}

    def stages(self) -> Sequence[Sequence[Unit]]:
        orders, steps, sources = range(len(self.orders)), range(self.config.steps), self.sources
        return [
            [
                Unit(name=f"{source.label} order {order} step {step}", values=("distil", source.label, order, step))
                for source in sources
                if self._joint(source.label) is None
                for order in orders
                for step in steps
            ],
            [
                Unit(name=_learned(source.label, order, seed), values=("learn", source.label, order, seed))
                for source in sources
                for order in orders
                for seed in range(self.job.seeds)
            ],
        ]

    def there(self, unit: Unit, record: Mapping[str, Any]) -> bool:
        if unit.values[0] == "learn":
            return True
        _, label, order, step = unit.values
        return (self._folder(label, order, step) / FILE).is_file()

    def work(self, unit: Unit) -> dict[str, Any]:
        kind, label, order, number = unit.values
        if kind == "distil":
            return {"set": file_hash(self._distil(self.by_label[label], order, number))}
        return self._learn(self.by_label[label], order, number)

    def _folder(self, label: str, order: int, step: int) -> Path:
        return self.job.folder / f"{label}-order{order}-step{step}"

    def _distil(self, source: Source, order: int, step: int) -> Path:
        """The step's set, from the step's classes."""
        return again(
            source,
            self._part(steps_of(self.orders[order], self.config.steps)[step]),
            self.job,
            ipc=self.config.memory,
            holdout=self.holdout,
            out=self._folder(source.label, order, step),
            kept=f"order{order}-step{step}",
        )

    def _memory(self, source: Source, order: int) -> list[Synset]:
        """Each step's part of the memory, labelled by the dataset's classes."""
        steps = steps_of(self.orders[order], self.config.steps)
        joint = self._joint(source.label)
        if joint is not None:
            joint = joint.plain(self.preprocess)
            return [_of_step(joint, torch.tensor(own)) for own in steps]
        found = []
        for step, own in enumerate(steps):
            part = read_synset(self._folder(source.label, order, step) / FILE).plain(self.preprocess)
            found.append(replace(part, labels=torch.tensor(own)[part.hard_labels()]))
        return found

    def _learn(self, source: Source, order: int, seed: int) -> dict[str, Any]:
        device = resolve_device(self.job.settings.device)
        parts = self._memory(source, order)
        steps = [torch.tensor(own) for own in steps_of(self.orders[order], self.config.steps)]
        matrix, counts = [], [int(torch.isin(self.dataset.test.labels, own).sum()) for own in steps]
        for step in range(len(steps)):
            memory = joined(parts[: step + 1], self.dataset, self.config.memory)
            net = trained(self.plan_of(memory), self.job.student, seed, self.job.settings)
            tests = real_inputs(self.dataset, self.preprocess, device, torch.cat(steps[: step + 1]))
            right = (outputs_of(net, tests).argmax(1) == tests.labels.cpu()).float()
            rows = [torch.isin(tests.labels.cpu(), own) for own in steps[: step + 1]]
            matrix.append([float(right[own].double().mean()) for own in rows])
        return {
            "run": source.label,
            "order": order,
            "seed": seed,
            "leaks": self._joint(source.label) is not None,
            "matrix": matrix,
            "test_images": counts,
        }

    @classmethod
    def wanted(cls, head: Mapping[str, Any]) -> Iterable[str]:
        orders, seeds = range(len(head["decides"]["orders"])), range(head["seeds"])
        return (_learned(run["label"], order, seed) for run in head["runs"] for order in orders for seed in seeds)

    @classmethod
    def results(cls, head: Mapping[str, Any], records: Records) -> dict[str, Any]:
        """Metrics by run, with intervals over class orders, and differences to random images."""
        learned = [record for record in records.values() if "matrix" in record]
        labels = dict.fromkeys([*(run["label"] for run in head["runs"]), *(record["run"] for record in learned)])
        values = {label: _values([one for one in learned if one["run"] == label]) for label in labels}
        rows = [_row(label, [one for one in learned if one["run"] == label], values[label]) for label in labels]
        differences = [
            {
                "run": label,
                "against": BASELINE,
                "metrics": {name: paired_groups(found[name], values[BASELINE][name]) for name in METRICS},
            }
            for label, found in values.items()
            if label != BASELINE and BASELINE in values
        ]
        return {"rows": rows, "differences": differences}

    @classmethod
    def told(cls, head: Mapping[str, Any], records: Records, label: str) -> Told:
        learned = [one for one in records.values() if "matrix" in one and one["run"] == label]
        values, orders = _values(learned), {one["order"] for one in learned}
        units: dict[int, dict[str, float]] = {}
        for name, by_order in values.items():
            groups = {order: fmean(own.values()) for order, own in by_order.items()}
            if len(orders) == 1:  # then networks are the unit
                groups = by_order[min(orders)]
            for unit, value in groups.items():
                units.setdefault(unit, {})[name] = value
        return Told(
            over="order" if len(orders) > 1 else "seed",
            metrics=METRICS,
            units=units,
            beside={"leaks": any(one["leaks"] for one in learned)},
        )

    @classmethod
    def lines(cls, results: Mapping[str, Any]) -> list[str]:
        """Accuracy after each step, then the metrics and the differences."""
        lines = []
        for row in results["rows"]:
            mark = "  LEAKS: distilled from all classes at once" if row["leaks"] else ""
            steps = ", ".join(f"{step['mean']:.4f}" for step in row["steps"])
            lines.append(f"{row['run']}  after each step: {steps}{mark}")
            lines += [
                f"{row['run']}  {name}: {shown(entry, cls.units.get(name, FRACTION))}"
                for name, entry in row["metrics"].items()
            ]
        for row in results["differences"]:
            lines += [
                f"{row['run']} - {row['against']}  {name}: {shown(entry, cls.units.get(name, FRACTION))}"
                for name, entry in row["metrics"].items()
            ]
        return lines


def _learned(label: str, order: int, seed: int) -> str:
    """Name of the unit that trains on a memory."""
    return f"{label} order {order} seed {seed}"


def class_orders(classes: int, config: ContinualConfig) -> list[list[int]]:
    """The orders in which the classes come.

    Raises:
        UserError: one of the user's own that is no permutation of the labels.
    """
    if config.order is None:
        return [np.random.RandomState(seed).permutation(classes).tolist() for seed in range(config.orders)]
    words = [word.strip() for word in config.order.split(",")]
    labels = [number if (number := whole(word)) is not None else -1 for word in words]
    if sorted(labels) != list(range(classes)):
        wrong = next((word for word, label in zip(words, labels, strict=True) if not 0 <= label < classes), None)
        what = (
            f"{wrong!r:.40} is no label" if wrong is not None else f"{len(set(labels))} of {classes} labels, once each"
        )
        raise UserError(f"--order {config.order:.80}: {what}; expected every label from 0 to {classes - 1} once")
    return [labels]


def steps_of(order: Sequence[int], steps: int) -> list[list[int]]:
    """The classes of each step; the first ones have one more where they cannot all have as many."""
    return [part.tolist() for part in np.array_split(np.array(order), steps)]


def of_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """The part of a dataset that has some classes, labelled 0, 1, ... in their order."""
    label = torch.full((dataset.spec.classes,), -1)
    label[list(classes)] = torch.arange(len(classes))

    def part(split: Split) -> Split:
        keep = label[split.labels] >= 0
        return Split(split.images[keep], label[split.labels[keep]])

    names = tuple(dataset.spec.class_names[one] for one in classes)
    spec = replace(dataset.spec, classes=len(classes), class_names=names)
    return make_dataset(spec, part(dataset.train), part(dataset.test))


def joined(parts: Sequence[Synset], dataset: Dataset, memory: int) -> Synset:
    """The memory after some steps as one synset of the whole dataset; labels are classes, no rate is learned.

    Args:
        parts: with labels that are classes of the dataset.
    """
    return replace(
        parts[0],
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.hard_labels() for part in parts]),
        budget=Budget("ipc", memory),
        fingerprint=dataset.fingerprint,
        class_names=dataset.spec.class_names,
        label_scale=None,
        learned_lr=None,
        stage=None,
        schedule=None,
    )


def _of_step(synset: Synset, classes: Tensor) -> Synset:
    labels = synset.hard_labels()
    keep = torch.isin(labels, classes)
    return replace(synset, images=synset.images[keep], labels=labels[keep], label_scale=None, stage=None, schedule=None)


def _holdout(synset: Synset) -> float:
    found = synset.config.get("holdout")
    return float(found) if isinstance(found, float | int) and not isinstance(found, bool) else 0.0


def _check_joint(path: Path, synset: Synset, memory: int) -> None:
    if synset.budget.unit != "ipc" or synset.budget.value != memory:
        raise UserError(f"{path} has {synset.budget}, and --memory is {memory}: all need the same; give --memory")


def _values(learned: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, dict[int, float]]]:
    """Metric -> order -> seed -> value."""
    found: dict[str, dict[int, dict[int, float]]] = {name: {} for name in METRICS}
    for record in learned:
        seen = seen_accuracies(record["matrix"], record["test_images"])
        own = (seen[-1], fmean(seen), forgetting(record["matrix"]))
        for name, value in zip(METRICS, own, strict=True):
            found[name].setdefault(record["order"], {})[record["seed"]] = value
    return found


def _row(
    label: str, learned: Sequence[Mapping[str, Any]], values: Mapping[str, Mapping[int, Mapping[int, float]]]
) -> dict[str, Any]:
    def groups(by_order: Mapping[int, Mapping[int, float]]) -> list[list[float]]:
        return [[own[seed] for seed in sorted(own)] for _, own in sorted(by_order.items())]

    steps = []
    for step in range(len(learned[0]["matrix"])):
        by_order: dict[int, dict[int, float]] = {}
        for one in learned:
            seen = seen_accuracies(one["matrix"], one["test_images"])
            by_order.setdefault(one["order"], {})[one["seed"]] = seen[step]
        steps.append(summarise_groups(groups(by_order)))
    shape = [[fmean(one["matrix"][t][s] for one in learned) for s in range(t + 1)] for t in range(len(steps))]
    return {
        "run": label,
        "leaks": any(one["leaks"] for one in learned),
        "metrics": {name: summarise_groups(groups(values[name])) for name in METRICS},
        "steps": steps,
        "matrix": shape,
    }
