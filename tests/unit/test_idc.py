"""IDC's objective, decoding, momentum and schedule against plain loops in float64."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import digits_context
from torch import Tensor, nn

from ddbench.config import apply_config
from ddbench.data.augment import Draw, draw
from ddbench.data.formation import decode
from ddbench.data.policy import Policy, augment
from ddbench.data.preprocess import Preprocess
from ddbench.distillation.recipes import method_recipes
from ddbench.methods import METHODS
from ddbench.methods.base import Context, NotFiniteError, State
from ddbench.methods.dream import DREAM, DREAMConfig
from ddbench.methods.families.multi_formation import Trained, base_size, formation_loss, image_rate, network_policy
from ddbench.methods.idc import IDC, IDCConfig
from ddbench.methods.parts.formation import form, formation_strategies, formed_input
from ddbench.networks.build import build_student
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.training.sgd import SGD

CLASSES = 10
KINDS = {"mse": "conv-mse", "l1": "conv-l1"}
SMALL = {"iterations": 3, "inner_steps": 4, "factor": 2, "batch_real": 8, "net_images": 40, "batch_net": 16}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make_context(data_root: Path, tmp_path: Path) -> Callable[..., Context]:
    return functools.partial(digits_context, data_root, tmp_path)


@pytest.fixture
def context(make_context: Callable[..., Context]) -> Context:
    return make_context()


def method_of(context: Context, kind: type[Any] = IDC, **settings: Any) -> Any:
    said = {**SMALL, **settings}
    if not said["net_images"]:
        del said["batch_net"]
    config = kind.config_class(**said)
    kind.check(config, context)
    method = kind(config, context)
    method.setup()
    return method


# A plain reference: own network, own decoding, own augmentation, float64


def plain_logits(weights: Sequence[Tensor], x: Tensor, norm: str, padding: int) -> Tensor:
    """A ConvNet written out; weights in the order convolution, its bias, scale, shift, ..., linear, its bias."""
    *blocks, last, bias = weights
    for k in range(0, len(blocks), 4):
        kernel, shift, gamma, beta = blocks[k : k + 4]
        x = F.conv2d(x, kernel, shift, padding=padding if k == 0 else 1)
        axes = (2, 3) if norm == "in" else (0, 2, 3)
        mean = x.mean(axes, keepdim=True)
        variance = ((x - mean) ** 2).mean(axes, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt() * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1)
        x = x * (x > 0)
        x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    return x.flatten(1) @ last.T + bias


def plain_decode(stored: Tensor, f: int) -> Tensor:
    """Tile by tile, image by image, pixel by pixel (a bilinear enlargement by hand)."""
    if f == 1:
        return stored
    side = stored.shape[2] // f
    made = []
    for i in range(f):
        for j in range(f):
            for image in stored:
                tile = image[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
                rows = []
                for y in range(stored.shape[2]):
                    row = []
                    for x in range(stored.shape[2]):
                        sy, sx = (min(max((v + 0.5) / f - 0.5, 0), side - 1) for v in (y, x))
                        y0, x0 = int(sy), int(sx)
                        y1, x1 = min(y0 + 1, side - 1), min(x0 + 1, side - 1)
                        a, b = sy - y0, sx - x0
                        row.append(
                            (1 - a) * ((1 - b) * tile[:, y0, x0] + b * tile[:, y0, x1])
                            + a * ((1 - b) * tile[:, y1, x0] + b * tile[:, y1, x1])
                        )
                    rows.append(torch.stack(row, 1))
                made.append(torch.stack(rows, 1))
    return torch.stack(made)


def plain_augment(x: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Colour, shift and cutout with the same numbers for every image."""
    made = []
    for image in x:
        for one in draws:
            size = image.shape[1]
            if one.family == "color":
                offset, saturation, contrast = one.values["color"][0].tolist()
                image = image + offset
                grey = image.mean(0, keepdim=True)
                image = (image - grey) * saturation + grey
                image = (image - image.mean()) * contrast + image.mean()
            elif one.family == "crop":
                down, right = one.values["crop"][0].tolist()
                wide = F.pad(image, (size,) * 4)
                image = wide[:, size + down : 2 * size + down, size + right : 2 * size + right]
            else:
                assert one.family == "cutout"
                row, column = one.values["cutout"][0].tolist()
                side = int(size * 0.5 + 0.5)
                keep = torch.ones(size, size, dtype=x.dtype)
                keep[max(0, row - side // 2) : max(0, row - side // 2 + side)][
                    :, max(0, column - side // 2) : max(0, column - side // 2 + side)
                ] = 0
                image = image * keep
        made.append(image)
    return torch.stack(made)


def plain_loss(
    net: nn.Module,
    norm: str,
    padding: int,
    real: Tensor,
    synthetic: Tensor,
    label: int,
    draws: Sequence[Draw],
    metric: str,
) -> Tensor:
    weights = [parameter.detach().clone().requires_grad_() for parameter in net.parameters()]

    def gradients(x: Tensor, graph: bool) -> Sequence[Tensor]:
        log_probabilities = plain_logits(weights, plain_augment(x, draws), norm, padding).log_softmax(1)
        return torch.autograd.grad(-log_probabilities[:, label].mean(), weights, create_graph=graph)

    loss = torch.zeros((), dtype=torch.float64)
    for name, a, b in zip(
        [name for name, _ in net.named_parameters()], gradients(real, False), gradients(synthetic, True), strict=True
    ):
        if name.endswith("conv.weight"):
            difference = a.detach() - b
            loss = loss + (difference**2 if metric == "mse" else difference.abs()).sum()
    return loss


@pytest.mark.parametrize("metric", ["mse", "l1"])
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("norm", ["in", "bn"])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 16)])
def test_loss_and_gradient(channels: int, size: int, norm: str, factor: int, metric: str):
    generator = torch.Generator().manual_seed(size)
    net = build_student(f"convnet-d2-w3-{norm}", channels=channels, size=size, classes=4, seed=1).double()
    with torch.no_grad():
        for parameter in net.parameters():  # scales and shifts that are not 1 and 0
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    stored = torch.rand(2, channels, size, size, generator=generator, dtype=torch.float64).requires_grad_()
    real = torch.randn(5, channels, size, size, generator=generator, dtype=torch.float64)
    strategies = formation_strategies("color_crop_cutout", True, siamese=True)
    draws = [draw(strategy, 1, size, generator) for strategy in strategies]
    mean, std = 0.3, 0.4
    loss = formation_loss(net, real, (decode(stored, factor) - mean) / std, 2, draws, KINDS[metric])
    (gradient,) = torch.autograd.grad(loss, [stored])
    padding = 3 if channels == 1 else 1
    expected = plain_loss(net, norm, padding, real, (plain_decode(stored, factor) - mean) / std, 2, draws, metric)
    (expected_gradient,) = torch.autograd.grad(expected, [stored])
    assert float(expected.detach()) > 0.01
    assert float((loss - expected).abs().detach()) <= 1e-10 * max(1, float(expected.detach()))
    assert float((gradient - expected_gradient).abs().max()) <= 1e-10 * max(1, float(expected_gradient.abs().max()))
    assert float(gradient.abs().max()) > 1e-4


