#!/usr/bin/env bash
# torch_geometric's GINConv, EdgeConv, NNConv and GAE draw the weights of the network that is given to them anew.
#
# torch_geometric 2.8.1, torch 2.15.0. These classes take a network, and their constructor resets it: a trained network
# that is wrapped to be evaluated, a teacher's layers, or weights set by hand for a repeatable start are replaced by
# random ones, in place, without a word. GAE(encoder) does so to a whole trained encoder. Wrappers of other families
# (Sequential, GPSConv, DeepGCNLayer, DeepSetsAggregation) keep what they are given. Load the weights after wrapping.
# ddbench's graph students are plain torch (ddbench/graphs/students.py).
#
# Seen:
#   torch_geometric 2.8.1
#   draw anew: GINConv GINEConv EdgeConv NNConv GAE
#   keep: Sequential GPSConv DeepGCNLayer DeepSetsAggregation
#
# Run by hand: bash findings/pyg_convs_draw_anew.sh. Exit 1: the behaviour has changed.
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


def network():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


def kept(wrap, inner):
    """Whether the weights are those of before."""
    before = [parameter.clone() for parameter in inner.parameters()]
    wrap(inner)
    return all(map(torch.equal, before, inner.parameters()))


torch.manual_seed(0)
cases = {
    "GINConv": (gnn.GINConv, network()),
    "GINEConv": (gnn.GINEConv, network()),
    "EdgeConv": (gnn.EdgeConv, network()),
    "NNConv": (lambda inner: gnn.NNConv(2, 2, inner), network()),
    "GAE": (gnn.GAE, gnn.GCN(4, 4, 2)),
    "Sequential": (lambda inner: gnn.Sequential("x", [(inner, "x -> x")]), network()),
    "GPSConv": (lambda inner: gnn.GPSConv(4, inner), gnn.GCNConv(4, 4)),
    "DeepGCNLayer": (gnn.DeepGCNLayer, gnn.GCNConv(4, 4)),
    "DeepSetsAggregation": (gnn.aggr.DeepSetsAggregation, network()),
}
found = {name: kept(*case) for name, case in cases.items()}
print("torch_geometric", torch_geometric.__version__)
print("draw anew:", *[name for name, same in found.items() if not same])
print("keep:", *[name for name, same in found.items() if same])
sys.exit(0 if list(found.values()) == [False] * 5 + [True] * 4 else 1)
PYTHON
