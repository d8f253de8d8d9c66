"""Verifications: what re-training from a row's synset gave, beside what the row claims; one JSON a row.

``<id>.verified.json`` lies beside ``<id>.json``. It keeps every single re-trained run; means, intervals and verdicts
follow from those and from the row, and are checked on write and on read. How the runs are made is in
:mod:`ddbench.leaderboard.retrain`. Imports no torch.

The accuracy is always compared; with ``--measured`` so is what else the row has a column for (calibration, robustness,
corruptions, tasks). A student's verdict by one metric:

* ``identical``: the same seeds gave the very same numbers;
* ``within``: the re-trained mean lies in the 95 % interval of what an honest row's mean leads to expect (for all
  students and metrics of the row together, Bonferroni). With n claimed and m re-trained runs it is ``claimed mean +-
  t(m - 1) * s * sqrt(1/n + 1/m)``. s is the standard deviation of the *re-trained* runs, so that no row can widen its
  own interval; of a single re-trained run nothing is known, and the row's own spread is taken;
* ``above``, ``below``: it lies outside, on the better or the worse side.

A number of a task whose interval is a bootstrap is ``within`` where the claim lies in the repetition's own interval.
A row is ``below`` if a student is by any metric, else ``above`` if one is, else ``within``; ``identical`` if all are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypedDict

from ddbench.leaderboard.columns import HEADLINE, repeated
from ddbench.leaderboard.consistency import TOLERANCE, check_task, same
from ddbench.leaderboard.result import Metric, Record, Result, Run, TaskInfo, TaskUnit, plain
from ddbench.leaderboard.schema import MAX_RESULT_BYTES, RESULTS, check_text, fits_task, read_result, result_path
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import gone, read_json, write_json
from ddbench.statistics import Statistics

KIND = "ddbench-verification"
SCHEMA = 2
SUFFIX = ".verified.json"
VERDICTS = ("below", "above", "within", "identical")
"""The verdict of a row is the first of these that one of its students has."""
LEVEL = 0.95
FIELDS: dict[str, type] = {
    "kind": str,
    "schema": int,
    "result": str,
    "metric": str,
    "verdict": str,
    "students": dict,
    "measured": dict,
    "runs": list,
    "seeds": int,
    "device": str,
    "threads": int,
    "at_once": int,
    "versions": dict,
}


def verification_path(root: Path, result: Result) -> Path:
    """Where the verification of a row lies."""
    path = root / result_path(result)
    return path.with_name(path.stem + SUFFIX)


@dataclass(frozen=True, kw_only=True)
class Comparison(Record):
    """One student's re-trained runs beside the claimed ones.

    Attributes:
        claimed, measured: means.
        low, high: within which the measured mean is ``within``; None where a single run stands against a single one.
        n: re-trained runs.
        verdict: one of :data:`VERDICTS`.
    """

    claimed: float
    measured: float
    low: float | None
    high: float | None
    n: int
    verdict: str


Compared = Mapping[str, Comparison]
"""Student, or metric of a task, -> what came out."""


@dataclass(frozen=True, kw_only=True)
class TaskAgain(Record):
    """A task done again: its units and summary as :class:`ddbench.leaderboard.result.TaskInfo`, and what came out."""

    units: tuple[TaskUnit, ...]
    summary: Mapping[str, Statistics]
    compared: Compared

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskAgain:
        """From JSON that :func:`check_verification` has checked."""
        units = tuple(TaskUnit(**one) for one in data["units"])
        return cls(units=units, summary=data["summary"], compared=_compared(data["compared"]))


class Tables(TypedDict):
    """What follows from the runs of a verification and from the row; of ``tasks`` what is compared, by task."""

    verdict: str
    students: Compared
    measured: Mapping[str, Compared]
    seeds: int
    tasks: Mapping[str, Compared]


@dataclass(frozen=True, kw_only=True)
class Verification(Record):
    """What re-training from a row's synset gave.

    Attributes:
        result: id of the row.
        metric: the one that the row is ranked by.
        verdict: of the row.
        students: by that metric.
        measured: further metric -> its own table.
        runs: every single re-trained run.
        seeds: re-trained networks of the student that has fewest.
        device: as :func:`ddbench.runtime.device.describe`.
        tasks: the row's tasks, done again.
    """

    result: str
    metric: str
    verdict: str
    students: Compared
    measured: Mapping[str, Compared]
    runs: tuple[Run, ...]
    seeds: int
    device: str
    threads: int
    at_once: int
    versions: Mapping[str, str]
    tasks: Mapping[str, TaskAgain] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verification:
        """From JSON that :func:`check_verification` has checked."""
        own = {
            "students": _compared(data["students"]),
            "measured": {metric: _compared(table) for metric, table in data["measured"].items()},
            "runs": tuple(Run(**run) for run in data["runs"]),
            "tasks": {name: TaskAgain.from_json(one) for name, one in data["tasks"].items()}
            if "tasks" in data
            else None,
        }
        return cls(**{name: value for name, value in data.items() if name not in ("kind", "schema")} | own)

    def to_json(self) -> dict[str, Any]:
        """The verification's file."""
        return {"kind": KIND, "schema": SCHEMA, **super().to_json()}


