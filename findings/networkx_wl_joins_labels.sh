#!/usr/bin/env bash
# networkx's Weisfeiler-Lehman hashes write labels one behind the other: 1 beside 2 and 3 is 12 beside 3.
#
# networkx 3.6.1. A node's first hash is that of its own label and its sorted neighbours' as one text, with nothing in
# between. So number labels (atom types, classes) of two digits meet those of one: a node 1 with neighbours 2 and 3, a
# node 12 with neighbour 3 and a node 1 with neighbour 23 have the same hash. Of all neighbourhoods of up to three nodes
# with labels 0 to 11 one in seven shares its hash with another; with labels a to l none does. Graph hashes meet too: an
# edge between 1 and 111 has that of an edge between 11 and 11, whatever the iterations. Subtree features and tests for
# equal graphs are wrong without a word. Labels of equal length avoid it. ddbench does not hash trees as text
# (ddbench/graphs/trees.py).
#
# Seen:
#   networkx 3.6.1
#   hashes of 1 beside 2 and 3, 12 beside 3, 1 beside 23: 1
#   hashes with 2 beside 1 and 3, 2 beside 1 and 4 as well: 3
#   graph hash of 1 - 111 is that of 11 - 11, 1, 3 and 10 iterations: True True True
#   labels 0 to 11: 804 of 5448 neighbourhoods share a hash
#   labels a to l: 0 of 5448 neighbourhoods share a hash
#
# Run by hand: bash findings/networkx_wl_joins_labels.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" networkx==3.6.1
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys
from collections import Counter
from itertools import combinations_with_replacement

import networkx


def star(own, around):
    """A node with label ``own`` and one neighbour for each label of ``around``."""
    graph = networkx.star_graph(len(around))
    networkx.set_node_attributes(graph, dict(enumerate((own, *around))), "label")
    return graph


def node_hash(own, *around):
    """Of a node and its neighbours: the first of the centre's hashes."""
    return networkx.weisfeiler_lehman_subgraph_hashes(star(own, around), node_attr="label", iterations=1)[0][0]


def graph_hash(one, other, iterations):
    """Of an edge between two labels."""
    return networkx.weisfeiler_lehman_graph_hash(star(one, [other]), node_attr="label", iterations=iterations)


def shared(labels):
    """How many of the neighbourhoods have the hash of another, and how many there are."""
    around = [some for count in (1, 2, 3) for some in combinations_with_replacement(labels, count)]
    hashes = Counter(node_hash(own, *some) for own in labels for some in around)
    return sum(count for count in hashes.values() if count > 1), sum(hashes.values())


meet = len({node_hash(1, 2, 3), node_hash(12, 3), node_hash(1, 23), node_hash(2, 1, 3), node_hash(2, 1, 4)})
pair = len({node_hash(1, 2, 3), node_hash(12, 3), node_hash(1, 23)})
graphs = [graph_hash(1, 111, count) == graph_hash(11, 11, count) for count in (1, 3, 10)]
numbers, letters = shared(range(12)), shared("abcdefghijkl")
print("networkx", networkx.__version__)
print("hashes of 1 beside 2 and 3, 12 beside 3, 1 beside 23:", pair)
print("hashes with 2 beside 1 and 3, 2 beside 1 and 4 as well:", meet)
print("graph hash of 1 - 111 is that of 11 - 11, 1, 3 and 10 iterations:", *graphs)
print("labels 0 to 11: {} of {} neighbourhoods share a hash".format(*numbers))
print("labels a to l: {} of {} neighbourhoods share a hash".format(*letters))
sys.exit(0 if (pair, meet) == (1, 3) and all(graphs) and numbers[0] > 0 == letters[0] else 1)
PYTHON
