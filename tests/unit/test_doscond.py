"""DosCond: relaxed graphs, the objective against plain float64 formulas, resuming, budgets."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.data.load import load_dataset
from ddbench.graphs.batches import graph_items
from ddbench.graphs.graphset import GraphSet, make_graphs
from ddbench.graphs.relaxed import Draw, RelaxedGraphs
from ddbench.graphs.students import GraphStudent, build_student
from ddbench.methods.base import Context, NotFiniteError
from ddbench.methods.doscond import DosCond, DosCondConfig, at_most, first_graphs
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.training.graph_matching import ClassPair, density_excess, gradients, matching_loss

FAMILIES = ("gin", "gcn", "gat")
SMALL = DosCondConfig(max_bytes=500, iterations=4, cooling=2)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def few() -> GraphSet:
    """Five graphs of two classes, with two columns of labels a node, one an edge, and a node that has no edge."""
    counts, edges = [3, 4, 3, 2, 5], [[0, 1], [1, 2], [0, 1], [0, 2], [0, 3], [0, 2], [0, 1], [0, 1], [1, 3], [3, 4]]
    draws = np.random.default_rng(5)
    nodes = np.column_stack([np.arange(17) % 3, draws.integers(0, 2, 17)])
    return make_graphs("few", counts, nodes, [2, 3, 1, 1, 3], edges, np.arange(10) % 2, [0, 0, 1, 1, 1])


@pytest.fixture
def context(tmp_path: Path) -> Context:
    dataset = load_dataset("graphs:made", tmp_path, modality="graph")
    return Context(
        dataset=dataset,
        train=dataset.train,
        held_out=dataset.valid,
        preprocess=None,
        ipc=0,
        student="gin-d1-w4-mean",
        seed=0,
        device=torch.device("cpu"),
        folder=tmp_path,
        compile="off",
        console=Console(quiet=True),
    )


def silent(relaxed: RelaxedGraphs, temperature: float = 1.0) -> Draw:
    """A draw without noise."""
    edges, nodes, labels = (torch.zeros_like(one).detach() for one in relaxed.logits)
    return Draw(edges, nodes, labels, temperature)


def student(name: str, graphs: GraphSet) -> GraphStudent:
    return build_student(name, graphs.node_sizes, graphs.edge_sizes, graphs.classes, 3).double()


def apart(one: Tensor, two: Tensor) -> float:
    return float((one - two).detach().abs().max())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_sure_graphs_are_whole_graphs(few: GraphSet, family: str, pooling: str):
    net = student(f"{family}-d2-w5-{pooling}", few)
    relaxed = RelaxedGraphs(few, 60, torch.float64)
    found = net(relaxed.batch(0, len(few), silent(relaxed, 0.01)))
    expected = net(graph_items(few).batch(np.arange(len(few))))
    assert apart(found, expected) < 1e-12
    part = net(relaxed.batch(2, 4, silent(relaxed, 0.01)))
    assert apart(part, expected[2:4]) < 1e-12


# The objective, from its formulas: one graph at a time, a matrix of edges, sums over all nodes.

Plain = tuple[Tensor, Tensor, Tensor]
"""Shares of labels of nodes (n, C), edges (n, n), shares of labels of edges (n, n, E)."""


def plain_layer(net: GraphStudent, family: str, layer: int, x: Tensor, there: Tensor, e: Tensor) -> Tensor:
    weight = dict(net.layers[layer].named_parameters())
    if family == "gin":
        sent = torch.einsum("ij,ijw->iw", there, F.relu(x[None] + e))
        hidden = (1 + weight["eps"]) * x + sent
        hidden = F.relu(hidden @ weight["mlp.0.weight"].T + weight["mlp.0.bias"])
        return hidden @ weight["mlp.2.weight"].T + weight["mlp.2.bias"]
    if family == "gcn":
        degree = there.sum(1) + 1
        sent = torch.einsum("ij,ijw,j->iw", there, x[None] + e, degree**-0.5)
        return (x / degree[:, None] + sent * degree[:, None] ** -0.5) @ weight["linear.weight"].T + weight[
            "linear.bias"
        ]
    x = x @ weight["linear.weight"].T
    rows = []
    for i in range(len(x)):
        sent = torch.cat([x + e[i], x[i : i + 1]])
        score = sent @ weight["sender.weight"][0] + x[i] @ weight["receiver.weight"][0]
        part = torch.cat([there[i], torch.ones(1, dtype=x.dtype)]) * F.leaky_relu(score, 0.2).exp()
        rows.append((part / part.sum()) @ sent)
    return torch.stack(rows) + weight["bias"]


def plain_loss(net: GraphStudent, family: str, graphs: list[Plain], label: int) -> Tensor:
    losses = []
    for nodes, there, labels in graphs:
        x = nodes @ torch.cat([column.weight for column in net.embedding.columns])
        for layer, edges in enumerate(net.edges):
            e = labels @ torch.cat([column.weight for column in edges.columns])
            x = F.relu(plain_layer(net, family, layer, x, there, e))
        losses.append(-(net.head(x.mean(0)).log_softmax(0)[label]))
    return torch.stack(losses).mean()


def plain_graphs(relaxed: RelaxedGraphs, draw: Draw, which: range) -> list[Plain]:
    """Of each graph what the logits and the noise say, pair by pair."""
    made = []
    for g in which:
        begin, end = (int(relaxed.first.node_ptr[at]) for at in (g, g + 1))
        noisy = (relaxed.node_logits + draw.node_labels)[begin:end] / draw.temperature
        nodes = torch.cat([part.softmax(1) for part in noisy.split(relaxed.first.node_sizes, 1)], 1)
        there = torch.zeros(end - begin, end - begin, dtype=torch.float64)
        labels = torch.zeros(end - begin, end - begin, 2, dtype=torch.float64)
        pair = int(relaxed.pair_ptr[g])
        for i in range(end - begin):
            for j in range(i + 1, end - begin):
                place = torch.zeros_like(there)
                place[i, j] = place[j, i] = 1
                chance = 1 / (1 + (-(relaxed.edge_logits[pair] + draw.edges[pair]) / draw.temperature).exp())
                kinds = ((relaxed.label_logits[pair] + draw.edge_labels[pair]) / draw.temperature).softmax(0)
                there, labels, pair = there + place * chance, labels + place[..., None] * kinds, pair + 1
        made.append((nodes, there, labels))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_objective_is_the_formula(few: GraphSet, family: str):
    """Loss and gradients in all logits; and a step of the logits changes the loss by its gradient."""
    net, relaxed = student(f"{family}-d2-w3-mean", few), RelaxedGraphs(few, 0.7, torch.float64)
    draw, items, parameters = relaxed.draw(0.8, seeds.generator(1, "t")), graph_items(few), list(net.parameters())
    ranges = [range(2), range(2, 5)]

    def found() -> Tensor:
        pairs = [
            ClassPair(label, items.batch(np.array(own)), relaxed.batch(own[0], own[-1] + 1, draw))
            for label, own in enumerate(ranges)
        ]
        return matching_loss(net, parameters, pairs, "mse") + 0.3 * density_excess(relaxed.edge_logits, 0.1)

    real = RelaxedGraphs(few, 60, torch.float64)
    expected = 0.3 * torch.relu(relaxed.edge_logits.sigmoid().sum() / len(relaxed.edge_logits) - 0.1)
    for label, own in enumerate(ranges):
        truth = torch.autograd.grad(
            plain_loss(net, family, plain_graphs(real, silent(real, 0.01), own), label), parameters
        )
        learned = plain_loss(net, family, plain_graphs(relaxed, draw, own), label)
        ours = torch.autograd.grad(learned, parameters, create_graph=True)
        expected = expected + sum(((a.detach() - b) ** 2).sum() for a, b in zip(truth, ours, strict=True))
    assert apart(found(), expected) < 1e-12 * float(expected.detach())
    one, two = (torch.autograd.grad(loss, relaxed.logits) for loss in (found(), expected))
    for a, b in zip(one, two, strict=True):
        assert float((a - b).abs().max()) <= 1e-10 * float(b.abs().max())
    with torch.no_grad():
        for logits, gradient in zip(relaxed.logits, one, strict=True):
            place = int(gradient.abs().argmax())
            values = []
            for way in (1e-5, -2e-5):
                logits.view(-1)[place] += way
                with torch.enable_grad():
                    values.append(float(found().detach()))
            logits.view(-1)[place] += 1e-5
            assert abs((values[0] - values[1]) / 2e-5 - float(gradient.view(-1)[place])) < 1e-6


def test_real_graphs_match_themselves(few: GraphSet):
    """The same graphs have the same gradients: nothing is left."""
    net, relaxed, items = student("gin-d2-w4-mean", few), RelaxedGraphs(few, 60, torch.float64), graph_items(few)
    pairs = [
        ClassPair(label, items.batch(np.array(own)), relaxed.batch(own[0], own[-1] + 1, silent(relaxed, 0.01)))
        for label, own in enumerate([range(2), range(2, 5)])
    ]
    for kind in ("mse", "cos"):
        assert float(matching_loss(net, list(net.parameters()), pairs, kind).detach().abs()) < 1e-4
    wrong = [replace(pair, label=1 - pair.label) for pair in pairs]
    assert float(matching_loss(net, list(net.parameters()), [pairs[0], wrong[0]], "mse").detach()) < 1e-20
    one, two = (gradients(net, pair.real, pair.label, list(net.parameters()), False) for pair in (pairs[0], wrong[0]))
    assert not torch.equal(one[0], two[0])


@pytest.mark.parametrize("metric", ["mse", "cos"])
def test_the_loss_of_a_step_is_that_of_the_released_code(context: Context, metric: str):
    """Of each class ``|g - g'|^2 / |g|^2``, or one minus the cosine, of all gradients as one vector, in numpy."""
    method = DosCond(replace(SMALL, metric=metric), context)
    method.setup()
    draw = method.graphs.draw(1.0, seeds.generator(context.seed, "doscond-draw", 0))
    net, expected = method._network(0), 0.0
    for label, (begin, end) in enumerate(pairwise(method._ends)):
        real, learned = (
            np.concatenate([one.detach().double().numpy().ravel() for one in gradients(net, batch, label, part, False)])
            for part in [list(net.parameters())]
            for batch in (method._batch(0, label, SMALL.batch_real), method.graphs.batch(begin, end, draw))
        )
        lengths = np.linalg.norm(real) * np.linalg.norm(learned) + 1e-6
        far = ((learned - real) ** 2).sum() / (real**2).sum() if metric == "mse" else 1 - real @ learned / lengths
        expected += float(far)
    assert method.step(0)["loss"] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_steps_are_those_of_adam_at_rates_that_drop(context: Context, monkeypatch: pytest.MonkeyPatch):
    """Edges and labels at a rate each, a tenth from ``drop_at`` on; draws are colder from step to step."""
    settings = {"lr_edges": 0.3, "lr_labels": 0.05, "drop_at": 2, "coldest": 0.01}
    method = DosCond(replace(SMALL, **settings), context)
    method.setup()
    drawn, temperatures = method.graphs.draw, []

    def watched(temperature: float, generator: torch.Generator) -> Draw:
        temperatures.append(temperature)
        return drawn(temperature, generator)

    monkeypatch.setattr(method.graphs, "draw", watched)
    own = [one.detach().clone().requires_grad_() for one in method.graphs.logits]
    adam = torch.optim.Adam([{"params": own[:1], "lr": 0.3}, {"params": own[1:], "lr": 0.05}])
    for step in range(4):
        if step == 2:
            for group in adam.param_groups:
                group["lr"] *= 0.1
        method.step(step)
        for one, logits in zip(own, method.graphs.logits, strict=True):
            one.grad = logits.grad.clone()
        adam.step()
        for one, logits in zip(own, method.graphs.logits, strict=True):
            torch.testing.assert_close(logits, one, rtol=1e-5, atol=1e-6)
    assert temperatures == pytest.approx([1.0, 0.1, 0.01, 0.01])


