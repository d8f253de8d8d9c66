#!/usr/bin/env bash
# torchmetrics' AUROC of scores outside of [0, 1] is not that of their order: large ones become ties.
#
# torchmetrics 1.9.0, torch 2.15.0. An AUROC depends on the order of the scores only. binary_auroc and
# binary_average_precision take a sigmoid of the scores first, if any of them is outside of [0, 1], in the scores' own
# type: float32 scores above 17 all become 1. Four scores in perfect order then give 0.5, the same scores over 100 give
# 1, and so they do in float64, up to scores of 37. Scores such as energies or logits of a confident network are of
# that size. ddbench ranks float64 log-probabilities (ddbench/measurements/outliers.py).
#
# Seen:
#   torchmetrics 1.9.0
#   AUROC of 20, 30, 40, 50: 0.5
#   over 100: 1.0
#   in float64: 1.0
#   average precision of 20, 30, 40, 50: 0.5
#   AUROC of 40, 50, 60, 70 in float64: 0.5
#
# Run by hand: bash findings/torchmetrics_auroc_of_logits.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6 torchmetrics==1.9.0
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys

import torch
import torchmetrics
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

positive, scores = torch.tensor([0, 0, 1, 1]), torch.tensor([20.0, 30.0, 40.0, 50.0])
found = {
    "AUROC of 20, 30, 40, 50": binary_auroc(scores, positive),
    "over 100": binary_auroc(scores / 100, positive),
    "in float64": binary_auroc(scores.double(), positive),
    "average precision of 20, 30, 40, 50": binary_average_precision(scores, positive),
    "AUROC of 40, 50, 60, 70 in float64": binary_auroc(scores.double() + 20, positive),
}
print("torchmetrics", torchmetrics.__version__)
for name, value in found.items():
    print(f"{name}: {float(value)}")
sys.exit(0 if [float(value) for value in found.values()] == [0.5, 1.0, 1.0, 0.5, 0.5] else 1)
PYTHON
