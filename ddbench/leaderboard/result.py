"""What a row says, as types: read once from JSON that :func:`ddbench.leaderboard.schema.check_result` has checked.

``to_json`` gives back what was read, so that a row's file and its id stay as they are. What a submitter or another
program may fill freely (config, recipe, settings) stays a mapping. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from typing import Any, TypedDict

from ddbench.evaluation.ddranking.definitions import Accuracies, repeat_scores
from ddbench.evaluation.result import is_fixed, ranked_by
from ddbench.methods import distilled_on
from ddbench.statistics import Statistics, summarise

KIND = "ddbench-result"
SCHEMA = 1

Settings = Mapping[str, Any]
"""A part whose keys are not the board's to say."""


class TeacherInfo(TypedDict):
    """What a row says of the network that labelled views; further keys are its own."""

    sha256: str


class Record:
    """A frozen dataclass of a board's JSON; a field whose default is None is left out where it is None."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON."""
        found = {}
        for field in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, field.name)
            if value is not None or field.default is MISSING:
                found[field.name] = plain(value)
        return found


def plain(value: Any) -> Any:
    """Records, tuples and mappings as what JSON has."""
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Budget(Record):
    """How much a synset may hold: ``ipc`` images per class, ``all`` real items, or another unit."""

    unit: str
    value: float

    @property
    def whole(self) -> bool:
        """Whether it is all of the real set."""
        return self.unit == "all"

    @property
    def name(self) -> str:
        """``ipc10``, ``full`` for all of the real set, else unit and value."""
        return "full" if self.whole else f"{self.unit}{self.value}"


@dataclass(frozen=True, kw_only=True)
class Stored(Record):
    """Bytes of a synset by part, and of the real training set; ``real_images`` is a count."""

    images: int
    labels: int
    augmentation: int
    teacher: int
    other: int
    total: int
    real: int
    real_images: int

    @property
    def parts(self) -> int:
        """Sum of the parts."""
        return self.images + self.labels + self.augmentation + self.teacher + self.other


@dataclass(frozen=True, kw_only=True)
class SynsetInfo(Record):
    """The synset of a row: what its file says of itself, the file's hash, and what it takes to store."""

    sha256: str
    method: str
    dataset: str
    dataset_fingerprint: str
    modality: str
    budget: Budget
    classes: int
    shape: tuple[int, ...]
    images: int
    decoded_images: int
    label_kind: str
    student: str | None
    seed: int
    preprocess: Settings
    config: Any
    learned_lr: float | None
    bytes: Stored
    fixed_network: bool | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SynsetInfo:
        """From checked JSON."""
        own = {"budget": Budget(**data["budget"]), "shape": tuple(data["shape"]), "bytes": Stored(**data["bytes"])}
        return cls(**{**data, **own})


@dataclass(frozen=True, kw_only=True)
class ProtocolInfo(Record):
    """The protocol of a row; ``changed`` are the settings that were altered, by which it is not standard."""

    name: str
    hash: str
    standard: bool
    changed: Settings
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class Metric(Record):
    """What a number means: unit (``fraction``, ``points``, ...), ``better`` higher or lower, and its title."""

    unit: str
    better: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Run(Record):
    """One trained network: its student, its seed and what was measured of it."""

    student: str
    seed: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Claim(Record):
    """A number that the authors report, to stand beside what was measured."""

    student: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class SubmissionInfo(Record):
    """What a submitter says; ``labels_sha256`` is of the file of stored labels that were replayed."""

    method_title: str
    authors: tuple[str, ...]
    links: tuple[str, ...]
    code: str
    licence: str
    note: str
    claims: tuple[Claim, ...]
    synset_url: str | None = None
    teacher_url: str | None = None
    labels_url: str | None = None
    labels_sha256: str | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SubmissionInfo:
        """From checked JSON."""
        claims = tuple(Claim(**claim) for claim in data["claims"])
        return cls(**{**data, "authors": tuple(data["authors"]), "links": tuple(data["links"]), "claims": claims})


