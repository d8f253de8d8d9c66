"""How well an image stands for its class's real ones in a network's training, as IGD asks; pure functions of tensors.

Chen, Du, Huang, Wang, Zhang, Wang (ICLR 2025): with ``g`` the gradient that a network's weights get from an image and
``G`` that from real images of its class, at several points of a training, the image misleads by
``sum_c 1 - cos(g_c, G_c)``; and it repeats others by its largest cosine to one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def class_gradient(net: nn.Module, x: Tensor, labels: Tensor, *, graph: bool = False) -> Tensor:
    """Gradient of the mean cross-entropy of ``x`` in all weights that have one, ``(P,)``.

    Args:
        graph: keep what leads to it, so that it can be differentiated in ``x``.
    """
    weights = [parameter for parameter in net.parameters() if parameter.requires_grad]
    loss = F.cross_entropy(net(x), labels)
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights, create_graph=graph)])


def misleading(own: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """``sum_c 1 - cos(own_c, real_c)`` over the points of a training, a scalar from 0 to twice their number.

    A gradient of zeros agrees with nothing: its cosine is 0.
    """
    return torch.stack([1 - F.cosine_similarity(g, target, dim=0) for g, target in zip(own, real, strict=True)]).sum()


def nearness(latent: Tensor, others: Tensor) -> Tensor:
    """The largest cosine of a latent ``(...)`` to one of others ``(n, ...)``, a scalar."""
    return F.cosine_similarity(others.flatten(1), latent.flatten()[None]).max()


def turning_points(gradients: Iterable[Tensor], bound: float) -> list[int]:
    """Which points of a training say something new: greedily, the first, and each that differs from the last one kept.

    Args:
        gradients: of each point in turn those of all classes, ``(K, P)``.
        bound: a point is kept where the mean cosine of its classes to those of the last one kept is below it.
    """
    kept: list[int] = []
    last = torch.empty(0)
    for place, found in enumerate(gradients):
        if not kept or float(F.cosine_similarity(found, last).mean()) < bound:
            kept.append(place)
            last = found
    return kept


def direction(gradient: Tensor, noise: Tensor) -> Tensor:
    """A gradient at the length of predicted noise, item by item ``(n, ...)``; zeros stay zeros."""
    axes = tuple(range(1, gradient.ndim))
    length, wanted = (torch.linalg.vector_norm(one, dim=axes, keepdim=True) for one in (gradient, noise))
    return torch.where(length > 0, gradient / length.clamp_min(torch.finfo(length.dtype).tiny) * wanted, gradient)
