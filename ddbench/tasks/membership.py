"""``membership``: does a synset give away which images it was made from?

LiRA (Carlini et al. 2022) with the synset as the only thing that is published: N shadow distillations, each of a random
half of the images; each image is in half of them. On every shadow's set fresh networks are trained; an image's
confidence is the log-odds of its right class, its mean over the networks. Each shadow in turn is the target, the others
say how an image's confidence is distributed when it is a member and when it is not, and the score is the likelihood
ratio. *threshold* is the plain attack beside it: the confidence itself.

What is told: the true-positive rate at 0.1 % and 1 % false positives over the scores of all targets, with intervals by
drawing targets anew, and the AUC of each target. Beside it stand the RUN's own images: whether they began as real ones,
how many are copies of training images, and their distance to the nearest training image, and to the nearest of some
training images and of as many unseen ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ddbench.config import setting
from ddbench.data.dataset import Dataset, Split, make_dataset
from ddbench.data.preprocess import Preprocess, kind_of
from ddbench.methods import METHODS
from ddbench.protocols.plan import Plan
from ddbench.runtime import seeds
from ddbench.runtime.device import resolve_device
from ddbench.runtime.errors import UserError
from ddbench.statistics import auroc, paired_difference, summarise
from ddbench.synset import Synset, read_synset
from ddbench.tasks.base import DIFFERENCE_SCHEMA, STATISTICS_SCHEMA, Job, Records, Task, Unit, baselines, refuse_replay
from ddbench.tasks.base import shown as shown_statistics
from ddbench.tasks.distilling import again, check_again, check_source, hardest, source_of
from ddbench.tasks.learning import few, trained
from ddbench.tasks.measures import Scores, lira_scores, pooled_tpr
from ddbench.tasks.told import Described, Told, stated
from ddbench.training.loops import inputs_of, predict

RATES = {"tpr_at_fpr_0.001": 0.001, "tpr_at_fpr_0.01": 0.01}
METRICS = {
    "lira_tpr_at_fpr_0.001": Described("fraction", "lower", "LiRA's true-positive rate at 0.1 % false positives"),
    "lira_tpr_at_fpr_0.01": Described("fraction", "lower", "LiRA's true-positive rate at 1 % false positives"),
    "lira_auc": Described("fraction", "lower", "LiRA's area under the ROC curve"),
}
"""What a board shows: lower is better, a synset should not give its images away."""
COPY = 0.5 / 255
"""Root mean squared difference of pixels in [0, 1] up to which an image is a copy of another."""


@dataclass(frozen=True, kw_only=True)
class MembershipConfig:
    """Settings of membership."""

    shadows: int = setting(16, at_least=4, at_most=1000)
    """Shadow distillations; an even number."""
    images: int = setting(2000, at_least=40)
    """Training images that are asked about, as many of each class; each shadow is distilled from half of them."""


_RATE_SCHEMA = {
    "type": "object",
    "required": ["value", "low", "high"],
    "properties": {name: {"type": "number", "minimum": 0, "maximum": 1} for name in ("value", "low", "high")},
    "additionalProperties": False,
}
_ATTACK_SCHEMA = {
    "type": "object",
    "required": ["auc", *RATES],
    "properties": {"auc": STATISTICS_SCHEMA, **dict.fromkeys(RATES, _RATE_SCHEMA)},
    "additionalProperties": False,
}


class Membership(Task[MembershipConfig]):
    """LiRA with shadow distillations, and distances."""

    config_class = MembershipConfig
    grows = ("runs",)  # a confidence is a mean over all seeds
    schema: ClassVar[Mapping[str, Any]] = {
        "required": ["rows", "differences"],
        "additionalProperties": False,
        "properties": {
            "rows": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["run", "first_images", "members", "others", "lira", "threshold", "distance"],
                    "additionalProperties": False,
                    "properties": {
                        "run": {"type": "string"},
                        "first_images": {"enum": ["real", "noise", "unknown"]},
                        "members": {"type": "integer"},
                        "others": {"type": "integer"},
                        "lira": _ATTACK_SCHEMA,
                        "threshold": _ATTACK_SCHEMA,
                        "distance": {"type": "object", "additionalProperties": {"type": "number"}},
                    },
                },
            },
            "differences": {"type": "array", "items": DIFFERENCE_SCHEMA},
        },
    }

    def __init__(self, config: MembershipConfig, job: Job) -> None:
        super().__init__(config, job)
        classes = self.dataset.spec.classes
        self.world = few(self.dataset.train, classes, max(1, config.images // classes), "membership")
        self.sources = {run.label: source_of(run, self.synsets[run.label]) for run in job.runs}

    @classmethod
    def distils(cls, config: MembershipConfig) -> bool:
        return True

    def check(self) -> None:
        super().check()
        config = self.config
        if config.shadows % 2:
            raise UserError(f"--shadows {config.shadows}: expected an even number, each image is in half of them")
        refuse_replay(self.job.runs, self.synsets, "which the protocols here do not replay")
        for run in self.job.runs:
            check_source(self.sources[run.label], "leave it out")
            if kind_of(self.plan(run.label).preprocess, self.dataset) != "meanstd":
                raise UserError(f"{run.path}: its preprocess is not meanstd, and a whitening is fitted on all images")
        classes = self.dataset.spec.classes
        members = member_table(len(self.world), config.shadows)
        counts = [self.world.labels[own].bincount(minlength=classes) for own in members]
        least = min(int(one.min()) for one in counts)
        for run in self.job.runs:
            needed = self._ipc(run.label) if METHODS.get(run.method).distinct else 1
            if least < needed:
                raise UserError(
                    f"--images {config.images}: some shadow has {least} image(s) of a class, and {run.label} needs "
                    f"{needed}; give more --images, or a run of a smaller IPC"
                )
            parts = (self._half(members[shadow]) for shadow in hardest(counts))
            source, ipc, remedy = self.sources[run.label], self._ipc(run.label), "give more --images, or leave it out"
            check_again(source, parts, self.job, ipc=ipc, holdout=0.0, remedy=remedy)

    def _half(self, member: Tensor) -> Dataset:
        """What a shadow is distilled from: the images of the mask ``(images,)``."""
        part = Split(self.world.images[member], self.world.labels[member])
        return make_dataset(self.dataset.spec, part, self.dataset.test)

    def decides(self) -> dict[str, Any]:
        return {"images": len(self.world)}

    def _ipc(self, label: str) -> int:
        budget = self.synsets[label].budget
        return budget.value if budget.unit == "ipc" else 0

    def stages(self) -> Sequence[Sequence[Unit]]:
        units = [
            Unit(name=_shadow(run.label, shadow), values=("shadow", run.label, shadow))
            for run in self.job.runs
            for shadow in range(self.config.shadows)
        ]
        return [units, [Unit(name=_distance(run.label), values=("distance", run.label)) for run in self.job.runs]]

    def work(self, unit: Unit) -> dict[str, Any]:
        if unit.values[0] == "distance":
            synset = self.synsets[unit.values[1]]
            found = distances(self.plan(unit.values[1]), self.dataset.train, self.dataset.test)
            return {"run": unit.values[1], "first_images": first_images(synset), "distance": found}
        _, label, shadow = unit.values
        member = member_table(len(self.world), self.config.shadows)[shadow]
        half = f"shadow{shadow}of{self.config.shadows}-{len(self.world)}"  # all that its members follow from
        made = again(
            self.sources[label],
            self._half(member),
            self.job,
            ipc=self._ipc(label),
            holdout=0.0,
            out=self.job.folder / f"{label}-{half}",
            kept=half,
        )
        synset = read_synset(made)
        preprocess = Preprocess.from_json(synset.preprocess, None)
        plan = Plan(synset=synset, protocol=self.job.protocol, preprocess=preprocess, flip=self.dataset.spec.flip)
        inputs = inputs_of(self.world, preprocess, resolve_device(self.job.settings.device))
        total = torch.zeros(len(self.world), dtype=torch.float64)
        for number in range(self.job.seeds):
            net = trained(plan, self.job.student, seeds.derive(number, "shadow", shadow) % 2**31, self.job.settings)
            total += log_odds(predict(net, inputs), self.world.labels)
        if not bool(torch.isfinite(total).all()):
            raise UserError("a student diverged; choose another --student or --protocol")
        return {
            "run": label,
            "shadow": shadow,
            "members": "".join("1" if one else "0" for one in member.tolist()),
            "confidences": [round(value, 6) for value in (total / self.job.seeds).tolist()],
        }

    @classmethod
    def wanted(cls, head: Mapping[str, Any]) -> Iterable[str]:
        labels, shadows = [run["label"] for run in head["runs"]], range(head["config"]["shadows"])
        return itertools.chain(map(_distance, labels), (_shadow(one, shadow) for one in labels for shadow in shadows))

    @classmethod
    def results(cls, head: Mapping[str, Any], records: Records) -> dict[str, Any]:
        """Both attacks by run, with intervals over targets; differences of LiRA's AUC to random images, by target."""
        rows: list[dict[str, Any]] = []
        areas: dict[str, dict[int, float]] = {}
        for run in head["runs"]:
            label = run["label"]
            phi, member = shadows_of(records, label)
            lira, areas[label] = attacked(records, label)
            plain, _ = attack(list(phi), member)
            beside = next(one for one in records.values() if one["run"] == label and "distance" in one)
            rows.append(
                {
                    "run": label,
                    "first_images": beside["first_images"],
                    "members": int(member.sum()),
                    "others": int((~member).sum()),
                    "lira": lira,
                    "threshold": plain,
                    "distance": beside["distance"],
                }
            )
        random = baselines(head)
        differences = [
            {
                "run": label,
                "against": random,
                "metrics": {"lira_auc": paired_difference(found, [areas[other] for other in random])},
            }
            for label, found in areas.items()
            if random and label not in random
        ]
        return {"rows": rows, "differences": differences}

    @classmethod
    def told(cls, head: Mapping[str, Any], records: Records, label: str) -> Told:
        alone = {**head, "runs": [run for run in head["runs"] if run["label"] == label]}
        (row,) = cls.results(alone, records)["rows"]
        _, areas = attacked(records, label)
        rates = {f"lira_{name}": row["lira"][name] for name in RATES}
        return Told(
            over="target",
            metrics=METRICS,
            units={target: {"lira_auc": value} for target, value in areas.items()},
            stated={name: stated(one["value"], one["low"], one["high"], len(areas)) for name, one in rates.items()},
            beside={"first_images": row["first_images"], "copies": row["distance"]["copies"]},
        )

    @classmethod
    def lines(cls, results: Mapping[str, Any]) -> list[str]:
        """A line for each attack, one for the distances, and the differences."""
        lines = []
        for row in results["rows"]:
            for name in ("lira", "threshold"):
                found = row[name]
                rates = "".join(
                    f", {rate} {found[rate]['value']:.4f} ({found[rate]['low']:.4f} to {found[rate]['high']:.4f})"
                    for rate in RATES
                )
                lines.append(f"{row['run']}  {name}: AUC {shown_statistics(found['auc'])}{rates}")
            far = ", ".join(f"{name} {value:g}" for name, value in row["distance"].items())
            lines.append(f"{row['run']}  first images: {row['first_images']}; {far}")
        for row in results["differences"]:
            shown = shown_statistics(row["metrics"]["lira_auc"])
            lines.append(f"{row['run']} - {', '.join(row['against'])}  lira AUC: {shown}")
        return lines


