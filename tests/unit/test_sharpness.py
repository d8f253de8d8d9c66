"""Flat and smooth experts against closed forms in numpy, float64; recording them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EAGER, TINY, contents
from torch import Tensor, nn

from ddbench.data.policy import parse_policy
from ddbench.experts.recipe import ExpertRecipe
from ddbench.experts.sharpness import ascent, clip_factor, descent, drop_factor, gradient_penalty, train_expert
from ddbench.networks.build import build_student
from ddbench.networks.names import REGISTERED, StudentSpec
from ddbench.runtime.errors import UserError
from ddbench.training.loops import Epoch, Inputs, drop_after, train
from ddbench.training.optimizers import OptimizerSettings

COUNT, CHANNELS, SIDE, CLASSES = 24, 3, 8, 5
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def inputs(channels: int = CHANNELS, dtype: torch.dtype = torch.float64) -> Inputs:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(COUNT, channels, SIDE, SIDE, generator=generator, dtype=dtype)
    labels = torch.arange(COUNT) % CLASSES
    return Inputs(images, labels, None, torch.device("cpu"))


def linear() -> nn.Module:
    """A softmax classifier in float64: its gradients have a closed form."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIDE * SIDE, CLASSES))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return net.double()


def weights_of(net: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = (parameter.detach().numpy().copy() for parameter in net.parameters())
    return weight, bias


def softmax_gradient(weight: np.ndarray, bias: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Mean cross-entropy of the softmax classifier on all inputs, and its gradients, by hand."""
    data = inputs()
    x = data.batch(slice(None)).flatten(1).numpy()
    truth = np.eye(CLASSES)[data.labels.numpy()]
    logits = x @ weight.T + bias
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    p = exponentials / exponentials.sum(1, keepdims=True)
    loss = -(truth * np.log(p)).sum(1).mean()
    return float(loss), (p - truth).T @ x / len(x), (p - truth).mean(0)


class Reference:
    """SGD with momentum and weight decay, in numpy, on the two arrays of the classifier."""

    def __init__(self, lr: float, momentum: float, decay: float) -> None:
        self.lr, self.momentum, self.decay = lr, momentum, decay
        self.velocity: list[np.ndarray] | None = None

    def step(self, values: list[np.ndarray], gradients: list[np.ndarray]) -> list[np.ndarray]:
        gradients = [g + self.decay * v for g, v in zip(gradients, values, strict=True)]
        if self.velocity is None:
            self.velocity = gradients
        else:
            self.velocity = [self.momentum * b + g for b, g in zip(self.velocity, gradients, strict=True)]
        return [v - self.lr * b for v, b in zip(values, self.velocity, strict=True)]


def trained(net: nn.Module, recipe: ExpertRecipe, data: Inputs | None = None, **more: object) -> Iterator[Epoch]:
    optimizer = OptimizerSettings(lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    policy = parse_policy(recipe.augmentation)
    return train_expert(net, data or inputs(), recipe, optimizer, policy, seed=7, **more)


@pytest.mark.parametrize(("rho", "alpha"), [(0.01, 0.3), (0.7, 1.0), (0.2, 0.0)])
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 1e-3)])
def test_three_steps_of_gsam(rho: float, alpha: float, momentum: float, decay: float):
    """Weights after each of three steps, written out array by array in numpy."""
    net = linear()
    values = list(weights_of(net))
    recipe = ExpertRecipe(
        kind="gsam", epochs=3, lr=0.5, momentum=momentum, weight_decay=decay, batch=COUNT, rho=rho, alpha=alpha,
        augmentation="none",
    )  # fmt: skip
    optimizer = Reference(0.5, momentum, decay)
    for epoch in trained(net, recipe):
        loss, *g = softmax_gradient(*values)
        norm = np.sqrt(sum(((np.abs(w) * part) ** 2).sum() for w, part in zip(values, g, strict=True)))
        shifted = [w + rho * w**2 * part / (norm + 1e-12) for w, part in zip(values, g, strict=True)]
        sharp = softmax_gradient(*shifted)[1:]

        def dot(a: list[np.ndarray], b: list[np.ndarray]) -> float:
            return float(sum((one * two).sum() for one, two in zip(a, b, strict=True)))

        share = dot(g, list(sharp)) / dot(list(sharp), list(sharp))
        across = [one - share * two for one, two in zip(g, sharp, strict=True)]
        values = optimizer.step(values, [two - alpha * v for two, v in zip(sharp, across, strict=True)])
        assert epoch.loss == pytest.approx(loss, rel=1e-6)
        for mine, wanted in zip(weights_of(net), values, strict=True):
            np.testing.assert_allclose(mine, wanted, **EXACT)


@pytest.mark.parametrize("kind", [{"kind": "gsam"}, {"kind": "smooth", "clip": 1.0, "penalty": 0.0}])
def test_a_last_batch_of_one_is_left_out_where_the_network_cannot_be_trained_on_it(kind: dict[str, Any]):
    """Loss and accuracy are means over the images that were seen."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIDE * SIDE, CLASSES), nn.BatchNorm1d(CLASSES)).double()
    nn.init.zeros_(net[2].weight)
    (epoch,) = trained(net, ExpertRecipe(**kind, epochs=1, lr=0.0, batch=COUNT - 1, augmentation="none"))
    assert epoch.loss == pytest.approx(np.log(CLASSES), rel=1e-6)


def test_parts_of_gsam():
    g, sharp = torch.tensor([3.0, 4.0]), torch.tensor([2.0, 0.0])
    # the part of g across sharp is (0, 4)
    torch.testing.assert_close(descent(g, sharp, 0.5), torch.tensor([2.0, -2.0]))
    torch.testing.assert_close(descent(g, sharp, 0.0), sharp)
    w = torch.tensor([2.0, -1.0])
    torch.testing.assert_close(ascent(w, g, 0.1), 0.1 * torch.tensor([12.0, 4.0]) / (36 + 16) ** 0.5)
    assert torch.equal(ascent(w, torch.zeros(2), 0.1), torch.zeros(2)), "no gradient, no step"


def test_without_radius_gsam_is_sgd():
    recipe = ExpertRecipe(kind="gsam", epochs=2, lr=0.1, batch=7, rho=0.0)
    flat, plain = linear(), linear()
    policy = parse_policy("crop_flip")
    settings = OptimizerSettings(lr=0.1)
    mine = list(train_expert(flat, inputs(), recipe, settings, policy, seed=5))
    theirs = list(train(plain, inputs(), epochs=2, batch=7, optimizer=settings, policy=policy, seed=5))
    for one, two in zip(flat.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    assert [epoch.accuracy for epoch in mine] == [epoch.accuracy for epoch in theirs]
    assert [epoch.loss for epoch in mine] == pytest.approx([epoch.loss for epoch in theirs])


class Watched(nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.net(x)
        return logits


def test_both_passes_of_gsam_see_one_augmented_batch():
    net = Watched()
    list(trained(net, ExpertRecipe(kind="gsam", epochs=2, batch=10, augmentation="color_crop_flip")))
    assert len(net.seen) == 2 * 2 * 3
    for first, second in zip(net.seen[::2], net.seen[1::2], strict=True):
        assert torch.equal(first, second)
    assert [len(x) for x in net.seen[:6]] == [10, 10, 10, 10, 4, 4]
    plain = inputs().batch(slice(None))
    assert not all(any(torch.equal(image, one) for one in plain) for image in net.seen[0])


def test_batch_statistics_are_those_of_the_first_pass():
    data = inputs()
    net = build_student("convnet-d1-w4-bn", channels=CHANNELS, size=SIDE, classes=CLASSES, seed=0).double()
    first = net.stages[0].conv(data.batch(slice(None))).detach()
    (_,) = trained(net, ExpertRecipe(kind="gsam", epochs=1, batch=COUNT, rho=5.0, augmentation="none"))
    torch.testing.assert_close(net.stages[0].norm.running_mean, 0.1 * first.mean((0, 2, 3)), **EXACT)
    assert net.stages[0].norm.momentum == 0.1


def test_factors():
    assert [clip_factor(epoch, 0.5, 10) for epoch in range(12)] == pytest.approx(
        [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.0]
    )
    assert [clip_factor(epoch, 0.5, 0) for epoch in (0, 5)] == [1.0, 1.0]
    # of 50 epochs, 0 to 26 have the first learning rate
    assert [drop_factor(epoch, 50, 0.6) for epoch in (0, 25, 26, 27, 49)] == [1.0, 1.0, 1.0, 0.6, 0.6]


def test_smooth_experts():
    """Loss schedule, penalty, momentum, weight decay and the drop over five epochs, in numpy.

    Of the softmax classifier the penalty's q is the sum of the rows of W, the same for every image.
    """
    net = linear()
    values = list(weights_of(net))
    recipe = ExpertRecipe(
        kind="smooth", epochs=5, lr=0.2, momentum=0.9, weight_decay=1e-3, batch=COUNT, clip=0.4, clip_epochs=3,
        penalty=1.5, drop=0.5, augmentation="none",
    )  # fmt: skip
    optimizer = Reference(0.2, 0.9, 1e-3)
    seen = []
    for number, epoch in enumerate(trained(net, recipe, factor=lambda at: drop_factor(at, recipe.epochs, recipe.drop))):
        factor = [0.4, 0.6, 0.8, 1.0, 1.0][number]
        if number == 4:
            optimizer = Reference(0.1, 0.9, 1e-3)
        loss, weight, bias = softmax_gradient(*values)
        q = values[0].sum(0).reshape(CHANNELS, SIDE, SIDE)
        length = np.sqrt((q**2).sum(0))
        penalty = ((length - 1) ** 2).mean()
        slope = (2 * (length - 1) / length * q / length.size).reshape(-1)  # of every row of W
        assert epoch.loss == pytest.approx(factor * loss + 1.5 * penalty, rel=1e-6)
        values = optimizer.step(values, [factor * weight + 1.5 * slope, factor * bias])
        seen.append(penalty)
        for mine, wanted in zip(weights_of(net), values, strict=True):
            np.testing.assert_allclose(mine, wanted, **EXACT)
    assert seen[-1] < seen[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_penalty_of_a_curved_network(channels: int):
    """Against the input gradient of a tanh network written by hand; the weights' gradient by plain autograd."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, channels, 4, 4, generator=generator, dtype=torch.float64)
    one = torch.randn(8, channels * 16, generator=generator, dtype=torch.float64).requires_grad_()
    two = torch.randn(5, 8, generator=generator, dtype=torch.float64).requires_grad_()
    found = gradient_penalty(lambda images: torch.tanh(images.flatten(1) @ one.T) @ two.T, x)
    slope = (two.sum(0) * (1 - torch.tanh(x.flatten(1) @ one.T) ** 2)) @ one
    length = slope.reshape(x.shape).square().sum(1).sqrt()
    wanted = ((length - 1) ** 2).mean()
    torch.testing.assert_close(found, wanted, **EXACT)
    mine = torch.autograd.grad(found, (one, two))
    for grad, expected in zip(mine, torch.autograd.grad(wanted, (one, two)), strict=True):
        torch.testing.assert_close(grad, expected, **EXACT)


def test_penalty_looks_at_images_before_augmentation():
    net = Watched()
    data = inputs()
    list(trained(net, ExpertRecipe(kind="smooth", epochs=1, batch=10, augmentation="color"), data))
    assert len(net.seen) == 2 * 3
    plain = list(data.batch(slice(None)))
    for augmented, shown in zip(net.seen[::2], net.seen[1::2], strict=True):
        assert all(any(torch.equal(image, one) for one in plain) for image in shown)
        assert not torch.equal(augmented, shown)
    net = Watched()
    list(trained(net, ExpertRecipe(kind="smooth", epochs=1, batch=10, penalty=0.0), data))
    assert len(net.seen) == 3


@pytest.mark.parametrize("kind", ["gsam", "smooth"])
def test_running_statistics_move_once_a_step(kind: str):
    """They are those of plain training: the second look at the images leaves them alone."""

    def statistics(recipe: ExpertRecipe) -> list[Tensor]:
        net = build_student("convnet-d1-w4-bn", channels=CHANNELS, size=SIDE, classes=CLASSES, seed=0)
        data = inputs(dtype=torch.float32)
        if recipe.kind == "sgd":
            settings = OptimizerSettings(lr=recipe.lr)
            list(train(net, data, epochs=1, batch=recipe.batch, optimizer=settings, policy=None, seed=7))
        else:
            list(trained(net, recipe, data))
        return [tensor for name, tensor in net.state_dict().items() if name.endswith(("running_mean", "running_var"))]

    # One step: with unchanged weights before it, all kinds show the network the same batch.
    common = {"epochs": 1, "lr": 0.1, "batch": COUNT, "augmentation": "none"}
    plain, found = statistics(ExpertRecipe(**common)), statistics(ExpertRecipe(kind=kind, **common))
    assert len(plain) == 2
    for one, two in zip(plain, found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["gsam", "smooth"])
def test_bfloat16(kind: str):
    net = build_student(TINY, channels=CHANNELS, size=SIDE, classes=CLASSES, seed=0)
    recipe = ExpertRecipe(kind=kind, epochs=2, batch=8, precision="bfloat16", augmentation="none")
    before = [parameter.detach().clone() for parameter in net.parameters()]
    assert all(np.isfinite(epoch.loss) for epoch in trained(net, recipe, inputs(dtype=torch.float32)))
    for old, new in zip(before, net.parameters(), strict=True):
        assert new.dtype == torch.float32
        assert bool(torch.isfinite(new).all())
        assert not torch.equal(old, new)


def test_decay_of_gsam_is_that_of_plain_experts():
    flat, plain = linear(), linear()
    recipe = ExpertRecipe(kind="gsam", epochs=4, lr=0.1, momentum=0.9, batch=COUNT, rho=0.0, augmentation="none")
    settings, factor = OptimizerSettings(lr=0.1, momentum=0.9), drop_after(2)
    list(trained(flat, recipe, factor=factor))
    list(train(plain, inputs(), epochs=4, batch=COUNT, optimizer=settings, policy=None, seed=7, factor=factor,
               rebuild=True))  # fmt: skip
    for one, two in zip(flat.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


# Recipes and recording


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "sam"}, "--kind 'sam' is none of sgd, gsam, smooth"),
        ({"kind": "imported"}, "--kind 'imported' is none of"),
        ({"rho": 0.05}, "--rho 0.05: a setting of --kind gsam, not of sgd"),
        ({"kind": "gsam", "clip_epochs": 3}, "--clip-epochs 3: a setting of --kind smooth, not of gsam"),
        ({"kind": "gsam", "rho": -1.0}, "--rho -1.0: expected a number of at least 0"),
        ({"kind": "gsam", "alpha": float("nan")}, "--alpha nan: expected"),
        ({"kind": "gsam", "alpha": float("inf")}, "--alpha inf: expected"),
        ({"kind": "smooth", "clip": 1.5}, "--clip 1.5: expected a number from 0 to 1"),
        ({"kind": "smooth", "clip_epochs": -1}, "--clip-epochs -1: expected"),
        ({"kind": "smooth", "penalty": -0.5}, "--penalty -0.5: expected"),
        ({"kind": "smooth", "drop": 2.0}, "--drop 2.0: expected"),
        ({"kind": "smooth", "decay": True}, "--decay: smooth experts"),
    ],
)
def test_wrong_settings(values: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        ExpertRecipe(**values).check()


@pytest.mark.parametrize("kind", ["gsam", "smooth"])
def test_records_hold_the_numbers_of_the_kind_only(kind: str):
    recipe = ExpertRecipe(kind=kind)
    record = json.loads(json.dumps(recipe.to_json()))
    assert ("rho" in record) == ("alpha" in record) == (kind == "gsam")
    assert ("clip" in record) == ("penalty" in record) == ("drop" in record) == (kind == "smooth")
    assert ExpertRecipe.from_json(record, "here") == recipe
    assert not {"rho", "clip"} & set(ExpertRecipe().to_json())


def command(place: Path, *more: object) -> list[object]:
    flags = ("--experts", 2, "--epochs", 2, "--batch", 512, "--quiet")
    return ["buffer", "--dataset", "digits", "--student", TINY, *flags, "--buffers", place, *EAGER, *more]


def test_recording(ddb: Callable, tmp_path: Path):
    """Two workers and one, whole and resumed, leave the same bytes; the manifest says how; other numbers, another
    store."""
    gsam = ("--kind", "gsam", "--rho", 0.5, "--alpha", 1)
    assert ddb(*command(tmp_path / "two", *gsam, "--workers", 2)).code == 0
    assert ddb(*command(tmp_path / "one", *gsam, "--workers", 1, "--experts", 1)).code == 0
    assert ddb(*command(tmp_path / "one", *gsam, "--workers", 1)).code == 0
    made = contents(tmp_path / "two", "cost.json")
    assert made == contents(tmp_path / "one", "cost.json")
    manifest = next((tmp_path / "one").rglob("manifest.json"))
    recipe = json.loads(manifest.read_text())["recipe"]
    assert (recipe["kind"], recipe["rho"], recipe["alpha"]) == ("gsam", 0.5, 1.0)
    assert ddb("buffer", "verify", tmp_path / "one").code == 0
    for more in (("--kind", "smooth"), ("--kind", "gsam"), ()):
        assert ddb(*command(tmp_path / "one", *more, "--workers", 1, "--experts", 1)).code == 0
    rows = ddb("buffer", "info", tmp_path / "one").out.splitlines()
    assert sorted(row.split()[4] for row in rows[1:]) == ["gsam", "gsam", "sgd", "smooth"]
    firsts = {path.read_bytes() for path in (tmp_path / "one").rglob("expert_00000.safetensors")}
    assert len(firsts) == 4


def test_wrong_flags_are_refused_before_anything_is_written(refused: Callable, tmp_path: Path):
    refused(command(tmp_path / "new", "--rho", 0.5), "--rho 0.5", "--kind gsam")
    refused(command(tmp_path / "new", "--kind", "flat"), "flat", "gsam")


class Tokens(nn.Module):
    """Four tokens of an image of digits, and a layer over them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(16, 16), layer, nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.reshape(len(x), 4, 16))
        fused = isinstance(self.layer, nn.MultiheadAttention)
        x = self.layer(x, x, x, need_weights=False)[0] if fused else self.layer(x)
        return self.last(x.flatten(1))  # type: ignore[no-any-return]


@pytest.fixture
def tokens(tables_kept: None) -> Callable[..., str]:
    """Register a student with such a layer; returns its name."""

    def register(layer: Callable[[], nn.Module]) -> str:
        REGISTERED.register("tokens", StudentSpec(name="tokens", build=lambda channels, size, classes: Tokens(layer())))
        return "tokens"

    return register


def test_smooth_experts_with_attention(tokens: Callable[..., str], ddb: Callable, tmp_path: Path):
    """Torch's fused attention has no second derivative, which the gradient penalty needs."""
    student = tokens(lambda: nn.MultiheadAttention(16, 2, batch_first=True))
    smooth = command(tmp_path / "new", "--kind", "smooth", "--student", student, "--workers", 1, "--experts", 1)
    result = ddb(*smooth)
    assert result.code == 0, result.err
    assert ddb("plan", *smooth).code == 0


def test_smooth_experts_of_a_student_without_second_derivative(
    tokens: Callable[..., str], ddb: Callable, refused: Callable, tmp_path: Path
):
    argv = command(tmp_path / "new", "--student", tokens(nn.Hardsigmoid), "--workers", 1, "--experts", 1)
    said = "--student tokens: the gradient penalty of --kind smooth differentiates its gradient", "Hardsigmoid"
    refused([*argv, "--kind", "smooth"], *said)
    assert ddb(*argv, "--kind", "smooth", "--penalty", 0).code == 0
    assert ddb(*argv, "--kind", "gsam").code == 0


OPTIMIZERS = {
    "for matrices": ("muon", (), "--optimizer muon: Muon only supports 2D"),
    "with a closure": ("lbfgs", (), "--optimizer lbfgs: "),
    "for sparse gradients": ("sparseadam", (), "--optimizer sparseadam: SparseAdam does not support dense gradients"),
    "an option alone": ("sgd", ("--options", "nesterov=1"), "--optimizer sgd: Nesterov momentum requires a momentum"),
    "an option of two numbers": ("adam", ("--options", "betas=0.9"), "--optimizer adam: "),
}


@pytest.mark.parametrize(("name", "more", "said"), OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("verb", ["buffer", "teacher"])
def test_optimisers_that_cannot_train_a_network(
    verb: str, name: str, more: tuple[object, ...], said: str, refused: Callable, tmp_path: Path
):
    where = ("--buffers", tmp_path / "new", "--experts", 1) if verb == "buffer" else ("--teachers", tmp_path / "new")
    student = ("--dataset", "digits", "--student", TINY, "--epochs", 1, "--momentum", 0, "--weight-decay", 0)
    refused([verb, *student, *where, *EAGER, "--optimizer", name, *more], said)
