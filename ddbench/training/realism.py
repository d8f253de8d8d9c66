"""RDED's realism score of crops, and which crops are kept: an observer's cross-entropy, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def realism(logits: Tensor, label: int) -> Tensor:
    """The score ``-CE(logits, label)``: the logarithm of the observer's probability of the class.

    In float64: in float32 a confident observer gives exactly 0 to many crops, and their order would be luck.

    Args:
        logits: ``(n, K)``.
        label: the class, 0 to K - 1.

    Returns:
        float64 ``(n,)``, at most 0.
    """
    return logits.double().log_softmax(1)[:, label]


def best_crops(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best crop of each image, of the ``count`` images whose best crop scores most.

    Among equal scores the earlier crop and the earlier image win.

    Args:
        scores: ``(n, m)``: m crops of n images, finite.
        count: images to keep, at most n.

    Returns:
        Positions of the images, best first, and of their crops, int64 ``(count,)`` each.

    Raises:
        ValueError: more than there are.
    """
    if not 0 <= count <= len(scores):
        raise ValueError(f"{count} of {len(scores)} images")
    crops = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, 0]
    best = scores.gather(1, crops[:, None]).squeeze(1)
    images = torch.sort(best, descending=True, stable=True).indices[:count]
    return images, crops[images]
