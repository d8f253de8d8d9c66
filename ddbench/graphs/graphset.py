"""Labelled graphs as arrays, checked once: the one form that everything about graphs works on. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json

Ints = npt.NDArray[np.int64]

MAX_NODES_PER_GRAPH = 2**20
"""A graph of more nodes is refused: the readers are for many small graphs."""


@dataclass(frozen=True, eq=False)
class GraphSet:
    """Undirected graphs with discrete labels and a class each; made by :func:`make_graphs`, which checks everything.

    All arrays are int64. The nodes of graph g are ``node_ptr[g]`` to ``node_ptr[g + 1]``, its edges likewise.

    Attributes:
        name: for messages and tables.
        node_ptr: ``(G + 1,)``.
        node_labels: ``(N, F)``; each column holds 0 to one less than ``node_sizes``.
        edge_ptr: ``(G + 1,)``.
        edges: ``(E, 2)``, numbers of nodes within the graph, each undirected edge once, smaller number first, sorted.
        edge_labels: ``(E, K)``, K may be 0; each column holds 0 to one less than ``edge_sizes``.
        labels: ``(G,)``, 0 to ``classes - 1``.
        classes: how many classes.
        node_sizes, edge_sizes: how many different labels each column has in the whole set that was read.
    """

    name: str
    node_ptr: Ints
    node_labels: Ints
    edge_ptr: Ints
    edges: Ints
    edge_labels: Ints
    labels: Ints
    classes: int
    node_sizes: tuple[int, ...]
    edge_sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nodes_per_graph(self) -> Ints:
        """Number of nodes of each graph ``(G,)``."""
        return np.diff(self.node_ptr)

    @property
    def edges_per_graph(self) -> Ints:
        """Number of undirected edges of each graph ``(G,)``."""
        return np.diff(self.edge_ptr)

    def take(self, index: npt.ArrayLike) -> GraphSet:
        """The graphs at some positions, in that order; classes and sizes of labels stay."""
        chosen = np.asarray(index, dtype=np.int64).reshape(-1)
        nodes, edges = ranges(self.node_ptr, chosen), ranges(self.edge_ptr, chosen)
        return GraphSet(
            self.name,
            offsets(self.nodes_per_graph[chosen]),
            self.node_labels[nodes],
            offsets(self.edges_per_graph[chosen]),
            self.edges[edges],
            self.edge_labels[edges],
            self.labels[chosen],
            self.classes,
            self.node_sizes,
            self.edge_sizes,
        )

    @cached_property
    def arcs(self) -> tuple[Ints, Ints, Ints]:
        """Both directions of every edge: (from, to, edge), numbers in the whole set, sorted by ``to``.

        An edge from a node to itself is one arc.
        """
        ends = self.edges + np.repeat(self.node_ptr[:-1], self.edges_per_graph)[:, None]
        number = np.arange(len(ends))
        back = ends[:, 0] != ends[:, 1]
        source = np.concatenate([ends[:, 0], ends[back, 1]])
        target = np.concatenate([ends[:, 1], ends[back, 0]])
        edge = np.concatenate([number, number[back]])
        order = np.argsort(target, kind="stable")
        return source[order], target[order], edge[order]

    @cached_property
    def degrees(self) -> Ints:
        """Number of neighbours of every node ``(N,)``."""
        return np.bincount(self.arcs[1], minlength=len(self.node_labels)).astype(np.int64)

    def packed(self) -> dict[str, npt.NDArray[Any]]:
        """All that is needed to have the graphs again, each array in the smallest integers that hold it."""
        return pack(
            {
                "nodes_per_graph": self.nodes_per_graph,
                "edges_per_graph": self.edges_per_graph,
                "node_labels": self.node_labels,
                "edges": self.edges,
                "edge_labels": self.edge_labels,
                "labels": self.labels,
            }
        )

    @property
    def bytes(self) -> int:
        """Bytes of :meth:`packed`."""
        return packed_bytes(self.packed())

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of classes, label sizes and all arrays in this order."""
        head = {"classes": self.classes, "node_sizes": self.node_sizes, "edge_sizes": self.edge_sizes}
        digest = hashlib.sha256(canonical_json(head).encode())
        for part in (self.node_ptr, self.node_labels, self.edge_ptr, self.edges, self.edge_labels, self.labels):
            digest.update(canonical_json(list(part.shape)).encode())
            digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        return digest.hexdigest()


