"""``transfer``: are the features that a synset teaches of use elsewhere, and how redundant are its images?

A student is trained on the synset. *Probe*: its features of another dataset's images, frozen, under a linear classifier
(multinomial logistic regression; features standardised; ``mean CE + decay/2 |W|^2``, solved to its minimum).
*Fine-tune*: a fresh last layer, then all weights are trained on the same images. Both are tested once on the other
dataset's test images. ``scratch`` is the same network, untrained: what the synset adds is the difference to it, paired
by seed.

*Redundancy* (after a test reported for LGD): the synset is cut into disjoint parts with all classes, a student is
trained on each, and *cross* is its mean accuracy on the images of the other parts; high, where the parts tell the same.
Beside it stands the students' mean accuracy on the test images.

The other dataset's images take the shape of the synset's (bilinear, antialiased) and are normalised by their own
training images; the student's own normalisation is that of its dataset.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ddbench.config import setting
from ddbench.data.dataset import Dataset, class_indices
from ddbench.data.load import load_dataset
from ddbench.data.specs import size_to_load
from ddbench.protocols.plan import one_rate
from ddbench.protocols.training import fresh_student
from ddbench.runtime import seeds
from ddbench.runtime.device import resolve_device
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget, Synset
from ddbench.tasks.base import TABLE_PROPERTIES, Job, Records, Task, Unit, baselines, refuse_replay, table
from ddbench.tasks.learning import features_of, few, fitted, own_statistics, probe_accuracy, real_inputs, score, trained
from ddbench.tasks.told import Described, Told
from ddbench.training.loops import Inputs, inputs_of, train
from ddbench.training.optimizers import OptimizerSettings

SCRATCH = "scratch"
"""The run that is none: an untrained network."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Settings of transfer."""

    to: str | None = None
    """Dataset that the features are tried on (ddbench list datasets; folder:, npz:, hub: too);
    default: redundancy only."""
    to_train: int = setting(20, at_least=1)
    """Training images of each class of it; the same for every run and seed."""
    to_test: int = setting(200, at_least=1)
    """Test images of each class of it."""
    probe_decay: float = setting(1e-3, above=0)
    """Weight decay of the linear probe."""
    finetune_epochs: int = setting(50, at_least=1)
    """Passes of fine-tuning."""
    finetune_lr: float = setting(0.01, above=0)
    """Its learning rate: SGD with momentum 0.9, cosine to 0."""
    finetune_batch: int = setting(64, at_least=2)
    """Its images a step."""
    parts: int = setting(10, at_least=2, also=(0,))
    """Disjoint parts of the redundancy test; 0: leave it out."""


def _other(to: str, data: Path | None, size: int, download: bool = False, skip_broken: bool = False) -> Dataset:
    """The other dataset, for images of ``size`` px.

    Raises:
        UserError: it is not there, or is no set of images; with the task's own flag, not the readers'.
    """
    try:
        return load_dataset(to, data, size=size_to_load(to, size), download=download, skip_broken=skip_broken)
    except UserError as error:
        said = str(error)
        raise UserError("--to" + said.removeprefix("--dataset") if said.startswith("--dataset") else said) from None


