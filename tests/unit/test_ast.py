"""AST: balanced, perturbed and intermediate matching in float64, representative images, refused settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import EAGER, TINY
from torch import Tensor, nn
from trajectory_context import assert_differentiates, assert_equal, linear, make_context, reference, started

from ddbench.methods.ast import AST
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.training.flat import FlatNet, flatten_parameters
from ddbench.training.inner import InnerLoop
from ddbench.training.problem import InnerProblem, match_term
from ddbench.training.trajectory_losses import balance, intermediate_matches, perturbed


@pytest.fixture
def method(tiny_experts: Path, data_root: Path, tmp_path: Path) -> Callable[..., Any]:
    """``method(name=value, ...)``: AST after ``setup``."""

    def make(ipc: int = 2, **settings: Any) -> Any:
        return started(AST, make_context(tiny_experts, data_root, tmp_path, ipc), **{"init": "real", **settings})

    return make


@pytest.mark.parametrize("inner", ["adjoint", "unroll", "higher"])
@pytest.mark.parametrize(("start_epoch", "factor"), [(0, 1 / math.log(9, 5)), (1, math.log(8, 5)), (2, math.log(9, 5))])
def test_balanced_intermediate_matching_against_numpy(inner: str, start_epoch: int, factor: float, method: Callable):
    """Gradients of images and learning rate with a linear student derived by hand: T+ = 2, N = 6, M = 3, momentum."""
    ast = method(inner=inner, student_steps=6, expert_epochs=3, perturb=0.0)
    segment = linear(ast, start_epoch=start_epoch, epochs=(1, 2, 3))
    matches = [(2, segment.targets[1].numpy(), 1.0), (4, segment.targets[2].numpy(), 1.0)]
    wanted = reference(
        ast,
        segment,
        ast.hard_labels,
        momentum=0.9,
        scales=[factor] * 6,
        targets=[*matches, (6, segment.targets[3].numpy(), 1.0)],
    )
    assert_differentiates(wanted)
    assert_equal(ast.inner(ast.problem(segment)), wanted)


def test_without_its_parts_it_is_trajectory_matching(method: Callable):
    ast = method(balance=False, perturb=0.0, intermediate="none", momentum_student=0.0)
    segment = linear(ast)
    assert_equal(ast.inner(ast.problem(segment)), reference(ast, segment, ast.hard_labels))


def test_growing_weights_of_intermediate_matches(method: Callable):
    ast = method(student_steps=6, expert_epochs=3, perturb=0.0, intermediate="growing", balance=False)
    segment = linear(ast, epochs=(1, 2, 3))
    targets = [(2 * i, segment.targets[i].numpy(), share) for i, share in ((1, 1 / 3), (2, 2 / 3), (3, 1.0))]
    assert_equal(
        ast.inner(ast.problem(segment)), reference(ast, segment, ast.hard_labels, momentum=0.9, targets=targets)
    )


def test_balance():
    """Powers of 5: 25 - 8 = 17 epochs away from the middle."""
    assert balance(10 + 17, 20) == pytest.approx(2)
    assert balance(30 - 17, 60) == pytest.approx(1 / 2)
    assert balance(5, 10) == math.log(8, 5)
    factors = [balance(epoch, 21) for epoch in range(21)]
    assert factors == sorted(factors), "later starts weigh more"


@pytest.mark.parametrize(
    ("steps", "epochs", "weights", "wanted"),
    [
        (40, 3, "all", [(13, 1, 1.0), (26, 2, 1.0)]),
        (40, 3, "growing", [(13, 1, 1 / 3), (26, 2, 2 / 3)]),
        (20, 2, "all", [(10, 1, 1.0)]),
        (20, 1, "all", []),
        (20, 2, "none", []),
        (2, 3, "all", []),
        (3, 3, "all", [(1, 1, 1.0), (2, 2, 1.0)]),
    ],
)
def test_intermediate_matches(steps: int, epochs: int, weights: str, wanted: list[tuple[int, int, float]]):
    assert intermediate_matches(steps, epochs, weights) == wanted


def test_perturbed_against_numpy():
    shapes = [(2, 1, 3, 3), (2,), (4, 2, 2, 2), (3, 5), (3,)]
    sizes = [math.prod(shape) for shape in shapes]
    g = torch.Generator().manual_seed(0)
    theta, noise = (torch.randn(sum(sizes), generator=g, dtype=torch.float64) for _ in range(2))
    wanted, at = theta.numpy().copy(), 0
    for shape, size in zip(shapes, sizes, strict=True):
        if len(shape) == 4:
            d = noise[at : at + size].numpy()
            wanted[at : at + size] *= 1 + 0.7 * d / math.sqrt(float((d**2).sum()))
        at += size
    np.testing.assert_allclose(perturbed(theta, shapes, noise, 0.7).numpy(), wanted, rtol=1e-14)
    assert torch.equal(perturbed(theta, shapes, noise, 0.0), theta)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.linear = nn.Linear(3 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.softplus(self.conv(x)).flatten(1))


@pytest.mark.parametrize("mode", ["adjoint", "unroll"])
def test_perturbed_matching_against_a_plain_loop(mode: str):
    """The whole objective with a convolution, each parameter perturbed and trained by itself; autograd in float64."""
    with seeds.isolated(0, "test"):
        module = Tiny().double()
    g = torch.Generator().manual_seed(0)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=g, dtype=torch.float64)

    start = [parameter.detach() for parameter in module.parameters()]
    goal = [[part + 0.05 * k * normal(part) for part in start] for k in (1, 2)]
    noise = [normal(part) for part in start]
    images, labels = normal(torch.zeros(6, 1, 4, 4)).requires_grad_(), torch.arange(6) % 3
    lr, factor = torch.tensor(0.05, dtype=torch.float64, requires_grad=True), balance(3, 10)

    moved = [w + d / torch.linalg.norm(d) * w if w.ndim == 4 else w for w, d in zip(start, noise, strict=True)]
    weights = [part.clone().requires_grad_() for part in moved]
    speed = [torch.zeros_like(part) for part in weights]
    outer = torch.zeros((), dtype=torch.float64)
    for step in range(1, 5):
        hidden = F.softplus(F.conv2d(images, weights[0], weights[1], padding=1)).flatten(1)
        logits = hidden @ weights[2].T + weights[3]
        inner = factor * -logits.log_softmax(1)[torch.arange(6), labels].mean()
        slopes = torch.autograd.grad(inner, weights, create_graph=True)
        speed = [0.9 * b + g for b, g in zip(speed, slopes, strict=True)]
        weights = [w - lr * b for w, b in zip(weights, speed, strict=True)]
        if step in (2, 4):
            target = goal[step // 2 - 1]
            far = sum(((w - t) ** 2).sum() for w, t in zip(weights, target, strict=True))
            outer = outer + far / sum(((w - t) ** 2).sum() for w, t in zip(moved, target, strict=True))
    by_images, by_lr = torch.autograd.grad(outer, [images, lr])

    flat = [torch.cat([part.reshape(-1) for part in parts]) for parts in (noise, *goal)]
    net = FlatNet(module)
    theta = perturbed(flatten_parameters(module), net.shapes, flat[0], 1.0)
    result = InnerLoop(net, mode)(
        InnerProblem(
            start=theta,
            images=images.detach(),
            labels=labels,
            lr=lr.detach(),
            batches=[None] * 4,
            momentum=0.9,
            scales=factor,
            terms=[match_term(2, flat[1], theta), match_term(4, flat[2], theta)],
        )
    )
    for ours, theirs in ((result.loss, outer.detach()), (result.images, by_images), (result.lr, by_lr)):
        assert float((ours - theirs).abs().max()) <= 1e-10 * float(theirs.abs().max())


def test_drawn_segment(method: Callable):
    """The start is the expert's, perturbed with a draw of its own name; the targets are the expert's own."""
    plain, ast = (method(perturb=strength, student_steps=6, expert_epochs=3) for strength in (0.0, 0.5))
    one, two = plain.draw_segment(2), ast.draw_segment(2)
    assert list(two.targets) == [1, 2, 3]
    row, *ends = ast.store.rows(two.expert, *(two.start_epoch + k for k in range(4)))
    assert torch.equal(one.start, row)
    assert all(torch.equal(two.targets[k + 1], end) for k, end in enumerate(ends))
    noise = torch.randn(len(row), generator=seeds.generator(0, "ast-perturb", 2))
    assert torch.equal(two.start, perturbed(row, ast.inner.net.shapes, noise, 0.5))
    assert not torch.equal(two.start, row)
    assert not torch.equal(ast.draw_segment(3).start - ast.store.rows(0, 0)[0], two.start - row)


@pytest.mark.parametrize("ipc", [1, 3, 12])
def test_representative_images(ipc: int, method: Callable):
    """Below 10 a class, too: different real images, the one of IPC 1 nearest to the mean of the expert's logits."""
    ast = method(ipc=ipc, init="representative")
    context = ast.context
    indices = ast.store.indices
    drawn = int(torch.randint(len(indices), (), generator=seeds.generator(0, "ast-init")))
    for label in range(10):
        real = (context.train.labels == label).nonzero()[:, 0]
        pixels = context.preprocess.apply(context.train.images[real])
        chosen = [
            int((pixels == image).flatten(1).all(1).nonzero()[0])
            for image in ast.images.detach()[label * ipc : (label + 1) * ipc]
        ]
        assert len(set(chosen)) == ipc
        if ipc == 1:
            logits = ast.expert_logits(indices[drawn], real).double()
            assert chosen == [int((logits - logits.mean(0)).square().sum(1).argmin())]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum_student": 1.0}, "--momentum-student 1.0: expected a number from 0 to below 1"),
        ({"perturb": -0.5}, "--perturb -0.5: expected a number of at least 0"),
        ({"perturb": float("inf")}, "--perturb inf"),
        ({"max_start_epoch": 9}, "needs experts of at least 10 epochs"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str, method: Callable):
    with pytest.raises(UserError, match=message):
        method(**settings)


def test_experts_of_another_kind(refused: Callable, buffers: Path, tmp_path: Path):
    """One line, with the command that records those that are asked for."""
    line = refused(
        [
            *("distill", "--method", "ast", "--dataset", "digits", "--ipc", 1, "--student", TINY, "--recipe", "none"),
            *("--buffers", buffers, "--out", tmp_path / "run", *EAGER),
        ],
        "holds sgd experts, ast asks for smooth",
        "record them with: ddbench buffer --dataset digits",
    )
    assert "--kind smooth" in line
