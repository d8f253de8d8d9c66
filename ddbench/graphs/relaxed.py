"""Graphs whose edges and labels are probabilities that a loss can be differentiated in, and whole graphs out of them.

Between any two nodes of a graph there is an edge with the probability ``sigmoid(logit)``; a node, and an edge, has one
label a column with the probabilities ``softmax(logits)``. A draw is relaxed (Maddison et al., ICLR 2017; Jang et al.,
ICLR 2017): noise is added to the logits, which are then divided by a temperature; the lower it is, the nearer all are
to 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ddbench.graphs.batches import GraphBatch
from ddbench.graphs.graphset import GraphSet, Ints, offsets


@dataclass(frozen=True, eq=False)
class Draw:
    """Noise of one draw, and its temperature (above 0): logistic for edges, Gumbel for labels; shapes of the logits."""

    edges: Tensor
    node_labels: Tensor
    edge_labels: Tensor
    temperature: float


class RelaxedGraphs:
    """Graphs to be learned, with the nodes and classes of some whole ones.

    Attributes:
        first: the graphs that they begin as.
        left, right: the ends of every possible edge, int64 ``(P,)``, numbers in the whole set: pairs of different nodes
            of a graph, the smaller first, graph by graph in order.
        pair_ptr: the pairs of graph g are ``pair_ptr[g]`` to ``pair_ptr[g + 1]``.
        edge_logits: ``(P,)``.
        node_logits: ``(N, sum of node_sizes)``.
        label_logits: of the labels of edges ``(P, sum of edge_sizes)``.
    """

    def __init__(self, first: GraphSet, sure: float, dtype: torch.dtype = torch.float32) -> None:
        """Logits are ``sure`` for what is in the first graphs and ``-sure`` for the rest; 0 for labels of no edge."""
        self.first = first
        sizes = first.nodes_per_graph
        ends = [np.stack(np.triu_indices(size, 1)) + begin for size, begin in zip(sizes, first.node_ptr, strict=False)]
        left, right = np.concatenate(ends, axis=1)
        self.pair_ptr: Ints = offsets(sizes * (sizes - 1) // 2)
        self.left, self.right = torch.from_numpy(left), torch.from_numpy(right)
        own, edges = self._places()
        there = np.zeros(len(left), dtype=bool)
        there[own] = True
        self.edge_logits = torch.where(torch.from_numpy(there), sure, -sure).to(dtype).requires_grad_()
        nodes = sure * (2 * one_hot(first.node_labels, first.node_sizes) - 1)
        self.node_logits = torch.from_numpy(nodes).to(dtype).requires_grad_()
        labels = np.zeros((len(left), sum(first.edge_sizes)))
        labels[own] = sure * (2 * one_hot(first.edge_labels[edges], first.edge_sizes) - 1)
        self.label_logits = torch.from_numpy(labels).to(dtype).requires_grad_()

    def _places(self) -> tuple[Ints, Ints]:
        """Which pairs the first graphs' edges are, and which edges these are: all but those from a node to itself."""
        first = self.first
        graph = np.repeat(np.arange(len(first)), first.edges_per_graph)
        low, high = first.edges.T
        edges = np.flatnonzero(low != high)
        graph, low, high = graph[edges], low[edges], high[edges]
        before = low * (2 * first.nodes_per_graph[graph] - low - 1) // 2  # pairs of smaller first nodes
        return self.pair_ptr[graph] + before + high - low - 1, edges

    @property
    def logits(self) -> tuple[Tensor, Tensor, Tensor]:
        """All that is learned: of edges, of labels of nodes, of labels of edges."""
        return self.edge_logits, self.node_logits, self.label_logits

    def draw(self, temperature: float, generator: torch.Generator) -> Draw:
        """Noise for all graphs."""
        uniform = [
            torch.rand(one.shape, generator=generator, dtype=torch.float64).clamp_(1e-12, 1 - 1e-12)
            for one in self.logits
        ]
        edges, nodes, labels = (one.to(self.edge_logits.dtype) for one in (
            torch.logit(uniform[0]), -(-uniform[1].log()).log(), -(-uniform[2].log()).log()
        ))  # fmt: skip
        return Draw(edges, nodes, labels, temperature)

    def batch(self, begin: int, end: int, draw: Draw) -> GraphBatch:
        """The graphs from ``begin`` to before ``end`` as a network sees them, differentiable in the logits."""
        first = self.first
        pairs = slice(int(self.pair_ptr[begin]), int(self.pair_ptr[end]))
        nodes = slice(int(first.node_ptr[begin]), int(first.node_ptr[end]))
        heat = draw.temperature
        there = torch.sigmoid((self.edge_logits[pairs] + draw.edges[pairs]) / heat)
        labels = shares((self.node_logits[nodes] + draw.node_labels[nodes]) / heat, first.node_sizes)
        edges = shares((self.label_logits[pairs] + draw.edge_labels[pairs]) / heat, first.edge_sizes)
        left, right = self.left[pairs] - nodes.start, self.right[pairs] - nodes.start
        target, weight = torch.cat([right, left]), torch.cat([there, there])
        count = nodes.stop - nodes.start
        sizes = torch.from_numpy(first.nodes_per_graph[begin:end])
        return GraphBatch(
            labels,
            weight.new_zeros(count).index_add(0, target, weight),
            torch.cat([left, right]),
            target,
            torch.cat([edges, edges]),
            torch.arange(count),
            torch.arange(end - begin).repeat_interleave(sizes),
            end - begin,
            weight,
        )

    def whole(self) -> GraphSet:
        """The likeliest labels and edges; of a graph at most as many edges as at first, so that bytes do not grow."""
        first = self.first
        logits = self.edge_logits.detach().double().numpy()
        graph = np.repeat(np.arange(len(first)), np.diff(self.pair_ptr))
        order = np.lexsort((np.arange(len(logits)), -logits, graph))
        rank = np.empty(len(logits), dtype=np.int64)
        rank[order] = np.arange(len(logits)) - self.pair_ptr[graph[order]]
        kept = np.flatnonzero((logits > 0) & (rank < first.edges_per_graph[graph]))
        ends = np.stack([self.left.numpy()[kept], self.right.numpy()[kept]], axis=1)
        return GraphSet(
            first.name,
            first.node_ptr,
            likeliest(self.node_logits, first.node_sizes),
            offsets(np.bincount(graph[kept], minlength=len(first))),
            ends - first.node_ptr[graph[kept]][:, None],
            likeliest(self.label_logits, first.edge_sizes)[kept],
            first.labels,
            first.classes,
            first.node_sizes,
            first.edge_sizes,
        )


def pairs_of(graphs: GraphSet) -> int:
    """How many edges there can be."""
    sizes = graphs.nodes_per_graph
    return int((sizes * (sizes - 1) // 2).sum())


def one_hot(labels: Ints, sizes: Sequence[int]) -> np.typing.NDArray[np.float64]:
    """Labels ``(n, columns)`` as ones among zeros ``(n, sum of sizes)``."""
    made = np.zeros((len(labels), sum(sizes)))
    for column, begin in enumerate(offsets(sizes)[:-1].tolist()):
        made[np.arange(len(labels)), begin + labels[:, column]] = 1
    return made


def shares(logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Softmax of each column's logits ``(n, sum of sizes)``."""
    return torch.cat([part.softmax(1) for part in logits.split(list(sizes), 1)], 1) if sizes else logits


def likeliest(logits: Tensor, sizes: Sequence[int]) -> Ints:
    """The label of each column with the highest logit, the first of several: ``(n, columns)``."""
    parts = logits.detach().numpy()
    ends = offsets(sizes).tolist()
    chosen = [parts[:, begin:end].argmax(1) for begin, end in pairwise(ends)]
    return np.stack(chosen, axis=1).astype(np.int64) if chosen else np.zeros((len(parts), 0), dtype=np.int64)
