"""Gradient matching: objectives and whole outer iterations of DC and DSA against plain float64 loops; resuming."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.data.augment import Strategy, apply, draw
from ddbench.data.dataset import Split, class_indices, holdout_split
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.methods.base import Context, NotFiniteError, State
from ddbench.methods.dc import DC, DCConfig
from ddbench.methods.dsa import DSA, DSAConfig
from ddbench.methods.families.gradient_matching import LOOPS, loops
from ddbench.networks.build import build_student
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.runtime.tensors import open_tensors, write_tensors
from ddbench.training.gradient_matching import class_gradients, distance, matched, synthetic_gradients

TOLERANCE = 1e-10
"""Of float64 numbers, relative to the largest."""

Weights = dict[str, Tensor]


pytestmark = pytest.mark.usefixtures("one_thread")


def assert_close(one: Tensor, two: Tensor) -> None:
    assert one.shape == two.shape
    assert float((one - two).abs().max()) <= TOLERANCE * float(two.abs().max())


def plain_logits(weights: Weights, x: Tensor, *, frozen: bool = True) -> Tensor:
    """A ConvNet from its formulas; batch norms (those with running statistics) use them when they are frozen."""
    depth = sum(name.endswith("conv.weight") for name in weights)
    for i in range(depth):
        at = f"stages.{i}"
        padding = 3 if i == 0 and x.shape[1:] == (1, 28, 28) else 1
        x = F.conv2d(x, weights[f"{at}.conv.weight"], weights[f"{at}.conv.bias"], padding=padding)
        if f"{at}.norm.running_mean" not in weights:
            mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        else:
            running = weights[f"{at}.norm.running_mean"], weights[f"{at}.norm.running_var"]
            if frozen:
                mean, variance = (one.view(1, -1, 1, 1) for one in running)
            else:
                mean = x.mean((0, 2, 3), keepdim=True)
                variance = x.var((0, 2, 3), correction=0, keepdim=True)
                with torch.no_grad():
                    running[0].mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
                    running[1].mul_(0.9).add_(0.1 * x.var((0, 2, 3), correction=1))
        x = (x - mean) / (variance + 1e-5).sqrt()
        x = x * weights[f"{at}.norm.weight"].view(1, -1, 1, 1) + weights[f"{at}.norm.bias"].view(1, -1, 1, 1)
        x = x.clamp(min=0)
        x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    return x.flatten(1) @ weights["classifier.weight"].T + weights["classifier.bias"]


def plain_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    return (logits.logsumexp(1) - logits[torch.arange(len(logits)), label]).mean()


def length(x: Tensor) -> Tensor:
    """Euclidean; constant where it is 0 (a filter that no image excites)."""
    squares = (x * x).sum()
    return squares.sqrt() if float(squares.detach()) else squares.detach()


def plain_distance(real: list[Tensor], synthetic: list[Tensor], kind: str) -> Tensor:
    """The table of ``training/gradient_matching.py``, number by number."""
    total = torch.zeros((), dtype=torch.float64)
    if kind in ("cos", "relative-mse"):
        a, b = (torch.cat([one.reshape(-1) for one in side]) for side in (real, synthetic))
        return 1 - (a * b).sum() / (length(a) * length(b) + 1e-6) if kind == "cos" else (length(a - b) / length(a)) ** 2
    for one, two in zip(real, synthetic, strict=True):
        if kind == "mse" or (kind == "conv-mse" and one.ndim == 4):
            total = total + ((one - two) ** 2).sum()
        elif kind == "conv-l1" and one.ndim == 4:
            total = total + (one - two).abs().sum()
        elif kind == "rows" and one.ndim > 1:
            for a, b in zip(one, two, strict=True):
                total = total + 1 - (a * b).sum() / (length(a) * length(b) + 1e-6)
    return total


def plain_loss(weights: Weights, real: Tensor, images: Tensor, label: int, kind: str) -> Tensor:
    """The matching loss of one class."""
    learned = [one for one in weights.values() if one.requires_grad]
    sides = []
    for x, again in ((real, False), (images, True)):
        y = torch.full((len(x),), label)
        sides.append(
            list(torch.autograd.grad(plain_cross_entropy(plain_logits(weights, x), y), learned, create_graph=again))
        )
    return plain_distance(*sides, kind)


def learned_weights(net: torch.nn.Module) -> Weights:
    """A copy of a network's numbers, learnable where the network's are."""
    names = {name for name, _ in net.named_parameters()}
    return {name: one.detach().clone().requires_grad_(name in names) for name, one in net.state_dict().items()}


@pytest.mark.parametrize("kind", ["rows", "mse", "relative-mse", "cos", "conv-mse", "conv-l1"])
def test_distance(kind: str):
    """All kinds of parameters, among them a row without gradient on the real side."""
    g = seeds.generator(0, "distance")
    shapes = [(4, 3, 3, 3), (4,), (3, 2, 2), (5, 8), (5,)]
    real, synthetic = ([torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes] for _ in range(2))
    real[0][1] = 0
    found = distance(real, synthetic, kind)  # type: ignore[arg-type]
    assert_close(found, plain_distance(real, synthetic, kind))
    few = matched(real, kind), matched(synthetic, kind)  # type: ignore[arg-type]
    assert torch.equal(distance(*few, kind), found)  # type: ignore[arg-type]
    if kind == "rows":
        assert float(found) == pytest.approx(float(distance([2 * one for one in real], synthetic, kind)), rel=1e-5)
        assert float(distance(real, real, kind)) == pytest.approx(1, abs=1e-5)  # the empty row cannot be matched


def test_distances_that_cannot_be():
    row, kernel = torch.ones(2), torch.ones(2, 2, 1, 1)
    with pytest.raises(ValueError, match="expected one of rows, mse, relative-mse, cos, conv-mse, conv-l1"):
        distance([kernel], [kernel], "l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not of the same parameters"):
        distance([kernel], [kernel, row], "rows")
    with pytest.raises(ValueError, match="not of the same parameters"):
        distance([kernel], [kernel.flatten(1)], "rows")
    with pytest.raises(ValueError, match="no parameter has 4 dimensions"):
        distance([row], [row], "conv-mse")


@pytest.mark.parametrize("kind", ["rows", "mse", "cos", "conv-mse", "conv-l1"])
@pytest.mark.parametrize("norm", ["in", "bn"])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 16)])
def test_loss_and_its_gradient(channels: int, size: int, norm: str, kind: Any):
    net = build_student(f"convnet-d2-w6-{norm}", channels=channels, size=size, classes=4, seed=0).double().eval()
    g = seeds.generator(0, "loss")
    real, images = (torch.randn(n, channels, size, size, generator=g, dtype=torch.float64) for n in (9, 3))
    for name, buffer in net.named_buffers():
        buffer.copy_(torch.rand(len(buffer), generator=g) + (0.5 if "var" in name else 0))
    images.requires_grad_()
    parameters = matched(net.parameters(), kind)
    y = torch.tensor([2])
    ours = distance(
        class_gradients(net, real, y.expand(9), parameters),
        synthetic_gradients(net, images, y.expand(3), parameters),
        kind,
    )
    plain = plain_loss(learned_weights(net), real, images, 2, kind)
    assert_close(ours.detach(), plain.detach())
    assert_close(torch.autograd.grad(ours, images)[0], torch.autograd.grad(plain, images)[0])


def test_real_gradients_are_constants():
    net = build_student("convnet-d1-w4-in", channels=1, size=8, classes=3, seed=0)
    x = torch.randn(4, 1, 8, 8, generator=seeds.generator(0, "x")).requires_grad_()
    with torch.no_grad():
        found = class_gradients(net, x, torch.arange(4) % 3, list(net.parameters()))
    assert not any(one.requires_grad for one in found)


@pytest.mark.parametrize("kind", ["rows", "mse", "cos"])
def test_finite_differences(kind: Any):
    net = build_student("convnet-d1-w3-in-swish", channels=1, size=8, classes=3, seed=0).double()
    g = seeds.generator(0, "finite")
    real, images = (torch.randn(n, 1, 8, 8, generator=g, dtype=torch.float64) for n in (5, 1))
    y = torch.tensor([1])
    parameters = matched(net.parameters(), kind)
    target = class_gradients(net, real, y.expand(5), parameters)

    def loss(x: Tensor) -> Tensor:
        return distance(target, synthetic_gradients(net, x, y, parameters), kind)

    assert torch.autograd.gradcheck(loss, images.requires_grad_())


class Double(Context):
    """Networks in float64."""

    def network(self, seed: int) -> torch.nn.Module:
        return super().network(seed).double()


@pytest.fixture
def make(data_root: Path, tmp_path: Path) -> Callable[..., Any]:
    """``make(DC, ipc=..., student=..., few=..., **config)``: a method after its set-up, on digits."""

    def call(
        kind: Any, *, ipc: int = 1, student: str = "convnet-d2-w4-in", double: bool = False, few: int = 0, **given: Any
    ) -> Any:
        dataset = load_dataset("digits", data_root)
        train, held_out = holdout_split(dataset.train, 0.1, 10)
        if few:
            index = torch.cat([one[:few] for one in class_indices(train.labels, 10)])
            train = Split(train.images[index], train.labels[index])
        context = (Double if double else Context)(
            dataset=dataset,
            train=train,
            held_out=held_out,
            preprocess=fit_preprocess(dataset, "meanstd"),
            ipc=ipc,
            student=student,
            seed=5,
            device=torch.device("cpu"),
            folder=tmp_path,
            compile="off",
            console=Console(quiet=True),
        )
        config = kind.config_class(**given)
        kind.check(config, context)
        method = kind(config, context)
        method.setup()
        if double:
            method.canvas.value = method.canvas.value.double()
            method.canvas.optimizer.parameters = [method.canvas.value]
            method._real.inputs._images = method._real.inputs._images.double()
        return method

    return call


def plain_outer_iteration(
    context: Context, config: Any, first: Tensor, strategy: Strategy | None, outer: int, velocity: Tensor | None
) -> tuple[Tensor, Tensor, list[float]]:
    """Algorithm 1 of DC with torch's optimiser, all classes' graphs at once; the draws are those that seeds name."""
    seed, ipc = context.seed, context.ipc
    images = first.clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=config.lr_images, momentum=config.momentum)
    if velocity is not None:
        optimizer.state[images]["momentum_buffer"] = velocity.clone()
    inputs = context.preprocess.apply(context.train.images).double()
    index = class_indices(context.train.labels, 10)

    def real(label: int, count: int, g: torch.Generator) -> Tensor:
        return inputs[index[label][torch.randperm(len(index[label]), generator=g)[:count]]]

    weights = learned_weights(context.network(seeds.derive(seed, "matching-network", outer)))
    learned = [one for one in weights.values() if one.requires_grad]
    found = []
    for loop in range(config.outer_loops):
        g = seeds.generator(seed, "matching-norm", outer, loop)
        with torch.no_grad():
            plain_logits(weights, torch.cat([real(label, 16, g) for label in range(10)]), frozen=False)
        loss = torch.zeros((), dtype=torch.float64)
        for label in range(10):
            g = seeds.generator(seed, "matching", outer, loop, label)
            x, shown = real(label, config.batch_real, g), images[label * ipc : (label + 1) * ipc]
            if strategy is not None:
                change = draw(replace(strategy, siamese=True), 1, 8, g)
                x, shown = apply(change, x), apply(change, shown)
            loss = loss + plain_loss(weights, x, shown, label, config.metric)
        optimizer.zero_grad()
        loss.backward(inputs=[images])
        optimizer.step()
        found.append(float(loss.detach()))
        if loop == config.outer_loops - 1:
            break
        training = seeds.derive(seed, "matching-train", outer, loop)
        descent = torch.optim.SGD(learned, lr=config.lr_student)
        for epoch in range(config.inner_epochs):
            order = torch.randperm(10 * ipc, generator=seeds.generator(training, "order", epoch))
            g = seeds.generator(training, "augment", epoch)
            for batch in order.split(config.batch_student):
                x = images.detach()[batch]
                if strategy is not None:
                    x = apply(draw(strategy, len(batch), 8, g), x)
                descent.zero_grad()
                plain_cross_entropy(plain_logits(weights, x, frozen=False), batch // ipc).backward()
                descent.step()
    return images.detach(), optimizer.state[images]["momentum_buffer"], found


@pytest.mark.parametrize("norm", ["in", "bn"])
@pytest.mark.parametrize(
    ("kind", "ipc", "config"),
    [
        (DC, 1, {"outer_loops": 1, "metric": "rows"}),
        (DC, 2, {"outer_loops": 3, "inner_epochs": 2, "lr_student": 0.1, "batch_student": 7, "metric": "mse"}),
        (DSA, 2, {"outer_loops": 3, "inner_epochs": 2, "lr_student": 0.1, "batch_student": 7, "metric": "rows"}),
    ],
)
def test_outer_iterations(make: Callable, kind: Any, ipc: int, config: dict[str, Any], norm: str):
    """Two of them, from a fresh network each, with the momentum of the images going on."""
    method = make(
        kind,
        ipc=ipc,
        double=True,
        student=f"convnet-d2-w4-{norm}",
        iterations=2,
        batch_real=20,
        **config,
    )
    assert method.iterations == 2 * method.config.outer_loops
    strategy = None
    if kind is DSA:
        strategy = Strategy(("color", "crop", "cutout", "scale", "rotate"), align_corners=False)
    images, velocity = method.distilled().images, None
    for outer in range(2):
        images, velocity, expected = plain_outer_iteration(
            method.context, method.config, images, strategy, outer, velocity
        )
        losses = [method.step(outer * len(expected) + loop)["loss"] for loop in range(len(expected))]
        assert losses == pytest.approx(expected, rel=TOLERANCE)
        assert_close(method.distilled().images, images)


def test_published_settings():
    assert LOOPS == {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
    for config in (DCConfig(), DSAConfig()):
        assert (config.iterations, config.batch_real, config.batch_student) == (1001, 256, 256)
        assert (config.lr_images, config.momentum, config.lr_student) == (0.1, 0.5, 0.01)
        assert [loops(config, ipc) for ipc in LOOPS] == list(LOOPS.values())
        assert loops(replace(config, outer_loops=3), 10) == (3, 50)
        assert loops(replace(config, inner_epochs=3), 10) == (10, 3)
        assert loops(replace(config, outer_loops=3, inner_epochs=2), 7) == (3, 2)
        assert loops(replace(config, outer_loops=1), 7)[0] == 1
    assert (DCConfig().init, DSAConfig().init, DSAConfig().augmentation) == ("noise", "real", "dsa")


@pytest.mark.parametrize("kind", [DC, DSA])
def test_first_images(make: Callable, kind: Any):
    noise = make(kind, init="noise", ipc=10).distilled().images
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05
    method = make(kind, init="real", ipc=10)
    product = method.distilled()
    real = method.context.preprocess.apply(method.context.train.images)
    for image, label in zip(product.images[::7], product.labels[::7], strict=True):
        assert bool((real[method.context.train.labels == label] == image).flatten(1).all(1).any())
    assert method.augmentation == ("none" if kind is DC else "color_crop_cutout_scale_rotate")


def test_siamese(make: Callable):
    """The same change for all real and synthetic images: where both are the same images, nothing is left to match."""
    method = make(DSA, ipc=3, few=3, outer_loops=1, init="real", student="convnet-d2-w4-in", double=True)
    method.canvas.images.copy_(method._real.inputs.batch(torch.cat(method._real.index)))
    start = make(DSA, ipc=3, few=3, outer_loops=1, init="noise", student="convnet-d2-w4-in", double=True).step(0)
    assert method.step(0)["loss"] < 1e-2 * start["loss"]


def tensors_of(method: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in method.state().tensors.items()}


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert set(one) == set(two)
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("kind", [DC, DSA])
@pytest.mark.parametrize("norm", ["in", "bn"])
def test_resume_equals_uninterrupted(make: Callable, tmp_path: Path, kind: Any, norm: str):
    """From a file written after any step; seeds decide all the rest."""
    options: dict[str, Any] = {
        "ipc": 2,
        "student": f"convnet-d1-w4-{norm}",
        "batch_real": 12,
        "iterations": 2,
        "outer_loops": 3,
        "inner_epochs": 2,
    }
    whole = make(kind, **options)
    states = []
    for iteration in range(6):
        whole.step(iteration)
        state = whole.state()
        assert any(name.startswith("network.") for name in state.tensors) == (iteration % 3 != 2)
        path = tmp_path / f"{iteration}.safetensors"
        write_tensors(path, state.tensors, {"kind": "test", "schema": 1})
        states.append(path)
    for iteration, path in enumerate(states[:-1]):
        resumed = make(kind, **options)
        with open_tensors(path, "test", 1) as (handle, _):
            resumed.load_state(State(tensors={key: handle.get_tensor(key) for key in handle.keys()}))  # noqa: SIM118
        for after in range(iteration + 1, 6):
            resumed.step(after)
        assert_same(tensors_of(resumed), tensors_of(whole))


@pytest.mark.parametrize("norm", ["in", "bn"])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lr_student": 1e30}, "the network diverged on the synset: lower --lr-student 1e\\+30"),
        ({"lr_images": 1e38}, "--lr-images 1e\\+38 is too high"),
    ],
)
def test_a_step_that_is_not_finite_is_not_taken(make: Callable, norm: str, config: dict[str, Any], message: str):
    method = make(
        DC,
        ipc=2,
        student=f"convnet-d2-w4-{norm}",
        iterations=3,
        **({"outer_loops": 1} if "lr_images" in config else {"outer_loops": 3, "inner_epochs": 2}),
        batch_real=12,
        **config,
    )
    before, said = tensors_of(method), ""
    for iteration in range(3):
        before = tensors_of(method)
        assert bool(torch.isfinite(before["images"]).all())
        try:
            method.step(iteration)
        except NotFiniteError as error:
            said = str(error)
            break
    assert re.search(message, said)
    after = tensors_of(method)
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in after)


def test_seeds(make: Callable):
    """Nothing but the seed decides, and torch's global generator is left alone."""

    def run(seed: int) -> Tensor:
        method = make(DSA, ipc=2, outer_loops=2, inner_epochs=1, batch_real=12)
        method.context = replace(method.context, seed=seed)
        method.setup()
        for iteration in range(3):
            method.step(iteration)
        return method.distilled().images

    state = torch.get_rng_state()
    first = run(1)
    torch.rand(3)
    again, other = run(1), run(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.set_rng_state(state)
    run(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["dc", "dsa"])
@pytest.mark.parametrize(
    ("flags", "needles"),
    [
        (["--ipc", 2], ["--ipc 2", "--outer-loops 1 --inner-epochs 1"]),
        (["--ipc", 60], ["--ipc 60", "--outer-loops 50 --inner-epochs 10"]),
        (["--ipc", 2, "--outer-loops", 2], ["--ipc 2", "--inner-epochs"]),
        (["--iterations", 0], ["--iterations 0", "at least 1"]),
        (["--outer-loops", -1], ["--outer-loops -1"]),
        (["--inner-epochs", -1], ["--inner-epochs -1"]),
        (["--batch-real", 0], ["--batch-real 0"]),
        (["--batch-student", 0], ["--batch-student 0"]),
        (["--lr-images", 0], ["--lr-images 0"]),
        (["--lr-images", "nan"], ["--lr-images nan"]),
        (["--lr-student", "inf"], ["--lr-student inf"]),
        (["--momentum", 1], ["--momentum 1"]),
        (["--metric", "l2"], ["--metric", "l2"]),
        (["--init", "zero"], ["--init", "zero"]),
    ],
)
def test_bad_settings(refused: Callable, tmp_path: Path, kind: str, flags: list[Any], needles: list[str]):
    ipc = [] if "--ipc" in flags else ["--ipc", 1]
    base = ["distill", "--method", kind, "--dataset", "digits", "--recipe", "none", "--out", tmp_path / "run"]
    refused([*base, *ipc, *flags], *needles)


def test_digits_are_not_mirrored(make: Callable):
    method = make(DSA, augmentation="flip_crop")
    assert (method.augmentation, method.strategy.ops) == ("crop", ("crop",))


@pytest.mark.parametrize(
    ("text", "message"),
    [("none", "that is --method dc"), ("flip", "that is --method dc"), ("colour", "unknown augmentation 'colour'")],
)
def test_bad_augmentation(make: Callable, text: str, message: str):
    with pytest.raises(UserError, match=message):
        make(DSA, augmentation=text)


@pytest.mark.parametrize(("name", "value"), [("metric", "l2"), ("init", "zero")])
def test_bad_words_of_a_recipe(make: Callable, name: str, value: str):
    with pytest.raises(UserError, match=f"--{name} '{value}' is none of"):
        make(DC, **{name: value})


def test_size_of_the_loss(make: Callable):
    """Rows are summed: at first, with noise, every row of every class is about as far as can be."""
    method = make(DC, student="convnet-d2-w4-in")
    rows = sum(one.shape[0] for one in method.context.network(0).parameters() if one.ndim > 1)
    loss = method.step(0)["loss"]
    assert 0.3 * 10 * rows < loss < 2 * 10 * rows
    assert math.isfinite(loss)
