"""What an evaluation has already: runs, learning-rate searches, extra measurements and costs, of a finished file or a
killed one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.evaluation.parts import HEAD, parts_folder, read_head, read_parts
from ddbench.measurements.suite import Finding
from ddbench.modalities import modality
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, gone, read_json, text_hash
from ddbench.runtime.resources import PEAKS, largest
from ddbench.statistics import summarise
from ddbench.teachers.remedy import named

KIND = "ddbench-evaluation"
SCHEMA = 1
SECONDS = ("wall_seconds", "cpu_seconds")
COSTS = (*SECONDS, *PEAKS)
"""What a cost record of a training or probe has; the last one on a GPU only."""


def best_of(found: Mapping[float, float]) -> float:
    """The learning rate with the highest accuracy; of equal ones the smallest.

    Args:
        found: rate -> accuracy on held-out training images.
    """
    return min(found, key=lambda rate: (-found[rate], rate))


@dataclass
class Kept:
    """Everything that was trained so far.

    Attributes:
        runs: (student, seed) -> metrics.
        searches: student -> learning rate -> accuracy on held-out training images.
        diverged: (student, seed) -> what became of it, of students whose outputs are not finite.
        costs: one record a training or probe.
        fresh: whether there are records that the finished file lacks.
        records: the records that are there beside the finished file, each with its path.
        measured: kind of measurement -> its settings.
        probes: (student, seed, kind) -> probe -> finding, of runs whose probes are not all done.
        findings: (student, seed, kind) -> details of a run's measurement, all probes together; its metrics are in
            ``runs``.
        details: student -> details pooled over seeds, as in the finished file.
        metrics: name -> how it is to be read, of measurements in the finished file.
    """

    runs: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    searches: dict[str, dict[float, float]] = field(default_factory=dict)
    diverged: dict[tuple[str, int], str] = field(default_factory=dict)
    costs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    fresh: bool = False
    records: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    probes: dict[tuple[str, int, str], dict[str, Finding]] = field(default_factory=dict)
    findings: dict[tuple[str, int, str], dict[str, Any]] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, dict[str, str]] = field(default_factory=dict)

    def take(self, record: dict[str, Any]) -> None:
        """Put one record (a run, a probe of one, a learning rate of a search, settings of a measurement) into the
        tables.
        """
        if "measured" in record:
            self.measure(str(record["measured"]), dict(record["settings"]))
            return
        student = record["student"]
        if not isinstance(student, str):
            raise TypeError(f"student {student!r}")
        cost = {name: _number(name, record["cost"][name]) for name in _told(record["cost"])}
        if "searched_lr" in record:
            rate = _number("searched_lr", record["searched_lr"])
            self.searches.setdefault(student, {})[rate] = _number("accuracy", record["holdout_accuracy"])
            self.costs[student, f"lr {rate:g}"] = {"student": student, "searched_lr": rate, **cost}
        elif "probe" in record:
            seed, kind, name = int(record["seed"]), str(record["kind"]), str(record["probe"])
            if record["settings"] != self.identity(kind):
                return  # of a try with other settings
            self.probes.setdefault((student, seed, kind), {})[name] = Finding.from_json(record["finding"])
            entry = {"student": student, "seed": seed, "kind": kind, "probe": name, **cost}
            self.costs[student, f"seed {seed:09d} {kind} {name}"] = entry
        else:
            seed = int(record["seed"])
            if "diverged" in record:
                self.diverged[student, seed] = str(record["diverged"])
            else:
                metrics = {name: float(_number(name, value)) for name, value in record["metrics"].items()}
                if "accuracy" not in metrics:
                    raise KeyError("accuracy")
                self.runs.setdefault((student, seed), metrics)
            self.costs[student, f"seed {seed:09d}"] = {"student": student, "seed": seed, **cost}

    def identity(self, kind: str) -> str | None:
        """Short hash of a measurement's settings; None where it has none yet."""
        return text_hash(self.measured[kind])[:16] if kind in self.measured else None

    def tried(self, student: str, seed: int) -> bool:
        """Whether the run is there, or diverged."""
        return (student, seed) in self.runs or (student, seed) in self.diverged

    def lost(self) -> set[str]:
        """Students of which a seed diverged: their other seeds' mean would flatter them."""
        return {student for student, _ in self.diverged}

    def measure(self, kind: str, settings: dict[str, Any]) -> None:
        """Go on with a kind of measurement under these settings; open probes of other settings are dropped."""
        if self.measured.get(kind, settings) != settings:
            self.probes = {key: found for key, found in self.probes.items() if key[2] != kind}
            self.costs = {key: entry for key, entry in self.costs.items() if entry.get("kind") != kind}
        self.measured[kind] = settings

    def holds(self, kind: str) -> bool:
        """Whether the finished file has this kind of measurement of any run."""
        return any(found == kind for _, _, found in self.findings)

    def best_rate(self, student: str) -> float:
        """The searched learning rate with the highest held-out accuracy; of equal ones the smallest."""
        return best_of(self.searches[student])

    def tables(self) -> dict[str, Any]:
        """Runs in order, and their statistics by student and metric, without those of :meth:`_partial`."""
        partial = {student: self._partial(student) for student in {student for student, _ in self.runs}}
        shown = {
            (student, seed): {name: value for name, value in metrics.items() if name not in partial[student]}
            for (student, seed), metrics in sorted(self.runs.items())
        }
        runs = [{"student": student, "seed": seed, "metrics": metrics} for (student, seed), metrics in shown.items()]
        summary: dict[str, Any] = {}
        for student in sorted({student for student, _ in self.runs} - self.lost()):
            own = [metrics for (name, _), metrics in shown.items() if name == student]
            names = dict.fromkeys(metric for entry in own for metric in entry)
            summary[student] = {
                metric: summarise([entry[metric] for entry in own if metric in entry]) for metric in names
            }
        return {"runs": runs, "summary": summary}

    def _partial(self, student: str) -> set[str]:
        """Metrics that some run lacks though it was measured alike: a mean of the rest would be of chosen seeds."""
        own = {seed: metrics for (name, seed), metrics in self.runs.items() if name == student}
        kinds: dict[int, set[str]] = {seed: set() for seed in own}
        for name, seed, kind in self.findings:
            if name == student and seed in kinds:
                kinds[seed].add(kind)
        found = set()
        for metric in {name for metrics in own.values() for name in metrics}:
            needed = set.intersection(*(kinds[seed] for seed, metrics in own.items() if metric in metrics))
            if any(metric not in metrics and kinds[seed] >= needed for seed, metrics in own.items()):
                found.add(metric)
        return found

    def cost_report(self, device: str, cores: int) -> dict[str, Any]:
        """The cost record that is written beside the evaluation."""
        entries = [
            {name: round(value, 3) if isinstance(value, float) else value for name, value in entry.items()}
            for _, entry in sorted(self.costs.items())
        ]
        return {
            "device": device,
            "cores": cores,
            **{name: round(sum(entry[name] for entry in entries), 3) for name in SECONDS},
            **largest(entries),
            "runs": entries,
        }


