#!/usr/bin/env bash
# Inside one torch.autocast, training steps go on seeing the weights of the first step.
#
# torch 2.15.0, CPU. Autocast keeps the bfloat16 copy of every float32 parameter that asks for a gradient until the
# context ends. A loop of steps inside the context (an inner loop of bi-level work, say) computes every loss and
# gradient with the first weights, though the optimiser changes them: no error, no warning. cache_enabled=False, or a
# context for every forward pass, ends it; ddbench has the latter (ddbench/training/loops.py). Weights that were
# computed, as in unrolled training by functional_call, are cast anew.
#
# Seen:
#   torch 2.15.0
#   weight after each step: 0.0 -1.0 -2.0
#   output before each step, one context: 1.0 1.0 1.0
#   output before each step, cache_enabled=False: 1.0 0.0 -1.0
#   output before each step, a context each: 1.0 0.0 -1.0
#   output for functional weights 1, 0, -1 in one context: 1.0 0.0 -1.0
#
# Run by hand: bash findings/autocast_keeps_old_weights.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys
from contextlib import nullcontext

import torch
from torch.func import functional_call

ONE = torch.ones(1, 1)


def steps(whole, each):
    """Outputs and weights of three steps of SGD at rate 1 on the output of ``w * 1``, from w = 1."""
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(net.weight)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    outputs, weights = [], []
    with whole():
        for _ in range(3):
            optimizer.zero_grad()
            with each():
                output = net(ONE).sum()
            output.backward()
            optimizer.step()
            outputs.append(float(output))
            weights.append(float(net.weight))
    return outputs, weights


def autocast(**options):
    return lambda: torch.autocast("cpu", torch.bfloat16, **options)


one, weights = steps(autocast(), nullcontext)
uncached, _ = steps(autocast(cache_enabled=False), nullcontext)
each, _ = steps(nullcontext, autocast())
net, start = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1, requires_grad=True)
with autocast()():
    functional = [float(functional_call(net, {"weight": start - step}, (ONE,))) for step in range(3)]
print("torch", torch.__version__.partition("+")[0])
print("weight after each step:", *weights)
print("output before each step, one context:", *one)
print("output before each step, cache_enabled=False:", *uncached)
print("output before each step, a context each:", *each)
print("output for functional weights 1, 0, -1 in one context:", *functional)
right = [1.0, 0.0, -1.0]
sys.exit(0 if (weights, one, uncached, each, functional) == ([0.0, -1.0, -2.0], [1.0] * 3, right, right, right) else 1)
PYTHON
