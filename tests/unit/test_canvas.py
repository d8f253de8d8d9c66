"""What is learned by SGD with momentum: images, rates; their average, their state, what images begin as."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from conftest import digits_context
from torch import Tensor

from ddbench.methods.base import Context
from ddbench.methods.parts.canvas import FIRST, Canvas, Learned, first_images
from ddbench.methods.parts.rate import LearnedRate
from ddbench.runtime.errors import UserError


@pytest.fixture
def context(data_root: Path, tmp_path: Path) -> Context:
    return digits_context(data_root, tmp_path, ipc=2, student="convnet-d1-w4-in", seed=3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(kind: str) -> Learned:
    if kind == "rate":
        return LearnedRate(0.3, lr=0.1, momentum=0.9, log=True, device=torch.device("cpu"))
    canvas = Canvas(normal(4, 1, 3, 3), lr=0.1, momentum=0.9)
    if kind == "average":
        canvas.keep_average(0.75)
    return canvas


def test_steps_are_those_of_the_library():
    """Momentum included, and the average of what was there after each step."""
    canvas = Canvas(normal(4, 1, 3, 3), lr=0.5, momentum=0.9)
    canvas.keep_average(0.75)
    leaf = normal(4, 1, 3, 3).requires_grad_()
    library, average = torch.optim.SGD([leaf], lr=0.5, momentum=0.9), leaf.detach().clone()
    for seed in range(1, 5):
        canvas.step(normal(4, 1, 3, 3, seed=seed))
        leaf.grad = normal(4, 1, 3, 3, seed=seed)
        library.step()
        average = 0.75 * average + 0.25 * leaf.detach()
        torch.testing.assert_close(canvas.images, leaf.detach())
        torch.testing.assert_close(canvas.product, average)
    assert canvas.lr == 0.5


def test_product_without_average():
    canvas = Canvas(normal(2, 1, 3, 3), lr=1.0, momentum=0.0)
    canvas.step(torch.ones(2, 1, 3, 3))
    assert torch.equal(canvas.product, normal(2, 1, 3, 3) - 1)
    assert set(canvas.state()) == {"images"}, "no momentum, no average"


@pytest.mark.parametrize("kind", ["canvas", "average", "rate"])
def test_state_goes_on_where_it_was(kind: str):
    whole, other = made(kind), made(kind)
    gradients = [normal(*whole.value.shape, seed=seed) for seed in range(4)]
    for gradient in gradients[:2]:
        whole.step(gradient)
    kept = {name: tensor.clone() for name, tensor in whole.state().items()}
    for gradient in gradients[2:]:
        whole.step(gradient)
    other.step(gradients[3])
    other.load_state({**kept, "network": torch.zeros(1)})
    for gradient in gradients[2:]:
        other.step(gradient)
    assert set(other.state()) == set(whole.state())
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in whole.state().items())
    with pytest.raises(KeyError):
        other.load_state({})


def test_rate_by_its_logarithm():
    """A step against the derivative in log beta, which is beta times that in beta; beta stays positive."""
    log, raw = (LearnedRate(0.2, lr=0.5, momentum=0.0, log=log, device=torch.device("cpu")) for log in (True, False))
    for rate in (log, raw):
        rate.step(torch.tensor(3.0))
    assert float(log.beta) == pytest.approx(0.2 * math.exp(-0.5 * 3.0 * 0.2))
    assert float(raw.beta) == pytest.approx(0.2 - 0.5 * 3.0)
    before = raw.beta
    raw.step(torch.tensor(1.0))
    assert float(before) != float(raw.beta), "what was given out does not move"


@pytest.mark.parametrize("kind", FIRST)
def test_first_images(context: Context, kind: str):
    """Class-major, in network-input space, named by seed and purpose; real ones are images of their class."""
    images = first_images(context, kind, "here")
    assert images.shape == (context.classes * context.ipc, *context.dataset.spec.shape)
    assert images.dtype == torch.float32
    assert torch.equal(images, first_images(context, kind, "here"))
    assert not torch.equal(images, first_images(context, kind, "there"))
    assert not torch.equal(images, first_images(dataclasses.replace(context, seed=context.seed + 1), kind, "here"))
    real = context.preprocess.apply(context.train.images)
    for image, label in zip(images, context.hard_labels(), strict=True):
        alike = (real == image).flatten(1).all(1)
        assert bool(alike[context.train.labels == label].any()) == (kind != "noise")


def test_unknown_first_images(context: Context):
    with pytest.raises(UserError, match=r"--init"):
        first_images(context, "raal", "here")
