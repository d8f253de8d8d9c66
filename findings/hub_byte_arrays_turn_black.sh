#!/usr/bin/env bash
# Bytes of a column of arrays come out of datasets as int64, and torchvision then scales them by 2^63: black images.
#
# datasets 5.2.0, torch 2.15.0, torchvision 0.29.2. A column Array3D(dtype="uint8") keeps bytes on disk, but
# with_format("torch") and with_format("numpy") give int64 (eight times the memory; float64 and float16 columns, as of
# stored soft labels and latents, give float32). A column Image() of the same pixels gives uint8. Transforms that take
# the range from the dtype, as v2.ToDtype(torch.float32, scale=True) and convert_image_dtype, divide by 255 in the one
# case and by 9.2e18 in the other: no error, no warning, every pixel about 2e-17, so a network trains on black images.
# with_format("torch", dtype=torch.uint8) keeps the bytes, but makes every other column uint8 too: a soft label of 0.9
# becomes 0. Arrays of images that were published as such must be cast before they are scaled.
#
# Seen:
#   datasets 5.2.0, torchvision 0.29.2
#   Array3D uint8: torch.int64, 200 scaled to 2.168e-17
#   Image: torch.uint8, 200 scaled to 0.7843
#   soft labels float64: torch.float32
#   with dtype=torch.uint8: pixels torch.uint8, soft label 0.9 -> 0
#
# Run by hand: bash findings/hub_byte_arrays_turn_black.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env" # datasets cannot be hashed in a --target folder
"$folder/env/bin/python" -m pip install --quiet datasets==5.2.0 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 pillow==13.0.0
HF_HOME="$folder/home" "$folder/env/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import datasets
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

pixels = np.full((8, 8), 200, np.uint8)
features = datasets.Features(
    {
        "array": datasets.Array3D((1, 8, 8), "uint8"),
        "image": datasets.Image(),
        "label": datasets.Sequence(datasets.Value("float64"), length=2),
    }
)
table = datasets.Dataset.from_dict(
    {"array": [pixels[None].tolist()], "image": [Image.fromarray(pixels)], "label": [[0.9, 0.1]]}, features=features
)
row = table.with_format("torch")[0]
scale = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
array, image = (float(scale(row[name]).max()) for name in ("array", "image"))
print(f"datasets {version('datasets')}, torchvision {version('torchvision').partition('+')[0]}")
print(f"Array3D uint8: {row['array'].dtype}, 200 scaled to {array:.4g}")
print(f"Image: {row['image'].dtype}, 200 scaled to {image:.4g}")
print(f"soft labels float64: {row['label'].dtype}")
forced = table.with_format("torch", dtype=torch.uint8)[0]
print(f"with dtype=torch.uint8: pixels {forced['array'].dtype}, soft label 0.9 -> {forced['label'][0].item()}")
same = (row["array"].dtype, row["image"].dtype, row["label"].dtype) == (torch.int64, torch.uint8, torch.float32)
same = same and array < 1e-16 and abs(image - 200 / 255) < 1e-6 and forced["label"][0] == 0
sys.exit(0 if same else 1)
PYTHON
