#!/usr/bin/env bash
# Weights loaded from safetensors are equal to the saved ones, and the network's answer to one image is not.
#
# safetensors 0.8.0, torch 2.15.0 (CPU, its own MKL), numpy 2.4.6. load_file gives tensors that lie in the mapped file, where
# they were written: behind a tensor of three floats a matrix begins at 12 bytes past a multiple of 64. torch aligns what it
# makes itself, and its product of a single row (a batch of one image) rounds by the place of the memory; products of two
# rows and more do not. So a model answers otherwise after it was saved and loaded than before, and otherwise when a
# scalar is added to the file; batches of one differ, larger batches do not, and torch.equal of all weights says yes.
# Where bits have to be the same (a run that goes on after a kill, a teacher's labels asked image by image), give what is
# loaded memory of its own: tensor.clone(), or load_state_dict into a network that is there.
#
# Seen (how many numbers differ depends on the processor):
#   a matrix of 256 x 320 behind 3 floats: 20 bytes past a multiple of 64 in the file, equal to the saved one: True
#   1 row: 197 of 256 numbers differ from the saved matrix's, 0 after clone()
#   2 rows: 0 of 512 numbers differ from the saved matrix's, 0 after clone()
#   8 rows: 0 of 2048 numbers differ from the saved matrix's, 0 after clone()
#   a matrix of 256 x 320 behind 16 floats: 16 bytes past a multiple of 64 in the file, equal to the saved one: True
#   1 row: 0 of 256 numbers differ from the saved matrix's, 0 after clone()
#
# Run by hand: bash findings/safetensors_place_moves_results.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" safetensors==0.8.0 torch==2.15.0 numpy==2.4.6
PYTHONPATH="$folder" python3 - "$folder/weights.safetensors" <<'PYTHON'
import sys

import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
matrix = torch.randn(256, 320, generator=generator)
images = torch.randn(8, 320, generator=generator)
differ = {}
for before, batches in ((3, (1, 2, 8)), (16, (1,))):
    save_file({"bias": torch.zeros(before), "matrix": matrix}, sys.argv[1])
    loaded = load_file(sys.argv[1])["matrix"]
    print(
        f"a matrix of 256 x 320 behind {before} floats: {loaded.data_ptr() % 64} bytes past a multiple of 64 in the file, "
        f"equal to the saved one: {torch.equal(loaded, matrix)}"
    )
    for rows in batches:
        right = images[:rows] @ matrix.T
        other = int((images[:rows] @ loaded.T != right).sum())
        copied = int((images[:rows] @ loaded.clone().T != right).sum())
        differ[before, rows] = (other, copied)
        print(
            f"{rows} row{'s' if rows > 1 else ''}: {other} of {right.numel()} numbers differ from the saved matrix's, "
            f"{copied} after clone()"
        )
alone = differ.pop((3, 1))
sys.exit(0 if alone[0] > 0 and alone[1] == 0 and set(differ.values()) == {(0, 0)} else 1)
PYTHON
