"""NCFM's objective against loops over complex numbers in float64; its sampler, its steps, its schedule."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import digits_context
from safetensors.torch import load_file
from torch import Tensor, nn

from ddbench.data.dataset import Split, class_indices
from ddbench.data.spec import STATISTICS
from ddbench.distillation.recipes import method_recipes
from ddbench.experts.store import TrajectoryStore, find_stores
from ddbench.methods import ncfm as module
from ddbench.methods.base import Context, NotFiniteError, State
from ddbench.methods.idc import IDC
from ddbench.methods.ncfm import NCFM, SCALE, NCFMConfig
from ddbench.methods.needs.experts import Experts
from ddbench.methods.parts.frequencies import Frequencies, Sampler
from ddbench.networks.names import REGISTERED, StudentSpec
from ddbench.runtime.errors import UserError
from ddbench.training.characteristic import Characteristic, characteristic, discrepancy, unit_rows
from ddbench.training.flat import flatten_parameters
from ddbench.training.plateau import Plateau

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"iterations": 4, "batch_real": 8, "frequency_count": 16}

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


REAL, SYNTHETIC, AT = normal(7, 5, seed=1), 0.3 + 1.5 * normal(4, 5, seed=2), normal(6, 5, seed=3)


def plain_phi(features: Tensor, at: Tensor) -> list[complex]:
    """The definition, one number after the other."""
    rows = features.tolist()
    return [
        sum(cmath.exp(1j * sum(t * f for t, f in zip(frequency, row, strict=True))) for row in rows) / len(rows)
        for frequency in at.tolist()
    ]


def plain_loss(synthetic: Tensor, real: Tensor, at: Tensor, alpha: float, beta: float) -> float:
    """By amplitude and angle: ``2 |a| |b| (1 - cos of the angle between them)`` is the phase's bracket."""
    total = 0.0
    for a, b in zip(plain_phi(synthetic, at), plain_phi(real, at), strict=True):
        phase = 2 * abs(a) * abs(b) * (1 - math.cos(cmath.phase(a) - cmath.phase(b)))
        total += math.sqrt(alpha * (abs(a) - abs(b)) ** 2 + beta * phase)
    return total / len(at)


def loss(synthetic: Tensor, real: Tensor, at: Tensor = AT, alpha: float = 0.5, beta: float = 0.5) -> Tensor:
    return discrepancy(characteristic(synthetic, at), characteristic(real, at), alpha, beta)


# The objective


def test_characteristic_function():
    found, expected = characteristic(REAL, AT), plain_phi(REAL, AT)
    assert found.real.tolist() == pytest.approx([one.real for one in expected], abs=1e-13)
    assert found.imaginary.tolist() == pytest.approx([one.imag for one in expected], abs=1e-13)
    assert found.amplitude.tolist() == pytest.approx([abs(one) for one in expected], abs=1e-13)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (1.0, 0.2), (0.1, 0.9), (1.0, 0.0), (0.0, 1.0)])
def test_loss(alpha: float, beta: float):
    expected = plain_loss(SYNTHETIC, REAL, AT, alpha, beta)
    assert float(loss(SYNTHETIC, REAL, AT, alpha, beta)) == pytest.approx(expected, abs=1e-12)


def test_equal_weights_give_the_distance_of_complex_numbers():
    distances = [abs(a - b) for a, b in zip(plain_phi(SYNTHETIC, AT), plain_phi(REAL, AT), strict=True)]
    expected = math.sqrt(0.5) * sum(distances) / len(distances)
    assert float(loss(SYNTHETIC, REAL)) == pytest.approx(expected, abs=1e-12)


