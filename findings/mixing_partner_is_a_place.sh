#!/usr/bin/env bash
# CutMix and MixUp do not draw who is mixed with whom: the place in the batch decides.
#
# torchvision 0.29.2, timm 1.0.31, torch 2.15.0. torchvision's v2.CutMix and v2.MixUp mix each image with the one before
# it (a roll by one), timm's Mixup with its mirror image in the batch (a flip). Where a loader shuffles that is a draw;
# a distilled set is kept in the order of its classes, and is often one batch. Then torchvision mixes 90 of 100 images at
# IPC 10 within their class, which changes no label, and no class ever meets any but the one before; timm mixes every
# image with class 9 - c in all batches there will ever be, and never within a class. The published codes of this field
# draw a permutation. A set must be shuffled before such a transform, also where the batch is all of it.
#
# Seen:
#   torchvision 0.29.2, timm 1.0.31
#   torchvision CutMix: 10 of 100 images meet another class; class 3 meets [2]
#   torchvision MixUp: 10 of 100 images meet another class; class 3 meets [2]
#   timm Mixup: 100 of 100 images meet another class; class 3 meets [6]
#   timm CutMix: 100 of 100 images meet another class; class 3 meets [6]
#
# Run by hand: bash findings/mixing_partner_is_a_place.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 timm==1.0.31
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import torch
from timm.data.mixup import Mixup
from torchvision.transforms import v2

CLASSES, IPC, BATCHES = 10, 10, 50
labels = torch.arange(CLASSES).repeat_interleave(IPC)  # as a distilled set is kept
images = torch.rand(len(labels), 3, 32, 32)
transforms = {
    "torchvision CutMix": v2.CutMix(num_classes=CLASSES),
    "torchvision MixUp": v2.MixUp(num_classes=CLASSES),
    "timm Mixup": Mixup(mixup_alpha=1.0, label_smoothing=0.0, num_classes=CLASSES),
    "timm CutMix": Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=CLASSES),
}
print(f"torchvision {version('torchvision')}, timm {version('timm')}")
found = {}
for name, transform in transforms.items():
    torch.manual_seed(0)
    np.random.seed(0)
    met = torch.zeros(len(labels), CLASSES)
    for _ in range(BATCHES):
        _, soft = transform(images.clone(), labels)
        met = torch.maximum(met, soft)
    met[torch.arange(len(labels)), labels] = 0
    count = int((met > 0).any(1).sum())
    found[name] = (count, sorted(met[labels == 3].amax(0).nonzero().flatten().tolist()))
    print(f"{name}: {count} of {len(labels)} images meet another class; class 3 meets {found[name][1]}")
same = {"torchvision": (10, [2]), "timm": (100, [6])}
sys.exit(0 if all(value == same[name.split()[0]] for name, value in found.items()) else 1)
PYTHON
