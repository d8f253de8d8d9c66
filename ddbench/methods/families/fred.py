"""FreD: images as masked cosine coefficients (Shin, Shin, Moon; NeurIPS 2023), for a method that matches.

Each class has a mask of m positions, shared by its images and channels: those at which the spectra of its images,
averaged over channels, vary most. Its first images' coefficients there are what is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ddbench.config import setting
from ddbench.data.mapped import gather
from ddbench.decoders.base import Arrays
from ddbench.decoders.fred import Fred, dct, published_scale
from ddbench.methods.base import Context
from ddbench.methods.families.decoded import Decoded
from ddbench.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FredConfig:
    """Settings of FreD's decoder."""

    coefficients: int = setting(0, at_least=0)
    """m: cosine coefficients of a channel that are kept; 0: a sixteenth of them, as published for 32 x 32 pixels."""
    mask_from: Literal["first", "class"] = "first"
    """What a class's mask is chosen by: the spectra of its first images (published), or of all its training images."""


F = TypeVar("F", bound=FredConfig)

AT_ONCE = 4096
"""Images whose spectra are taken at once."""


class FredMethod(Decoded[F]):
    """FreD before a family that matches."""

    learned = "coefficients"
    sizes = "--coefficients"

    @classmethod
    def decoder(cls, config: F, context: Context) -> Fred:
        """Masks of m positions."""
        channels, height, width = context.dataset.spec.shape
        kept = config.coefficients or max(1, height * width // 16)
        if kept > height * width:
            raise UserError(
                f"--coefficients {kept}: a channel of {context.dataset.spec.name} has {height} x {width}: expected 1 "
                f"to {height * width}"
            )
        return Fred(shape=(channels, height, width), kept=kept)

    @classmethod
    def idle(cls, config: F, context: Context) -> Mapping[str, str]:
        """The choice of a mask that leaves nothing out."""
        found, (_, height, width) = dict(super().idle(config, context)), context.dataset.spec.shape
        if config.coefficients == height * width:
            found["mask_from"] = f"with --coefficients {config.coefficients}: all of them are kept"
        return found

    @classmethod
    def check(cls, config: F, context: Context) -> None:
        """Several first images, where the mask is chosen by how they vary."""
        super().check(config, context)
        decoder = cls.decoder(config, context)
        if config.mask_from == "first" and decoder.per_class(context.ipc) < 2 and decoder.kept < decoder.plane:
            raise UserError(
                f"--coefficients {decoder.kept}: leaves one image a class at --ipc {context.ipc}, which does not vary; "
                f"use --mask-from class, or at most {context.ipc * decoder.plane // 2}"
            )
        counts = context.train.labels.bincount(minlength=context.classes)
        begins_with_noise = config.mask_from == "first" and getattr(config, "init", "real") == "noise"
        if counts.min() < 2 and decoder.kept < decoder.plane and not begins_with_noise:
            name = context.dataset.spec.class_names[int(counts.argmin())]
            raise UserError(
                f"--coefficients {decoder.kept}: class {name!r} has one training image, which does not vary; use "
                f"--coefficients {decoder.plane}, which keeps all, or another method"
            )

    def arrays(self, images: Tensor) -> Arrays:
        """Masks by variance, and the images' coefficients there."""
        decoder, classes = self.decoder(self.config, self.context), self.context.classes
        spectra = dct(images)
        masks = torch.stack(
            [mask_of(self._spread(label, own), decoder.kept) for label, own in enumerate(spectra.chunk(classes))]
        ).to(spectra.device)
        rows = spectra.reshape(classes, -1, decoder.plane)
        kept = rows.gather(2, masks[:, None, :].expand(-1, rows.shape[1], -1))
        return {
            "coefficients": kept.reshape(len(images), images.shape[1], decoder.kept),
            "masks": masks.to(decoder.mask_type),
        }

    def _spread(self, label: int, spectra: Tensor) -> Tensor:
        """Variance of each coefficient ``(H, W)`` in the scale of the published code."""
        if self.config.mask_from == "class":
            train = self.context.train
            index = (train.labels == label).nonzero().squeeze(1).split(AT_ONCE)
            spectra = torch.cat([dct(self.context.preprocess.apply(gather(train.images, part))) for part in index])
        return spread(spectra)


def spread(spectra: Tensor) -> Tensor:
    """Variance over images of the channels' mean coefficient, float64 ``(H, W)``, of the unnormalised transform.

    Args:
        spectra: orthonormal ``(n, C, H, W)``.
    """
    means = spectra.double().mean(1)
    found: Tensor = means.var(0, unbiased=False) * published_scale(*means.shape[1:]).to(means).square()
    return found


def mask_of(variance: Tensor, kept: int) -> Tensor:
    """Ascending flat positions of the ``kept`` largest, int64; of equal ones the first."""
    return variance.flatten().sort(descending=True, stable=True).indices[:kept].sort().values
