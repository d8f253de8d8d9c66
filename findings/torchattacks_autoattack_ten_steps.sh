#!/usr/bin/env bash
# torchattacks' AutoAttack makes a tenth of AutoAttack's steps.
#
# torchattacks 3.5.1, pyautoattack 0.2.0 (the authors' algorithm as a package), torch 2.15.0. Version "standard" is
# APGD on cross-entropy, targeted APGD and targeted FAB of 100 steps each, and Square with 5,000 queries. torchattacks
# builds the first three without naming their steps, so each takes its own class's default, 10. Nothing can be passed
# through to change it, and Square alone has its published budget. A robust accuracy by this class is that of a weaker
# attack of the same name; it is higher where steps 11 to 100 would have found more. ddbench takes pyautoattack's.
#
# Seen:
#   torchattacks 3.5.1: APGD 10, APGDT 10, FAB 10, Square 5000
#   pyautoattack 0.2.0: APGD 100, APGDT 100, FAB 100, Square 5000
#   calls of the network by the first attack, APGD, on a batch: 12 and 102
#
# Run by hand: bash findings/torchattacks_autoattack_ten_steps.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6
python3 -m pip install --quiet --no-deps --target "$folder" torchattacks==3.5.1 pyautoattack==0.2.0 \
  requests==2.32.5 urllib3==2.5.0 idna==3.10 certifi==2025.8.3 charset-normalizer==3.4.3
PYTHONPATH="$folder" python3 -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import pyautoattack
import torch
import torchattacks


class Counted(torch.nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, images):
        self.calls += 1
        return self.layer(images.flatten(1))


def calls(attack, *images):
    net.calls = 0
    attack(*images)
    return net.calls


torch.manual_seed(0)
net = Counted().eval()
images = torch.rand(16, 1, 8, 8)
labels = net(images).argmax(1).detach()  # every image is right before the attack
theirs = torchattacks.AutoAttack(net, eps=1 / 255, seed=0)._autoattack.attacks
theirs = dict(zip(("APGD", "APGDT", "FAB", "Square"), dict(theirs).values() if isinstance(theirs, dict) else theirs))
authors = pyautoattack.AutoAttack(net, eps=1 / 255, seed=0)
found = [
    {name: one.n_queries if name == "Square" else one.steps for name, one in theirs.items()},
    {
        "APGD": authors.apgd.n_iter,
        "APGDT": authors.apgd_targeted.n_iter,
        "FAB": authors.fab.n_iter,
        "Square": authors.square.n_queries,
    },
]
for name, steps in zip(("torchattacks", "pyautoattack"), found):
    print(f"{name} {version(name)}:", ", ".join(f"{part} {count}" for part, count in steps.items()))
authors.apgd.n_restarts = 1
made = [calls(theirs["APGD"], images, labels), calls(authors.apgd.perturb, images, labels)]
print(f"calls of the network by the first attack, APGD, on a batch: {made[0]} and {made[1]}")
wanted = [dict.fromkeys(("APGD", "APGDT", "FAB"), count) | {"Square": 5000} for count in (10, 100)]
sys.exit(0 if found == wanted and made[1] > 5 * made[0] else 1)
PYTHON