def make_graphs(
    where: str,
    nodes_per_graph: npt.ArrayLike,
    node_labels: npt.ArrayLike | None,
    edges_per_graph: npt.ArrayLike,
    edges: npt.ArrayLike,
    edge_labels: npt.ArrayLike | None,
    labels: npt.ArrayLike,
    name: str = "",
) -> GraphSet:
    """Check arrays of whole numbers, bring them into one form, and make the set of them.

    Labels of any values are replaced by their ranks, column by column. Edges given in both directions are one. Where
    nodes have no label, or all the same, the label is the degree.

    Args:
        where: what the arrays are from, for messages.
        nodes_per_graph, edges_per_graph: ``(G,)``.
        node_labels: ``(N, F)`` or None.
        edges: ``(E, 2)``, numbers within the graph.
        edge_labels: ``(E, K)`` or None.
        labels: ``(G,)``.
        name: of the set; default: ``where``.

    Raises:
        UserError: what does not fit together: counts, shapes, an end of an edge outside its graph, two labels of one
            edge, fewer than two classes.
    """
    counts, edge_counts = _counts(where, nodes_per_graph, "node"), _counts(where, edges_per_graph, "edge")
    given = np.asarray(labels, dtype=np.int64)
    if not len(counts) == len(edge_counts) == len(given) or given.ndim != 1:
        raise UserError(
            f"{where}: {len(counts)} counts of nodes, {len(edge_counts)} of edges and {given.size} labels of graphs; "
            "expected one of each for every graph"
        )
    if len(counts) and (counts == 0).any():
        raise UserError(f"{where}: graph {int((counts == 0).argmax())} (from 0) has no node; leave it out")
    total, edge_total = sum(counts.tolist()), sum(edge_counts.tolist())
    table = _table(where, node_labels, total, "node")
    edge_table = _table(where, edge_labels, edge_total, "edge")
    owner, ends = _ends(where, counts, edge_counts, edges)
    classes, ranked = np.unique(given, return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"{where}: {len(classes)} class(es) of graphs, expected at least 2")
    owner, ends, edge_table = _merged(where, owner, ends, edge_table)
    edge_values, edge_sizes = _ranks(edge_table)
    node_values, node_sizes = _ranks(table)
    made = GraphSet(
        name or where,
        offsets(counts),
        node_values,
        offsets(np.bincount(owner, minlength=len(counts))),
        ends,
        edge_values,
        ranked.reshape(-1).astype(np.int64),
        len(classes),
        node_sizes,
        edge_sizes,
    )
    return made if max(node_sizes, default=1) > 1 else _degrees_for_labels(made)


def _degrees_for_labels(graphs: GraphSet) -> GraphSet:
    values, sizes = _ranks(graphs.degrees[:, None])
    return GraphSet(**{**_fields(graphs), "node_labels": values, "node_sizes": sizes})


def _fields(graphs: GraphSet) -> dict[str, Any]:
    return {name: getattr(graphs, name) for name in GraphSet.__dataclass_fields__}


def _counts(where: str, counts: npt.ArrayLike, what: str) -> Ints:
    made = np.asarray(counts, dtype=np.int64).reshape(-1)
    wrong = (made < 0) | (made > MAX_NODES_PER_GRAPH * (1 if what == "node" else 64))
    if wrong.any():
        at = int(wrong.argmax())
        raise UserError(
            f"{where}: graph {at} (from 0) declares {made[at]} {what}s, expected 0 to "
            f"{MAX_NODES_PER_GRAPH * (1 if what == 'node' else 64):,}"
        )
    return made


