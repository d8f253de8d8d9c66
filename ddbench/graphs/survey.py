"""What a set of graphs holds, for a person to look at before work: counts, sizes, labels, balance, doubles."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from ddbench.data.survey import balance
from ddbench.graphs.dataset import GraphDataset
from ddbench.graphs.graphset import GraphSet, Ints
from ddbench.graphs.picture import picture

FIRST = 12
"""Graphs of a class in the picture."""


def survey_lines(dataset: GraphDataset) -> Iterator[str]:
    """A few lines, of which the first names the set and its counts; every graph is looked at once."""
    train, valid, test = (split.graphs for split in (dataset.train, dataset.valid, dataset.test))
    yield (
        f"{dataset.spec.name}: {train.classes} classes, {len(train):,} training, {len(valid):,} validation and "
        f"{len(test):,} test graphs"
    )
    yield f"  split: {dataset.division}"
    yield f"  a graph has {_spread(train.nodes_per_graph)} nodes and {_spread(train.edges_per_graph)} edges"
    yield f"  labels: of a node {_columns(train.node_sizes)}, of an edge {_columns(train.edge_sizes)}"
    yield f"  stored, the training graphs take {train.bytes:,} bytes"
    yield from balance("graphs", dataset.spec.class_names, _per_class(train), _per_class(test))
    known = set(_digests(train))
    twice, both = len(train) - len(known), sum(one in known for one in _digests(test))
    yield f"  the same, number for number: {twice:,} training graphs twice, {both:,} test graphs also trained on"
    yield f"  fingerprint {dataset.fingerprint[:16]}"


def first_graphs(dataset: GraphDataset) -> bytes:
    """A picture of the first training graphs of each class, PNG."""
    train = dataset.train.graphs
    chosen = [np.flatnonzero(train.labels == label)[:FIRST] for label in range(train.classes)]
    return picture(train.take(np.concatenate(chosen)))


def _per_class(graphs: GraphSet) -> tuple[int, ...]:
    return tuple(np.bincount(graphs.labels, minlength=graphs.classes).tolist())


def _spread(counts: Ints) -> str:
    return f"{counts.min():,} to {counts.max():,} (median {np.median(counts):g})"


def _columns(sizes: tuple[int, ...]) -> str:
    return " and ".join(map(str, sizes)) + " kinds" if sizes else "none"


def _digests(graphs: GraphSet) -> Iterator[bytes]:
    """Of each graph, by its numbers in their order: the same graph with other numbers of its nodes is another one."""
    for graph in range(len(graphs)):
        digest = hashlib.blake2b(digest_size=16)
        nodes, edges = (slice(*ptr[graph : graph + 2]) for ptr in (graphs.node_ptr, graphs.edge_ptr))
        for part in (graphs.node_labels[nodes], graphs.edges[edges], graphs.edge_labels[edges]):
            digest.update(f"{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        yield digest.digest()
