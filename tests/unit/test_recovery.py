"""Recovering images from a teacher: the losses, the views, the curricula, and the methods built on them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import EAGER
from torch import Tensor, nn

from ddbench.data.dataset import Split, class_indices
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.methods import METHODS
from ddbench.methods.base import Context, NotFiniteError, State
from ddbench.methods.cudd import CUDD, CUDDConfig, GuideTraining, adversarial_loss, choose, parse_phases
from ddbench.methods.families.recovery import Batch, Iterate, adam_step, crop_lower_bound, shared_view
from ddbench.methods.guard import GUARD, GUARDConfig, learned_little
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.methods.sre2l import SRe2L, SRe2LConfig
from ddbench.networks.build import build_student
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.teachers.recipe import TeacherRecipe
from ddbench.teachers.store import Teacher, find_teacher
from ddbench.teachers.train import train_teacher
from ddbench.training.statistics_matching import (
    Statistics,
    batch_norms,
    input_statistics,
    observe,
    running_statistics,
    statistics_loss,
)

STUDENT = "convnet-d2-w4-bn"
GUIDE = "convnet-d1-w4-in"
CLASSES = 10


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# Batch-norm statistics


@pytest.mark.parametrize("first_weight", [10.0, 1.0])
def test_statistics_loss_and_its_gradient(first_weight: float):
    """Against the closed form in float64, layer by layer, for inputs of several shapes."""
    inputs = [randn(3, 4, 5, 5, seed=1), randn(3, 2, 7, 7, seed=2), randn(3, 6, seed=3)]
    running = [Statistics(randn(x.shape[1], seed=9), randn(x.shape[1], seed=8).exp()) for x in inputs]
    leaves = [x.clone().requires_grad_() for x in inputs]
    loss = statistics_loss([input_statistics(x) for x in leaves], running, first_weight)
    gradients = torch.autograd.grad(loss, leaves)
    expected = 0.0
    for position, (x, target) in enumerate(zip(inputs, running, strict=True)):
        weight = first_weight if position == 0 else 1.0
        columns = x.movedim(1, -1).reshape(-1, x.shape[1])
        mean = columns.sum(0) / len(columns)
        variance = (columns - mean).square().sum(0) / len(columns)
        off_mean, off_variance = mean - target.mean, variance - target.variance
        far_mean, far_variance = math.sqrt(float(off_mean @ off_mean)), math.sqrt(float(off_variance @ off_variance))
        expected += weight * (far_mean + far_variance)
        shape = (1, -1, *[1] * (x.ndim - 2))
        by_hand = (off_mean / far_mean).view(shape) + (off_variance / far_variance).view(shape) * 2 * (
            x - mean.view(shape)
        )
        torch.testing.assert_close(gradients[position], weight * by_hand / len(columns), rtol=0, atol=1e-10)
    assert loss.item() == pytest.approx(expected, abs=1e-10)


def test_statistics_loss_needs_layers():
    with pytest.raises(ValueError, match="no batch-norm layer"):
        statistics_loss([], [])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        statistics_loss([], [Statistics(torch.zeros(1), torch.ones(1))])


@pytest.fixture
def net() -> nn.Module:
    """Two batch norms with statistics of their own, float64, in evaluation mode."""
    made = build_student(STUDENT, channels=1, size=8, classes=CLASSES, seed=0).double()
    for position, layer in enumerate(batch_norms(made)):
        layer.running_mean.copy_(randn(4, seed=position))
        layer.running_var.copy_(randn(4, seed=10 + position).exp())
    return made.eval()


def test_observe_sees_the_inputs_of_batch_norms(net: nn.Module):
    x = randn(5, 1, 8, 8)
    logits, seen = observe(net, x)
    torch.testing.assert_close(logits, net(x), rtol=0, atol=0)
    one, two = net.stages
    first = one.conv(x)
    second = two.conv(F.avg_pool2d(F.relu(one.norm(first)), 2))
    for statistics, inputs in zip(seen, (first, second), strict=True):
        torch.testing.assert_close(statistics.mean, inputs.mean((0, 2, 3)), rtol=0, atol=1e-12)
        torch.testing.assert_close(statistics.variance, inputs.var((0, 2, 3), unbiased=False), rtol=0, atol=1e-12)


def test_observe_leaves_the_network_alone(net: nn.Module):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x = randn(3, 1, 8, 8).requires_grad_()
    logits, seen = observe(net, x)
    (logits.sum() + statistics_loss(seen, running_statistics(net))).backward()
    with pytest.raises(RuntimeError):
        observe(net, randn(3, 2, 8, 8))  # other channels
    for name, tensor in net.state_dict().items():
        assert torch.equal(before[name], tensor), name
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in net.modules())
    assert not net.training
    with pytest.raises(ValueError, match="training mode"):
        observe(net.train(), x)


def test_running_statistics_are_copies(net: nn.Module):
    kept = running_statistics(net)
    batch_norms(net)[0].running_mean.add_(1)
    assert not torch.equal(kept[0].mean, running_statistics(net)[0].mean)


def test_a_layer_that_is_not_reached():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ValueError, match="not used"):
        observe(Odd().eval(), torch.zeros(2, 1, 3, 3))


def test_norms_without_statistics_do_not_count():
    names = ("convnet-d2-w4-in", "convnet-d2-w4-gn", "convnet-d2-w4-ln", "mlp-d3-w8")
    assert all(not batch_norms(build_student(name, channels=1, size=8, classes=3, seed=0)) for name in names)


# Curriculum of crops


def test_crop_lower_bound():
    """Against the formulas, in every iteration."""
    total, milestone, least = 20, 0.6, 0.08
    for i in range(total):
        fallen = i >= 12
        for schedule, expected in (
            ("none", 0.08),
            ("step", 0.08 if fallen else 1.0),
            ("linear", 0.08 if fallen else 0.08 + 0.92 * (1 - i / 12)),
            ("cosine", 0.08 if fallen else 0.08 + 0.92 * (1 + math.cos(math.pi * i / 12)) / 2),
        ):
            found = crop_lower_bound(schedule, i, total, milestone, least)  # type: ignore[arg-type]
            assert found == pytest.approx(expected, abs=1e-10), (schedule, i)


@pytest.mark.parametrize("schedule", ["step", "linear", "cosine"])
def test_ends_of_the_curriculum(schedule: Any):
    """Whole images first; at milestone 0 it is SRe2L from the start, at 1 it lasts to the end."""
    assert crop_lower_bound(schedule, 0, 10, 1.0, 0.3) == 1
    assert [crop_lower_bound(schedule, i, 10, 0.0, 0.3) for i in range(10)] == [0.3] * 10
    assert crop_lower_bound(schedule, 9, 10, 1.0, 0.3) > 0.3
    middle = crop_lower_bound(schedule, 5, 10, 1.0, 0.3)
    assert middle == pytest.approx(1 if schedule == "step" else 0.65)


# Views


def view(x: Tensor, seed: int = 0, **options: Any) -> Tensor:
    settings: dict[str, Any] = {"crop_scale": 0.3, "flip": True, "jitter": 2, "signed": False, **options}
    return shared_view(x, **settings, generator=generator(seed))


@pytest.mark.parametrize("seed", range(5))
def test_one_view_for_the_whole_batch(seed: int):
    x = randn(4, 3, 9, 9)
    together = view(x, seed)
    for position in range(4):
        torch.testing.assert_close(together[position], view(x[position : position + 1], seed)[0], rtol=0, atol=0)
    same = view(x[:1].expand(4, -1, -1, -1), seed)
    assert all(torch.equal(same[0], other) for other in same)


def test_views_of_nothing_but_shifts():
    x = randn(2, 1, 6, 6)
    assert torch.equal(view(x, crop_scale=1.0, flip=False, jitter=0), x)
    for signed, allowed in ((False, range(3)), (True, range(-2, 3))):
        shifts = set()
        for seed in range(200):
            moved = view(x, seed, crop_scale=1.0, flip=False, signed=signed)
            fitting = [
                (down, right)
                for down in range(-2, 3)
                for right in range(-2, 3)
                if torch.equal(moved, x.roll((down, right), (2, 3)))
            ]
            assert len(fitting) == 1
            shifts.add(fitting[0])
        assert shifts == {(down, right) for down in allowed for right in allowed}


def test_crops_and_flips():
    """A ramp from left to right: cut, it is less steep; mirrored, it falls."""
    x = torch.arange(8.0).expand(1, 1, 8, 8)
    spans = [(v[..., -1] - v[..., 0]).mean().item() for v in (view(x, s, jitter=0) for s in range(200))]
    assert 0.4 < sum(span > 0 for span in spans) / 200 < 0.6
    assert max(map(abs, spans)) <= 7
    assert min(map(abs, spans)) < 4
    assert all(
        span == 7
        for span in ((v[..., -1] - v[..., 0]).mean().item() for v in [view(x, 3, crop_scale=1.0, flip=False, jitter=0)])
    )


def test_views_have_gradients():
    x = randn(2, 1, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: view(z, 4), x)


# Adam


def test_adam_is_the_librarys():
    """With SRe2L's betas, in float64, the learning rate changing."""
    x = randn(3, 2, 4, 4)
    theirs = x.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=1.0, betas=(0.5, 0.9), eps=1e-8)
    ours = Iterate(x=x, first=torch.zeros_like(x), second=torch.zeros_like(x))
    for step in range(6):
        gradient, rate = randn(3, 2, 4, 4, seed=step + 1), 0.25 * (6 - step)
        theirs.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        before = ours.x.clone()
        moved = adam_step(ours, gradient, step, rate)
        assert torch.equal(ours.x, before), "a step that is not taken changes nothing"
        ours = moved
        torch.testing.assert_close(ours.x, theirs.detach(), rtol=0, atol=1e-12)


