#!/usr/bin/env bash
# optax's AdaBelief steps 1 / b1 as far since 0.2.4 at the same learning rate, and 30,000 times as far for b1 = 0.
#
# optax 0.2.3 and 0.2.8, jax 0.10.2. Up to 0.2.3 the deviation of a gradient was taken from the mean of before the
# step, since 0.2.4 from the mean of after it, as the paper has it. The second is b1 times the first, always, so every
# step is longer by 1 / b1: 11.1 % at the default of 0.9, twice at 0.5. At b1 = 0 no deviation is left and eps_root
# alone is divided by: rate 0.01 and gradient 1 give a step of 31,623. RCIG's learning rates are of the old form, so its
# code takes longer steps with a new optax. ddbench has both (AdaBelief and its argument early,
# ddbench/training/outer.py).
#
# Seen:
#   optax 0.2.3 and 0.2.8
#   steps at b1 0.9, old: -0.01 -0.00968 -0.00969
#   steps at b1 0.9, new: -0.01111 -0.01075 -0.01077
#   new over old at b1 0.9: 1.111 1.111 1.111
#   new over old at b1 0.5: 2.0 2.0 2.0
#   first step at b1 0, old and new: -0.01 -31623
#
# Run by hand: bash findings/optax_adabelief_steps_grew.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/new" optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 \
  chex==0.1.92 etils==1.15.0
python3 -m pip install --quiet --no-deps --target "$folder/old" optax==0.2.3
cat >"$folder/steps.py" <<'PYTHON'
import json

import jax.numpy as jnp
import optax


def steps(b1):
    """Three steps at rate 0.01 for fixed gradients of one weight."""
    optimizer = optax.adabelief(0.01, b1=b1)
    state, found = optimizer.init(jnp.zeros(())), []
    for gradient in (1.0, 0.5, 2.0):
        update, state = optimizer.update(jnp.asarray(gradient), state)
        found.append(float(update))
    return found


print(json.dumps({"version": optax.__version__, **{str(b1): steps(b1) for b1 in (0.9, 0.5, 0.0)}}))
PYTHON
PYTHONPATH="$folder/old:$folder/new" python3 -W ignore "$folder/steps.py" >"$folder/old.json"
PYTHONPATH="$folder/new" python3 -W ignore "$folder/steps.py" >"$folder/new.json"
python3 - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

old, new = (json.loads((Path(sys.argv[1]) / f"{name}.json").read_text()) for name in ("old", "new"))
found = {}
for b1 in ("0.9", "0.5"):
    found[b1] = [round(one / other, 3) for one, other in zip(new[b1], old[b1], strict=True)]
print("optax", old["version"], "and", new["version"])
print("steps at b1 0.9, old:", *(round(step, 5) for step in old["0.9"]))
print("steps at b1 0.9, new:", *(round(step, 5) for step in new["0.9"]))
for b1, ratios in found.items():
    print(f"new over old at b1 {b1}:", *ratios)
print("first step at b1 0, old and new:", round(old["0.0"][0], 5), round(new["0.0"][0]))
ok = found == {"0.9": [1.111] * 3, "0.5": [2.0] * 3} and abs(old["0.0"][0] + 0.01) < 1e-6 and new["0.0"][0] < -30_000
sys.exit(0 if ok else 1)
PYTHON
