#!/usr/bin/env bash
# torchvision writes white as black, if the image is in half precision.
#
# torchvision 0.29.2, torch 2.15.0. v2.ToDtype(torch.uint8, scale=True), v2.functional.to_dtype and convert_image_dtype
# multiply a float image by 255.999 and cut to uint8. In float16 and bfloat16 that product of 1.0 rounds to 256, which
# wraps to 0: white is black, without a word. From uint8 to half and back the upper 16 of 256 values change by way of
# float16 and the upper 128 by way of bfloat16. ToPILImage gives 255 for 1.0 in float16; float32 and float64 come back
# as they were. Synthetic images that were optimised in half precision, or come from a decoder in it, are such tensors.
# ddbench clamps, multiplies by 255 and rounds (ddbench/synset.py).
#
# Seen:
#   torchvision 0.29.2
#   float16: 1.0 becomes 0, 16 of 256 values do not come back, 255 as 0
#   bfloat16: 1.0 becomes 0, 128 of 256 values do not come back, 255 as 0
#   float32: 1.0 becomes 255, 0 of 256 values do not come back, 255 as 255
#   float64: 1.0 becomes 255, 0 of 256 values do not come back, 255 as 255
#   convert_image_dtype of 1.0: 0 0 255 255
#   ToPILImage of 1.0 in float16: 255
#
# Run by hand: bash findings/torchvision_half_white_is_black.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 pillow==13.0.0
PYTHONPATH="$folder" python3 -W error - <<'PYTHON'
import sys

import numpy as np
import torch
import torchvision
from torchvision.transforms.functional import convert_image_dtype
from torchvision.transforms.v2 import ToDtype, ToPILImage

TYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64
to_bytes = ToDtype(torch.uint8, scale=True)
stored = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
print("torchvision", torchvision.__version__.partition("+")[0])
found, old = {}, []
for kind in TYPES:
    white = torch.ones(1, 1, 1, dtype=kind)
    back = to_bytes(ToDtype(kind, scale=True)(stored))
    found[kind] = int(to_bytes(white)), int((back != stored).sum()), int(back[0, -1, -1])
    old.append(int(convert_image_dtype(white, torch.uint8)))
    name, (one, lost, last) = str(kind).removeprefix("torch."), found[kind]
    print(f"{name}: 1.0 becomes {one}, {lost} of 256 values do not come back, 255 as {last}")
picture = int(np.asarray(ToPILImage()(torch.ones(1, 1, 1, dtype=torch.float16)))[0, 0])
print("convert_image_dtype of 1.0:", *old)
print("ToPILImage of 1.0 in float16:", picture)
right = (255, 0, 255)
ok = list(found.values()) == [(0, 16, 0), (0, 128, 0), right, right] and old == [0, 0, 255, 255] and picture == 255
sys.exit(0 if ok else 1)
PYTHON
