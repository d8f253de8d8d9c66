"""Penalties that flatten a network's loss around its training images (GUARD, Xue et al., AAAI 2025; arXiv 2403.10045).

Both published forms, as pure functions of a loss of the input. With ``l(x)`` the *mean* cross-entropy of a batch of B,
``g = grad_x l(x)`` (taken as a constant) and the step ``z_b = h (g_b + e) / (|g_b| + e)``, ``e = 1e-7``:

=============  ========================================================================================================
``curvature``  ``mean_b |grad_x [l(x + z) - l(x)]_b|``: not squared, not divided by h (CURE squares it). As ``l`` is a
               batch mean, a term carries a factor 1/B (the public script for CIFAR)
``loss-gap``   ``|l(x + z) - l(x)|``: first order only; the authors call it simplified (the public script for ImageNet)
=============  ========================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EPSILON = 1e-7
"""Added to the gradient and to its norm, as published: where gradients are that small, the step turns to all ones."""

InputLoss = Callable[[Tensor], Tensor]
"""Mean loss of a batch of inputs ``(N, ...)``, a scalar that is differentiable in them and in the weights."""


def ascent_step(gradient: Tensor, length: float) -> Tensor:
    """``z_b = length (g_b + e) / (|g_b| + e)`` of each sample's gradient ``(N, ...)``."""
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return length * (gradient + EPSILON) / (norms + EPSILON).view(-1, *[1] * (gradient.ndim - 1))


def curvature_penalty(loss: InputLoss, x: Tensor, length: float) -> Tensor:
    """How much the input gradient changes along its own direction; differentiable in the weights, a scalar.

    Args:
        x: inputs ``(N, ...)``.
        length: h, in units of the inputs.
    """
    here = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(here), here, create_graph=True)
    there = (here + ascent_step(gradient.detach(), length)).detach().requires_grad_()
    (moved,) = torch.autograd.grad(loss(there), there, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm((moved - gradient).flatten(1), dim=1)
    return norms.mean()


def loss_gap_penalty(loss: InputLoss, x: Tensor, length: float) -> Tensor:
    """How much the loss rises along its gradient; differentiable in the weights, a scalar.

    Args:
        x: inputs ``(N, ...)``.
        length: h, in units of the inputs.
    """
    here = x.detach().requires_grad_()
    value = loss(here)
    (gradient,) = torch.autograd.grad(value, here, retain_graph=True)
    return (loss(here.detach() + ascent_step(gradient, length)) - value).abs()


PENALTIES: dict[str, Callable[[InputLoss, Tensor, float], Tensor]] = {
    "curvature": curvature_penalty,
    "loss-gap": loss_gap_penalty,
}
