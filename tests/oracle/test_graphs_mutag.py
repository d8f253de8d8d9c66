"""Colours on MUTAG: the counts and the equality with trees built by brute force, on the copy that grakel's wheel has.

    pip install grakel

Skipped where it is not installed; nothing of it is imported.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ddbench.graphs.baselines import size_scores
from ddbench.graphs.graphset import GraphSet, make_graphs
from ddbench.graphs.read import load_graphs
from ddbench.graphs.trees import colours

Tree = tuple[object, ...]


@pytest.fixture(scope="module")
def mutag() -> GraphSet:
    found = find_spec("grakel")
    places = [Path(place) for place in found.submodule_search_locations or ()] if found else []
    folder = next((one for place in places if (one := place / "tests" / "data" / "MUTAG").is_dir()), None)
    if folder is None:
        pytest.skip("grakel, whose wheel has MUTAG, is not installed")
    return load_graphs(f"graphs:{folder}").graphs


def without_edge_labels(graphs: GraphSet) -> GraphSet:
    return make_graphs(
        graphs.name,
        graphs.nodes_per_graph,
        graphs.node_labels,
        graphs.edges_per_graph,
        graphs.edges,
        None,
        graphs.labels,
    )


def test_what_was_read(mutag: GraphSet):
    assert (len(mutag), mutag.node_ptr[-1], mutag.edge_ptr[-1]) == (188, 3371, 3721)
    assert (mutag.node_sizes, mutag.edge_sizes) == ((7,), (4,))
    assert np.bincount(mutag.labels).tolist() == [63, 125]
    assert size_scores(mutag, mutag).auc == pytest.approx(0.882, abs=0.0005)


def test_distinct_trees(mutag: GraphSet):
    counts = [
        [len(np.unique(colour)) for colour in colours(graphs, 3).colour[1:]]
        for graphs in (mutag, without_edge_labels(mutag))
    ]
    assert counts == [[64, 277, 796], [33, 174, 572]]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_colours_are_trees(mutag: GraphSet, depth: int):
    around: list[list[tuple[int, int]]] = [[] for _ in mutag.node_labels]
    for source, target, edge in zip(*(part.tolist() for part in mutag.arcs), strict=True):
        around[target].append((int(mutag.edge_labels[edge, 0]), source))

    @cache
    def tree(node: int, left: int) -> Tree:
        label = int(mutag.node_labels[node, 0])
        return (
            (label, tuple(sorted((edge, tree(other, left - 1)) for edge, other in around[node]))) if left else (label,)
        )

    trees = [tree(node, depth) for node in range(len(around))]
    colour = colours(mutag, depth).colour[-1].tolist()
    assert len(set(zip(colour, trees, strict=True))) == len(set(colour)) == len(set(trees))