def _compared(table: Mapping[str, Any]) -> Compared:
    return {student: Comparison(**entry) for student, entry in table.items()}


def compare(claimed: Mapping[int, float], measured: Mapping[int, float], better: str, tests: int = 1) -> Comparison:
    """One student's re-trained runs beside the claimed ones.

    Args:
        claimed, measured: seed -> value; neither is empty.
        better: ``higher`` or ``lower``: which side is ``above``.
        tests: comparisons of the row, for Bonferroni's correction.

    """
    ours, theirs = fmean(measured.values()), fmean(claimed.values())
    half = _half_width(list(claimed.values()), list(measured.values()), tests)
    if all(claimed.get(seed) == value for seed, value in measured.items()):
        verdict = "identical"
    elif abs(ours - theirs) <= (half or 0.0) + TOLERANCE:
        verdict = "within"
    else:
        verdict = "above" if (ours > theirs) == (better == "higher") else "below"
    return Comparison(
        claimed=theirs,
        measured=ours,
        low=None if half is None else theirs - half,
        high=None if half is None else theirs + half,
        n=len(measured),
        verdict=verdict,
    )


def compare_stated(claimed: Statistics, measured: Statistics, better: str) -> Comparison:
    """A number whose interval is a bootstrap's beside its repetition.

    Within: the claim lies in the *repetition's* interval, so that no row can widen its own.
    """
    ours, theirs = measured["mean"], claimed["mean"]
    low, high = (measured["low"], measured["high"])
    low, high = min(ours, ours if low is None else low), max(ours, ours if high is None else high)
    if ours == theirs:
        verdict = "identical"
    elif low - TOLERANCE <= theirs <= high + TOLERANCE:
        verdict = "within"
    else:
        verdict = "above" if (ours > theirs) == (better == "higher") else "below"
    # a repetition whose interval just holds the claim: as far below it as the interval goes up, and the other way round
    bounds = theirs + ours - high, theirs + ours - low
    return Comparison(claimed=theirs, measured=ours, low=bounds[0], high=bounds[1], n=measured["n"], verdict=verdict)


def _half_width(claimed: Sequence[float], measured: Sequence[float], tests: int) -> float | None:
    known = measured if len(measured) > 1 else claimed
    if len(known) < 2:
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(known) - 1, 1 - (1 - LEVEL) / (2 * tests)))
    return quantile * stdev(known) * math.sqrt(1 / len(claimed) + 1 / len(measured))


def make_verification(
    result: Result,
    runs: Sequence[Run],
    measured: Sequence[str] = (),
    *,
    device: str,
    threads: int,
    at_once: int,
    versions: Mapping[str, str],
    tasks: Mapping[str, TaskInfo] | None = None,
) -> Verification:
    """The verification of a row.

    Args:
        runs: re-trained runs, as ``runs`` of a result; every student of the row is among them.
        measured: metrics of the row that were measured again, of :func:`ddbench.leaderboard.columns.repeated`; each
            run has those that its student has in the row.
        tasks: tasks of the row, done again.
        device: as :func:`ddbench.runtime.device.describe`.
    """
    metrics = (result.main_metric, *measured)
    own = [
        replace(
            run,
            metrics={
                name: run.metrics[name] for name in metrics if name in run.metrics and result.values(run.student, name)
            },
        )
        for run in sorted(runs, key=lambda run: (run.student, run.seed))
    ]
    tables = _tables(result, own, measured, tasks or {})
    again = {
        name: TaskAgain(units=task.units, summary=task.summary, compared=tables["tasks"][name])
        for name, task in (tasks or {}).items()
    }
    return Verification(
        result=result.id,
        metric=metrics[0],
        runs=tuple(own),
        device=device,
        threads=threads,
        at_once=at_once,
        versions=dict(versions),
        verdict=tables["verdict"],
        students=tables["students"],
        measured=tables["measured"],
        seeds=tables["seeds"],
        tasks=again or None,
    )


