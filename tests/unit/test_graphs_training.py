"""Training on graphs and on distilled sets, and what they are compared with."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ddbench.graphs.baselines import CORESETS, coreset, oriented, size_scores, untrained_scores, wl_features
from ddbench.graphs.batches import graph_items, tree_items
from ddbench.graphs.dataset import GraphDataset, GraphSplit
from ddbench.graphs.graphset import make_graphs
from ddbench.graphs.made import made_graphs
from ddbench.graphs.mirage import MirageConfig, distil
from ddbench.graphs.reference import SIZE, UNTRAINED, reference
from ddbench.graphs.scoring import scored
from ddbench.graphs.splits import folds
from ddbench.graphs.training import (
    PROTOCOLS,
    DivergedError,
    Scores,
    draws,
    graph_protocol,
    score_student,
    scores,
    train_student,
)
from ddbench.modalities import modality
from ddbench.runtime.errors import UserError

QUICK = replace(graph_protocol("graph-v1"), updates=60)


def parts():
    graphs = made_graphs()
    split = folds(graphs.labels, 0, 0)
    return [graphs.take(part) for part in (split.train, split.valid, split.test)]


def test_students_learn_the_planted_classes_from_graphs_and_from_trees():
    """Node counts say nothing; the ring of each class is learned, and from the trees too."""
    train, _, test = parts()
    payload = distil(train, MirageConfig(depth=2, support=(10,)))
    assert payload.bytes < train.bytes / 2
    assert abs(size_scores(train, test).auc - 0.5) < 0.2
    quick = replace(QUICK, updates=60, lr=0.01)
    for family, items in (
        ("gin", graph_items(train)),
        ("gin", tree_items(payload)),
        ("gcn", tree_items(payload)),
        ("gat", tree_items(payload)),
    ):
        net = train_student(f"{family}-d2-w16-mean-ln", items, quick, 0).net
        assert score_student(net, graph_items(test)).auc > 0.85, (family, len(items))


def test_a_run_is_its_arguments():
    train, valid, _ = parts()
    items = graph_items(train)
    protocol = replace(graph_protocol("mirage"), updates=20)
    state = torch.get_rng_state()
    first, again, other = (
        train_student("gat-d2-w8-mean-bn", items, protocol, seed, graph_items(valid)) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"
    for one, two in zip(first.net.parameters(), again.net.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.net.head.weight, other.net.head.weight)


def test_weights_best_on_the_validation_part_are_kept():
    train, valid, _ = parts()
    items, chosen_on = graph_items(train), graph_items(valid)
    protocol = replace(graph_protocol("mirage"), updates=40, every=10, lr=0.01)
    found = train_student("gin-d2-w8-mean", items, protocol, 0, chosen_on)
    by_hand = {
        updates: score_student(
            train_student("gin-d2-w8-mean", items, replace(protocol, updates=updates, choice="last"), 0).net, chosen_on
        ).auc
        for updates in (10, 20, 30, 40)
    }
    best = max(by_hand.values())
    assert found.valid_auc == best
    assert found.update == min(updates for updates, auc in by_hand.items() if auc == best)
    assert score_student(found.net, chosen_on).auc == best
    with pytest.raises(UserError, match="protocol mirage chooses weights on a validation part"):
        train_student("gin-d2-w8-mean", items, protocol, 0)


def test_others_are_scored_when_a_student_diverges(monkeypatch: pytest.MonkeyPatch):
    """Its seed is told, and those after it are trained."""
    train, _, _ = parts()
    with pytest.raises(DivergedError, match=r"on graph-v1, seed 1: the loss is (nan|inf) at update \d+$"):
        train_student("gin-d1-w4-mean", graph_items(train), replace(QUICK, lr=1e30), 1)

    def hot(payload: Any, dataset: Any, student: str, protocol: Any, seed: int) -> Scores:
        if seed == 1:
            raise DivergedError("the loss is nan")
        return Scores(auc=0.5 + seed / 10, accuracy=0.5)

    monkeypatch.setattr("ddbench.graphs.scoring.scored", hot)
    plan: Any = SimpleNamespace(synset=SimpleNamespace(payload=None), protocol=QUICK)
    how: tuple[Any, ...] = (None, "gin-d1-w4-mean", [0, 1, 2], None, None, None)
    found = modality("graph").train_and_test(plan, *how)
    assert [(one.seed, one.metrics) for one in found] == [
        (0, {"accuracy": 0.5, "roc_auc": 0.5}),
        (1, "the loss is nan"),
        (2, {"accuracy": 0.5, "roc_auc": 0.7}),
    ]


@pytest.mark.parametrize("student", ["gin-d1-w4-mean-bn", "gcn-d1-w4-sum-bn"])
def test_batch_norm_of_a_single_node_is_refused_before_training(student: str):
    pairs = make_graphs("pairs", [2] * 4, None, [1] * 4, [[0, 1]] * 4, None, [0, 1, 0, 1])
    one_tree = tree_items(distil(pairs, MirageConfig(depth=0)))
    with pytest.raises(UserError, match=rf"{student}, seed 3: update 1 is of a single node.*without -bn"):
        train_student(student, one_tree, QUICK, 3)
    train_student(student.replace("-bn", "-ln"), one_tree, replace(QUICK, updates=2), 3)


def test_batch_norm_is_refused_where_what_is_left_of_an_epoch_is_a_single_node():
    sizes = [1, *[2] * 4]
    graphs = make_graphs("g", sizes, None, [size - 1 for size in sizes], [[0, 1]] * 4, None, [0, 1, 0, 1, 0])
    each, name = replace(QUICK, draw="each", batch=2, updates=3), "gin-d1-w4-mean-bn"
    items, refused = graph_items(graphs), 0
    for seed in range(10):
        if list(draws(items, each, seed))[2].tolist() == [0]:
            refused += 1
            with pytest.raises(UserError, match=rf"seed {seed}: update 3 is of a single node"):
                train_student(name, items, each, seed)
        else:
            train_student(name, items, each, seed)
        train_student(name, items, replace(each, draw="balanced", batch=8), seed)
    assert 0 < refused < 10


def drawn(items, how: str, updates: int = 400) -> Counter[int]:
    protocol = replace(QUICK, draw=how, updates=updates)
    return Counter(np.concatenate(list(draws(items, protocol, 0))).tolist())


def test_draws():
    """Expected shares within five standard deviations of 12,800 draws."""
    payload = distil(parts()[0], MirageConfig(depth=1, support=(0.5,)))
    items = tree_items(payload)
    total = 400 * 32
    support = payload.support.astype(float)
    per_class = np.array([support[payload.labels == label].sum() for label in (0, 1)])
    for how, share in (("weighted", support / support.sum()), ("balanced", support / per_class[payload.labels] / 2)):
        found = drawn(items, how)
        for item, expected in enumerate(share):
            assert abs(found[item] - total * expected) < 5 * (total * expected) ** 0.5, (how, item)
    epoch = -(-len(items) // 32)
    assert set(drawn(items, "each", 3 * epoch).values()) == {3}


def test_scores_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 60)
    values = draw.normal(size=(60, 2)).round(1)
    found = scores(values, labels)
    assert found.auc == pytest.approx(roc_auc_score(labels, values[:, 1] - values[:, 0]), abs=1e-12)
    assert found.accuracy == (values.argmax(1) == labels).mean()
    three = draw.integers(0, 3, 60)
    chances = draw.dirichlet(np.ones(3), 60)
    expected = roc_auc_score(three, chances, multi_class="ovr", average="macro")
    assert scores(chances, three).auc == pytest.approx(expected, abs=1e-12)
    with pytest.raises(UserError, match=r"60 graphs to test on, all of class \[1\]"):
        scores(values, np.ones(60, dtype=np.int64))


def test_node_counts_alone():
    """Class 1 has the larger graphs, but for one of each that is not: 3 of 4 pairs are in order."""
    graphs = make_graphs("g", [1, 4, 3, 9], None, [0] * 4, np.zeros((0, 2)), None, [0, 0, 1, 1])
    assert size_scores(graphs, graphs).auc == 0.75
    turned = make_graphs("g", [1, 4, 3, 9], None, [0] * 4, np.zeros((0, 2)), None, [1, 1, 0, 0])
    assert size_scores(turned, turned).auc == 0.75, "the sign is chosen on training graphs"
    values = np.array([[1.0, 5.0], [3.0, 5.0]])
    assert oriented(values, np.array([0, 1]), values).tolist() == [[1.0, 0.0], [-1.0, 0.0]]


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [1, 1, 0, 0]])
def test_references_score_as_the_baselines(labels: list[int]):
    """What is stored of node counts orders test graphs as the training graphs say, though here it is the reverse."""
    train, test = (
        make_graphs("g", [1, 4, 3, 9], None, [0] * 4, np.zeros((0, 2)), None, own) for own in (labels, labels[::-1])
    )
    spec: Any = None
    dataset = GraphDataset(spec, GraphSplit(train), GraphSplit(test), "", valid=GraphSplit(test), division="")
    student, protocol, payload = "gin-d2-w8-sum", graph_protocol("graph-v1"), reference(SIZE, train)
    larger = np.array(labels[-1:])  # the class of the larger graphs
    assert payload.numbers["sign"].tolist() == np.where(np.arange(2) == larger, 1.0, -1.0).tolist()
    assert payload.numbers["centre"].tolist() == [np.mean([1, 4, 3, 9])] * 2
    assert payload.numbers["spread"].tolist() == [np.std([1, 4, 3, 9])] * 2
    assert scored(payload, dataset, student, protocol, 0) == size_scores(train, test)
    assert size_scores(train, test).auc == 0.25
    untrained = scored(reference(UNTRAINED, train), dataset, student, protocol, 3)
    assert untrained == untrained_scores(student, train, test, 3)


def test_untrained_students_have_the_sign_of_the_training_graphs():
    train, _, _ = parts()
    for seed in range(6):
        assert untrained_scores("gin-d2-w8-sum", train, train, seed).auc >= 0.4


@pytest.mark.parametrize("how", CORESETS)
def test_coresets_are_balanced_and_as_large_as_allowed(how: str):
    train, _, _ = parts()
    limit = 900
    index = coreset(train, how, limit)
    assert len(set(index.tolist())) == len(index)
    labels = train.labels[index]
    assert labels[::2].tolist() == [0] * len(labels[::2])
    assert labels[1::2].tolist() == [1] * len(labels[1::2])
    assert train.take(index).bytes <= limit
    more = coreset(train, how, limit + 200)
    assert len(more) > len(index)
    assert more[: len(index)].tolist() == index.tolist(), "a larger set has the smaller one at its head"
    assert train.take(more[: len(index) + 1]).bytes > limit, "one graph more does not fit"
    assert (coreset(train, how, limit) == index).all()
    assert len(coreset(train, how, 10**9)) == len(train)
    with pytest.raises(UserError, match=r"one graph of each class has \d+ bytes, allowed are 20"):
        coreset(train, how, 20)


def test_random_graphs_differ_by_seed():
    train, _, _ = parts()
    assert coreset(train, "random", 900, 0).tolist() != coreset(train, "random", 900, 1).tolist()
    with pytest.raises(UserError, match="herdin"):
        coreset(train, "herdin", 900)


def test_features_that_are_too_many_are_refused(monkeypatch: pytest.MonkeyPatch):
    train, _, _ = parts()
    monkeypatch.setattr("ddbench.graphs.baselines.MAX_FEATURES", 1000)
    with pytest.raises(UserError, match=r"colours of nodes in \d+ graphs are more than herding"):
        coreset(train, "herding", 900)
    assert len(coreset(train, "random", 900))


def test_features_count_colours():
    graphs = make_graphs("g", [2, 3], [[0], [1], [0], [0], [1]], [1, 1], [[0, 1], [0, 2]], None, [0, 1])
    # round 0: two labels; round 1: 0 alone, 0 with a 1, 1 with a 0
    raw = np.array([[1, 1, 0, 1, 1], [2, 1, 1, 1, 1]], dtype=float)
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.allclose(wl_features(graphs, 1).numpy(), expected, atol=1e-15)


def test_a_loss_that_leaves_the_numbers_is_told():
    items = graph_items(parts()[0])
    with pytest.raises(UserError, match=r"gin-d2-w8-sum on hot, seed 3: the loss is"):
        train_student("gin-d2-w8-sum", items, replace(QUICK, name="hot", lr=1e30), 3)


def test_protocols_have_names():
    for name, made in PROTOCOLS.items():
        assert graph_protocol(name) is made
        assert made.name == name
    for one, two in itertools.combinations(PROTOCOLS.values(), 2):
        assert replace(one, name="") != replace(two, name="")
    with pytest.raises(UserError, match="graph-v2"):
        graph_protocol("graph-v2")