def _shadow(label: str, shadow: int) -> str:
    """Name of the unit that distils and attacks a shadow."""
    return f"{label} shadow {shadow}"


def _distance(label: str) -> str:
    """Name of the unit that compares a run's images with real ones."""
    return f"{label} distance"


def shadows_of(records: Records, label: str) -> tuple[Scores, Any]:
    """Confidences and members ``(N, n)`` of a run's shadows, in order."""
    own = sorted(
        (one for one in records.values() if one["run"] == label and "shadow" in one), key=lambda one: one["shadow"]
    )
    phi = np.array([one["confidences"] for one in own], dtype=np.float64)
    return phi, np.array([[mark == "1" for mark in one["members"]] for one in own])


def attacked(records: Records, label: str) -> tuple[dict[str, Any], dict[int, float]]:
    """:func:`attack` by LiRA, each shadow in turn being the target."""
    phi, member = shadows_of(records, label)
    return attack([lira_scores(phi, member, target) for target in range(len(phi))], member)


def member_table(images: int, shadows: int) -> Tensor:
    """Which images each shadow is distilled from, bool ``(shadows, images)``: every image is in half of them."""
    draws = torch.rand(shadows, images, generator=seeds.generator(0, "members"))
    return draws.argsort(0).argsort(0) < shadows // 2


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """``log(p / (1 - p))`` of the right class, float64 ``(N,)``, stable for any logits ``(N, K)``."""
    logits = logits.double()
    right = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    odds: Tensor = right - others.logsumexp(1)
    return odds


