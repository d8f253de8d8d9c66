"""Average pooling gives torch's bits: the means, their gradients, and the gradients of those."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.networks.pooling import ROWS_FIRST, SMALL, average_pool

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(2, 3, 8, 8), (2, 3, 7, 5), (80, 32, 4, 4), (17, 32, 7, 9), (1, 1, 2, 4), (20, 64, 9, 7), (64, 16, 8, 8)]


def slices(x: Tensor) -> Tensor:
    """Rows added before columns, differentiated by autograd."""
    n, c, h, w = x.shape
    x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2 * 2)
    x = (x[:, :, :, 0] + x[:, :, :, 1]).reshape(n, c, h // 2, w // 2, 2)
    return (x[..., 0] + x[..., 1]) * 0.25


def all_gradients(pool: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Means, the gradient of a function of them that bends, and the gradient of a function of that."""
    x = x.clone().requires_grad_()
    means = pool(F.relu(x))
    factor = torch.linspace(-1, 1, means.numel()).reshape(means.shape)
    factor = torch.where(factor.abs() < 0.2, -0.0, factor)  # negative zeros must come out as torch's do
    (first,) = torch.autograd.grad((means * means * factor).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first**3).sum(), x)
    return [means.detach(), first.detach(), second]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bits_are_those_of_torch_or_of_slices(shape: tuple[int, ...]):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    known = slices if x.numel() >= ROWS_FIRST else lambda x: F.avg_pool2d(x, 2)
    for ours, theirs in zip(all_gradients(average_pool, x), all_gradients(known, x), strict=True):
        assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_pooled_as_torch_does(dtype: torch.dtype):
    x = torch.randn(40, 32, 6, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert SMALL <= x.numel() < ROWS_FIRST
    for ours, theirs in zip(
        all_gradients(average_pool, x), all_gradients(lambda x: F.avg_pool2d(x, 2), x), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_shapes_are_of_all_three_kinds():
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    assert min(sizes) < SMALL < ROWS_FIRST < max(sizes)
    assert any(SMALL <= size < ROWS_FIRST for size in sizes)


def test_it_can_be_mapped_and_differentiated_by_torch_func():
    x = torch.randn(3, 2, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([F.avg_pool2d(one, 2) for one in x])
    assert torch.equal(torch.vmap(average_pool)(x), expected)
    slope = torch.func.grad(lambda one: average_pool(one).square().sum())(x[0])
    assert torch.allclose(slope[:, :, ::2, ::2], expected[0] / 2)
