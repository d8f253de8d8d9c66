"""What decides the weights of a diffusion model that ddbench trains; no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddbench.config import check_config, setting
from ddbench.data.specs import kept_at
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash
from ddbench.runtime.signs import TURN

KINDS = PIXEL, LATENT = "pixel", "latent"
"""Kinds of models: of pixels, trained by ddbench; of an autoencoder's codes, a pretrained pipeline."""

SIDES = (8, 64)
"""Images of these sides, in px, are modelled in pixel space."""

GROUPS = 8
"""Groups of the group norms; widths are multiples of it."""

MAX_WIDTH, MAX_LEVELS, MAX_LAYERS = 2048, 8, 16
"""Ends of what is trained, so that a description is refused before a network of any size is made of it."""

PARTIAL = ".partial.safetensors"
"""End of the name of a checkpoint, beside the folders of models."""

TIMESTEPS = 1000
"""Steps of the forward process (Ho, Jain, Abbeel, NeurIPS 2020)."""

BETAS = (1e-4, 0.02)
"""Ends of its linear noise schedule."""


def default_widths(side: int) -> tuple[int, ...]:
    """Channels of the levels of a model for images of ``side`` px that two cores can train."""
    return (32, 64) if side <= 16 else (32, 64, 64) if side <= 32 else (32, 64, 64, 64)


def usable_levels(side: int, levels: int) -> int:
    """How many of ``levels`` a UNet for images of ``side`` px can have.

    Each but the last halves the image exactly, and the last has 2 px at least: one alone cannot be normalised.
    """
    halvings = min(levels, (side & -side).bit_length()) - 1
    return halvings + 1 if side >> halvings > 1 else halvings


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe:
    """Everything that decides a model's weights, with its data. The defaults are ours, for small images and a CPU."""

    steps: int = setting(4000, at_least=1)
    """Optimiser steps; the average of the weights after the last one is kept."""
    batch: int = setting(32, at_least=1)
    """Images a step."""
    lr: float = setting(1e-3, above=0, expected="a positive number")
    """Learning rate of AdamW; falls to 0 by a cosine."""
    warmup: int = setting(100, at_least=0)
    """Steps of linear warm-up."""
    weight_decay: float = setting(0.0, at_least=0)
    """Weight decay."""
    widths: tuple[int, ...] = setting(
        (), at_least=GROUPS, at_most=MAX_WIDTH, expected=f"multiples of {GROUPS} up to {MAX_WIDTH}"
    )
    """Channels of the UNet's levels, finest first (multiples of 8); default: by the image size. Levels that would halve
    an odd side are left out."""
    layers: int = setting(1, at_least=1, at_most=MAX_LAYERS)
    """Residual blocks a level."""
    label_dropout: float = setting(0.1, at_least=0, below=1, expected="a fraction from 0 to below 1")
    """Probability that an image is seen without its class, for classifier-free guidance."""
    ema: float = setting(0.999, at_least=0, below=1, expected="a fraction from 0 to below 1")
    """Decay of the average of the weights."""
    flip: bool = True
    """Mirror images at random, where they may be mirrored."""
    holdout: float = setting(0.1, at_least=0, at_most=0.9, expected="a fraction from 0 to 0.9")
    """Fraction of the training images that the model never sees (as in the runs that use it)."""
    seed: int = setting(0, at_least=0)
    """Names its initial weights, order, noise and drops."""

    def check(self, side: int) -> None:
        """Refuse settings out of range, and images of a side that is not modelled in pixel space.

        Raises:
            UserError: names the flag and the value.
        """
        if not SIDES[0] <= side <= SIDES[1]:
            raise UserError(
                f"images of {side} px: a diffusion model of pixels is made for {SIDES[0]} to {SIDES[1]} px; use "
                "another --size, or a pretrained model"
            )
        check_config(self)
        if any(width % GROUPS for width in self.widths):
            raise UserError(f"--widths {' '.join(map(str, self.widths))}: expected multiples of {GROUPS}")
        most = 2 * MAX_LEVELS - len(self.resolved_widths(side))
        if len(self.widths) > most:
            raise UserError(
                f"--widths {' '.join(map(str, self.widths))}: {len(self.widths)} levels, expected at most {most}"
            )

    def resolved_widths(self, side: int) -> tuple[int, ...]:
        """Channels of the levels for images of ``side`` px."""
        widths = self.widths or default_widths(side)
        return widths[: usable_levels(side, len(widths))]

    def factor(self, step: int) -> float:
        """Learning-rate factor of a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "widths": list(self.widths)}

    def key(self, fingerprint: str) -> str:
        """Name of the model's folder: a hash of the recipe and the data, 12 hex digits."""
        return text_hash({"recipe": self.to_json(), "fingerprint": fingerprint})[:12]


def model_folder(root: Path, dataset: str, key: str) -> Path:
    """Where a model that ddbench trains belongs."""
    return kept_at(root, dataset, key, begun=(f"{key}{PARTIAL}", f"{key}{TURN}"))


def unet_config(recipe: DiffusionRecipe, channels: int, side: int, classes: int) -> dict[str, Any]:
    """Arguments of diffusers' ``UNet2DModel``: attention at the coarsest level only, class ``classes`` is the null one.

    A middle block with attention is always there.
    """
    widths = recipe.resolved_widths(side)
    plain = len(widths) - 1
    return {
        "sample_size": side,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": widths,
        "down_block_types": ("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        "up_block_types": ("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        "layers_per_block": recipe.layers,
        "norm_num_groups": GROUPS,
        "attention_head_dim": GROUPS,
        "num_class_embeds": classes + 1,
    }


def scheduler_config() -> dict[str, Any]:
    """Arguments of diffusers' schedulers.

    ``clip_sample`` is on by default there, which is wrong for inversion and for latents.
    """
    return {
        "num_train_timesteps": TIMESTEPS,
        "beta_start": BETAS[0],
        "beta_end": BETAS[1],
        "beta_schedule": "linear",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "leading",
        "prediction_type": "epsilon",
    }
