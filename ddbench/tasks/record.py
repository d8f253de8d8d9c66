"""The result file of a task: its schema, and the checks when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, read_json
from ddbench.tasks import task_class

KIND = "ddbench-task"
SCHEMA = 1
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError)
"""What comes of records that are not of the task."""
_TEXT = {"type": "string", "maxLength": 200}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}

ENVELOPE: dict[str, Any] = {
    "type": "object",
    "required": ["kind", "schema", "task", "head", "units", "results"],
    "additionalProperties": False,
    "properties": {
        "kind": {"const": KIND},
        "schema": {"const": SCHEMA},
        "task": _TEXT,
        "head": {
            "type": "object",
            "required": [
                *("config", "dataset", "decides", "precision", "protocol", "runs", "seeds", "student"),
                *("threads", "versions"),
            ],
            "additionalProperties": False,
            "properties": {
                "config": {"type": "object"},
                "dataset": {
                    "type": "object",
                    "required": ["name", "fingerprint", "size"],
                    "properties": {"name": _TEXT, "fingerprint": _SHA256, "size": {"type": "integer"}},
                    "additionalProperties": False,
                },
                "decides": {"type": "object"},
                "device": _TEXT,
                "precision": {"enum": ["float32", "bfloat16"]},
                "protocol": {
                    "type": "object",
                    "required": ["name", "hash", "changed"],
                    "properties": {"name": _TEXT, "hash": _TEXT, "changed": {"type": "object"}},
                    "additionalProperties": False,
                },
                "runs": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["label", "sha256", "method"],
                        "properties": {"label": _TEXT, "sha256": _SHA256, "method": _TEXT, "needs": {"type": "object"}},
                        "additionalProperties": False,
                    },
                },
                "seeds": {"type": "integer", "minimum": 1},
                "student": _TEXT,
                "threads": {"type": "integer", "minimum": 1},
                "versions": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
        "units": {"type": "object", "additionalProperties": {"type": "object"}},
        "results": {"type": "object"},
    },
}
"""JSON Schema (Draft 2020-12) of every task's file; what ``results`` holds is the task's own."""


def check_result(place: Path, value: Any) -> dict[str, Any]:
    """A result that has the shape, all units that its question asks for, and ``results`` that follow from them.

    Args:
        place: where it is, for the message.

    Raises:
        UserError: names the first part that is wrong.
    """
    version = value.get("schema") if isinstance(value, dict) and value.get("kind") == KIND else None
    if isinstance(version, int) and version > SCHEMA:
        raise UserError(f"{place}: schema {version} was made by a newer ddbench: upgrade")
    _fits(place, value, ENVELOPE, "")
    kind = task_class(value["task"])
    _fits(place, value["results"], {"type": "object", **kind.schema}, "results.")
    try:
        missing = next((name for name in kind.wanted(value["head"]) if name not in value["units"]), None)
        again = None if missing else json.loads(canonical_json(kind.results(value["head"], value["units"])))
    except MALFORMED as error:
        raise UserError(f"{place}: its units are malformed ({error!r:.80}); remove it and repeat the task") from None
    if missing:
        raise UserError(f"{place}: {missing!r:.120} is missing among its units; remove it and repeat the task")
    if not _same(again, value["results"]):
        raise UserError(f"{place}: its results do not follow from its units; remove it and repeat the task")
    found: dict[str, Any] = value
    return found


def read_result(path: Path) -> dict[str, Any]:
    """Read and check a task's result file.

    Raises:
        UserError: missing, no JSON, another shape, or results that do not follow from the units.
    """
    return check_result(path, read_json(path, "result of a task"))


def extended(place: Path, old: Mapping[str, Any], head: Mapping[str, Any], grows: Sequence[str]) -> None:
    """See that a head asks what another one does, for the same runs and seeds or more.

    Args:
        grows: parts of which there may be more (:attr:`ddbench.tasks.base.Task.grows`).

    Raises:
        UserError: names what differs.
    """
    wanted = json.loads(canonical_json(head))
    for name in sorted({*wanted, *({"device"} & set(old))}):
        if name not in grows and old.get(name) != wanted.get(name):
            raise UserError(f"{place} answers another question ({name} differs); remove it or choose another --out")
    if old["seeds"] > wanted["seeds"]:
        raise UserError(f"--seeds {wanted['seeds']}: {place} has {old['seeds']}; give as many, or choose another --out")
    for run in old["runs"]:
        if run not in wanted["runs"]:
            raise UserError(f"{place} has the run {run['label']} too: name it as well, or choose another --out")


def _fits(place: Path, value: Any, schema: Mapping[str, Any], where: str) -> None:
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(value):
        at = where + ".".join(map(str, error.absolute_path))
        raise UserError(f"{place}: no result of a task: {at or 'the whole'}: {error.message:.120}")


def _same(one: Any, other: Any) -> bool:
    """Equal JSON, numbers up to rounding: another scipy may compute the last bits otherwise."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    numbers = (int, float)
    if isinstance(one, numbers) and isinstance(other, numbers) and not isinstance(one, bool):
        return abs(one - other) <= 1e-9 * max(1.0, abs(one), abs(other))
    return bool(one == other)