@dataclass(frozen=True, kw_only=True)
class Cost(Record):
    """What a stage took; ``more`` is what else its record says (iterations, runs, ...)."""

    device: str
    wall_seconds: float
    cpu_seconds: float
    cores: int | None = None
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    more: Settings

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Cost | None:
        """From checked JSON; None: not recorded."""
        if data is None:
            return None
        names = {field.name for field in fields(cls)} - {"more"}
        own = {name: value for name, value in data.items() if name in names}
        return cls(**own, more={name: value for name, value in data.items() if name not in names})

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON."""
        found = super().to_json()
        more: dict[str, Any] = found.pop("more")
        return found | more


@dataclass(frozen=True, kw_only=True)
class Costs(Record):
    """What distillation and evaluation took, where it was recorded."""

    distill: Cost | None
    evaluate: Cost | None


@dataclass(frozen=True, kw_only=True)
class CodeState(Record):
    """A version of ddbench; commit of its git checkout and whether its files differed from it, None where not known."""

    version: str
    commit: str | None
    dirty: bool | None


@dataclass(frozen=True, kw_only=True)
class CodeInfo(CodeState):
    """What code made a synset: that of the first try, the hash of a method's own file, and what went on with it."""

    method_file: str | None
    also: tuple[CodeState, ...] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CodeInfo:
        """From checked JSON."""
        also = {"also": tuple(CodeState(**one) for one in data["also"])} if "also" in data else {}
        return cls(**{**data, **also})


@dataclass(frozen=True)
class Repeat(Record):
    """One repeat of DD-Ranking's trainings: network seed and six accuracies (fractions)."""

    seed: int
    accuracies: Accuracies

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Repeat:
        """From checked JSON."""
        return cls(data["seed"], Accuracies(**{name: value for name, value in data.items() if name != "seed"}))

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON."""
        return {"seed": self.seed, **asdict(self.accuracies)}


@dataclass(frozen=True, kw_only=True)
class Scores(Record):
    """DD-Ranking's scores of the synset under the row's protocol."""

    student: str
    standard: bool
    weight: float
    random_labels: str
    repeats: tuple[Repeat, ...]
    summary: Mapping[str, Statistics]
    hard_augmentation: bool | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scores:
        """From checked JSON."""
        return cls(**{**data, "repeats": tuple(map(Repeat.from_json, data["repeats"]))})

    @cached_property
    def by_seed(self) -> Mapping[int, Mapping[str, float]]:
        """Seed -> accuracies and scores of its repeat."""
        return {repeat.seed: repeat_scores(repeat.accuracies, self.weight) for repeat in self.repeats}


@dataclass(frozen=True, kw_only=True)
class TaskUnit(Record):
    """Numbers of one network seed, class order or target of a task."""

    unit: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TaskInfo(Record):
    """What a task measured of the synset (:mod:`ddbench.tasks.told`).

    Attributes:
        question: what was asked: numbers of another question are not compared.
        over: what a unit is.
        units: values that intervals follow from; rows are paired by unit.
        summary: metric -> statistics; of metrics without units as the task states them (a bootstrap).
        beside: what is no number.
    """

    question: Settings
    over: str
    metrics: Mapping[str, Metric]
    units: tuple[TaskUnit, ...]
    summary: Mapping[str, Statistics]
    beside: Settings
    threads: int
    versions: Mapping[str, str]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskInfo:
        """From checked JSON."""
        own = {
            "metrics": {name: Metric(**one) for name, one in data["metrics"].items()},
            "units": tuple(TaskUnit(**one) for one in data["units"]),
        }
        return cls(**{**data, **own})

    def values(self, metric: str) -> dict[int, float]:
        """Unit -> value; of a metric without units its one number, as unit 0."""
        found = {one.unit: one.metrics[metric] for one in self.units if metric in one.metrics}
        return found or {0: self.summary[metric]["mean"]}

    def is_stated(self, metric: str) -> bool:
        """Whether its interval is the task's own, not one that follows from units."""
        return not any(metric in one.metrics for one in self.units)


