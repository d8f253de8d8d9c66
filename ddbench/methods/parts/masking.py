"""Masked distillation training: a part that any method can name which lets gradients reach synthetic images.

``mdt_pixel``: whenever the synthetic batch enters the matching network, it is multiplied by a fresh random mask, after
the differentiable augmentation and in network-input space (a masked pixel is 0: the dataset's mean under mean/std); the
real batch is not masked, and neither is the product. Gradients reach only what can be seen. This is an interpretation
of the masked distillation training of Zhu et al. (ICCV 2023, arXiv 2307.12463), of which only the abstract was at hand:
``docs/calibration.md`` says what is not known.

A method lets its config inherit :class:`MaskConfig` and puts :func:`masked` behind its augmentation. Masks come from
generators of their own, so that a ratio of 0 leaves every other draw, and every byte of the product, as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ddbench.config import setting
from ddbench.data.masks import pixel_mask
from ddbench.runtime import seeds
from ddbench.runtime.device import sent


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """The setting, for a method's config to inherit."""

    mask_ratio: float = setting(0.0, at_least=0, below=1, omit_default=True, expected="0 (no mask) to below 1")
    """Share of the pixels of synthetic images that is hidden at random in every step (mdt_pixel); 0: none."""


def synthetic_mask(config: MaskConfig, images: Tensor, seed: int, *purpose: str | int) -> Tensor | None:
    """The mask ``(n, 1, H, W)`` of a synthetic batch ``(n, C, H, W)``, on its device; None at ratio 0.

    Args:
        purpose: names the draw: the step, and the class or the inner step.
    """
    if not config.mask_ratio:
        return None
    n, _, height, width = images.shape
    mask = pixel_mask(n, height, width, config.mask_ratio, seeds.generator(seed, "mask", *purpose))
    return sent(mask, images.device, images.dtype)


def masked(config: MaskConfig, images: Tensor, seed: int, *purpose: str | int) -> Tensor:
    """A synthetic batch times its mask; the batch itself at ratio 0."""
    mask = synthetic_mask(config, images, seed, *purpose)
    return images if mask is None else images * mask
