"""What is kept of graphs (trees, whole graphs, references) as arrays and a table of facts, checked before it is used.

Such a form is the content of a synset (:mod:`ddbench.modalities.graph_synset`); trees can be a file of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddbench.graphs.files import MAX_NUMBERS
from ddbench.graphs.graphset import MAX_NODES_PER_GRAPH, GraphSet, Ints, offsets
from ddbench.graphs.mirage import TreePayload
from ddbench.graphs.reference import REFERENCES, Reference
from ddbench.graphs.trees import MAX_TREE_NODES, Trees
from ddbench.runtime.errors import UserError
from ddbench.runtime.tensors import check_tensor, open_tensors, read_finite, write_tensors

KIND = "ddbench-trees"
SCHEMA = 1
TYPES = ("U8", "I8", "U16", "I16", "U32", "I32", "I64")
TREES, WHOLE = "trees", "graphs"
"""Forms; the others are :data:`ddbench.graphs.reference.REFERENCES`."""

MOST_SUPPORT = 2**31 - 1
"""Graphs that a set of trees may be in: sums of supports stay exact."""

Payload = TreePayload | GraphSet | Reference
"""What can be kept."""

TABLES = ("tree_labels", "tree_edge_labels", "node_labels", "edges", "edge_labels")
"""Arrays of two dimensions; all others have one."""

MAX_SIZE = 2**20
"""Different labels of a column, and classes, at most: a student has a row of weights for each."""

MAX_ROWS = 2**26
"""Nodes, edges and graphs at most."""

MAX_COLUMNS = 64
"""Labels of a node or an edge at most."""


def write_trees(path: Path, payload: TreePayload) -> None:
    """Write a distilled set; the same set gives the same bytes.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    header = {"kind": KIND, "schema": SCHEMA, **_tree_facts(payload)}
    write_tensors(path, tensors_of(payload), header)


def _tree_facts(payload: TreePayload) -> dict[str, Any]:
    return {
        **_common(payload),
        "depth": payload.depth,
        "degree_labels": payload.degree_labels,
        "thresholds": list(payload.thresholds),
    }


def _common(payload: Payload) -> dict[str, Any]:
    return {
        "name": payload.name,
        "classes": payload.classes,
        "node_sizes": list(payload.node_sizes),
        "edge_sizes": list(payload.edge_sizes),
    }


def tensors_of(payload: Payload) -> dict[str, torch.Tensor]:
    """The stored arrays; ``labels`` holds the class of each item, in the order of the items."""
    return {name: torch.from_numpy(values) for name, values in payload.packed().items()}


def facts_of(payload: Payload) -> dict[str, Any]:
    """What a header must say of a form beside its arrays: ``form``, and what :func:`read_form` checks."""
    if isinstance(payload, TreePayload):
        return {"form": TREES, **_tree_facts(payload)}
    form = WHOLE if isinstance(payload, GraphSet) else payload.how
    return {"form": form, **_common(payload)}


def read_form(path: Path, handle: Any, facts: Any) -> Payload:
    """Read a form out of an open file; nothing is read before its size was looked at.

    Args:
        facts: as :func:`facts_of`; anything is taken.

    Raises:
        UserError: no known form, or arrays that do not fit together: a size, an end of an edge, a parent, a label, a
            tree or a class out of range, an array too many.
    """
    form = facts.get("form") if isinstance(facts, dict) else None
    readers: dict[Any, Callable[..., Payload]] = {
        TREES: _read_trees,
        WHOLE: _read_graphs,
        **dict.fromkeys(REFERENCES, _read_reference),
    }
    if form not in readers:
        raise UserError(
            f"{path}: form {form!r:.60} of modality 'graph', expected {', '.join(readers)}; or upgrade ddbench"
        )
    made: Payload = readers[form](path, handle, facts)
    odd = set(handle.keys()) - set(made.packed())
    if odd:
        raise UserError(f"{path}: holds {', '.join(sorted(odd))}, which this version does not know: upgrade ddbench")
    return made


def read_trees(path: Path) -> TreePayload:
    """Read what :func:`write_trees` wrote.

    Raises:
        UserError: no such file, another kind, cut, or arrays that do not fit together: a size, a parent, a label, a
            tree or a class out of range.
    """
    with open_tensors(path, KIND, SCHEMA) as (handle, header):
        return _read_trees(path, handle, header)


def _arrays(path: Path, handle: Any, names: tuple[str, ...], most: int) -> dict[str, Ints]:
    """Arrays of whole numbers of an open file, int64, of at most so many rows."""
    arrays, total = {}, 0
    for name in names:
        shape = check_tensor(path, handle, name, TYPES, 2 if name in TABLES else 1)
        if shape[0] > most or (len(shape) > 1 and shape[1] > MAX_COLUMNS):
            raise UserError(f"{path}: {name} has shape {list(shape)}, expected at most {most:,} rows")
        total += math.prod(shape)
        if total > MAX_NUMBERS:
            raise UserError(f"{path}: {total:,} numbers, expected at most {MAX_NUMBERS:,}")
        arrays[name] = handle.get_tensor(name).to(torch.int64).numpy()
    return arrays