def test_gradient_is_the_slope():
    """Along a direction, by central differences."""
    generator = torch.Generator().manual_seed(0)
    net = build_student("convnet-d1-w3-in-sigmoid", channels=1, size=8, classes=3, seed=0).double()
    stored = torch.rand(1, 1, 8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    real = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64)
    direction = torch.randn(stored.shape, generator=generator, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return formation_loss(net, real, decode(x, 2), 1, [], "conv-mse")

    (gradient,) = torch.autograd.grad(loss(stored), [stored])
    step = 1e-5
    difference = loss(stored + step * direction) - loss(stored - step * direction)
    slope = float(difference.detach()) / (2 * step)
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_same_augmentation_for_both_batches():
    """Equal batches have equal gradients whatever is drawn."""
    net = build_student("convnet-d2-w4-in", channels=3, size=16, classes=4, seed=0)
    x = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    strategies = formation_strategies("dsa", True, siamese=True)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        draws = [draw(strategy, 1, 16, generator) for strategy in strategies]
        assert float(formation_loss(net, x, x.clone().requires_grad_(), 1, draws, "conv-mse").detach()) < 1e-10
        other = [draw(strategy, 1, 16, generator) for strategy in strategies]
        assert float(formation_loss(net, x, x.flip(0) + 1, 1, other, "conv-mse").detach()) > 1e-10


def test_order_of_augmentation():
    def ops(text: str, flip: bool, **more: Any) -> list[tuple[str, ...]]:
        return [strategy.ops for strategy in formation_strategies(text, flip, siamese=True, **more)]

    assert ops("color_crop_cutout", True) == [("color",), ("crop",), ("cutout",)]
    assert ops("dsa", True) == [("flip",), ("color",), ("crop", "scale", "rotate"), ("cutout",)]
    assert ops("dsa", False) == [("color",), ("crop", "scale", "rotate"), ("cutout",)]
    assert ops("cutout_color", True, cutout=False) == [("color",)]
    assert ops("none", True) == []
    strategies = formation_strategies("dsa", True, siamese=True)
    assert all(strategy.siamese and not strategy.align_corners for strategy in strategies)
    policy = network_policy("color_crop_cutout", True, 0.5)
    assert policy is not None
    assert [strategy.ops for strategy in policy.parts] == [("color",), ("crop",)]
    assert not any(strategy.siamese for strategy in policy.parts)
    assert (policy.mix, policy.mix_probability, policy.mix_alpha) == ("cutmix", 0.5, 1.0)
    plain = network_policy("color_crop_cutout", True, 0.0)
    assert plain is not None
    assert [strategy.ops for strategy in plain.parts] == [("color",), ("crop",), ("cutout",)]
    assert plain.mix == "none"
    assert network_policy("none", True, 0.0) is None


@pytest.mark.parametrize(
    ("metric", "ipc", "size", "dataset", "expected"),
    [
        ("mse", 10, 32, "cifar10", 5e-3),
        ("mse", 1, 32, "svhn", 5e-4),
        ("l1", 10, 28, "mnist", 1e-4),
        ("l1", 50, 28, "fashion-mnist", 5e-4 * 0.765625),
        ("mse", 10, 64, "tiny-imagenet", 2e-2),
        ("l1", 20, 224, "imagenette", 2e-4),
    ],
)
def test_rate_of_the_images(metric: str, ipc: int, size: int, dataset: str, expected: float):
    assert image_rate(metric, ipc, size, base_size(dataset)) == pytest.approx(expected, rel=1e-12)


def test_rate_is_used(context: Context):
    assert method_of(context).canvas.optimizer.param_groups[0]["lr"] == pytest.approx(5e-3 * 0.2 / 16)
    assert method_of(context, lr_images=0.25).canvas.optimizer.param_groups[0]["lr"] == 0.25


# Stored images


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 9])
def test_tiles_are_where_decoding_cuts(factor: int, size: int):
    """Image t n + i is tile t of stored image i: flat images come back as they are, in order."""
    n = 2
    flat = torch.arange(n * factor**2).view(-1, 1, 1, 1).expand(-1, 3, size, size) / 100
    stored = form(flat, factor)
    assert stored.shape == (n, 3, size, size)
    decoded = decode(stored, factor)
    torch.testing.assert_close(decoded[:, :, 0, 0], flat[:, :, 0, 0])
    if size % factor == 0:
        torch.testing.assert_close(decoded, flat)


