"""What trajectory-matching methods compute, against references in float64 that share no code with them."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import EAGER, TINY, contents, digits_context
from torch import Tensor

from ddbench.cli.buffer import EXAMPLES, Args
from ddbench.cli.parse import parse
from ddbench.config import recorded_config
from ddbench.experts.recipe import IMPORTED
from ddbench.experts.store import find_stores
from ddbench.methods import METHODS, tesla
from ddbench.methods.base import Context, Distilled, NotFiniteError, State
from ddbench.methods.families.trajectory import TrajectoryMethod, bytes_of
from ddbench.methods.ftd import FTD, FTDConfig
from ddbench.methods.mtt import MTT, MTTConfig
from ddbench.methods.needs.experts import Experts
from ddbench.methods.parts.canvas import moving_average
from ddbench.methods.parts.masking import MaskConfig
from ddbench.methods.parts.segments import Segment, Segments, synset_batches
from ddbench.methods.tesla import TESLA, TESLAConfig
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.synset import read_synset
from ddbench.training.flat import FlatNet
from ddbench.training.inner import InnerLoop
from ddbench.training.sgd import SGD

STEPS = 4
CLASSES, WIDTH, SIDE = 10, 4, 8
SMALL: dict[str, Any] = {
    "iterations": 4, "student_steps": STEPS, "expert_epochs": 2, "max_start_epoch": 3, "lr_images": 10.0,
    "lr_student": 0.05, "lr_lr": 1e-4,
}  # fmt: skip
EXACT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture
def context(tiny_experts: Path, data_root: Path, tmp_path: Path) -> Context:
    return digits_context(data_root, tmp_path / "run", seed=3).give(Experts, find_stores(tiny_experts)[0])


def ready(kind: type[TrajectoryMethod[Any]], context: Context, **values: Any) -> Any:
    config = kind.config_class(**{**SMALL, **values})
    kind.check(config, context)
    method = kind(config, context)
    method.setup()
    return method


def in_double(method: Any) -> Any:
    """The method with everything that it computes with in float64."""
    for learned in (method.canvas, method.rate):
        learned.value = learned.value.double()
        learned.optimizer = SGD([learned.value], learned.lr, method.config.momentum)
    method.inner = InnerLoop(FlatNet(method.context.network(0)).to("cpu", torch.float64), method.inner_mode)
    plain = method.draw_segment

    def double(iteration: int) -> Segment:
        segment = plain(iteration)
        targets = {after: target.double() for after, target in segment.targets.items()}
        return dataclasses.replace(segment, start=segment.start.double(), targets=targets)

    method.draw_segment = double
    return method


def student(theta: Tensor, x: Tensor) -> Tensor:
    """The tiny ConvNet written out: convolution, instance norm with scale and shift, ReLU, pool, linear layer."""
    sizes = [WIDTH * 9, WIDTH, WIDTH, WIDTH, CLASSES * WIDTH * 16, CLASSES]
    kernel, bias, scale, shift, weight, offset = theta.split(sizes)
    x = F.conv2d(x, kernel.view(WIDTH, 1, 3, 3), bias, padding=1)
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    x = (x - mean) / (variance + 1e-5).sqrt() * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    x = x.clamp(min=0)
    x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    return x.flatten(1) @ weight.view(CLASSES, -1).T + offset


def gradient_of_step(theta: Tensor, x: Tensor, shares: Tensor) -> Tensor:
    """Gradient of the mean cross-entropy with probabilities, by the weights, which stay variables."""
    logits = student(theta, x)
    loss = -(shares * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()
    return torch.autograd.grad(loss, theta, create_graph=True)[0]


def tesla_by_its_paper(segment: Segment, images: Tensor, shares: Tensor, beta: float) -> tuple[float, Tensor, float]:
    """Loss, image gradient and gradient of beta by the two passes of the paper: G first, then step by step."""
    start, target = segment.start, segment.target
    d = float((start - target).square().sum())
    theta, total, thetas = start.clone(), torch.zeros_like(start), []
    for index in segment.batches:
        x, y = (images, shares) if index is None else (images[index], shares[index])
        thetas.append(theta.detach().requires_grad_())
        g = gradient_of_step(thetas[-1], x, y).detach()
        total += g
        theta = theta - beta * g
    end = start - beta * total
    c = 2 / d * (beta * (target - start) + beta**2 * total)
    found = torch.zeros_like(images)
    for leaf, index in zip(thetas, segment.batches, strict=True):
        x = (images if index is None else images[index]).detach().clone().requires_grad_()
        y = shares if index is None else shares[index]
        (part,) = torch.autograd.grad(c @ gradient_of_step(leaf, x, y), x)
        found[slice(None) if index is None else index] += part
    return float((end - target).square().sum()) / d, found, float(-2 / d * (end - target) @ total)


def mtt_by_autograd(segment: Segment, images: Tensor, shares: Tensor, beta: float) -> tuple[float, Tensor, float]:
    """The same by autograd through all steps."""
    x, rate = images.detach().clone().requires_grad_(), torch.tensor(beta, dtype=torch.float64, requires_grad=True)
    theta = segment.start.clone().requires_grad_()
    for index in segment.batches:
        chosen = slice(None) if index is None else index
        theta = theta - rate * gradient_of_step(theta, x[chosen], shares[chosen])
    start, target = segment.start, segment.target
    loss = (theta - target).square().sum() / (start - target).square().sum()
    by_images, by_rate = torch.autograd.grad(loss, (x, rate))
    return float(loss.detach()), by_images, float(by_rate)


@pytest.mark.parametrize("batch", [0, 7])
@pytest.mark.parametrize("labels", ["hard", "expert"])
@pytest.mark.parametrize(("gradient", "reference"), [("truncated", tesla_by_its_paper), ("exact", mtt_by_autograd)])
def test_tesla(batch: int, labels: str, gradient: str, reference: Callable, context: Context):
    method = in_double(ready(TESLA, context, gradient=gradient, labels=labels, batch_syn=batch, augmentation="none"))
    images = method.images.detach().clone()
    for iteration in (0, 1):
        segment = method.draw_segment(iteration)
        assert len(segment.batches) == STEPS
        assert all(index is None or len(index) <= 7 for index in segment.batches)
        shares = F.one_hot(torch.arange(CLASSES).repeat_interleave(2), CLASSES).double()
        if labels == "expert":
            shares = student(segment.target, images).softmax(1)
            torch.testing.assert_close(method.labels(segment).softmax(1), shares, **EXACT)
        result = method.inner(method.problem(segment))
        loss, by_images, by_rate = reference(segment, images, shares, float(method.learned_lr))
        assert float(result.loss) == pytest.approx(loss, rel=1e-10)
        torch.testing.assert_close(result.images, by_images, **EXACT)
        assert float(result.lr) == pytest.approx(by_rate, rel=1e-10)


def test_the_two_gradients_of_tesla_differ(context: Context):
    """Same loss, other gradients: the test above could not pass with one in place of the other."""
    results = []
    for gradient in ("truncated", "exact"):
        method = in_double(ready(TESLA, context, gradient=gradient, augmentation="none"))
        results.append(method.inner(method.problem(method.draw_segment(0))))
    truncated, exact = results
    assert float(truncated.loss) == float(exact.loss)
    gap = float((truncated.images - exact.images).norm() / exact.images.norm())
    assert 1e-3 < gap < 0.5


def test_digits_are_not_mirrored(context: Context):
    method = ready(MTT, context, augmentation="flip_crop")
    assert (method.augmentation, method.segments.strategy.ops) == ("crop", ("crop",))


def test_soft_labels_of_the_product(context: Context):
    """They are what the last segment's target says of the delivered images, and have moved with both."""
    method = ready(TESLA, context, labels="expert")
    before = method.distilled()
    assert before.labels.shape == (20, CLASSES)
    segment = method.draw_segment(0)
    wanted = student(segment.target.double(), before.images.double())
    torch.testing.assert_close(before.labels.double(), wanted, rtol=1e-4, atol=1e-4)
    for iteration in range(3):
        method.step(iteration)
    after = method.distilled()
    target = method.draw_segment(2).target
    torch.testing.assert_close(
        after.labels.double(), student(target.double(), after.images.double()), rtol=1e-4, atol=1e-4
    )
    kept = after.labels.clone()
    method.step(3)
    assert torch.equal(after.labels, kept), "a product is a copy"
    assert not torch.equal(method.distilled().labels, kept)


