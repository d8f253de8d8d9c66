#!/usr/bin/env bash
# torchmetrics' calibration error has one bin more than asked for: a confidence of exactly 1 has its own.
#
# torchmetrics 1.9.0, torch 2.15.0. With n_bins=10 the bins are [0, 0.1), ..., [0.9, 1) and {1}: a softmax in float32
# gives exactly 1 from a lead of 17 in the logits on, which most images of a trained network have. Below four images
# have confidence 1 (three are right) and four 0.95 (all are right). In one bin [0.9, 1] the gap is |0.975 - 0.875| =
# 0.1, the ECE of Guo et al. (2017); torchmetrics gives 0.15, and the very same as with a hundred bins. One
# ten-millionth below 1 it gives 0.1. ddbench's bins are (lo, hi] (ddbench/measurements/calibration_metrics.py).
#
# Seen:
#   torchmetrics 1.9.0
#   10 bins: 0.1500
#   100 bins: 0.1500
#   10 bins, 0.9999999 in place of 1: 0.1000
#   softmax of a lead of 17 is 1: True
#
# Run by hand: bash findings/torchmetrics_calibration_bins.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6 torchmetrics==1.9.0
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys

import torch
import torchmetrics
from torchmetrics.functional.classification import binary_calibration_error


def error(highest, bins):
    confidence = torch.tensor([highest] * 4 + [0.95] * 4)
    right = torch.tensor([1, 1, 1, 0, 1, 1, 1, 1])
    return round(float(binary_calibration_error(confidence, right, n_bins=bins, norm="l1")), 4)


found = error(1.0, 10), error(1.0, 100), error(0.9999999, 10), float(torch.tensor([17.0, 0.0]).softmax(0)[0]) == 1
print("torchmetrics", torchmetrics.__version__)
print(f"10 bins: {found[0]:.4f}")
print(f"100 bins: {found[1]:.4f}")
print(f"10 bins, 0.9999999 in place of 1: {found[2]:.4f}")
print("softmax of a lead of 17 is 1:", found[3])
sys.exit(0 if found == (0.15, 0.15, 0.1, True) else 1)
PYTHON
