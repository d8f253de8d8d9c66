#!/usr/bin/env bash
# torch's weight norm has a wrong second derivative on a CPU, without a word.
#
# torch 2.15.0. torch.nn.utils.parametrizations.weight_norm calls torch._weight_norm. Its first derivative is right
# (gradcheck passes); gradgradcheck fails, while the same formula written out, v * (g / |v|), passes. A method that
# differentiates through training steps (MTT, DC) gets a wrong image gradient for a student with such a layer. ddbench
# refuses it (ddbench/training/twice.py).
#
# Seen:
#   torch 2.15.0
#   first derivative: True
#   second derivative: False
#   second derivative written out: True
#
# Run by hand: bash findings/weight_norm_second_derivative.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys

import torch
from torch.autograd import gradcheck, gradgradcheck

torch.manual_seed(0)
v = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
g = torch.rand(3, 1, dtype=torch.float64, requires_grad=True)


def library(v, g):
    return torch._weight_norm(v, g, 0)


def written_out(v, g):
    return v * (g / v.norm(dim=1, keepdim=True))


assert torch.equal(library(v, g), written_out(v, g)) or torch.allclose(library(v, g), written_out(v, g))
first = gradcheck(library, (v, g))
second = gradgradcheck(library, (v, g), raise_exception=False)
plain = gradgradcheck(written_out, (v, g))
print("torch", torch.__version__.partition("+")[0])
print("first derivative:", first)
print("second derivative:", second)
print("second derivative written out:", plain)
sys.exit(0 if (first, second, plain) == (True, False, True) else 1)
PYTHON
