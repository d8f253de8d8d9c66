#!/usr/bin/env bash
# flax's msgpack files forget the byte order: big-endian arrays come back as other numbers.
#
# flax 0.12.8, numpy 2.4.6. The bytes of an array are written as they lie in memory, with the name of its type, which
# is float32 for either order. An array in big-endian order (idx files hold their integers and floats so, and
# np.frombuffer keeps the order) is a valid numpy array that every computation takes; written by to_bytes, 1.0 is read
# as 4.6e-41 and the label 1 as 16777216, without a word. from_bytes does not look at its target either: other shapes
# and types than the target's are handed back as they are. ddbench writes no msgpack; safetensors' numpy writer turns
# the order.
#
# Seen:
#   flax 0.12.8
#   images [1.0, 0.5, 0.0] read as [4.6e-41, 8.8e-44, 0.0]
#   labels [1, 0, 9] read as [16777216, 0, 150994944]
#   images in native order read as [1.0, 0.5, 0.0]
#   for a target of 3 float32 comes back: (2, 2) float16
#
# Run by hand: bash findings/flax_msgpack_byte_order.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
PYTHONPATH="$folder" python3 -W ignore - <<'PYTHON'
import struct
import sys

import flax
import jax.numpy as jnp
import numpy as np
from flax import serialization

images = np.frombuffer(struct.pack(">3f", 1.0, 0.5, 0.0), ">f4")
labels = np.frombuffer(struct.pack(">3i", 1, 0, 9), ">i4")
target = {"images": np.zeros(3, np.float32), "labels": np.zeros(3, np.int32)}
back = serialization.from_bytes(target, serialization.to_bytes({"images": images, "labels": labels}))
by_jax = jnp.asarray(images.astype("=f4"))
again = serialization.from_bytes(target["images"], serialization.to_bytes(by_jax))
other = serialization.from_bytes(target["images"], serialization.to_bytes(np.ones((2, 2), np.float16)))
print("flax", flax.__version__)
print("images", images.tolist(), "read as", [float(f"{value:.2g}") for value in back["images"]])
print("labels", labels.tolist(), "read as", back["labels"].tolist())
print("images in native order read as", again.tolist())
print("for a target of 3 float32 comes back:", other.shape, other.dtype)
wrong = back["labels"].tolist() == [16777216, 0, 150994944] and 0 < back["images"][0] < 1e-40
sys.exit(0 if wrong and again.tolist() == [1.0, 0.5, 0.0] and other.shape == (2, 2) else 1)
PYTHON