def _told(cost: Mapping[str, Any]) -> list[str]:
    """What a cost record must have, and what it has of the rest."""
    return [name for name in COSTS if name != PEAKS[-1] or name in cost]


def _number(name: str, value: object) -> Any:
    """A number of a record; JSON has neither NaN nor infinities, its texts do.

    Raises:
        TypeError, ValueError: none, or a fraction that is none.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} {value!r:.40}")
    if not math.isfinite(value) or (name == "accuracy" and not 0 <= value <= 1):
        raise ValueError(f"{name} {value}")
    return value


def cost_path(out: Path) -> Path:
    """The cost record of an evaluation."""
    return out.with_name(f"{out.stem}.cost.json")


def read_kept(out: Path, head: dict[str, Any]) -> Kept:
    """What ``out`` (finished) and the records beside it (of killed and of other processes) hold of an evaluation.

    Args:
        head: describes the evaluation.

    Raises:
        UserError: they are of another evaluation, or malformed.
    """
    folder = parts_folder(out)
    records = read_parts(folder, _check_record)  # before the result: who removes one has put it there
    there = read_head(folder)
    if there is not None:
        same_head(folder / HEAD, there, head)
    else:
        records = []  # nobody knows of what; who removes a head has put its records into the result
    kept = Kept(records=records)
    if out.exists():
        _take_result(kept, out, head)
    known = (dict(kept.runs), {name: dict(found) for name, found in kept.searches.items()}, dict(kept.diverged))
    for _, record in records:
        kept.take(record)
    kept.fresh = (kept.runs, kept.searches, kept.diverged) != known
    return kept


def begun_at_once(out: Path) -> int:
    """Students trained together, as an evaluation that is there says; 1: there is none.

    What is trained one by one belongs to any: it depends on no other.
    """
    for path in (out, parts_folder(out) / HEAD):
        found = read_json(path, "evaluation") if path.is_file() else None
        count = found.get("at_once") if isinstance(found, dict) else None
        if type(count) is int and count > 0:
            return count
    return 1


def check_there(out: Path, head: dict[str, Any]) -> None:
    """Refuse to write where the records of an evaluation at work were taken away, or are another one's by now.

    What is left of them would look whole, and a record without its head could be of any synset.

    Raises:
        UserError: they are not there, or not of this evaluation.
    """
    place = parts_folder(out) / HEAD
    there = read_head(place.parent)
    if there is None:
        raise gone(place)
    same_head(place, there, head)


def _check_record(record: dict[str, Any]) -> None:
    """Raise what :meth:`Kept.take` does for a record that is malformed."""
    Kept(measured={str(record["kind"]): {}} if "probe" in record else {}).take(record)
    if "probe" in record:
        Finding.from_json(record["finding"])


def _take_result(kept: Kept, out: Path, head: dict[str, Any]) -> None:
    old = read_json(out, "evaluation")
    if not isinstance(old, dict) or old.get("kind") != KIND:
        raise UserError(f"{out}: not an evaluation; choose another --out")
    same_head(out, old, head)
    cost = cost_path(out)
    costs = read_json(cost, "cost record") if cost.exists() else {"runs": []}
    try:
        nothing = dict.fromkeys(COSTS[:-1], 0)
        kind = modality(str(head["synset"]["modality"]))
        for run in [*old["runs"], *old.get("diverged", [])]:
            kind.check_student(run["student"])
            kept.take({**run, "cost": nothing})
        for student, entry in old["learning_rates"].items():
            for rate, value in entry["searched"].items():
                kept.take({"student": student, "searched_lr": float(rate), "holdout_accuracy": value, "cost": nothing})
        for kind, settings in old.get("measured", {}).items():
            kept.measured[str(kind)] = dict(settings)
        for entry in old.get("findings", []):
            kept.findings[str(entry["student"]), int(entry["seed"]), str(entry["kind"])] = dict(entry["details"])
        kept.details = {str(student): dict(parts) for student, parts in old.get("details", {}).items()}
        kept.metrics = {str(name): dict(entry) for name, entry in old["metrics"].items()}
        kept.costs = {}
        for entry in costs["runs"]:
            key = f"lr {entry['searched_lr']:g}" if "searched_lr" in entry else f"seed {entry['seed']:09d}"
            key += f" {entry['kind']} {entry['probe']}" if "probe" in entry else ""
            kept.costs[str(entry["student"]), key] = {**entry, **{name: round(entry[name], 3) for name in _told(entry)}}
    except UserError as error:
        raise UserError(f"{out}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{out}: its runs (or their costs beside it) are malformed ({error!r}); remove it") from None


def same_head(place: Path, old: dict[str, Any], head: dict[str, Any]) -> None:
    """Refuse a file of another evaluation.

    Raises:
        UserError: names what differs.
    """
    version = old.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise UserError(
            f"{place}: schema {version} was made by a newer ddbench (this one reads up to {SCHEMA}): upgrade, or "
            "choose another --out"
        )
    wanted = json.loads(canonical_json(head))
    for name in [*wanted, *({"device"} & set(old) - set(wanted))]:
        value, found = wanted.get(name), old.get(name)
        if found != value:
            what, remedy = name, "remove it or choose another --out"
            if name in ("threads", "at_once", "precision"):
                remedy = f"give --{name.replace('_', '-')} {found} as there, or choose another --out"
            if name == "device":
                remedy = f"give --device {found or 'cpu'} as there, or choose another --out"
            if isinstance(value, dict) and isinstance(found, dict):
                parts = [name for name in value if found.get(name) != value[name]]
                part = "sha256" if "sha256" in parts else "".join(parts[:1])
                what = f"{name}.{part}" if part else name
            if what == "synset.bytes" and head.get("teacher") != old.get("teacher"):
                what = "teacher"  # whose bytes these are
            teacher = old.get("teacher")
            if what.startswith("teacher") and isinstance(teacher, dict) and isinstance(teacher.get("sha256"), str):
                what, remedy = (
                    "teacher",
                    f"give --teacher FILE, that of there ({named(teacher)}), or choose another --out",
                )
            raise UserError(f"{place} holds runs of another evaluation ({what} differs); {remedy}")
