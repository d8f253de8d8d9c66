"""Objectives of the kernel family as pure functions: a network's last layer in closed form, on learned images and
labels.

Sources: Zhou, Nezhadarya, Ba, *Dataset Distillation using Neural Feature Regression*, NeurIPS 2022 (FRePo); Loo,
Hasani, Lechner, Rus, *Dataset Distillation with Convexified Implicit Gradients*, ICML 2023 (RCIG). n learned images, m
real ones, F features, C classes. Linear systems are solved in float64: the Gram matrix is badly conditioned.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def centred_one_hot(labels: Tensor, classes: int) -> Tensor:
    """What a regression on classes learns: one-hot less 1/C, float32 ``(N, C)``, of int64 ``(N,)``."""
    return F.one_hot(labels, classes).float() - 1 / classes


def ridge_solver(features: Tensor, ridge: Tensor | float) -> Callable[[Tensor], Tensor]:
    """``right (n, C) -> (h h^T + ridge I)^-1 right``, by one Cholesky factor in float64; differentiable.

    Args:
        features: h ``(n, F)``.
        ridge: above 0.
    """
    wide = features.double()
    gram = wide @ wide.T
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))

    def solve(right: Tensor) -> Tensor:
        return torch.cholesky_solve(right.double(), factor).to(right.dtype)

    return solve


def relative_ridge(features: Tensor, share: float) -> Tensor:
    """FRePo's ridge: a share of the mean diagonal of the Gram matrix of features ``(n, F)``; scalar, float64."""
    return share * features.double().square().sum() / len(features)


def label_margin(labels: Tensor, bound: float) -> Tensor:
    """Mean over learned labels ``(n, C)`` of the gap between the two largest entries, cut at ``bound``; to be large."""
    first, second = labels.topk(2, dim=1).values.unbind(1)
    return (first - second).clamp(max=bound).mean()


def frepo_loss(predicted: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """FRePo: mean of ``1/2 sum_c (p - y)^2`` over the real batch, less the margin of the learned labels (bound 1/C).

    Args:
        predicted: ``(m, C)``.
        real: centred one-hot ``(m, C)``.
        labels: learned ones ``(n, C)``.
    """
    return 0.5 * (predicted - real).square().sum(1).mean() - label_margin(labels, 1 / labels.shape[1])


def platt_loss(predicted: Tensor, real: Tensor, labels: Tensor, tau: Tensor) -> Tensor:
    """RCIG: cross-entropy of ``exp(tau) p`` with the classes, less the margin of the learned labels (bound 1/(2C)).

    Args:
        predicted: ``(m, C)``.
        real: classes, int64 ``(m,)``.
        labels: learned ones ``(n, C)``.
        tau: scalar log-temperature.
    """
    return F.cross_entropy(tau.exp() * predicted, real) - label_margin(labels, 0.5 / labels.shape[1])


def convex_loss(residual: Tensor, tangent: Tensor, features: Tensor, ridge: float) -> Tensor:
    """RCIG's inner loss with its last layer in closed form.

    ``ridge / (2 n C) (tr r^T A^-1 r + |delta|^2)`` with ``A = h h^T + ridge I``.

    Args:
        residual: r = Y - J delta ``(n, C)``.
        tangent: delta ``(P,)``.
        features: h ``(n, F)``.
    """
    fitted = (residual * ridge_solver(features, ridge)(residual)).sum()
    return ridge / (2 * residual.numel()) * (fitted + tangent.square().sum())


def clip_to(part: Tensor, reference: Tensor) -> Tensor:
    """A gradient that is at most as long as another: ``part * min(|reference|, |part|) / |part|``; 0 where it is 0."""
    length = part.norm()
    return part * torch.where(length > 0, torch.minimum(reference.norm(), length) / length, torch.zeros_like(length))
