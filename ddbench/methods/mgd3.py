"""``mgd3``: diffusion samples pulled to the modes of their class.

Chan-Santiago, Tirupattur, Nayak, Liu, Shah: "MGD3: Mode-Guided Dataset Distillation using Diffusion Models", ICML 2025
(arXiv 2505.18963). The clean latents of a class are clustered into IPC modes; image j begins as noise, and in the first
part of sampling (mode guidance) the predicted noise becomes

    e' = e - sqrt(1 - a_t) lambda (m_j - x0(x_t, e)),        x0 = (x_t - sqrt(1 - a_t) e) / sqrt(a_t)

which moves the predicted clean latent towards the mode m_j; the last ``stop`` steps are plain (stop guidance).

Deviations are listed in ``methods/mgd3/README.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddbench.config import Here, setting
from ddbench.data.coreset import k_means_centres
from ddbench.diffusion.ddim import Move, predicted_image, sampling_moves
from ddbench.methods.base import Context
from ddbench.methods.facts import Facts
from ddbench.methods.families.generation import Draw, Generation, GenerationConfig
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MGD3Config(GenerationConfig):
    """Settings of MGD3."""

    mode_guidance: float = setting(0.1, at_least=0, below=100, expected="0 or a positive number below 100")
    """Strength lambda of the pull towards a mode."""
    stop: int = setting(25, at_least=0, unless=("mode_guidance", 0))
    """Steps at the end that are plain; 0: every step is pulled."""
    images: int = setting(0, at_least=0, unless=("mode_guidance", 0))
    """Real images of each class that are clustered, evenly spread over it; 0: all."""


def pulled(x: Tensor, noise: Tensor, mode: Tensor, level: float, strength: float) -> Tensor:
    """Predicted noise with mode guidance, for a latent at cumulative alpha ``level``; all of one shape."""
    return noise - math.sqrt(1 - level) * strength * (mode - predicted_image(x, noise, level))


class MGD3(Generation[MGD3Config]):
    """MGD3; a step is a class."""

    config_class = MGD3Config
    distinct = True
    facts = Facts(
        title="MGD3",
        line="diffusion samples pulled to the modes of their class",
        family="generation",
        student=False,
        paper="MGD3: Mode-Guided Dataset Distillation using Diffusion Models",
        authors=("Jeffrey A. Chan-Santiago", "Praveen Tirupattur", "Gaurav Kumar Nayak", "Gaowen Liu", "Mubarak Shah"),
        venue="ICML",
        year=2025,
        arxiv="2505.18963",
        code="https://github.com/jachansantiago/mode_guidance",
    )

    @classmethod
    def idle(cls, config: MGD3Config, context: Context) -> Mapping[str, str]:
        """The pull and its modes, where all steps are plain; a recipe may say how many images they are of."""
        if config.stop != config.steps:
            return {}
        why = f"with --stop {config.stop}: no step is left"
        return {"mode_guidance": why, "images": Here(why)}

    @classmethod
    def check(cls, config: MGD3Config, context: Context) -> None:
        super().check(config, context)
        if config.mode_guidance and config.stop > config.steps:
            raise UserError(f"--stop {config.stop}: expected 0 to the {config.steps} steps")
        if 0 < config.images < context.ipc:
            raise UserError(
                f"--images {config.images}: expected 0 (all) or at least --ipc {context.ipc}: every mode needs an image"
            )

    def prepare(self, steps: range | None = None) -> dict[str, Any]:
        self._latents = self.latents(start=None, images=self.config.images)
        return {"latents": self._latents.make(self.context.console, steps)}

    def draw(self, label: int) -> Draw:
        """Noise, pulled to the modes of a class; ``loss`` is the mean squared distance of its images to their modes."""
        config, context = self.config, self.context
        clean = torch.cat(list(self._latents.shards(label)))
        centres = k_means_centres(clean, context.ipc, seeds.derive(context.seed, "modes", label))
        modes = centres.float().view(-1, *self.backend.latent_shape).to(context.device)
        moves = sampling_moves(self.backend.alphas, config.steps)
        guided = {move.time for move in moves[: config.steps - config.stop]}

        def correct(x: Tensor, noise: Tensor, move: Move, which: Tensor) -> Tensor:
            if move.time not in guided:
                return noise
            return pulled(x, noise, modes[which], move.source, config.mode_guidance)

        distances = torch.cdist(clean.double(), centres).square()
        return Draw(
            latents=self.noise(label),
            moves=moves,
            correction=correct,
            metrics={"loss": float(distances.min(1).values.mean())},
        )