def test_soft_labels_are_asked_in_batches(context: Context, monkeypatch: pytest.MonkeyPatch):
    """So that the method's memory does not grow with the synset."""
    whole = ready(TESLA, context, labels="expert")
    monkeypatch.setattr(tesla, "BATCH", 3)
    method, seen = ready(TESLA, context, labels="expert"), []
    net = method.inner.net

    class Watched:
        module = net.module

        def __call__(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return net(theta, x)

    monkeypatch.setattr(method.inner, "net", Watched())
    segment = method.draw_segment(0)
    torch.testing.assert_close(method.expert_labels(segment), whole.expert_labels(segment), rtol=1e-5, atol=1e-5)
    assert seen == [3] * 6 + [2]


def test_tesla_with_soft_labels_goes_on_from_its_state(context: Context):
    whole, first, second = (ready(TESLA, context, labels="expert") for _ in range(3))
    for iteration in range(4):
        whole.step(iteration)
    for iteration in range(2):
        first.step(iteration)
    state = first.state()
    second.load_state(State(tensors={name: value.clone() for name, value in state.tensors.items()}))
    assert same(first.distilled(), second.distilled())
    for iteration in range(2, 4):
        second.step(iteration)
    assert same(whole.distilled(), second.distilled())


def same(one: Distilled, two: Distilled) -> bool:
    assert one.learned_lr is not None
    assert two.learned_lr is not None
    return (
        torch.equal(one.images, two.images)
        and torch.equal(one.labels, two.labels)
        and torch.equal(one.learned_lr, two.learned_lr)
    )


@pytest.mark.parametrize("parametrisation", ["raw", "log"])
def test_learned_rate_descends_in_what_is_learned(parametrisation: str, context: Context):
    """beta, or log beta, moves by lr_lr times the slope of the matching loss in it, here by differences."""
    method = in_double(ready(MTT, context, lr_parametrisation=parametrisation, augmentation="none"))
    assert float(method.learned_lr) == pytest.approx(SMALL["lr_student"])
    segment, learned = method.draw_segment(0), method.rate.value
    before = learned.clone()

    def loss(raw: Tensor) -> float:
        method.rate.value = raw
        return float(method.inner(method.problem(segment)).loss)

    small = 1e-5
    slope = (loss(before + small) - loss(before - small)) / (2 * small)
    method.rate.value = learned
    method.step(0)
    assert abs(slope) > 1e-3, "the comparison would be empty"
    assert float(before - method.rate.value) == pytest.approx(SMALL["lr_lr"] * slope, rel=1e-6)


def test_synset_batches_are_taken_from_the_end():
    """Permutations in pieces from the left, used from the right: what remains of one comes first."""
    found = synset_batches(10, 4, 7, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    wanted: list[Tensor] = []
    for _ in range(3):
        order = torch.randperm(10, generator=generator)
        wanted += [order[8:], order[4:8], order[:4]]
    assert [batch.tolist() for batch in found if batch is not None] == [order.tolist() for order in wanted[:7]]


def test_synset_batches_of_the_whole_set():
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    for batch in (0, 10, 11):
        assert synset_batches(10, batch, 3, generator) == [None] * 3
    assert torch.equal(generator.get_state(), before), "nothing is drawn"
    assert [len(batch) for batch in synset_batches(10, 9, 2, generator) if batch is not None] == [1, 9]


@pytest.mark.parametrize("part", ["loss", "images", "lr"])
def test_step_that_is_not_finite_is_refused(part: str, context: Context, monkeypatch: pytest.MonkeyPatch):
    """One bad number in the loss or in one gradient is enough, and nothing moves."""
    method = ready(MTT, context)
    before = {name: tensor.clone() for name, tensor in method.state().tensors.items()}
    inner = method.inner

    def spoiled(problem: Any) -> Any:
        result = inner(problem)
        getattr(result, part).view(-1)[0] = float("nan")
        return result

    monkeypatch.setattr(method, "inner", spoiled)
    with pytest.raises(NotFiniteError, match=r"matching loss is .*--lr-images 10 is too high"):
        method.step(0)
    after = method.state().tensors
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("beta", "start_epoch", "cause"),
    [
        (-0.1, 2, r"the learned lr is -0\.1: use --lr-parametrisation log"),
        (0.0, 0, r"the learned lr is 0: use --lr-parametrisation log"),
        (0.6, 2, r"the learned lr grew from 0\.05 to 0\.6: use a smaller --lr-lr"),
        (0.4, 2, r"a late start epoch \(2\): lower --max-start-epoch or --lr-images"),
        (0.4, 1, r"--lr-images 10 is too high for this synset: divide it by 10"),
    ],
)
def test_likely_cause_of_what_is_not_finite(beta: float, start_epoch: int, cause: str, context: Context):
    """The rate first, then the segment, then the images; a start in the first half is not late."""
    method = ready(MTT, context)
    segment = dataclasses.replace(method.draw_segment(0), start_epoch=start_epoch)
    result = method.inner(method.problem(segment))
    method.guard(segment, result)
    method.rate.value = torch.tensor(beta)
    result.images.fill_(float("inf"))
    with pytest.raises(NotFiniteError, match=f"likely cause: {cause}"):
        method.guard(segment, result)


def test_order_of_the_experts():
    """``cycle``: each once a round, in another order; ``uniform``: any."""

    def rows(expert: int, *epochs: int) -> list[Tensor]:
        return [torch.full((3,), float(epoch)) for epoch in epochs]

    def followed(order: Any) -> list[int]:
        store: Any = SimpleNamespace(indices=[2, 5, 7, 11], rows=rows)
        segments = Segments(store=store, seed=0, order=order, batch=0, steps=1, strategy=None, mask=MaskConfig())
        return [segments.draw(iteration, (0, 2), (1,), torch.zeros(2, 1, 4, 4)).expert for iteration in range(40)]

    rounds = [tuple(followed("cycle")[first : first + 4]) for first in range(0, 40, 4)]
    assert all(sorted(one) == [2, 5, 7, 11] for one in rounds)
    assert len(set(rounds)) > 1
    drawn = followed("uniform")
    assert set(drawn) == {2, 5, 7, 11}
    assert any(len(set(drawn[first : first + 4])) < 4 for first in range(0, 40, 4))


def test_one_seed_gives_the_family_the_same_segments(context: Context):
    """MTT, FTD and TESLA start from the same images and follow the same segments: differences are the methods'."""
    methods = [ready(kind, context, batch_syn=7) for kind in (MTT, FTD, TESLA)]
    for method in methods[1:]:
        assert torch.equal(method.images, methods[0].images)
    for iteration in range(3):
        first, *others = [method.draw_segment(iteration) for method in methods]
        for other in others:
            assert (other.expert, other.start_epoch) == (first.expert, first.start_epoch)
            assert repr(other.draws) == repr(first.draws)
            assert torch.equal(other.start, first.start)
            assert all(torch.equal(a, b) for a, b in zip(other.batches, first.batches, strict=True))
    # the exact gradient makes TESLA's steps MTT's
    exact = ready(TESLA, context, batch_syn=7, gradient="exact")
    for iteration in range(3):
        assert exact.step(iteration) == methods[0].step(iteration)
    assert same(exact.distilled(), methods[0].distilled())


def test_average_of_ftd(context: Context):
    """The product is the average by its definition; images and rate move as MTT's do on the same experts."""
    method, plain = ready(FTD, context, ema=0.75), ready(MTT, context)
    average = plain.images.detach().double().clone()
    for iteration in range(4):
        assert method.step(iteration) == plain.step(iteration)
        average = 0.75 * average + 0.25 * plain.images.detach().double()
        torch.testing.assert_close(method.distilled().images.double(), average, rtol=1e-5, atol=1e-5)
    assert torch.equal(method.images, plain.images)
    assert method.distilled().learned_lr == plain.distilled().learned_lr
    assert not torch.equal(method.distilled().images, method.images)
    none = ready(FTD, context, ema=0.0)
    for iteration in range(4):
        none.step(iteration)
    assert torch.equal(none.distilled().images, none.images)


def test_moving_average():
    one, two = torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor([5.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(moving_average(one, two, 0.9), torch.tensor([1.4, 2.6], dtype=torch.float64), **EXACT)
    assert torch.equal(one, torch.tensor([1.0, 3.0], dtype=torch.float64)), "a new tensor"


def test_settings_of_ftd(context: Context):
    for ema in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="--ema"):
            FTD.check(FTDConfig(**{**SMALL, "ema": ema}), context)
    with pytest.raises(UserError, match="at least 5 epochs"):
        TESLA.check(TESLAConfig(**{**SMALL, "max_start_epoch": 4}), context)
    with pytest.raises(UserError, match="--student-steps 0"):
        MTT.check(MTTConfig(**{**SMALL, "student_steps": 0}), context)


TOO_LONG: dict[str, dict[str, int]] = {
    "starts too late": {"max_start_epoch": 4},
    "goes too far": {"expert_epochs": 6, "max_start_epoch": 2},
    "both": {"expert_epochs": 5, "max_start_epoch": 6},
    "from a late start": {"min_start_epoch": 2, "max_start_epoch": 4, "expert_epochs": 3},
    "from the last epoch": {"min_start_epoch": 4, "max_start_epoch": 5},
}


@pytest.mark.parametrize("values", TOO_LONG.values(), ids=TOO_LONG)
@pytest.mark.parametrize("imported", [False, True])
def test_what_is_advised_where_experts_are_too_short_helps(values: dict[str, int], imported: bool, context: Context):
    store = context.given(Experts)
    own = dataclasses.replace(store.recipe, holdout=0.1, augmentation="none", lr=0.02)
    short = dataclasses.replace(store, recipe=dataclasses.replace(own, kind=IMPORTED) if imported else own)
    config = FTDConfig(**{**SMALL, **values})
    with pytest.raises(UserError, match="needs experts of at least") as told:
        FTD.check(config, context.give(Experts, short))
    advice, command = re.fullmatch(r".* have 4: (.*)record longer experts with: (.*)", str(told.value)).groups()
    found = {flag.replace("-", "_"): int(number) for flag, number in re.findall(r"--(\S+) to (\d+)", advice)}
    assert bool(found) == (values != TOO_LONG["from the last epoch"])
    if found:
        FTD.check(dataclasses.replace(config, **found), context)
    words = shlex.split(command)
    args = parse(Args, words[2:], "ddbench buffer", "", EXAMPLES)
    needed = config.max_start_epoch - 1 + config.expert_epochs
    assert args.settings == dataclasses.replace(own, epochs=needed, kind="gsam" if imported else "sgd")
    assert (args.dataset, args.student, args.experts) == ("digits", TINY, 2)
    assert args.buffers == store.folder.parents[2]


def test_tesla_with_soft_labels_from_the_command_line(ddb: Callable, tiny_experts: Path, tmp_path: Path):
    """Same bytes twice; the synset can be scored."""
    argv = [
        *("distill", "--method", "tesla", "--dataset", "digits", "--ipc", 1, "--student", TINY, "--recipe", "none"),
        *("--iterations", 2, "--student-steps", 2, "--expert-epochs", 1, "--max-start-epoch", 2, "--lr-images", 1),
        *("--labels", "expert", "--validate-every", 2, "--validate-epochs", 2),
        *("--buffers", tiny_experts, "--quiet", *EAGER),
    ]
    for name in ("one", "two"):
        result = ddb(*argv, "--out", tmp_path / name)
        assert result.code == 0, result.err
    assert contents(tmp_path / "one", "cost.json") == contents(tmp_path / "two", "cost.json")
    assert read_synset(tmp_path / "one" / "synset.safetensors").labels.shape == (10, CLASSES)
    scored = ddb(
        "evaluate", tmp_path / "one", "--protocol", "soft-v1", "--students", TINY, "--seeds", 1, "--epochs", 2,
        "--workers", 1, "--max-images", 50, "--quiet", *EAGER,
    )  # fmt: skip
    assert scored.code == 0, scored.err


# --- the memory of --inner auto --------------------------------------------------------------------------------------


def test_auto_keeps_graphs_in_its_memory_and_is_recorded_only_where_it_is_asked_for(context: Context) -> None:
    assert ready(MTT, context, inner="auto", memory="1.5G").inner.memory == 3 * 2**29
    assert ready(MTT, context, inner="auto").inner.memory == 2**31
    assert ready(MTT, context).inner.memory == 0
    assert "memory" not in recorded_config(MTTConfig())
    for wrong in ("8", "G", "-1G", "8GB", "1e9", ""):
        with pytest.raises(UserError, match="--memory"):
            ready(MTT, context, inner="auto", memory=wrong)


@pytest.mark.parametrize(("free", "held", "used", "kept"), [(130, 4, 1, 35), (40, 4, 1, 21), (1, 0, 0, 0)])
def test_auto_on_a_gpu_keeps_what_there_is_room_for(
    free: int, held: int, used: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of the GPU, at most half of what nobody has; 2 GiB do not fit on a full one."""
    gib = 2**30
    for name, value in {"mem_get_info": (free * gib, 140 * gib), "memory_reserved": held * gib}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: used * gib)
    assert bytes_of(MTTConfig(inner="auto"), torch.device("cuda", 1)) // gib == kept
    assert bytes_of(MTTConfig(inner="auto", memory="8G"), torch.device("cuda")) == 8 * gib


INNER = [name for name in METHODS if {"inner", "memory"} <= set(dir(METHODS.get(name).config_class))]


def test_methods_with_graphs_to_keep() -> None:
    assert INNER == ["ast", "datm", "ddif-mtt", "fred-mtt", "ftd", "mtt"]


@pytest.mark.parametrize("name", INNER)
def test_memory_has_no_meaning_without_auto(name: str) -> None:
    """Also where it is the size that auto has by default."""
    config, cpu = METHODS.get(name).config_class, torch.device("cpu")
    assert bytes_of(config(), cpu) == 0
    assert bytes_of(config(inner="auto"), cpu) == 2**31
    for inner in ("adjoint", "unroll", "truncated", "higher"):
        with pytest.raises(UserError, match=f"--memory 2G has no meaning with --inner {inner}.*--inner auto"):
            bytes_of(config(inner=inner, memory="2G"), cpu)


def test_memory_without_auto_is_one_line_and_nothing_is_written(
    ddb: Callable, tiny_experts: Path, tmp_path: Path
) -> None:
    argv = [
        *("distill", "--dataset", "digits", "--ipc", 1, "--student", TINY, "--recipe", "none", "--quiet", *EAGER),
        *("--out", tmp_path / "out"),
    ]
    experts = ("--max-start-epoch", 2, "--expert-epochs", 1, "--buffers", tiny_experts)
    for more in (
        ("--method", "mtt", *experts, "--memory", "8G"),
        ("--method", "pdd", "--stages", 1, *experts, "--base-options", "memory=8G"),
        ("--method", "tesla", *experts, "--memory", "8G"),
        ("--method", "dd", "--memory", "8G"),
    ):
        refused = ddb(*argv, *more)
        assert refused.code == 2
        assert refused.err.count("\n") == 1
        assert "--memory" in refused.err
        assert not (tmp_path / "out").exists()


def test_auto_says_where_it_keeps_nothing(
    context: Context, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = dataclasses.replace(context, console=Console())
    ready(MTT, loud, inner="auto", memory="8G")
    assert "keeps no graphs" not in capsys.readouterr().err
    monkeypatch.setattr("ddbench.runtime.device.choose_compiler", lambda *_: lambda step: step)
    assert ready(MTT, loud, inner="auto", memory="8G").inner.memory == 0
    assert "--inner auto keeps no graphs where steps are compiled" in capsys.readouterr().err
