#!/usr/bin/env bash
# torch_geometric's dense layers send messages against the edges that its own to_dense_adj writes.
#
# torch_geometric 2.8.1, torch 2.15.0. An edge of edge_index goes from row 0 to row 1, and GINConv and SAGEConv
# collect at its end. to_dense_adj sets adj[start, end], and DenseGINConv and DenseSAGEConv multiply that
# matrix from the left: they collect at the start. On a graph whose edges go both ways nothing shows; on a directed one
# the two forms of one layer with one set of weights give different numbers, and the transposed matrix makes them equal.
# Distilled graphs are often learned as dense matrices that are not symmetric. ddbench's graphs are not directed.
#
# Seen:
#   torch_geometric 2.8.1
#   GIN: sparse [0, 1, 1], dense [1, 1, 0], dense transposed [0, 1, 1]
#   SAGE: sparse [0, 1, 1], dense [1, 1, 0], dense transposed [0, 1, 1]
#
# Run by hand: bash findings/pyg_dense_against_edges.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6 torch_geometric==2.8.1
PYTHONPATH="$folder" python3 -W ignore - <<'PYTHON'
import sys

import torch
import torch_geometric
from torch import nn
from torch_geometric import nn as gnn
from torch_geometric.utils import to_dense_adj

edges = torch.tensor([[0, 1], [1, 2]])  # 0 -> 1 -> 2
nodes = torch.ones(3, 1)
adjacency = to_dense_adj(edges)


with torch.no_grad():
    sparse = gnn.GINConv(nn.Identity())
    dense = gnn.DenseGINConv(nn.Identity())
    gin = [sparse(nodes, edges) - 1, dense(nodes, adjacency)[0] - 1, dense(nodes, adjacency.mT)[0] - 1]
    sparse, dense = gnn.SAGEConv(1, 1, bias=False, root_weight=False), gnn.DenseSAGEConv(1, 1, bias=False)
    sparse.lin_l.weight.fill_(1)
    dense.lin_rel.weight.fill_(1)
    dense.lin_root.weight.fill_(0)
    sage = [sparse(nodes, edges), dense(nodes, adjacency)[0], dense(nodes, adjacency.mT)[0]]
print("torch_geometric", torch_geometric.__version__)
found = []
for name, outputs in (("GIN", gin), ("SAGE", sage)):
    found.append([[int(value) for value in output.flatten()] for output in outputs])
    print(f"{name}: sparse {found[-1][0]}, dense {found[-1][1]}, dense transposed {found[-1][2]}")
sys.exit(0 if found == [[[0, 1, 1], [1, 1, 0], [0, 1, 1]]] * 2 else 1)
PYTHON
