"""DDiF: each image a small network of sines (Shin et al., ICLR 2025), for a method that matches.

Every field is first fitted to a real image, by Adam on the squared error of the network input; then Adam on all fields
by the method's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ddbench.config import setting
from ddbench.data.preprocess import Preprocess
from ddbench.decoders.base import Arrays
from ddbench.decoders.ddif import MAX_LAYERS, MAX_OMEGA, MAX_WIDTH, Ddif
from ddbench.methods.base import Context
from ddbench.methods.families.decoded import Decoded
from ddbench.runtime import seeds
from ddbench.training.optimizers import OptimizerSettings, make_optimizer


@dataclass(frozen=True, kw_only=True)
class DdifConfig:
    """Settings of DDiF's decoder; the defaults are those for 32 x 32 pixels at IPC 1 and 10."""

    layers: int = setting(2, at_least=1, at_most=MAX_LAYERS)
    """Layers with a sine in a field."""
    width: int = setting(6, at_least=1, at_most=MAX_WIDTH)
    """Width of these layers."""
    omega_first: float = setting(30.0, above=0, at_most=MAX_OMEGA)
    """Frequency of the first layer."""
    omega: float = setting(10.0, above=0, at_most=MAX_OMEGA)
    """Frequency of the others."""
    fit_steps: int = setting(5000, at_least=0)
    """Steps that fit each field to its first image."""
    lr_fit: float = setting(5e-4, above=0, unless=("fit_steps", 0))
    """Learning rate of that (Adam)."""


W = TypeVar("W", bound=DdifConfig)


class DdifMethod(Decoded[W]):
    """DDiF before a family that matches."""

    learned = "fields"
    optimizer = "adam"
    sizes = "--layers, --width"

    @classmethod
    def idle(cls, config: W, context: Context) -> Mapping[str, str]:
        """First images that no field is fitted to."""
        found = dict(super().idle(config, context))
        return found if config.fit_steps else {**found, "init": "with --fit-steps 0: fields begin at random"}

    @classmethod
    def decoder(cls, config: W, context: Context) -> Ddif:
        """Fields of the settings' size."""
        channels, height, width = context.dataset.spec.shape
        return Ddif(
            shape=(channels, height, width),
            layers=config.layers,
            width=config.width,
            omega_first=float(config.omega_first),
            omega=float(config.omega),
        )

    def arrays(self, images: Tensor) -> Arrays:
        """Random fields, which :meth:`beginning` fits."""
        decoder = self.decoder(self.config, self.context)
        start = decoder.initial(len(images), seeds.generator(self.context.seed, "ddif-init"))
        return {"fields": start.to(images.device)}

    def beginning(self, images: Tensor) -> Callable[[Tensor], Tensor]:
        """Fields become such that were fitted to the images."""
        config, context = self.config, self.context

        def fit(fields: Tensor) -> Tensor:
            context.console.say(f"fitting {len(fields):,} fields to real images, {config.fit_steps:,} steps each")
            decoder = self.decoder(config, context)
            return fitted(decoder, fields, images, context.preprocess, steps=config.fit_steps, lr=config.lr_fit)

        return fit


NO_MOMENTUM = {"momentum": "on fields, which are learned by Adam"}
"""What has no effect where nothing is learned by SGD."""


def fitted(decoder: Ddif, fields: Tensor, images: Tensor, preprocess: Preprocess, *, steps: int, lr: float) -> Tensor:
    """Fields after so many steps of Adam, each towards its image: squared error, mean over pixels and channels.

    As many at once as the decoder computes together, so that memory does not grow with their number.

    Args:
        fields: ``(N, P)``.
        images: network input ``(N, C, H, W)``.
    """
    parts = []
    for some, shown in zip(fields.split(decoder.at_once), images.split(decoder.at_once), strict=True):
        value = some.clone().requires_grad_()
        adam = make_optimizer([value], OptimizerSettings(name="adam", lr=lr))
        for _ in range(steps):
            # a field's gradient does not depend on how many others there are: the sum over images of their means
            error = (decoder.decode({"fields": value}, preprocess) - shown).square().flatten(1).mean(1).sum()
            (value.grad,) = torch.autograd.grad(error, value)
            adam.step()
        parts.append(value.detach())
    return torch.cat(parts)
