"""What DATM and AST add to trajectory matching, as pure functions of tensors and numbers.

DATM: Guo, Wang, Cazenavette, Li, Zhang, You; ICLR 2024. AST: Shen, Yang, Lam; arXiv 2310.10541. The student's steps
and the gradients through them are those of :mod:`ddbench.training.inner`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

INTERMEDIATE = ("all", "growing", "none")
"""Weights of AST's intermediate matches: 1 each, i/M for the i-th, or no such matches."""


def window_end(iteration: int, first: int, last: int, over: int) -> int:
    """The first start epoch that an iteration does *not* draw, while DATM's difficulty window grows.

    ``min(last, first + floor((last - first) * iteration / over))``: the sequential generation of the public code;
    harder (later) parts of the trajectories join step by step.

    Args:
        iteration: from 0.
        first: the end at iteration 0.
        last: the end from iteration ``over`` on, at least ``first``.
        over: iterations that the growth takes, at least 1.
    """
    return min(last, first + (last - first) * iteration // over)


def first_right(tables: Iterable[Tensor], count: int) -> Tensor:
    """DATM's first images of a class: the first ones, in the given order, that an expert classifies right.

    Args:
        tables: for one expert after the other, bool ``(n,)``: which of the n images it classifies right. A table is
            only asked for when those before did not give enough; when none is left, the images that nobody got right
            follow in their order.
        count: how many, 0 to n.

    Returns:
        Different positions, int64 ``(count,)``.

    Raises:
        ValueError: ``count`` out of range, or no table.
    """
    chosen: list[int] = []
    images = -1
    for right in tables:
        images = len(right)
        chosen += [position for position in right.nonzero()[:, 0].tolist() if position not in set(chosen)]
        if len(chosen) >= count:
            break
    if not 0 <= count <= images:
        raise ValueError(f"{count} of {images} images")
    known = set(chosen)
    chosen += [position for position in range(images) if position not in known]
    return torch.tensor(chosen[:count], dtype=torch.int64)


def mean_right_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """DATM's first soft labels: for each image, the mean logits of the experts that classify it right.

    Where none does (0 / 0 in the public code), the mean of all, with the largest entry and that of the class exchanged.

    Args:
        logits: ``(E, n, K)`` of E experts.
        labels: int64 ``(n,)``.

    Returns:
        ``(n, K)``; the largest entry of each row is its class.
    """
    right = (logits.argmax(2) == labels).to(logits.dtype)[..., None]
    count = right.sum(0)
    made = torch.where(count > 0, (logits * right).sum(0) / count.clamp_min(1), logits.mean(0))
    rows = torch.arange(len(labels), device=labels.device)
    top = made.argmax(1)
    made = made.clone()
    largest, own = made[rows, top], made[rows, labels]
    made[rows, top], made[rows, labels] = own, largest
    return made


def balance(start_epoch: int, max_start_epoch: int) -> float:
    """AST's factor of the student's loss, which weighs early against late start epochs.

    With ``h = T+ // 2``: ``log_5(t - h + 8)`` from h on, ``1 / log_5(h - t + 8)`` before.
    """
    away = start_epoch - max_start_epoch // 2
    return math.log(away + 8, 5) if away >= 0 else 1 / math.log(8 - away, 5)


def perturbed(theta: Tensor, shapes: Sequence[Sequence[int]], noise: Tensor, strength: float) -> Tensor:
    """AST's perturbed start: ``W + strength * d / |d|_F * W`` for each convolution's weights W; the others stay.

    Args:
        theta: flat weights ``(P,)``.
        shapes: of the parameters, in order; those with 4 dimensions are convolutions.
        noise: d, flat ``(P,)``; read where convolutions are.
        strength: alpha; 0 changes nothing.
    """
    sizes = [math.prod(shape) for shape in shapes]
    parts = zip(theta.split(sizes), noise.split(sizes), shapes, strict=True)
    return torch.cat([w + strength * (d / d.norm()) * w if len(shape) == 4 else w for w, d, shape in parts])


def intermediate_matches(steps: int, epochs: int, weights: str) -> list[tuple[int, int, float]]:
    """AST's matches on the way: which student step is compared with which expert epoch, and its weight.

    For i = 1 to M - 1 the weights after ``(N // M) * i`` steps are compared with the expert i epochs after the start.
    Matches at step 0, or at the last step (which is compared with the target), are left out.

    Args:
        steps: N.
        epochs: M.
        weights: one of :data:`INTERMEDIATE`.

    Returns:
        (student step from 1, epochs after the start, weight), ascending.
    """
    if weights == "none":
        return []
    pairs = [(steps // epochs * i, i, i / epochs if weights == "growing" else 1.0) for i in range(1, epochs)]
    return [pair for pair in pairs if 0 < pair[0] < steps]