def test_weight_of_the_density(context: Context):
    """Where all edges are as likely as not: b times the slope of their mean probability, on each edge's logit."""
    slopes = []
    for density in (0.0, 5.0):
        method = DosCond(replace(SMALL, density=density), context)
        method.setup()
        first = method.graphs.first
        assert len(first.edges) < 0.5 * len(method.graphs.edge_logits)
        with torch.no_grad():
            method.graphs.edge_logits.zero_()
        method.step(0)
        slopes.append(method.graphs.edge_logits.grad.clone())
    expected = torch.full_like(slopes[0], 5 * 0.25 / len(slopes[0]))
    torch.testing.assert_close(slopes[1] - slopes[0], expected, rtol=1e-3, atol=1e-6)


def test_draws_have_the_probabilities(few: GraphSet):
    relaxed = RelaxedGraphs(few, 1, torch.float64)
    draws = [relaxed.draw(0.01, seeds.generator(number, "p")) for number in range(400)]
    batches = [relaxed.batch(0, len(few), draw) for draw in draws]
    half = len(relaxed.edge_logits)
    share = torch.stack([(batch.weight[:half] > 0.5).double() for batch in batches]).mean(0)
    assert float((share - relaxed.edge_logits.detach().sigmoid()).abs().max()) < 0.1
    labels = torch.stack([(batch.labels > 0.5).double() for batch in batches]).mean(0)[:, :3]
    assert float((labels - relaxed.node_logits.detach()[:, :3].softmax(1)).abs().max()) < 0.12
    sure = torch.stack([batch.weight for batch in batches]).detach()
    assert float((sure * (1 - sure)).mean()) < 0.02, "cold draws are nearly whole"


