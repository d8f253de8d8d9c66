"""Representative images of a class: those nearest to the centres of the clusters of its features.

DREAM (Liu, Gu, Wang, Zhu, Jiang, You: "DREAM: Efficient dataset distillation by representative matching", ICCV 2023,
section 3.2; arXiv 2302.14416; code: lyq312318224/DREAM): k-means in the space of features, one image per cluster. A
random batch follows the density with noise, and its few images at the border have the largest gradients; the centres of
the clusters cover the class evenly.
"""

from __future__ import annotations

from torch import Tensor

from ddbench.data.coreset import k_means

MINIBATCH = 1024
"""Images of one step of mini-batch k-means."""


def representatives(features: Tensor, count: int, seed: int, *, minibatch: bool = False) -> Tensor:
    """Positions of the images nearest to the centres of ``count`` clusters, all different.

    One start of k-means, as in the public code: the selection is repeated every few steps. A cluster that runs empty
    starts again at the image farthest from its centre; of two centres with the same nearest image the second takes its
    next nearest.

    Args:
        features: ``(N, D)`` of one class.
        count: how many; all images where there are no more.
        seed: names the clustering; taken modulo 2**32.
        minibatch: mini-batch k-means instead of Lloyd's iteration on all images: faster and less exact.

    Returns:
        Positions int64 ``(min(count, N),)``, ascending.

    Raises:
        ValueError: ``count`` below 1.
    """
    return k_means(features, min(count, len(features)), seed, restarts=1, batch=MINIBATCH if minibatch else 0)
