"""DDIM in both directions as a list of moves between noise levels; pure functions, float64 coefficients.

Song, Meng, Ermon: "Denoising Diffusion Implicit Models", ICLR 2021, equation 12 with sigma 0. With a the cumulative
alpha of a level, a latent at level a is ``sqrt(a) x0 + sqrt(1 - a) e``; a move keeps the predicted ``x0`` and ``e`` and
changes the level. Sampling moves downwards, inversion upwards; the network is asked at the time of the move's *noisier*
end in both, so that a move and its counterpart undo each other where the noise prediction does not depend on x.

diffusers' ``DDIMScheduler`` and ``DDIMInverseScheduler`` make the same moves (with ``clip_sample`` off, leading spacing
and eta 0; the tests compare them). What the released code of D3HR does at the ends of the grid is not among their
settings, hence these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.runtime.errors import UserError

STEPS = 50
"""Moves of a whole way by default, as in all published settings."""


@dataclass(frozen=True)
class Move:
    """One step of DDIM.

    Attributes:
        time: what the network is told, 0 to T - 1.
        source, target: cumulative alpha of the level that is left, and of the one that is reached.
    """

    time: int
    source: float
    target: float


Noise = Callable[[Tensor, Move], Tensor]
"""Predicts the noise of latents ``(n, ...)`` at the start of a move."""


def check_grid(steps: int, start: int | None, timesteps: int) -> None:
    """Refuse a grid that a model does not have.

    Raises:
        UserError: ``steps`` does not divide the model's timesteps, or ``start`` is no point of the grid.
    """
    if not 1 <= steps <= timesteps or timesteps % steps:
        raise UserError(f"--steps {steps}: expected a divisor of the model's {timesteps} timesteps, 50 for one")
    width = timesteps // steps
    if start is not None and (not 0 <= start < timesteps or start % width):
        times = [str(time) for time in range(0, timesteps, width)]
        shown = ", ".join(times if steps < 5 else [*times[:3], "...", times[-1]])
        raise UserError(f"--start {start}: expected a time of the grid of {steps} steps: {shown}")


def sampling_moves(alphas: Tensor, steps: int, start: int | None = None, *, released: bool = False) -> list[Move]:
    """The way from a noisy level down to an image.

    Args:
        alphas: float64 ``(T,)`` cumulative alphas.
        steps: moves of the whole grid 0, T/steps, 2T/steps, ...
        start: time of the first level; None: the last of the grid.
        released: as the released code of D3HR: a latent of time ``start`` is taken as one of the *next* time of the
            grid, and the last two moves end at time 1 in place of the clean image.
    """
    width = len(alphas) // steps
    top = width * (steps - 1)
    first = top if start is None else start
    if released:
        times = range(min(first + width, top), -1, -width)
        ends = [float(alphas[max(1, time - width)]) for time in times]
    else:
        times = range(first, -1, -width)
        ends = [float(alphas[time - width]) if time >= width else 1.0 for time in times]
    return [Move(time, float(alphas[time]), end) for time, end in zip(times, ends, strict=True)]


def inversion_moves(alphas: Tensor, steps: int, start: int, *, released: bool = False) -> list[Move]:
    """The way from an image up to the level of time ``start``.

    Args:
        alphas, steps: as in :func:`sampling_moves`.
        released: as the released code of D3HR: an image is taken as being at time 0 already, so that the first move,
            from the clean level to that of time 0, is left out.
    """
    width = len(alphas) // steps
    times = range(width if released else 0, start + 1, width)
    begins = [float(alphas[time - width]) if time >= width else 1.0 for time in times]
    return [Move(time, begin, float(alphas[time])) for time, begin in zip(times, begins, strict=True)]


def predicted_image(x: Tensor, noise: Tensor, level: float) -> Tensor:
    """The clean latent that a noise prediction implies for a latent at cumulative alpha ``level``."""
    return (x - math.sqrt(1 - level) * noise) / math.sqrt(level)


def moved(x: Tensor, noise: Tensor, move: Move, *, clip: bool = False) -> Tensor:
    """The latent at the end of a move; ``clip`` clamps the predicted clean one to [-1, 1] (diffusers' clip_sample)."""
    image = predicted_image(x, noise, move.source)
    return math.sqrt(move.target) * (image.clamp(-1, 1) if clip else image) + math.sqrt(1 - move.target) * noise


@torch.no_grad()
def travel(x: Tensor, moves: Sequence[Move], noise: Noise, *, clip: bool = False) -> Tensor:
    """The latents ``(n, ...)`` at the end of all moves.

    Args:
        clip: clamp predicted images to [-1, 1]. It keeps samples of a small model of pixels from drifting away when
            they begin at pure noise; what was inverted is not found again with it, and latents of an autoencoder have
            no such bounds.
    """
    for move in moves:
        x = moved(x, noise(x, move), move, clip=clip)
    return x