def _ends(where: str, counts: Ints, edge_counts: Ints, edges: npt.ArrayLike) -> tuple[Ints, Ints]:
    """The graph of each edge, and its ends, which are nodes of that graph."""
    total = sum(edge_counts.tolist())
    given = np.asarray(edges, dtype=np.int64)
    if given.size and (given.ndim != 2 or given.shape[1] != 2):
        raise UserError(f"{where}: edges of shape {list(given.shape)}, expected two columns")
    ends = given.reshape(-1, 2)
    if len(ends) != total:
        raise UserError(f"{where}: {len(ends)} edges, but the graphs together should have {total}; is it cut?")
    owner = np.repeat(np.arange(len(counts)), edge_counts)
    wrong = ((ends < 0) | (ends >= counts[owner][:, None])).any(1)
    if wrong.any():
        at = int(wrong.argmax())
        graph = int(owner[at])
        raise UserError(
            f"{where}: edge {at} (from 0) joins nodes {ends[at, 0]} and {ends[at, 1]} of graph {graph}, "
            f"expected 0 to {counts[graph] - 1}"
        )
    return owner, ends


def _table(where: str, values: npt.ArrayLike | None, rows: int, what: str) -> Ints:
    """Labels ``(rows, columns)``; a row of nothing each where there are none. Nothing is allocated before the check."""
    if values is None:
        return np.zeros((rows, 0), dtype=np.int64)
    table = np.asarray(values, dtype=np.int64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != rows:
        raise UserError(
            f"{where}: labels of {len(table)} {what}s, but the graphs together should have {rows}; is it cut?"
        )
    return table


def _merged(where: str, owner: Ints, ends: Ints, table: Ints) -> tuple[Ints, Ints, Ints]:
    """Each undirected edge once, sorted by graph and nodes: (graph, ends, labels)."""
    ends = np.sort(ends, axis=1)
    order = np.lexsort((ends[:, 1], ends[:, 0], owner))
    owner, ends, table = owner[order], ends[order], table[order]
    again = np.zeros(len(owner), dtype=bool)
    again[1:] = (owner[1:] == owner[:-1]) & (ends[1:] == ends[:-1]).all(1)
    other = again.copy()
    other[1:] &= (table[1:] != table[:-1]).any(1)
    if other.any():
        at = int(other.argmax())
        raise UserError(
            f"{where}: the edge between nodes {ends[at, 0]} and {ends[at, 1]} of graph {owner[at]} has two labels, "
            f"{table[at - 1].tolist()} and {table[at].tolist()}; expected one (edges are undirected)"
        )
    return owner[~again], ends[~again], table[~again]


def _ranks(table: Ints) -> tuple[Ints, tuple[int, ...]]:
    """Every column's values replaced by their ranks, and how many there are."""
    made, sizes = np.empty_like(table), []
    for column in range(table.shape[1]):
        values, rank = np.unique(table[:, column], return_inverse=True)
        made[:, column] = rank.reshape(-1)
        sizes.append(len(values))
    return made, tuple(sizes)


def offsets(counts: npt.ArrayLike) -> Ints:
    """Where each of consecutive pieces of these lengths begins, and the end of the last: ``(n + 1,)``."""
    lengths = np.asarray(counts, dtype=np.int64)
    made = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=made[1:])
    return made


def ranges(ptr: Ints, chosen: Ints) -> Ints:
    """Positions of the elements of the chosen pieces, piece after piece."""
    lengths = ptr[chosen + 1] - ptr[chosen]
    begins = offsets(lengths)
    return np.arange(begins[-1]) + np.repeat(ptr[chosen] - begins[:-1], lengths)


def pack(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of whole numbers, each as the smallest signed or unsigned integers that hold all its values."""
    made = {}
    for name, values in arrays.items():
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        kind = next(
            np.dtype(one)
            for one in ("u1", "i1", "u2", "i2", "u4", "i4", "i8")
            if np.iinfo(one).min <= low and high <= np.iinfo(one).max
        )
        made[name] = values.astype(kind)
    return made


def packed_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Bytes of the values of some arrays together."""
    return sum(values.nbytes for values in arrays.values())