def test_whole_graphs(few: GraphSet):
    """As they began; the likeliest edges, no more than at first; the likeliest labels."""
    relaxed = RelaxedGraphs(few, 5)
    assert relaxed.whole().fingerprint == few.fingerprint
    with torch.no_grad():
        relaxed.edge_logits[:3] = torch.tensor([1.0, 3.0, 2.0])  # three edges are likely, two are kept
        relaxed.edge_logits[3:9] = -1.0
        relaxed.node_logits[0, :3] = torch.tensor([0.0, 9.0, 8.0])
    made = relaxed.whole()
    assert made.edges_per_graph.tolist() == [2, 0, 1, 1, 3]
    assert made.edges[:2].tolist() == [[0, 2], [1, 2]]
    assert made.node_labels[0, 0] == 1
    assert made.bytes <= few.bytes


def test_an_edge_to_itself_is_left_out():
    graphs = make_graphs("loops", [2, 2], [0, 1, 0, 1], [2, 1], [[0, 0], [0, 1], [0, 1]], None, [0, 1])
    made = RelaxedGraphs(graphs, 5).whole()
    assert made.edges.tolist() == [[0, 1], [0, 1]]
    assert made.edge_labels.shape == (2, 0)


def test_it_begins_as_random_and_keeps_its_bytes(context: Context):
    train = context.train.graphs
    first = first_graphs(SMALL, train, 3)
    assert at_most(first) <= 500
    assert (np.diff(first.labels) >= 0).all()
    assert set(first.labels.tolist()) == {0, 1}
    method = DosCond(SMALL, replace(context, seed=3))
    method.setup()
    assert method.payload.fingerprint == first.fingerprint


