#!/usr/bin/env bash
# DD-Ranking's label-robust score takes percent where its formula takes fractions, so that nearly all sets score the same.
#
# ddranking 0.2.0 (DD-Ranking's package), torch 2.15.0. HLR (all real images less the set, both by hard labels) and IOR
# (the set less random images) go in percent into (exp(a) - exp(-1)) / (exp(1) - exp(-1)) with a = 0.5 IOR - 0.5 HLR,
# which is made for a from -1 to 1. A set that loses 25 points and gains none, and one that loses 40 and gains 20, both
# score -0.16, the lower limit of the formula; one that loses 6 and gains 20 scores 466. All are logged with a percent
# sign. The score of hard labels keeps each value twice, and ends in a ValueError of pandas when it writes its table:
# after all networks were trained, with nothing written and nothing returned.
#
# Seen:
#   ddranking 0.2.0
#   soft labels, HLR 25 IOR  0: score -0.16, as fractions 21.89
#   soft labels, HLR 40 IOR 20: score -0.16, as fractions 22.85
#   soft labels, HLR  6 IOR 20: score 466.42, as fractions 29.98
#   hard labels: 2 scores of 1 evaluation; ValueError: All arrays must be of the same length
#
# Run by hand: bash findings/ddranking_scores_of_percent.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" ddranking==0.2.0 torch==2.15.0 torchvision==0.29.2 numpy==1.26.4 \
  scipy==1.15.3 kornia==0.9.0 timm==1.0.31 pandas==3.0.6
cd "$folder"
PYTHONPATH="$folder" python3 - <<'PYTHON'
import contextlib
import io
import math
import sys
from importlib.metadata import version

import torch
from ddranking.metrics import LabelRobustScoreHard, LabelRobustScoreSoft
from ddranking.metrics import hard_label, soft_label

FULL = 84.0


def scorer(kind, accuracies):
    """The package's own score, with the accuracies of its trainings in place of the trainings, which take hours."""
    found = object.__new__(kind)
    for name, value in {"num_eval": 1, "use_dist": False, "rank": 0, "ipc": 1, "num_classes": 10, "soft_label_mode": "S",
                        "eval_full_data": True, "save_path": "scores.csv"}.items():
        setattr(found, name, value)
    left = iter(accuracies)
    found._compute_hard_label_metrics_helper = lambda **_: (next(left), 0.01)
    found._compute_soft_label_metrics_helper = lambda **_: (next(left), 0.01)
    found._get_random_data_helper = lambda **_: (None, None, None)
    return found


def score(kind, accuracies, **labels):
    with contextlib.redirect_stdout(io.StringIO()):
        return scorer(kind, accuracies).compute_metrics(image_tensor=torch.zeros(10, 3, 32, 32), syn_lr=0.01, **labels)


print("ddranking", version("ddranking"))
scores = []
for hlr, ior in ((25.0, 0.0), (40.0, 20.0), (6.0, 20.0)):
    # in the order of its trainings: the set by hard labels, all real images, the set by soft ones, random images
    made = score(LabelRobustScoreSoft, (FULL - hlr, FULL, 60.0, 60.0 - ior), soft_labels=torch.eye(10))
    scores.append(round(float(made["label_robust_score_mean"]), 2))
    meant = (math.exp((ior - hlr) / 200) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
    print(f"soft labels, HLR {hlr:2.0f} IOR {ior:2.0f}: score {scores[-1]}, as fractions {100 * meant:.2f}")

kept = []
for module in (hard_label, soft_label):
    write = module.save_results
    module.save_results = lambda results, path, write=write: (kept.append(len(results["lrs"])), write(results, path))
try:
    score(LabelRobustScoreHard, (60.0, FULL, 40.0))
    ended = "returned"
except ValueError as error:
    ended = f"ValueError: {error}"
print(f"hard labels: {kept[-1]} scores of 1 evaluation; {ended}")
sys.exit(0 if scores[0] == scores[1] == -0.16 and scores[2] > 400 and kept[-1] == 2 and "same length" in ended else 1)
PYTHON
