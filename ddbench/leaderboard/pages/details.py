"""What an opened row of the page shows of its results, as plain data that JSON can carry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddbench.evaluation.ddranking.definitions import SCORES, TITLES, UNITS
from ddbench.leaderboard.columns import SHORT
from ddbench.leaderboard.commands import commands
from ddbench.leaderboard.coverage import checked
from ddbench.leaderboard.images import published_size
from ddbench.leaderboard.kept import Marks
from ddbench.leaderboard.pages.view import bytes_text, number_text, seconds_text, statistics_text
from ddbench.leaderboard.result import CodeInfo, Cost, Costs, Result, plain
from ddbench.leaderboard.rows import FULL, Cell, Row
from ddbench.leaderboard.schema import result_path
from ddbench.leaderboard.verification import Comparison, Verification
from ddbench.modalities import modality
from ddbench.statistics import corruption_errors, range_words

DIGITS = 5
BYTES = ("images", "labels", "augmentation", "teacher", "other", "total", "real")


class Pool:
    """Texts that stand more than once in a row, kept once; in their places are their numbers."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def put(self, text: str) -> int:
        """The number of a text."""
        return self.texts.setdefault(text, len(self.texts))

    def json(self, value: Any) -> int:
        """The number of a value's indented JSON."""
        return self.put(json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False))


def rounded(value: Any) -> Any:
    """The value with all its floats to five significant digits."""
    if isinstance(value, float):
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return value


def exact(value: float) -> float:
    """The very number, written as :func:`rounded` writes it where that is the same."""
    short: float = rounded(value)
    return short if short == value else value


def row_details(
    cell: Cell,
    row: Row,
    root: Path,
    verifications: Mapping[str, Verification],
    pool: Pool,
    marks: Marks | None = None,
) -> dict[str, Any]:
    """Everything that an opened row shows: its results, and the ones that they superseded.

    Args:
        root: of the board, to see which files lie beside a result.
        marks: previews that need no second look.

    Raises:
        UserError: a preview is refused.
    """
    full = next((one.first for one in cell.rows if one.reference == FULL), None)
    return {
        "results": [
            result_details(result, root, verifications.get(result.id), pool, full, marks) for result in row.results
        ],
        "earlier": [_earlier(cell, result) for result in row.earlier],
    }


def result_details(
    result: Result,
    root: Path,
    verification: Verification | None,
    pool: Pool,
    full: Result | None,
    marks: Marks | None = None,
) -> dict[str, Any]:
    """One result: who and what, every single run, pooled curves, recipe, cost, commands, verification.

    Args:
        full: the result of all real data in the same table, which errors under corruption are compared with.

    Raises:
        UserError: its preview is refused.
    """
    synset, said = result.synset, result.submission
    path = result_path(result)
    beside = path.with_suffix(".synset.safetensors")
    picture = root / path.with_suffix(".png")
    found = {
        "id": result.id,
        "path": path.as_posix(),
        "picture": [path.with_suffix(".png").as_posix(), *published_size(picture, marks)] if picture.is_file() else [],
        "synset": beside.as_posix() if (root / beside).is_file() else said.synset_url or "",
        "sha256": synset.sha256,
        "fixed": result.fixed or None,
        "title": said.method_title,
        "authors": list(said.authors),
        "links": list(said.links),
        "code": said.code,
        "licence": said.licence,
        "note": said.note,
        "claims": _claims(result),
        "facts": _facts(result),
        "bytes": [[part, count] for part in BYTES if (count := getattr(synset.bytes, part))],
        "cost": _costs(result.cost),
        "runs": _runs(result, pool),
        "curves": _curves(result, full),
        "measured": [[name, pool.json(settings)] for name, settings in sorted((result.measured or {}).items())],
        "scores": _scores(result, pool),
        "tasks": _tasks(result, pool),
        "commands": commands(result),
        "recipe": pool.json(result.recipe or synset.config),
        "settings": pool.json(result.protocol.settings),
        "preprocess": pool.json(synset.preprocess),
        "made": pool.put(_made(result)),
        "verification": None if verification is None else _verification(result, verification),
    }
    return {name: part for name, part in found.items() if part not in ("", None, [], {})}


