"""Colours against trees built by brute force, the miner against all subsets, Mirage's product as a function."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from ddbench.graphs.graphset import GraphSet, make_graphs, pack
from ddbench.graphs.made import made_graphs
from ddbench.graphs.mining import frequent_itemsets
from ddbench.graphs.mirage import MirageConfig, TreePayload, distil
from ddbench.graphs.trees import colours, transactions, unroll
from ddbench.runtime.errors import UserError

Tree = tuple[object, ...]


def random_graphs(count: int, seed: int = 0, edge_labels: bool = True) -> GraphSet:
    """Graphs with loops, edges that close rings and labels, and a node that stands alone now and then."""
    draw = np.random.default_rng(seed)
    nodes = draw.integers(1, 8, count)
    pairs = [
        sorted({(int(a), int(b)) for a, b in np.sort(draw.integers(0, n, (int(draw.integers(0, 9)), 2)), 1)})
        for n in nodes
    ]
    total = sum(map(len, pairs))
    return make_graphs(
        "random",
        nodes,
        draw.integers(0, 3, (nodes.sum(), 2)),
        [len(own) for own in pairs],
        np.array([pair for own in pairs for pair in own]),
        draw.integers(0, 2, (total, 1)) if edge_labels else None,
        np.arange(count) % 2,
    )


def renumbered(graphs: GraphSet, seed: int) -> GraphSet:
    """The same graphs in another order, their nodes too."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(graphs))
    nodes, edges, counts, edge_labels = [], [], [], []
    for g in order:
        size = graphs.nodes_per_graph[g]
        new = draw.permutation(size)
        nodes.append(graphs.node_labels[graphs.node_ptr[g] : graphs.node_ptr[g + 1]][np.argsort(new)])
        own = slice(graphs.edge_ptr[g], graphs.edge_ptr[g + 1])
        edges.append(new[graphs.edges[own]])
        edge_labels.append(graphs.edge_labels[own])
        counts.append(len(edges[-1]))
    return make_graphs(
        graphs.name,
        graphs.nodes_per_graph[order],
        np.concatenate(nodes),
        counts,
        np.concatenate(edges),
        np.concatenate(edge_labels),
        graphs.labels[order],
    )


def neighbours(graphs: GraphSet) -> list[list[tuple[int, Tree]]]:
    """For every node its neighbours with the labels of the edges to them, told edge by edge."""
    found: list[list[tuple[int, Tree]]] = [[] for _ in graphs.node_labels]
    for g in range(len(graphs)):
        for e in range(graphs.edge_ptr[g], graphs.edge_ptr[g + 1]):
            a, b = (int(end) + int(graphs.node_ptr[g]) for end in graphs.edges[e])
            label = tuple(graphs.edge_labels[e].tolist())
            found[a].append((b, label))
            if a != b:
                found[b].append((a, label))
    return found


def brute_tree(graphs: GraphSet, around: list[list[tuple[int, Tree]]], node: int, depth: int, degree: bool) -> Tree:
    """The canonical tree at a node: its label, then its sorted (edge, child)."""
    label = (*graphs.node_labels[node].tolist(), len(around[node]) if degree else 0)
    if not depth:
        return (label, ())
    return (label, tuple(sorted((e, brute_tree(graphs, around, v, depth - 1, degree)) for v, e in around[node])))


def stored_tree(payload_trees, index: int, depth: int) -> Tree:
    """The canonical tree of one that was unrolled."""
    begin, end = payload_trees.ptr[index : index + 2]
    children: dict[int, list[int]] = {}
    for node in range(1, end - begin):
        children.setdefault(int(payload_trees.parent[begin + node]), []).append(node)

    def tree(node: int, left: int) -> Tree:
        label = (*payload_trees.labels[begin + node].tolist(), 0)
        if not left:
            assert node not in children
            return (label, ())
        parts = [
            (tuple(payload_trees.edge_labels[begin + c].tolist()), tree(c, left - 1)) for c in children.get(node, [])
        ]
        return (label, tuple(sorted(parts)))

    return tree(0, depth)