def _read_graphs(path: Path, handle: Any, header: dict[str, Any]) -> GraphSet:
    facts = _facts(path, header)
    arrays = _arrays(path, handle, _GRAPH_NAMES, MAX_ROWS)
    counts, edge_counts, ends = arrays["nodes_per_graph"], arrays["edges_per_graph"], arrays["edges"]
    _within(path, "nodes_per_graph", counts - 1, np.array(MAX_NODES_PER_GRAPH))
    _within(path, "edges_per_graph", edge_counts, np.array(MAX_ROWS))
    _sized(path, "nodes_per_graph", counts, arrays["node_labels"])
    if int(edge_counts.sum()) != len(ends) or len(arrays["edge_labels"]) != len(ends) or ends.shape[1] != 2:
        raise UserError(f"{path}: edges_per_graph do not add up to {len(ends)}; the file is damaged")
    if not len(counts) == len(edge_counts) == len(arrays["labels"]):
        raise UserError(f"{path}: counts and labels of different numbers of graphs; the file is damaged")
    owner = np.repeat(np.arange(len(counts)), edge_counts)
    _within(path, "edges", ends.reshape(-1), np.repeat(counts[owner], 2))
    order = np.lexsort((ends[:, 1], ends[:, 0], owner))
    again = (np.diff(owner) == 0) & (np.diff(ends, axis=0) == 0).all(1)
    if (ends[:, 0] > ends[:, 1]).any() or (order != np.arange(len(order))).any() or again.any():
        raise UserError(f"{path}: edges are not each once and in order; the file is damaged")
    _within(path, "node_labels", arrays["node_labels"], np.array(facts["node_sizes"], dtype=np.int64))
    _within(path, "edge_labels", arrays["edge_labels"], np.array(facts["edge_sizes"], dtype=np.int64))
    _within(path, "labels", arrays["labels"], np.array(facts["classes"]))
    return GraphSet(
        node_ptr=offsets(counts),
        node_labels=arrays["node_labels"],
        edge_ptr=offsets(edge_counts),
        edges=ends,
        edge_labels=arrays["edge_labels"],
        labels=arrays["labels"],
        **facts,
    )


def _read_reference(path: Path, handle: Any, header: dict[str, Any]) -> Reference:
    facts = _facts(path, header)
    how, classes = str(header["form"]), facts["classes"]
    names = REFERENCES[how]
    found: dict[str, Any] = {}
    for name in names:
        check_tensor(path, handle, name, ("F64",), 1)
        found[name] = read_finite(path, handle, name).numpy()
        if found[name].shape != (classes,):
            raise UserError(f"{path}: {name} has {len(found[name])} numbers, expected {classes}; the file is damaged")
    if "spread" in found and not (found["spread"] > 0).all():
        raise UserError(f"{path}: spread: expected numbers above 0; the file is damaged")
    labels = _arrays(path, handle, ("labels",), MAX_SIZE)["labels"]
    if labels.tolist() != list(range(classes)):
        raise UserError(f"{path}: labels are not one of each class in order; the file is damaged")
    return Reference(how=how, numbers=found, **facts)


def _read_trees(path: Path, handle: Any, header: dict[str, Any]) -> TreePayload:
    facts = _facts(path, header, trees=True)
    arrays = _arrays(path, handle, _NAMES, MAX_TREE_NODES)
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
    if ((arrays["support"] < 1) | (arrays["support"] > MOST_SUPPORT)).any():
        raise UserError(f"{path}: a support below 1 or above {MOST_SUPPORT}; the file is damaged")
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
_GRAPH_NAMES = ("nodes_per_graph", "edges_per_graph", "node_labels", "edges", "edge_labels", "labels")


def _facts(path: Path, header: dict[str, Any], trees: bool = False) -> dict[str, Any]:
    """What the header says, each of the type and in the range that it must have."""
    made: dict[str, Any] = {}
    for name, least, most in (("classes", 2, MAX_SIZE), *([("depth", 0, 8)] if trees else [])):
        made[name] = _number(path, name, header.get(name), least, most)
    for name in ("node_sizes", "edge_sizes", *(["thresholds"] if trees else [])):
        values = header.get(name)
        if not isinstance(values, list):
            raise UserError(f"{path}: {name} is {values!r:.60}, expected a list; the file is damaged")
        made[name] = tuple(_number(path, name, value, 1, MAX_SIZE) for value in values)
    for name, kind in (*([("degree_labels", bool)] if trees else []), ("name", str)):
        if not isinstance(header.get(name), kind):
            raise UserError(f"{path}: {name} is {header.get(name)!r:.60}, expected {kind.__name__}; it is damaged")
        made[name] = header[name]
    return made


def _number(path: Path, name: str, value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{path}: {name} {value!r:.60}, expected {least} to {most:,}; the file is damaged")
    return value


def _sized(path: Path, name: str, sizes: Ints, pieces: Ints) -> Ints:
    most = len(pieces)  # of each, since a sum of huge ones wraps round
    if not len(sizes) or ((sizes < 1) | (sizes > most)).any() or int(sizes.sum()) != most:
        raise UserError(f"{path}: {name} do not add up to {len(pieces)}; the file is damaged")
    return sizes


def _within(path: Path, name: str, values: Ints, below: Ints) -> None:
    """Refuse values that are not from 0 to below some number (of all, of a column, or of each)."""
    if values.ndim == 2 and values.shape[1] != len(below):
        raise UserError(f"{path}: {name} has {values.shape[1]} columns, expected {len(below)}; the file is damaged")
    wrong = (values < 0) | (values >= below)
    if wrong.any():
        raise UserError(f"{path}: {name} holds {int(values[wrong][0])}, which is out of range; the file is damaged")