def _curves(result: Result, full: Result | None) -> dict[str, Any]:
    """Student -> what is drawn of it."""
    wanted = ("reliability", "reliability_scaled", "corruptions", "masking_warnings")
    curves = {}
    for student, own in sorted((result.details or {}).items()):
        curves[student] = {name: rounded(own[name]) for name in wanted if own.get(name)}
        if own.get("robustness"):
            fields = ("attack", "norm", "eps", "value", "accuracy")
            curves[student]["robustness"] = [[rounded(point[field]) for field in fields] for point in own["robustness"]]
        errors = None if full is None or full is result else _corruption_errors(result, full, student)
        if errors:
            curves[student]["corruption_errors"] = rounded(errors)
    return curves


def _corruption_errors(result: Result, full: Result, student: str) -> dict[str, float] | None:
    """CE of each type relative to the same student trained on all real data, where both were measured alike."""
    settings = [
        {name: value for name, value in one.measured_as("corruptions").items() if name != "reference"}
        for one in (result, full)
    ]
    tables = [one.details_of(student).get("corruptions", {}) for one in (result, full)]
    if settings[0] != settings[1] or not all(tables) or not tables[0].keys() <= tables[1].keys():
        return None
    return corruption_errors(tables[0], tables[1])


def _facts(result: Result) -> list[list[str]]:
    synset, protocol = result.synset, result.protocol
    rate = synset.learned_lr
    decoded = synset.decoded_images
    more = f", decoded to {decoded:,}" if decoded != synset.images else ""
    facts = [
        ["Synset", modality(synset.modality).words(synset.images, synset.shape) + more],
        ["Classes", f"{synset.classes:,}"],
        ["Distilled on", result.distilled_on or ""],
        ["Synset seed", str(synset.seed)],
        ["Learned rate", "" if rate is None else f"{rate:.4g}"],
        ["Changed", ", ".join(f"{name} = {json.dumps(v)}" for name, v in sorted(protocol.changed.items()))],
    ]
    return [fact for fact in facts if fact[1]]


