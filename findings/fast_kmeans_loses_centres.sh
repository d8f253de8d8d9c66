#!/usr/bin/env bash
# fast-pytorch-kmeans moves the centre of a cluster that no image of a mini-batch is nearest to towards the origin.
#
# fast-pytorch-kmeans 0.2.2 (the clustering that public code of dataset distillation takes its representative images
# with), torch 2.15.0, scikit-learn 1.9.1 for the images and as the other side. The mean of no image is counted as 0 and
# averaged in: with `minibatch` the centre goes a tenth of its way or more to the origin, step by step, and without it
# an empty cluster is put there at once. The black image is nearest to none, so it never comes back. Asked for 50 centres
# of 1,797 digits, in batches of 64, one gets 17; nothing is said, and the clustering is about as good as one of so few.
# Count the clusters that predict() uses, and take a batch of many images a cluster. Mini-batches of scikit-learn lose none.
#
# Seen (last figures depend on the processor):
#   50 centres of 1,797 digits of 64 pixels; mean squared distance to the nearest centre
#   fast-pytorch-kmeans, all images: 1 centre within 0.001 of the origin, 49 used, distance 1.62
#   fast-pytorch-kmeans, batches of 256: 10 centres within 0.001 of the origin, 39 used, distance 1.74
#   fast-pytorch-kmeans, batches of 64: 33 centres within 0.001 of the origin, 15 used, distance 2.35
#   scikit-learn, batches of 64: 0 centres within 0.001 of the origin, 50 used, distance 1.69
#
# Run by hand: bash findings/fast_kmeans_loses_centres.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" fast-pytorch-kmeans==0.2.2 torch==2.15.0 numpy==2.4.6 psutil==7.2.2 scikit-learn==1.9.1
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys

import numpy as np
import torch
from fast_pytorch_kmeans import KMeans
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_digits

CENTRES = 50
torch.set_num_threads(1)
images = torch.tensor(load_digits().data / 16, dtype=torch.float32)


def told(name: str, centres: torch.Tensor) -> tuple[int, int]:
    distances = torch.cdist(images, centres)
    lost = int((centres.norm(dim=1) < 1e-3).sum())
    used = len(distances.argmin(1).unique())
    mean = float(distances.min(1).values.square().mean())
    print(f"{name}: {lost} centre{'' if lost == 1 else 's'} within 0.001 of the origin, {used} used, distance {mean:.2f}")
    return lost, used


print(f"{CENTRES} centres of {len(images):,} digits of {images.shape[1]} pixels; mean squared distance to the nearest centre")
seen = {}
for batch in (None, 256, 64):
    torch.manual_seed(0)
    np.random.seed(0)
    clusters = KMeans(CENTRES, minibatch=batch)
    clusters.fit_predict(images)
    seen[batch] = told(f"fast-pytorch-kmeans, {f'batches of {batch}' if batch else 'all images'}", clusters.centroids)
other = MiniBatchKMeans(CENTRES, batch_size=64, n_init=1, random_state=0).fit(images.numpy())
lost, used = told("scikit-learn, batches of 64", torch.tensor(other.cluster_centers_, dtype=torch.float32))
sys.exit(0 if seen[64][0] > 20 and seen[256][0] > 3 and seen[64][1] < 30 and (lost, used) == (0, CENTRES) else 1)
PYTHON
