#!/usr/bin/env bash
# Attention of torch has no second derivative on a CPU, unless it has dropout; nor has Hardsigmoid.
#
# torch 2.15.0. scaled_dot_product_attention takes a fused kernel, whose backward cannot be differentiated. With dropout,
# or inside sdpa_kernel(SDPBackend.MATH), torch takes the plain form, which can: so a transformer that is built with
# dropout passes a trial and fails once dropout is off. torch.nn.Hardsigmoid (MobileNetV3, GhostNet) cannot be
# differentiated twice at all, Hardswish can. ddbench tries the student before work, takes the plain form where that is
# enough, and refuses the rest (ddbench/training/twice.py).
#
# Seen:
#   torch 2.15.0
#   fused: derivative for aten::_scaled_dot_product_flash_attention_for_cpu_backward is not implemented
#   dropout 0.1: yes
#   plain: yes
#   hardsigmoid: derivative for aten::hardsigmoid_backward is not implemented
#   hardswish: yes
#
# Run by hand: bash findings/fused_attention_second_derivative.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

torch.manual_seed(0)
x = torch.randn(2, 1, 4, 8, requires_grad=True)


def second(f, form):
    try:
        with form:
            (gradient,) = torch.autograd.grad(f(x).square().sum(), x, create_graph=True)
            torch.autograd.grad(gradient.square().sum(), x)
    except RuntimeError as error:
        return str(error).splitlines()[0].split(". ")[0]
    return "yes"


def attention(x):
    return F.scaled_dot_product_attention(x, x, x)


found = {
    "fused": second(attention, nullcontext()),
    "dropout 0.1": second(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1), nullcontext()),
    "plain": second(attention, sdpa_kernel(SDPBackend.MATH)),
    "hardsigmoid": second(F.hardsigmoid, nullcontext()),
    "hardswish": second(F.hardswish, nullcontext()),
}
print("torch", torch.__version__.partition("+")[0])
for name, result in found.items():
    print(f"{name}: {result}")
none = "derivative for aten::{} is not implemented"
expected = {
    "fused": none.format("_scaled_dot_product_flash_attention_for_cpu_backward"),
    "dropout 0.1": "yes",
    "plain": "yes",
    "hardsigmoid": none.format("hardsigmoid_backward"),
    "hardswish": "yes",
}
sys.exit(0 if found == expected else 1)
PYTHON
