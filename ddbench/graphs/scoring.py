"""What a student makes of what is kept of graphs: trained on it, or as a reference says, and tested once."""

from __future__ import annotations

import numpy as np

from ddbench.graphs.baselines import untrained_scores
from ddbench.graphs.batches import Items, graph_items, tree_items
from ddbench.graphs.dataset import GraphDataset
from ddbench.graphs.graphset import GraphSet
from ddbench.graphs.mirage import TreePayload
from ddbench.graphs.protocols import GraphProtocol
from ddbench.graphs.reference import SIZE, Reference
from ddbench.graphs.store import Payload
from ddbench.graphs.training import Scores, score_student, scores, train_student


def learned_items(payload: Payload) -> Items | None:
    """What a student is trained on; None: a reference trains none."""
    if isinstance(payload, TreePayload):
        return tree_items(payload)
    return graph_items(payload) if isinstance(payload, GraphSet) else None


def scored(payload: Payload, dataset: GraphDataset, student: str, protocol: GraphProtocol, seed: int) -> Scores:
    """ROC-AUC and accuracy on the test part.

    Args:
        payload: of the training part of ``dataset``.
        student: name of the network; the number of nodes alone needs none, and is the same for all.

    Raises:
        UserError: see :func:`ddbench.graphs.training.train_student`.
    """
    train, test, valid = dataset.train.graphs, dataset.test.graphs, dataset.valid.graphs
    items = learned_items(payload)
    if items is not None:
        trained = train_student(student, items, protocol, seed, graph_items(valid))
        return score_student(trained.net, graph_items(test))
    assert isinstance(payload, Reference)
    if payload.how == SIZE:
        sign, centre, spread = (payload.numbers[name] for name in ("sign", "centre", "spread"))
        return scores(sign * (test.nodes_per_graph[:, None].astype(np.float64) - centre) / spread, test.labels)
    return untrained_scores(student, train, test, seed)
