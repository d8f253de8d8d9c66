"""Students for graphs in plain torch: GIN, GCN and GAT, whose names say the whole architecture.

``gin-d3-w64-mean`` is three layers of width 64 whose node embeddings are averaged; ``-sum`` adds them up, ``-bn`` or
``-ln`` behind it puts a norm after each layer. All take labels of edges: their embedding is added to what a neighbour
sends. On a tree as deep as there are layers, the root's embedding is that of its node in the graph; GCN divides by
degrees and needs those of the last level too (:attr:`ddbench.graphs.mirage.MirageConfig.degree_labels`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddbench.graphs.batches import GraphBatch
from ddbench.graphs.mirage import TreePayload
from ddbench.graphs.names import GraphStudentName, parse_student
from ddbench.runtime.seeds import isolated


def exact_on_trees(name: str, payload: TreePayload) -> bool:
    """Whether the student's embedding of every stored root is that of the node in its graph.

    Raises:
        UserError: see :func:`parse_student`.
    """
    parts = parse_student(name)
    # one level more holds all degrees that count: those of inner nodes are known
    deeper = payload.depth > parts.depth or payload.degree_labels
    return payload.depth >= parts.depth and (parts.family != "gcn" or deeper)


class Embedding(nn.Module):
    """Labels ``(n, columns)`` to vectors ``(n, width)``: one embedding a column, summed; zeros without any column.

    Shares ``(n, sum of sizes)`` in place of labels weigh the embeddings.
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.width = width
        self.columns = nn.ModuleList(nn.Embedding(size, width) for size in sizes)

    def forward(self, labels: Tensor) -> Tensor:
        if not self.columns:
            return torch.zeros(len(labels), self.width)
        if labels.is_floating_point():
            return labels @ torch.cat(list(self.columns.parameters()))
        return torch.stack([embed(labels[:, column]) for column, embed in enumerate(self.columns)]).sum(0)


def summed(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """Sums of rows ``(k, ...)`` by owner ``(count, ...)``."""
    return values.new_zeros(count, *values.shape[1:]).index_add_(0, owner, values)


def weighed(sent: Tensor, batch: GraphBatch) -> Tensor:
    """What goes along each arc ``(m, width)``, as far as the arc is there."""
    return sent if batch.weight is None else sent * batch.weight[:, None]


class GinLayer(nn.Module):
    """``MLP((1 + eps) x_v + sum_u relu(x_u + e_uv))`` (Xu et al., ICLR 2019; edges as in Hu et al., ICLR 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, edge: Tensor, batch: GraphBatch) -> Tensor:
        sent = weighed(torch.relu(x[batch.source] + edge), batch)
        made: Tensor = self.mlp((1 + self.eps) * x + summed(sent, batch.target, len(x)))
        return made


class GcnLayer(nn.Module):
    """``W (x_v / (d_v + 1) + sum_u (x_u + e_uv) / sqrt((d_u + 1) (d_v + 1)))`` (Kipf and Welling, ICLR 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor, edge: Tensor, batch: GraphBatch) -> Tensor:
        scale = (batch.degree + 1).to(x.dtype).rsqrt()[:, None]
        sent = weighed((x[batch.source] + edge) * scale[batch.source], batch)
        made: Tensor = self.linear(scale * (scale * x + summed(sent, batch.target, len(x))))
        return made


class GatLayer(nn.Module):
    """One head of attention over the neighbours and the node itself (Velickovic et al., ICLR 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.sender = nn.Linear(width, 1, bias=False)
        self.receiver = nn.Linear(width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, edge: Tensor, batch: GraphBatch) -> Tensor:
        x = self.linear(x)
        sent = torch.cat([x[batch.source] + edge, x])
        target = torch.cat([batch.target, torch.arange(len(x))])
        score = nn.functional.leaky_relu(self.sender(sent) + self.receiver(x)[target], 0.2)[:, 0]
        # the largest of each node's scores leaves the softmax as it is and keeps exp in range
        top = score.new_full((len(x),), -torch.inf).scatter_reduce(0, target, score.detach(), "amax")
        weight = (score - top[target]).exp()[:, None]
        if batch.weight is not None:
            weight = weight * torch.cat([batch.weight, batch.weight.new_ones(len(x))])[:, None]
        made: Tensor = summed(weight * sent, target, len(x)) / summed(weight, target, len(x)) + self.bias
        return made


LAYERS: dict[str, type[GinLayer] | type[GcnLayer] | type[GatLayer]] = {
    "gin": GinLayer,
    "gcn": GcnLayer,
    "gat": GatLayer,
}


class GraphStudent(nn.Module):
    """Layers of one kind, pooling, dropout, a linear head: :class:`GraphBatch` to logits ``(count, classes)``."""

    def __init__(
        self,
        name: GraphStudentName,
        node_sizes: Sequence[int],
        edge_sizes: Sequence[int],
        classes: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pooling = name.pooling
        self.embedding = Embedding(node_sizes, name.width)
        self.edges = nn.ModuleList(Embedding(edge_sizes, name.width) for _ in range(name.depth))
        self.layers = nn.ModuleList(LAYERS[name.family](name.width) for _ in range(name.depth))
        self.norms = nn.ModuleList(_norm(name.norm, name.width) for _ in range(name.depth))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(name.width, classes)

    def nodes(self, batch: GraphBatch) -> Tensor:
        """Embeddings of all nodes ``(n, width)`` after the last layer."""
        x: Tensor = self.embedding(batch.labels)
        for layer, embed, norm in zip(self.layers, self.edges, self.norms, strict=True):
            x = torch.relu(norm(layer(x, embed(batch.edge_labels), batch)))
        return x

    def forward(self, batch: GraphBatch) -> Tensor:
        read = self.nodes(batch)[batch.pooled]
        made = summed(read, batch.owner, batch.count)
        if self.pooling == "mean":
            made = made / torch.bincount(batch.owner, minlength=batch.count)[:, None]
        logits: Tensor = self.head(self.dropout(made))
        return logits


def _norm(name: str | None, width: int) -> nn.Module:
    if name == "bn":
        return nn.BatchNorm1d(width)
    return nn.LayerNorm(width) if name == "ln" else nn.Identity()


def build_student(
    name: str, node_sizes: Sequence[int], edge_sizes: Sequence[int], classes: int, seed: int, dropout: float = 0.0
) -> GraphStudent:
    """A fresh student; the same seed gives the same weights.

    Args:
        node_sizes, edge_sizes, classes: of the graphs or of what was distilled from them.
        dropout: of the pooled embedding.

    Raises:
        UserError: see :func:`parse_student`.
    """
    parts = parse_student(name)
    with isolated(seed, "graph-student", name):
        return GraphStudent(parts, node_sizes, edge_sizes, classes, dropout)
