"""FRePo and RCIG: objectives, solvers and gradients against float64 references and central differences; the pool."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import EAGER, digits_context
from torch import Tensor

from ddbench.methods import rcig as rcig_source
from ddbench.methods.families.kernel import Learned, temperature_slope
from ddbench.methods.frepo import FRePo, FRePoConfig
from ddbench.methods.parts.pool import Pool
from ddbench.methods.rcig import RCIG, RCIGConfig
from ddbench.networks.build import build_student
from ddbench.protocols.plan import Plan, check_plan, own_protocol, regression_targets
from ddbench.protocols.protocol import PROTOCOLS, changed
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget, Synset, read_synset
from ddbench.training.kernel import (
    clip_to,
    convex_loss,
    frepo_loss,
    label_margin,
    platt_loss,
    relative_ridge,
    ridge_solver,
)
from ddbench.training.outer import AdaBelief, Lamb
from ddbench.training.solve import adam_descent, conjugate_gradients

pytestmark = pytest.mark.usefixtures("one_thread")

STUDENT = "convnet-d1-w2x2-nn-softplus"
SMALL: dict[str, Any] = {"iterations": 3, "batch_real": 16, "pool": 2, "oldest": 5}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wide(method: Any) -> Any:
    """A method that is set up, in float64."""
    method.learned = Learned(*(part.double() for part in method.learned.named().values()))
    method.net.to(torch.device("cpu"), torch.float64)
    for name in ("weights", "first", "second"):
        setattr(method.pool, name, getattr(method.pool, name).double())
    return method


def make(kind: Any, config: Any, data_root: Path, folder: Path, ipc: int = 1) -> Any:
    method = kind(config, digits_context(data_root, folder, ipc=ipc, student=STUDENT))
    method.setup()
    return method


# Objectives


def test_ridge():
    features, right = drawn(5, 3), drawn(5, 2, seed=1)
    expected = torch.linalg.inv(features @ features.T + 0.3 * torch.eye(5, dtype=torch.float64)) @ right
    torch.testing.assert_close(ridge_solver(features, 0.3)(right), expected, rtol=1e-10, atol=1e-12)
    diagonal = (features @ features.T).diagonal().mean()
    torch.testing.assert_close(relative_ridge(features, 0.1), 0.1 * diagonal)


def test_losses_by_hand():
    labels = torch.tensor([[0.9, 0.0, -0.5], [0.2, 0.1, -0.4]], dtype=torch.float64)
    assert float(label_margin(labels, 1 / 3)) == pytest.approx((1 / 3 + 0.1) / 2)
    predicted, real = drawn(4, 3), drawn(4, 3, seed=1)
    squares = sum(0.5 * sum((predicted[i, c] - real[i, c]) ** 2 for c in range(3)) for i in range(4)) / 4
    assert float(frepo_loss(predicted, real, labels)) == pytest.approx(float(squares) - (1 / 3 + 0.1) / 2, rel=1e-12)
    classes, tau = torch.tensor([0, 2, 1, 1]), torch.tensor(0.4, dtype=torch.float64)
    scaled = math.exp(0.4) * predicted
    entropy = -sum(scaled[i, classes[i]] - scaled[i].exp().sum().log() for i in range(4)) / 4
    assert float(platt_loss(predicted, classes, labels, tau)) == pytest.approx(
        float(entropy) - (1 / 6 + 0.1) / 2, rel=1e-12
    )


def test_convex_loss_is_the_inner_loss_at_the_solved_last_layer():
    features, residual, delta, ridge = drawn(4, 6), drawn(4, 3, seed=1), drawn(7, seed=2), 0.2
    gram = features @ features.T
    alpha = torch.linalg.solve(gram + ridge * torch.eye(4, dtype=torch.float64), residual)
    fit = 0.5 * (residual - gram @ alpha).square().sum()
    penalty = 0.5 * ridge * ((alpha.T @ gram @ alpha).trace() + delta.square().sum())
    torch.testing.assert_close(
        convex_loss(residual, delta, features, ridge), (fit + penalty) / 12, rtol=1e-10, atol=1e-12
    )


def test_clipping():
    part, short = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])
    torch.testing.assert_close(clip_to(part, short), torch.tensor([0.6, 0.8]))
    assert torch.equal(clip_to(part, 10 * short), part)
    assert torch.equal(clip_to(torch.zeros(2), short), torch.zeros(2))


# Solvers and optimisers


def test_conjugate_gradients():
    root = drawn(6, 6)
    matrix, right = root @ root.T + torch.eye(6, dtype=torch.float64), drawn(6, seed=1)
    found, products = conjugate_gradients(lambda v: matrix @ v, right, 50, tolerance=1e-12)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right), rtol=1e-9, atol=1e-10)
    assert products <= 7
    assert conjugate_gradients(lambda v: matrix @ v, right, 2)[1] == 2
    distances = [
        (adam_descent(lambda v, _: matrix @ v - right, torch.zeros(6, dtype=torch.float64), 0.02, steps) - found).norm()
        for steps in (20, 200)
    ]
    assert distances[0] > distances[1]
    assert distances[1] < 1e-3


@pytest.mark.parametrize("early", [False, True])
def test_adabelief(early: bool):
    leaf, gradients = torch.tensor([1.0, -2.0], dtype=torch.float64), [drawn(2, seed=k) for k in range(3)]
    optimizer = AdaBelief({"x": (leaf, 0.1)}, early=early)
    x, mean, spread = [1.0, -2.0], [0.0, 0.0], [0.0, 0.0]
    for step, gradient in enumerate(gradients, 1):
        optimizer.step({"x": gradient})
        for k in range(2):
            g, before = float(gradient[k]), mean[k]
            mean[k] = 0.9 * mean[k] + 0.1 * g
            spread[k] = 0.999 * spread[k] + 0.001 * (g - (before if early else mean[k])) ** 2 + 1e-16
            x[k] -= 0.1 * (mean[k] / (1 - 0.9**step)) / (math.sqrt(spread[k] / (1 - 0.999**step)) + 1e-16)
        assert leaf.tolist() == pytest.approx(x, rel=1e-10)
        if early and step == 1:
            torch.testing.assert_close(leaf, torch.tensor([1.0, -2.0]).double() - 0.1 * gradient.sign())


@pytest.mark.parametrize("length", [1.0, 1e-2])
def test_lamb(length: float):
    leaf, gradient = drawn(3) * length, drawn(3, seed=1)
    start = leaf.clone()
    Lamb({"x": (leaf, 0.01)}).step({"x": gradient}, factor=0.5)
    move = gradient / (gradient.abs() + 1e-6)
    torch.testing.assert_close(leaf, start - 0.005 * start.norm() / move.norm() * move, rtol=1e-10, atol=1e-12)


def test_lamb_at_zero_moves_by_the_rate():
    leaf, gradient = torch.zeros(3).double(), drawn(3)
    Lamb({"x": (leaf, 0.01)}).step({"x": gradient})
    torch.testing.assert_close(leaf, -0.01 * gradient / (gradient.abs() + 1e-6), rtol=1e-10, atol=1e-12)


# Gradients


def central(value: Callable[[Tensor], float], at: Tensor, direction: Tensor, step: float = 1e-5) -> float:
    return (value(at + step * direction) - value(at - step * direction)) / (2 * step)


def rcig(data_root: Path, folder: Path, **changes: Any) -> Any:
    return wide(make(RCIG, RCIGConfig(**{**SMALL, "solver_steps": 200, **changes}), data_root, folder))


def test_inner_gradient_and_hessian(data_root: Path, tmp_path: Path):
    """The forms of the inner problem against autograd on its loss."""
    method = rcig(data_root, tmp_path)
    theta, images = method.pool.weights[0], method.learned.images
    labels, ridge = method.learned.labels, method.weight
    scale = ridge / labels.numel()
    product, pulled = method._system(theta)

    def loss(delta: Tensor) -> Tensor:
        features, moved = method.net.push(theta, images, delta * method.net.mask)
        return convex_loss(labels - moved, delta, features, ridge)

    delta, v = drawn(len(theta)) * method.net.mask, drawn(len(theta), seed=1) * method.net.mask
    gradient = torch.func.grad(loss)(delta)
    torch.testing.assert_close(scale * (product(delta) - pulled(labels)), gradient, rtol=1e-8, atol=1e-13)
    hessian = torch.func.jvp(torch.func.grad(loss), (delta,), (v,))[1]
    torch.testing.assert_close(scale * product(v), hessian, rtol=1e-8, atol=1e-13)
    solved = method._inner(0)
    assert float(torch.func.grad(loss)(solved[1]).norm()) < 1e-5 * float(torch.func.grad(loss)(0 * delta).norm())
    assert solved[2] <= labels.numel() + 1


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", ["images", "labels", "tau"])
def test_meta_gradient(name: str, flip: bool, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Direct and implicit part together are the derivative of the loss at the solved inner problem."""
    monkeypatch.setattr(rcig_source, "clip_to", lambda part, reference: part)
    solve = conjugate_gradients
    monkeypatch.setattr(rcig_source, "conjugate_gradients", lambda a, b, n: solve(a, b, n, tolerance=1e-13))
    method = rcig(data_root, tmp_path, flip=flip)
    x, y = method.real_batch(0)
    x = x.double()
    _, gradients = method.meta(0, x, y, 0)
    at = method.learned.named()[name].clone()
    direction = drawn(*at.shape, seed=3)

    def value(changed: Tensor) -> float:
        method.learned = dataclasses.replace(method.learned, **{name: changed})
        return method.meta(0, x, y, 0)[0]["loss"]

    expected = central(value, at, direction)
    assert float((gradients[name] * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_clipped_and_unclipped_differ(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    method = rcig(data_root, tmp_path)
    x, y = method.real_batch(0)
    clipped = method.meta(0, x.double(), y, 0)[1]
    monkeypatch.setattr(rcig_source, "clip_to", lambda part, reference: 0 * part)
    direct = method.meta(0, x.double(), y, 0)[1]
    for name in ("images", "labels"):
        implicit = clipped[name] - direct[name]
        assert 0 < float(implicit.norm()) <= float(direct[name].norm()) * (1 + 1e-9)
    assert torch.equal(clipped["tau"], direct["tau"])


def test_adam_approaches_the_exact_solution(data_root: Path, tmp_path: Path):
    exact = rcig(data_root, tmp_path / "cg")._inner(0)[1]
    distances = []
    for steps in (20, 200, 1000):
        method = rcig(data_root, tmp_path / str(steps), solver="adam", solver_steps=steps, lr_inner=3e-3)
        distances.append(float((method._inner(0)[1] - exact).norm()))
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.05 * float(exact.norm())


def test_released_form_drifts_and_climbs(data_root: Path, tmp_path: Path):
    method = rcig(data_root, tmp_path, paper_code=True, solver_steps=3, lr_pool=1e-3)
    method._train_member(0, 0)  # so that the pool's optimiser has momentum
    theta, delta, _ = method._inner(0)
    assert not torch.equal(theta, method.pool.weights[0])
    last = method.net.last_slice()
    assert bool(delta[last].any())
    clean = rcig(data_root, tmp_path / "clean")
    base, tangent, _ = clean._inner(0)
    assert torch.equal(base, clean.pool.weights[0])
    assert not bool(tangent[last].any())


@pytest.mark.parametrize("name", ["images", "labels"])
def test_frepo_gradient(name: str, data_root: Path, tmp_path: Path):
    method = wide(make(FRePo, FRePoConfig(**SMALL, ridge=1e-3), data_root, tmp_path, ipc=2))
    x, y = method.real_batch(0)
    x = x.double()
    _, gradients = method.meta(0, x, y, 0)
    at = method.learned.named()[name].clone()
    direction = drawn(*at.shape, seed=3)

    def value(changed: Tensor) -> float:
        method.learned = dataclasses.replace(method.learned, **{name: changed})
        return method.meta(0, x, y, 0)[0]["loss"]

    expected = central(value, at, direction)
    assert float((gradients[name] * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_images_at_once(data_root: Path, tmp_path: Path):
    """The loss is that of all images, the gradient that of some."""
    whole = make(FRePo, FRePoConfig(**SMALL), data_root, tmp_path / "all", ipc=2)
    some = make(FRePo, FRePoConfig(**SMALL, images_at_once=4), data_root, tmp_path / "some", ipc=2)
    x, y = whole.real_batch(0)
    one, two = whole.meta(0, x, y, 0), some.meta(0, x, y, 0)
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], rel=1e-5)
    moved = two[1]["images"].flatten(1).norm(dim=1) > 0
    assert int(moved.sum()) == 4
    torch.testing.assert_close(two[1]["images"][moved], one[1]["images"][moved], rtol=1e-3, atol=1e-7)


def test_released_form_step_by_step(data_root: Path, tmp_path: Path):
    """By autograd on the inner loss: Adam counts on from the pool's steps, for the tangent and for a base without
    gradient; the last layer's tangent gets the gradient added."""
    method = rcig(data_root, tmp_path, paper_code=True, solver_steps=3, lr_pool=1e-3, lr_inner=2e-3, oldest=1000)
    method._train_member(0, 0)
    pool, images, labels, ridge = method.pool, method.learned.images, method.learned.labels, method.weight
    count, last = int(pool.steps[0]), method.net.last_slice()
    assert count > 0
    theta, first, second = (part[0].clone() for part in (pool.weights, pool.first, pool.second))
    delta, mean, square = (torch.zeros_like(theta) for _ in range(3))

    def loss(tangent: Tensor, base: Tensor) -> Tensor:
        features, moved = method.net.push(base, images, tangent)
        return convex_loss(labels - moved, tangent, features, ridge)

    for step in range(3):
        slope, number = torch.func.grad(loss)(delta, theta), count + step + 1
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        before = delta
        delta = delta - 2e-3 * (mean / (1 - 0.9**number)) / ((square / (1 - 0.999**number)).sqrt() + 1e-8)
        delta[last] = before[last] + slope[last]
        first, second = 0.9 * first, 0.999 * second
        theta = theta - 1e-3 * (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
    found = method._inner(0)
    torch.testing.assert_close(found[0], theta, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[1], delta, rtol=1e-6, atol=1e-10)
    assert found[2] == 3


def test_rates_and_average_of_rcig(data_root: Path, tmp_path: Path):
    """AdaBelief's first step is the rate over .9 whatever the gradient; delivered is the average without its bias."""
    rates = {"images": 0.1, "labels": 0.02, "tau": 0.005}
    method = rcig(data_root, tmp_path, **{f"lr_{name}": rate for name, rate in rates.items()})
    start = {name: part.clone() for name, part in method.learned.named().items()}
    assert all(torch.equal(one, start[name]) for name, one in method.delivered().named().items())
    method.setup()
    gradients = {name: 1 + torch.rand(part.shape) for name, part in start.items()}
    past = []
    for iteration in range(2):
        method.descend(gradients, iteration)
        past.append({name: part.clone() for name, part in method.learned.named().items()})
    for name, rate in rates.items():
        moved = past[0][name].double() - start[name]
        torch.testing.assert_close(moved, torch.full_like(moved, -rate / 0.9), rtol=1e-3, atol=1e-6)
        average = (0.99 * past[0][name] + past[1][name]) / 1.99
        torch.testing.assert_close(method.delivered().named()[name], average, rtol=1e-5, atol=1e-6)


def test_training_of_the_pool_of_rcig(data_root: Path, tmp_path: Path):
    """So many steps, each as likely; half the mean squared error over images and classes."""
    method = rcig(data_root, tmp_path, most_steps=4)
    assert {method.steps_of_pool(iteration) for iteration in range(60)} == {1, 2, 3, 4}
    outputs, labels = drawn(5, 3), drawn(5, 3, seed=1)
    expected = sum((a - b) ** 2 for a, b in zip(outputs.flatten().tolist(), labels.flatten().tolist(), strict=True))
    assert float(method.pool_loss(outputs, labels)) == pytest.approx(expected / 30)


def test_steps_of_frepo(data_root: Path, tmp_path: Path):
    """LAMB moves a leaf by its own length times its rate, which a cosine lowers to a tenth; halfway it is .55 of it."""
    settings = {**SMALL, "iterations": 4, "lr_images": 3e-3, "lr_labels": 2e-2}
    for iteration, factor in ((0, 1.0), (2, 0.55), (4, 0.1)):
        method = make(FRePo, FRePoConfig(**settings), data_root, tmp_path / str(iteration), ipc=2)
        start = {name: part.clone() for name, part in method.learned.named().items()}
        method.descend({name: 1 + torch.rand(part.shape) for name, part in start.items()}, iteration)
        for name, rate in (("images", 3e-3), ("labels", 2e-2)):
            moved = method.learned.named()[name] - start[name]
            each = factor * rate * float(start[name].norm()) / math.sqrt(moved.numel())
            torch.testing.assert_close(moved, torch.full_like(moved, -each), rtol=1e-3, atol=1e-6)
        assert float(method.learned.tau) == pytest.approx(-0.03 / 0.9, rel=1e-3)


def test_temperature_descends_in_the_cross_entropy():
    """``e^tau (mean over images of sum_c q_c p_c - p_y)`` with q the softmax of ``e^tau p``."""
    predicted, classes, tau = drawn(6, 4), torch.tensor([0, 3, 1, 1, 2, 0]), torch.tensor(0.7, dtype=torch.float64)
    total = 0.0
    for row, label in zip(predicted.tolist(), classes.tolist(), strict=True):
        powers = [math.exp(math.exp(0.7) * one) for one in row]
        total += sum(power / sum(powers) * one for power, one in zip(powers, row, strict=True)) - row[label]
    assert float(temperature_slope(predicted, classes, tau)) == pytest.approx(math.exp(0.7) * total / 6, rel=1e-10)


def test_how_frepo_begins_and_trains_its_pool(data_root: Path, tmp_path: Path):
    """Targets are shorter with more classes than ten, ages are staggered, a step of the pool sees some images."""
    method = make(FRePo, FRePoConfig(**{**SMALL, "pool": 4, "oldest": 25, "batch_pool": 7}), data_root, tmp_path, ipc=2)
    assert method.pool.ages.tolist() == [0, 10, 20, 5]
    one, two = (method.pool_batch(20, iteration, 0) for iteration in (0, 1))
    assert len(set(one.tolist())) == len(set(two.tolist())) == 7
    assert set(one.tolist()) | set(two.tolist()) <= set(range(20))
    assert one.tolist() != two.tolist()
    assert method.pool_batch(7, 0, 0) is None
    method.context = SimpleNamespace(classes=40, hard_labels=lambda: torch.arange(40))
    torch.testing.assert_close(method.first_labels(), (torch.eye(40) - 1 / 40) / 2)


# The pool


def test_pool():
    born: list[int] = []

    def fresh(seed: int) -> Tensor:
        born.append(seed)
        return torch.full((2,), float(len(born)))

    pool = Pool(fresh, 0, [0, 3], lr=0.1, oldest=5)
    assert len(set(born)) == 2
    assert pool.ages.tolist() == [0, 3]
    pool.train(1, 1, lambda theta, step: torch.ones(2))
    torch.testing.assert_close(pool.weights[1], torch.full((2,), 1.9))  # Adam's first step is the rate
    kept = {name: tensor.clone() for name, tensor in pool.state().items()}
    pool.train(1, 1, lambda theta, step: torch.ones(2))
    assert pool.lives.tolist() == [0, 1]
    assert pool.ages.tolist() == [0, 0]
    assert pool.steps.tolist() == [0, 0]
    assert pool.weights[1].tolist() == [3.0, 3.0]
    assert not bool(pool.first[1].any())
    assert len(set(born)) == 3
    other = Pool(fresh, 0, [0, 3], lr=0.1, oldest=5)
    other.load_state(kept)
    assert all(torch.equal(other.state()[name], kept[name]) for name in kept)
    draws = [pool.draw(iteration) for iteration in range(40)]
    assert set(draws) == {0, 1}
    assert draws == [other.draw(iteration) for iteration in range(40)]


@pytest.mark.parametrize("name", ["lr_inner", "lr_hessian"])
def test_rates_of_adam_are_refused_where_nothing_is_solved_by_it(name: str, data_root: Path, tmp_path: Path):
    context = rcig(data_root, tmp_path).context
    for more in ({"solver": "adam"}, {"paper_code": True}):
        RCIG.check(RCIGConfig(**{**SMALL, name: 0.5, **more}), context)
    with pytest.raises(UserError, match=rf"--{name.replace('_', '-')} 0.5: it has no effect with --solver cg"):
        RCIG.check(RCIGConfig(**{**SMALL, name: 0.5}), context)


# Networks, labels, protocol


def test_doubling_network():
    net = build_student("convnet-d3-w4x2-nn-softplus", channels=1, size=16, classes=10, seed=0)
    assert [stage.conv.out_channels for stage in net.stages] == [4, 8, 16]
    assert net.classifier.in_features == 16 * 4
    with pytest.raises(UserError, match="wider than 4096"):
        build_student("convnet-d8-w128x2-nn", channels=1, size=256, classes=10, seed=0)


def synset_of(labels: Tensor, scale: float | None = None) -> Synset:
    return Synset(
        images=torch.zeros(len(labels), 1, 8, 8),
        labels=labels,
        preprocess={},
        budget=Budget("ipc", 1),
        dataset="digits",
        fingerprint="",
        class_names=("a", "b", "c"),
        method="rcig",
        config={},
        seed=0,
        label_scale=scale,
    )


def test_regression_targets():
    targets = torch.tensor([[0.6, -0.2, -0.4], [-0.1, 0.3, -0.2], [0.0, 0.1, 0.5]])
    learned = synset_of(targets, 2.0)
    assert learned.label_kind == "targets"
    assert torch.equal(regression_targets(learned), targets)
    assert torch.equal(learned.logits(), 2 * targets)
    centred = torch.eye(3) - 1 / 3
    torch.testing.assert_close(regression_targets(learned, hard=True), centred)
    torch.testing.assert_close(regression_targets(synset_of(torch.arange(3))), centred)
    torch.testing.assert_close(regression_targets(synset_of(targets)), targets.softmax(1) - 1 / 3)


@pytest.mark.parametrize("method", ["frepo", "rcig"])
def test_a_pool_that_nobody_can_mean(method: str, refused: Callable):
    argv = ["distill", "--method", method, "--dataset", "digits", "--ipc", 1, "--student", STUDENT, *EAGER]
    refused([*argv, "--pool", 10**9], "--pool 1000000000: expected from 1 to 1000")


@pytest.mark.parametrize("method", ["frepo", "rcig"])
def test_run_and_protocols(method: str, ddb: Callable, refused: Callable, tmp_path: Path):
    run = tmp_path / "run"
    flags = ["--iterations", 2, "--batch-real", 32, "--pool", 2, "--student", STUDENT]
    done = ddb("distill", "--method", method, "--dataset", "digits", "--ipc", 1, *flags, "--out", run, *EAGER)
    assert done.code == 0, done.err
    synset = read_synset(run / "synset.safetensors")
    assert synset.label_kind == "targets"
    assert own_protocol(synset) == "mse-v1"
    for protocol in ("mse-v1", "hard-v1"):
        argv = ["evaluate", run, "--protocol", protocol, "--epochs", 3, "--seeds", 1, "--workers", 1, *EAGER]
        result = ddb(*argv)
        assert result.code == 0, result.err
    refused(["evaluate", run, "--protocol", "soft-v1", *EAGER], "targets of a regression", "mse-v1")
    refused(["evaluate", run, "--label-smoothing", 0.1, *EAGER], "label smoothing is n/a")


@pytest.mark.parametrize(
    ("student", "needle"), [("convnet-d1-w8-bn", "without a norm"), ("lenet", "ConvNets and MLPs")]
)
def test_students_that_do_not_fit(student: str, needle: str, refused: Callable, tmp_path: Path):
    argv = ["distill", "--method", "rcig", "--dataset", "digits", "--ipc", 1, "--student", student]
    refused([*argv, "--out", tmp_path / "run", *EAGER], f"--student {student}", needle, "use e.g. convnet-d")


def test_protocols_with_a_squared_error():
    base = PROTOCOLS["mse-v1"]
    with pytest.raises(UserError, match="are not mixed"):
        changed(base, augmentation="cutmix")
    with pytest.raises(UserError, match="label smoothing is n/a"):
        changed(base, label_smoothing=0.1)
    with pytest.raises(UserError, match="own labels"):
        changed(base, labels="teacher")


def test_plan_under_hard_v1_takes_scaled_targets(data_root: Path, tmp_path: Path):
    method = make(RCIG, RCIGConfig(**SMALL), data_root, tmp_path)
    method.step(0)
    product, context = method.distilled(), method.context
    assert product.label_scale is not None
    synset = dataclasses.replace(
        synset_of(product.labels, product.label_scale),
        images=product.images,
        class_names=context.dataset.spec.class_names,
        preprocess=context.preprocess.to_json(),
        fingerprint=context.dataset.fingerprint,
    )
    for name, expected in (("hard-v1", product.labels * product.label_scale), ("mse-v1", product.labels)):
        plan = Plan(synset=synset, protocol=PROTOCOLS[name], preprocess=context.preprocess, flip=False)
        check_plan(plan, context.dataset)
        torch.testing.assert_close(plan.inputs(torch.device("cpu")).labels, expected)


def test_checkpoints_take_a_twentieth_of_the_time(monkeypatch: pytest.MonkeyPatch):
    from ddbench.distillation import folder

    clock = [0.0]
    monkeypatch.setattr(folder.time, "monotonic", lambda: clock[0])
    rhythm = folder.Rhythm(0)
    clock[0] = 30.0
    assert rhythm.due(1)
    with rhythm.writing():
        clock[0] += 5.0
    for later, due in ((30.0, False), (99.9, False), (100.0, True)):
        clock[0] = 35.0 + later
        assert rhythm.due(2) is due
    assert [folder.Rhythm(3).due(number) for number in range(1, 7)] == [False, False, True] * 2
