"""Characteristic functions of two sets of features, compared as NCFM does; pure functions of tensors.

The empirical characteristic function of features f_1, ..., f_n at a frequency t is ``phi(t) = mean_i exp(j <t, f_i>)``.
Wang et al. (CVPR 2025; arXiv 2502.20653) compare its amplitude, which tells how far the features scatter, and its
phase, which tells where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1e-12
"""Below this the phase's bracket is cut, as in the public code: the root has no slope at 0."""


@dataclass(frozen=True)
class Characteristic:
    """A characteristic function at F frequencies.

    Attributes:
        real, imaginary: ``(F,)``, in [-1, 1].
    """

    real: Tensor
    imaginary: Tensor

    @property
    def amplitude(self) -> Tensor:
        """``|phi|``, ``(F,)``; kept off 0 by ``SMALLEST``, where its slope is not defined."""
        return (self.real.square() + self.imaginary.square()).clamp_min(SMALLEST**2).sqrt()


def characteristic(features: Tensor, frequencies: Tensor) -> Characteristic:
    """The empirical characteristic function of features ``(n, D)`` at frequencies ``(F, D)``."""
    angles = features @ frequencies.T
    return Characteristic(angles.cos().mean(0), angles.sin().mean(0))


def discrepancy(synthetic: Characteristic, real: Characteristic, alpha: float = 0.5, beta: float = 0.5) -> Tensor:
    """How far two characteristic functions are from each other, a scalar; symmetric, about 1e-6 where they are equal.

    ``mean_k sqrt(alpha (|a_k| - |b_k|)^2 + beta 2 (|a_k| |b_k| - Re a_k Re b_k - Im a_k Im b_k))``; for equal weights
    that is ``sqrt(alpha) mean_k |a_k - b_k|``.

    Args:
        alpha: weight of the amplitudes' difference, at least 0.
        beta: weight of the phases' difference, at least 0.
    """
    ours, theirs = synthetic.amplitude, real.amplitude
    aligned = synthetic.real * real.real + synthetic.imaginary * real.imaginary
    phase = (2 * (ours * theirs - aligned)).clamp_min(SMALLEST)
    # the amplitudes may be all that counts, and equal: then the root has no slope either
    return (alpha * (ours - theirs).square() + beta * phase).clamp_min(SMALLEST**2).sqrt().mean()


def unit_rows(features: Tensor) -> Tensor:
    """Each row ``(n, D)`` divided by its length."""
    return torch.nn.functional.normalize(features, dim=1)
