"""Losses as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""Scalar loss of logits ``(N, K)`` and targets."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of a batch.

    Args:
        logits: ``(N, K)`` outputs of the network.
        labels: int64 ``(N,)`` classes, or ``(N, K)`` soft labels given as *logits* (a softmax is taken), as in
            DATM, section 4.
    """
    if labels.dtype == torch.int64:
        return F.cross_entropy(logits, labels)
    return probability_cross_entropy(logits, labels.softmax(1))


def probability_cross_entropy(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Mean of ``-sum_k p_k log softmax(logits)_k``; both ``(N, K)``. Mixed labels are probabilities."""
    return -(probabilities * logits.log_softmax(1)).sum(1).mean()


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of ``1/2 sum_k (f_k - y_k)^2``; both ``(N, K)``."""
    return 0.5 * (outputs - targets).square().sum(1).mean()


def smoothed(loss: Loss, share: float) -> Loss:
    """A cross-entropy of targets of which ``share`` is spread over all classes: ``(1 - share) y + share / K``."""

    def value(logits: Tensor, labels: Tensor) -> Tensor:
        return (1 - share) * loss(logits, labels) - share * logits.log_softmax(1).mean()

    return value


def focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Mean of ``(1 - p_y)^gamma * -log p_y`` with ``p = softmax(logits)`` (Lin et al., ICCV 2017, over classes).

    Args:
        logits: ``(N, K)``.
        labels: int64 ``(N,)`` classes.
        gamma: at least 0; 0 is the cross-entropy.
    """
    logs = logits.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    # a root has no slope where p rounds to 1
    return -((1 - logs.exp()).clamp_min(torch.finfo(logits.dtype).tiny) ** gamma * logs).mean()


def soft_target_kl(logits: Tensor, teacher: Tensor, temperature: float, tau_squared: bool = False) -> Tensor:
    """``KL(softmax(teacher / T) || softmax(logits / T))``, mean over the batch; both ``(N, K)`` logits.

    Args:
        tau_squared: multiply by T squared (Hinton et al. 2015); SRe2L and RDED do not, and say 20 for T.
    """
    ours, theirs = (logits / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    loss = (theirs.exp() * (theirs - ours)).sum(1).mean()  # not F.kl_div, which torch.vmap cannot map
    return loss * temperature**2 if tau_squared else loss


def matching_loss(student: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """Squared distance to the expert's target, relative to the expert's own move (MTT, equation 2).

    All of shape ``(P,)``; 0 when the student is at the target, 1 when it is where it started. Scalar.
    """
    return (student - target).square().sum() / (start - target).square().sum()
