"""The inner loop's modes against each other, against a plain loop, against ``higher`` and finite differences."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ddbench.data.augment import draw, parse_strategy
from ddbench.networks.build import build_student
from ddbench.runtime.errors import UserError
from ddbench.runtime.seeds import generator, isolated
from ddbench.training import inner
from ddbench.training.flat import FlatNet, flatten_parameters
from ddbench.training.inner import InnerLoop, _Path
from ddbench.training.losses import cross_entropy
from ddbench.training.problem import InnerProblem, InnerResult, OuterTerm, match_term

TOLERANCE = 1e-12  # float64, relative to the largest entry


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.GroupNorm(3, 3)
        self.linear = nn.Linear(3 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(nn.functional.softplus(self.norm(self.conv(x))).flatten(1))


def make_problem(
    net: FlatNet,
    *,
    soft: bool = False,
    steps: int = 5,
    images: int = 6,
    size: int = 4,
    channels: int = 1,
    classes: int = 3,
) -> InnerProblem:
    g = generator(0, "inner-test")

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    with isolated(0, "weights"):
        start = flatten_parameters(net.module).double()
    target = start + 0.1 * normal(len(start))
    labels = normal(images, classes) if soft else torch.arange(images) % classes
    return InnerProblem(
        start=start,
        images=normal(images, channels, size, size),
        labels=labels,
        lr=torch.tensor(0.05, dtype=torch.float64),
        batches=[None] * steps,
        terms=[match_term(steps, target, start)],
    )


@pytest.fixture
def tiny() -> FlatNet:
    with isolated(0, "tiny"):
        return FlatNet(Tiny().double())


def variants(net: FlatNet) -> dict[str, InnerProblem]:
    hard, soft = make_problem(net), make_problem(net, soft=True)
    minibatches = [torch.tensor([4, 0, 2]), torch.tensor([1, 3, 5]), torch.tensor([5]), torch.tensor([0, 0, 1]), None]
    between = hard.start + 0.05
    draws = [
        draw(parse_strategy("color_crop_cutout_flip_scale_rotate"), 6, 4, generator(1, "draw", k)) for k in range(5)
    ]
    return {
        "hard": hard,
        "soft": soft,
        "momentum": replace(soft, momentum=0.9),
        "minibatches": replace(soft, batches=minibatches, momentum=0.5),
        "intermediate": replace(
            hard,
            momentum=0.9,
            terms=[*hard.terms, match_term(2, between, hard.start, 0.7), match_term(3, between, hard.start)],
        ),
        "scales": replace(soft, scales=[0.5, 2.0, 1.0, 0.1, 3.0]),
        "augmented": replace(hard, draws=draws, momentum=0.3),
        "real loss": replace(
            hard,
            terms=[OuterTerm(5, lambda theta: cross_entropy(net(theta, hard.images.flip(0)), hard.labels))],
        ),
    }


VARIANTS = ["hard", "soft", "momentum", "minibatches", "intermediate", "scales", "augmented", "real loss"]


def assert_same(ours: InnerResult, theirs: InnerResult, tolerance: float = TOLERANCE) -> None:
    for name in ("loss", "images", "labels", "lr", "start", "final"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a is None) == (b is None), name
        if a is not None:
            scale = float(b.abs().max())
            assert scale > 0, f"{name}: the oracle's gradient is zero, the comparison would be empty"
            assert float((a - b).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_adjoint_equals_unroll(tiny: FlatNet, variant: str) -> None:
    problem = variants(tiny)[variant]
    assert_same(InnerLoop(tiny, "adjoint")(problem), InnerLoop(tiny, "unroll")(problem))


@pytest.mark.parametrize("mode", ["adjoint", "truncated"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_computed_again_are_the_same(tiny: FlatNet, variant: str, mode: str) -> None:
    """Of five steps: in parts of three, and all."""
    problem = variants(tiny)[variant]
    every = InnerLoop(tiny, mode)(problem)
    for kept in (1, 4, 5):
        some = InnerLoop(tiny, mode, kept=kept)(problem)
        for name in ("loss", "images", "labels", "lr", "start", "final"):
            ours, theirs = getattr(some, name), getattr(every, name)
            assert (ours is None and theirs is None) or torch.equal(ours, theirs), (kept, name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_auto_equals_adjoint(tiny: FlatNet, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for no graph, for those of the last two of five steps, and for all; weights kept, or computed again."""
    problem = variants(tiny)[variant]
    every = InnerLoop(tiny, "adjoint")(problem)
    built: list[int] = []
    monkeypatch.setattr(inner, "_graph", counted(inner._graph, built))
    monkeypatch.setattr(inner, "_graph_bytes", lambda build: 100)
    for memory in (99, 299, 500):
        for kept in (None, 2):
            built.clear()
            assert_same(InnerLoop(tiny, "auto", kept=kept, memory=memory)(problem), every, 1e-10)
            assert len(built) == 5  # each step's once: those that are kept are not made again


def counted(make: Callable[..., Callable], built: list[int]) -> Callable[..., Callable]:
    """A maker of functions whose calls are counted."""

    def made(*given: object) -> Callable:
        function = make(*given)

        def call(*arguments: object) -> object:
            built.append(1)
            return function(*arguments)

        return call

    return made


def test_graphs_take_the_memory_that_is_told(tiny: FlatNet) -> None:
    """Of the last steps so many as fit; none where the loop is compiled."""
    problem = variants(tiny)["hard"]
    loop = InnerLoop(tiny, "auto", memory=2**40)
    assert loop._first_kept(problem) == 0
    (each,) = loop._bytes.values()
    assert each > tiny.size * 8
    loop.memory = 3 * each + each // 2
    assert loop._first_kept(problem) == len(problem.batches) - 3
    assert InnerLoop(tiny, "auto", lambda function: function).memory == 0
    assert InnerLoop(tiny, "adjoint", memory=2**40).memory == 0


