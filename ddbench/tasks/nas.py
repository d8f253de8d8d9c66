"""``nas``: does training on a synset rank architectures as training on all real images does?

The networks are a sample, drawn under a seed, of the field's grid of 720 ConvNets (width 32 to 256, depth 1 to 4, five
norms, three activations, three poolings), less those that the images are too small for. Each is trained on the real
images (without the held-out ones), which gives the ranking that counts, by test accuracy; on each RUN's synset; on
random images and herding of the same IPC; and on the real images for no more steps than a synset takes (*early
stopping*), each with the protocol's batch, which a small synset does not fill. A proxy's score is the accuracy on the
held-out real images: the choice sees no test image.

Told: Spearman's and Kendall's (tau-b) correlation of the proxy's score with the real test accuracy, both means over
seeds; Spearman's among the best half *by real accuracy*; and regret, the best real accuracy less that of the network
that the proxy chose (of equal ones their mean). Intervals are by drawing networks anew; differences to random images
are under the same draws.

The real trainings are kept in a file of their own (``rankings/`` beside the result), for every later task.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ddbench.config import setting
from ddbench.data.dataset import Split, holdout_split, stratified
from ddbench.data.preprocess import kind_of
from ddbench.data.specs import dataset_slug
from ddbench.methods import METHODS
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import Protocol
from ddbench.protocols.training import stage_plan, tested_students, trained_students
from ddbench.runtime import device as devices
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash
from ddbench.runtime.numbers import check_count
from ddbench.synset import FILE, Budget, Synset, read_synset
from ddbench.tasks.base import BASELINE, Job, Records, Task, Unit, refuse_recipe
from ddbench.tasks.distilling import Source, again, check_again, check_source, most_images, sources_beside
from ddbench.tasks.learning import few
from ddbench.tasks.measures import Scores, Statistic, bootstrap, kendall, regret, spearman, top_spearman
from ddbench.tasks.search import (
    REAL,
    WIDTHS,
    fitting,
    grid,
    rankings_path,
    read_rankings,
    trained_unit,
    write_rankings,
)
from ddbench.tasks.told import Described, Told, stated

EARLY = "early stopping"


@dataclass(frozen=True, kw_only=True)
class NasConfig:
    """Settings of nas."""

    nets: int = setting(24, at_least=4)
    """Networks that are drawn from the grid."""
    sample: int = setting(0, at_least=0)
    """Seed of the draw."""
    widest: int = setting(256, at_least=32)
    """Largest width of the grid: 64 spares a CPU."""
    real_epochs: int = setting(100, at_least=1)
    """Passes over the real images for the ranking that counts."""
    choose_from: int = setting(0, at_least=0)
    """Held-out images of each class that networks are chosen by, all of a class with fewer; 0: all. A few hundred
    spare a CPU."""
    against: str = "random,herding"
    """Methods that stand beside the runs at the same IPC, with their defaults; empty: none."""


_VALUE = {
    "type": "object",
    "required": ["value", "low", "high"],
    "properties": {**{name: {"type": "number"} for name in ("value", "low", "high")}, "tie": {"type": "boolean"}},
    "additionalProperties": False,
}
METRICS = {
    "spearman": Described("1", "higher", "Spearman's correlation with the ranking by real images"),
    "kendall": Described("1", "higher", "Kendall's tau-b with the ranking by real images"),
    "regret": Described("fraction", "lower", "Best real accuracy less that of the network that the synset chose"),
}
_METRICS = {"type": "object", "additionalProperties": _VALUE}


class Nas(Task[NasConfig]):
    """Rankings of architectures by proxies."""

    config_class = NasConfig
    schema: ClassVar[Mapping[str, Any]] = {
        "required": ["nets", "rows", "differences"],
        "additionalProperties": False,
        "properties": {
            "nets": {"type": "object", "additionalProperties": {"type": "number"}},
            "rows": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["run", "chosen", "steps", "metrics"],
                    "additionalProperties": False,
                    "properties": {
                        "run": {"type": "string"},
                        "chosen": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                        "steps": {"type": "integer"},
                        "metrics": _METRICS,
                    },
                },
            },
            "differences": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["run", "against", "metrics"],
                    "additionalProperties": False,
                    "properties": {"run": {"type": "string"}, "against": {"type": "string"}, "metrics": _METRICS},
                },
            },
        },
    }

    def __init__(self, config: NasConfig, job: Job) -> None:
        super().__init__(config, job)
        spec, first = self.dataset.spec, self.synsets[job.runs[0].label]
        fit = fitting(grid(config.widest), spec.channels, spec.size)
        order = torch.randperm(len(fit), generator=seeds.generator(config.sample, "grid of nas")).tolist()
        self.possible = len(fit)
        self.nets = [fit[position] for position in order[: config.nets]]
        self.holdout = _holdout(first)
        self.preprocess = self.plan(job.runs[0].label).preprocess
        self.beside: dict[str, Source] = {one.label: one for one in sources_beside(config.against, spec.size)}

    @functools.cached_property
    def real(self) -> tuple[Split, Split]:
        """Real images to train on, and those held out to choose by."""
        classes, count = self.dataset.spec.classes, self.config.choose_from
        rest, held_out = holdout_split(self.dataset.train, self.holdout, classes, self.dataset.root)
        return rest, few(held_out, classes, count, "held-out images of nas") if count else held_out

    def check(self) -> None:
        refuse_recipe(self.job.protocol, "all real images, which rank the networks, have none")
        super().check()
        if self.config.widest < WIDTHS[0] or self.config.nets > self.possible:
            raise UserError(f"--nets {self.config.nets}: the grid has {self.possible} networks for such images")
        check_count("--seeds times --nets", self.job.seeds * self.config.nets)
        first = self.job.runs[0]
        if self.config.choose_from and self.holdout > 0:
            labels = self.dataset.train.labels
            held_out = stratified(labels, self.dataset.spec.classes, self.holdout, "holdout")
            largest = int(labels[held_out].bincount().max())
            if self.config.choose_from > largest:
                raise UserError(
                    f"--choose-from {self.config.choose_from}: no class has more than {largest} held-out images; "
                    "leave it out to choose by all"
                )
        for run in self.job.runs:
            own, synset = _holdout(self.synsets[run.label]), self.synsets[run.label]
            if own <= 0:
                foreign = "imported_from" in synset.config
                raise UserError(
                    f"{run.path} was {'imported' if foreign else 'made with --holdout 0'}: there are no held-out "
                    f"images to choose by; {'leave it out' if foreign else 'distil it with --holdout 0.1'}"
                )
            if own != self.holdout:
                raise UserError(
                    f"{run.path} held out {own:g}, {first.path} {self.holdout:g}: name runs of one --holdout"
                )
            if synset.budget != self.synsets[first.label].budget or synset.budget.unit != "ipc":
                raise UserError(
                    f"{run.path} has {synset.budget}, {first.path} {self.synsets[first.label].budget}: the step budget "
                    "must be the same; name runs of one IPC"
                )
            if self.plan(run.label).preprocess.kind != "meanstd":
                raise UserError(f"{run.path}: its preprocess is not meanstd; name runs of --preprocess meanstd")
        for name, source in self.beside.items():
            check_source(source, "leave it out of --against")
            if METHODS.get(name).unit != "ipc":
                raise UserError(f"--against {name}: it has no images per class")
            most, budget = most_images(source, self.dataset, self.holdout), self.synsets[first.label].budget
            if most is not None and budget.value > most:
                raise UserError(
                    f"--against {name}: it takes different images, some class has {most}, and {first.path} has "
                    f"{budget}; leave it out of --against"
                )
            remedy = "leave it out of --against"
            check_again(source, [self.dataset], self.job, ipc=budget.value, holdout=self.holdout, remedy=remedy)

    def decides(self) -> dict[str, Any]:
        return {"nets": self.nets, "holdout": self.holdout}

    def stages(self) -> Sequence[Sequence[Unit]]:
        labels = [*(run.label for run in self.job.runs), *self.beside, EARLY, REAL]
        made = [Unit(name=f"{name} set", values=("distil", name)) for name in self.beside]
        tried = [
            Unit(name=trained_unit(label, net, seed), values=("train", label, net, seed))
            for label in labels
            for net in self.nets
            for seed in range(self.job.seeds)
        ]
        return [made, tried]

    def there(self, unit: Unit, record: Mapping[str, Any]) -> bool:
        kind, label = unit.values[:2]
        if kind == "train":  # another run may have been the first, with other steps, and its images seen otherwise
            alike = label not in (REAL, EARLY) or record.get("preprocess") == self._seen.get("preprocess")
            return alike and (label != EARLY or record.get("steps") == self._early_steps)
        return (self.job.folder / str(label) / FILE).is_file()

    @functools.cached_property
    def _early_steps(self) -> int:
        return steps_of(self._plan(EARLY))

    @functools.cached_property
    def _seen(self) -> dict[str, str]:
        """What records of real images say of how networks see them; empty: as the dataset has it."""
        return {} if kind_of(self.preprocess, self.dataset) == "meanstd" else {"preprocess": self.preprocess.key}

    @property
    def _ranking_head(self) -> dict[str, Any]:
        job = self.job
        return {
            "dataset_fingerprint": self.dataset.fingerprint,
            "holdout": self.holdout,
            "preprocess": self.preprocess.to_json(),
            "protocol": self._protocol().settings(),
            "threads": job.settings.threads,
            "versions": devices.versions(),
            **devices.recorded_kind(job.settings.device),
            **({"choose_from": self.config.choose_from} if self.config.choose_from else {}),
        }

    def _rankings(self) -> Path:
        folder = self.job.folder.parent / "rankings"
        return rankings_path(folder, dataset_slug(self.dataset.spec.name), self._ranking_head)

    def remembered(self) -> dict[str, dict[str, Any]]:
        found = read_rankings(self._rankings(), self._ranking_head)
        return {unit: {**record, **self._seen} for unit, record in found.items()}

    def remember(self, records: Records) -> None:
        own = {unit: record for unit, record in records.items() if record.get("run") == REAL}
        write_rankings(self._rankings(), self._ranking_head, own)

    def work(self, unit: Unit) -> dict[str, Any]:
        if unit.values[0] == "distil":
            name = unit.values[1]
            folder = self.job.folder
            path = again(
                self.beside[name],
                self.dataset,
                self.job,
                ipc=self.synsets[self.job.runs[0].label].budget.value,
                holdout=self.holdout,
                out=folder / name,
                kept="",
            )
            return {"set": file_hash(path)}
        _, label, net, seed = unit.values
        plan = self._plan(label)
        trained, compiler = trained_students(plan, net, [seed], self.job.settings)
        by_seed = {seed: trained[0]}
        _, held_out = self.real
        scores = [
            tested_students(plan, split, by_seed, self.job.settings, compiler)[0] or {"accuracy": 0.0}  # it diverged
            for split in ((held_out, self.dataset.test) if label == REAL else (held_out,))
        ]
        steps = steps_of(plan)
        found = {"run": label, "net": net, "seed": seed, "steps": steps, "held_out": scores[0]["accuracy"]}
        found |= self._seen if label in (REAL, EARLY) else {}
        return {**found, "test": scores[1]["accuracy"]} if label == REAL else found

    def _plan(self, label: str) -> Plan:
        if label in self.synsets:
            return self.plan(label)
        if label in self.beside:
            return self.plan_of(read_synset(self.job.folder / label / FILE))
        plan = Plan(
            synset=self._real_synset(),
            protocol=self._protocol(),
            preprocess=self.preprocess,
            flip=self.dataset.spec.flip,
        )
        if label == REAL:
            return plan
        one = self.plan(self.job.runs[0].label)
        steps = steps_of(one)
        each = -(-len(plan.synset.labels) // plan.batch)
        return replace(plan, protocol=replace(plan.protocol, full_epochs=max(1, steps // each)))

    def _protocol(self) -> Protocol:
        """Of training on real images: the epochs of a synset play no part."""
        return replace(self.job.protocol, epochs=self.config.real_epochs, full_epochs=self.config.real_epochs)

    def _real_synset(self) -> Synset:
        rest, _ = self.real
        first = self.synsets[self.job.runs[0].label]
        return Synset(
            images=rest.images,
            labels=rest.labels,
            preprocess=first.preprocess,
            budget=Budget("all", len(rest)),
            dataset=first.dataset,
            fingerprint=first.fingerprint,
            class_names=first.class_names,
            method="full",
            config={},
            seed=0,
        )

    @classmethod
    def wanted(cls, head: Mapping[str, Any]) -> Iterable[str]:
        labels, nets, seeds = [run["label"] for run in head["runs"]], head["decides"]["nets"], range(head["seeds"])
        return (trained_unit(label, net, seed) for label in (*labels, EARLY, REAL) for net in nets for seed in seeds)

    @classmethod
    def results(cls, head: Mapping[str, Any], records: Records) -> dict[str, Any]:
        """Correlations and regret of each proxy, with intervals."""
        nets, tried = head["decides"]["nets"], [one for one in records.values() if "net" in one]
        labels = dict.fromkeys([*(run["label"] for run in head["runs"]), *(one["run"] for one in tried)])
        labels.pop(REAL, None)

        def scores(label: str, name: str) -> Scores:
            own = [one for one in tried if one["run"] == label]
            return np.array([np.mean([one[name] for one in own if one["net"] == net]) for net in nets])

        real = scores(REAL, "test")
        half = max(3, len(nets) // 2)
        statistics: dict[str, Statistic] = {
            "spearman": spearman,
            "kendall": kendall,
            f"spearman_top{half}": functools.partial(top_spearman, count=half),
            "regret": regret,
        }
        proxies = {label: scores(label, "held_out") for label in labels}
        rows = [
            {
                "run": label,
                "chosen": [net for net, score in zip(nets, proxy, strict=True) if score == proxy.max()],
                "steps": max(one["steps"] for one in tried if one["run"] == label),
                "metrics": {name: bootstrap(one, proxy, real) for name, one in statistics.items()},
            }
            for label, proxy in proxies.items()
        ]
        differences = [
            {
                "run": label,
                "against": BASELINE,
                "metrics": {name: bootstrap(one, proxy, real, proxies[BASELINE]) for name, one in statistics.items()},
            }
            for label, proxy in proxies.items()
            if BASELINE in proxies and label != BASELINE
        ]
        return {"nets": dict(zip(nets, real.tolist(), strict=True)), "rows": rows, "differences": differences}

    @classmethod
    def told(cls, head: Mapping[str, Any], records: Records, label: str) -> Told:
        results = cls.results(head, records)
        row = next(one for one in results["rows"] if one["run"] == label)
        found = {name: row["metrics"][name] for name in METRICS}
        count = len(results["nets"])
        return Told(
            over="net",
            metrics=METRICS,
            stated={name: stated(one["value"], one["low"], one["high"], count) for name, one in found.items()},
            beside={"chosen": row["chosen"], "steps": row["steps"]},
        )

    @classmethod
    def lines(cls, results: Mapping[str, Any]) -> list[str]:
        """A line for each proxy and metric."""
        best = max(results["nets"], key=lambda net: results["nets"][net])
        lines = [f"best of {len(results['nets'])} on real images: {best}, test accuracy {results['nets'][best]:.4f}"]
        for row in results["rows"]:
            lines.append(f"{row['run']}  chose {' or '.join(row['chosen'])} after {row['steps']} steps each")
            lines += [f"{row['run']}  {name}: {_shown(one)}" for name, one in row["metrics"].items()]
        for row in results["differences"]:
            lines += [f"{row['run']} - {row['against']}  {name}: {_shown(one)}" for name, one in row["metrics"].items()]
        return lines


def _shown(one: Mapping[str, Any]) -> str:
    tie = ", a tie" if one.get("tie") else ""
    return f"{one['value']:.4f} ({one['low']:.4f} to {one['high']:.4f}){tie}"


def _holdout(synset: Synset) -> float:
    found = synset.config.get("holdout")
    return float(found) if isinstance(found, float | int) and not isinstance(found, bool) else 0.0


def steps_of(plan: Plan) -> int:
    """Updates of a training on the plan, all its stages together."""
    parts = [stage_plan(plan, stage) for stage in range(plan.stages)]
    return sum(part.epochs * -(-part.synset.decoded_images // part.batch) for part in parts)
