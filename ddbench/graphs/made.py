"""A small made set of graphs with planted classes, for tests and first steps. Imports no torch."""

from __future__ import annotations

import numpy as np

from ddbench.graphs.graphset import GraphSet, make_graphs
from ddbench.runtime.seeds import derive

MADE_GRAPHS = 160
SMALLEST, LARGEST = 10, 20
LABELS = 4
RINGS = ((1, 2, 1, 2, 3), (1, 1, 2, 2, 3))
"""Labels around the ring of five that each class has: the same ones, in another order."""


def made_graphs(count: int = MADE_GRAPHS, seed: int = 0) -> GraphSet:
    """Random trees with labels, with one ring of five nodes hung on: how the ring is labelled is the class.

    Both classes have graphs of the same sizes (10 to 20 nodes) and rings of the same labels, so that neither the
    number of nodes nor that of labels tells the class; two rounds of neighbours do.

    Args:
        count: of graphs; half of each class.
    """
    draw = np.random.Generator(np.random.PCG64(derive(seed, "made-graphs")))
    nodes, labels, edges, counts = [], [], [], []
    for graph in range(count):
        size = SMALLEST + (graph // 2) % (LARGEST - SMALLEST + 1)
        rest = size - 5
        parents = [int(draw.integers(node)) for node in range(1, rest)]
        own = [(parent, node) for node, parent in enumerate(parents, start=1)]
        own += [(rest + k, rest + (k + 1) % 5) for k in range(5)] + [(int(draw.integers(rest)), rest)]
        nodes.append(size)
        labels += [int(draw.integers(LABELS)) for _ in range(rest)] + list(RINGS[graph % 2])
        edges += own
        counts.append(len(own))
    classes = np.arange(count) % 2
    return make_graphs("made", nodes, np.array(labels)[:, None], counts, np.array(edges), None, classes)
