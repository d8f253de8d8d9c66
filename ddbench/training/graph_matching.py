"""One-step gradient matching of graphs (DosCond) as pure functions of a network, real and relaxed graphs.

The distances of two lists of gradients are those of images (:func:`ddbench.training.gradient_matching.distance`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ddbench.graphs.batches import GraphBatch
from ddbench.training.gradient_matching import Distance, distance, matched

Network = Callable[[GraphBatch], Tensor]


@dataclass(frozen=True, eq=False)
class ClassPair:
    """Real and learned graphs of one class, its number, and of how many graphs each batch is."""

    label: int
    real: GraphBatch
    learned: GraphBatch


def gradients(
    net: Network, batch: GraphBatch, label: int, parameters: Sequence[Tensor], create_graph: bool
) -> tuple[Tensor, ...]:
    """Gradients of the mean cross-entropy of graphs of one class.

    Args:
        net: gives logits ``(count, K)``.
        create_graph: they can be differentiated again; else they are constants.
    """
    target = torch.full((batch.count,), label)
    with torch.enable_grad():
        return torch.autograd.grad(cross_entropy(net(batch), target), parameters, create_graph=create_graph)


def matching_loss(net: Network, parameters: Sequence[Tensor], pairs: Sequence[ClassPair], kind: Distance) -> Tensor:
    """The sum over classes of how far the gradients of learned graphs are from those of real ones; a scalar.

    Args:
        parameters: of ``net``; those are left out that the distance does not look at.
        kind: of :data:`ddbench.training.gradient_matching.Distance`.
    """
    chosen = matched(parameters, kind)
    return torch.stack(
        [
            distance(
                gradients(net, pair.real, pair.label, chosen, False),
                gradients(net, pair.learned, pair.label, chosen, True),
                kind,
            )
            for pair in pairs
        ]
    ).sum()


def density_excess(edge_logits: Tensor, density: float) -> Tensor:
    """How far the mean probability of an edge is above a share of all pairs; 0 where it is not."""
    return torch.relu(torch.sigmoid(edge_logits).mean() - density)
