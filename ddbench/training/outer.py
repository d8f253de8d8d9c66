"""Optimisers of learned images and labels that torch does not have: AdaBelief and LAMB. A leaf is a whole tensor."""

from __future__ import annotations

import torch
from torch import Tensor


class AdaBelief:
    """AdaBelief (Zhuang et al., NeurIPS 2020, algorithm 2): Adam with the variance about the mean gradient.

    Args:
        leaves: tensors that are changed in place, and their learning rates.
        early: take the deviation from the mean of before the step, as the library that RCIG used did then.
    """

    BETAS, EPS = (0.9, 0.999), 1e-16

    def __init__(self, leaves: dict[str, tuple[Tensor, float]], early: bool = False) -> None:
        self.leaves = leaves
        self.early = early
        self.steps = 0
        self.moments = {name: (torch.zeros_like(leaf), torch.zeros_like(leaf)) for name, (leaf, _) in leaves.items()}

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor]) -> None:
        """One step with a gradient for every leaf."""
        self.steps += 1
        (one, two), eps = self.BETAS, self.EPS
        for name, (leaf, lr) in self.leaves.items():
            gradient, (mean, spread) = gradients[name], self.moments[name]
            deviation = gradient - mean
            mean.mul_(one).add_(gradient, alpha=1 - one)
            deviation = deviation if self.early else gradient - mean
            spread.mul_(two).add_(deviation.square(), alpha=1 - two).add_(eps)
            move = mean / (1 - one**self.steps)
            leaf.sub_(lr * move / ((spread / (1 - two**self.steps)).sqrt() + eps))

    def state(self, name: str) -> dict[str, Tensor]:
        """All that it has gathered, as ``<name>.<leaf>.0`` and so on."""
        moments = {f"{name}.{leaf}.{k}": m for leaf, pair in self.moments.items() for k, m in enumerate(pair)}
        return {**moments, f"{name}.steps": torch.tensor(self.steps)}

    def load_state(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        self.steps = int(tensors[f"{name}.steps"])
        for leaf, pair in self.moments.items():
            for k, moment in enumerate(pair):
                moment.copy_(tensors[f"{name}.{leaf}.{k}"])


class Lamb(AdaBelief):
    """LAMB (You et al., ICLR 2020) without weight decay: Adam's step, as long as the leaf times the rate."""

    EPS = 1e-6

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], factor: float = 1.0) -> None:
        """One step; ``factor`` multiplies every rate."""
        self.steps += 1
        one, two = self.BETAS
        for name, (leaf, lr) in self.leaves.items():
            gradient, (mean, square) = gradients[name], self.moments[name]
            mean.mul_(one).add_(gradient, alpha=1 - one)
            square.mul_(two).add_(gradient.square(), alpha=1 - two)
            move = mean / (1 - one**self.steps) / ((square / (1 - two**self.steps)).sqrt() + self.EPS)
            long, short = leaf.norm(), move.norm()
            trust = torch.where((long > 0) & (short > 0), long / short, torch.ones_like(long))
            leaf.sub_(factor * lr * trust * move)
