"""Training written out in plain PyTorch, to compare with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from ddbench.data.augment import apply, draw, parse_strategy
from ddbench.runtime import seeds


def plain_loop(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    decay_after: int | None,
    rebuild: bool,
    augmentation: str,
    seed: int,
) -> Iterator[Tensor]:
    """What the loop should do, in plain PyTorch: the same order and augmentation, torch's own SGD.

    Yields all weights ``(P,)`` after every epoch.
    """

    def optimizer_of(rate: float) -> torch.optim.SGD:
        return torch.optim.SGD(net.parameters(), lr=rate, momentum=momentum, weight_decay=weight_decay)

    optimizer = optimizer_of(lr)
    strategy = parse_strategy(augmentation)
    net.train()
    for epoch in range(epochs):
        if decay_after is not None and epoch == decay_after:
            if rebuild:
                optimizer = optimizer_of(lr * 0.1)
            else:
                optimizer.param_groups[0]["lr"] = lr * 0.1
        order = torch.randperm(len(images), generator=seeds.generator(seed, "order", epoch))
        randomness = seeds.generator(seed, "augment", epoch)
        for first in range(0, len(images), batch):
            index = order[first : first + batch]
            x = images[index]
            if strategy is not None:
                x = apply(draw(strategy, len(x), x.shape[-1], randomness), x)
            optimizer.zero_grad()
            F.cross_entropy(net(x), labels[index]).backward()
            optimizer.step()
        yield parameters_to_vector(net.parameters()).detach()
