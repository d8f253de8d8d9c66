"""Batch-norm statistics as a prior on images: what a frozen network's norms see should look as in its training.

SRe2L (Yin, Xing, Shen, NeurIPS 2023; as its public code has it): for every batch-norm layer ``l``, mean and *biased*
variance of the layer's input over batch, height and width are compared with the running ones by Euclidean distance,
not squared; the first layer counts more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

S = TypeVar("S")

FIRST_WEIGHT = 10.0
"""Weight of the first layer in all public settings; the others have 1."""


@dataclass(frozen=True)
class Statistics:
    """Mean and variance ``(C,)`` of the channels that a batch-norm layer sees, or of those that it saw in training."""

    mean: Tensor
    variance: Tensor


def batch_norms(net: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers that keep running statistics, in the order of registration."""
    return [module for module in net.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


def running_statistics(net: nn.Module) -> list[Statistics]:
    """What the layers of :func:`batch_norms` remember of the training; copies."""
    found = []
    for layer in batch_norms(net):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        found.append(Statistics(layer.running_mean.detach().clone(), layer.running_var.detach().clone()))
    return found


def input_statistics(x: Tensor) -> Statistics:
    """Mean and biased variance of each channel of ``(N, C, ...)``, differentiable."""
    variance, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
    return Statistics(mean, variance)


def look_at(
    net: nn.Module, x: Tensor, layers: Sequence[nn.Module], look: Callable[[nn.Module, Tensor], S]
) -> tuple[Tensor, list[S]]:
    """One forward pass, and what ``look`` makes of each layer and its input in it.

    The network is not touched: the hooks are there for this call only, and what they gather is returned, not kept.

    Args:
        net: in evaluation mode, so that its norms do not change their running statistics.
        x: network input ``(N, C, H, W)``.
        layers: of the network.

    Returns:
        Logits, and one entry a layer in their order.

    Raises:
        ValueError: a batch norm in training mode, or a layer that the forward pass does not reach.
    """
    if any(layer.training for layer in batch_norms(net)):
        raise ValueError("the network is in training mode: its running statistics would change")
    found: dict[int, S] = {}

    def keep(position: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            found[position] = look(layer, inputs[0])

        return hook

    handles = [layer.register_forward_pre_hook(keep(position)) for position, layer in enumerate(layers)]
    try:
        logits: Tensor = net(x)
    finally:
        for handle in handles:
            handle.remove()
    if len(found) < len(layers):
        kind = next(type(layer).__name__ for position, layer in enumerate(layers) if position not in found)
        what = "batch-norm" if kind.startswith("BatchNorm") else kind
        raise ValueError(f"a {what} layer of the network is not used in its forward pass")
    return logits, [found[position] for position in range(len(layers))]


def observe(net: nn.Module, x: Tensor) -> tuple[Tensor, list[Statistics]]:
    """One forward pass, and the statistics of what each batch-norm layer was given in it.

    Args:
        net: in evaluation mode, so that its layers normalise with (and do not change) their running statistics.
        x: network input ``(N, C, H, W)``.

    Returns:
        Logits, and one entry a layer in the order of :func:`batch_norms`, both differentiable in ``x``.

    Raises:
        ValueError: as :func:`look_at`.
    """
    return look_at(net, x, batch_norms(net), lambda _, inputs: input_statistics(inputs))


def statistics_loss(
    observed: Sequence[Statistics], running: Sequence[Statistics], first_weight: float = FIRST_WEIGHT
) -> Tensor:
    """``sum_l w_l (|var_l - var_l^run| + |mean_l - mean_l^run|)``, Euclidean norms, ``w_1 = first_weight``, others 1.

    Args:
        observed: of each layer, from :func:`observe`.
        running: of the same layers, from :func:`running_statistics`.

    Raises:
        ValueError: no layers, or not as many of both.
    """
    if not running:
        raise ValueError("the network has no batch-norm layer with running statistics: there is nothing to match")
    terms = [
        torch.linalg.vector_norm(ours.variance - theirs.variance) + torch.linalg.vector_norm(ours.mean - theirs.mean)
        for ours, theirs in zip(observed, running, strict=True)
    ]
    first, *others = terms
    total: Tensor = first_weight * first
    return total + torch.stack(others).sum() if others else total
