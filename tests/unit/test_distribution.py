"""DM's and DataDAM's losses and gradients against loops written from the equations; the methods around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import digits_context
from torch import Tensor

from ddbench.data.augment import Draw, apply, draw, parse_strategy
from ddbench.methods.base import Context, NotFiniteError
from ddbench.methods.datadam import DataDAM, DataDAMConfig
from ddbench.methods.dm import DM, DMConfig
from ddbench.methods.families.distribution import DistributionMatching
from ddbench.networks.build import build_student
from ddbench.networks.convnet import ConvNet
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.training.distribution import (
    Matched,
    attention_map,
    attention_match,
    class_means,
    match,
    mean_match,
    mixes_images,
    real_means,
)

CPU = torch.device("cpu")
IPC = 2
COUNTS = (5, 3, 4)
"""Real images of each class in the comparisons with the reference: classes need not be of one size."""


pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def student(name: str, channels: int, size: int, classes: int = 3) -> ConvNet:
    net = build_student(name, channels=channels, size=size, classes=classes, seed=5)
    assert isinstance(net, ConvNet)
    for index, (key, parameter) in enumerate(net.named_parameters()):
        if "norm" in key:  # scales and shifts that matter
            parameter.data += 0.3 * normal(*parameter.shape, seed=index).float()
    return net.double().requires_grad_(False).train()


def case(channels: int, size: int) -> tuple[Tensor, list[Tensor], list[Draw]]:
    """Synthetic images, real images by class, a siamese draw a class."""
    strategy = parse_strategy("color_crop_cutout_flip_scale_rotate", siamese=True, align_corners=False)
    assert strategy is not None
    images = normal(len(COUNTS) * IPC, channels, size, size, seed=1)
    real = [normal(count, channels, size, size, seed=10 + c) for c, count in enumerate(COUNTS)]
    return images, real, [draw(strategy, 1, size, seeds.generator(3, c)) for c in range(len(COUNTS))]


# What the methods ask a network, and how they compare the answers


def dm_measure(net: ConvNet) -> Callable[[Tensor], list[Tensor]]:
    return lambda x: [net.features(x)]


def dm_objective(synthetic: Any, real: Any) -> dict[str, Tensor]:
    return {"loss": mean_match(synthetic[0], real[0])}


def datadam_measure(net: ConvNet, power: int) -> Callable[[Tensor], list[Tensor]]:
    def measure(x: Tensor) -> list[Tensor]:
        blocks, features = net.blocks_and_features(x)
        return [*(attention_map(block, power) for block in blocks[:-1]), features]

    return measure


def datadam_objective(synthetic: Any, real: Any) -> dict[str, Tensor]:
    return {
        "attention": 100 * attention_match(synthetic[:-1], real[:-1]),
        "features": 100 * 0.01 * mean_match(synthetic[-1], real[-1]),
    }


# The reference: one image after the other, every sum written out


def reference_blocks(net: ConvNet, batch: Tensor, norm: str) -> list[list[Tensor]]:
    """For each block the activations of each image ``(C, H, W)``, before pooling; for the last one also after it."""
    outputs: list[list[Tensor]] = []
    current = list(batch)
    for stage in net.stages:
        padding = stage.conv.padding[0]
        mapped = [F.conv2d(x[None], stage.conv.weight, stage.conv.bias, padding=padding)[0] for x in current]
        if norm == "in":
            normed = []
            for x in mapped:
                mean = x.sum((1, 2), keepdim=True) / x[0].numel()
                variance = ((x - mean) ** 2).sum((1, 2), keepdim=True) / x[0].numel()
                normed.append((x - mean) / (variance + 1e-5).sqrt())
        else:
            number = len(mapped) * mapped[0][0].numel()
            mean = sum(x.sum((1, 2), keepdim=True) for x in mapped) / number
            variance = sum(((x - mean) ** 2).sum((1, 2), keepdim=True) for x in mapped) / number
            normed = [(x - mean) / (variance + 1e-5).sqrt() for x in mapped]
        weight, bias = stage.norm.weight[:, None, None], stage.norm.bias[:, None, None]
        active = [(x * weight + bias).clamp(min=0) for x in normed]
        outputs.append(active)
        current = [(x[:, 0::2, 0::2] + x[:, 0::2, 1::2] + x[:, 1::2, 0::2] + x[:, 1::2, 1::2]) / 4 for x in active]
    outputs.append(current)
    return outputs


def reference_loss(
    net: ConvNet, norm: str, images: Tensor, real: list[Tensor], draws: list[Draw] | None, power: int | None
) -> Tensor:
    """DM's loss (``power`` None) or DataDAM's; with batch norm all classes of a side go through together."""

    def augmented(batch: Tensor, label: int) -> list[Tensor]:
        return [x if draws is None else apply(draws[label], x[None])[0] for x in batch]

    sides = []
    for batches in (real, [images[IPC * c : IPC * c + IPC] for c in range(len(real))]):
        everything = [x for c, batch in enumerate(batches) for x in augmented(batch, c)]
        owners = [c for c, batch in enumerate(batches) for _ in batch]
        sides.append((reference_blocks(net, torch.stack(everything), norm), owners))
    loss = torch.zeros((), dtype=torch.float64)
    for label in range(len(real)):
        means: list[list[Tensor]] = []
        for blocks, owners in sides:
            mine = [i for i, owner in enumerate(owners) if owner == label]
            found = [sum(blocks[-1][i].reshape(-1) for i in mine) / len(mine)]
            for block in blocks[:-2] if power else []:
                total = 0
                for i in mine:
                    attention = sum(channel.abs() ** power for channel in block[i])
                    total = total + attention.reshape(-1) / (attention**2).sum().sqrt()
                found.append(total / len(mine))
            means.append(found)
        for position, (theirs, ours) in enumerate(zip(*means, strict=True)):
            weight = 1.0 if power is None else 1.0 if position == 0 else 100.0
            loss = loss + weight * ((theirs - ours) ** 2).sum()
    return loss


@pytest.mark.parametrize("augmented", [True, False])
@pytest.mark.parametrize("norm", ["in", "bn"])
@pytest.mark.parametrize(("channels", "size", "depth"), [(1, 28, 3), (3, 16, 2)])
@pytest.mark.parametrize("power", [None, 1, 4], ids=["dm", "datadam-code", "datadam-paper"])
def test_loss_and_gradient(power: int | None, channels: int, size: int, depth: int, norm: str, augmented: bool):
    net = student(f"convnet-d{depth}-w4-{norm}", channels, size)
    images, real, draws = case(channels, size)
    used = draws if augmented else None
    measure = dm_measure(net) if power is None else datadam_measure(net, power)
    objective = dm_objective if power is None else datadam_objective
    limit = None if norm == "bn" else 6
    batches = [batch if used is None else apply(used[c], batch) for c, batch in enumerate(real)]
    matched = match(measure, objective, images, real_means(measure, iter(batches), limit), used, limit)
    leaf = images.clone().requires_grad_()
    expected = reference_loss(net, norm, leaf, real, used, power)
    (gradient,) = torch.autograd.grad(expected, leaf)
    loss = torch.stack(list(matched.terms.values())).sum()
    assert float(loss) > 1e-3
    assert abs(float(loss - expected.detach())) <= 1e-10 * float(loss)
    assert float(gradient.norm()) > 1e-4
    assert float((matched.gradient - gradient).abs().max()) <= 1e-10 * float(gradient.abs().max())


@pytest.mark.parametrize("norm", ["in", "bn"])
@pytest.mark.parametrize("power", [None, 1, 4], ids=["dm", "datadam-code", "datadam-paper"])
def test_gradient_is_that_of_differences(power: int | None, norm: str):
    """On a smooth network, pixel by pixel, by central differences of the loss."""
    net = student(f"convnet-d2-w2-{norm}-swish", 1, 8, classes=2)
    images, real = normal(2, 1, 8, 8), [normal(3, 1, 8, 8, seed=1), normal(3, 1, 8, 8, seed=2)]
    measure = dm_measure(net) if power is None else datadam_measure(net, power)
    objective = dm_objective if power is None else datadam_objective
    means = real_means(measure, real, None)

    def at(where: Tensor) -> Matched:
        return match(measure, objective, where, means, None, None)

    gradient, h = at(images).gradient, 1e-6
    for pixel in range(0, images.numel(), 7):
        ends = []
        for sign in (1, -1):
            moved = images.clone()
            moved.view(-1)[pixel] += sign * h
            ends.append(torch.stack(list(at(moved).terms.values())).sum())
        difference = (ends[0] - ends[1]) / (2 * h)
        assert abs(float(difference - gradient.view(-1)[pixel])) < 1e-6 * max(1.0, float(gradient.abs().max()))


# Parts


@pytest.mark.parametrize("counts", [[2, 2, 2], [1, 4, 2]])
def test_class_means(counts: list[int]):
    rows = normal(sum(counts), 3)
    made = class_means(rows, counts)
    first = 0
    for c, count in enumerate(counts):
        expected = sum(rows[first + i] for i in range(count)) / count
        assert torch.allclose(made[c], expected, rtol=1e-14)
        first += count


@pytest.mark.parametrize("power", [1, 2, 3, 4])
def test_attention_map(power: int):
    activation = normal(3, 5, 4, 4)
    activation[1] = 0
    made = attention_map(activation, power)
    assert made.shape == (3, 16)
    for i in (0, 2):
        summed = torch.zeros(4, 4, dtype=torch.float64)
        for channel in activation[i]:
            summed += channel.abs() ** power
        assert torch.allclose(made[i], (summed / summed.norm()).flatten(), rtol=1e-13)
    assert made[1].eq(0).all()


def test_attention_of_nothing_has_a_gradient():
    activation = torch.zeros(1, 2, 3, 3, requires_grad=True)
    attention_map(activation, 4).sum().backward()
    assert activation.grad is not None
    assert activation.grad.eq(0).all()


def test_attention_match_wants_the_same_layers():
    maps = [normal(2, 4), normal(2, 9)]
    assert float(attention_match(maps, maps)) == 0
    with pytest.raises(ValueError):
        attention_match(maps, maps[:1])
    with pytest.raises(ValueError):
        attention_match([], [])


def test_blocks_and_features_are_those_of_the_student():
    net, x = student("convnet-d3-w4-in", 1, 28), normal(2, 1, 28, 28)
    blocks, features = net.blocks_and_features(x)
    assert all(torch.equal(one, two) for one, two in zip(blocks, net.blocks(x), strict=True))
    assert torch.equal(features, net.features(x))
    assert [block.shape[-1] for block in blocks] == [32, 16, 8]


@pytest.mark.parametrize("limit", [1, 4, 5, 7, 100])
def test_pieces_do_not_matter_without_batch_norm(limit: int):
    net = student("convnet-d2-w4-in", 3, 16)
    images, real, draws = case(3, 16)
    whole, parts = dm_measure(net), datadam_measure(net, 4)
    seen = []

    def counted(x: Tensor) -> list[Tensor]:
        seen.append(len(x))
        return parts(x)

    means = real_means(counted, real, limit)
    assert max(seen) <= limit
    for one, two in zip(means, real_means(parts, real, None), strict=True):
        assert torch.allclose(one, two, rtol=1e-12)
    assert torch.allclose(means[-1], real_means(whole, real, None)[0], rtol=1e-12)
    seen.clear()
    one = match(counted, datadam_objective, images, means, draws, limit)
    assert max(seen) <= max(limit, IPC)
    two = match(parts, datadam_objective, images, means, draws, None)
    assert torch.allclose(one.gradient, two.gradient, rtol=1e-10, atol=1e-14)
    for name in two.terms:
        assert torch.allclose(one.terms[name], two.terms[name], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "mixes"),
    [("convnet-d2-w4-in", False), ("convnet-d2-w4-bn", True), ("resnet18-bn", True), ("lenet", False)],
)
def test_networks_that_mix_images(name: str, mixes: bool):
    assert mixes_images(build_student(name, channels=1, size=28, classes=3, seed=0)) == mixes


# The methods


@pytest.fixture
def context(data_root: Path, tmp_path: Path) -> Context:
    return digits_context(data_root, tmp_path, ipc=IPC, student="convnet-d2-w4-in", seed=3)


def started(kind: type[DistributionMatching[Any]], config: Any, context: Context) -> Any:
    kind.check(config, context)
    method = kind(config, context)
    method.setup()
    return method


@pytest.mark.parametrize("norm", ["in", "bn"])
@pytest.mark.parametrize(
    ("kind", "config", "power"),
    [
        (DM, DMConfig(batch_real=5, lr_images=2.0, momentum=0.7), None),
        (DataDAM, DataDAMConfig(batch_real=5, form="paper"), 4),
        (DataDAM, DataDAMConfig(batch_real=5, augmentation="none"), 1),
    ],
    ids=["dm", "datadam-paper", "datadam-code"],
)
def test_steps(kind: Any, config: Any, power: int | None, norm: str, context: Context):
    """Three steps against the reference: fresh networks, siamese draws, batches and momentum as they should be."""
    context = dataclasses.replace(context, student=f"convnet-d2-w4-{norm}")
    method = started(kind, config, context)
    images = context.preprocess.apply(context.random_images("init")).double()
    assert torch.equal(method.distilled().images, images.float())
    velocity = torch.zeros_like(images)
    strategy = parse_strategy(method.augmentation, siamese=True, align_corners=False)
    state = torch.get_rng_state()
    for iteration in range(3):
        net = context.network(seeds.derive(3, "network", iteration)).double().train()
        assert isinstance(net, ConvNet)
        generator = seeds.generator(3, "augment", iteration)
        draws = None if strategy is None else [draw(strategy, 1, 8, generator) for _ in range(10)]
        generator = seeds.generator(3, "real", iteration)
        real = [method.real_batch(label, generator).double() for label in range(10)]
        leaf = images.clone().requires_grad_()
        loss = reference_loss(net, norm, leaf, real, draws, power)
        (gradient,) = torch.autograd.grad(loss, leaf)
        velocity = config.momentum * velocity + gradient
        images = images - config.lr_images * velocity
        metrics = method.step(iteration)
        assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
        assert metrics["grad_norm_images"] == pytest.approx(float(gradient.norm()), rel=1e-3)
        if power is not None:
            assert metrics["loss"] == pytest.approx(metrics["feature_loss"] + metrics["attention_loss"])
        made = method.distilled().images.double()
        assert float((made - images).norm()) < 1e-3 * float(velocity.norm()) * config.lr_images
        images = made
        velocity = method.state().tensors["momentum.0"].double()
    assert torch.equal(torch.get_rng_state(), state)


def test_real_images_of_a_class(context: Context):
    """Different ones of that class; all of them in a class that has fewer."""
    method = started(DM, DMConfig(batch_real=20), context)
    inputs = context.preprocess.apply(context.train.images)
    for label in (0, 7):
        own = {image.numpy().tobytes() for image in inputs[context.train.labels == label]}
        batch = [image.numpy().tobytes() for image in method.real_batch(label, seeds.generator(0, "x"))]
        assert len(batch) == 20
        assert len(set(batch)) == 20
        assert set(batch) <= own
    method = started(DM, DMConfig(batch_real=10_000), context)
    assert len(method.real_batch(0, seeds.generator(0, "x"))) == int((context.train.labels == 0).sum())


def test_batch_norm_sees_all_classes_at_once(context: Context, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    features = ConvNet.features

    def counted(self: ConvNet, x: Tensor) -> Tensor:
        seen.append(len(x))
        return features(self, x)

    monkeypatch.setattr(ConvNet, "features", counted)
    monkeypatch.setattr("ddbench.methods.families.distribution.PIXELS_AT_ONCE", {"cpu": 64 * 32})
    started(DM, DMConfig(batch_real=16), context).step(0)
    assert seen == [32] * 5 + [20]
    method = started(DM, DMConfig(batch_real=16), dataclasses.replace(context, student="convnet-d2-w4-bn"))
    seen.clear()
    method.step(0)
    assert seen == [160, 20]


def test_noise_start(context: Context):
    one, two = (started(DM, DMConfig(init="noise"), context).distilled().images for _ in range(2))
    assert torch.equal(one, two)
    assert abs(float(one.mean())) < 0.15
    assert abs(float(one.std()) - 1) < 0.1


def test_digits_are_not_mirrored(context: Context):
    assert "flip" not in started(DM, DMConfig(), context).augmentation
    assert started(DM, DMConfig(augmentation="none"), context).augmentation == "none"
    named = started(DM, DMConfig(augmentation="flip_crop"), context)
    assert (named.augmentation, named._strategy.ops) == ("crop", ("crop",))


def root_of_nothing(value: Tensor) -> Tensor:
    """0, with a slope that is not finite."""
    return (value * 0).abs().sqrt()


@pytest.mark.parametrize(
    ("spoil", "loss"),
    [
        (lambda value: value * float("nan"), "nan"),
        (lambda value: value + float("inf"), "inf"),
        (root_of_nothing, "0"),
    ],
    ids=["both", "loss", "gradient"],
)
@pytest.mark.parametrize("kind", [DM, DataDAM])
def test_not_finite(
    kind: Any, spoil: Callable[[Tensor], Tensor], loss: str, context: Context, monkeypatch: pytest.MonkeyPatch
):
    """A step whose loss or whose gradient is not finite changes nothing."""
    method = started(kind, kind.config_class(batch_real=4), context)
    method.step(0)
    before = {name: tensor.clone() for name, tensor in method.state().tensors.items()}
    objective = kind.objective

    def spoiled(self: Any, synthetic: Any, real: Any) -> dict[str, Tensor]:
        return {name: spoil(value) for name, value in objective(self, synthetic, real).items()}

    monkeypatch.setattr(kind, "objective", spoiled)
    with pytest.raises(NotFiniteError, match=rf"matching loss is {loss}; .*--lr-images 1 is too high"):
        method.step(1)
    after = method.state().tensors
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "--iterations 0: expected at least 1"),
        ({"batch_real": 0}, "--batch-real 0: expected at least 1"),
        ({"lr_images": 0.0}, r"--lr-images 0.0: expected a number above 0"),
        ({"lr_images": float("inf")}, r"--lr-images inf"),
        ({"momentum": 1.0}, r"--momentum 1.0: expected at least 0 and less than 1"),
        ({"augmentation": "color_crob"}, r"did you mean 'crop'"),
    ],
)
@pytest.mark.parametrize("kind", [DM, DataDAM])
def test_refused_settings(kind: Any, settings: dict[str, Any], message: str, context: Context):
    with pytest.raises(UserError, match=message):
        kind.check(kind.config_class(**settings), context)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_weight": -1.0}, r"--feature-weight -1.0: expected a number of at least 0"),
        ({"factor": 0.0}, r"--factor 0.0: expected a number above 0"),
    ],
)
def test_refused_settings_of_datadam(settings: dict[str, Any], message: str, context: Context):
    with pytest.raises(UserError, match=message):
        DataDAM.check(DataDAMConfig(**settings), context)


def test_datadam_wants_a_convnet(context: Context):
    DM.check(DMConfig(), dataclasses.replace(context, student="resnet18-in"))
    with pytest.raises(UserError, match=r"--student resnet18-in: .*only ConvNets.*convnet-d3-w128-bn"):
        DataDAM.check(DataDAMConfig(), dataclasses.replace(context, student="resnet18-in"))


def test_joint_pass_that_does_not_fit_into_memory(context: Context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddbench.data.limits.available_memory", lambda: 10_000)
    DM.check(DMConfig(), context)
    images = sum(min(100, int((context.train.labels == label).sum())) for label in range(10))
    needed = 3 * 4 * images * 4 * 8 * 8 / 2**20
    with pytest.raises(UserError, match=rf"one pass over {images} images .* needs {needed:.1f} MiB .*--batch-real"):
        DM.check(DMConfig(batch_real=100), dataclasses.replace(context, student="convnet-d2-w4-bn"))


def test_one_block_has_no_maps(context: Context, capsys: pytest.CaptureFixture[str]):
    """Then DataDAM is DM, and says so."""
    context = dataclasses.replace(context, student="convnet-d1-w4-in", console=Console())
    one = started(DataDAM, DataDAMConfig(batch_real=4), context).step(0)
    assert "no attention maps" in "".join(capsys.readouterr())
    two = started(DM, DMConfig(batch_real=4), context).step(0)
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
