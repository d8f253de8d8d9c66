"""Networks against their published definitions, written out with ``torch.nn.functional`` in double precision.

Those of DC's public code (MLP, ConvNet, LeNet, AlexNet, VGG11, ResNet18 and its ``_AP``) and DC-BENCH's ViT; where an
image is of another size than 28 (grey) or 32 px, what the class's own docstring says of that. Weights are taken in the
order in which a network registers them; all are moved away from 0 and 1, so that no scale or shift can be left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.networks.build import build_student
from ddbench.networks.names import ACTIVATIONS, NORMS, POOLINGS

pytestmark = pytest.mark.usefixtures("one_thread")

Weights = Iterator[Tensor]
ByHand = Callable[[Tensor, Weights], Tensor]

ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "leaky": lambda x: torch.where(x < 0, 0.01 * x, x),
    "swish": lambda x: x / (1 + (-x).exp()),
    "softplus": lambda x: torch.logaddexp(60 * x, torch.zeros_like(x)) / 60,
}
POOL: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: F.avg_pool2d(x, 2),
    "max": lambda x: F.max_pool2d(x, 2),
    "none": lambda x: x,
}


def normed(kind: str, x: Tensor, w: Weights) -> Tensor:
    """Less the mean, over the standard deviation, of what a norm takes together; scaled and shifted."""
    if kind == "nn":
        return x
    n, c, h, _ = x.shape
    groups, together = {
        "in": (x, (2, 3)),
        "bn": (x, (0, 2, 3)),
        "ln": (x, (1, 2, 3)),
        "gn": (x.reshape(n, 4, c // 4 * h, h), (2, 3)),
    }[kind]
    centred = groups - groups.mean(together, keepdim=True)
    whole = (centred / (centred.square().mean(together, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    scale, shift = next(w), next(w)
    return whole * scale + shift if kind == "ln" else whole * scale[:, None, None] + shift[:, None, None]


def conv(x: Tensor, w: Weights, padding: int, stride: int = 1, bias: bool = True) -> Tensor:
    return F.conv2d(x, next(w), next(w) if bias else None, stride=stride, padding=padding)


def linear(x: Tensor, w: Weights) -> Tensor:
    return x @ next(w).T + next(w)


def check(name: str, by_hand: ByHand, channels: int, size: int, *, dropout: bool = False) -> None:
    """A network's logits of three images are those of a function of images and weights, which uses all of them."""
    net = build_student(name, channels=channels, size=size, classes=3, seed=0).double().train(not dropout)
    generator = torch.Generator().manual_seed(0)
    weights = []
    with torch.no_grad():
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise if parameter.ndim == 1 else noise / parameter[0].numel() ** 0.5)
            weights.append(parameter.detach())
        x = torch.randn(3, channels, size, size, generator=generator, dtype=torch.float64)
        left = iter(weights)
        torch.testing.assert_close(net(x), by_hand(x, left), rtol=1e-9, atol=1e-9)
    assert not list(left)


def convnet(norm: str, activation: str, pooling: str, padding: int = 1, depth: int = 2) -> ByHand:
    def by_hand(x: Tensor, w: Weights) -> Tensor:
        for block in range(depth):
            x = conv(x, w, padding if block == 0 else 1)
            x = POOL[pooling](ACTIVATION[activation](normed(norm, x, w)))
        return linear(x.flatten(1), w)

    return by_hand


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_convnet(norm: str, activation: str, pooling: str) -> None:
    parts = [activation] * (activation != "relu") + [pooling] * (pooling != "avg")
    check("-".join(["convnet-d2-w4", norm, *parts]), convnet(norm, activation, pooling), 3, 8)


@pytest.mark.parametrize("norm", NORMS)
def test_convnet_of_grey_28_px_doubling_its_width(norm: str) -> None:
    check(f"convnet-d3-w4x2-{norm}", convnet(norm, "relu", "avg", padding=3, depth=3), 1, 28)


def test_mlp() -> None:
    def by_hand(x: Tensor, w: Weights) -> Tensor:
        x = x.flatten(1)
        for _ in range(2):
            x = linear(x, w).clamp(min=0)
        return linear(x, w)

    check("mlp-d3-w8", by_hand, 3, 8)


@pytest.mark.parametrize(("channels", "size", "padding"), [(1, 28, 2), (3, 32, 0)])
def test_lenet(channels: int, size: int, padding: int) -> None:
    def by_hand(x: Tensor, w: Weights) -> Tensor:
        x = F.max_pool2d(conv(x, w, padding).clamp(min=0), 2)
        x = F.max_pool2d(conv(x, w, 0).clamp(min=0), 2).flatten(1)
        for _ in range(2):
            x = linear(x, w).clamp(min=0)
        return linear(x, w)

    check("lenet", by_hand, channels, size)


@pytest.mark.parametrize(("channels", "size", "padding"), [(1, 28, 4), (3, 32, 2), (3, 8, 2), (3, 64, 2)])
@pytest.mark.parametrize("norm", ["nn", "bn"])
def test_alexnet(norm: str, channels: int, size: int, padding: int) -> None:
    """Its convolutions come before its norms."""

    def by_hand(x: Tensor, w: Weights) -> Tensor:
        convs, norms, rest = ([next(w) for _ in range(count)] for count in (10, 0 if norm == "nn" else 10, 2))
        left, right = iter(convs), iter(norms)
        for pad, pooled in ((padding, True), (2, True), (1, False), (1, False), (1, True)):
            x = normed(norm, conv(x, left, pad), right).clamp(min=0)
            x = F.max_pool2d(x, 2) if pooled else x
        return linear((F.avg_pool2d(x, 2) if size == 64 else x).flatten(1), iter(rest))

    check("alexnet" if norm == "nn" else f"alexnet-{norm}", by_hand, channels, size)


