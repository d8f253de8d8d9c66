"""A pool of networks that are trained while images are learned: drawn by named seeds, renewed at an age.

Member i in its g-th life starts from the weights of the seed (run, "pool", i, g). Its state is its weights, Adam's
moments and its age, so that a pool can be written and gone on with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddbench.runtime import seeds

BETAS, EPS = (0.9, 0.999), 1e-8


class Pool:
    """n networks as flat weights.

    Args:
        fresh: ``seed -> weights (P,)`` of a fresh network, on the device.
        seed: of the run.
        ages: age of each member at the start; its length is n.
        lr: rate of the members' Adam (defaults otherwise).
        oldest: a member that has reached this age after its training is renewed.

    Attributes:
        weights, first, second: float32 ``(n, P)``: weights and Adam's moments.
        ages, steps, lives: int64 ``(n,)``: age, steps of Adam in this life, how often it was renewed.
    """

    def __init__(self, fresh: Callable[[int], Tensor], seed: int, ages: Sequence[int], lr: float, oldest: int) -> None:
        self._fresh, self._seed, self._lr, self._oldest = fresh, seed, lr, oldest
        self.ages = torch.tensor(ages)
        self.steps = torch.zeros(len(ages), dtype=torch.int64)
        self.lives = torch.zeros(len(ages), dtype=torch.int64)
        self.weights = torch.stack([self._born(index) for index in range(len(ages))])
        self.first = torch.zeros_like(self.weights)
        self.second = torch.zeros_like(self.weights)

    def __len__(self) -> int:
        return len(self.ages)

    def _born(self, index: int) -> Tensor:
        return self._fresh(seeds.derive(self._seed, "pool", index, int(self.lives[index])))

    def draw(self, iteration: int) -> int:
        """The member of an iteration, each as likely."""
        return int(torch.randint(len(self), (), generator=seeds.generator(self._seed, "pool-draw", iteration)))

    def train(self, index: int, steps: int, gradient: Callable[[Tensor, int], Tensor]) -> bool:
        """Train a member, and renew it where it is old enough then.

        Args:
            gradient: ``(weights, step) -> gradient``, both ``(P,)``.

        Returns:
            Whether its weights and moments are finite; if not, the member is as it was.
        """
        theta, first, second = parts = self.weights[index], self.first[index], self.second[index]
        before, count = [part.clone() for part in parts], int(self.steps[index])
        for step in range(steps):
            slope = gradient(theta, step)
            self.steps[index] += 1
            number = int(self.steps[index])
            first.mul_(BETAS[0]).add_(slope, alpha=1 - BETAS[0])
            second.mul_(BETAS[1]).add_(slope.square(), alpha=1 - BETAS[1])
            scale = (second / (1 - BETAS[1] ** number)).sqrt_().add_(EPS)
            theta.sub_(self._lr / (1 - BETAS[0] ** number) * first / scale)
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            for part, was in zip(parts, before, strict=True):
                part.copy_(was)
            self.steps[index] = count
            return False
        self.ages[index] += steps
        if int(self.ages[index]) >= self._oldest:
            self.lives[index] += 1
            self.ages[index] = self.steps[index] = 0
            self.weights[index] = self._born(index)
            first.zero_()
            second.zero_()
        return True

    def state(self) -> dict[str, Tensor]:
        """Everything, as ``pool.<attribute>``."""
        return {f"pool.{name}": getattr(self, name) for name in _PARTS}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave.

        Raises:
            KeyError, RuntimeError: a part is missing, or of another shape.
        """
        for name in _PARTS:
            getattr(self, name).copy_(tensors[f"pool.{name}"])


_PARTS = ("weights", "first", "second", "ages", "steps", "lives")