def test_loss_knows_sets_not_orders_and_no_sides():
    assert float(loss(REAL, REAL)) < 1e-6
    assert float(loss(SYNTHETIC, REAL)) > 0.1
    assert torch.equal(loss(SYNTHETIC, REAL), loss(REAL, SYNTHETIC))
    assert float(loss(SYNTHETIC.flip(0), REAL[[3, 0, 6, 1, 2, 5, 4]])) == pytest.approx(
        float(loss(SYNTHETIC, REAL)), abs=1e-14
    )
    assert float(loss(SYNTHETIC.repeat(3, 1), REAL)) == pytest.approx(float(loss(SYNTHETIC, REAL)), abs=1e-14)


def test_amplitudes_are_blind_to_a_shift_and_phases_are_not():
    shifted = REAL + torch.tensor([0.4, -1.0, 0.2, 0.0, 2.0], dtype=torch.float64)
    assert float(loss(shifted, REAL, alpha=1.0, beta=0.0)) < 1e-9
    assert float(loss(shifted, REAL, alpha=0.0, beta=1.0)) > 0.1


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_gradient(alpha: float, beta: float):
    leaf = SYNTHETIC.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, REAL, AT, alpha, beta), [leaf])
    same = REAL.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(same, REAL, AT, alpha, beta), [same])
    assert bool(torch.isfinite(gradient).all()), "no slope where both are equal, and no NaN"


def test_gradient_where_an_amplitude_is_zero():
    opposite = torch.tensor([[0.0], [math.pi]], dtype=torch.float64, requires_grad=True)
    own = characteristic(opposite, torch.ones(1, 1, dtype=torch.float64))
    zero = Characteristic(own.real * 0, own.imaginary * 0)
    (gradient,) = torch.autograd.grad(discrepancy(zero, characteristic(REAL[:, :1], AT[:1, :1])), [opposite])
    assert bool(torch.isfinite(gradient).all())


def test_unit_rows():
    assert unit_rows(REAL).square().sum(1).tolist() == pytest.approx([1.0] * len(REAL))


# Frequencies


def test_gaussian_frequencies_are_named_by_their_purpose():
    gauss = Frequencies(500, 8, 0, CPU)
    one = gauss.draw(3, 1)
    assert one.shape == (500, 8)
    assert torch.equal(one, gauss.draw(3, 1))
    assert not torch.equal(one, gauss.draw(3, 2))
    assert float(one.mean()) == pytest.approx(0, abs=0.05)
    assert float(one.std()) == pytest.approx(1, abs=0.05)


def test_the_sampler_learns_upwards_and_all_its_frequencies_differ():
    """From one backward pass the images get what lowers the loss and the sampler what raises it."""
    features, real = SYNTHETIC.float(), REAL.float()
    sampler = Sampler(32, 5, 0, CPU, lr=0.03)
    assert len(sampler.draw(0).unique(dim=0)) == 32
    assert float(sampler.draw(0).detach().abs().max()) < 1

    def value(*purpose: str | int) -> float:
        return float(loss(features, real, sampler.draw(*purpose)).detach())

    before = value("fresh")
    for step in range(15):
        leaf = features.clone().requires_grad_()
        drawn = loss(leaf, real, sampler.draw(step))
        _, *gradients = torch.autograd.grad(drawn, [leaf, *sampler.parameters])
        norms = [float(one.norm()) for one in gradients]
        assert sum(norms) > 1e-3, "a gradient that does not cancel"
        sampler.ascend(gradients)
    assert value("fresh") > 1.2 * before, "noise that it was not trained on"


def test_one_small_step_of_the_sampler_raises_the_loss():
    sampler = Sampler(32, 5, 1, CPU, lr=1e-4)
    drawn = loss(SYNTHETIC.float(), REAL.float(), sampler.draw(0))
    sampler.ascend(torch.autograd.grad(drawn, list(sampler.parameters)))
    assert float(loss(SYNTHETIC.float(), REAL.float(), sampler.draw(0)).detach()) > float(drawn.detach())


# The method


@pytest.fixture
def context(data_root: Path, tmp_path: Path, tiny_experts: Path) -> Context:
    (store,) = find_stores(tiny_experts)
    return digits_context(data_root, tmp_path).give(Experts, store)


