#!/usr/bin/env bash
# datasets: a map that only looks at an image compresses it again, and a patch put into an opened file is lost.
#
# datasets 5.2.0, Pillow 13.0.0. A decoded image is kept with its file: whoever reads e["image"] in a map, be it for its
# width, has the column written anew. If the image came from a file by name, the name is written: a trigger patch
# pasted into it (e["image"].paste) is gone without a word, and a copy keeps it. If it came from JPEG bytes, as in
# parquet files, it is compressed again: a map that adds the width as a column changes the pixels of the images. PNG
# bytes are safe, and so is a map that does not touch the image. ddbench writes the bytes itself, as PNG
# (ddbench/hub/columns.py).
#
# Seen:
#   datasets 5.2.0
#   file, patch pasted: lost
#   file, patch pasted into a copy: there
#   Dataset of an opened file with a patch: lost
#   JPEG, map that adds a constant: pixels change by up to 0
#   JPEG, map that adds the width: pixels change by up to 80
#   PNG, map that adds the width: pixels change by up to 0
#
# Run by hand: bash findings/datasets_map_changes_pixels.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env" # dill cannot hash datasets in a --target folder
"$folder/env/bin/python" -m pip install --quiet datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
cat >"$folder/look.py" <<'PYTHON'
import io
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
from datasets import Dataset, Features, Image

datasets.disable_progress_bars()
RED = (255, 0, 0)
place = Path(sys.argv[1]) / "picture.png"
noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
noise.save(place)


def encoded(kind):
    """The picture as bytes of a column, in high quality."""
    stream = io.BytesIO()
    noise.save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return {"bytes": stream.getvalue(), "path": None}


def dataset(value):
    return Dataset.from_dict({"image": [value]}, features=Features({"image": Image()}))


def pixels(data):
    return np.asarray(data[0]["image"]).astype(int)


def patched(image):
    image.paste(RED, (0, 0, 8, 8))
    return image


def paste(example):
    return {"image": patched(example["image"])}


def paste_into_copy(example):
    return {"image": patched(example["image"].copy())}


def largest(before, after):
    """Largest change of a pixel value."""
    return int(abs(pixels(after) - pixels(before)).max())


named, jpeg, png = dataset(str(place)), dataset(encoded("JPEG")), dataset(encoded("PNG"))
found = {}
found["file, patch pasted"] = tuple(pixels(named.map(paste))[0, 0].tolist()) == RED
found["file, patch pasted into a copy"] = (
    tuple(pixels(named.map(paste_into_copy))[0, 0].tolist()) == RED
)
found["Dataset of an opened file with a patch"] = (
    tuple(pixels(dataset(patched(PIL.Image.open(place))))[0, 0].tolist()) == RED
)
print("datasets", datasets.__version__)
for name, there in found.items():
    print(f"{name}: {'there' if there else 'lost'}")
changes = {
    "JPEG, map that adds a constant": largest(jpeg, jpeg.map(lambda e: {"size": 32})),
    "JPEG, map that adds the width": largest(jpeg, jpeg.map(lambda e: {"size": e["image"].width})),
    "PNG, map that adds the width": largest(png, png.map(lambda e: {"size": e["image"].width})),
}
for name, change in changes.items():
    print(f"{name}: pixels change by up to {change}")
added, width, lossless = changes.values()
sys.exit(0 if list(found.values()) == [False, True, False] and added == 0 and width > 20 and lossless == 0 else 1)
PYTHON
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/env/bin/python" "$folder/look.py" "$folder"
