#!/usr/bin/env bash
# safetensors 0.8.0 writes a transposed numpy array with its values in the wrong places.
#
# safetensors 0.8.0 and 0.7.0, numpy 2.4.6. safetensors.numpy takes the memory of an array as it lies and writes the
# shape as it looks: of an array in Fortran order (x.T, the components of scikit-learn's PCA, np.asfortranarray) the
# shape is right and the values are permuted, without an error. Its words ask for contiguous and dense arrays, which
# such an array is. 0.7.0 wrote it right; safetensors.torch refuses a transposed tensor. Reported as issue 825 of
# safetensors. ddbench writes by torch, after contiguous() (ddbench/runtime/tensors.py).
#
# Seen:
#   safetensors 0.7.0
#   rows: [[0, 1, 2], [3, 4, 5]] read as [[0, 1, 2], [3, 4, 5]]
#   transposed: [[0, 3], [1, 4], [2, 5]] read as [[0, 3], [1, 4], [2, 5]]
#   in Fortran order: [[0, 1, 2], [3, 4, 5]] read as [[0, 1, 2], [3, 4, 5]]
#   safetensors 0.8.0
#   rows: [[0, 1, 2], [3, 4, 5]] read as [[0, 1, 2], [3, 4, 5]]
#   transposed: [[0, 3], [1, 4], [2, 5]] read as [[0, 1], [2, 3], [4, 5]]
#   in Fortran order: [[0, 1, 2], [3, 4, 5]] read as [[0, 3, 1], [4, 2, 5]]
#
# Run by hand: bash findings/safetensors_numpy_transposed.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/new" safetensors==0.8.0 numpy==2.4.6
python3 -m pip install --quiet --no-deps --target "$folder/old" safetensors==0.7.0
cat >"$folder/look.py" <<'PYTHON'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load, save

rows = np.arange(6, dtype=np.float32).reshape(2, 3)
cases = {"rows": rows, "transposed": rows.T, "in Fortran order": np.asfortranarray(rows)}
found = {}
print("safetensors", safetensors.__version__)
for name, array in cases.items():
    back = load(save({"array": array}))["array"]
    found[name] = np.array_equal(back, array)
    print(f"{name}: {array.astype(int).tolist()} read as {back.astype(int).tolist()}")
sys.exit(0 if list(found.values()) == [True, sys.argv[1] == "right", sys.argv[1] == "right"] else 1)
PYTHON
PYTHONPATH="$folder/old:$folder/new" python3 "$folder/look.py" right
PYTHONPATH="$folder/new" python3 "$folder/look.py" wrong
