"""DDIM of a model that predicts one fixed noise, against closed forms: no library, no tolerance for its habits."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ddbench.diffusion.backends import Backend
from ddbench.diffusion.ddim import Move, inversion_moves, sampling_moves, travel
from ddbench.diffusion.parts import SCHEDULER_CONFIG, alphas_of
from ddbench.diffusion.recipe import TIMESTEPS, scheduler_config
from ddbench.runtime.errors import UserError

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64), 0)
WIDTH = TIMESTEPS // 50


def random(seed: int) -> Tensor:
    return torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGE, NOISE = random(0), random(1)


def at(level: float, image: Tensor = IMAGE) -> Tensor:
    """The image with the noise at a cumulative alpha."""
    return math.sqrt(level) * image + math.sqrt(1 - level) * NOISE


def image_of(x: Tensor, level: float) -> Tensor:
    return (x - math.sqrt(1 - level) * NOISE) / math.sqrt(level)


def fixed(x: Tensor, move: Move) -> Tensor:
    return NOISE


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 5, 50, 500, 1000])
def test_any_number_of_steps_gives_the_image_back(steps: int):
    """So no step may end anywhere but where the next begins: at 10 steps with diffusers' linspace they are 11 apart."""
    moves = sampling_moves(ALPHAS, steps)
    close(travel(at(moves[0].source), moves, fixed), IMAGE)
    assert all(one.target == other.source for one, other in itertools.pairwise(moves))
    assert moves[-1].target == 1.0


@pytest.mark.parametrize("steps", [1, 2, 5, 50, 500, 1000])
def test_any_number_of_steps_reaches_the_level(steps: int):
    moves = inversion_moves(ALPHAS, steps, TIMESTEPS - TIMESTEPS // steps)
    close(travel(IMAGE, moves, fixed), at(moves[-1].target))


@pytest.mark.parametrize("start", [0, 20, 600, 980])
def test_clipping_gives_the_clipped_image(start: int):
    """The first clipped prediction stays: the result is the image cut to [-1, 1], however many steps; and what lies
    inside is not touched, though every latent on the way is beyond 1.
    """
    moves = sampling_moves(ALPHAS, 50, start)
    close(travel(at(moves[0].source), moves, fixed, clip=True), IMAGE.clamp(-1, 1))


@pytest.mark.parametrize("start", [20, 200, 600, 960])
def test_round_trip_of_the_released_code(start: int):
    """It loses something even with a perfect model: an image is taken for one of time 0, the latent of ``start`` for
    one of the next time, and the last two moves end at time 1, the very last from what is taken for one of time 0.
    """
    first, second = float(ALPHAS[0]), float(ALPHAS[1])
    up = travel(IMAGE, inversion_moves(ALPHAS, 50, start, released=True), fixed)
    close(up, at(float(ALPHAS[start]), image_of(IMAGE, first)))
    late = image_of(up, float(ALPHAS[start + WIDTH]))
    expected = at(second, image_of(at(second, late), first))
    down = travel(up, sampling_moves(ALPHAS, 50, start, released=True), fixed)
    close(down, expected)
    assert float((down - IMAGE).abs().max()) > 0.01


class Two(Backend):
    """Noise of 1 for class 0, 3 for class 1, 10 for the null class; one pixel."""

    channels, side, latent_shape, classes = 1, 1, (1, 1, 1), 2
    noisy_codes, bounded, device = False, True, torch.device("cpu")

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        return images

    def _decode(self, latents: Tensor) -> Tensor:
        return latents

    @property
    def network(self) -> nn.Module:
        return nn.Identity()

    def predict(self, latents: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        assert times.tolist() == [500] * len(labels)
        return torch.tensor([1.0, 3.0, 10.0])[labels].view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("guidance", "expected"), [(0.0, [10, 10]), (1.0, [1, 3]), (4.0, [-26, -18]), (-1.0, [19, 17])]
)
def test_guidance_goes_from_the_null_class(guidance: float, expected: list[float]):
    """``null + g (class - null)``: 1 is the class alone, 0 the null class. Others write ``(1 + g) class - g null``."""
    found = Two().noise(torch.zeros(2, 1, 1, 1), 500, torch.tensor([0, 1]), guidance)
    assert found.flatten().tolist() == expected


def stored(folder: Path, **changed: object) -> Path:
    (folder / SCHEDULER_CONFIG).parent.mkdir(parents=True, exist_ok=True)
    (folder / SCHEDULER_CONFIG).write_text(json.dumps({**scheduler_config(), **changed}))
    return folder


@pytest.mark.parametrize(
    "changed",
    [
        {"timestep_spacing": "linspace"},
        {"timestep_spacing": "trailing", "steps_offset": 1},
        {"set_alpha_to_one": False},
        {"clip_sample": True},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_a_stored_scheduler_says_of_its_own_grid_plays_no_part(changed: dict[str, object], tmp_path: Path):
    pytest.importorskip("diffusers")
    torch.testing.assert_close(alphas_of(stored(tmp_path, **changed)), ALPHAS, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("changed", "needle"),
    [
        ({"prediction_type": "v_prediction"}, "'v_prediction', expected 'epsilon'"),
        ({"prediction_type": "sample"}, "'sample', expected 'epsilon'"),
        ({"rescale_betas_zero_snr": True}, "do not grow strictly from 0 to 1"),
    ],
)
def test_schedulers_that_the_moves_do_not_fit(changed: dict[str, object], needle: str, tmp_path: Path):
    """The last level of a zero-SNR schedule is noise alone: an image cannot be predicted from its noise."""
    pytest.importorskip("diffusers")
    with pytest.raises(UserError, match=needle):
        alphas_of(stored(tmp_path, **changed))