@pytest.mark.parametrize("name", ["gin-d1-w4-mean", "gcn-d2-w4-sum-bn", "gat-d1-w4-mean-ln"])
def test_it_goes_on_with_the_same_numbers(context: Context, name: str):
    def made() -> DosCond:
        method = DosCond(SMALL, replace(context, student=name))
        method.setup()
        return method

    whole, killed, again = made(), made(), made()
    metrics = [whole.step(i) for i in range(4)]
    assert [killed.step(i) for i in range(2)] == metrics[:2]
    again.load_state(killed.state())
    assert [again.step(i) for i in (2, 3)] == metrics[2:]
    for one, two in zip(whole.graphs.logits, again.graphs.logits, strict=True):
        assert torch.equal(one, two)
    assert whole.payload.bytes <= 500
    state, other = killed.state(), made()
    state.tensors["edges"] = state.tensors["edges"][1:]
    with pytest.raises(ValueError, match="shape"):
        other.load_state(state)


def test_a_step_that_is_not_finite_is_not_taken(context: Context):
    method = DosCond(SMALL, context)
    method.setup()
    with torch.no_grad():
        method.graphs.edge_logits[0] = torch.nan
    before = method.graphs.node_logits.detach().clone()
    with pytest.raises(NotFiniteError):
        method.step(0)
    assert torch.equal(method.graphs.node_logits, before)


def test_the_loss_falls(context: Context):
    """On one network at one draw, over and over."""
    method = DosCond(replace(SMALL, cooling=10**6), context)
    method.setup()
    losses = [method.step(0)["loss"] for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("config", "needle"),
    [
        (DosCondConfig(), "--max-bytes is missing"),
        (DosCondConfig(max_bytes=20), "allowed are 20"),
        (replace(SMALL, coldest=2), "coldest"),
        (replace(SMALL, lr_edges=-1.0), "lr"),
    ],
)
def test_refused(context: Context, config: DosCondConfig, needle: str):
    with pytest.raises(UserError, match=needle):
        DosCond.check(config, context)


def test_too_many_pairs_are_refused(context: Context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddbench.methods.doscond.MOST_PAIRS", 10)
    with pytest.raises(UserError, match="pairs of nodes, at most 10"):
        DosCond.check(SMALL, context)
