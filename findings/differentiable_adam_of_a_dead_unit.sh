#!/usr/bin/env bash
# torch's differentiable Adam, RMSprop and Adagrad give NaN as soon as one entry of a gradient is exactly 0.
#
# torch 2.15.0. With differentiable=True an optimiser's step is part of the graph. The step itself is right where a
# gradient is 0 (a dead ReLU, an unused class, a padded pixel: the weight stays), but the derivative of the root of its
# second moment is taken at 0, and 0 * inf is NaN: one dead weight makes the outer gradient of everything before it
# NaN. eps does not help, it is added outside of the root. SGD is not concerned. ddbench's inner loops are SGD
# (ddbench/training/inner.py).
#
# Seen:
#   torch 2.15.0
#   weights after a step of Adam: -0.1 0.0
#   SGD: -1.0 -1.0
#   Adam: 0.0 nan
#   RMSprop: 0.0 nan
#   Adagrad: 0.0 nan
#   Adam, eps 1: -0.25 nan
#
# Run by hand: bash findings/differentiable_adam_of_a_dead_unit.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys

import torch


def rounded(values):
    return [round(value, 4) + 0.0 for value in values.tolist()]  # no -0.0


def outer_gradient(kind, **options):
    """Gradient of the sum of two weights after one step by the factors of their gradients, 1 and 0; and the weights."""
    factors = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True).clone()
    optimizer = kind([weights], differentiable=True, **{"lr": 0.1, **options})
    weights.grad = torch.autograd.grad((weights * factors).sum(), weights, create_graph=True)[0]
    optimizer.step()
    found = torch.autograd.grad(weights.sum(), factors)[0]
    return rounded(found), rounded(weights)


optim = torch.optim
found = {
    "SGD": outer_gradient(optim.SGD, lr=1.0)[0],
    "Adam": outer_gradient(optim.Adam)[0],
    "RMSprop": outer_gradient(optim.RMSprop)[0],
    "Adagrad": outer_gradient(optim.Adagrad)[0],
    "Adam, eps 1": outer_gradient(optim.Adam, lr=1.0, eps=1.0)[0],
}
step = outer_gradient(optim.Adam)[1]
print("torch", torch.__version__.partition("+")[0])
print("weights after a step of Adam:", *step)
for name, values in found.items():
    print(f"{name}:", *values)
dead = all(values[1] != values[1] and values[0] == values[0] for name, values in found.items() if name != "SGD")
sys.exit(0 if dead and found["SGD"] == [-1.0, -1.0] and step == [-0.1, 0.0] else 1)
PYTHON