@dataclass(frozen=True, kw_only=True)
class Result(Record):
    """One row of the board.

    Attributes:
        id: first 16 hex digits of the hash of everything but ``id`` and ``cost``.
        supersedes: id of the row whose place this one takes.
        teacher: the network that labelled views while students trained.
        labels: the stored labels that were replayed.
        learning_rates: student -> the rate it was trained with, and where that came from.
        runs: every single run.
        summary: student -> metric -> statistics; follows from the runs.
        at_once: students trained together, on which the last bits depend, as on ``threads``.
        details: student -> what a number does not say (reliability, robustness, corruptions).
        measured: kind of extra measurement -> its settings.
        recipe: the configuration of the run that made the synset.
        scores: DD-Ranking's, where they were measured.
        code: what code made the synset, where its run recorded it.
        tasks: task -> what it measured of the synset.
    """

    id: str
    supersedes: str | None
    submission: SubmissionInfo
    synset: SynsetInfo
    teacher: TeacherInfo | None
    labels: Settings | None
    protocol: ProtocolInfo
    learning_rates: Mapping[str, Settings]
    runs: tuple[Run, ...]
    summary: Mapping[str, Mapping[str, Statistics]]
    metrics: Mapping[str, Metric]
    precision: str
    threads: int
    at_once: int
    versions: Mapping[str, str]
    cost: Costs
    details: Mapping[str, Settings] | None = None
    measured: Mapping[str, Settings] | None = None
    recipe: Settings | None = None
    scores: Scores | None = None
    code: CodeInfo | None = None
    tasks: Mapping[str, TaskInfo] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """From JSON that has the shape of ``result.schema.json``; nothing is checked here."""
        own = {
            "submission": SubmissionInfo.from_json(data["submission"]),
            "synset": SynsetInfo.from_json(data["synset"]),
            "protocol": ProtocolInfo(**data["protocol"]),
            "runs": tuple(Run(**run) for run in data["runs"]),
            "metrics": {name: Metric(**one) for name, one in data["metrics"].items()},
            "cost": Costs(**{stage: Cost.from_json(cost) for stage, cost in data["cost"].items()}),
            "scores": Scores.from_json(data["scores"]) if "scores" in data else None,
            "code": CodeInfo.from_json(data["code"]) if "code" in data else None,
            "tasks": {name: TaskInfo.from_json(it) for name, it in data["tasks"].items()} if "tasks" in data else None,
        }
        return cls(**{name: value for name, value in data.items() if name not in ("kind", "schema")} | own)

    def to_json(self) -> dict[str, Any]:
        """The row's file."""
        return {"kind": KIND, "schema": SCHEMA, **super().to_json()}

    @cached_property
    def main_metric(self) -> str:
        """The metric that the row is ranked by."""
        return ranked_by(self.metrics)

    @cached_property
    def distilled_on(self) -> str | None:
        """The student that the synset was distilled on; None: none took part, whatever the synset's file names."""
        return distilled_on(self.synset.method, self.synset.student)

    @cached_property
    def students(self) -> tuple[str, ...]:
        """The students in the order of the runs."""
        return tuple(dict.fromkeys(run.student for run in self.runs))

    def values(self, student: str, metric: str) -> dict[int, float]:
        """Seed -> value of one student's runs; empty where it has none."""
        return dict(self._values.get((student, metric), {}))

    @cached_property
    def _values(self) -> dict[tuple[str, str], dict[int, float]]:
        """(student, metric) -> seed -> value: ranking asks for it many times."""
        found: dict[tuple[str, str], dict[int, float]] = {}
        for run in self.runs:
            for metric, value in run.metrics.items():
                found.setdefault((run.student, metric), {})[run.seed] = value
        return found

    @property
    def fixed(self) -> bool:
        """Whether its runs are of one fixed network."""
        return is_fixed(vars(self.synset), self.protocol.settings)

    @cached_property
    def statistics(self) -> Mapping[str, Mapping[str, Statistics]]:
        """Student -> metric -> statistics, as they are shown: runs of a fixed network are one, and have no interval."""
        if not self.fixed:
            return self.summary
        return {one: {key: summarise([said["mean"]]) for key, said in own.items()} for one, own in self.summary.items()}

    @property
    def labeller(self) -> str | None:
        """Hash of the teacher that labelled the views, while students trained or before; None: nobody did."""
        teacher = self.teacher or (self.labels or {}).get("teacher")
        return str(teacher.get("sha256")) if isinstance(teacher, Mapping) else None

    def task(self, name: str) -> TaskInfo | None:
        """What a task measured; None where it was not done."""
        return (self.tasks or {}).get(name)

    def measured_as(self, kind: str) -> Settings:
        """The settings of an extra measurement; empty where it was not made."""
        return (self.measured or {}).get(kind, {})

    def details_of(self, student: str) -> Settings:
        """What is told of a student beside its numbers."""
        return (self.details or {}).get(student, {})