# CUDD's parts


def test_adversarial_loss_and_its_gradient():
    """Against plain Python in float64; views that the teacher gets wrong count in the mean and push nothing."""
    guide, teacher = randn(6, 4, seed=1).requires_grad_(), randn(6, 4, seed=2)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    teacher[torch.arange(4), labels[:4]] = 9.0
    teacher[4:, 3] = 9.0
    loss = adversarial_loss(guide, teacher, labels)
    (gradient,) = torch.autograd.grad(loss, guide)
    total, expected = 0.0, torch.zeros(6, 4, dtype=torch.float64)
    for b in range(6):
        scores = guide[b].tolist() if b < 4 else [0.0] * 4
        powers = [math.exp(s) for s in scores]
        p = [power / sum(powers) for power in powers]
        y = int(labels[b])
        total -= math.log(1 - p[y] + 1e-12) / 6
        if b < 4:
            for k in range(4):
                expected[b, k] = p[y] * ((k == y) - p[k]) / (1 - p[y] + 1e-12) / 6
    assert loss.item() == pytest.approx(total, abs=1e-10)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)
    assert not bool(gradient[4:].any())
    wrong = adversarial_loss(guide[4:], teacher[4:], labels[4:])
    assert wrong.item() == pytest.approx(-math.log(1 - 1 / 4), abs=1e-10)