@pytest.fixture
def make(context: Context) -> Callable[..., NCFM]:
    def call(**settings: Any) -> NCFM:
        config = NCFMConfig(**{**SMALL, **settings})
        NCFM.check(config, context)
        method = NCFM(config, context)
        method.setup()
        return method

    return call


def plain_features(weights: list[Tensor], x: Tensor) -> Tensor:
    """The tiny ConvNet of the tests, written out: one block with instance norm."""
    kernel, shift, gamma, beta = weights[:4]
    x = F.conv2d(x, kernel, shift, padding=1)
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
    x = (x - mean) / (variance + 1e-5).sqrt() * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1)
    return F.avg_pool2d(x.clamp_min(0), 2).flatten(1)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_iteration_against_a_plain_loop(make: Callable[..., NCFM], context: Context, name: str):
    """Networks read from the files, decoding, optimiser and steps class by class written out."""
    rate = {"sgd": 1e-4, "adamw": 0.01}[name]
    decay = {"sgd": {}, "adamw": {"weight_decay": 0.01}}[name]
    method = make(augmentation="none", batch_real=10_000, lr_images=rate, optimizer=name, **decay)
    store: TrajectoryStore = context.given(Experts)
    stored = method.images.clone()
    pixels = stored.clone().requires_grad_()
    optimizer: torch.optim.Optimizer = torch.optim.SGD([pixels], lr=rate, momentum=0.5)
    if name == "adamw":
        optimizer = torch.optim.AdamW([pixels], lr=rate, weight_decay=0.01)
    for iteration in range({"sgd": 2, "adamw": 1}[name]):
        metrics = method.step(iteration)
        end = flatten_parameters(method.trained)
        expert = next(k for k in store.indices if torch.equal(store.rows(k, store.recipe.epochs)[0], end))
        start = load_file(store.folder / f"expert_{expert:05d}.safetensors")["w"][0]
        between = flatten_parameters(method.between)
        share = ((between - end) @ (start - end) / (start - end).square().sum()).item()
        assert 0 < share < 1
        assert torch.allclose(between, share * start + (1 - share) * end, atol=1e-6)
        sizes = [p.numel() for p in method.trained.parameters()]
        shapes = [p.shape for p in method.trained.parameters()]
        nets = [[w.view(s) for w, s in zip(v.split(sizes), shapes, strict=True)] for v in (between, end)]
        pixels.data.clamp_(0, 1)
        losses = []
        for task in range(2):
            for label in range(context.classes):
                own = pixels[2 * label : 2 * label + 2]
                tiles = torch.cat([own[:, :, i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)])
                x = context.preprocess.apply(F.interpolate(tiles, size=8, mode="bilinear", align_corners=False))
                if task == 0:
                    real = context.preprocess.apply(context.train.images[context.train.labels == label])
                    ours, theirs = (unit_rows(plain_features(nets[0], images)) for images in (x, real))
                    at = method.frequencies.draw(iteration, label)
                    a, b = (torch.exp(1j * (f @ at.T)).mean(0) for f in (ours, theirs))
                    value = SCALE * math.sqrt(0.5) * (a - b).abs().mean()
                else:
                    logits = plain_features(nets[1], x) @ nets[1][-2].T + nets[1][-1]
                    value = F.cross_entropy(logits, torch.full((8,), label))
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                losses.append(value.item())
        assert metrics["loss"] == pytest.approx(sum(losses[:10]) / 10, rel=1e-4)
        assert metrics["finetune_loss"] == pytest.approx(sum(losses[10:]) / 10, rel=1e-4)
        # where a gradient is nothing but rounding, AdamW makes a whole step of its sign
        apart = (method.images - pixels.detach()).abs() > 1e-5
        assert float(apart.float().mean()) <= (0.02 if name == "adamw" else 0)
    assert float((method.images - stored).abs().max()) > 0.003, "steps that the comparison can see"


