"""Bi-level training of one weight in exact fractions: every mode of the inner loop, SGD, bfloat16, tied weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from ddbench.training.flat import FlatNet, flatten_parameters
from ddbench.training.inner import InnerLoop
from ddbench.training.loops import Inputs, train
from ddbench.training.many import train_many
from ddbench.training.optimizers import OptimizerSettings
from ddbench.training.problem import InnerProblem, OuterTerm
from ddbench.training.sgd import SGD

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Dual:
    """A rational number and its derivative by one of the inputs."""

    value: Fraction
    slope: Fraction = Fraction(0)

    def __add__(self, other: Dual) -> Dual:
        return Dual(self.value + other.value, self.slope + other.slope)

    def __sub__(self, other: Dual) -> Dual:
        return Dual(self.value - other.value, self.slope - other.slope)

    def __mul__(self, other: Dual) -> Dual:
        return Dual(self.value * other.value, self.value * other.slope + self.slope * other.value)

    def still(self) -> Dual:
        """The same number, with no derivative."""
        return Dual(self.value)


class OneWeight(nn.Module):
    """An image of one pixel times the only weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * self.weight


def half_square(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits - labels).square().mean() / 2


START, TARGETS = Fraction(3, 4), {2: Fraction(-1, 2), 4: Fraction(5, 8)}
IMAGES = [Fraction(1, 2), Fraction(-3, 2), Fraction(5, 4)]
LABELS = [Fraction(1), Fraction(1, 4), Fraction(-3, 4)]
RATES = [Fraction(1, 4), Fraction(1, 8), Fraction(1, 2), Fraction(1, 16)]
BATCHES: list[list[int] | None] = [[0, 1], [2, 2, 0], None, [1]]
"""An image can be in a batch twice, and in none."""
SCALES = [Fraction(1), Fraction(1, 2), Fraction(2), Fraction(1)]


def by_hand(
    images: Sequence[Dual],
    labels: Sequence[Dual],
    rates: Sequence[Dual],
    start: Dual,
    momentum: Fraction,
    truncated: bool,
) -> Dual:
    """The outer loss of four steps; ``truncated``: each gradient is taken at a weight without derivative."""
    weight, velocity, outer = start, Dual(Fraction(0)), Dual(Fraction(0))
    for step, batch in enumerate(BATCHES):
        index = range(len(images)) if batch is None else batch
        at = weight.still() if truncated else weight
        gradient = Dual(Fraction(0))
        for i in index:
            gradient = gradient + images[i] * (images[i] * at - labels[i])
        gradient = gradient * Dual(SCALES[step] / len(index))
        velocity = Dual(momentum) * velocity + gradient
        weight = weight - rates[step] * velocity
        if step + 1 in TARGETS:
            miss = weight - Dual(TARGETS[step + 1])
            outer = outer + miss * miss
    return outer


def exact(momentum: Fraction, one_rate: bool, truncated: bool) -> tuple[Fraction, dict[str, list[Fraction]]]:
    """Outer loss, and its derivatives by images, labels, rates and start."""
    rates = [RATES[0]] * len(RATES) if one_rate else RATES
    parts = {"images": IMAGES, "labels": LABELS, "lr": rates, "start": [START]}
    slots = [(name, [i]) for name, values in parts.items() for i in range(len(values))]
    if one_rate:
        slots = [slot for slot in slots if slot[0] != "lr"] + [("lr", list(range(len(rates))))]
    slopes: dict[str, list[Fraction]] = {name: [] for name in parts}
    value = Fraction(0)
    for name, members in slots:
        given = {
            key: [Dual(number, Fraction(int(key == name and i in members))) for i, number in enumerate(numbers)]
            for key, numbers in parts.items()
        }
        outer = by_hand(given["images"], given["labels"], given["lr"], given["start"][0], momentum, truncated)
        value, _ = outer.value, slopes[name].append(outer.slope)
    return value, slopes


def column(values: Sequence[Fraction]) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def term(step: int) -> OuterTerm:
    return OuterTerm(step, lambda theta: (theta - float(TARGETS[step])).square().sum())


@pytest.mark.parametrize("momentum", [Fraction(0), Fraction(3, 4)])
@pytest.mark.parametrize("one_rate", [True, False])
@pytest.mark.parametrize("form", ["unroll", "higher", "adjoint", "truncated", "adjoint-function", "truncated-function"])
def test_inner_loop_in_fractions(form: str, one_rate: bool, momentum: Fraction) -> None:
    """The first velocity is the gradient itself, not (1 - momentum) times it; an image that comes twice in a batch has
    both its parts; and without the Hessian the start still has a gradient, of 1 each step.
    """
    mode, _, functional = form.partition("-")
    if mode == "higher":
        pytest.importorskip("higher")
    problem = InnerProblem(
        start=column([START]),
        images=column(IMAGES).view(-1, 1, 1, 1),
        labels=column(LABELS).view(-1, 1),
        lr=torch.tensor(float(RATES[0]), dtype=torch.float64) if one_rate else column(RATES),
        batches=[None if batch is None else torch.tensor(batch) for batch in BATCHES],
        terms=[term(2), term(4)],
        momentum=float(momentum),
        scales=[float(scale) for scale in SCALES],
        loss=half_square,
    )
    # A compiler that does nothing: what torch.compile is given.
    compiler: Callable[[Callable], Callable] | None = (lambda function: function) if functional else None
    found = InnerLoop(FlatNet(OneWeight()), mode, compiler)(problem)
    value, slopes = exact(momentum, one_rate, truncated=mode == "truncated")
    assert float(found.loss) == pytest.approx(float(value), rel=1e-13)
    assert found.labels is not None
    for name, made in (("images", found.images), ("labels", found.labels), ("lr", found.lr), ("start", found.start)):
        torch.testing.assert_close(
            made.reshape(-1), column(slopes[name]), rtol=1e-12, atol=1e-13, msg=f"{name}: {made}"
        )