def attack(scores: Sequence[Scores], member: Any) -> tuple[dict[str, Any], dict[int, float]]:
    """What an attack reaches, and its AUC by target.

    Args:
        scores: of each target's images ``(n,)``; higher: rather a member.
        member: bool ``(N, n)``.
    """
    pairs = [(own[mask], own[~mask]) for own, mask in zip(scores, member, strict=True)]
    areas = {target: auroc(*pair) for target, pair in enumerate(pairs)}
    rates = {name: pooled_tpr(pairs, rate) for name, rate in RATES.items()}
    return {"auc": summarise(list(areas.values())), **rates}, areas


def first_images(synset: Synset) -> str:
    """Whether a synset's images are or began as real ones: ``real``, ``noise``, or ``unknown``."""
    if synset.student is None and synset.method in METHODS:  # a choice, nothing was learned
        return "real" if METHODS.get(synset.method).distinct or synset.budget.unit == "all" else "unknown"
    init = synset.config.get("init")
    if not isinstance(init, str):
        return "unknown"
    return "noise" if init == "noise" else "real"


def distances(plan: Plan, train: Split, test: Split) -> dict[str, float]:
    """How near a synset's images are to real ones: root mean squared difference of pixels in [0, 1].

    Returns:
        ``copies`` (images that are training images), ``images`` (how many there are, decoded), ``to_any_training``:
        mean distance to the nearest training image; ``to_training`` and ``to_unseen``: to the nearest of as many
        training and test images.
    """
    device = torch.device("cpu")
    inputs = plan.inputs(device)
    own = plan.preprocess.invert(inputs.batch(slice(None))).clamp(0, 1).flatten(1)
    count = min(len(train), len(test))
    randomness = seeds.generator(0, "nearest")
    index = torch.randperm(len(train), generator=randomness)[:count]
    unseen = torch.randperm(len(test), generator=randomness)[:count]
    nearest = _nearest(own, train.images)
    return {
        "copies": int((nearest <= COPY).sum()),
        "images": len(own),
        "to_any_training": round(float(nearest.mean()), 6),
        "to_training": round(float(_nearest(own, train.images[index]).mean()), 6),
        "to_unseen": round(float(_nearest(own, test.images[unseen]).mean()), 6),
    }


def _nearest(own: Tensor, real: Tensor) -> Tensor:
    """Distance of each row to the nearest real image (uint8)."""
    found = torch.full((len(own),), torch.inf)
    for piece in real.split(4096):
        other = piece.flatten(1).float() / 255
        # Differences, not inner products: a copy must have distance 0.
        found = torch.minimum(found, torch.cdist(own, other, compute_mode="donot_use_mm_for_euclid_dist").amin(1))
    distance: Tensor = found / own.shape[1] ** 0.5
    return distance
