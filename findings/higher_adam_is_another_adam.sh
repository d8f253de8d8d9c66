#!/usr/bin/env bash
# higher's differentiable Adam makes other steps than the torch.optim.Adam that it is made from.
#
# higher 0.2.1, torch 2.15.0. higher adds eps to the root of the second moment before its bias is corrected, torch
# after: the first step from gradient g at rate 1 is g / (|g| + eps) in torch and g / (|g| + eps / sqrt(1 - beta2)) in
# higher, so that eps is 32 times as large. For gradients of 1e-8, as in unrolled training of a fitted network, the
# step is 0.03 in place of 0.5; for 1 they agree. SGD, RMSprop and Adagrad agree. ddbench uses higher with SGD only, as
# one of its inner loops (ddbench/training/higher_backend.py).
#
# Seen:
#   higher 0.2.1, torch 2.15.0
#   gradient 1: torch -1.0000, higher -1.0000
#   gradient 1e-06: torch -0.9901, higher -0.7597
#   gradient 1e-08: torch -0.5000, higher -0.0307
#   g / (|g| + eps / sqrt(1 - beta2)) for 1e-08: 0.0307
#
# Run by hand: bash findings/higher_adam_is_another_adam.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6 higher==0.2.1
PYTHONPATH="$folder" python3 -W ignore - <<'PYTHON'
import importlib.metadata
import sys

import higher
import torch


def fresh():
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    return net, torch.optim.Adam(net.parameters(), lr=1.0)


def first_steps(gradient):
    """The weight after one step from 0 on a loss whose gradient is a given number: by torch, by higher."""
    image = torch.full((1, 1), gradient)
    net, optimizer = fresh()
    net(image).sum().backward()
    optimizer.step()
    other, optimizer = fresh()
    with higher.innerloop_ctx(other, optimizer) as (student, steps):
        steps.step(student(image).sum())
        return round(float(net.weight), 4), round(float(student.weight), 4)


found = {gradient: first_steps(gradient) for gradient in (1.0, 1e-6, 1e-8)}
print(f"higher {importlib.metadata.version('higher')}, torch {torch.__version__.partition('+')[0]}")
for gradient, (ours, theirs) in found.items():
    print(f"gradient {gradient:g}: torch {ours:.4f}, higher {theirs:.4f}")
print(f"g / (|g| + eps / sqrt(1 - beta2)) for 1e-08: {1e-8 / (1e-8 + 1e-8 / (1 - 0.999) ** 0.5):.4f}")
sys.exit(0 if found == {1.0: (-1.0, -1.0), 1e-6: (-0.9901, -0.7597), 1e-8: (-0.5, -0.0307)} else 1)
PYTHON
