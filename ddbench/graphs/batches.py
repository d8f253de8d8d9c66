"""What a student sees: graphs, or sets of trees, as one form of batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddbench.graphs.graphset import GraphSet, Ints, offsets, ranges
from ddbench.graphs.mirage import TreePayload


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """Graphs or trees side by side, int64; relaxed graphs (:mod:`ddbench.graphs.relaxed`) have shares of labels.

    Attributes:
        labels: of nodes ``(n, F)``, or the share of each label ``(n, sum of sizes)``, a float.
        degree: ``(n,)``, in the graph that a node is from.
        source, target: arcs ``(m,)``; a tree's go from child to parent.
        edge_labels: of arcs ``(m, K)``, or the share of each label ``(m, sum of sizes)``, a float.
        pooled: the nodes ``(k,)`` whose embeddings are pooled: all nodes of graphs, the roots of trees.
        owner: ``(k,)``, the item that each is pooled into.
        count: how many items.
        weight: how far each arc is there ``(m,)``, 0 to 1; None: all are.
    """

    labels: Tensor
    degree: Tensor
    source: Tensor
    target: Tensor
    edge_labels: Tensor
    pooled: Tensor
    owner: Tensor
    count: int
    weight: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Items:
    """What is trained on or tested: items with a class and a weight, of pieces (graphs or trees) that they may share.

    Made by :func:`graph_items` and :func:`tree_items`.

    Attributes:
        node_ptr, labels, degree: nodes of the pieces.
        arc_ptr, source, target, edge_labels: arcs of the pieces, numbers of nodes within the piece.
        read: ``(P,)``, how many nodes of each piece are pooled, from its first on.
        member_ptr, members: the pieces of item i are ``members[member_ptr[i] : member_ptr[i + 1]]``.
        classes_of: ``(I,)``, the class of each item.
        weight: ``(I,)``, how often an item is drawn, in proportion, among those of its class.
        classes, node_sizes, edge_sizes: as of the graphs.
    """

    node_ptr: Ints
    labels: Ints
    degree: Ints
    arc_ptr: Ints
    source: Ints
    target: Ints
    edge_labels: Ints
    read: Ints
    member_ptr: Ints
    members: Ints
    classes_of: Ints
    weight: Ints
    classes: int
    node_sizes: tuple[int, ...]
    edge_sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.classes_of)

    def nodes(self, index: Ints) -> int:
        """How many nodes a batch of the items at some positions has."""
        pieces = np.unique(self.members[ranges(self.member_ptr, index)])
        return int(np.diff(self.node_ptr)[pieces].sum())

    def batch(self, index: Ints) -> GraphBatch:
        """The items at some positions, in that order; a piece that several of them share is in it once."""
        pieces, own = np.unique(self.members[ranges(self.member_ptr, index)], return_inverse=True)
        own = own.reshape(-1)
        nodes, arcs = ranges(self.node_ptr, pieces), ranges(self.arc_ptr, pieces)
        begin = offsets(np.diff(self.node_ptr)[pieces])[:-1]
        shift = np.repeat(begin, np.diff(self.arc_ptr)[pieces])
        read = self.read[pieces][own]
        first = offsets(read)
        pooled = np.repeat(begin[own] - first[:-1], read) + np.arange(first[-1])
        owner = np.repeat(np.arange(len(index)), np.diff(self.member_ptr)[index])
        return GraphBatch(
            torch.from_numpy(self.labels[nodes]),
            torch.from_numpy(self.degree[nodes]),
            torch.from_numpy(self.source[arcs] + shift),
            torch.from_numpy(self.target[arcs] + shift),
            torch.from_numpy(self.edge_labels[arcs]),
            torch.from_numpy(pooled),
            torch.from_numpy(np.repeat(owner, read)),
            len(index),
        )


def graph_items(graphs: GraphSet) -> Items:
    """Whole graphs: all nodes are pooled, each graph has the same weight."""
    source, target, edge = graphs.arcs
    arcs = np.bincount(_graph_of(graphs)[target], minlength=len(graphs))
    begin = np.repeat(graphs.node_ptr[:-1], arcs)
    count = len(graphs)
    return Items(
        graphs.node_ptr,
        graphs.node_labels,
        graphs.degrees,
        offsets(arcs),
        source - begin,
        target - begin,
        graphs.edge_labels[edge],
        graphs.nodes_per_graph,
        np.arange(count + 1),
        np.arange(count),
        graphs.labels,
        np.ones(count, dtype=np.int64),
        graphs.classes,
        graphs.node_sizes,
        graphs.edge_sizes,
    )


def tree_items(payload: TreePayload) -> Items:
    """The sets of trees of a distilled set: roots are pooled, the weight is the support."""
    trees = payload.trees
    sizes = np.diff(trees.ptr)
    child = np.ones(len(trees.parent), dtype=bool)
    child[trees.ptr[:-1]] = False  # the roots
    number = np.arange(len(child)) - np.repeat(trees.ptr[:-1], sizes)
    return Items(
        trees.ptr,
        trees.labels,
        trees.degree,
        offsets(sizes - 1),
        number[child],
        trees.parent[child],
        trees.edge_labels[child],
        np.ones(len(trees), dtype=np.int64),
        payload.item_ptr,
        payload.items,
        payload.labels,
        payload.support,
        payload.classes,
        payload.node_sizes,
        payload.edge_sizes,
    )


def _graph_of(graphs: GraphSet) -> Ints:
    return np.repeat(np.arange(len(graphs)), graphs.nodes_per_graph)