def test_few_weights_are_kept(tiny: FlatNet) -> None:
    """Of 90 steps about 20 at once, and a step's gradient is computed at most once more."""
    seen: list[weakref.ref[Tensor]] = []
    most = 0

    def gradient(theta: Tensor, step: int) -> Tensor:
        nonlocal most
        seen.append(weakref.ref(theta))
        most = max(most, sum(one() is not None for one in seen))
        return torch.ones_like(theta)

    path = _Path(make_problem(tiny, steps=90), gradient, kept=30)
    for step in reversed(range(90)):
        path.before(step)
    assert most <= 21
    assert 90 < len(seen) <= 180


@pytest.mark.parametrize("variant", VARIANTS)
def test_higher_equals_unroll(tiny: FlatNet, variant: str) -> None:
    problem = variants(tiny)[variant]
    assert_same(InnerLoop(tiny, "higher")(problem), InnerLoop(tiny, "unroll")(problem))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("real loss",)])
def test_truncated_equals_detached_weights(tiny: FlatNet, variant: str) -> None:
    """Oracle: a plain loop in which every step's gradient is taken at detached weights."""
    problem = variants(tiny)[variant]
    images = problem.images.clone().requires_grad_()
    labels = problem.labels.clone().requires_grad_() if problem.soft else problem.labels
    lr = problem.lr.clone().requires_grad_()
    theta, velocity, outer = problem.start, torch.zeros_like(problem.start), torch.zeros(())
    for step in range(len(problem.batches)):
        at = theta.detach().requires_grad_()
        x, y = problem.batch(step, images, labels)
        (g,) = torch.autograd.grad(problem.scale_at(step) * problem.loss(tiny(at, x), y), at, create_graph=True)
        velocity = problem.momentum * velocity + g
        theta = theta - lr * velocity
        outer = outer + sum(term.value(theta) for term in problem.terms if term.step == step + 1)
    wanted = [images, lr, *([labels] if problem.soft else [])]
    grads = torch.autograd.grad(outer, wanted)
    result = InnerLoop(tiny, "truncated")(problem)
    for ours, oracle in zip([result.images, result.lr, result.labels], grads, strict=False):
        assert float((ours - oracle).abs().max()) <= TOLERANCE * float(oracle.abs().max())
    assert float((result.images - InnerLoop(tiny, "unroll")(problem).images).abs().max()) > 1e-6, (
        "truncated is not exact"
    )


def test_learned_step_sizes(tiny: FlatNet) -> None:
    problem = replace(make_problem(tiny), lr=torch.linspace(0.01, 0.09, 5, dtype=torch.float64))
    assert_same(InnerLoop(tiny, "adjoint")(problem), InnerLoop(tiny, "unroll")(problem))


@pytest.mark.parametrize("mode", ["adjoint", "unroll"])
def test_gradcheck(tiny: FlatNet, mode: str) -> None:
    """Central differences of the outer loss in every input."""
    problem = replace(make_problem(tiny, soft=True, steps=3, images=3), momentum=0.5)
    result = InnerLoop(tiny, mode)(problem)
    step = 1e-5
    for name in ("images", "labels", "lr", "start"):
        value, gradient = getattr(problem, name), getattr(result, name)
        flat = value.reshape(-1)
        for index in range(0, len(flat), max(1, len(flat) // 7)):
            both = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[index] += sign * step
                changed = replace(problem, **{name: moved.reshape(value.shape)})
                both.append(float(InnerLoop(tiny, "unroll")(changed).loss))
            assert (both[0] - both[1]) / (2 * step) == pytest.approx(
                float(gradient.reshape(-1)[index]), rel=1e-5, abs=1e-8
            )


@pytest.mark.parametrize("student", ["convnet-d2-w8-in", "convnet-d2-w8-bn", "mlp-d3-w128", "lenet"])
def test_students(student: str) -> None:
    net = FlatNet(build_student(student, channels=3, size=8, classes=3, seed=0).double())
    problem = make_problem(net, channels=3, size=8, steps=3)
    assert_same(InnerLoop(net, "adjoint")(problem), InnerLoop(net, "unroll")(problem))


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("mode", ["adjoint", "truncated"])
@pytest.mark.filterwarnings("ignore")  # the compiler's own deprecations
def test_compiled_equals_eager(soft: bool, mode: str) -> None:
    net = FlatNet(build_student("convnet-d2-w8-in", channels=1, size=8, classes=3, seed=0).double())
    problem = make_problem(net, size=8, steps=3, soft=soft)
    compiled = InnerLoop(net, mode, lambda function: torch.compile(function, dynamic=False))(problem)
    assert_same(compiled, InnerLoop(net, mode)(problem), 1e-10)


def test_match_anchors() -> None:
    start, target = torch.zeros(4), torch.ones(4)
    term = match_term(1, target, start)
    assert float(term.value(target)) == 0
    assert float(term.value(start)) == 1


def test_nonsense_is_refused(tiny: FlatNet) -> None:
    problem = make_problem(tiny)
    with pytest.raises(UserError, match="did you mean 'adjoint'"):
        InnerLoop(tiny, "adjoin")
    for wrong in ({"terms": []}, {"terms": [match_term(6, problem.start + 1, problem.start)]}, {"lr": torch.ones(3)}):
        with pytest.raises(ValueError, match=r"outer|lr has shape"):
            replace(problem, **wrong)
