#!/usr/bin/env bash
# torchvision's ToTensor turns the bright half of a 16-bit picture negative; its ImageFolder makes most of it white.
#
# torchvision 0.29.2, torch 2.15.0, Pillow 13.0.0. A grey PNG of 16 bits (X-rays, microscopy, depth) opens as mode I;16.
# ToTensor, of v1 and v2, gives int16: 32768 is read as -32768 and 65535, white, as -1, beside black; nothing is scaled.
# ImageFolder converts to RGB, which cuts at 255: every value from 255 on is 1.0. Of the same file, PILToTensor and
# v2.ToImage give uint16 as stored, and v2.ToDtype(float32, scale=True) behind it the right values in [0, 1]. ddbench
# keeps the upper 8 of the bits that the images of a folder have in use (ddbench/data/images.py).
#
# Seen:
#   torchvision 0.29.2
#   stored: 0 255 256 32767 32768 65535
#   ToTensor: int16 0 255 256 32767 -32768 -1
#   v2.ToTensor: int16 0 255 256 32767 -32768 -1
#   PILToTensor: uint16 0 255 256 32767 32768 65535
#   v2.ToImage: uint16 0 255 256 32767 32768 65535
#   v2.ToImage, v2.ToDtype: float32 0.0 0.0039 0.0039 0.5 0.5 1.0
#   ImageFolder, ToTensor: float32 0.0 1.0 1.0 1.0 1.0 1.0
#
# Run by hand: bash findings/torchvision_totensor_16_bit.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 pillow==13.0.0
PYTHONPATH="$folder" python3 -W ignore - "$folder/images" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

stored = [0, 255, 256, 32767, 32768, 65535]
path = Path(sys.argv[1]) / "class" / "picture.png"
path.parent.mkdir(parents=True)
Image.fromarray(np.array([stored], np.uint16)).save(path)
picture = Image.open(path)
scaled = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
found = {
    "ToTensor": transforms.ToTensor()(picture),
    "v2.ToTensor": v2.ToTensor()(picture),
    "PILToTensor": transforms.PILToTensor()(picture),
    "v2.ToImage": v2.ToImage()(picture),
    "v2.ToImage, v2.ToDtype": scaled(picture),
    "ImageFolder, ToTensor": ImageFolder(sys.argv[1], transforms.ToTensor())[0][0],
}
print("torchvision", torchvision.__version__.partition("+")[0])
print("stored:", *stored)
read = {}
for name, tensor in found.items():
    read[name] = [round(value, 4) for value in tensor[0, 0].tolist()]
    print(f"{name}: {str(tensor.dtype).removeprefix('torch.')}", *read[name])
negative = [0, 255, 256, 32767, -32768, -1]
ok = read["ToTensor"] == read["v2.ToTensor"] == negative and read["PILToTensor"] == read["v2.ToImage"] == stored
right = [0.0, 0.0039, 0.0039, 0.5, 0.5, 1.0]
ok = ok and read["v2.ToImage, v2.ToDtype"] == right and read["ImageFolder, ToTensor"] == [0.0] + [1.0] * 5
sys.exit(0 if ok else 1)
PYTHON