def test_tiles_are_means():
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    stored = form(images, 2)
    torch.testing.assert_close(stored[0, 0, :4, 4:], F.avg_pool2d(images[1:2], 2)[0, 0])
    torch.testing.assert_close(stored[0, 0, 4:, :4], F.avg_pool2d(images[2:3], 2)[0, 0])


def test_network_input_of_stored_images():
    preprocess = Preprocess("meanstd", (0.5, 0.2, 0.1), (0.25, 0.5, 1.0))
    stored = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    made = formed_input(stored, 2, None, preprocess)
    std = torch.tensor([0.25, 0.5, 1.0]).view(1, 3, 1, 1)
    expected = (plain_decode(stored.double(), 2) - torch.tensor([0.5, 0.2, 0.1]).view(1, 3, 1, 1)) / std
    torch.testing.assert_close(made.double(), expected, rtol=1e-5, atol=1e-6)
    keep = torch.tensor([5, 1])
    assert torch.equal(formed_input(stored, 2, keep, preprocess), made[keep])
    made.sum().backward()
    assert stored.grad is not None
    assert bool((stored.grad > 0).all())


@pytest.mark.parametrize("init", ["real", "mix", "dream"])
def test_first_images_are_real_ones(init: str, context: Context):
    """Whole ones, or four reduced ones, of the right class."""
    method = method_of(context, init=init)
    stored = method.canvas.images.detach()
    assert float(stored.min()) >= 0
    assert float(stored.max()) <= 1
    whole = context.train.images.float() / 255
    for label in range(CLASSES):
        real = whole[context.train.labels == label]
        candidates = real if init == "real" else F.avg_pool2d(real, 2)
        for image in stored[2 * label : 2 * label + 2]:
            pieces = [image] if init == "real" else [image[:, i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)]
            for piece in pieces:
                assert float((candidates - piece).abs().flatten(1).amax(1).min()) < 1e-6
    product = method.distilled()
    assert product.decode_factor == 2
    torch.testing.assert_close(context.preprocess.invert(product.images), stored, rtol=0, atol=1e-6)
    assert torch.equal(product.labels, torch.arange(CLASSES).repeat_interleave(2))


