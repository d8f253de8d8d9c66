"""What a task is: a config, units of work that do not know of each other, and results that follow from their records.

A task's units come in stages; a stage begins when the one before is done, by all processes. Each unit gives a JSON
record, which is on disk as soon as it ends, so that a killed task goes on. ``results`` is a pure function of the head
(the question) and the records (the measurements): whoever reads a result file computes it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from ddbench.data.dataset import Dataset
from ddbench.data.load import load_dataset
from ddbench.protocols.plan import Plan, check_plan
from ddbench.protocols.protocol import Protocol
from ddbench.protocols.training import Settings
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import check_same
from ddbench.statistics import FRACTION, TOO_FEW, ends_within, paired_difference, summarise
from ddbench.synset import Synset, check_against, read_synset
from ddbench.tasks.told import Told

C = TypeVar("C")

Records = Mapping[str, Mapping[str, Any]]
"""Name of a unit -> its record."""

BASELINE = "random"
"""The method that others are compared with, where there is a run of it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A synset that the task is about.

    Attributes:
        label: names it in results: method, IPC, seed, and the first hex digits of the file's hash.
        path: the file.
        sha256: of the file.
        needs: what its method was given (experts, teacher), as the run's record says it; where the task runs the method
            again.
    """

    label: str
    path: Path
    sha256: str
    method: str
    needs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a result: without the place."""
        own = {"label": self.label, "sha256": self.sha256, "method": self.method}
        return {**own, "needs": dict(self.needs)} if self.needs else own


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One piece of work.

    Attributes:
        name: unique in the task; the same for the same work.
        values: JSON that says what it is, for :meth:`Task.work`.
    """

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker knows of the task.

    Attributes:
        task: its name.
        config: its settings.
        runs: the synsets, all of one dataset.
        dataset, size: what they stand for.
        student: the network that is trained.
        seeds: number of fresh networks.
        protocol: how they learn.
        folder: for files that units leave for others.
    """

    task: str
    config: Any
    runs: tuple[Run, ...]
    dataset: str
    size: int | None
    data: Path | None
    student: str
    seeds: int
    protocol: Protocol
    settings: Settings
    folder: Path


class Task(Generic[C]):
    """Base of all tasks; made in every process that works on it.

    Args:
        config: the task's settings.
        job: what is asked.
    """

    config_class: ClassVar[type[Any]]
    protocol: ClassVar[str] = "hard-v1"
    """How students learn, if nothing else is asked for."""
    grows: ClassVar[Sequence[str]] = ("runs", "seeds")
    """Parts of the head that a later command may extend: no unit is another one for more of them."""
    schema: ClassVar[Mapping[str, Any]]
    """JSON Schema of what :meth:`results` gives."""
    units: ClassVar[Mapping[str, str]] = {}
    """Units of metrics that are no fractions, for :meth:`lines`: ``difference`` of two fractions, ``1`` for others."""

    def __init__(self, config: C, job: Job) -> None:
        self.config = config
        self.job = job
        self.dataset: Dataset = load_dataset(job.dataset, job.data, size=job.size)
        self.synsets: dict[str, Synset] = {run.label: read_synset(run.path) for run in job.runs}
        for run in job.runs:
            check_same(run.path, run.sha256)
            check_against(run.path, self.synsets[run.label], self.dataset)

    @classmethod
    def fetch(cls, config: C, data: Path | None, size: int, download: bool, skip_broken: bool) -> None:
        """Get datasets beside the runs' (of ``size`` px) before any work, where ``download`` allows it.

        Raises:
            UserError: one is not there.
        """

    @classmethod
    def distils(cls, config: C) -> bool:
        """Whether the methods of the runs are run again, on other images."""
        return False

    def check(self) -> None:
        """Refuse what cannot work, before anything is written.

        Raises:
            UserError: names the flag or run, its value and what is possible.
        """
        for run in self.job.runs:
            check_plan(self.plan(run.label), self.dataset)

    def decides(self) -> dict[str, Any]:
        """JSON that decides the records beside runs, student, protocol and config (another dataset's fingerprint)."""
        return {}

    def stages(self) -> Sequence[Sequence[Unit]]:
        """The units, stage by stage, in an order that is the same in every process."""
        raise NotImplementedError

    def work(self, unit: Unit) -> dict[str, Any]:
        """Do one unit and give its record, JSON."""
        raise NotImplementedError

    def there(self, unit: Unit, record: Mapping[str, Any]) -> bool:
        """Whether what the unit left beside its record is there."""
        return True

    def remembered(self) -> dict[str, dict[str, Any]]:
        """Records of units that other tasks left where this one finds them."""
        return {}

    def remember(self, records: Records) -> None:
        """Leave records for other tasks; called when all units are done."""

    @classmethod
    def wanted(cls, head: Mapping[str, Any]) -> Iterable[str]:
        """Names of the units that the values of the head's runs rest on: a result without one of them is refused.

        They are given one by one, since a head may ask for any number.
        """
        return ()

    @classmethod
    def results(cls, head: Mapping[str, Any], records: Records) -> dict[str, Any]:
        """What the records say, as :attr:`schema` has it.

        Args:
            head: the question, as it stands in the result file.
        """
        raise NotImplementedError

    @classmethod
    def told(cls, head: Mapping[str, Any], records: Records, label: str) -> Told:
        """What a board shows of one run.

        Args:
            head, records: as :meth:`results`.
            label: of the run.

        Raises:
            UserError: the task tells boards nothing.
        """
        raise UserError(f"task {cls.__name__.lower()} tells boards nothing: it has no method `told`")

    @classmethod
    def lines(cls, results: Mapping[str, Any]) -> list[str]:
        """The results for people."""
        return table_lines(results, cls.units)

    def plan(self, label: str) -> Plan:
        """Training on a run's synset by the job's protocol."""
        return self.plan_of(self.synsets[label])

    def plan_of(self, synset: Synset) -> Plan:
        """Training on a synset by the job's protocol."""
        preprocess = check_against(Path(synset.method), synset, self.dataset)
        return Plan(synset=synset, protocol=self.job.protocol, preprocess=preprocess, flip=self.dataset.spec.flip)


