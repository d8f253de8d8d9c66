"""What a distilled set is compared with: real graphs of as many bytes, node counts alone, networks without training."""

from __future__ import annotations

import bisect

import numpy as np
import torch

from ddbench.data.coreset import herding, k_center, unit_length
from ddbench.graphs.batches import graph_items
from ddbench.graphs.graphset import GraphSet, Ints
from ddbench.graphs.students import build_student
from ddbench.graphs.training import Floats, Scores, log_probabilities, scores
from ddbench.graphs.trees import colours
from ddbench.registry import unknown
from ddbench.runtime.errors import UserError
from ddbench.runtime.seeds import generator

CORESETS = ("random", "herding", "k-center")

MAX_FEATURES = 2**26
"""Numbers in the table of features, 8 bytes each."""


def coreset(graphs: GraphSet, how: str, max_bytes: int, seed: int = 0, rounds: int = 1) -> Ints:
    """Real graphs of at most so many bytes, the classes in turn; the classes' first graphs in any case.

    Args:
        graphs: training graphs.
        how: one of :data:`CORESETS`; the last two on :func:`wl_features`.
        max_bytes: of :attr:`GraphSet.bytes`.
        seed: of the random ones.
        rounds: of colours in the features.

    Returns:
        Positions, one class after the other in turn.

    Raises:
        UserError: no such choice, or one graph of each class has more bytes.
    """
    if how not in CORESETS:
        raise unknown("choice of graphs", how, CORESETS)
    by_class = [np.flatnonzero(graphs.labels == label) for label in range(graphs.classes)]
    # no number takes less than a byte: so many of a class at most
    columns = graphs.node_labels.shape[1], 2 + graphs.edge_labels.shape[1]
    smallest = int((graphs.nodes_per_graph * columns[0] + graphs.edges_per_graph * columns[1]).min())
    many = max_bytes // smallest + 1
    orders = []
    features = None if how == "random" else wl_features(graphs, rounds)
    for label, own in enumerate(by_class):
        if features is None:
            orders.append(own[torch.randperm(len(own), generator=generator(seed, "graph-coreset", label)).numpy()])
        else:
            choose = herding if how == "herding" else k_center
            orders.append(own[choose(features[own], min(len(own), many)).numpy()])
    longest = max(map(len, orders))
    turn = np.array([own[place] for place in range(longest) for own in orders if place < len(own)])
    count = bisect.bisect_right(range(1, len(turn) + 1), max_bytes, key=lambda n: graphs.take(turn[:n]).bytes)
    if count < graphs.classes:
        needed = graphs.take(turn[: graphs.classes]).bytes
        raise UserError(f"--max-bytes: one graph of each class has {needed} bytes, allowed are {max_bytes}")
    return turn[:count]


def wl_features(graphs: GraphSet, rounds: int) -> torch.Tensor:
    """How often each colour of rounds 0 to ``rounds`` is in each graph, rows of length 1: float64 ``(G, colours)``.

    Raises:
        UserError: more than :data:`MAX_FEATURES` numbers.
    """
    owner = np.repeat(np.arange(len(graphs)), graphs.nodes_per_graph)
    parts, found = [], colours(graphs, rounds).colour
    wide = sum(int(colour.max()) + 1 for colour in found)
    if len(graphs) * wide > MAX_FEATURES:
        raise UserError(
            f"{graphs.name}: {wide:,} colours of nodes in {len(graphs):,} graphs are more than herding and "
            "k-center can compare in memory; take random"
        )
    for colour in found:
        table = np.zeros((len(graphs), int(colour.max()) + 1))
        np.add.at(table, (owner, colour), 1)
        parts.append(table)
    return unit_length(torch.from_numpy(np.concatenate(parts, axis=1)))


def size_scores(train: GraphSet, test: GraphSet) -> Scores:
    """The number of nodes alone as the score of each class; its sign is chosen on training graphs."""
    values = [np.repeat(part.nodes_per_graph[:, None].astype(np.float64), part.classes, 1) for part in (train, test)]
    return scores(oriented(values[0], train.labels, values[1]), test.labels)


def untrained_scores(name: str, train: GraphSet, test: GraphSet, seed: int) -> Scores:
    """A student as it is built, without a step; the sign of each class's score is chosen on training graphs."""
    net = build_student(name, train.node_sizes, train.edge_sizes, train.classes, seed)
    values = [log_probabilities(net, graph_items(part)) for part in (train, test)]
    return scores(oriented(values[0], train.labels, values[1]), test.labels)


def oriented(train: Floats, labels: Ints, test: Floats) -> Floats:
    """Scores ``(N, classes)`` of ``test``, centred and scaled as those of ``train``, and turned where a class's own
    training graphs have the lower ones on average."""
    centre, spread = train.mean(0), train.std(0)
    sign = [
        1.0 if train[labels == label, label].mean() >= train[labels != label, label].mean() else -1.0
        for label in range(train.shape[1])
    ]
    made: Floats = np.array(sign) * (test - centre) / np.where(spread > 0, spread, 1.0)
    return made