@pytest.mark.parametrize(("momentum", "decay"), [(0, 0), (Fraction(1, 2), 0), (Fraction(3, 4), Fraction(1, 8))])
def test_sgd_in_fractions(momentum: Fraction, decay: Fraction) -> None:
    """Weight decay goes into the velocity, which starts as the first gradient."""
    weight = torch.ones(1, dtype=torch.float64)
    stepper = SGD([weight], 0.25, float(momentum), float(decay))
    w, velocity = Fraction(1), Fraction(0)
    for gradient in (Fraction(1), Fraction(-1, 2), Fraction(3, 8), Fraction(0)):
        weight.grad = column([gradient])
        stepper.step()
        velocity = momentum * velocity + gradient + decay * w
        w -= Fraction(1, 4) * velocity
        assert float(weight) == float(w)  # all are dyadic: no rounding


class Sum(nn.Module):
    """An image of one pixel times one float32 weight, as the only logit."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def test_bfloat16_sees_every_step() -> None:
    """One context around several steps would show the first weights for ever: 1, 1, 1."""
    inputs = Inputs(torch.ones(1, 1, 1, 1), torch.zeros(1, dtype=torch.long), None, torch.device("cpu"), classes=1)
    settings = OptimizerSettings(lr=0.5)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return logits.sum()

    how = {"epochs": 4, "batch": 1, "optimizer": settings, "policy": None, "loss": loss, "precision": "bfloat16"}
    assert [epoch.loss for epoch in train(Sum(), inputs, seed=0, **how)] == [1.0, 0.5, 0.0, -0.5]
    losses = [[epoch.loss for epoch in both] for both in train_many([Sum(), Sum()], inputs, seeds=[0, 1], **how)]
    assert losses == [[1.0] * 2, [0.5] * 2, [0.0] * 2, [-0.5] * 2]


class Tied(nn.Module):
    """``w (w x)``: one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(1, 1, bias=False, dtype=torch.float64) for _ in range(2))
        self.second.weight = self.first.weight
        nn.init.constant_(self.first.weight, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(self.first(x.flatten(1)))
        return logits


def test_tied_weights_are_one_weight() -> None:
    """A step of SGD on (w^2 x)^2 / 2, differentiated: w1 = w - r 2 w^3 x^2, d w1 / d x = -4 r w^3 x."""
    flat = FlatNet(Tied())
    assert flat.size == 1
    x, w, rate = 1.5, 0.5, 0.25
    problem = InnerProblem(
        start=flatten_parameters(Tied()),
        images=torch.full((1, 1, 1, 1), x, dtype=torch.float64),
        labels=torch.zeros(1, 1, dtype=torch.float64),
        lr=torch.tensor(rate, dtype=torch.float64),
        batches=[None],
        terms=[OuterTerm(1, lambda theta: theta.sum())],
        loss=half_square,
    )
    for mode in ("unroll", "adjoint"):
        found = InnerLoop(flat, mode)(problem)
        assert float(found.final) == pytest.approx(w - rate * 2 * w**3 * x**2, rel=1e-14)
        assert float(found.images) == pytest.approx(-4 * rate * w**3 * x, rel=1e-14)
        assert float(found.start) == pytest.approx(1 - rate * 6 * w**2 * x**2, rel=1e-13)


def test_tied_weights_trained_at_once() -> None:
    """w -> w - r 2 w^3: as alone, and tied still."""
    data = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    inputs = Inputs(data, torch.zeros(1, dtype=torch.long), None, torch.device("cpu"), classes=1)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return logits.square().sum() / 2

    nets = [Tied(), Tied()]
    how = {"epochs": 3, "batch": 1, "optimizer": OptimizerSettings(lr=0.25), "policy": None, "loss": loss}
    list(train_many(nets, inputs, seeds=[0, 1], **how))
    weights = [Fraction(1, 2)]
    for _ in range(3):
        weights.append(weights[-1] - Fraction(1, 2) * weights[-1] ** 3)
    assert all(later < earlier for earlier, later in pairwise(weights))
    for net in nets:
        assert net.second.weight is net.first.weight
        assert float(net.first.weight.detach()) == pytest.approx(float(weights[-1]), rel=1e-14)