@pytest.mark.parametrize("degree", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("graphs", [made_graphs(24), random_graphs(60), random_graphs(60, 1, False)], ids=str)
def test_colours_are_canonical_trees(graphs: GraphSet, depth: int, degree: bool):
    around = neighbours(graphs)
    colour = colours(graphs, depth, degree).colour[depth].tolist()
    trees = [brute_tree(graphs, around, node, depth, degree) for node in range(len(colour))]
    assert len(set(zip(colour, trees, strict=True))) == len(set(colour)) == len(set(trees)), "one to one"
    assert sorted(set(colour)) == list(range(len(set(colour))))


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_trees_unrolled_are_those_of_the_colours(depth: int):
    graphs = random_graphs(40)
    found = colours(graphs, depth)
    wanted = np.unique(found.colour[-1])[::-1]
    trees = unroll(found, wanted)
    around = neighbours(graphs)
    for index, colour in enumerate(wanted.tolist()):
        node = int(np.flatnonzero(found.colour[-1] == colour)[-1])
        assert stored_tree(trees, index, depth) == brute_tree(graphs, around, node, depth, False)
        assert trees.degree[trees.ptr[index]] == len(around[node]) or not depth
    assert (trees.take(np.array([2, 0])).labels[0] == trees.labels[trees.ptr[2]]).all()


def test_degrees_of_the_last_level_are_the_usual_ones_or_exact():
    graphs = random_graphs(60)
    usual = colours(graphs, 1).usual_degree
    for label in np.unique(graphs.node_labels, axis=0):
        nodes = (graphs.node_labels == label).all(1)
        counts = Counter(graphs.degrees[nodes].tolist())
        best = min(d for d, n in counts.items() if n == max(counts.values()))
        assert set(usual[nodes].tolist()) == {best}
    assert (colours(graphs, 1, degree_labels=True).usual_degree == graphs.degrees).all()


def test_transactions_are_sets_without_lonely_nodes():
    graphs = make_graphs("g", [3, 1], [[0], [0], [1], [0]], [1, 0], [[0, 1]], None, [0, 1])
    first, second = transactions(colours(graphs, 1))
    assert len(first) == 1
    assert len(second) == 0


def test_a_tree_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddbench.graphs.trees.MAX_TREE_NODES", 1000)
    star = [[0, leaf] for leaf in range(1, 60)]
    graphs = make_graphs("stars", [60, 60], None, [59, 59], star + star, None, [0, 1])
    with pytest.raises(UserError, match=r"stars: 2 trees of depth 3 have more than 1,000 nodes; take a smaller depth"):
        distil(graphs, MirageConfig(depth=3))


def all_subsets(baskets: list[list[int]], support: int) -> dict[tuple[int, ...], int]:
    """Every set that is a subset of some transaction, counted transaction by transaction."""
    counts: Counter[tuple[int, ...]] = Counter()
    for basket in baskets:
        for size in range(1, len(set(basket)) + 1):
            counts.update(itertools.combinations(sorted(set(basket)), size))
    return {items: count for items, count in counts.items() if count >= support}


@pytest.mark.parametrize("seed", range(8))
def test_miner_finds_what_all_subsets_show(seed: int):
    draw = np.random.default_rng(seed)
    baskets = [draw.integers(0, 9, draw.integers(0, 8)).tolist() for _ in range(30)]
    for support in (1, 2, 5, 31):
        found = frequent_itemsets(baskets, support, cap=10_000)
        assert dict(found) == all_subsets(baskets, support)
        assert found == sorted(found, key=lambda one: (-one[1], one[0]))


def test_miner_of_the_made_graphs():
    graphs = made_graphs(24)
    baskets = [basket.tolist() for basket in transactions(colours(graphs, 1))]
    assert dict(frequent_itemsets(baskets, 4, cap=10**6)) == {
        items: count for items, count in all_subsets(baskets, 4).items() if count >= 4
    }


def test_miner_stops_at_the_cap():
    baskets = [list(range(400))] * 3
    with pytest.raises(UserError, match=r"c: more than 1,000 itemsets are in at least 2 of 3 graphs; take a higher"):
        frequent_itemsets(baskets, 2, cap=1000, what="c")
    assert len(frequent_itemsets([[0, 1, 2]] * 2, 2, cap=7)) == 7
    with pytest.raises(UserError, match="more than 6"):
        frequent_itemsets([[0, 1, 2]] * 2, 2, cap=6)
    with pytest.raises(UserError, match="support 0"):
        frequent_itemsets(baskets, 0, cap=1000)


def sets_of(payload: TreePayload) -> set[tuple[int, int, frozenset[Tree]]]:
    """Class, support and trees of each stored set."""
    trees = [stored_tree(payload.trees, index, payload.depth) for index in range(len(payload.trees))]
    return {
        (int(label), int(support), frozenset(trees[t] for t in payload.items[begin:end]))
        for label, support, begin, end in zip(
            payload.labels, payload.support, payload.item_ptr[:-1], payload.item_ptr[1:], strict=True
        )
    }


def test_product_is_the_frequent_sets_of_each_class():
    graphs = made_graphs(40)
    payload = distil(graphs, MirageConfig(depth=1, support=(8, 6)))
    around = neighbours(graphs)
    expected = set()
    for label, support in ((0, 8), (1, 6)):
        names: dict[Tree, int] = {}
        baskets = []
        for g in np.flatnonzero(graphs.labels == label):
            own = {brute_tree(graphs, around, v, 1, False) for v in range(graphs.node_ptr[g], graphs.node_ptr[g + 1])}
            baskets.append([names.setdefault(tree, len(names)) for tree in own])
        back = {number: tree for tree, number in names.items()}
        for items, count in all_subsets(baskets, support).items():
            expected.add((label, count, frozenset(back[item] for item in items)))
    assert sets_of(payload) == expected
    assert payload.thresholds == (8, 6)
    alone = distil(graphs, MirageConfig(depth=1, support=(8, 6), exclusive=True))
    twice = {sets for label, _, sets in expected if label == 0} & {sets for label, _, sets in expected if label == 1}
    assert twice
    assert sets_of(alone) == {one for one in expected if one[2] not in twice}


@pytest.mark.parametrize("degree", [False, True])
@pytest.mark.parametrize("depth", [0, 2])
def test_numbering_changes_no_byte(depth: int, degree: bool):
    graphs = random_graphs(60)
    config = MirageConfig(depth=depth, support=(1,), degree_labels=degree)
    other = renumbered(graphs, 3)
    assert other.fingerprint != graphs.fingerprint
    assert distil(other, config).fingerprint == distil(graphs, config).fingerprint


def test_bytes_are_those_of_the_stored_arrays():
    payload = distil(made_graphs(), MirageConfig(depth=1, support=(0.5,)))
    assert payload.bytes == sum(values.nbytes for values in payload.packed().values())
    for name, values in payload.packed().items():
        assert values.dtype.itemsize == 1, name
    packed = pack({"a": np.array([-1, 200]), "b": np.array([70_000]), "c": np.array([], dtype=np.int64)})
    assert [values.dtype.str for values in packed.values()] == ["<i2", "<u4", "|u1"]


def test_support_may_be_a_share():
    graphs = made_graphs()
    share = distil(graphs, MirageConfig(depth=1, support=(0.35,)))
    assert share.thresholds == (28, 28)
    assert share.fingerprint == distil(graphs, MirageConfig(depth=1, support=(28,))).fingerprint


def test_product_of_at_most_so_many_bytes():
    graphs = made_graphs()
    payload = distil(graphs, MirageConfig(depth=1, max_bytes=1000))
    assert payload.bytes <= 1000
    lower = tuple(s - 1 for s in payload.thresholds)
    assert distil(graphs, MirageConfig(depth=1, support=lower)).bytes > 1000, "the next support does not fit"
    with pytest.raises(UserError, match="no set of trees is in at least 80 of 80"):
        distil(graphs, MirageConfig(depth=3, support=(80,)))


def pairs_of(names: list[str]) -> GraphSet:
    """Graphs of pairs of equal nodes: of 1:AABB, one pair of A and one of B, in class 1."""
    labels = [[ord(node)] for name in names for node in name[2:]]
    pairs = [len(name[2:]) // 2 for name in names]
    edges = [[2 * k, 2 * k + 1] for count in pairs for k in range(count)]
    classes = [int(name[0]) for name in names]
    return make_graphs("pairs", [2 * count for count in pairs], labels, pairs, edges, None, classes)


def test_exclusive_product_of_at_most_so_many_bytes():
    """A is in 4 of 10 graphs of class 1, too: up to that share class 0 has no set of its own."""
    graphs = pairs_of(["0:AA"] * 10 + ["1:BBAA"] * 4 + ["1:BB"] * 6)
    found = distil(graphs, MirageConfig(depth=1, max_bytes=1000, exclusive=True))
    assert found.thresholds == (5, 5)
    assert found.fingerprint == distil(graphs, MirageConfig(depth=1, support=(5,), exclusive=True)).fingerprint
    with pytest.raises(UserError, match=r"a set of its own within \d+ bytes; .* or leave exclusive out"):
        distil(graphs, MirageConfig(depth=1, max_bytes=found.bytes - 1, exclusive=True))
    both = distil(graphs, MirageConfig(depth=1, max_bytes=1000))
    assert both.thresholds == (1, 1), "with sets of several classes the lowest share fits"


@pytest.mark.parametrize("limit", [216, 500, 1000, 10_000])
def test_exclusive_product_is_that_of_the_first_support_that_fits(limit: int):
    graphs = made_graphs(40)
    found = distil(graphs, MirageConfig(depth=1, max_bytes=limit, exclusive=True, max_itemsets=2000))
    supports = range(3, 21)  # at 2 there are more sets than are allowed
    each = (
        distil(graphs, MirageConfig(depth=1, support=(one,), exclusive=True, max_itemsets=2000)) for one in supports
    )
    made = next(one for one in each if one.bytes <= limit)
    assert found.fingerprint == made.fingerprint
    assert found.thresholds == made.thresholds


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MirageConfig(support=(1, 2, 3)), "support: 3 values for 2 classes"),
        (MirageConfig(support=(1.5,)), "support 1.5: expected a whole number of graphs"),
        (MirageConfig(support=(-1.0,)), "support"),
        (MirageConfig(depth=-1), "depth"),
        (MirageConfig(depth=3, support=(80,)), "no set of trees is in at least 80 of 80 graphs; take a lower"),
        (MirageConfig(depth=0, support=(1,), exclusive=True), "no set of trees of this class alone"),
        (MirageConfig(support=(1,), max_itemsets=50), "more than 50 itemsets .* max_itemsets"),
        (MirageConfig(depth=1, max_bytes=2), "no support gives every class a set within 2 bytes"),
        (MirageConfig(depth=3, max_bytes=2), "no support gives every class a set within 2 bytes"),
    ],
)
def test_what_cannot_be_distilled_is_told(config: MirageConfig, words: str):
    with pytest.raises(UserError, match=words):
        distil(made_graphs(), config)


def test_a_class_without_graphs_is_told():
    with pytest.raises(UserError, match="class 1 has no training graph"):
        distil(made_graphs().take(np.arange(0, 20, 2)), MirageConfig())
