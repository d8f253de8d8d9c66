"""Gradient matching as pure functions: gradients in a network's parameters, and how far two of them are apart.

DC and DSA (Zhao et al., ICLR 2021; Zhao and Bilen, ICML 2021), IDC (Kim et al., ICML 2022) and DosCond (Jin et al., KDD
2022) differ in the distance:

================  ======================================================================================================
kind              distance of gradients ``A`` (real) and ``B`` (synthetic), summed over the parameters that it looks at
================  ======================================================================================================
``rows``          ``sum_i 1 - <A_i, B_i> / (|A_i| |B_i| + 1e-6)`` over rows ``i``, one an output unit; only parameters
                  of two or more dimensions (DC, section 3 and appendix)
``mse``           ``|A - B|^2`` of all parameters together
``relative-mse``  ``|A - B|^2 / |A|^2`` of all parameters as one vector (DosCond's public code)
``cos``           ``1 - <A, B> / (|A| |B| + 1e-6)`` of all parameters as one vector
``conv-mse``      ``|A - B|^2`` of the convolutions' kernels, the only parameters of four dimensions (IDC)
``conv-l1``       ``sum |A - B|`` of the same
================  ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ddbench.training.losses import cross_entropy

Distance = Literal["rows", "mse", "relative-mse", "cos", "conv-mse", "conv-l1"]
"""The distances of :func:`distance`."""

LEAST_DIMENSIONS = {"rows": 2, "mse": 0, "relative-mse": 0, "cos": 0, "conv-mse": 4, "conv-l1": 4}
"""Parameters of fewer dimensions add nothing to a distance."""

EPSILON = 1e-6
"""Added to the product of norms under a cosine, as in DC's public code."""


def matched(parameters: Iterable[Tensor], kind: Distance) -> list[Tensor]:
    """The parameters that a distance looks at: only their gradients have to be computed."""
    return [parameter for parameter in parameters if parameter.ndim >= LEAST_DIMENSIONS[kind]]


def class_gradients(
    net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients of the mean cross-entropy of a batch, as constants.

    Args:
        net: gives logits ``(n, K)``.
        x: network input ``(n, C, H, W)``.
        y: classes ``(n,)`` int64, or soft labels ``(n, K)`` as logits.
        parameters: tensors that ``net`` computes with.

    Returns:
        A detached tensor for each parameter, of its shape.
    """
    with torch.enable_grad():
        return torch.autograd.grad(cross_entropy(net(x.detach()), y), parameters)


def synthetic_gradients(
    net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The same gradients as functions of ``x`` (and of ``y``, if it is soft): they can be differentiated again."""
    return torch.autograd.grad(cross_entropy(net(x), y), parameters, create_graph=True)


def distance(real: Sequence[Tensor], synthetic: Sequence[Tensor], kind: Distance) -> Tensor:
    """How far two lists of gradients are apart; a scalar, differentiable in ``synthetic``.

    Args:
        real, synthetic: gradients of the same parameters, in the same order; those that ``kind`` does not look at may
            be there or not.
        kind: see the table of this module.

    Raises:
        ValueError: lists or shapes that differ, no gradient to compare, or an unknown kind.
    """
    if kind not in LEAST_DIMENSIONS:
        raise ValueError(f"distance {kind!r}: expected one of {', '.join(LEAST_DIMENSIONS)}")
    if [one.shape for one in real] != [one.shape for one in synthetic]:
        raise ValueError("real and synthetic gradients are not of the same parameters")
    pairs = list(zip(matched(real, kind), matched(synthetic, kind), strict=True))
    if not pairs:
        raise ValueError(f"distance {kind!r}: no parameter has {LEAST_DIMENSIONS[kind]} dimensions")
    if kind == "rows":
        return torch.stack([_rows(a.flatten(1), b.flatten(1)).sum() for a, b in pairs]).sum()
    if kind == "cos":
        return _rows(*(torch.cat([one.flatten() for one in side]) for side in zip(*pairs, strict=True)))
    if kind == "conv-l1":
        return torch.stack([(a - b).abs().sum() for a, b in pairs]).sum()
    squares = torch.stack([(a - b).square().sum() for a, b in pairs]).sum()
    return squares / torch.stack([a.square().sum() for a, _ in pairs]).sum() if kind == "relative-mse" else squares


def _rows(a: Tensor, b: Tensor) -> Tensor:
    """One minus the cosine of vectors in the last dimension."""
    norms: Tensor = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return 1 - (a * b).sum(-1) / (norms + EPSILON)