def test_adversarial_loss_where_the_guide_is_sure():
    logits = torch.tensor([[1000.0, 0.0]], dtype=torch.float64)
    assert adversarial_loss(logits, logits, torch.tensor([0])).item() == pytest.approx(-math.log(1e-12))


def test_choose():
    """Teacher right and guide wrong; both wrong; any: in this order, equals as shuffled."""
    order = torch.tensor([5, 4, 3, 2, 1, 0])
    teacher = torch.tensor([True, True, False, False, True, False])
    guide = torch.tensor([True, False, False, True, False, True])
    assert choose(order, teacher, guide, 6).tolist() == [4, 1, 2, 5, 3, 0]
    assert choose(order, teacher, guide, 2).tolist() == [4, 1]
    assert choose(order, teacher, None, 4).tolist() == [4, 1, 0, 5]
    assert choose(order[1:3], teacher, guide, 1).tolist() == [4]
    with pytest.raises(ValueError, match="6 images are left, 7 are wanted"):
        choose(order, teacher, guide, 7)


@pytest.mark.parametrize(
    ("text", "ipc", "expected"),
    [("auto", 1, (1,)), ("auto", 10, (5, 10)), ("auto", 3, (1, 3)), ("10", 10, (10,)), ("2, 5,10", 10, (2, 5, 10))],
)
def test_phases(text: str, ipc: int, expected: tuple[int, ...]):
    assert parse_phases(text, ipc) == expected


@pytest.mark.parametrize(
    "text", ["", "5", "5,20", "10,5", "5,5,10", "0,10", "5;10", "-5,10", "x,10", "5,,10", f"{10**99},10"]
)
def test_phases_that_are_none(text: str):
    with pytest.raises(UserError, match=r"--phases .*: expected ascending numbers .* end with --ipc 10"):
        parse_phases(text, 10)


# The methods


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A store with a plain teacher of digits, and one with GUARD's default penalty."""
    root = tmp_path_factory.mktemp("teachers")
    for penalty in ("none", "curvature"):
        train_teacher(
            root=root,
            dataset=load_dataset("digits", data_root),
            data=data_root,
            student=STUDENT,
            recipe=TeacherRecipe(
                epochs=12, batch=32, penalty=penalty, penalty_step=0.5 if penalty == "curvature" else 3.0
            ),
            device="cpu",
            threads=1,
            compile="off",
            console=Console(quiet=True),
        )
    return root


PENALTY = {"penalty": "curvature", "penalty_weight": 100.0, "penalty_step": 0.5}
SMALL: dict[str, dict[str, Any]] = {
    "sre2l": {"iterations": 3},
    "cda": {"iterations": 3},
    "cudd": {"iterations": 2, "guide_epochs": 2, "phases": "1,2,3", "crop_scale": 0.4},
    "guard": {"iterations": 3, "penalty_step": 0.5, "curriculum": "linear", "crop_scale": 0.5},
}


