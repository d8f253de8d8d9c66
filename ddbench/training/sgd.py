"""Stochastic gradient descent with the arithmetic of ``torch.optim.SGD``.

Why not the library's: of a step of a small student the optimiser is a tenth, and the library's way to the same kernels
takes a third more; its fused kernel gives other bits. The other optimisers are the library's
(:func:`ddbench.training.optimizers.make_optimizer`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class SGD:
    """``b <- momentum b + (g + weight_decay p)``, ``p <- p - lr b``; the first ``b`` is the first gradient.

    Args:
        parameters: leaf tensors; those without a gradient are skipped at a step.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.parameters = list(parameters)
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.param_groups: list[dict[str, Any]] = [{"lr": lr}]
        self.velocities: list[Tensor | None] = [None] * len(self.parameters)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients that are there."""
        active = [i for i, parameter in enumerate(self.parameters) if parameter.grad is not None]
        if not active:
            return
        parameters = [self.parameters[i] for i in active]
        gradients: list[Tensor] = [parameter.grad for parameter in parameters]  # type: ignore[misc]
        if self.weight_decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=self.weight_decay))
        if self.momentum:
            moving = [(i, g) for i, g in zip(active, gradients, strict=True) if self.velocities[i] is not None]
            if moving:
                velocities: list[Tensor] = [self.velocities[i] for i, _ in moving]  # type: ignore[misc]
                torch._foreach_mul_(velocities, self.momentum)
                torch._foreach_add_(velocities, [gradient for _, gradient in moving])
            for i, gradient in zip(active, gradients, strict=True):
                if self.velocities[i] is None:
                    self.velocities[i] = gradient.clone()
            gradients = [self.velocities[i] for i in active]  # type: ignore[misc]
        torch._foreach_add_(parameters, gradients, alpha=-self.param_groups[0]["lr"])

    def state(self, name: str) -> dict[str, Tensor]:
        """Velocities by ``<name>.<index>``, for a checkpoint."""
        return {f"{name}.{i}": velocity for i, velocity in enumerate(self.velocities) if velocity is not None}

    def load_state(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Put the velocities of :meth:`state` back, each of its parameter's device and type.

        Raises:
            ValueError: one is not of its parameter's shape.
        """
        for i, parameter in enumerate(self.parameters):
            found = tensors.get(f"{name}.{i}")
            if found is not None and found.shape != parameter.shape:
                raise ValueError(f"{name}.{i} has shape {list(found.shape)}, expected {list(parameter.shape)}")
        self.velocities = [
            tensors[key].to(parameter, copy=True) if (key := f"{name}.{i}") in tensors else None
            for i, parameter in enumerate(self.parameters)
        ]
