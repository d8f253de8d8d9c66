"""IGD: influence and deviation against plain loops, what a push does, and the samples it leaves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import digits_context
from torch import Tensor, nn

from ddbench.diffusion.store import find_model
from ddbench.experts.store import find_stores
from ddbench.methods.base import Context
from ddbench.methods.igd import IGD, IGDConfig
from ddbench.methods.needs.diffusion import Diffusion, Generator
from ddbench.methods.needs.experts import Experts
from ddbench.methods.unguided import Unguided, UnguidedConfig
from ddbench.runtime.errors import UserError
from ddbench.training.influence import class_gradient, direction, misleading, nearness, turning_points

pytest.importorskip("diffusers")
STEPS = 10


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_influence_is_the_plain_sum():
    own, real = normals(4, 30), normals(4, 30, seed=1)
    wanted = sum(1 - plain_cosine(a, b) for a, b in zip(own.tolist(), real.tolist(), strict=True))
    assert float(misleading(list(own), list(real))) == pytest.approx(wanted, abs=1e-12)
    assert float(misleading(list(real), [3 * one for one in real])) == pytest.approx(0, abs=1e-12)
    assert float(misleading(list(real), [-one for one in real])) == pytest.approx(8, abs=1e-12)
    assert float(misleading([torch.zeros(30)], [real[0].float()])) == 1


def test_influence_of_an_image_against_differences():
    """Its slope in the image, through the gradient of a network's weights, in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = normals(1, 1, 4, 4)
    real = normals(sum(p.numel() for p in net.parameters()), seed=1)
    label = torch.tensor([2])

    def value(image: Tensor) -> Tensor:
        return misleading([class_gradient(net, image, label, graph=True)], [real])

    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(leaf), leaf)
    for place in range(0, 16, 5):
        step = torch.zeros_like(x)
        step.view(-1)[place] = 1e-6
        difference = float(value(x + step).detach() - value(x - step).detach()) / 2e-6
        assert float(slope.view(-1)[place]) == pytest.approx(difference, rel=1e-5, abs=1e-8)


