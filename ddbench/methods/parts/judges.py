"""Experts that judge images: networks of a store as they were at an epoch, all with running statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench.data.mapped import gather
from ddbench.experts.store import TrajectoryStore
from ddbench.methods.base import Context
from ddbench.runtime import seeds
from ddbench.training.flat import flatten_buffers, load_flat, load_flat_buffers

BATCH = 256
"""Training images that settle running statistics at once."""

BATCHES = 16
"""Most such batches."""


class Judges:
    """The experts of a store, in evaluation mode.

    What they say of an image does not depend on the images beside it, which are often all of one class. Imported
    experts came without running statistics: theirs are the means over batches of training images, shuffled alike for
    all of them.

    Args:
        context: of the run that asks.
        store: its experts.
    """

    def __init__(self, context: Context, store: TrajectoryStore) -> None:
        self._context, self._store = context, store
        self._settled: dict[tuple[int, int], Tensor] = {}

    @torch.no_grad()
    def network(self, expert: int, epoch: int) -> nn.Module:
        """An expert as it was at an epoch, on the run's device."""
        net = self._context.network(0).to(self._context.device)
        load_flat(net, self._store.rows(expert, epoch)[0])
        statistics = self._store.buffers(expert, epoch)
        if len(statistics) != len(flatten_buffers(net)):
            if (expert, epoch) not in self._settled:
                self._settle(net)
                self._settled[expert, epoch] = flatten_buffers(net)
            statistics = self._settled[expert, epoch]
        load_flat_buffers(net, statistics)
        return net.eval()

    def _settle(self, net: nn.Module) -> None:
        """Give batch norms the statistics of training images; nothing else of the network is in training mode."""
        context, images = self._context, self._context.train.images
        order = torch.randperm(len(images), generator=seeds.generator(context.seed, "expert-statistics"))
        whole = max(1, min(BATCHES, len(order) // BATCH))  # a smaller last batch would count as much as the others
        net.eval()
        norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
        for number, part in enumerate(order[: whole * BATCH].split(BATCH)):
            for norm in norms:
                norm.train()
                norm.momentum = 1 / (number + 1)
            net(context.preprocess.apply(gather(images, part)).to(context.device))
