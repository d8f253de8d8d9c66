"""A distilled set of trees as a file: safetensors with one JSON header, checked before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddbench.graphs.graphset import Ints, offsets
from ddbench.graphs.mirage import TreePayload
from ddbench.graphs.trees import MAX_TREE_NODES, Trees
from ddbench.runtime.errors import UserError
from ddbench.runtime.tensors import check_tensor, open_tensors, write_tensors

KIND = "ddbench-trees"
SCHEMA = 1
TYPES = ("U8", "I8", "U16", "I16", "U32", "I32", "I64")
TABLES = ("tree_labels", "tree_edge_labels")
"""Arrays of two dimensions; all others have one."""

MAX_SIZE = 2**20
"""Different labels of a column, and classes, at most: a student has a row of weights for each."""


def write_trees(path: Path, payload: TreePayload) -> None:
    """Write a distilled set; the same set gives the same bytes.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    header = {
        "kind": KIND,
        "schema": SCHEMA,
        "name": payload.name,
        "classes": payload.classes,
        "node_sizes": list(payload.node_sizes),
        "edge_sizes": list(payload.edge_sizes),
        "depth": payload.depth,
        "degree_labels": payload.degree_labels,
        "thresholds": list(payload.thresholds),
    }
    write_tensors(path, {name: torch.from_numpy(values) for name, values in payload.packed().items()}, header)


def read_trees(path: Path) -> TreePayload:
    """Read what :func:`write_trees` wrote.

    Raises:
        UserError: no such file, another kind, cut, or arrays that do not fit together: a size, a parent, a label, a
            tree or a class out of range.
    """
    with open_tensors(path, KIND, SCHEMA) as (handle, header):
        facts = _facts(path, header)
        arrays = {}
        for name in _NAMES:
            shape = check_tensor(path, handle, name, TYPES, 2 if name in TABLES else 1)
            if shape[0] > MAX_TREE_NODES:
                raise UserError(f"{path}: {name} has {shape[0]:,} rows, expected at most {MAX_TREE_NODES:,}")
            arrays[name] = handle.get_tensor(name).to(torch.int64).numpy()
    sizes = _sized(path, "tree_sizes", arrays["tree_sizes"], arrays["tree_parents"])
    ptr, item_ptr = offsets(sizes), offsets(_sized(path, "item_sizes", arrays["item_sizes"], arrays["items"]))
    rows = {name: len(arrays[name]) for name in ("tree_parents", "tree_labels", "tree_edge_labels", "tree_degrees")}
    if len(set(rows.values())) > 1 or len({len(arrays[name]) for name in ("item_sizes", "support", "labels")}) > 1:
        raise UserError(f"{path}: arrays of different lengths: {rows}; the file is damaged")
    number = np.arange(len(arrays["tree_parents"])) - np.repeat(ptr[:-1], sizes)
    roots = number == 0
    before = np.where(roots, 1, number)  # a parent stands before its children; a root's is itself
    _within(path, "tree_parents", arrays["tree_parents"], before)
    _within(path, "tree_degrees", arrays["tree_degrees"], np.array(MAX_TREE_NODES))
    _within(path, "tree_labels", arrays["tree_labels"], np.array(facts["node_sizes"], dtype=np.int64))
    _within(path, "tree_edge_labels", arrays["tree_edge_labels"], np.array(facts["edge_sizes"], dtype=np.int64))
    _within(path, "items", arrays["items"], np.array(len(sizes)))
    _within(path, "labels", arrays["labels"], np.array(facts["classes"]))
    if (arrays["support"] < 1).any():
        raise UserError(f"{path}: a support below 1; the file is damaged")
    trees = Trees(
        ptr, arrays["tree_labels"], arrays["tree_parents"], arrays["tree_edge_labels"], arrays["tree_degrees"]
    )
    return TreePayload(
        trees=trees,
        item_ptr=item_ptr,
        items=arrays["items"],
        support=arrays["support"],
        labels=arrays["labels"],
        **facts,
    )


_NAMES = (
    "tree_sizes",
    "tree_labels",
    "tree_parents",
    "tree_edge_labels",
    "tree_degrees",
    "item_sizes",
    "items",
    "support",
    "labels",
)


def _facts(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """What the header says, each of the type and in the range that it must have."""
    made: dict[str, Any] = {}
    for name, least, most in (("classes", 2, MAX_SIZE), ("depth", 0, 8)):
        made[name] = _number(path, name, header.get(name), least, most)
    for name in ("node_sizes", "edge_sizes", "thresholds"):
        values = header.get(name)
        if not isinstance(values, list):
            raise UserError(f"{path}: {name} is {values!r:.60}, expected a list; the file is damaged")
        made[name] = tuple(_number(path, name, value, 1, MAX_SIZE) for value in values)
    for name, kind in (("degree_labels", bool), ("name", str)):
        if not isinstance(header.get(name), kind):
            raise UserError(f"{path}: {name} is {header.get(name)!r:.60}, expected {kind.__name__}; it is damaged")
        made[name] = header[name]
    return made


def _number(path: Path, name: str, value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{path}: {name} {value!r:.60}, expected {least} to {most:,}; the file is damaged")
    return value


def _sized(path: Path, name: str, sizes: Ints, pieces: Ints) -> Ints:
    if not len(sizes) or (sizes < 1).any() or int(sizes.sum()) != len(pieces):
        raise UserError(f"{path}: {name} do not add up to {len(pieces)}; the file is damaged")
    return sizes


def _within(path: Path, name: str, values: Ints, below: Ints) -> None:
    """Refuse values that are not from 0 to below some number (of all, of a column, or of each)."""
    if values.ndim == 2 and values.shape[1] != len(below):
        raise UserError(f"{path}: {name} has {values.shape[1]} columns, expected {len(below)}; the file is damaged")
    wrong = (values < 0) | (values >= below)
    if wrong.any():
        raise UserError(f"{path}: {name} holds {int(values[wrong][0])}, which is out of range; the file is damaged")
