#!/usr/bin/env bash
# Some networks of timm have dropout that no module shows: a number drop_rate, and a call of a function.
#
# timm 1.0.31, torch 2.15.0. ghostnet_050 has drop_rate 0.2 by default and no module of dropout, so code that sets every
# nn.Dropout to 0 leaves it on: in training mode two calls with the same weights and images give different logits, also
# through torch.func.functional_call. Unrolled training then differentiates another network than it trained. Setting
# drop_rate to 0 ends it. ddbench does that in its flat networks and asks by calling twice (ddbench/training/flat.py).
#
# Seen:
#   timm 1.0.31
#   modules of dropout with p > 0: 0
#   drop_rate: 0.2
#   two calls agree: False
#   two calls agree with drop_rate 0: True
#
# Run by hand: bash findings/timm_functional_dropout.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 timm==1.0.31
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys

import timm
import torch
from torch import nn
from torch.func import functional_call

torch.manual_seed(0)
net = timm.create_model("ghostnet_050", pretrained=False, num_classes=5).train()
weights, x = dict(net.named_parameters()), torch.randn(4, 3, 64, 64)


def agree():
    with torch.no_grad():
        return torch.equal(functional_call(net, weights, (x,)), functional_call(net, weights, (x,)))


shown = sum(isinstance(module, nn.Dropout) and module.p > 0 for module in net.modules())
rate, before = net.drop_rate, agree()
net.drop_rate = 0.0
after = agree()
print("timm", timm.__version__)
print("modules of dropout with p > 0:", shown)
print("drop_rate:", rate)
print("two calls agree:", before)
print("two calls agree with drop_rate 0:", after)
sys.exit(0 if (shown, rate, before, after) == (0, 0.2, False, True) else 1)
PYTHON