def test_frequencies_that_learn_give_the_images_a_larger_loss(make: Callable[..., NCFM]):
    """What the sampler is there for, with the images held still: the loss that it sees rises."""
    method = make(frequencies="learned", lr_images=1e-12, weight_decay=0.0, finetune_steps=0, lr_frequencies=0.03)
    losses = [method.step(0)["loss"] for _ in range(6)]
    assert losses[-1] > 1.1 * losses[0]


def test_weight_of_the_finetuning(make: Callable[..., NCFM]):
    """The first sweep over the classes matches, the second lowers the weighted cross-entropy."""
    whole, half = (make(finetune_weight=weight).step(0) for weight in (1.0, 0.5))
    assert half["loss"] == whole["loss"]
    # a class's images follow its own cross-entropy only after that was taken
    assert half["finetune_loss"] == pytest.approx(0.5 * whole["finetune_loss"], rel=1e-3)


def test_real_and_synthetic_images_are_augmented_alike(context: Context):
    """Where both are the same images, nothing is left to match, whatever is drawn."""
    index = torch.cat([one[:2] for one in class_indices(context.train.labels, context.classes)])
    few = Split(context.train.images[index], context.train.labels[index])
    method = NCFM(NCFMConfig(**SMALL, factor=1, init="real", augmentation="dsa"), replace(context, train=few))
    method.setup()
    method._take_expert(0)
    for iteration in range(4):
        assert float(method._match(method._stored(3), iteration, 3).detach()) < 1e-3 * SCALE


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("frequencies", ["gauss", "learned"])
def test_state(make: Callable[..., NCFM], optimizer: str, frequencies: str):
    settings = {"optimizer": optimizer, "frequencies": frequencies, "patience": 1, "lr_images": 0.05}
    whole, first, second = (make(**settings) for _ in range(3))
    rates = [whole.step(iteration)["lr_images"] for iteration in range(6)]
    assert rates[-1] < rates[0], "the rate was halved, which the state has to keep"
    for iteration in range(3):
        first.step(iteration)
    second.load_state(State(tensors={name: tensor.clone() for name, tensor in first.state().tensors.items()}))
    assert [second.step(iteration)["lr_images"] for iteration in range(3, 6)] == rates[3:]
    states = whole.state().tensors, second.state().tensors
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_a_student_that_draws_goes_on_alike(make: Callable[..., NCFM], monkeypatch: pytest.MonkeyPatch):
    """Where it cannot be switched off; torch's generator is elsewhere in another process."""
    found = []
    for before in (0, 7):
        torch.rand(before)
        method = make()
        features = method.between.features
        monkeypatch.setattr(method.between, "features", lambda x, own=features: own(x) * torch.rand(()))
        method.step(0)
        found.append(method.images.clone())
    assert torch.equal(*found)