def test_gradient_of_a_batch_is_the_mean_of_its_images():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    x, labels = normals(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    single = [class_gradient(net, x[i : i + 1], labels[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(class_gradient(net, x, labels), torch.stack(single).mean(0))


def test_nearness_is_the_largest_cosine():
    z, others = normals(1, 2, 3, 3), normals(7, 2, 3, 3, seed=1)
    wanted = max(plain_cosine(z.flatten().tolist(), one.flatten().tolist()) for one in others)
    assert float(nearness(z, others)) == pytest.approx(wanted, abs=1e-12)
    assert float(nearness(2 * others[3:4], others)) == pytest.approx(1, abs=1e-12)


def test_checkpoints_are_kept_where_gradients_turn():
    """Two classes, each a unit vector that turns by an angle; the mean cosine decides, and the last one kept."""

    def at(*angles: float) -> Tensor:
        return torch.tensor([[math.cos(a), math.sin(a)] for a in angles], dtype=torch.float64)

    points = [at(0, 0), at(0.5, 0.5), at(0.9, 0.9), at(1.3, 1.3), at(1.0, 1.9), at(2.4, 2.4)]
    assert turning_points(iter(points), 0.7) == [0, 2, 5]
    assert turning_points(iter(points), -1) == [0]
    assert turning_points(iter(points[:1]), 0.7) == [0]


def test_a_push_has_the_length_of_the_noise():
    gradient, noise = normals(3, 1, 4, 4), normals(3, 1, 4, 4, seed=1)
    gradient[1] = 0
    found = direction(gradient, noise)
    assert found[0].norm() == pytest.approx(float(noise[0].norm()))
    assert plain_cosine(found[0].flatten().tolist(), gradient[0].flatten().tolist()) == pytest.approx(1)
    assert not bool(found[1].any())


@pytest.fixture
def context(tiny_diffusions: Path, buffers: Path, data_root: Path, tmp_path: Path) -> Context:
    model = find_model(tiny_diffusions, dataset="digits")
    assert model is not None
    (store,) = find_stores(buffers)
    made = digits_context(data_root, tmp_path / "run", ipc=3).give(Experts, store)
    return made.give(Diffusion, Generator(model=model, latents=tmp_path / "latents"))


@pytest.fixture
def igd(context: Context) -> Callable[..., Any]:
    def make(**more: Any) -> Any:
        images = {"images": 8} if more.get("influence", 1) else {}  # no real gradient, no real images
        config = IGDConfig(**{"steps": STEPS, **images, **more})
        IGD.check(config, context)
        method = IGD(config, context)
        method.setup()
        return method

    return make


def test_without_strength_it_is_the_plain_sampler(igd: Callable[..., Any], context: Context):
    method = igd(influence=0.0, deviation=0.0, images=200)
    plain = Unguided(UnguidedConfig(steps=STEPS), context)
    plain.setup()
    for one in (method, plain):
        one.step(4)
    assert torch.equal(method.distilled().images, plain.distilled().images)


def test_a_push_moves_the_predicted_image_down_what_it_is_of(igd: Callable[..., Any]):
    """More noise along the push is less of it in the predicted clean latent, ``z = (x - sqrt(1 - a) e) / sqrt(a)``."""
    z, noise = normals(1, 1, 8, 8).float() / 3, normals(1, 1, 8, 8, seed=1).float()
    done = [normals(1, 1, 8, 8, seed=seed).float() / 3 for seed in (2, 3, 4)]
    for which, value in (
        ({"influence": 0.01, "deviation": 0.0}, lambda method, x: method.misleading(x, 3)),
        ({"influence": 0.0, "deviation": 0.01}, lambda method, x: nearness(x, torch.cat(done))),
    ):
        method = igd(**which)
        method._look()
        push = method._push(z, noise, 3, done)
        assert push.norm() == pytest.approx(0.01 * float(noise.norm()), rel=1e-4)
        assert not push.requires_grad
        before, after = (float(value(method, one).detach()) for one in (z, z - push))
        assert after < before
    assert not bool(igd(influence=0.0, deviation=0.1)._push(z, noise, 3, []).any()), "nothing is done yet"


def test_times_that_are_guided_and_what_an_image_is_pushed_from(igd: Callable[..., Any]):
    """The noise of the times between two shares gets ``sqrt(1 - a)`` of the push; the newest images are remembered."""
    method = igd(guide_from=0.3, guide_to=0.6, memory=2, influence=0.0)
    asked: list[list[Tensor]] = []

    def push(clean: Tensor, noise: Tensor, label: int, done: list[Tensor]) -> Tensor:
        asked.append(list(done))
        return 2 * torch.ones_like(noise)

    method._push = push
    plan, times = method.draw(3), len(method.backend.alphas)
    x, noise = normals(1, 1, 8, 8).float(), normals(1, 1, 8, 8, seed=1).float()
    images = [normals(1, 1, 8, 8, seed=seed).float().clamp(-1, 1) for seed in (2, 3, 4)]
    for image in images:
        plan.finished(image)
    guided = []
    for move in plan.moves:
        found = plan.correction(x, noise, move, torch.tensor([0]))
        guided.append(not torch.equal(found, noise))
        if guided[-1]:
            torch.testing.assert_close(found - noise, torch.full_like(noise, 2 * math.sqrt(1 - move.source)))
    assert guided == [0.3 <= move.time / times <= 0.6 for move in plan.moves]
    assert any(guided)
    assert not all(guided)
    assert all(len(done) == 2 for done in asked)
    assert all(torch.equal(one, other) for done in asked for one, other in zip(done, images[1:], strict=True))


def test_deviation_leaves_the_first_image_and_moves_the_others(igd: Callable[..., Any]):
    images = []
    for strength in (1e-9, 0.3):
        method = igd(influence=0.0, deviation=strength)
        assert 0 <= method.step(3)["loss"] <= 2 * len(method._surrogates)
        images.append(method.distilled().images)
    still, apart = images
    assert torch.equal(still[0], apart[0])
    assert not torch.equal(still[1], apart[1])


def test_real_gradients_are_of_evenly_spread_images_of_the_class(igd: Callable[..., Any], context: Context):
    method = igd(images=60)
    method._look()
    rows = (context.train.labels == 7).nonzero()[:, 0]
    rows = rows[torch.linspace(0, len(rows) - 1, 60).round().long()]
    x = context.preprocess.apply(context.train.images[rows])
    wanted = class_gradient(method._surrogates[0], x, torch.full((60,), 7))
    torch.testing.assert_close(method._real[0][7], wanted, rtol=1e-4, atol=1e-6)
    assert len(method._real) == len(method._surrogates) >= 1


def test_bad_settings_are_one_line(context: Context):
    for config, word in (
        (IGDConfig(guide_from=0.9, guide_to=0.6), "--guide-from 0.9: expected at most --guide-to 0.6"),
        (IGDConfig(steps=2, guide_from=0.6, guide_to=0.9), "no one of the 2 steps lies there"),
        (IGDConfig(steps=7), "--steps 7"),
    ):
        with pytest.raises(UserError, match=word) as caught:
            IGD.check(config, context)
        assert "\n" not in str(caught.value)


def test_images_do_not_depend_on_the_budget(igd: Callable[..., Any], context: Context):
    """Image j is made of its own noise and the images before it."""
    method = igd()
    method.step(1)
    fewer = IGD(method.config, dataclasses.replace(context, ipc=2))
    fewer.setup()
    fewer.step(1)
    assert torch.equal(fewer.distilled().images, method.distilled().images[:2])