class Transfer(Task[TransferConfig]):
    """Linear probe, fine-tuning, redundancy."""

    config_class = TransferConfig
    schema: ClassVar[Mapping[str, Any]] = {
        "required": ["rows", "differences"],
        "properties": TABLE_PROPERTIES,
        "additionalProperties": False,
    }

    def __init__(self, config: TransferConfig, job: Job) -> None:
        super().__init__(config, job)
        self.device = resolve_device(job.settings.device)
        if config.to is None:
            return
        spec = self.dataset.spec
        other = _other(config.to, job.data, spec.size)
        shape = (spec.channels, spec.size)
        train = fitted(few(other.train, other.spec.classes, config.to_train, "transfer train"), *shape)
        test = fitted(few(other.test, other.spec.classes, config.to_test, "transfer test"), *shape)
        preprocess = own_statistics(train)
        self.other = other
        self.to_train = inputs_of(train, preprocess, self.device)
        self.to_test = inputs_of(test, preprocess, self.device)

    @classmethod
    def fetch(cls, config: TransferConfig, data: Path | None, size: int, download: bool, skip_broken: bool) -> None:
        if config.to is not None:
            _other(config.to, data, size, download, skip_broken)

    def check(self) -> None:
        super().check()
        config = self.config
        schedules = [one for run in self.job.runs if (one := self.synsets[run.label].schedule)]
        if config.to is not None and self.job.protocol.replay and len({(one.init, one.fixed) for one in schedules}) > 1:
            raise UserError(
                f"--protocol {self.job.protocol.name}: the recipes of the runs begin with different networks, and "
                f"{SCRATCH} can be one of them only; name runs whose recipes begin alike"
            )
        if config.to is None and not config.parts:
            raise UserError("--parts 0 without --to: nothing is left to measure; give --to DATASET, e.g. --to mnist")
        if not config.parts:
            return
        refuse_replay(self.job.runs, self.synsets, "which cannot be cut into parts (--parts 0 leaves that test out)")
        for run in self.job.runs:
            least = int(self.synsets[run.label].hard_labels().bincount(minlength=self.dataset.spec.classes).min())
            if least < config.parts:
                remedy = f"--parts {least}" if least > 1 else "--parts 0 with --to DATASET"
                raise UserError(
                    f"--parts {config.parts}: {run.path} has {least} image(s) of some class, so at most {least} "
                    f"disjoint parts; choose {remedy}, or a larger IPC"
                )

    def decides(self) -> dict[str, Any]:
        return {} if self.config.to is None else {"to_fingerprint": self.other.fingerprint}

    def stages(self) -> Sequence[Sequence[Unit]]:
        labels, seeds = [run.label for run in self.job.runs], self.job.seeds
        asked = _asked(self.config.to, self.config.parts, labels, seeds)
        return [[Unit(name=_named(*values), values=values) for values in asked]]

    def work(self, unit: Unit) -> dict[str, Any]:
        kind, label, seed = unit.values
        found = self._features(label, seed) if kind == "features" else self._redundancy(label, seed)
        return {"run": label, "seed": seed, "metrics": found}

    def _features(self, label: str, seed: int) -> dict[str, float]:
        job, config = self.job, self.config
        if label == SCRATCH:
            net = fresh_student(self.plan(job.runs[0].label), job.student, seed).to(self.device)
        else:
            net = trained(self.plan(label), job.student, seed, job.settings)
        own = (
            {}
            if label == SCRATCH
            else {"accuracy": score(net, real_inputs(self.dataset, self.plan(label).preprocess, self.device))}
        )
        classes = self.other.spec.classes
        train = (features_of(net, self.to_train), self.to_train.labels.cpu())
        test = (features_of(net, self.to_test), self.to_test.labels.cpu())
        probe = probe_accuracy(train, test, classes, config.probe_decay)
        finetune(net, self.to_train, classes, seed, config)
        return {**own, "probe": probe, "finetune": score(net, self.to_test)}

    def _redundancy(self, label: str, seed: int) -> dict[str, float]:
        job, synset = self.job, self.synsets[label]
        plans = [self.plan_of(part) for part in parts_of(synset.plain(self.plan(label).preprocess), self.config.parts)]
        inputs = [plan.inputs(self.device) for plan in plans]
        hard = [Inputs(one.batch(slice(None)), one.hard_labels, None, self.device) for one in inputs]
        tests = real_inputs(self.dataset, plans[0].preprocess, self.device)
        cross, test = [], []
        for number, plan in enumerate(plans):
            net = trained(plan, job.student, seed, job.settings)
            cross += [score(net, other) for index, other in enumerate(hard) if index != number]
            test.append(score(net, tests))
        return {"cross": fmean(cross), "part_accuracy": fmean(test)}

    @classmethod
    def wanted(cls, head: Mapping[str, Any]) -> Iterable[str]:
        config, labels = head["config"], [run["label"] for run in head["runs"]]
        return (_named(*values) for values in _asked(config["to"], config["parts"], labels, head["seeds"]))

    @classmethod
    def results(cls, head: Mapping[str, Any], records: Records) -> dict[str, Any]:
        """Accuracies by run, with intervals over seeds, and their differences to random images or to no training."""
        values: dict[str, dict[str, dict[int, float]]] = {}
        for record in records.values():
            for name, value in record["metrics"].items():
                values.setdefault(record["run"], {}).setdefault(name, {})[record["seed"]] = value
        order = [SCRATCH, *(run["label"] for run in head["runs"])]
        values = {label: values[label] for label in order if label in values}
        found = table(values, [SCRATCH])
        others = table(values, baselines(head)) if baselines(head) else {"differences": []}
        kept = [row for row in others["differences"] if row["run"] != SCRATCH]
        return {"rows": found["rows"], "differences": [*found["differences"], *kept]}

    @classmethod
    def told(cls, head: Mapping[str, Any], records: Records, label: str) -> Told:
        units: dict[int, dict[str, float]] = {}
        for record in records.values():
            if record["run"] == label:
                own = {name: value for name, value in record["metrics"].items() if name in METRICS}
                units.setdefault(record["seed"], {}).update(own)
        there = {name for own in units.values() for name in own}
        return Told(over="seed", metrics={name: one for name, one in METRICS.items() if name in there}, units=units)