def test_a_step_that_is_not_finite_is_not_taken(make: Callable[..., NCFM], monkeypatch: pytest.MonkeyPatch):
    method = make(frequencies="learned")
    method.step(0)
    before = {name: tensor.clone() for name, tensor in method.state().tensors.items()}
    calls = iter([False, False, True])
    right = module.discrepancy
    monkeypatch.setattr(module, "discrepancy", lambda *given: right(*given) * (math.nan if next(calls, False) else 1.0))
    with pytest.raises(NotFiniteError, match=r"class 2 is nan; likely cause: --lr-images 0.001"):
        method.step(1)
    after = method.state().tensors
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        ({}, 10),
        ({"frequencies": "learned"}, 8),
        ({"frequencies": "learned", "frequency_count": 6}, 6),
        ({"frequencies": "learned", "batch_real": 10_000, "frequency_count": 10_000}, 112),
    ],
)
def test_what_processes_share(context: Context, settings: dict[str, Any], terms: int):
    """Classes; where frequencies learn, images of the smallest real batch (of 112 in a class) or frequencies."""
    assert NCFM.terms_of_a_step(NCFMConfig(**{**SMALL, **settings}), context) == terms


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"factor": 9}, "--factor 9: expected 1 to 8 tiles a side"),
        (
            {"factor": 5},
            "--factor 5: tiles of 2 pixels fill 8 before the last of them, which would be blank",
        ),
        ({"factor": 7}, "use --factor 4"),
        ({"alpha": 0.0, "beta": 0.0}, "--alpha 0 with --beta 0: nothing is matched"),
        ({"augmentation": "colour"}, "unknown augmentation 'colour'"),
        ({"frequency_count": 1}, "--frequency-count 1"),
        ({"momentum": 0.9}, "--momentum 0.9: a setting of --optimizer sgd, not of adamw"),
        ({"optimizer": "sgd", "weight_decay": 0.1}, "--weight-decay 0.1: a setting of --optimizer adamw, not of sgd"),
        (
            {"finetune_steps": 0, "finetune_weight": 2.0},
            "--finetune-weight 2.0: it has no effect with --finetune-steps 0",
        ),
        ({"frequency_count": 10**12}, "--frequency-count 1000000000000 needs"),
    ],
)
def test_refused(context: Context, settings: dict[str, Any], words: str):
    with pytest.raises(UserError) as caught:
        NCFM.check(NCFMConfig(**{**SMALL, **settings}), context)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [NCFM, IDC])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"factor": 1}, "a class has at --ipc 1; use --factor 2, a larger --ipc or another student"),
        ({"batch_real": 1}, "a class has at --batch-real 1; use a larger one or another student"),
    ],
)
def test_batches_of_one_image(kind: Any, settings: dict[str, Any], words: str, context: Context, tables_kept: None):
    """Real and synthetic images of a class go through the network by themselves, which some cannot."""

    def build(channels: int, size: int, classes: int) -> nn.Module:
        conv, last = nn.Conv2d(channels, 4, size), nn.Linear(4, classes)
        return nn.Sequential(conv, nn.Flatten(), nn.BatchNorm1d(4), last)

    REGISTERED.register("rows", StudentSpec(name="rows", build=build))
    mine = replace(context, student="rows", ipc=1)
    kind.check(kind.config_class(), mine)
    with pytest.raises(UserError, match=f"{words}$"):
        kind.check(kind.config_class(**settings), mine)
    alone = replace(mine.train, labels=mine.train.labels.clone())
    alone.labels[alone.labels == 3] = 4
    alone.labels[0] = 3
    with pytest.raises(UserError, match=r"all that class '3' has; use another student$"):
        kind.check(kind.config_class(), replace(mine, train=alone))


def test_experts_that_are_missing_are_told(refused: Callable[..., str]):
    argv = ["distill", "--method", "ncfm", "--dataset", "digits", "--ipc", 1, "--recipe", "none"]
    refused(argv, "no experts", "ddbench buffer")


# The schedule of the rate


def test_plateau_is_torchs():
    numbers = torch.rand(200, generator=torch.Generator().manual_seed(0)) * torch.linspace(2, 1, 200)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.4)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=7)
    ours, never = Plateau(0.4, 7), Plateau(0.4, 0)
    for number in numbers.tolist():
        theirs.step(number)
        copied = Plateau(1.0, 7)
        copied.load_state(ours.state())
        assert copied.after(number) == ours.after(number) == optimizer.param_groups[0]["lr"]
        assert never.after(number) == 0.4
    assert ours.rate < 0.1


def test_published_recipes_normalise_both_cifars_with_the_numbers_of_one():
    seen = set()
    for recipe in method_recipes("ncfm").values():
        dataset, kind = recipe.run["dataset"], recipe.run["preprocess"]
        if dataset.startswith("cifar"):
            numbers = STATISTICS.get(kind, STATISTICS[dataset])
            assert numbers == STATISTICS["cifar10"], recipe.name
            seen.add(dataset)
    assert seen == {"cifar10", "cifar100"}
