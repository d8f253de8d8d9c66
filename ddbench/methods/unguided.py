"""``unguided``: plain samples of a diffusion model, the baseline of the methods that steer one.

DDIM from pure noise on the same grid and at the same classifier-free guidance as ``d3hr`` and ``mgd3`` ("unguided" says
that nothing is steered towards a better synset). Published tables call this row DiT.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.diffusion.ddim import sampling_moves
from ddbench.methods.facts import Facts
from ddbench.methods.families.generation import Draw, Generation, GenerationConfig


@dataclass(frozen=True, kw_only=True)
class UnguidedConfig(GenerationConfig):
    """Settings of plain sampling."""

    clip: bool = True
    """Clamp predicted images to [-1, 1] on the way, as samplers of pixels do; never latents of a pretrained model."""


class Unguided(Generation[UnguidedConfig]):
    """Plain samples; a step is a class."""

    config_class = UnguidedConfig
    facts = Facts(
        title="plain diffusion samples",
        line="plain samples of a diffusion model: the baseline of d3hr, mgd3, igd and minimax",
        family="generation",
        student=False,
    )

    def draw(self, label: int) -> Draw:
        moves = sampling_moves(self.backend.alphas, self.config.steps)
        return Draw(latents=self.noise(label), moves=moves, clip=self.backend.bounded and self.config.clip)