@pytest.fixture
def context(teachers: Path, data_root: Path, tmp_path: Path) -> Context:
    """Few real images, so that looking at all of them is quick."""
    dataset = load_dataset("digits", data_root)
    index = torch.cat([part[:20] for part in class_indices(dataset.train.labels, CLASSES)])
    train = Split(dataset.train.images[index], dataset.train.labels[index])
    teacher = find_teacher(teachers)
    assert teacher is not None
    return Context(
        dataset=dataset,
        train=train,
        held_out=train,
        preprocess=fit_preprocess(dataset, "meanstd"),
        ipc=3,
        student=GUIDE,
        seed=0,
        device=torch.device("cpu"),
        folder=tmp_path,
        compile="off",
        console=Console(quiet=True),
        architectures={"teacher": STUDENT},
    ).give(TrainedTeacher, teacher)


def fresh(name: str, context: Context, teachers: Path | None = None, **settings: Any) -> Any:
    kind = METHODS.get(name)
    config = kind.config_class(**{**SMALL[name], **settings})
    if teachers is not None:
        teacher = find_teacher(teachers, penalty=kind.needs(config)[0].penalised)
        assert teacher is not None
        context = context.give(TrainedTeacher, teacher)
    kind.check(config, context)
    method = kind(config, context)
    method.setup()
    return method


def finished(method: Any, start: int = 0) -> Tensor:
    for iteration in range(start, method.iterations):
        method.step(iteration)
    images: Tensor = method.distilled().images
    return images


@pytest.mark.parametrize("name", SMALL)
def test_resumed_anywhere(name: str, context: Context, teachers: Path):
    """Within and between stages: after every single step, what a state gives is all that goes on."""
    whole = fresh(name, context, teachers)
    states, images = [whole.state()], []
    for iteration in range(whole.iterations):
        whole.step(iteration)
        state = whole.state()
        tensors = {key: tensor.clone() for key, tensor in state.tensors.items()}
        states.append(State(tensors=tensors, values=state.values))
        images.append(whole.distilled().images)
    for done, state in enumerate(states):
        method = fresh(name, context, teachers)
        kept = {key: tensor.clone() for key, tensor in state.tensors.items()}
        method.load_state(state)
        if done:
            assert torch.equal(method.distilled().images, images[done - 1]), done
        if done < method.iterations:
            method.step(done)
            assert torch.equal(method.distilled().images, images[done]), done
        assert torch.equal(finished(method, done + 1), images[-1]), done
        assert all(torch.equal(kept[key], tensor) for key, tensor in state.tensors.items())


@pytest.mark.parametrize("name", SMALL)
def test_product(name: str, context: Context, teachers: Path):
    """uint8 pixels, every class, and the teacher that labels their views; other seeds, other images."""
    method = fresh(name, context, teachers)
    images = finished(method)
    product = method.distilled()
    assert images.dtype == torch.uint8
    assert images.shape == (30, 1, 8, 8)
    assert torch.equal(product.labels, context.hard_labels())
    assert product.teacher == method.context.given(TrainedTeacher).reference()
    assert len(images.flatten(1).unique(dim=0)) == 30
    assert torch.equal(finished(fresh(name, context, teachers)), images)
    assert not torch.equal(finished(fresh(name, dataclasses.replace(context, seed=1), teachers)), images)