def _tables(result: Result, runs: Sequence[Run], measured: Sequence[str], tasks: Mapping[str, TaskInfo]) -> Tables:
    """What follows from the runs; every student of the row is in them, with every metric that it has in the row."""
    main = result.main_metric
    pairs = [
        (metric, student)
        for metric in (main, *measured)
        for student in result.students
        if result.values(student, metric)
    ]
    tests = len(pairs) + sum(len(task.metrics) for task in tasks.values())
    found: dict[str, dict[str, Comparison]] = {metric: {} for metric in (main, *measured)}
    for metric, student in pairs:
        if not all(metric in run.metrics for run in runs if run.student == student):
            lacking = f"row {result.id}: {metric} of {student} does not come of every network trained again"
            raise UserError(f"{lacking}; verify the row without --measured")
        found[metric][student] = compare(
            result.values(student, metric),
            {run.seed: run.metrics[metric] for run in runs if run.student == student},
            result.metrics[metric].better,
            tests,
        )
    own = found.pop(main)
    again = {name: _task_table((result.tasks or {})[name], task, tests) for name, task in tasks.items()}
    verdicts = {entry.verdict for table in (own, *found.values(), *again.values()) for entry in table.values()}
    return {
        "verdict": next(verdict for verdict in VERDICTS if verdict in verdicts),
        "students": own,
        "measured": found,
        "seeds": min(entry.n for entry in own.values()),
        "tasks": again,
    }


def _task_table(claimed: TaskInfo, again: TaskInfo, tests: int) -> dict[str, Comparison]:
    """Metric -> claimed beside repeated."""
    found = {}
    for metric, described in claimed.metrics.items():
        if claimed.is_stated(metric):
            found[metric] = compare_stated(claimed.summary[metric], again.summary[metric], described.better)
        else:
            found[metric] = compare(claimed.values(metric), again.values(metric), described.better, tests)
    return found


def check_verification(data: Any, result: Result, where: str) -> Verification:
    """Check the JSON of a verification against its row and read it.

    Raises:
        UserError: another kind or a newer schema, of another row, a run named twice or of a student that the row does
            not have, or numbers that do not follow from the runs and the row.
    """
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UserError(f"{where}: not a verification; `ddbench leaderboard verify` writes one")
    version = data.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise UserError(f"{where}: schema {version} was made by a newer ddbench (this one reads {SCHEMA}): upgrade")
    odd = (set(data) - {"tasks"}).symmetric_difference(FIELDS)
    wrong = sorted(odd or {name for name, kind in FIELDS.items() if type(data[name]) is not kind})
    if wrong:
        raise UserError(f"{where}: field {wrong[0]!r} is missing, malformed or unknown; verify the row again")
    check_text(data, where)
    metric = result.main_metric
    if data["result"] != result.id or data["metric"] != metric:
        raise UserError(f"{where}: verifies {data['metric'][:40]} of {data['result'][:40]}, not of {result.id}")
    _check_facts(data, where)
    unknown = sorted(data["measured"].keys() - ((set(repeated(HEADLINE)) & set(result.metrics)) - {metric}))
    if unknown:
        raise UserError(
            f"{where}: measures {unknown[0][:40]!a} again, which the row does not have; verify the row again"
        )
    measured = sorted(data["measured"])
    _check_runs(data["runs"], result, measured, where)
    tasks = _check_tasks(data.get("tasks", {}), result, where)
    tables = _tables(result, [Run(**run) for run in data["runs"]], measured, tasks)
    told = {**data, "tasks": {name: one["compared"] for name, one in data.get("tasks", {}).items()}}
    if any(not same(told[name], plain(value)) for name, value in tables.items()):
        raise UserError(f"{where}: its verdict does not follow from its runs and the row; verify the row again")
    return Verification.from_json(data)


