"""The grid of architectures that ``nas`` draws from, and the file of their real rankings. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddbench.networks.check import check_student
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, read_json, text_hash, write_json
from ddbench.runtime.signs import turn

WIDTHS, DEPTHS = (32, 64, 128, 256), (1, 2, 3, 4)
NORMS, ACTIVATIONS, POOLINGS = ("nn", "bn", "ln", "in", "gn"), ("sigmoid", "relu", "leaky"), ("none", "max", "avg")

KIND = "ddbench-rankings"
REAL = "real"
"""Label of what is trained on real images."""


def trained_unit(label: str, net: str, seed: int) -> str:
    """Name of the unit that trains a network for a label."""
    return f"{label} {net} seed {seed}"


def grid(widest: int = WIDTHS[-1]) -> list[str]:
    """The field's 720 ConvNets, by name: widths, depths, norms, activations, poolings; those up to a width."""
    found = []
    for width, depth, norm, activation, pooling in itertools.product(WIDTHS, DEPTHS, NORMS, ACTIVATIONS, POOLINGS):
        if width <= widest:
            ends = [part for part, usual in ((activation, "relu"), (pooling, "avg")) if part != usual]
            found.append("-".join([f"convnet-d{depth}-w{width}-{norm}", *ends]))
    return found


def fitting(names: list[str], channels: int, size: int) -> list[str]:
    """Those that take images of this shape: too many poolings leave no pixel of small ones."""
    found = []
    for name in names:
        try:
            check_student(name, channels, size)
        except UserError:
            continue
        found.append(name)
    return found


def rankings_path(folder: Path, dataset: str, head: Mapping[str, Any]) -> Path:
    """Where the real rankings of a dataset and a training are."""
    return folder / f"{dataset}-{text_hash(head)[:12]}.json"


def read_rankings(path: Path, head: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Records by unit of networks that were trained on real images; empty where there is no file.

    Raises:
        UserError: another file, or of another training.
    """
    if not path.exists():
        return {}
    found = read_json(path, "file of rankings")
    if not isinstance(found, dict) or found.get("kind") != KIND or not isinstance(found.get("units"), dict):
        raise UserError(f"{path}: not a file of rankings; remove it")
    if canonical_json(found.get("head")) != canonical_json(head):
        raise UserError(f"{path}: its rankings are of another training; remove it")
    for unit, record in found["units"].items():
        if not _is_of_unit(unit, record):
            raise UserError(f"{path}: the record of {unit!r:.80} is malformed; remove the file")
    return {str(unit): dict(record) for unit, record in found["units"].items()}


def _is_of_unit(unit: str, record: Any) -> bool:
    """Whether a record is that of the unit that it stands under: what is read goes by what the record says."""
    if not isinstance(record, dict) or {type(record.get(name)) for name in ("seed", "steps")} != {int}:
        return False
    accuracies: list[Any] = [record.get(name) for name in ("held_out", "test")]
    within = all(type(one) in (int, float) and 0 <= one <= 1 for one in accuracies)
    named = trained_unit(REAL, str(record.get("net")), record["seed"])
    return within and record.get("run") == REAL and record["steps"] > 0 and unit == named


def write_rankings(path: Path, head: Mapping[str, Any], units: Mapping[str, Mapping[str, Any]]) -> None:
    """Add records to the file; those that another task adds meanwhile stay."""
    if all(unit in read_rankings(path, head) for unit in units):
        return
    with turn(path, "file of rankings"):
        write_json(path, {"kind": KIND, "head": dict(head), "units": {**read_rankings(path, head), **units}})
