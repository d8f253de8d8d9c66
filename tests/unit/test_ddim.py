"""DDIM's moves: diffusers' schedulers as oracle, exact inverses, the order of the error, the released code's ends."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ddbench.diffusion.ddim import Move, check_grid, inversion_moves, moved, predicted_image, sampling_moves, travel
from ddbench.diffusion.recipe import TIMESTEPS, scheduler_config
from ddbench.runtime.errors import UserError

diffusers = pytest.importorskip("diffusers")

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64), 0)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_alphas_are_the_schedulers():
    torch.testing.assert_close(
        diffusers.DDIMScheduler(**scheduler_config()).alphas_cumprod.double(), ALPHAS, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("clip", [False, True])
def test_sampling_as_diffusers(steps: int, clip: bool):
    scheduler = diffusers.DDIMScheduler(**{**scheduler_config(), "clip_sample": clip})
    scheduler.set_timesteps(steps)
    moves = sampling_moves(scheduler.alphas_cumprod.double(), steps)
    assert [move.time for move in moves] == scheduler.timesteps.tolist()
    x = random(2, 1, 4, 4)
    for number, move in enumerate(moves):
        noise = random(2, 1, 4, 4, seed=number + 1)
        theirs = scheduler.step(noise, move.time, x, eta=0.0).prev_sample
        x = moved(x, noise, move, clip=clip)
        torch.testing.assert_close(x, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [10, 50])
def test_inversion_as_diffusers(steps: int):
    scheduler = diffusers.DDIMInverseScheduler(**scheduler_config())
    scheduler.set_timesteps(steps)
    width = TIMESTEPS // steps
    moves = inversion_moves(scheduler.alphas_cumprod.double(), steps, TIMESTEPS - width)
    assert [move.time for move in moves] == scheduler.timesteps.tolist()
    x = random(2, 1, 4, 4)
    for number, move in enumerate(moves):
        noise = random(2, 1, 4, 4, seed=number + 1)
        theirs = scheduler.step(noise, move.time, x).prev_sample
        x = moved(x, noise, move)
        torch.testing.assert_close(x, theirs, rtol=1e-6, atol=1e-6)


def test_clip_sample_is_off():
    """diffusers clips the predicted image by default; the moves, and the stored scheduler, do not."""
    assert diffusers.DDIMScheduler().config.clip_sample
    assert scheduler_config()["clip_sample"] is False
    x, noise, move = (
        random(1, 1, 2, 2) * 5,
        random(1, 1, 2, 2, seed=1),
        Move(600, float(ALPHAS[600]), float(ALPHAS[580])),
    )
    assert float(predicted_image(x, noise, move.source).abs().max()) > 1
    clipped = predicted_image(x, noise, move.source).clamp(-1, 1)
    assert not torch.allclose(
        moved(x, noise, move), math.sqrt(move.target) * clipped + math.sqrt(1 - move.target) * noise
    )


@pytest.mark.parametrize("start", [0, 200, 600, 980])
def test_round_trip_of_constant_noise_is_exact(start: int):
    """Noise that does not depend on x: up and down again is the identity."""
    x, noise = random(3, 1, 4, 4), random(3, 1, 4, 4, seed=1)
    there = travel(x, inversion_moves(ALPHAS, 50, start), lambda x, move: noise)
    expected = math.sqrt(float(ALPHAS[start])) * x + math.sqrt(1 - float(ALPHAS[start])) * noise
    torch.testing.assert_close(there, expected, rtol=0, atol=1e-10)
    back = travel(there, sampling_moves(ALPHAS, 50, start), lambda x, move: noise)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)


def ideal(mean: torch.Tensor, std: float):
    """The best possible prediction for images N(mean, std^2): exact, and it depends on x."""

    def predict(x: torch.Tensor, move: Move) -> torch.Tensor:
        # At the time that the network is told, as in the methods.
        a = float(ALPHAS[move.time])
        return math.sqrt(1 - a) * (x - math.sqrt(a) * mean) / (a * std**2 + 1 - a)

    return predict


def error(steps: int, start: int, *, resume: int | None = None) -> float:
    """RMSE of images after inversion to ``start`` and sampling from ``resume``, with the ideal prediction."""
    mean = random(1, 1, 4, 4) * 0.5
    x = mean + 0.3 * random(64, 1, 4, 4, seed=1)
    predict = ideal(mean, 0.3)
    there = travel(x, inversion_moves(ALPHAS, steps, start), predict)
    back = travel(there, sampling_moves(ALPHAS, steps, start if resume is None else resume), predict)
    return float((back - x).square().mean().sqrt())


def test_error_is_of_first_order():
    """Twice the steps, half the error: 25, 50, 100, 200 steps of a whole round trip."""
    errors = [error(steps, TIMESTEPS - TIMESTEPS // steps) for steps in (25, 50, 100, 200)]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.2, errors


def test_resuming_one_step_late_costs_accuracy():
    """What the released code of D3HR does, with the ideal prediction; a trained one loses more."""
    assert error(50, 600, resume=620) > 1.05 * error(50, 600)


def test_released_code_begins_one_step_late_and_ends_at_time_1():
    down = sampling_moves(ALPHAS, 50, 600, released=True)
    assert [move.time for move in down] == list(range(620, -1, -20))
    ends = [move.target for move in down]
    assert ends[:-2] == [float(ALPHAS[time]) for time in range(600, 0, -20)]
    assert ends[-2:] == [float(ALPHAS[1])] * 2
    up = inversion_moves(ALPHAS, 50, 600, released=True)
    assert [move.time for move in up] == list(range(20, 601, 20))
    assert up[0].source == float(ALPHAS[0])
    assert up[-1].target == float(ALPHAS[600])


def test_paper_resumes_where_inversion_ended():
    up, down = inversion_moves(ALPHAS, 50, 600), sampling_moves(ALPHAS, 50, 600)
    assert len(up) == len(down) == 31
    assert [(move.time, move.source, move.target) for move in up] == [
        (move.time, move.target, move.source) for move in reversed(down)
    ]
    assert up[0].source == down[-1].target == 1.0


def test_last_time_of_the_grid_cannot_be_passed():
    assert sampling_moves(ALPHAS, 50, 980, released=True)[0].time == 980


@pytest.mark.parametrize(
    ("steps", "start", "needle"),
    [
        (0, None, "--steps 0"),
        (-50, None, "--steps -50"),
        (30, None, "--steps 30"),
        (2000, None, "--steps 2000"),
        (50, 610, "--start 610: expected a time of the grid of 50 steps: 0, 20, 40, ..., 980$"),
        (2, 600, "--start 600: expected a time of the grid of 2 steps: 0, 500$"),
        (50, -20, "--start -20"),
        (50, 1000, "--start 1000"),
    ],
)
def test_refused_grids(steps: int, start: int | None, needle: str):
    with pytest.raises(UserError, match=needle):
        check_grid(steps, start, TIMESTEPS)


def test_accepted_grids():
    check_grid(50, None, TIMESTEPS)
    check_grid(50, 0, TIMESTEPS)
    check_grid(1000, 999, TIMESTEPS)