# The schedule


def test_steps_of_the_images_are_those_of_one_tensor(make_context: Callable[..., Context]):
    """Class after class, with one momentum for all: a plain loop with a velocity as large as the synset."""
    context = make_context(student="convnet-d1-w4-bn")
    rate, momentum, sweeps = 0.5, 0.5, 3
    method = method_of(
        context, lr_images=rate, momentum=momentum, augmentation="none", batch_real=10**6, net_images=0, factor=2
    )
    images = method.canvas.images.detach().double().clone()
    net = context.network(seeds.derive(context.seed, "formation-network", 0)).double()
    velocity = torch.zeros_like(images)
    mean, std = context.preprocess.mean[0], context.preprocess.std[0]
    moved_others = 0.0
    for _ in range(sweeps):
        for label in range(CLASSES):
            rows = list(range(2 * label, 2 * label + 2))
            stored = images[rows].requires_grad_()
            real = (context.train.images[context.train.labels == label].double() / 255 - mean) / std
            loss = plain_loss(net, "bn", 1, real, (decode(stored, 2) - mean) / std, label, [], "mse")
            gradient = torch.zeros_like(images)
            gradient[rows] = torch.autograd.grad(loss, [stored])[0]
            velocity = momentum * velocity + gradient
            moved_others += float(velocity.abs().sum() - velocity[rows].abs().sum())
            images = images - rate * velocity
    for iteration in range(sweeps):
        method.step(iteration)
    start = method_of(context, factor=2).canvas.images.detach().double()
    assert float((images - start).abs().max()) > 0.01
    assert moved_others > 0
    torch.testing.assert_close(method.canvas.images.detach().double(), images, rtol=0, atol=2e-5)


