"""Losses as pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of a batch.

    Args:
        logits: ``(N, K)`` outputs of the network.
        labels: int64 ``(N,)`` classes, or ``(N, K)`` soft labels given as *logits* (a softmax is taken), as in
            DATM, section 4.
    """
    if labels.dtype == torch.int64:
        return F.cross_entropy(logits, labels)
    return -(labels.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def matching_loss(student: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """Squared distance to the expert's target, relative to the expert's own move (MTT, equation 2).

    All of shape ``(P,)``; 0 when the student is at the target, 1 when it is where it started. Scalar.
    """
    return (student - target).square().sum() / (start - target).square().sum()