def _made(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    return f"{versions}; {result.precision}, {threads}{_code(result.code)}"


def _code(code: CodeInfo | None) -> str:
    """What code distilled it, in words; nothing for rows that do not say it."""
    if code is None:
        return ""
    tries = []
    for one in (code, *(code.also or ())):
        commit = f" at {one.commit[:12]}" if one.commit else ""
        tries.append(f"ddbench {one.version}{commit}{' with changes' if one.dirty else ''}")
    file = f", method file {code.method_file[:12]}" if code.method_file else ""
    return f"; distilled by {', then '.join(tries)}{file}"


def _claims(result: Result) -> list[list[str]]:
    """Student, metric, what is claimed, what was measured, source."""
    rows = []
    for claim in result.submission.claims:
        described = result.metrics[claim.metric]
        ours = result.statistics[claim.student].get(claim.metric)
        rows.append(
            [
                claim.student,
                described.title,
                number_text(claim.value, described.unit),
                statistics_text(ours, described.unit) if ours else "",
                claim.source,
            ]
        )
    return rows


def _runs(result: Result, pool: Pool) -> list[list[Any]]:
    """A student, then its metrics: title, summary, unit, and ``[seed, value]`` of every run; the main metric first.

    Its values are not rounded: the page tells by them whether two rows differ.
    """
    main = result.main_metric
    table = []
    for student in result.students:
        metrics = []
        for metric in sorted(result.statistics[student], key=lambda name: (name != main, name)):
            described = result.metrics[metric]
            metrics.append(
                [
                    pool.put(described.title),
                    statistics_text(result.statistics[student][metric], described.unit),
                    pool.put(described.unit),
                    [
                        [seed, exact(value) if metric == main else rounded(value)]
                        for seed, value in sorted(result.values(student, metric).items())
                    ],
                ]
            )
        table.append([student, metrics])
    return table


def _scores(result: Result, pool: Pool) -> dict[str, Any] | None:
    scores = result.scores
    if scores is None:
        return None
    lines = []
    for name in SCORES:
        lines.append([pool.put(TITLES[name]), statistics_text(scores.summary[name], UNITS[name])])
    said = f"{scores.student}, {len(scores.repeats)} repeats, weight {scores.weight:g}"
    said += f", random images with {scores.random_labels} labels"
    said += ", hard labels with augmentation" if scores.hard_augmentation else ""
    return {"how": said + ("" if scores.standard else ", non-standard"), "lines": lines}


def _tasks(result: Result, pool: Pool) -> list[list[Any]]:
    """Each task: its name, what its intervals are over, its numbers, what it asked."""
    found: list[list[Any]] = []
    for name, task in sorted((result.tasks or {}).items()):
        beside = ", ".join(f"{key} {json.dumps(value)}" for key, value in task.beside.items())
        how = f"{task.question['student']}, intervals over {task.over}s{f'; {beside}' if beside else ''}"
        numbers = [
            [pool.put(one.title), statistics_text(task.summary[metric], one.unit)]
            for metric, one in task.metrics.items()
        ]
        found.append([name, how, numbers, pool.json(plain(task.question))])
    return found


def _costs(costs: Costs) -> list[list[str]]:
    return [["Distillation", cost_text(costs.distill)], ["Evaluation", cost_text(costs.evaluate)]]


def cost_text(cost: Cost | None) -> str:
    """Device and time of a stage in one line."""
    if cost is None:
        return "not recorded"
    said = [cost.device, f"{seconds_text(cost.cpu_seconds)} CPU", f"{seconds_text(cost.wall_seconds)} wall"]
    if cost.cores is not None:
        said.insert(1, f"{cost.cores} cores")
    if cost.peak_memory_bytes is not None:
        said.append(f"peak memory {bytes_text(cost.peak_memory_bytes)}")
    if cost.peak_gpu_memory_bytes is not None:
        said.append(f"of the GPU {bytes_text(cost.peak_gpu_memory_bytes)}")
    return ", ".join(said)


def _earlier(cell: Cell, result: Result) -> list[str]:
    """Id, file and numbers of a superseded result."""
    unit = cell.described.unit
    numbers = [
        f"{student} {statistics_text(own[cell.metric], unit)}"
        for student, own in sorted(result.statistics.items())
        if cell.metric in own
    ]
    return [result.id, result_path(result).as_posix(), ", ".join(numbers)]


def _verification(result: Result, found: Verification) -> dict[str, Any]:
    """Verdict, where it was made, and claimed against measured for each student and metric."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(found.versions.items()))
    tables = {found.metric: found.students, **found.measured}
    return {
        "verdict": found.verdict,
        **({"extent": extent} if (extent := checked(result, found).extent) else {}),
        "by": f"{found.device}; {versions}",
        "students": [
            [
                student if metric == found.metric else f"{student}, {SHORT.get(metric, metric)}",
                number_text(one.claimed, unit),
                number_text(one.measured, unit),
                _bounds(one, unit),
                str(one.n),
                one.verdict,
            ]
            for metric, table in sorted(tables.items(), key=lambda entry: entry[0] != found.metric)
            for unit in [result.metrics[metric].unit]
            for student, one in sorted(table.items())
        ]
        + [
            [
                f"{task}, {SHORT.get(metric, metric)}",
                number_text(one.claimed, unit),
                number_text(one.measured, unit),
                _bounds(one, unit),
                str(one.n),
                one.verdict,
            ]
            for task, again in sorted((found.tasks or {}).items())
            for metric, one in again.compared.items()
            for unit in [(result.tasks or {})[task].metrics[metric].unit]
        ],
    }


def _bounds(one: Comparison, unit: str) -> str:
    return range_words(one.low, one.high, lambda value: number_text(value, unit), unit)
