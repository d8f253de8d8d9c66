"""How a student learns graphs or a distilled set, and how it is tested: ROC-AUC and accuracy."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ddbench.graphs.batches import Items
from ddbench.graphs.graphset import Ints
from ddbench.graphs.names import parse_student
from ddbench.graphs.protocols import PROTOCOLS as PROTOCOLS
from ddbench.graphs.protocols import GraphProtocol
from ddbench.graphs.protocols import graph_protocol as graph_protocol
from ddbench.graphs.students import GraphStudent, build_student
from ddbench.runtime.errors import UserError
from ddbench.runtime.light import light
from ddbench.runtime.seeds import generator, isolated
from ddbench.statistics import auroc

Floats = NDArray[np.float64]

TESTED_AT_ONCE = 512
"""Items of one batch while testing."""


class DivergedError(UserError):
    """A student's loss is no longer finite."""


@dataclass(frozen=True)
class Scores:
    """ROC-AUC (of several classes: the mean of each that has items against the rest) and accuracy, both 0 to 1."""

    auc: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class TrainedStudent:
    """A student, and after which update its weights were taken; ``valid_auc`` is None where nothing was chosen."""

    net: GraphStudent
    update: int
    valid_auc: float | None


def train_student(
    name: str, items: Items, protocol: GraphProtocol, seed: int, valid: Items | None = None
) -> TrainedStudent:
    """Train a fresh student; the same arguments give the same weights.

    Args:
        items: training graphs or a distilled set.
        seed: names the first weights, the draws and the dropout; different items under one seed share them.
        valid: graphs to choose on, for a protocol that does.

    Raises:
        UserError: see :func:`ddbench.graphs.students.parse_student` and :func:`check_batches`; the protocol chooses
            and there is nothing to choose on. DivergedError: the loss is no longer finite.
    """
    check_batches(name, items, protocol, seed)
    if protocol.choice == "validation" and valid is None:
        raise UserError(f"protocol {protocol.name} chooses weights on a validation part; give one, or take graph-v1")
    net = build_student(name, items.node_sizes, items.edge_sizes, items.classes, seed, protocol.dropout)
    optimiser = light(torch.optim.Adam)(
        net.parameters(), lr=protocol.lr, weight_decay=protocol.weight_decay, fused=True
    )
    labels = torch.from_numpy(items.classes_of)
    best: tuple[float, int, dict[str, torch.Tensor]] | None = None
    net.train()
    with isolated(seed, "graph-training"):  # dropout
        for update, index in enumerate(draws(items, protocol, seed), start=1):
            loss = nn.functional.cross_entropy(net(items.batch(index)), labels[torch.from_numpy(index)])
            if not math.isfinite(loss.item()):
                raise DivergedError(
                    f"{name} on {protocol.name}, seed {seed}: the loss is {loss.item()} at update {update}"
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if valid is not None and protocol.choice == "validation" and update % protocol.every == 0:
                found = score_student(net, valid).auc
                if best is None or found > best[0]:
                    best = (found, update, copy.deepcopy(net.state_dict()))
    net.eval()
    if best is None:
        return TrainedStudent(net, protocol.updates, None)
    net.load_state_dict(best[2])
    return TrainedStudent(net, best[1], best[0])


def check_batches(name: str, items: Items, protocol: GraphProtocol, seed: int) -> None:
    """Refuse a training with a batch that its student cannot take: batch norm has no statistics of a single node.

    Raises:
        UserError: names the student and the update.
    """
    if parse_student(name).norm != "bn" or np.diff(items.node_ptr).min() > 1:
        return
    for update, index in enumerate(draws(items, protocol, seed), start=1):
        if items.nodes(index) == 1:
            raise UserError(
                f"{name}, seed {seed}: update {update} is of a single node, and batch norm needs 2 or more; take a "
                "student without -bn"
            )


def draws(items: Items, protocol: GraphProtocol, seed: int) -> Iterator[Ints]:
    """The items of each update ``(batch,)``; under ``each``, the last of an epoch may be fewer."""
    g = generator(seed, "graph-draws")
    if protocol.draw == "each":
        queue = np.zeros(0, dtype=np.int64)
        for _ in range(protocol.updates):
            if not len(queue):
                queue = torch.randperm(len(items), generator=g).numpy()
            yield queue[: protocol.batch]
            queue = queue[protocol.batch :]
        return
    one_class = np.zeros(len(items), dtype=np.int64) if protocol.draw == "weighted" else items.classes_of
    order = np.argsort(one_class, kind="stable")
    sums = np.cumsum(items.weight[order].astype(np.float64))
    ends = sums[np.searchsorted(one_class[order], np.arange(one_class.max() + 1), side="right") - 1]
    begins = np.concatenate([[0.0], ends[:-1]])
    for _ in range(protocol.updates):
        which, where = torch.rand(2, protocol.batch, generator=g, dtype=torch.float64).numpy()
        group = (which * len(ends)).astype(np.int64)
        place = begins[group] + where * (ends - begins)[group]
        yield order[np.minimum(np.searchsorted(sums, place, side="right"), len(order) - 1)]


def score_student(net: GraphStudent, items: Items) -> Scores:
    """ROC-AUC and accuracy of a student on items.

    Raises:
        UserError: see :func:`scores`.
    """
    return scores(log_probabilities(net, items), items.classes_of)


def log_probabilities(net: GraphStudent, items: Items) -> Floats:
    """Logarithms of the class probabilities ``(I, classes)``, float64."""
    was = net.training
    net.eval()
    with torch.no_grad():
        parts = [
            net(items.batch(np.arange(start, min(start + TESTED_AT_ONCE, len(items))))).double().log_softmax(1)
            for start in range(0, len(items), TESTED_AT_ONCE)
        ]
    net.train(was)
    found: Floats = torch.cat(parts).numpy()
    return found


def scores(values: Floats, labels: Ints) -> Scores:
    """ROC-AUC and accuracy of scores ``(N, classes)``.

    Raises:
        UserError: all items are of one class.
    """
    there = np.unique(labels)
    if len(there) < 2:
        raise UserError(
            f"{len(labels)} graphs to test on, all of class {there.tolist()}: no ROC-AUC; take another split"
        )
    accuracy = float((values.argmax(1) == labels).mean())
    if values.shape[1] == 2:
        margin = values[:, 1] - values[:, 0]
        return Scores(auroc(margin[labels == 1], margin[labels == 0]), accuracy)
    each = [auroc(values[labels == one, one], values[labels != one, one]) for one in there]
    return Scores(math.fsum(each) / len(each), accuracy)
