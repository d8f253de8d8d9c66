#!/usr/bin/env bash
# DD-Ranking mixes images and keeps the label of one.
#
# ddranking 0.2.0 (DD-Ranking's package), torch 2.15.0. CutMix is what its scores augment with unless another is named.
# train_one_epoch calls it, as it calls Mixup, with the images alone: hard labels, and soft ones that come with a synset
# (soft_label_mode "S", the default), go to the loss as they were, so that a part of another class is learned as the
# image's own. With beta 1, the default of the score of soft labels, that is a quarter of all that a student sees. Only
# a teacher that is asked in the step (mode "M") knows of the mixing. Such a score also ranks how well synsets bear
# wrong labels.
#
# Seen:
#   ddranking 0.2.0
#   Cutmix: 27 % of a batch is of another class, 90 of 100 images; labels changed: 0
#   Mixup: 44 % of a batch is of another class, 90 of 100 images; labels changed: 0
#
# Run by hand: bash findings/ddranking_mixes_images_alone.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" ddranking==0.2.0 torch==2.15.0 torchvision==0.29.2 numpy==1.26.4 \
  scipy==1.15.3 kornia==0.9.0 timm==1.0.31 pandas==3.0.6
PYTHONPATH="$folder" python3 - <<'PYTHON'
import contextlib
import io
import sys
from importlib.metadata import version

import numpy as np
import torch
from ddranking.aug import Cutmix, Mixup
from ddranking.utils import train_one_epoch

CLASSES, IMAGES = 10, 100
labels = torch.arange(IMAGES) % CLASSES
soft = torch.eye(CLASSES)[labels]
images = soft[:, :, None, None].expand(-1, -1, 32, 32).contiguous()  # channel k is 1 where a pixel is of class k


class Student(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(CLASSES, CLASSES)

    def forward(self, batch):
        self.seen = batch.detach().clone()
        return self.layer(batch.mean((2, 3)))


def loss(output, targets):
    loss.targets = targets.detach().clone()
    return torch.nn.functional.cross_entropy(output, targets)


print("ddranking", version("ddranking"))
found = []
for name, mix in (("Cutmix", Cutmix({"beta": 1.0})), ("Mixup", Mixup({"lambda": 1.0}))):
    foreign, touched, changed = [], 0, 0
    for seed in range(200):
        torch.manual_seed(seed)
        np.random.seed(seed)
        student = Student()
        loader = [(images.clone(), soft.clone())]
        with contextlib.redirect_stdout(io.StringIO()):
            optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
            train_one_epoch(0, student, loader, loss, optimizer, aug_func=mix, device="cpu")
        own = student.seen[torch.arange(IMAGES), labels].mean((1, 2))
        foreign.append(float(1 - own.mean()))
        touched += int((own < 0.999).sum())
        changed += int((loss.targets != soft).any(1).sum())
    share, images_touched = round(100 * float(np.mean(foreign))), round(touched / 200)
    found.append((share, changed))
    met = f"{images_touched} of {IMAGES} images"
    print(f"{name}: {share} % of a batch is of another class, {met}; labels changed: {changed}")
sys.exit(0 if all(share > 15 and changed == 0 for share, changed in found) else 1)
PYTHON
