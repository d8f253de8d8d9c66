"""Students for graphs: a root's embedding is its node's, against sums written out node by node; names; batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from test_graphs_mirage import random_graphs
from torch import Tensor

from ddbench.graphs.batches import GraphBatch, graph_items, tree_items
from ddbench.graphs.graphset import GraphSet
from ddbench.graphs.made import made_graphs
from ddbench.graphs.mirage import MirageConfig, distil
from ddbench.graphs.students import GraphStudent, build_student, exact_on_trees, parse_student
from ddbench.graphs.trees import colours
from ddbench.runtime.errors import UserError

FAMILIES = ("gin", "gcn", "gat")


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """All in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def student(name: str, graphs: GraphSet, seed: int = 0) -> GraphStudent:
    """A student whose parameters that begin at zero do not."""
    net = build_student(name, graphs.node_sizes, graphs.edge_sizes, graphs.classes, seed).eval()
    with torch.no_grad():
        for own in net.parameters():
            own += 0.05 * torch.randn(own.shape, generator=torch.Generator().manual_seed(1))
    return net


def everything(graphs: GraphSet) -> GraphBatch:
    return graph_items(graphs).batch(np.arange(len(graphs)))


def gap(name: str, graphs: GraphSet, depth: int, degree_labels: bool) -> float:
    """Largest difference between a root's embedding on its tree and the embeddings of the nodes it stands for."""
    payload = distil(graphs, MirageConfig(depth=depth, support=(1,), degree_labels=degree_labels, max_itemsets=10**6))
    net = student(name, graphs)
    trees = payload.trees
    single = tree_items(payload)
    # every tree once, as it stands in the product
    index = np.array([np.flatnonzero(single.members == tree)[0] for tree in range(len(trees))])
    items = np.searchsorted(single.member_ptr, index, side="right") - 1
    batch = single.batch(np.unique(items))
    found = net.nodes(batch)
    _, ptr = np.unique(
        single.members[np.isin(np.repeat(np.arange(len(single)), np.diff(single.member_ptr)), items)], return_index=True
    )
    assert len(ptr) == len(trees), "all trees are in the batch, each once"
    roots = found[torch.from_numpy(trees.ptr[:-1])]
    colour = colours(graphs, depth, degree_labels).colour[-1]
    kept = np.unique(colour[graphs.degrees > 0])
    nodes = net.nodes(everything(graphs))
    worst = 0.0
    for number, one in enumerate(kept.tolist()):
        own = nodes[torch.from_numpy(np.flatnonzero((colour == one) & (graphs.degrees > 0)))]
        worst = max(worst, float((own - roots[number]).abs().max().detach()))
    return worst


