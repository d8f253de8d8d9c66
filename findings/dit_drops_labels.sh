#!/usr/bin/env bash
# diffusers' DiT drops a tenth of the labels in training mode, though its configuration says dropout 0.
#
# diffusers 0.42.1, torch 2.15.0. DiTTransformer2DModel puts the null class in place of a label with probability 0.1,
# for classifier-free guidance, by torch's global generator; no argument and no entry of the configuration names it,
# and dropout is another thing. So who drops labels himself, as training loops do, drops 19 % with a share of 0.1, and
# a network that is sampled from without eval() answers one input in two ways. ddbench loads it in evaluation mode
# (ddbench/diffusion/backends.py).
#
# Seen:
#   diffusers 0.42.1
#   entries of the configuration with "drop": {'dropout': 0.0}
#   labels replaced in training mode, of 100000: 10.0 %
#   in evaluation mode: 0.0 %
#   two calls agree in training mode: False
#
# Run by hand: bash findings/dit_drops_labels.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6 diffusers==0.42.1
PYTHONPATH="$folder" python3 -W ignore - <<'PYTHON'
import sys

import diffusers
import torch

torch.manual_seed(0)
net = diffusers.DiTTransformer2DModel(
    num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=4,
    patch_size=2, num_embeds_ada_norm=10, norm_type="ada_norm_zero", dropout=0.0,
)
(table,) = [module for name, module in net.named_modules() if name.endswith("class_embedder.embedding_table")]
seen = []
table.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
embedder = net.transformer_blocks[0].norm1.emb


def replaced(mode):
    """Share of 100,000 labels 0 to 9 that become the null class, 10."""
    net.train(mode)
    seen.clear()
    count = 100_000
    embedder(torch.zeros(count), torch.arange(count) % 10, hidden_dtype=torch.float32)
    return round(float((seen[0] == 10).double().mean()), 3)


def agree():
    x, labels = torch.ones(64, 4, 4, 4), torch.zeros(64, dtype=torch.long)
    first, second = (net.train()(x, timestep=torch.zeros(64), class_labels=labels).sample for _ in range(2))
    return torch.equal(first, second)


with torch.no_grad():
    shown = {name: value for name, value in net.config.items() if "drop" in name}
    training, evaluation, same = replaced(True), replaced(False), agree()
print("diffusers", diffusers.__version__)
print('entries of the configuration with "drop":', shown)
print(f"labels replaced in training mode, of 100000: {100 * training:.1f} %")
print(f"in evaluation mode: {100 * evaluation:.1f} %")
print("two calls agree in training mode:", same)
sys.exit(0 if (shown, training, evaluation, same) == ({"dropout": 0.0}, 0.1, 0.0, False) else 1)
PYTHON