def _check_tasks(data: Any, result: Result, where: str) -> dict[str, TaskInfo]:
    """Tasks done again, each with the metrics and the kind of units that the row's has."""
    found: dict[str, TaskInfo] = {}
    for name, one in data.items() if isinstance(data, dict) else [("", None)]:
        claimed, wrong = result.task(name), f"{where}: task {str(name)[:40]!a} is malformed; verify the row again"
        if claimed is None or not isinstance(one, dict) or one.keys() != {"units", "summary", "compared"}:
            raise UserError(wrong)
        own = {**plain(claimed), "units": one["units"], "summary": one["summary"]}
        if not isinstance(one["compared"], dict) or not fits_task(own):
            raise UserError(wrong)
        found[name] = TaskInfo.from_json(own)
        check_task(found[name], f"{where}: task {name}")
        if any(claimed.is_stated(metric) != found[name].is_stated(metric) for metric in claimed.metrics):
            raise UserError(wrong)
    return found


def _check_facts(data: Mapping[str, Any], where: str) -> None:
    counts = (data["threads"], data["at_once"])
    versions = data["versions"]
    if (
        not 0 < len(data["device"]) <= 200
        or not all(1 <= count <= 2**20 for count in counts)
        or len(versions) > 50
        or not all(isinstance(text, str) and len(name) <= 60 and len(text) <= 200 for name, text in versions.items())
    ):
        raise UserError(f"{where}: device, threads, at_once or versions are malformed; verify the row again")


def _check_runs(runs: list[Any], result: Result, measured: Sequence[str], where: str) -> None:
    metrics = (result.main_metric, *measured)
    had = {student: {name for name in metrics if result.values(student, name)} for student in result.students}
    seen: set[tuple[str, int]] = set()
    for run in runs:
        good = isinstance(run, dict) and run.keys() == {"student", "seed", "metrics"}
        good = good and isinstance(run["student"], str) and run["student"] in had
        good = good and type(run["seed"]) is int and 0 <= run["seed"] < 2**53
        good = good and isinstance(run["metrics"], dict) and run["metrics"].keys() == had[run["student"]]
        if not good or not all(_fits(value, result.metrics[name]) for name, value in run["metrics"].items()):
            raise UserError(f"{where}: run {str(run)[:80]!a} is malformed; verify the row again")
        if (run["student"], run["seed"]) in seen:
            raise UserError(f"{where}: run of {run['student']} with seed {run['seed']} is there twice")
        seen.add((run["student"], run["seed"]))
    missing = had.keys() - {student for student, _ in seen}
    if missing:
        raise UserError(f"{where}: no run of {min(missing)}, which the row has; verify the row again")


def _fits(value: Any, described: Metric) -> bool:
    """Whether it is a finite number, and a fraction where it should be one."""
    good = type(value) in (int, float) and math.isfinite(value) and abs(value) <= 1e300
    return good and (described.unit != "fraction" or 0 <= value <= 1)


def write_verification(root: Path, result: Result, verification: Verification) -> Path:
    """Check and write a verification beside its row; returns its file.

    Raises:
        UserError: the row is gone, refused by :func:`check_verification`, or the folder cannot be written to.
    """
    path = verification_path(root, result)
    if not (root / result_path(result)).is_file():
        raise gone(root / result_path(result))
    content = verification.to_json()
    check_verification(content, result, str(path))
    write_json(path, content)
    return path


def read_verification(path: Path, result: Result) -> Verification:
    """Read and check the verification of a row.

    Raises:
        UserError: missing, larger than 1 MiB, not JSON, or refused by :func:`check_verification`.
    """
    return check_verification(read_json(path, "verification", MAX_RESULT_BYTES), result, str(path))


def load_verifications(root: Path, results: Sequence[Result] | None = None) -> dict[str, Verification]:
    """Result id -> verification, of every ``results/**/*.verified.json`` of a board.

    Args:
        results: the board's rows where they were read already (``load_results``), so that none is read twice.

    Raises:
        UserError: a file is refused, or its row is not beside it.
    """
    known = {root / result_path(result): result for result in results or ()}
    found = {}
    for path in sorted((root / RESULTS).rglob(f"*{SUFFIX}")):
        row = path.with_name(path.name.removesuffix(SUFFIX) + ".json")
        result = known.get(row)
        if result is None:
            if not row.is_file():
                raise UserError(f"{path}: verifies a row that is not there ({row.name}); remove it")
            result = read_result(row)
        found[result.id] = read_verification(path, result)
    return found