@pytest.mark.parametrize("norm", ["", "-ln", "-bn"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("graphs", [made_graphs(6), random_graphs(30)], ids=["made", "random"])
def test_roots_are_nodes(graphs: GraphSet, family: str, norm: str):
    assert gap(f"{family}-d2-w8-mean{norm}", graphs, 2, degree_labels=True) < 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_three_layers_and_deeper_trees(family: str):
    assert gap(f"{family}-d3-w8-sum", random_graphs(16), 3, degree_labels=True) < 1e-12
    assert gap(f"{family}-d1-w8-sum", random_graphs(16), 2, degree_labels=False) < 1e-12, "one level to spare"


def test_gcn_needs_degrees_and_trees_must_be_deep_enough():
    graphs = random_graphs(30)
    assert gap("gin-d2-w8-mean", graphs, 2, degree_labels=False) < 1e-12
    assert gap("gat-d2-w8-mean", graphs, 2, degree_labels=False) < 1e-12
    assert gap("gcn-d2-w8-mean", graphs, 2, degree_labels=False) > 1e-3
    assert gap("gin-d2-w8-mean", graphs, 1, degree_labels=True) > 1e-3


def test_what_is_said_to_be_exact():
    graphs = random_graphs(30)
    for degree_labels in (False, True):
        for depth in (1, 2, 3):
            config = MirageConfig(depth=depth, support=(1,), degree_labels=degree_labels)
            payload = distil(graphs, config)
            for family in FAMILIES:
                enough = depth >= 2 and (family != "gcn" or degree_labels or depth == 3)
                assert exact_on_trees(f"{family}-d2-w8-sum", payload) == enough


def slow(net: GraphStudent, family: str, graphs: GraphSet, g: int) -> Tensor:
    """One layer on graph g, node by node, from the adjacency matrix."""
    begin, end = graphs.node_ptr[g : g + 2]
    own = slice(graphs.edge_ptr[g], graphs.edge_ptr[g + 1])
    x = net.embedding(torch.from_numpy(graphs.node_labels[begin:end]))
    edge = net.edges[0](torch.from_numpy(graphs.edge_labels[own]))
    around: list[list[tuple[int, Tensor]]] = [[] for _ in range(end - begin)]
    for (a, b), e in zip(graphs.edges[own].tolist(), edge, strict=True):
        around[a].append((b, e))
        if a != b:
            around[b].append((a, e))
    layer = net.layers[0]
    rows = []
    for v, others in enumerate(around):
        if family == "gin":
            row = (1 + layer.eps) * x[v]
            for u, e in others:
                row = row + torch.relu(x[u] + e)
            row = layer.mlp(row)
        elif family == "gcn":
            row = x[v] / (len(others) + 1)
            for u, e in others:
                row = row + (x[u] + e) / ((len(others) + 1) * (len(around[u]) + 1)) ** 0.5
            row = layer.linear(row)
        else:
            sent = torch.stack([layer.linear(x[v]), *(layer.linear(x[u]) + e for u, e in others)])
            score = layer.sender(sent) + layer.receiver(layer.linear(x[v]))
            attention = torch.softmax(torch.where(score > 0, score, 0.2 * score), 0)
            row = (attention * sent).sum(0) + layer.bias
        rows.append(torch.relu(row))
    return torch.stack(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_is_its_formula(family: str):
    graphs = random_graphs(12)
    for pooling in ("sum", "mean"):
        net = student(f"{family}-d1-w8-{pooling}", graphs)
        slowly = [slow(net, family, graphs, g) for g in range(len(graphs))]
        assert torch.allclose(net.nodes(everything(graphs)), torch.cat(slowly), atol=1e-12)
        pooled = torch.stack([rows.sum(0) if pooling == "sum" else rows.mean(0) for rows in slowly])
        assert torch.allclose(net(everything(graphs)), net.head(pooled), atol=1e-12)


def test_a_batch_is_its_items_in_order():
    graphs = random_graphs(20)
    net = student("gin-d2-w8-mean", graphs)
    items = graph_items(graphs)
    every = net(items.batch(np.arange(20)))
    index = np.array([7, 3, 7, 0])
    assert torch.allclose(net(items.batch(index)), every[torch.from_numpy(index)], atol=1e-12)
    assert len(items.batch(index).labels) == graphs.take([7, 3, 0]).node_ptr[-1], "a graph drawn twice is in it once"


def test_a_batch_of_sets_pools_their_roots():
    graphs = made_graphs(30)
    payload = distil(graphs, MirageConfig(depth=2, support=(4,)))
    net = student("gin-d2-w8-sum", graphs)
    items = tree_items(payload)
    found = net(items.batch(np.arange(len(payload))))
    for number in range(len(payload)):
        own = payload.trees.take(payload.items[payload.item_ptr[number] : payload.item_ptr[number + 1]])
        alone = tree_items(payload).batch(np.array([number]))
        assert (alone.labels.numpy() == own.labels).all()
        roots = net.nodes(alone)[torch.from_numpy(own.ptr[:-1])]
        assert torch.allclose(found[number], net.head(roots.sum(0)), atol=1e-12)


def test_names():
    parts = parse_student("gat-d2-w16-sum-bn")
    assert (parts.family, parts.depth, parts.width, parts.pooling, parts.norm) == ("gat", 2, 16, "sum", "bn")
    assert parse_student("gin-d3-w64-mean").norm is None
    for wrong in ("convnet-d3-w128-in", "gin-d0-w64-sum", "gin-d3-w64", "gin-d9-w64-sum", "gin-d3-w4096-sum"):
        with pytest.raises(UserError, match=f"graph student '{wrong}': expected"):
            parse_student(wrong)


def test_a_seed_names_the_weights():
    graphs = made_graphs(4)
    nets = [build_student("gat-d2-w8-mean", graphs.node_sizes, graphs.edge_sizes, 2, seed) for seed in (0, 0, 1)]
    logits = [net(everything(graphs)) for net in nets]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
