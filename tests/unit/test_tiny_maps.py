"""Norms on tiny maps and batches, and pixels that pools leave out: values of closed forms and of fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from ddbench.networks.build import build_student
from ddbench.networks.check import check_student
from ddbench.networks.names import REGISTERED, StudentSpec
from ddbench.networks.norms import BatchNorm, InstanceNorm, _scale_and_shift
from ddbench.runtime.errors import UserError
from ddbench.training.flat import FlatNet, flatten_buffers


def unseen(net: nn.Module, channels: int, size: int) -> tuple[int, int]:
    """Rows and columns that have no influence on the logits."""
    x = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = net.double()(x.requires_grad_())
    (gradient,) = torch.autograd.grad((logits * torch.arange(1, 4)).sum(), x)
    seen = gradient.abs().amax((0, 1)) > 0
    return int((~seen.any(1)).sum()), int((~seen.any(0)).sum())


@pytest.mark.parametrize("size", [8, 11, 21, 22, 23, 28, 30, 31, 32, 47, 63, 64, 65, 66, 67, 128])
def test_lenet_sees_every_pixel(size: int) -> None:
    """Two pools that round down leave out 3 of 31 rows, and with a stride 5 of 64."""
    net = build_student("lenet", channels=1, size=size, classes=3, seed=0)
    assert unseen(net, 1, size) == (0, 0)


@pytest.mark.parametrize("norm", ["in", "bn", "gn", "ln"])
def test_the_deepest_convnet_of_8_px_sees_its_images(norm: str) -> None:
    net = build_student(f"convnet-d3-w8-{norm}", channels=1, size=8, classes=3, seed=0)
    assert unseen(net, 1, 8) == (0, 0)
    with pytest.raises(UserError, match="depth 3"):
        check_student(f"convnet-d4-w8-{norm}", 1, 8)


def test_instance_norm_of_one_pixel_is_its_shift() -> None:
    """Whatever the image: so a student with one there is constant. nn.InstanceNorm2d refuses it in training only."""
    norm = InstanceNorm(2).double()
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([0.25, -3.0]))
    x = torch.randn(3, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    for made in (norm(x), _scale_and_shift(x, norm.weight, norm.bias, norm.eps)):
        # To rounding, which the scale of 316 enlarges.
        torch.testing.assert_close(made.detach().flatten(1), norm.bias.detach().expand(3, 2), rtol=0, atol=1e-12)
        assert torch.autograd.grad(made.square().sum(), x)[0].abs().max() < 1e-9


def test_a_registered_student_that_is_constant_is_refused(tables_kept: None) -> None:
    class Constant(nn.Sequential):
        def __init__(self, channels: int, size: int, classes: int) -> None:
            conv, last = nn.Conv2d(channels, 4, 1), nn.Linear(4, classes)
            super().__init__(nn.AvgPool2d(size), conv, InstanceNorm(4), nn.Flatten(), last)

    REGISTERED.register("one-pixel", StudentSpec(name="one-pixel", build=Constant))
    with pytest.raises(UserError, match=r"'one-pixel': its logits do not depend on images of 8 px"):
        check_student("one-pixel", 1, 8)


def test_a_flat_image_multiplies_gradients() -> None:
    """By 1 / sqrt(eps), 316, for every instance norm that it goes through: the variance is 0."""
    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(InstanceNorm(1).double()(x)[0, 0, 0, 0], x)
    assert gradient.flatten().tolist() == pytest.approx([c / math.sqrt(1e-5) for c in (0.75, -0.25, -0.25, -0.25)])


def test_running_variance_is_the_unbiased_one() -> None:
    """Two pixels 0 and 1 are normalised by their variance 1/4, but 1/2 is remembered: with so few a student is tested
    with another scale than it was trained with, however long.
    """
    norm, x = BatchNorm(1).double(), torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    trained = norm(x).flatten().tolist()
    assert trained == pytest.approx([-0.5 / math.sqrt(0.25 + 1e-5), 0.5 / math.sqrt(0.25 + 1e-5)], abs=1e-15)
    mean, variance = Fraction(0), Fraction(1)
    for step in range(30):
        mean = Fraction(9, 10) * mean + Fraction(1, 10) * Fraction(1, 2)
        variance = Fraction(9, 10) * variance + Fraction(1, 10) * Fraction(1, 2)
        assert float(norm.running_mean) == pytest.approx(float(mean), abs=1e-15)
        assert float(norm.running_var) == pytest.approx(float(variance), abs=1e-15)
        if step < 29:
            norm(x)
    tested = norm.eval()(x).flatten().tolist()
    scale = math.sqrt(variance + Fraction(1, 100_000))
    assert tested == pytest.approx([float(0 - mean) / scale, float(1 - mean) / scale], abs=1e-12)
    assert (trained[1] - trained[0]) / (tested[1] - tested[0]) == pytest.approx(math.sqrt(2), abs=0.04)


@pytest.mark.parametrize("apart", [2.0, 0.5])
def test_two_images_on_one_pixel_become_signs(apart: float) -> None:
    """Batch norm of two single numbers gives -1 and 1 whatever they are: almost no gradient reaches the images."""
    x = torch.tensor([0.0, apart], dtype=torch.float64).view(2, 1, 1, 1).requires_grad_()
    made = BatchNorm(1).double()(x)
    assert made.flatten().tolist() == pytest.approx([-1, 1], abs=1e-4)
    (gradient,) = torch.autograd.grad(made[1, 0, 0, 0], x)
    # y = h / sqrt(h^2 + eps) of half the distance h, and dh/dx = 1/2
    expected = 1e-5 / (2 * (apart**2 / 4 + 1e-5) ** 1.5)
    assert gradient.flatten().tolist() == pytest.approx([-expected, expected], rel=1e-6)


def test_a_flat_network_remembers_no_statistics() -> None:
    net = build_student("convnet-d2-w4-bn", channels=1, size=8, classes=2, seed=0)
    before = flatten_buffers(net)
    flat, theta = FlatNet(net), torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    x: Tensor = torch.randn(2, 1, 8, 8)
    assert torch.equal(flat(theta, x), flat(theta, x))
    assert torch.equal(flatten_buffers(net), before)