def _asked(to: str | None, parts: int, labels: Sequence[str], seeds: int) -> Iterator[tuple[str, str, int]]:
    """What is trained: kind, label, seed."""
    kinds = [("features", label) for label in (SCRATCH, *labels)] if to is not None else []
    kinds += [("redundancy", label) for label in labels] if parts else []
    return ((*kind, seed) for kind in kinds for seed in range(seeds))


def _named(kind: str, label: str, seed: int) -> str:
    """Name of a unit."""
    return f"{label} seed {seed} {kind}"


METRICS = {
    "probe": Described("fraction", "higher", "Accuracy of a linear probe on the other dataset"),
    "finetune": Described("fraction", "higher", "Accuracy after fine-tuning on the other dataset"),
    "cross": Described("fraction", "lower", "Redundancy: accuracy on the images of other parts of the synset"),
}


def finetune(net: nn.Module, inputs: Inputs, classes: int, seed: int, config: TransferConfig) -> None:
    """Give a network a fresh last layer and train all of it, in place; nothing is augmented.

    Raises:
        UserError: it has no ``classifier``.
    """
    last = getattr(net, "classifier", None)
    if not isinstance(last, nn.Linear):
        raise UserError(f"--student: {type(net).__name__} does not say its last layer; choose one of ddbench's own")
    with seeds.isolated(seed, "fresh last layer"):
        net.classifier = nn.Linear(last.in_features, classes).to(last.weight.device)
    epochs = config.finetune_epochs
    for _ in train(
        net,
        inputs,
        epochs=epochs,
        batch=config.finetune_batch,
        optimizer=OptimizerSettings(lr=config.finetune_lr, momentum=0.9),
        policy=None,
        seed=seeds.derive(seed, "fine-tuning"),
        factor=lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / epochs)),
    ):
        pass


def parts_of(synset: Synset, count: int) -> list[Synset]:
    """Disjoint parts that have every class, their sizes as equal as can be; the same for the same labels.

    Args:
        count: 2 to the least number of images of a class.
    """
    labels = synset.hard_labels()
    randomness = seeds.generator(0, "disjoint parts")
    chosen: list[list[Tensor]] = [[] for _ in range(count)]
    first = 0
    for index in class_indices(labels, synset.classes):
        shuffled = index[torch.randperm(len(index), generator=randomness)]
        for number in range(count):
            chosen[(first + number) % count].append(shuffled[number::count])
        first += len(index)  # the next class goes on where this one's ended, lest all have their rest in the same parts
    return [part_of(synset, torch.cat(own)) for own in chosen]


def part_of(synset: Synset, index: Tensor) -> Synset:
    """Some images of a synset, to train on: in one stage, at a learned rate only where there is a single one."""
    return replace(
        synset,
        images=synset.images[index],
        labels=synset.labels[index],
        budget=Budget("ipc", max(1, len(index) // synset.classes)),
        learned_lr=one_rate(synset),
        stage=None,
    )
