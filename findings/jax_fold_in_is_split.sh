#!/usr/bin/env bash
# jax: fold_in(key, i) is split(key)[i], so seeds that are made in the two ways are the same streams.
#
# jax 0.10.2. Both are offered as ways to new, independent keys. Since jax_threefry_partitionable is on by default, the
# i-th key of a split is the key with i folded in, to the bit, whatever the number of keys. A loop that splits a key for
# weights, dropout and augmentation, and folds the step or the index of the run into the same key, has the weights' draw
# again at step 0, the augmentation's at step 2: below, initial weights and the noise of the first step correlate at 1.
# split(key, (2, 3))[1, 0] is step 3, and rbg keys do the same. With the switch off, the default of old, no two of these
# agree. ddbench hashes (seed, purpose, index), and every seed has a purpose (ddbench/runtime/seeds.py).
#
# Seen:
#   jax 0.10.2
#   fold_in(key, i) is split(key, 4)[i] for i = 0 1 2 3
#   split(key, 2)[i] is split(key, 4)[i] for i = 0 1
#   split(key, (2, 3))[1, 0] is fold_in(key, 3): True
#   correlation of weights by split and of the first step's noise by fold_in: 1.00
#   rbg, fold_in(key, i) is split(key, 4)[i] for i = 0 1 2 3
#   not partitionable, fold_in(key, i) is split(key, 4)[i] for i = none
#   not partitionable, correlation: -0.01
#
# Run by hand: bash findings/jax_fold_in_is_split.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys

import jax
import numpy as np
from jax.random import fold_in, key_data, normal, split


def same(one, other):
    return bool((key_data(one) == key_data(other)).all())


def indices(key):
    """The numbers whose folded key is the key of a split at that place."""
    return [i for i in range(4) if same(fold_in(key, i), split(key, 4)[i])]


def correlation(key):
    """Of initial weights, whose key is split off, and the noise of step 0, whose key has the step folded in."""
    weights_key, _ = split(key)
    weights, noise = normal(weights_key, (10_000,)), normal(fold_in(key, 0), (10_000,))
    return round(float(np.corrcoef(weights, noise)[0, 1]), 2)


key = jax.random.key(0)
folded, tied = indices(key), correlation(key)
prefix = [i for i in range(2) if same(split(key, 2)[i], split(key, 4)[i])]
shaped = same(split(key, (2, 3))[1, 0], fold_in(key, 3))
rbg = indices(jax.random.key(0, impl="rbg"))
with jax.threefry_partitionable(False):
    old, free = indices(key), correlation(key)
print("jax", jax.__version__)
print("fold_in(key, i) is split(key, 4)[i] for i =", *folded)
print("split(key, 2)[i] is split(key, 4)[i] for i =", *prefix)
print("split(key, (2, 3))[1, 0] is fold_in(key, 3):", shaped)
print(f"correlation of weights by split and of the first step's noise by fold_in: {tied:.2f}")
print("rbg, fold_in(key, i) is split(key, 4)[i] for i =", *rbg)
print("not partitionable, fold_in(key, i) is split(key, 4)[i] for i =", *(old or ["none"]))
print(f"not partitionable, correlation: {free:.2f}")
everywhere = folded == rbg == [0, 1, 2, 3] and prefix == [0, 1] and shaped
sys.exit(0 if everywhere and tied == 1 and not old and abs(free) < 0.05 else 1)
PYTHON
