"""What decides the weights of a diffusion model that ddbench trains; no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash

SIDES = (8, 64)
"""Images of these sides, in px, are modelled in pixel space."""

GROUPS = 8
"""Groups of the group norms; widths are multiples of it."""

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
    """Everything that decides a model's weights, with its data. The defaults are ours, for small images and a CPU.

    Attributes:
        steps: optimiser steps.
        batch: images a step.
        lr: largest learning rate of AdamW: a linear warm-up, then a cosine to 0.
        warmup: steps of the warm-up.
        weight_decay: of AdamW.
        widths: channels of the levels, finest first; empty: :func:`default_widths`. Levels that would halve an odd
            side are left out.
        layers: residual blocks a level.
        label_dropout: probability that an image is seen without its class (classifier-free guidance; Ho and Salimans,
            2022); its class is then the null class K.
        ema: decay of the average of the weights that is kept.
        flip: mirror images at random, where they may be mirrored.
        holdout: fraction of the training images that the model never sees.
        seed: names its initial weights, order, noise and drops.
    """

    steps: int = 4000
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.0
    widths: tuple[int, ...] = ()
    layers: int = 1
    label_dropout: float = 0.1
    ema: float = 0.999
    flip: bool = True
    holdout: float = 0.1
    seed: int = 0

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
        for name, value, least in (
            ("steps", self.steps, 1),
            ("batch", self.batch, 1),
            ("warmup", self.warmup, 0),
            ("layers", self.layers, 1),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise UserError(f"--{name} {value}: expected at least {least}")
        if not 0 < self.lr < math.inf:
            raise UserError(f"--lr {self.lr}: expected a positive number")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"--weight-decay {self.weight_decay}: expected 0 or a positive number")
        for name, fraction in (("label-dropout", self.label_dropout), ("ema", self.ema)):
            if not 0 <= fraction < 1:
                raise UserError(f"--{name} {fraction:g}: expected a fraction from 0 to below 1")
        if not 0 <= self.holdout <= 0.9:
            raise UserError(f"--holdout {self.holdout:g}: expected a fraction from 0 to 0.9")
        if any(width < GROUPS or width % GROUPS for width in self.widths):
            raise UserError(f"--widths {' '.join(map(str, self.widths))}: expected multiples of {GROUPS}")

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