def plain_loop(teacher: Teacher, preprocess: Preprocess, config: SRe2LConfig, ipc: int, seed: int) -> Tensor:
    """SRe2L's recovery as a plain loop with the library's Adam and hooks that stay, images ``(ipc, K, 1, 8, 8)``."""
    net = teacher.network("cpu")
    layers = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    gathered: list[Tensor] = []

    def hook(module: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        mean, variance = x.mean(1), x.var(1, unbiased=False)
        gathered.append((variance - module.running_var).norm() + (mean - module.running_mean).norm())

    for layer in layers:
        layer.register_forward_pre_hook(hook)  # type: ignore[arg-type]
    made = []
    low, high = ((value - preprocess.mean[0]) / preprocess.std[0] for value in (0.0, 1.0))
    for index in range(ipc):
        x = torch.randn(CLASSES, 1, 8, 8, generator=seeds.generator(seed, "init", index)).requires_grad_()
        optimizer = torch.optim.Adam([x], lr=config.lr_images, betas=(0.5, 0.9), eps=1e-8)
        for step in range(config.iterations):
            optimizer.param_groups[0]["lr"] = (
                config.lr_images * 0.5 * (1 + math.cos(math.pi * step / config.iterations))
            )
            randomness = seeds.generator(seed, "view", index, step)
            shift = torch.randint(0, config.jitter + 1, (2,), generator=randomness).tolist()
            gathered.clear()
            logits = net(torch.roll(x, shift, (2, 3)))
            loss = F.cross_entropy(logits, torch.arange(CLASSES))
            loss = loss + config.bn_weight * (10 * gathered[0] + sum(gathered[1:]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            x.data.clamp_(low, high)
        made.append(x.detach())
    return torch.stack(made)


def test_sre2l_is_the_plain_loop(context: Context):
    """One batch an IPC index with an image of each class, the first layer ten times, cosine, clamp, last iterate."""
    config = SRe2LConfig(iterations=12, jitter=2, bn_weight=0.1)
    method = fresh("sre2l", context, **dataclasses.asdict(config))
    assert method.iterations == 36
    images = finished(method).view(CLASSES, 3, 1, 8, 8).transpose(0, 1)
    expected = plain_loop(context.given(TrainedTeacher), context.preprocess, config, 3, 0)
    pixels = (context.preprocess.invert(expected.flatten(0, 1)) * 255).view(3, CLASSES, 1, 8, 8)
    assert (images - pixels).abs().max() < 0.6


def test_blocks_of_classes(context: Context):
    """One image a class, at most 100 classes at once, IPC index by IPC index."""
    spec = dataclasses.replace(context.dataset.spec, classes=250)
    large = dataclasses.replace(context, dataset=dataclasses.replace(context.dataset, spec=spec), ipc=2)
    method = SRe2L(SRe2LConfig(iterations=7), large)
    batches = method.stages()
    assert method.iterations == 7 * 6
    assert [len(batch.positions) for batch in batches] == [100, 100, 50] * 2
    assert [batch.number for batch in batches] == list(range(6))
    assert torch.cat([batch.positions for batch in batches]).unique().tolist() == list(range(500))
    for batch in batches:
        assert torch.equal(batch.positions // 2, batch.labels)
        assert (batch.positions % 2 == (0 if batch.number < 3 else 1)).all()
    (joint,) = SRe2L(SRe2LConfig(iterations=7, joint=True), large).stages()
    assert torch.equal(joint.positions, torch.arange(500))
    assert torch.equal(joint.labels, large.hard_labels())


def test_loss_falls_and_the_teacher_agrees(context: Context):
    method = fresh("sre2l", context, iterations=60, jitter=0)
    losses = [method.step(i)["loss"] for i in range(60)]
    assert losses[-1] < 0.3 * losses[0]
    images = method.distilled().images.view(CLASSES, 3, 1, 8, 8)[:, 0]
    assert (method.teacher(context.preprocess.apply(images)).argmax(1) == torch.arange(CLASSES)).all()


def test_the_statistics_count(context: Context):
    """Their term is smaller where it weighs more."""

    def left(weight: float) -> float:
        method = fresh("sre2l", context, iterations=60, jitter=0, bn_weight=weight)
        return [method.step(i)["statistics"] for i in range(60)][-1] / weight

    assert left(10.0) < 0.8 * left(1e-3)


def test_zca_images_stay_in_range(context: Context):
    """The pixels are clamped, not the whitened values; the teacher is told that they are its input."""
    zca = fit_preprocess(context.dataset, "zca")
    method = fresh("sre2l", dataclasses.replace(context, preprocess=zca))
    method.step(0)
    pixels = zca.invert(method._iterate.x)
    assert pixels.min() > -1e-3
    assert pixels.max() < 1 + 1e-3


@pytest.mark.parametrize("name", ["sre2l", "cudd"])
def test_not_finite(name: str, context: Context, teachers: Path):
    """The step is not taken, and the state is good for going on."""
    whole = finished(fresh(name, context, teachers))
    method = fresh(name, context, teachers)
    method.step(0)
    before = method.state()
    weight = method.teacher.classifier.weight
    good = weight.clone()
    weight.fill_(math.nan)
    with pytest.raises(NotFiniteError, match="--lr-images"):
        method.step(1)
    after = method.state()
    assert all(torch.equal(before.tensors[key], tensor) for key, tensor in after.tensors.items())
    assert before.values == after.values
    weight.copy_(good)
    assert torch.equal(finished(method, 1), whole)


def test_curricula_reach_the_views(context: Context, teachers: Path):
    for name, settings in (("cda", {"crop_scale": 0.2}), ("guard", {"crop_scale": 0.2, "curriculum": "cosine"})):
        method = fresh(name, context, teachers, iterations=4, **settings)
        scales = [method.crop_scale(step) for step in range(4)]
        assert scales == [crop_lower_bound("cosine", step, 4, 1.0, 0.2) for step in range(4)]
    assert fresh("guard", context, teachers, curriculum="none").crop_scale(0) == 0.5
    flat, cut = (finished(fresh("cda", context, curriculum="step", milestone=m)) for m in (1.0, 0.3))
    assert not torch.equal(flat, cut)


# CUDD


def test_plan_of_cudd(context: Context):
    method = fresh("cudd", context)
    kinds = [("guide", s.ipc) if isinstance(s, GuideTraining) else ("batch", s.phase) for s in method.stages()]
    assert kinds == [("batch", 0), ("guide", 1), ("batch", 1), ("guide", 2), ("batch", 2)]
    assert method.iterations == 3 * 2 + 2 * 2
    one = fresh("cudd", context, phases="3", guide_epochs=150).stages()
    assert all(isinstance(stage, Batch) and stage.phase == 0 for stage in one)
    assert len(one) == 3
    two = fresh("cudd", context, phases="2,3", joint=True).stages()
    assert [len(stage.positions) for stage in two if isinstance(stage, Batch)] == [20, 10]


def test_images_begin_as_real_ones_that_the_teacher_knows(context: Context):
    method = fresh("cudd", context, lr_images=1e-9)
    images = finished(method).view(CLASSES, 3, 1, 8, 8)
    real = {
        image.numpy().tobytes(): int(label)
        for image, label in zip(context.train.images, context.train.labels, strict=True)
    }
    for label in range(CLASSES):
        assert [real[image.numpy().tobytes()] for image in images[label]] == [label] * 3
        assert len({image.numpy().tobytes() for image in images[label]}) == 3, "none is taken twice"
    net = method.teacher
    right = net(context.preprocess.apply(context.train.images)).argmax(1) == context.train.labels
    chosen = right[method._chosen.view(CLASSES, 3)[:, 0]]
    available = torch.stack([right[context.train.labels == label].any() for label in range(CLASSES)])
    assert torch.equal(chosen, available)


def test_later_phases_take_what_the_guide_does_not_know(context: Context):
    """A guide that says 3 to everything: of class 3 nothing is preferred, of the others what the teacher knows."""
    method = fresh("cudd", context, phases="1,3")
    for iteration in range(2):
        method.step(iteration)
    seen: list[Tensor] = []

    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return F.one_hot(torch.full((len(x),), 3), CLASSES).float()

    method._guide = Three()
    method._choose(1)
    known = method.teacher(context.preprocess.apply(context.train.images)).argmax(1) == context.train.labels
    table = method._chosen.view(CLASSES, 3)
    for label in range(CLASSES):
        free = (context.train.labels == label).nonzero().flatten()
        free = free[free != table[label, 0]]
        wanted = min(2, int(known[free].sum())) if label != 3 else None
        if wanted is not None:
            assert int(known[table[label, 1:]].sum()) == wanted
        assert len(set(table[label].tolist())) == 3
    assert sum(map(len, seen)) == len(context.train)


def test_the_anchor_is_seen_as_the_image_is(context: Context):
    """At the start image and anchor are the same, whatever the view, so that their distance is 0."""
    method = fresh("cudd", context, crop_scale=0.3)
    method.context = dataclasses.replace(
        context, dataset=dataclasses.replace(context.dataset, spec=dataclasses.replace(context.dataset.spec, flip=True))
    )
    assert method.step(0)["anchor"] == 0
    assert method.step(1)["anchor"] > 0


def test_adversarial_term_from_the_second_phase_on(context: Context):
    method = fresh("cudd", context)
    found = [method.step(i) for i in range(method.iterations)]
    assert ["adversarial" in metrics for metrics in found] == [False] * 2 + ([False] * 2 + [True] * 2) * 2
    assert ["guide_loss" in metrics for metrics in found] == [False] * 2 + ([True] * 2 + [False] * 2) * 2


def test_init_space(context: Context):
    """As the public code has it, pixels are taken for network input."""
    for space, make in (("normalised", context.preprocess.apply), ("unit", lambda images: images.float() / 255)):
        method = fresh("cudd", context, init_space=space)
        method._choose(0)
        (batch, *_) = method.stages()
        images = context.train.images[method._chosen[batch.positions]]
        assert torch.equal(method.initial(batch), make(images))


def test_guide_goes_on_from_its_weights(context: Context, monkeypatch: pytest.MonkeyPatch):
    """A second training begins with the first one's weights, at a rate of its own, on all images so far."""
    from ddbench.methods import cudd

    calls: list[dict[str, Any]] = []
    train = cudd.train

    def spy(net: nn.Module, inputs: Any, **options: Any) -> Iterator[Any]:
        weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        calls.append({"weights": weights, "images": len(inputs), **options})
        return train(net, inputs, **options)

    monkeypatch.setattr(cudd, "train", spy)
    method = fresh("cudd", context)
    for iteration in range(4):
        method.step(iteration)
    after = {name: tensor.clone() for name, tensor in method._guide.state_dict().items()}
    finished(method, 4)
    first, second = calls
    assert (first["images"], second["images"]) == (CLASSES, 2 * CLASSES)
    assert (first["optimizer"].lr, second["optimizer"].lr) == (1e-3, 5e-4)
    assert all(torch.equal(after[name], tensor) for name, tensor in second["weights"].items())
    assert any(not torch.equal(after[name], tensor) for name, tensor in first["weights"].items())
    assert first["optimizer"].name == "adamw"
    assert first["policy"].mix == "cutmix"
    assert first["seed"] != second["seed"]


def test_the_guide_learns_the_teachers_labels(context: Context):
    method = fresh("cudd", context, phases="2,3", guide_epochs=1)
    (stage,) = [stage for stage in method.stages() if isinstance(stage, GuideTraining)]
    protocol, plan = method._guide_plan(stage)
    assert (protocol.labels, protocol.temperature, protocol.loss) == ("teacher", 20.0, "kl")
    assert plan.teacher == context.given(TrainedTeacher)
    assert plan.synset.labels.tolist() == [label for label in range(CLASSES) for _ in range(2)]
    first = method._images.view(CLASSES, 3, 1, 8, 8)[:, :2].flatten(0, 1)
    assert torch.equal(plan.synset.images, first)


def test_terms_of_a_later_phase(context: Context):
    """By hand from the step's view: squared distance to the view of the real image, and how sure the guide is."""
    method = fresh("cudd", context, phases="1,3", anchor_weight=0.3, adversarial_weight=0.7)
    for iteration in range(2):
        method.step(iteration)
    method._guide = build_student(GUIDE, channels=1, size=8, classes=CLASSES, seed=5).eval()
    method._choose(1)
    batch = next(stage for stage in method.stages() if isinstance(stage, Batch) and stage.phase == 1)
    real = method.initial(batch)
    x = real + 0.7 * torch.randn(real.shape, generator=generator())
    with torch.no_grad():
        terms = method.objective(batch, 0, x)
        seen, anchor = method.view(batch, 0, x), method.view(batch, 0, real)
        known, shares = method.teacher(seen).argmax(1), method._guide(seen).softmax(1)
    right = [int(known[k]) == int(label) for k, label in enumerate(batch.labels)]
    assert 0 < sum(right) < len(right)
    sure = [float(shares[k, label]) if right[k] else 1 / CLASSES for k, label in enumerate(batch.labels)]
    expected = 0.7 * sum(-math.log(1 - one) for one in sure) / len(sure)
    assert float(terms["adversarial"]) == pytest.approx(expected, rel=1e-5)
    assert float(terms["anchor"]) == pytest.approx(0.3 * float(((seen - anchor) ** 2).sum() / seen.numel()), rel=1e-5)


def test_settings_of_the_guide(context: Context):
    method = fresh("cudd", context, phases="1,2,3", guide_epochs=9, guide_batch=7, guide_crop_scale=0.25, guide_lr=0.02)
    stages = [stage for stage in method.stages() if isinstance(stage, GuideTraining)]
    for stage, rate in zip(stages, (0.02, 5e-4), strict=True):
        protocol, plan = method._guide_plan(stage)
        assert plan.policy is not None
        assert (plan.epochs, plan.batch, plan.policy.crop_scale, protocol.lr) == (9, 7, 0.25, rate)


# GUARD


def test_guard_wants_its_own_teacher(context: Context, teachers: Path):
    assert GUARD.needs(GUARDConfig(penalty_step=0.5))[0].penalised == PENALTY
    assert GUARD.needs(GUARDConfig(penalty="loss-gap"))[0].penalised["penalty_weight"] == 1e-4
    with pytest.raises(UserError, match=r"was trained with no penalty, GUARD asks for .* --penalty curvature"):
        fresh("guard", context)
    with pytest.raises(UserError, match=r"--penalty-weight 12\.3456789 --penalty-step 0\.5$"):
        fresh("guard", context, penalty_weight=12.3456789, penalty_step=0.5)
    assert not SRe2L.needs(SRe2LConfig())[0].penalised
    assert fresh("guard", context, teachers).context.given(TrainedTeacher).recipe["penalty"] == "curvature"


def test_guard_warns_of_a_teacher_that_learned_nothing(
    context: Context, teachers: Path, capsys: pytest.CaptureFixture[str]
):
    loud = dataclasses.replace(context, console=Console(quiet=False))
    for accuracy, warned in ((0.19, True), (0.5, False), (None, False)):
        found = find_teacher(teachers, penalty=PENALTY)
        assert found is not None
        fresh("guard", loud.give(TrainedTeacher, dataclasses.replace(found, accuracy=accuracy)))
        assert ("right on 19.0% of its held-out images" in capsys.readouterr().err) == warned


def test_twice_chance_is_everything_of_two_classes():
    assert [learned_little(accuracy, 2) for accuracy in (0.55, 0.65, 0.98)] == [True, False, False]
    assert [learned_little(accuracy, 10) for accuracy in (0.199, 0.21)] == [True, False]
    assert [learned_little(accuracy, 100) for accuracy in (0.019, 0.021)] == [True, False]


def test_guard_trains_the_teacher_that_it_asks_for(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Beside a plain one that would do for others; and SRe2L does not take GUARD's."""
    from ddbench.teachers import train as teach

    default = teach.TeacherRecipe
    monkeypatch.setattr(teach, "TeacherRecipe", lambda **fields: default(**{"epochs": 1, **fields}))
    argv = ["--dataset", "digits", "--ipc", 1, "--iterations", 2, "--teacher-student", STUDENT, "--recipe", "none"]
    argv += ["--teachers", tmp_path / "teachers", "--student", GUIDE, *EAGER]
    for name in ("guard", "sre2l", "guard"):
        result = ddb("distill", "--method", name, *argv, "--out", tmp_path / name)
        assert result.code == 0, result.err
    assert len(list((tmp_path / "teachers").glob("*/*/*.safetensors"))) == 2
    assert find_teacher(tmp_path / "teachers") is not None
    assert find_teacher(tmp_path / "teachers", penalty={**PENALTY, "penalty_step": 3.0}) is not None


# Refusals


REFUSALS: dict[str, tuple[str, tuple[object, ...], str]] = {
    "no batch norm": ("sre2l", ("--teacher-student", "convnet-d2-w4-in"), "convnet-d2-w4-in: a teacher without batch"),
    "no norm": ("cudd", ("--teacher-student", "mlp-d3-w8"), "mlp-d3-w8: a teacher without batch norm"),
    "milestone": ("cda", ("--milestone", 1.5), "--milestone 1.5: expected a fraction"),
    "milestone of guard": ("guard", ("--milestone", -1), "--milestone -1.0: expected a fraction"),
    "curriculum": ("cda", ("--curriculum", "cosin"), "cosin"),
    "iterations": ("sre2l", ("--iterations", 0), "--iterations 0: expected at least 1"),
    "rate": ("sre2l", ("--lr-images", 0), "--lr-images 0.0: expected a number above 0"),
    "weight": ("sre2l", ("--bn-weight", -1), "--bn-weight -1.0: expected 0 or a positive number"),
    "crop": ("cda", ("--crop-scale", 0), "--crop-scale 0.0: expected a share"),
    "jitter": ("sre2l", ("--jitter", 8), "--jitter 8: expected 0 to 7"),
    "phases": ("cudd", ("--phases", "1,3"), "--phases 1,3: expected ascending numbers"),
    "anchor": ("cudd", ("--anchor-weight", -1), "--anchor-weight -1.0"),
    "guide": ("cudd", ("--guide-epochs", 0), "--guide-epochs 0: expected at least 1"),
    "guide's rate": ("cudd", ("--guide-lr-again", 0), "--guide-lr-again 0.0"),
    "guide's crop": ("cudd", ("--guide-crop-scale", 2), "--guide-crop-scale 2.0"),
    "penalty": ("guard", ("--penalty", "gap"), "gap"),
    "penalty's weight": ("guard", ("--penalty-weight", -3), "--penalty-weight -3"),
    "penalty's step": ("guard", ("--penalty-step", 0), "--penalty-step 0"),
    "ipc": ("cudd", ("--ipc", 200), "has only"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name: str, refused: Callable[..., str], tmp_path: Path):
    """One line, before a teacher is trained or a folder is made."""
    method, flags, needle = REFUSALS[name]
    argv = ["distill", "--method", method, "--dataset", "digits", "--ipc", 2, "--recipe", "none", *EAGER]
    refused([*argv, "--teachers", tmp_path / "t", "--out", tmp_path / "run", *flags], needle)


def test_a_class_with_too_few_real_images(context: Context):
    """CUDD begins with as many different real images as it makes."""
    rare = (context.train.labels == 4).nonzero().flatten()[2:]
    keep = torch.ones(len(context.train), dtype=torch.bool)
    keep[rare] = False
    train = Split(context.train.images[keep], context.train.labels[keep])
    with pytest.raises(UserError, match="--ipc 3: class '4' has only 2 training images"):
        CUDD.check(CUDDConfig(), dataclasses.replace(context, train=train))


def test_a_teacher_without_batch_norm_in_a_context_by_hand(context: Context, data_root: Path, tmp_path: Path):
    teacher = train_teacher(
        root=tmp_path / "teachers",
        dataset=context.dataset,
        data=data_root,
        student=GUIDE,
        recipe=TeacherRecipe(epochs=1),
        device="cpu",
        threads=1,
        compile="off",
        console=Console(quiet=True),
    )
    with pytest.raises(UserError, match="without batch norm"):
        fresh("sre2l", dataclasses.replace(context, architectures={}).give(TrainedTeacher, teacher))


def test_too_many_images_for_memory(context: Context, monkeypatch: pytest.MonkeyPatch):
    from ddbench.data import limits

    monkeypatch.setattr(limits, "available_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"keeping 30 images of digits needs 1\.9 KiB of memory"):
        SRe2L.check(SRe2LConfig(), context)