# Tables that every task has: values by run and metric, intervals, differences

Values = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Run -> metric -> network seed -> value."""

NUMBER = {"type": ["number", "null"]}
STATISTICS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["mean", "std", "n", "low", "high"],
    "properties": {"mean": {"type": "number"}, "n": {"type": "integer", "minimum": 1}, "std": NUMBER}
    | {"low": NUMBER, "high": NUMBER, "tie": {"type": "boolean"}},
    "additionalProperties": False,
}
ROW_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["run", "metrics"],
    "properties": {"run": {"type": "string"}, "metrics": {"type": "object", "additionalProperties": STATISTICS_SCHEMA}},
    "additionalProperties": False,
}
DIFFERENCE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["run", "against", "metrics"],
    "properties": {
        "run": {"type": "string"},
        "against": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "metrics": {"type": "object", "additionalProperties": STATISTICS_SCHEMA},
    },
    "additionalProperties": False,
}
TABLE_PROPERTIES: dict[str, Any] = {
    "rows": {"type": "array", "items": ROW_SCHEMA},
    "differences": {"type": "array", "items": DIFFERENCE_SCHEMA},
}


def table(values: Values, against: Sequence[str]) -> dict[str, Any]:
    """``rows`` (mean and interval of each run and metric) and ``differences`` to some runs, paired by network seed.

    Args:
        against: the runs that others are compared with, together; those that have a metric count for it.
    """
    rows = [
        {"run": label, "metrics": {name: summarise([own[seed] for seed in sorted(own)]) for name, own in found.items()}}
        for label, found in values.items()
    ]
    differences = []
    for label, found in values.items():
        metrics = {}
        for name, own in found.items():
            others = [dict(values[other][name]) for other in against if name in values.get(other, {})]
            if others and label not in against:
                metrics[name] = paired_difference(dict(own), others)
        if metrics:
            differences.append({"run": label, "against": list(against), "metrics": metrics})
    return {"rows": rows, "differences": differences}


def baselines(head: Mapping[str, Any]) -> list[str]:
    """Labels of the runs of :data:`BASELINE`."""
    return [run["label"] for run in head["runs"] if run["method"] == BASELINE]


def table_lines(results: Mapping[str, Any], units: Mapping[str, str] | None = None) -> list[str]:
    """Rows and differences as text, a line each run and metric; a tie is called one.

    Args:
        units: of metrics that are no fractions, as :attr:`Task.units`.
    """
    units = units or {}
    lines = []
    for row in results["rows"]:
        for name, entry in row["metrics"].items():
            lines.append(f"{row['run']}  {name}: {shown(entry, units.get(name, FRACTION))}")
    for row in results["differences"]:
        for name, entry in row["metrics"].items():
            words = shown(entry, units.get(name, FRACTION))
            lines.append(f"{row['run']} - {', '.join(row['against'])}  {name}: {words}")
    return lines


def shown(entry: Mapping[str, Any], unit: str = FRACTION) -> str:
    """A mean with its interval; of a difference also whether it is a tie.

    Args:
        unit: of the numbers, or of those that differ.
    """
    mean = _told(entry["mean"])
    if "tie" in entry:
        unit = "difference" if unit == FRACTION else "1"
    tie = ", a tie" if entry.get("tie") else ""
    if entry["low"] is None:  # one seed: nothing can be said of a difference
        return mean
    low, high, mark = ends_within(entry["low"], entry["high"], unit)
    words = TOO_FEW if mark == TOO_FEW else ", ".join(filter(None, (f"{_told(low)} to {_told(high)}", mark)))
    return f"{mean} ({words}){tie}"


def _told(value: float) -> str:
    """Four digits; what rounds to 0 has no sign."""
    return f"{round(value, 4) + 0.0:.4f}"


def refuse_recipe(protocol: Protocol, why: str) -> None:
    """Refuse a protocol that replays a learned recipe, where students learn other images too.

    Raises:
        UserError: names the protocol.
    """
    if protocol.replay:
        raise UserError(f"--protocol {protocol.name}: it replays a learned recipe, and {why}; use e.g. hard-v1")


def refuse_replay(runs: Sequence[Run], synsets: Mapping[str, Synset], why: str) -> None:
    """Refuse synsets whose training is a learned recipe, which has no meaning for a part of them.

    Raises:
        UserError: names the run.
    """
    for run in runs:
        if synsets[run.label].schedule is not None:
            raise UserError(f"{run.path}: {run.method} learned a training recipe, {why}; leave this run out")
