"""The result file: one row of the board as one JSON, checked on write and on read.

The shape is a JSON Schema (``result.schema.json``, Draft 2020-12); what a schema cannot say is checked here: runs are
unique, the summary follows from them, and the id is the hash of the content.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddbench.leaderboard.compiled import compile_schema
from ddbench.leaderboard.consistency import check_label_kind, check_scores, check_task, protocol_of, same
from ddbench.leaderboard.kept import Kept, Marks, digest
from ddbench.leaderboard.result import KIND, SCHEMA, Metric, Result, Run, plain
from ddbench.modalities import MODALITIES
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, json_of, read_bytes, read_json, text_hash, write_json
from ddbench.statistics import Statistics, summarise

MAX_RESULT_BYTES = 2**20
MAX_PART_BYTES = 2**16
"""Bound on the canonical JSON of each free-form part (config, preprocess, settings, ...)."""
MAX_DEPTH = 32
RESULTS = "results"
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0]"
)
"""Control and direction characters, and those that cannot be seen: text that holds one does not say what it shows.
The joiners U+200C and U+200D and the selectors of variants, which names in some scripts need, are none of them."""


@functools.cache
def _schema() -> Any:
    return json.loads((files("ddbench.leaderboard") / "result.schema.json").read_text(encoding="utf-8"))


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(_schema())


@functools.cache
def _fits() -> Callable[[Any], bool]:
    """Says quickly whether a result has the shape; the validator says why one has not."""
    return compile_schema(_schema())


@functools.cache
def _fits_task() -> Callable[[Any], bool]:
    return compile_schema({"$ref": "#/$defs/task", "$defs": _schema()["$defs"]})


def fits_task(value: Any) -> bool:
    """Whether a JSON value has the shape of one task of a row."""
    return _fits_task()(value)


def is_url(text: str) -> bool:
    """Whether a text is an http(s) address that may become a link: plain host, no user part, no odd characters."""
    rule = _schema()["$defs"]["url"]
    return len(text) <= rule["maxLength"] and re.search(rule["pattern"], text) is not None


def slug(name: str) -> str:
    """A folder name for a dataset or method name (``folder:/a/b c`` -> ``folder-a-b-c``)."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80]


def result_folder(result: Result) -> Path:
    """Where a result lives, relative to the board: ``results/<dataset>/<budget>/<method>``."""
    synset = result.synset
    return Path(RESULTS, slug(synset.dataset), slug(synset.budget.name), slug(synset.method))


def result_path(result: Result) -> Path:
    """The file of a result, relative to the board."""
    return result_folder(result) / f"{result.id}.json"


def result_id(content: Mapping[str, Any]) -> str:
    """First 16 hex digits of the hash of a row's JSON without ``id`` and ``cost``: the numbers are the identity."""
    return text_hash({name: value for name, value in content.items() if name not in ("id", "cost")})[:16]


def check_result(content: Any, where: str) -> Result:
    """Check the JSON of a result in full and read it.

    Args:
        where: the file (or other origin) for the error.

    Raises:
        UserError: newer schema, wrong shape, a value out of range, runs named twice, a summary that does not follow
            from the runs, or an id that is not the hash of the content.
    """
    _check_tree(content, where)
    _check_version(content, where)
    _check_shape(content, where)
    result = Result.from_json(content)
    _check_sizes(result, where)
    if result.synset.modality not in MODALITIES:
        raise UserError(f"{where}: synset.modality {result.synset.modality!r:.60} is none of {', '.join(MODALITIES)}")
    _check_budget(result, where)
    check_label_kind(result.synset, protocol_of(result.protocol, where, result.synset.modality), where)
    _check_numbers(result, where)
    if result.scores is not None:
        check_scores(result.scores, where)
    for name, task in (result.tasks or {}).items():
        check_task(task, f"{where}: tasks.{name}")
    if result.id != result_id(content):
        raise UserError(
            f"{where}: id {result.id} is not the hash of the content ({result_id(content)}): the file was changed "
            f"after `ddbench submit`; submit again"
        )
    return result


def read_result(path: Path) -> Result:
    """Read and check a result file.

    Raises:
        UserError: missing, larger than 1 MiB, not JSON, or refused by :func:`check_result`.
    """
    return check_result(read_json(path, "result file", MAX_RESULT_BYTES), str(path))


def write_result(path: Path, result: Result) -> None:
    """Check a result and write it atomically.

    Raises:
        UserError: refused by :func:`check_result`, larger than 1 MiB, or the folder cannot be written to.
    """
    content = result.to_json()
    check_result(content, str(path))
    size = len(json.dumps(content, indent=1, ensure_ascii=False).encode())
    if size >= MAX_RESULT_BYTES:
        raise UserError(f"{path}: the result would have {size:,} bytes (at most {MAX_RESULT_BYTES:,})")
    write_json(path, content)


def load_results(root: Path) -> list[Result]:
    """Read every ``results/**/*.json`` of a board but the verifications, sorted by path.

    Raises:
        UserError: a file is refused, or is not where its content says it belongs.
    """
    found, marks = [], Kept(root).marks("results")
    for path in sorted((root / RESULTS).rglob("*.json")):
        if path.name.endswith(".verified.json"):  # see ddbench.leaderboard.verification
            continue
        result = _read_marked(path, marks)
        if path.relative_to(root) != result_path(result):
            raise UserError(f"{path}: this result belongs at {root / result_path(result)}; move it there")
        found.append(result)
    marks.keep()
    return found


def _read_marked(path: Path, marks: Marks) -> Result:
    """The same as :func:`read_result`; a content that passed the check is not checked again."""
    data = read_bytes(path, "result file", MAX_RESULT_BYTES)
    key = digest(data)
    if key in marks:
        return Result.from_json(json.loads(data))
    result = check_result(json_of(data, path, "result file"), str(path))
    marks.add(key)
    return result


