#!/usr/bin/env bash
# Patch networks of timm leave pixels out where the patch does not divide the image, without a word.
#
# timm 1.0.31, torch 2.15.0. vit_tiny_patch16_224 with img_size=72 takes images of 72 px and cuts 4 x 4 patches of 16 px:
# the last 8 rows and columns, 21 % of the pixels, have no influence. The same at 70 px for swin (patch 4: 2 rows), at
# 64 px for a patch of 14 (8 rows) and for convmixer_768_32 (patch 7: 1 row). torchvision's vision transformers raise.
# A distilled image keeps dead rows there. ddbench asks by gradient and refuses (ddbench/networks/sight.py).
#
# Seen:
#   timm 1.0.31
#   vit_tiny_patch16_224 at 72 px: 8 rows unseen
#   vit_small_patch14_dinov2 at 64 px: 8 rows unseen
#   swin_tiny_patch4_window7_224 at 70 px: 2 rows unseen
#   vit_tiny_patch16_224 at 64 px: 0 rows unseen
#
# Run by hand: bash findings/timm_patches_drop_pixels.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 timm==1.0.31
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys

import timm
import torch

expected = {
    ("vit_tiny_patch16_224", 72): 8,
    ("vit_small_patch14_dinov2", 64): 8,
    ("swin_tiny_patch4_window7_224", 70): 2,
    ("vit_tiny_patch16_224", 64): 0,
}
found = {}
print("timm", timm.__version__)
for name, size in expected:
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, img_size=size, num_classes=2).eval()
    x = torch.randn(1, 3, size, size, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x)[:, 0].sum(), x)
    found[name, size] = int((gradient.abs().amax((0, 1, 3)) == 0).sum())
    print(f"{name} at {size} px: {found[name, size]} rows unseen")
sys.exit(0 if found == expected else 1)
PYTHON