def test_clamped_once_an_outer_iteration(context: Context):
    method = method_of(context, lr_images=3.0, net_images=0)
    low = []
    last = torch.empty(0)
    for iteration in range(5):
        before = method.canvas.images.detach().clone()
        method.step(iteration)
        low.append(float(method.canvas.images.detach().min()))
        product = context.preprocess.invert(method.distilled().images)
        assert -1e-6 <= float(product.min()) <= float(product.max()) <= 1 + 1e-6
        if iteration == 3:
            last = before
    assert min(low[:4]) < -0.01
    # step 4 begins an outer iteration: it started from clamped images
    assert float(last.min()) < 0
    twin = method_of(context, lr_images=1e-30, net_images=0)
    twin.load_state(State(tensors={"images": last}))
    twin.step(4)
    torch.testing.assert_close(twin.canvas.images.detach(), last.clamp(0, 1), rtol=0, atol=1e-25)


def test_fresh_network_every_outer_iteration(context: Context):
    method = method_of(context)
    seen = []
    for iteration in range(8):
        method.step(iteration)
        seen.append(method.state().tensors["network"])
    for outer in (0, 4):
        fresh = method_of(context, net_images=0)
        fresh.step(outer)
        assert not torch.equal(seen[outer], fresh.state().tensors["network"])  # trained after the sweep
        first = torch.cat([p.detach().flatten() for p in fresh._trained.net.parameters()])
        named = context.network(seeds.derive(context.seed, "formation-network", outer // 4))
        assert torch.equal(first, torch.cat([p.detach().flatten() for p in named.parameters()]))
    assert float((seen[3] - seen[2]).norm()) < 0.3 * float((seen[4] - seen[3]).norm())


def test_network_goes_round_the_training_set(context: Context, monkeypatch: pytest.MonkeyPatch):
    """In chunks, every image once before one comes again."""
    method = method_of(context, net_images=300, batch_net=50, inner_steps=8)
    sizes, seen = [], []
    batch = method._batches.inputs.batch

    def noted(index: Tensor) -> Tensor:
        seen.append(index)
        return batch(index)

    monkeypatch.setattr(method._batches.inputs, "batch", noted)
    trained = method._network(0)
    for inner in range(4):
        method._train(trained, 1, inner)
        sizes.append(sum(map(len, seen)))
    assert sizes[0] == 300
    total = len(context.train)
    assert sorted(torch.cat(seen)[:total].tolist()) == list(range(total))


def test_an_image_that_is_left_alone_is_left_out_where_the_network_cannot_be_trained_on_it(context: Context):
    """The loss is the mean over the batches that were trained on."""
    rest = len(context.train) - 1
    method = method_of(context, net_images=rest + 1, batch_net=rest, lr_net=0.0, cutmix=0.0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    nn.init.zeros_(net[2].weight)
    trained = Trained(net, SGD(net.parameters(), 0.0, 0.0, 0.0))
    assert method._train(trained, 0, 0) == pytest.approx(math.log(10), rel=1e-5)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_training_of_the_network_is_a_plain_loop(context: Context, cutmix: float):
    """Two sweeps with torch's SGD in float64; of a mixed image the losses of both classes count by their shares."""
    settings = {"lr_net": 0.05, "momentum_net": 0.8, "weight_decay_net": 0.1, "net_images": 40, "batch_net": 16}
    method = method_of(context, augmentation="none", cutmix=cutmix, **settings)
    trained, net = method._network(7), context.network(7).double().train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.8, weight_decay=0.1)
    x, y, seed = context.preprocess.apply(context.train.images), context.train.labels, context.seed
    order = torch.randperm(len(y), generator=seeds.generator(seed, "formation-order", 2, 0)).split(16)
    for inner in range(2):
        losses = []
        for number in (3 * inner, 3 * inner + 1, 3 * inner + 2):
            seen, own, share = x[order[number]], y[order[number]], 1.0
            other = own
            if cutmix:
                named = seeds.generator(seed, "formation-augment", 2, number)
                seen, mix = augment(Policy((), "cutmix"), seen, named, None)
                assert mix is not None
                share, other = mix.share, own[mix.partner]
            logits = net(seen.double())
            loss = share * F.cross_entropy(logits, own) + (1 - share) * F.cross_entropy(logits, other)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert method._train(trained, 2, inner) == pytest.approx(sum(losses) / 3, rel=1e-5)
    for ours, theirs in zip(trained.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours.detach().double(), theirs.detach(), rtol=1e-4, atol=1e-5)


def test_number_of_decoded_images_is_bounded(make_context: Callable[..., Context]):
    context = make_context(ipc=3)
    method = method_of(context, batch_syn=5, net_images=0)
    counts: list[int] = []
    net = context.network(0)
    net.register_forward_pre_hook(lambda _, arguments: counts.append(len(arguments[0])))
    stored = method.canvas.images.detach()[:3].requires_grad_()
    method._class_loss(net, stored, 0, seeds.generator(0, "test")).backward()
    assert counts == [8, 5]
    assert stored.grad is not None
    tiles = stored.grad.view(3, 2, 4, 2, 4).abs().sum((2, 4))
    assert int((tiles > 0).sum()) == 5


def test_dream_uses_representatives(context: Context, monkeypatch: pytest.MonkeyPatch):
    """The images that it matches are those of the sampler, refreshed at the first sweep and every interval."""
    method = method_of(context, DREAM, sampler_interval=2, init="mix")
    chosen = []
    for iteration in range(6):
        method.step(iteration)
        chosen.append(method.state().tensors["sampler.chosen"])
    assert all(int(marked.sum()) == 8 * CLASSES for marked in chosen)
    same = [torch.equal(chosen[k], chosen[k + 1]) for k in range(5)]
    assert same == [True, False, True, False, True]
    positions = chosen[-1].nonzero().flatten()
    batch = torch.cat([method._batches.draw(label, 8, seeds.generator(0, "test")) for label in range(CLASSES)])
    assert torch.equal(batch.sort().values, positions)


def test_idc_with_the_sampler_is_dream(context: Context):
    made = []
    for kind in (IDC, DREAM):
        method = method_of(context, kind, sampler="dream", init="dream", batch_real=8)
        method.step(0)
        made.append(method.distilled().images)
    assert torch.equal(made[0], made[1])
    plain = method_of(context, IDC, init="dream", batch_real=8)
    plain.step(0)
    assert not torch.equal(plain.distilled().images, made[0])


def test_defaults_are_the_published_ones():
    idc, dream = IDCConfig(), DREAMConfig()
    assert (idc.iterations, idc.inner_steps, idc.batch_real, idc.batch_syn) == (2000, 100, 64, 128)
    assert (idc.lr_net, idc.momentum_net, idc.weight_decay_net, idc.batch_net, idc.cutmix) == (0.01, 0.9, 5e-4, 64, 0.5)
    assert (idc.sampler, idc.init) == ("random", "mix")
    assert (dream.sampler, dream.init, dream.batch_real, dream.sampler_interval) == ("dream", "dream", 128, 10)
    different = {
        field.name for field in dataclasses.fields(IDCConfig) if getattr(idc, field.name) != getattr(dream, field.name)
    }
    assert different == {"sampler", "init", "batch_real"}


@pytest.mark.parametrize("name", ["idc", "dream"])
def test_published_recipes_train_the_network_in_batches_as_large_as_a_class_has(name: str):
    """The public code has one loader for both."""
    published = [one for one in method_recipes(name).values() if not one.source.startswith("ours")]
    assert len(published) > 10
    for one in published:
        config = apply_config(METHODS.get(name).config_class, one.config, one.name)
        assert config.batch_net == config.batch_real, one.name


@pytest.mark.parametrize("kind", [IDC, DREAM])
@pytest.mark.parametrize("student", ["convnet-d1-w4-in", "convnet-d1-w4-bn"])
def test_resumed_in_the_middle_of_an_outer_iteration(
    kind: type[Any], student: str, make_context: Callable[..., Context]
):
    """After any sweep; the representatives of an earlier sweep are among what is kept."""
    context = make_context(student=student)
    whole = method_of(context, kind, sampler="dream", sampler_interval=3)
    states = []
    for iteration in range(9):
        states.append({name: tensor.clone() for name, tensor in whole.state().tensors.items()})
        whole.step(iteration)
    for done in (1, 4, 6):
        other = method_of(context, kind, sampler="dream", sampler_interval=3)
        other.load_state(State(tensors=states[done]))
        for iteration in range(done, 9):
            other.step(iteration)
        assert torch.equal(other.canvas.images, whole.canvas.images), done
        assert torch.equal(other.state().tensors["network"], whole.state().tensors["network"])


def test_seeds_and_global_generators(make_context: Callable[..., Context]):
    state = torch.get_rng_state()
    made = []
    for seed in (0, 0, 1):
        method = method_of(make_context(seed=seed), DREAM)
        for iteration in range(2):
            method.step(iteration)
        made.append(method.distilled().images)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_images": 1e30}, "matching loss of class .*--lr-images 1e\\+30"),
        ({"lr_net": 1e30}, "network's loss on real images .*--lr-net 1e\\+30"),
    ],
)
def test_step_that_is_not_finite_is_not_taken(settings: dict[str, float], message: str, context: Context):
    method = method_of(context, DREAM)
    method.step(0)
    method.config = dataclasses.replace(method.config, **settings)
    method.canvas.optimizer.param_groups[0]["lr"] = settings.get("lr_images", 1e-3)
    method._trained.optimizer.param_groups[0]["lr"] = settings.get("lr_net", 1e-2)
    caught: NotFiniteError | None = None
    for iteration in range(1, 4):
        before = {name: tensor.clone() for name, tensor in method.state().tensors.items()}
        try:
            method.step(iteration)
        except NotFiniteError as error:
            caught = error
            break
    assert re.search(message, str(caught))
    after = method.state().tensors
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_matching_gets_closer(context: Context):
    """The loss of one network, not trained, falls."""
    method = method_of(context, lr_images=0.2, augmentation="none", batch_real=10**6, net_images=0, inner_steps=100)
    losses = [method.step(iteration)["loss"] for iteration in range(12)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 0}, "--factor 0: expected 1 to 8"),
        ({"factor": 9}, "--factor 9: expected 1 to 8"),
        ({"iterations": 0}, "--iterations 0: expected at least 1"),
        ({"inner_steps": 0}, "--inner-steps 0"),
        ({"batch_real": 0}, "--batch-real 0"),
        ({"batch_syn": 0}, "--batch-syn 0"),
        ({"net_images": -1}, "--net-images -1"),
        ({"batch_net": 0}, "--batch-net 0"),
        ({"lr_images": -1.0}, "--lr-images -1.0"),
        ({"lr_net": math.nan}, "--lr-net nan"),
        ({"momentum": 1.0}, "--momentum 1.0: expected at least 0 and less than 1"),
        ({"cutmix": 1.5}, "--cutmix 1.5"),
        ({"augmentation": "colour"}, "--augmentation"),
        ({"sampler_interval": 0}, "--sampler-interval 0"),
        ({"sampler": "dream", "sampler_images": 3}, "--sampler-images 3: expected 0"),
    ],
)
@pytest.mark.parametrize("name", ["idc", "dream"])
def test_bad_settings(name: str, settings: dict[str, Any], message: str, context: Context):
    kind = METHODS.get(name)
    with pytest.raises(UserError, match=message) as caught:
        kind.check(kind.config_class(**settings), context)
    assert "\n" not in str(caught.value)


def test_network_without_convolutions(make_context: Callable[..., Context]):
    with pytest.raises(UserError, match=r"--student mlp-d3-w128: IDC compares gradients of convolution kernels"):
        IDC.check(IDCConfig(), make_context(student="mlp-d3-w128"))


def test_refused_in_one_line(refused: Callable[..., str], tmp_path: Path):
    command = ["distill", "--method", "dream", "--dataset", "digits", "--ipc", 1, "--quiet", "--out", tmp_path / "run"]
    refused([*command, "--factor", 9], "--factor 9", "1 to 8")
    refused([*command, "--student", "mlp-d3-w128"], "--student mlp-d3-w128", "choose a convnet")