def check_text(value: Any, where: str) -> None:
    """Refuse any part of a JSON value that holds unseen or control characters, is not finite or nested too deep.

    Raises:
        UserError: names the text.
    """
    _check_tree(value, where)


def _check_tree(value: Any, where: str, place: str = "", depth: int = 0) -> None:
    """Refuse infinities (``1e999``), deep nesting, and in every text what :data:`_UNSEEN` lists."""
    at = f"{where}: {place!a}" if place else where
    if depth > MAX_DEPTH:
        raise UserError(f"{where}: nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for name, part in value.items():
            _check_tree(name, where, place, depth)
            _check_tree(part, where, f"{place}.{name[:60]}" if place else name[:60], depth + 1)
    elif isinstance(value, list):
        for part in value:
            _check_tree(part, where, place, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{at}: {value} is not a finite number")
    elif isinstance(value, str) and (odd := _UNSEEN.search(value)):
        what = "is not valid Unicode text" if "\ud800" <= odd[0] <= "\udfff" else f"holds the character {odd[0]!a}"
        raise UserError(f"{at}: {value[:40]!a} {what}; only text that can be seen is taken")


def _check_version(content: Any, where: str) -> None:
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(f"{where}: not a result file (expected kind {KIND!r}; `ddbench submit RUN` writes one)")
    version = content.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise UserError(f"{where}: schema {version} was made by a newer ddbench (this one reads {SCHEMA}): upgrade")


def _check_shape(content: Any, where: str) -> None:
    if _fits()(content):
        return
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(content))
    if error is not None:
        place = ".".join(str(part)[:60] for part in error.absolute_path) or "the file"
        message = error.message if len(error.message) <= 200 else f"{error.message[:100]} ... {error.message[-90:]}"
        raise UserError(f"{where}: {place!r}: {message}")


def _check_sizes(result: Result, where: str) -> None:
    parts = {
        "synset.config": result.synset.config,
        "synset.preprocess": result.synset.preprocess,
        "protocol.settings": result.protocol.settings,
        "protocol.changed": result.protocol.changed,
        "teacher": result.teacher,
        "labels": result.labels,
        "recipe": result.recipe,
        "measured": result.measured,
        **{f"details.{student}": part for student, part in (result.details or {}).items()},
        **{f"tasks.{name}": plain(task) for name, task in (result.tasks or {}).items()},
        "cost.distill": plain(result.cost.distill),
        "cost.evaluate": plain(result.cost.evaluate),
    }
    for name, part in parts.items():
        size = len(canonical_json(part).encode())
        if size > MAX_PART_BYTES:
            raise UserError(f"{where}: {name} has {size:,} bytes (at most {MAX_PART_BYTES:,})")
    stored = result.synset.bytes
    if stored.total != stored.parts:
        raise UserError(
            f"{where}: synset.bytes.total {stored.total} is not images + labels + augmentation + teacher + other"
        )


def _check_budget(result: Result, where: str) -> None:
    """One budget has one spelling, which names tables and folders; all real data, which needs no file, is ``full``."""
    method, (unit, value) = result.synset.method, (result.synset.budget.unit, result.synset.budget.value)
    if isinstance(value, float) and (unit == "ipc" or value.is_integer()):
        raise UserError(f"{where}: synset.budget.value {value} of {unit}: expected a whole number without a point")
    if unit == "all" and method != "full":
        raise UserError(f"{where}: synset.budget is all real data, but its method is {method}, not full")


def _check_numbers(result: Result, where: str) -> None:
    metrics, main = result.metrics, result.main_metric
    seen: set[tuple[str, int]] = set()
    for run in result.runs:
        name = f"run of {run.student} with seed {run.seed}"
        if (run.student, run.seed) in seen:
            raise UserError(f"{where}: {name} is there twice")
        seen.add((run.student, run.seed))
        if main not in run.metrics:
            raise UserError(f"{where}: {name} has no {main}")
        for metric, value in run.metrics.items():
            _check_metric(metrics, metric, value, f"{where}: {name}")
    for claim in result.submission.claims:
        _check_metric(metrics, claim.metric, claim.value, f"{where}: claim for {claim.student}")
        if claim.student not in result.summary:
            raise UserError(f"{where}: claim for {claim.student}, which was not evaluated")
    for student in result.details or {}:
        if student not in result.summary:
            raise UserError(f"{where}: details of {student}, which was not evaluated")
    if not same(result.summary, summary_of(result.runs)):
        raise UserError(f"{where}: the summary does not follow from the runs; run `ddbench submit` again")


def _check_metric(metrics: Mapping[str, Metric], metric: str, value: float, where: str) -> None:
    if metric not in metrics:
        raise UserError(f"{where}: metric {metric!r} is not described in 'metrics'")
    if metrics[metric].unit == "fraction" and not 0 <= value <= 1:
        raise UserError(f"{where}: {metric} {value} is not a fraction between 0 and 1")


def summary_of(runs: Sequence[Run]) -> dict[str, dict[str, Statistics]]:
    """Statistics of runs: student -> metric -> mean, std, n, low, high."""
    table: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for metric, value in run.metrics.items():
            table.setdefault(run.student, {}).setdefault(metric, []).append(value)
    return {student: {metric: summarise(numbers) for metric, numbers in own.items()} for student, own in table.items()}


def same_subject(result: Result) -> tuple[str, ...]:
    """Two results with the same subject measure the same thing: synset, protocol, altered settings, precision."""
    protocol = result.protocol
    return (
        result.synset.sha256,
        protocol.name,
        protocol.hash,
        canonical_json(protocol.changed),
        result.precision,
    )
