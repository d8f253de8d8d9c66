"""Solvers of the symmetric positive definite systems of implicit gradients: ``A x = b`` by products with A alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, iterations: int, tolerance: float = 1e-6
) -> tuple[Tensor, int]:
    """Conjugate gradients (Hestenes and Stiefel, 1952) from zero.

    Args:
        product: ``x -> A x``, both ``(P,)``.
        right: b ``(P,)``.
        iterations: at most so many products; a matrix with k different eigenvalues needs k in exact arithmetic.
        tolerance: it ends when the residual is this much shorter than b.

    Returns:
        x ``(P,)``, and the number of products.
    """
    x = torch.zeros_like(right)
    residual = right.clone()
    direction, square = residual, residual @ residual
    goal = tolerance**2 * float(square)
    for done in range(iterations):
        if float(square) <= goal:
            return x, done
        moved = product(direction)
        step = square / (direction @ moved)
        x = x + step * direction
        residual = residual - step * moved
        before, square = square, residual @ residual
        direction = residual + square / before * direction
    return x, iterations


def adam_descent(
    gradient: Callable[[Tensor, int], Tensor], start: Tensor, lr: float, steps: int, count: int = 0
) -> Tensor:
    """Adam (Kingma and Ba, 2015; defaults) from zero moments.

    Args:
        gradient: ``(x, step) -> gradient``.
        count: steps that the bias correction believes done before.
    """
    x = start
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    for step in range(steps):
        slope = gradient(x, step)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope.square()
        number = count + step + 1
        x = x - lr * (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
    return x
