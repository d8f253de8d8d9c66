"""Statistics of layers as G-VBSM and EDC match them: against loops and closed forms in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.networks.build import build_student
from ddbench.training.layer_statistics import (
    collect,
    densification,
    distance,
    image_moments,
    matched_layers,
    moments,
    of_labels,
    patches,
    remembered,
    running_form,
    weighted,
)
from ddbench.training.statistics_matching import batch_norms, look_at, observe, running_statistics, statistics_loss

CONV, NORM = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def net() -> nn.Module:
    """Two blocks, whose norms have statistics of their own; float64, in evaluation mode."""
    made = build_student("convnet-d2-w4-bn", channels=1, size=8, classes=3, seed=0).double()
    for position, layer in enumerate(batch_norms(made)):
        layer.running_mean.copy_(randn(4, seed=position))
        layer.running_var.copy_(randn(4, seed=10 + position).exp())
    return made.eval()


@pytest.mark.parametrize("shape", [(3, 2, 8, 8), (2, 3, 7, 7), (2, 1, 4, 4), (2, 2, 1, 1), (1, 2, 9, 6)])
def test_patch_statistics_against_a_loop(shape: tuple[int, int, int, int]):
    """A patch position's mean and biased variance run over batch, channels and its 4 x 4 pixels."""
    x = randn(*shape)
    sides = [math.ceil(side / 4) * 4 for side in shape[2:]]
    large = F.interpolate(x, sides, mode="bilinear") if sides != list(shape[2:]) else x
    means, variances = [], []
    for row in range(sides[0] // 4):
        for column in range(sides[1] // 4):
            values = [
                float(large[n, c, 4 * row + i, 4 * column + j])
                for n in range(shape[0])
                for c in range(shape[1])
                for i in range(4)
                for j in range(4)
            ]
            mean = sum(values) / len(values)
            means.append(mean)
            variances.append(sum((value - mean) ** 2 for value in values) / len(values))
    channel_variance, channel_mean, variance, mean = moments(CONV, x)
    torch.testing.assert_close(mean, torch.tensor(means, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(variance, torch.tensor(variances, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(channel_mean, x.mean((0, 2, 3)), rtol=0, atol=1e-12)
    torch.testing.assert_close(channel_variance, x.var((0, 2, 3), unbiased=False), rtol=0, atol=1e-12)
    assert len(moments(NORM, x)) == 2, "a batch norm has no patches"


def test_statistics_of_each_image_are_those_of_a_batch_of_it():
    x = randn(4, 3, 6, 8)
    for layer in (CONV, NORM):
        each = image_moments(layer, x)
        for n in range(4):
            for ours, alone in zip(each, moments(layer, x[n : n + 1]), strict=True):
                torch.testing.assert_close(ours[n], alone, rtol=0, atol=1e-12)


def test_a_batch_norm_of_vectors_has_statistics_too():
    """Of one image each channel is one number: its mean is the number, its variance 0."""
    x = randn(4, 3)
    variance, mean = image_moments(nn.BatchNorm1d(3), x)
    assert torch.equal(mean, x)
    assert variance.tolist() == [[0.0] * 3] * 4
    torch.testing.assert_close(moments(nn.BatchNorm1d(3), x)[0], x.var(0, unbiased=False), rtol=0, atol=1e-12)


def test_patches_have_gradients():
    assert torch.autograd.gradcheck(lambda x: patches(x).square().sum(), randn(2, 1, 5, 6).requires_grad_())


def test_layers_in_the_order_of_registration(net: nn.Module):
    both = matched_layers(net, convolutions=True)
    assert [isinstance(layer, nn.Conv2d) for layer in both] == [True, False] * 2
    assert both[1::2] == batch_norms(net)
    assert matched_layers(net, convolutions=False) == batch_norms(net)
    assert matched_layers(build_student("mlp-d3-w8", channels=1, size=8, classes=3, seed=0), convolutions=True) == []


def test_one_teacher_without_convolutions_and_average_is_sre2l(net: nn.Module):
    """Value and gradient bit for bit those of SRe2L's regulariser, whose oracle is in float64."""
    found = []
    for ours in (True, False):
        x = randn(5, 1, 8, 8).requires_grad_()
        if ours:
            layers = matched_layers(net, convolutions=False)
            _, seen = look_at(net, x, layers, moments)
            forms = [running_form(None, one, 0.0)[1] for one in seen]
            loss = weighted([distance(a, b) for a, b in zip(forms, remembered(layers), strict=True) if b], 10.0)
        else:
            loss = statistics_loss(observe(net, x)[1], running_statistics(net))
        found.append((loss.detach(), *torch.autograd.grad(loss, x)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_running_form_has_the_value_of_the_average_and_the_gradient_of_now():
    seen = [randn(3, seed=seed).requires_grad_() for seed in range(3)]
    average, value = None, torch.zeros(3, dtype=torch.float64)
    for step, one in enumerate(seen):
        average, (form,) = running_form(average, (one,), 0.8)
        value = one.detach() if step == 0 else 0.8 * value + 0.2 * one.detach()
        torch.testing.assert_close(form.detach(), value, rtol=0, atol=1e-14)
        assert not average[0].requires_grad
        (gradient,) = torch.autograd.grad(form, one, torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
        assert gradient.tolist() == [1.0, -2.0, 3.0], "that of the statistics of this step"


def test_the_legacy_average_begins_at_zero():
    """.2 s, then .36 s, as the public code's test for the first step never holds."""
    ones = (torch.ones(2, dtype=torch.float64),)
    average, form = running_form(None, ones, 0.8, legacy=True)
    assert form[0].tolist() == pytest.approx([0.2, 0.2])
    assert running_form(average, ones, 0.8, legacy=True)[1][0].tolist() == pytest.approx([0.36, 0.36])
    assert running_form(None, ones, 0.8)[1][0].tolist() == [1.0, 1.0]


def data(sizes: tuple[int, ...] = (4, 4, 3)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (randn(n, 1, 8, 8, seed=n + 20 * k), torch.randint(3, (n,), generator=generator)) for k, n in enumerate(sizes)
    ]


def test_targets_of_batch_norms_are_remembered_and_those_of_convolutions_collected(net: nn.Module):
    """Batches' statistics averaged with their sizes; a mean over equal batches is a variance's too."""
    layers = matched_layers(net, convolutions=True)
    targets = collect(net, layers, data(), 0)
    assert targets.classes == []
    for layer, whole in zip(layers, targets.whole, strict=True):
        if isinstance(layer, nn.BatchNorm2d):
            assert torch.equal(whole[0], layer.running_var)
            assert torch.equal(whole[1], layer.running_mean)
    x = torch.cat([x for x, _ in data()])
    by_hand = sum(float(part.var(unbiased=False)) * len(part) for part, _ in data()) / len(x)
    assert targets.whole[0][0].item() == pytest.approx(by_hand, abs=1e-12)
    assert targets.whole[0][1].item() == pytest.approx(float(x.mean()), abs=1e-12)


def test_class_means_weighted_by_counts_are_the_mean_of_all_images(net: nn.Module):
    layers = matched_layers(net, convolutions=True)
    targets = collect(net, layers, data(), 3)
    x, labels = (torch.cat(parts) for parts in zip(*data(), strict=True))
    counts = torch.bincount(labels, minlength=3).double()
    _, each = look_at(net, x, layers, image_moments)
    _, whole = look_at(net, x, layers, moments)
    for classes, images, batch in zip(targets.classes, each, whole, strict=True):
        for kind, part in enumerate(classes):
            torch.testing.assert_close(counts @ part / len(x), images[kind].mean(0), rtol=0, atol=1e-12)
            for label in range(3):
                torch.testing.assert_close(part[label], images[kind][labels == label].mean(0), rtol=0, atol=1e-12)
        for kind in range(1, len(classes), 2):  # means, not variances: of all data together
            torch.testing.assert_close(counts @ classes[kind] / len(x), batch[kind], rtol=0, atol=1e-12)


def test_patch_means_and_variances_are_not_swapped(net: nn.Module):
    """Of constant images every patch variance is 0; the public code saved a class's means in their place."""
    layers = matched_layers(net, convolutions=True)
    flat = [(torch.full((2, 1, 8, 8), 3.0, dtype=torch.float64), torch.tensor([0, 1]))]
    variance, mean, patch_variance, patch_mean = collect(net, layers, flat, 2).classes[0]
    assert patch_variance.abs().max() == variance.abs().max() == 0
    assert patch_mean.unique().tolist() == mean.unique().tolist() == [3.0]


def test_targets_of_a_batch_are_the_mean_over_its_labels():
    classes = [(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[0.0], [4.0], [8.0]]))]
    ((one, two),) = of_labels(classes, torch.tensor([0, 2, 2, 1]))
    assert (one.item(), two.item()) == (15 / 4, 5.0)


def test_distance_and_weights():
    ours, theirs = (
        (randn(3), randn(3, seed=1), randn(2, seed=2)),
        (randn(3, seed=4), randn(3, seed=5), randn(2, seed=6)),
    )
    by_hand = sum(
        math.sqrt(sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True)))
        for x, y in zip(ours, theirs, strict=True)
    )
    assert distance(ours, theirs).item() == pytest.approx(by_hand, abs=1e-12)
    assert weighted([torch.tensor(1.0), torch.tensor(2.0), torch.tensor(4.0)], 10.0).item() == 16.0
    assert weighted([torch.tensor(2.0)], 10.0).item() == 20.0
    with pytest.raises(ValueError, match="no layer"):
        weighted([], 10.0)


def test_densification_against_plain_python():
    x, labels = randn(7, 1, 3, 3), torch.tensor([0, 1, 0, 1, 1, 0, 2])
    expected = 0.0
    for label in range(3):
        rows = x[labels == label].flatten(1)
        spectrum = torch.linalg.svdvals(rows).square().tolist()[: len(rows)]
        p = [math.exp(value / 4) for value in spectrum]
        q = [math.exp(value) for value in spectrum]
        expected += sum(a / sum(p) * (math.log(a / sum(p)) - math.log(b / sum(q))) for a, b in zip(p, q, strict=True))
    assert densification(x, labels).item() == pytest.approx(expected, abs=1e-10)


def test_densification_has_no_gradient_where_it_should_have_none():
    """Equal eigenvalues; a single image of a class; and the target is held fixed."""
    x = torch.zeros(3, 1, 2, 2, dtype=torch.float64)
    x.view(3, 4)[:, :3] = 2 * torch.eye(3, dtype=torch.float64)
    for images, labels in ((x, torch.zeros(3, dtype=torch.int64)), (randn(3, 1, 2, 2), torch.arange(3))):
        leaf = images.clone().requires_grad_()
        loss = densification(leaf, labels)
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert float(gradient.abs().max()) < 1e-12
    leaf = (0.5 * randn(3, 1, 2, 2, seed=3)).requires_grad_()
    labels = torch.zeros(3, dtype=torch.int64)
    (gradient,) = torch.autograd.grad(densification(leaf, labels), leaf)
    rows = leaf.detach().flatten(1)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    slope = values.softmax(0) - (values / 4).softmax(0)  # d KL(p || softmax(l)) / d l
    torch.testing.assert_close(gradient.flatten(1), 2 * (vectors * slope) @ vectors.T @ rows, rtol=0, atol=1e-10)


def test_densification_averages_large_images_down_to_32():
    large = randn(3, 1, 64, 64)
    labels = torch.tensor([0, 0, 1])
    assert torch.equal(densification(large, labels), densification(F.avg_pool2d(large, 2), labels))
