"""Frequencies at which characteristic functions are compared: Gaussian ones, or those of a sampler that learns.

The sampler of NCFM is a small network from white noise to frequencies. It is to *raise* the loss that the images
lower: :meth:`Frequencies.ascend` takes the gradient that came with the images' own, from one backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ddbench.runtime import seeds
from ddbench.runtime.device import sent
from ddbench.training.optimizers import OptimizerSettings, load_optimizer_state, make_optimizer, optimizer_state

Kind = Literal["gauss", "learned"]


class Frequencies:
    """Frequencies from the standard normal distribution; nothing is learned.

    Args:
        count: frequencies in a draw.
        width: D, numbers in a feature.
        seed: of the run; names every draw.
    """

    parameters: Sequence[Tensor] = ()
    """What is learned."""

    def __init__(self, count: int, width: int, seed: int, device: torch.device) -> None:
        self._shape, self._seed, self._device = (count, width), seed, device

    def draw(self, *purpose: str | int) -> Tensor:
        """Frequencies ``(F, D)``; those of a sampler depend on its :attr:`parameters`."""
        generator = seeds.generator(self._seed, "frequencies", *purpose)
        return sent(torch.randn(self._shape, generator=generator), self._device)

    def ascend(self, gradients: Sequence[Tensor]) -> None:
        """A step that raises the loss, by its gradients in the :attr:`parameters`."""

    def state(self) -> dict[str, Tensor]:
        """What is learned and how, for a checkpoint."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""


class Sampler(Frequencies):
    """A network from white noise ``(F, D)`` to frequencies in (-1, 1), trained by Adam.

    Three linear layers with batch norm over the F draws, LeakyReLU (0.2) between them and tanh at the end; every row of
    noise is another one, so that all F frequencies are different.

    Args:
        lr: of its Adam.
    """

    def __init__(self, count: int, width: int, seed: int, device: torch.device, lr: float) -> None:
        super().__init__(count, width, seed, device)
        with seeds.isolated(seed, "frequency-sampler"):
            layers: list[nn.Module] = []
            for last in (False, False, True):
                norm = nn.BatchNorm1d(width, track_running_stats=False)
                layers += [nn.Linear(width, width), norm, nn.Tanh() if last else nn.LeakyReLU(0.2)]
            self._net = nn.Sequential(*layers).to(device)
        self.parameters = list(self._net.parameters())
        self._settings = OptimizerSettings(name="adam", lr=lr)
        self._optimizer = make_optimizer(self.parameters, self._settings)

    def draw(self, *purpose: str | int) -> Tensor:
        made: Tensor = self._net(super().draw(*purpose))
        return made

    def ascend(self, gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = -gradient
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        weights = {f"sampler.{index}": parameter.detach() for index, parameter in enumerate(self.parameters)}
        return weights | optimizer_state(self._optimizer, "sampler_moments")

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        for index, parameter in enumerate(self.parameters):
            parameter.copy_(tensors[f"sampler.{index}"])
        load_optimizer_state(self._optimizer, "sampler_moments", tensors)


def make_frequencies(kind: Kind, count: int, width: int, seed: int, device: torch.device, lr: float) -> Frequencies:
    """The frequencies that a setting names.

    Args:
        lr: of a sampler that learns.
    """
    if kind == "gauss":
        return Frequencies(count, width, seed, device)
    return Sampler(count, width, seed, device, lr)