@pytest.mark.parametrize(
    ("channels", "size", "padding", "pools"), [(1, 28, 3, "11111"), (3, 32, 1, "11111"), (3, 8, 1, "11001")]
)
@pytest.mark.parametrize("norm", ["in", "bn"])
def test_vgg11(norm: str, channels: int, size: int, padding: int, pools: str) -> None:
    """At 8 px two pools would leave a pixel for the next norm."""

    def by_hand(x: Tensor, w: Weights) -> Tensor:
        for stage, (count, pooled) in enumerate(zip((1, 1, 2, 2, 2), pools, strict=True)):
            for _ in range(count):
                x = normed(norm, conv(x, w, 1 if stage else padding), w).clamp(min=0)
            x = F.max_pool2d(x, 2) if pooled == "1" else x
        assert x.shape[1:] == (512, 1, 1)
        return linear(x.flatten(1), w)

    check(f"vgg11-{norm}", by_hand, channels, size)


@pytest.mark.parametrize(
    ("channels", "size", "strides"), [(1, 28, (1, 2, 2, 2)), (3, 16, (1, 2, 2, 2)), (3, 8, (1, 2, 2, 1))]
)
@pytest.mark.parametrize("name", ["resnet18-in", "resnet18-bn", "resnet18ap-in", "resnet18ap-bn"])
def test_resnet18(name: str, channels: int, size: int, strides: tuple[int, ...]) -> None:
    """Without strides (``ap``), a mean of 2 x 2 follows the first activation and the shortcut's convolution."""
    family, norm = name.split("-")
    pooled = family == "resnet18ap"

    def block(x: Tensor, w: Weights, stride: int, shortcut: bool) -> Tensor:
        def halved(x: Tensor) -> Tensor:
            return F.avg_pool2d(x, 2) if pooled and stride == 2 else x

        step = 1 if pooled else stride
        inner = halved(normed(norm, conv(x, w, 1, step, bias=False), w).clamp(min=0))
        inner = normed(norm, conv(inner, w, 1, bias=False), w)
        if shortcut:
            x = normed(norm, halved(conv(x, w, 0, step, bias=False)), w)
        return (inner + x).clamp(min=0)

    def by_hand(x: Tensor, w: Weights) -> Tensor:
        x = normed(norm, conv(x, w, 1, bias=False), w).clamp(min=0)
        for stage, stride in enumerate(strides):
            x = block(x, w, stride, shortcut=stage > 0)
            x = block(x, w, 1, shortcut=False)
        return linear(x.flatten(1) if pooled else x.mean((2, 3)), w)

    check(name, by_hand, channels, size)


def vit(width: int, heads: int, depth: int, patch: int, padding: tuple[int, int]) -> ByHand:
    """Dosovitskiy et al. 2021, with the norm before each part; the class token is read."""

    def layer_norm(x: Tensor, w: Weights) -> Tensor:
        return F.layer_norm(x, (width,), next(w), next(w))

    def attention(x: Tensor, w: Weights) -> Tensor:
        x = layer_norm(x, w)
        queries, keys, values = (x @ part.T for part in next(w).chunk(3))
        mixed = []
        for own in torch.arange(width).chunk(heads):
            scores = torch.einsum("ntd,nsd->nts", queries[..., own], keys[..., own]) / math.sqrt(width // heads)
            mixed.append(scores.softmax(2) @ values[..., own])
        return linear(torch.cat(mixed, 2), w)

    def feed_forward(x: Tensor, w: Weights) -> Tensor:
        hidden = linear(layer_norm(x, w), w)
        return linear(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2, w)

    def by_hand(x: Tensor, w: Weights) -> Tensor:
        token, positions, kernel, bias = (next(w) for _ in range(4))
        x = F.pad(x, padding * 2)
        n, c, size, _ = x.shape
        side = size // patch
        cut = x.reshape(n, c, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(n, side**2, c * patch**2)
        x = torch.cat([token.expand(n, 1, width), cut @ kernel.flatten(1).T + bias], 1) + positions
        for _ in range(depth):
            x = x + attention(x, w)
            x = x + feed_forward(x, w)
        return linear(layer_norm(x, w)[:, 0], w)

    return by_hand


@pytest.mark.parametrize(
    ("width", "heads", "channels", "size", "patch", "padding"),
    [(128, 2, 1, 28, 4, (0, 0)), (16, 1, 3, 32, 4, (0, 0)), (80, 1, 3, 9, 2, (0, 1)), (192, 3, 3, 13, 2, (0, 1))],
)
def test_vit(width: int, heads: int, channels: int, size: int, patch: int, padding: tuple[int, int]) -> None:
    """Heads of 64 numbers, as in the one of width 512; images that no patch divides have zeros around them."""
    check(f"vit-d2-w{width}", vit(width, heads, 2, patch, padding), channels, size, dropout=True)


def test_dropout_of_a_vit() -> None:
    """A tenth, of the embedding, of each attention and what it gives, and twice in each feed-forward part."""
    net = build_student("vit-d2-w16", channels=1, size=8, classes=2, seed=0)
    drawn: list[float] = []
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, *_: drawn.append(module.p))
    net(torch.zeros(2, 1, 8, 8))
    assert drawn == [0.1] * (1 + 2 * (2 + 2))
