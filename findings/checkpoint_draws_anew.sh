#!/usr/bin/env bash
# torch's checkpoint computes the gradient of another draw, where a generator is given by name.
#
# torch 2.15.0. torch.utils.checkpoint computes a function again on the way back and, with preserve_rng_state=True (the
# default), puts the global generators back first. A torch.Generator that the function draws from itself is not among
# them: the second computation draws on, and the gradient is that of another mask than the output had. Nothing is said:
# the default check compares shapes and types only. An augmentation or dropout with seeds of its own is such a
# function. ddbench draws first and applies then (ddbench/data/augment.py), so that a sweep that computes again sees
# the same draw.
#
# Seen:
#   torch 2.15.0
#   output: 0 1 0 0 0 1 0 1
#   gradient: 0 1 0 0 0 0 0 1
#   gradient with the global generator: its output
#   gradient without checkpoint: its output
#
# Run by hand: bash findings/checkpoint_draws_anew.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6
PYTHONPATH="$folder" python3 -W error - <<'PYTHON'
import sys

import torch
from torch.utils.checkpoint import checkpoint


def dropped(generator, wrap):
    """Ones after a mask, which are its own gradient, and the gradient that torch gives."""
    x = torch.ones(8, requires_grad=True)
    torch.manual_seed(0)
    output = wrap(lambda x: x * (torch.rand(8, generator=generator) > 0.5), x)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    return output.int().tolist(), gradient.int().tolist()


def checkpointed(function, x):
    return checkpoint(function, x, use_reentrant=False)


output, gradient = dropped(torch.Generator().manual_seed(0), checkpointed)
shared = dropped(None, checkpointed)
plain = dropped(torch.Generator().manual_seed(0), lambda function, x: function(x))
print("torch", torch.__version__.partition("+")[0])
print("output:", *output)
print("gradient:", *gradient)
print("gradient with the global generator:", "its output" if shared[0] == shared[1] else shared[1])
print("gradient without checkpoint:", "its output" if plain[0] == plain[1] else plain[1])
sys.exit(0 if output != gradient and shared[0] == shared[1] and plain[0] == plain[1] else 1)
PYTHON
