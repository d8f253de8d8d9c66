"""What a step of training a diffusion model is given: images, the classes that are told, times and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.data.dataset import Split
from ddbench.data.mapped import gather
from ddbench.diffusion.recipe import TIMESTEPS
from ddbench.runtime import seeds


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One step's draw, on the CPU.

    Attributes:
        x: images, float32 ``(n, C, H, W)`` in [-1, 1].
        labels: their classes, int64 ``(n,)``.
        told: the classes that the model is told: some are K, the null class.
        times: int64 ``(n,)``.
        noise: standard normal, of the shape of ``x`` or as asked for.
        generator: further draws of the step.
    """

    x: Tensor
    labels: Tensor
    told: Tensor
    times: Tensor
    noise: Tensor
    generator: torch.Generator


class Draws:
    """The draws of a training by step number: passes over the images in fresh orders, whole batches only.

    Args:
        batch: images a step; all of them where there are fewer.
        classes: K; the null class is K.
        dropout: probability that an image's class is not told.
        flip: mirror images at random.
        purpose: names the draws together with the seed.
        timesteps: of the model.
        shape: of an item's noise; None: the image's.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch: int,
        classes: int,
        dropout: float,
        flip: bool,
        seed: int,
        purpose: str,
        timesteps: int = TIMESTEPS,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self.split, self.batch, self.classes, self.dropout = split, min(batch, len(split)), classes, dropout
        self.flip, self.seed, self.purpose, self.timesteps, self.shape = flip, seed, purpose, timesteps, shape
        self._order: tuple[int, Tensor] | None = None

    def __call__(self, number: int) -> Drawn:
        """The draw of step ``number`` (from 0)."""
        size, split = self.batch, self.split
        a_pass = len(split) // size
        index = self._pass_order(number // a_pass)[number % a_pass * size :][:size]
        generator = seeds.generator(self.seed, self.purpose, "step", number)
        x = gather(split.images, index).float().div_(127.5).sub_(1)
        if self.flip:
            mirrored = torch.rand(size, generator=generator) < 0.5
            x[mirrored] = x[mirrored].flip(-1)
        labels = split.labels[index]
        dropped = torch.rand(size, generator=generator) < self.dropout
        times = torch.randint(self.timesteps, (size,), generator=generator)
        noise = torch.randn((size, *(self.shape or x.shape[1:])), generator=generator)
        told = torch.where(dropped, self.classes, labels)
        return Drawn(x=x, labels=labels, told=told, times=times, noise=noise, generator=generator)

    def _pass_order(self, number: int) -> Tensor:
        """The order of the images in a pass over them."""
        if self._order is None or self._order[0] != number:
            generator = seeds.generator(self.seed, self.purpose, "order", number)
            self._order = number, torch.randperm(len(self.split), generator=generator)
        return self._order[1]
