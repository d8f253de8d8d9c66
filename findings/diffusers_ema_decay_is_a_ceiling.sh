#!/usr/bin/env bash
# diffusers' EMAModel does not use the decay it is given for the first thousands of steps, warm-up off or on.
#
# diffusers 0.42.1. decay is a ceiling on (1 + k) / (10 + k) where use_ema_warmup is off, which is the default, and on
# 1 - (1 + k) ** (-2 / 3) where it is on: both warm up, and the one with the name has the lower decay from step 702.
# 0.999 is in force from step 8991 and from step 31623. With weights that are k at step k the default gives 0.9 k: 1,000
# steps end at 900 for a decay of 0.999 and for 0.9999, an average over about the last tenth of the training, where
# torch's AveragedModel at 0.999 ends at 368.7. Students of small synsets have about as many steps. ddbench's average of
# a student's weights is the plain one.
#
# Seen:
#   diffusers 0.42.1
#   weights k at step k, after 1000 steps, by decay: 0.9: 991.0 (0.9000), 0.999: 900.0 (0.9911), 0.9999: 900.0 (0.9911)
#   0.999 with use_ema_warmup: 907.4 (0.9900)
#   torch's AveragedModel at 0.999: 368.7
#   0.999 is in force from step 8991 and with use_ema_warmup from step 31623
#   use_ema_warmup has the lower decay from step 702
#
# Run by hand: bash findings/diffusers_ema_decay_is_a_ceiling.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6 diffusers==0.42.1
PYTHONPATH="$folder" python3 -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from diffusers.training_utils import EMAModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

STEPS = 1000


def averaged(**flags):
    """What the average of weights that are k at step k is after 1,000 steps, and the decay of the last."""
    weights = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    average = EMAModel([weights], **flags)
    for step in range(1, STEPS + 1):
        weights.data.fill_(step)
        average.step([weights])
    return float(average.shadow_params[0]), average.cur_decay_value


def averaged_by_torch(decay):
    net = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for step in range(1, STEPS + 1):
        net.weight.data.fill_(step)
        average.update_parameters(net)
    return float(average.module.weight)


def first_step(**flags):
    """The first step at which the decay that was asked for is in force."""
    average = EMAModel([torch.nn.Parameter(torch.zeros(1))], **flags)
    return next(step for step in range(1, 10**5) if average.get_decay(step) >= flags["decay"])


print("diffusers", version("diffusers"))
DECAYS = (0.9, 0.999, 0.9999)
default = [averaged(decay=decay) for decay in DECAYS]
warm = averaged(decay=0.999, use_ema_warmup=True)
told = ", ".join(f"{decay}: {end[0]:.1f} ({end[1]:.4f})" for decay, end in zip(DECAYS, default, strict=True))
print(f"weights k at step k, after 1000 steps, by decay: {told}")
print(f"0.999 with use_ema_warmup: {warm[0]:.1f} ({warm[1]:.4f})")
plain = averaged_by_torch(0.999)
print(f"torch's AveragedModel at 0.999: {plain:.1f}")
reached = [first_step(decay=0.999), first_step(decay=0.999, use_ema_warmup=True)]
print("0.999 is in force from step", reached[0], "and with use_ema_warmup from step", reached[1])
lower = EMAModel([torch.nn.Parameter(torch.zeros(1))], decay=0.9999, use_ema_warmup=True)
other = EMAModel([torch.nn.Parameter(torch.zeros(1))], decay=0.9999)
below = next(step for step in range(2, 1000) if lower.get_decay(step) < other.get_decay(step))
print("use_ema_warmup has the lower decay from step", below)
ok = default[1] == default[2] and abs(default[1][0] - 0.9 * STEPS) < 1e-6 and default[1][1] < 0.992
ok = ok and warm[1] < default[1][1] and plain < 400 and min(reached) > 8000
sys.exit(0 if ok else 1)
PYTHON
