"""Trees that a message-passing network sees: colours of Weisfeiler and Leman, and trees unrolled from them. No torch.

The tree of depth L at a node has the node as its root, all neighbours as children (the one that it came from too), and
so on. Two trees, with labels of nodes and edges, are equal exactly if the nodes have the same colour after L rounds:
no tree is built to compare them. A colour is the rank of its tree among all trees of the set; the order of trees does
not depend on how nodes or graphs are numbered.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ddbench.graphs.graphset import GraphSet, Ints, offsets, ranges
from ddbench.runtime.errors import UserError

MAX_TREE_NODES = 2_000_000
"""Nodes of all unrolled trees together: with many neighbours they multiply from level to level."""


@dataclass(frozen=True, eq=False)
class Colours:
    """Colours of all nodes of a set.

    Attributes:
        graphs: the set.
        colour: one array ``(N,)`` a round, from round 0 (labels, and degrees if asked for) to the depth.
    """

    graphs: GraphSet
    colour: tuple[Ints, ...]

    @property
    def depth(self) -> int:
        """Number of rounds."""
        return len(self.colour) - 1

    @cached_property
    def edge_rank(self) -> Ints:
        """Rank of each edge's labels ``(E,)``."""
        return row_ranks(self.graphs.edge_labels)

    @cached_property
    def usual_degree(self) -> Ints:
        """For each node the most frequent degree among nodes of its label, the smallest of several ``(N,)``."""
        return _most_frequent(self.colour[0], self.graphs.degrees)


def colours(graphs: GraphSet, depth: int, degree_labels: bool = False) -> Colours:
    """Colours of every node after 0 to ``depth`` rounds.

    Args:
        degree_labels: nodes are told apart by their degree too, as a network that divides by degrees does.
    """
    table = graphs.node_labels
    if degree_labels:
        table = np.column_stack([table, graphs.degrees])
    label = row_ranks(table)
    source, target, edge = graphs.arcs
    edge_rank = row_ranks(graphs.edge_labels)[edge]
    begins = offsets(np.bincount(target, minlength=len(label)))
    found = [label]
    for _ in range(depth):
        now = found[-1]
        order = np.lexsort((now[source], edge_rank, target))
        # Big-endian bytes compare as the numbers do: the sorted (edge, colour) pairs of the children, behind the label.
        pairs = np.column_stack([edge_rank[order], now[source[order]]]).astype(">i8").tobytes()
        heads = label.astype(">i8").tobytes()
        ends = (16 * begins).tolist()
        keys = [heads[8 * v : 8 * v + 8] + pairs[ends[v] : ends[v + 1]] for v in range(len(label))]
        rank = {key: number for number, key in enumerate(sorted(set(keys)))}
        found.append(np.fromiter((rank[key] for key in keys), dtype=np.int64, count=len(keys)))
    return Colours(graphs, tuple(found))


def row_ranks(table: Ints) -> Ints:
    """Rank of each row among the different rows of a table, in lexicographic order; 0 where there is no column."""
    if not table.shape[1]:
        return np.zeros(len(table), dtype=np.int64)
    ranks = np.zeros(len(table), dtype=np.int64)
    for column in table.T:
        values, rank = np.unique(column, return_inverse=True)
        ranks = np.unique(ranks * len(values) + rank.reshape(-1), return_inverse=True)[1].reshape(-1)
    return ranks


def _most_frequent(groups: Ints, values: Ints) -> Ints:
    """For each element the most frequent value among those of its group."""
    pairs, counts = np.unique(np.column_stack([groups, values]), axis=0, return_counts=True)
    order = np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))
    _, first = np.unique(pairs[order, 0], return_index=True)
    usual: Ints = pairs[order[first], 1]
    return usual[groups]


def transactions(found: Colours) -> list[Ints]:
    """For each graph the set of its trees of full depth, ascending; nodes without a neighbour are left out."""
    graphs, colour = found.graphs, found.colour[-1]
    joined = graphs.degrees > 0
    made = []
    for graph in range(len(graphs)):
        part = slice(int(graphs.node_ptr[graph]), int(graphs.node_ptr[graph + 1]))
        made.append(np.unique(colour[part][joined[part]]))
    return made


@dataclass(frozen=True, eq=False)
class Trees:
    """Trees as arrays; the nodes of each stand together, level by level, the root first.

    Attributes:
        ptr: ``(T + 1,)``.
        labels: node labels ``(n, F)``.
        parent: ``(n,)``, the parent's number within the tree; the root's is 0.
        edge_labels: of the edge to the parent ``(n, K)``; zeros for a root.
        degree: ``(n,)``, the degree that the node has in its graph. Of the nodes of the last level it is known only
            where degrees are part of the labels; else it is the most frequent one among nodes with that label.
    """

    ptr: Ints
    labels: Ints
    parent: Ints
    edge_labels: Ints
    degree: Ints

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def take(self, index: Ints) -> Trees:
        """The trees at some positions, in that order."""
        nodes = ranges(self.ptr, index)
        return Trees(
            offsets(np.diff(self.ptr)[index]),
            self.labels[nodes],
            self.parent[nodes],
            self.edge_labels[nodes],
            self.degree[nodes],
        )


def unroll(found: Colours, wanted: Ints) -> Trees:
    """The trees of some colours of the last round, in that order; children stand in the order of (edge, colour).

    Raises:
        UserError: more than :data:`MAX_TREE_NODES` nodes together.
    """
    source, target, edge = found.graphs.arcs
    begins = offsets(np.bincount(target, minlength=len(found.graphs.node_labels)))
    colour, first = np.unique(found.colour[-1], return_index=True)
    roots = first[np.searchsorted(colour, wanted)]
    sizes, nodes, parents, edges, degrees = [], [], [], [], []
    size = 0
    for root in roots.tolist():
        level, above, by = np.array([root]), np.array([0]), np.array([-1])
        total = 0
        for remaining in range(found.depth, -1, -1):
            nodes.append(level)
            parents.append(above)
            edges.append(by)
            degrees.append((found.graphs.degrees if remaining else found.usual_degree)[level])
            here, total = total, total + len(level)
            if not remaining:
                break
            many = begins[level + 1] - begins[level]
            if size + total + int(many.sum()) > MAX_TREE_NODES:
                raise UserError(
                    f"{found.graphs.name}: {len(roots)} trees of depth {found.depth} have more than "
                    f"{MAX_TREE_NODES:,} nodes; take a smaller depth or a higher support"
                )
            arcs = ranges(begins, level)
            parent = np.repeat(np.arange(len(level)), many)
            now = found.colour[remaining - 1]
            order = np.lexsort((now[source[arcs]], found.edge_rank[edge[arcs]], parent))
            level, by, above = source[arcs[order]], edge[arcs[order]], here + parent[order]
        sizes.append(total)
        size += total
    if not sizes:
        return Trees(offsets([]), found.graphs.node_labels[:0], *_nothing(found.graphs))
    every, edge_of = np.concatenate(nodes), np.concatenate(edges)
    labels = np.where(edge_of[:, None] < 0, 0, _padded(found.graphs.edge_labels)[edge_of])
    return Trees(
        offsets(sizes), found.graphs.node_labels[every], np.concatenate(parents), labels, np.concatenate(degrees)
    )


def _padded(table: Ints) -> Ints:
    """A row of zeros behind a table: what an edge number of -1 takes."""
    return np.concatenate([table, np.zeros((1, table.shape[1]), dtype=np.int64)])


def _nothing(graphs: GraphSet) -> tuple[Ints, Ints, Ints]:
    none = np.zeros(0, dtype=np.int64)
    return none, graphs.edge_labels[:0], none
