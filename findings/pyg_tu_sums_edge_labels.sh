#!/usr/bin/env bash
# torch_geometric's reader of TU sets adds up the labels of parallel edges, and drops graphs without edges at the end.
#
# torch_geometric 2.8.1, torch 2.15.0. Two edges between the same nodes become one, and their one-hot labels are added:
# two edges of label 0 read [2, 0], one of each [1, 1], and no edge is of a class any more. Loops are taken out. The
# number of graphs is that of the last edge's graph: a set whose last graphs have nodes but no edges (a single atom, a
# salt) is shorter by these, and their nodes and labels are silently left over; the same graph further up is kept.
# ddbench keeps parallel edges and loops as they are, and every graph (ddbench/graphs/read.py).
#
# Seen:
#   torch_geometric 2.8.1
#   two edges of label 0, and a loop: 2 columns, labels [2, 0] [2, 0]
#   an edge of label 0 and one of label 1: 2 columns, labels [1, 1] [1, 1]
#   three graphs, the last a single node: 2
#   three graphs, the first a single node: 3
#
# Run by hand: bash findings/pyg_tu_sums_edge_labels.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6 torch_geometric==2.8.1
PYTHONPATH="$folder" python3 -W ignore - "$folder/sets" <<'PYTHON'
import sys
from pathlib import Path

import torch_geometric
from torch_geometric.datasets import TUDataset


def read(name, edges, edge_labels, owners, labels):
    """What TUDataset makes of a folder of these: pairs of nodes from 1 on, and a graph for every node."""
    raw = Path(sys.argv[1]) / name / "raw"
    raw.mkdir(parents=True)
    files = {
        "A": [f"{one}, {other}" for one, other in edges],
        "edge_labels": edge_labels,
        "graph_indicator": owners,
        "graph_labels": labels,
        "node_labels": [0] * len(owners),
    }
    for part, lines in files.items():
        (raw / f"{name}_{part}.txt").write_text("".join(f"{line}\n" for line in lines))
    return TUDataset(sys.argv[1], name)


BOND, OTHER = [(1, 2), (2, 1)], [(3, 4), (4, 3)]
print("torch_geometric", torch_geometric.__version__)
double = read("double", [*BOND, *BOND, (1, 1), *OTHER], [0, 0, 0, 0, 0, 1, 1], [1, 1, 2, 2], [0, 1])
mixed = read("mixed", [*BOND, *BOND, *OTHER], [0, 0, 1, 1, 0, 0], [1, 1, 2, 2], [0, 1])
attributes = []
for name, graphs in (("two edges of label 0, and a loop", double), ("an edge of label 0 and one of label 1", mixed)):
    attributes.append(graphs[0].edge_attr.int().tolist())
    print(f"{name}: {graphs[0].edge_index.size(1)} columns, labels", *attributes[-1])
last = read("last", [*BOND, *OTHER], [0] * 4, [1, 1, 2, 2, 3], [0, 1, 0])
first = read("first", [(2, 3), (3, 2), (4, 5), (5, 4)], [0] * 4, [1, 2, 2, 3, 3], [0, 0, 1])
print("three graphs, the last a single node:", len(last))
print("three graphs, the first a single node:", len(first))
sys.exit(0 if attributes == [[[2, 0]] * 2, [[1, 1]] * 2] and (len(last), len(first)) == (2, 3) else 1)
PYTHON
