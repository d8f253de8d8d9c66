"""Scores where good guesses fail: ties, certainty, few classes, two or three seeds; against exact values."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddbench.measurements.calibration_metrics import bin_sums, calibration, fit_temperature, log_softmax
from ddbench.measurements.outliers import auroc, confidence, false_positives
from ddbench.measurements.robustness import external
from ddbench.measurements.robustness.attack_suite import RobustnessSuite
from ddbench.measurements.robustness.attacks import Ascent, ascend, margin
from ddbench.measurements.robustness.budgets import budget
from ddbench.statistics import paired_difference, summarise

# --- calibration ---------------------------------------------------------------------------------------------------


def test_a_tie_of_all_classes_lies_in_the_bin_that_ends_there():
    """Bins are (lo, hi]: three tied classes have confidence 1/3 = 5/15 and lie in the fifth bin, not in the sixth.

    So for every number of classes, whatever the softmax rounds to.
    """
    for classes in range(2, 201):
        tied = np.full((2, classes), 7.25)
        found = calibration(tied, np.array([0, 1]))  # argmax is the first class: one is right, one is wrong
        place = next(i for i, (count, _, _) in enumerate(found.bins) if count)
        assert place == max(0, math.ceil(Fraction(15, classes)) - 1), classes
        assert found.metrics["ece"] == pytest.approx(float(abs(Fraction(1, 2) - Fraction(1, classes))), abs=1e-15)


CHANCES = [Fraction(1), Fraction(1), Fraction(15, 16), Fraction(3, 4), Fraction(3, 4), Fraction(5, 8), Fraction(1, 2)]
RIGHT = [True, False, True, True, False, False, True]
"""Seven images of two classes: probability of the class that is told, and whether it is right. Two are certain."""


def certain() -> tuple[np.ndarray, np.ndarray]:
    """Logits of float32 whose softmax these are (a lead of 800 where it is certain), and labels."""
    lead = [800.0 if p == 1 else math.log(p / (1 - p)) for p in CHANCES]
    logits = np.stack([np.array(lead), np.zeros(len(lead))], 1)
    return logits, np.array([0 if right else 1 for right in RIGHT])


def gaps(bins: int) -> list[tuple[int, Fraction]]:
    """(number, |mean confidence - accuracy|) of the bins (lo, hi] that hold an image."""
    groups: dict[int, list[int]] = {}
    for i, chance in enumerate(CHANCES):
        groups.setdefault(math.ceil(chance * bins), []).append(i)
    return [(len(g), abs(sum(CHANCES[i] - RIGHT[i] for i in g)) / len(g)) for g in groups.values()]


def test_calibration_in_fractions():
    """A confidence of exactly 1 shares its bin with 15/16; Brier's sum over two classes is twice (1 - p)^2; the mean of
    fifteen bins of equal numbers is that of single images where there are seven.
    """
    logits, labels = certain()
    found, count = calibration(logits, labels), len(CHANCES)
    each = gaps(15)
    assert sum(n for n, _ in each) == count
    ece = sum(n * gap for n, gap in each) / count
    assert found.metrics["ece"] == pytest.approx(float(ece), abs=1e-15)
    assert found.others["ece_l2"] == pytest.approx(math.sqrt(sum(n * g * g for n, g in each) / count), abs=1e-15)
    assert found.others["largest_gap"] == pytest.approx(float(max(g for _, g in each)), abs=1e-15)
    brier = sum(2 * ((1 - p) if right else p) ** 2 for p, right in zip(CHANCES, RIGHT, strict=True)) / count
    assert found.metrics["brier"] == pytest.approx(float(brier), abs=1e-15)
    single = sum(abs(p - right) for p, right in zip(CHANCES, RIGHT, strict=True)) / count
    assert found.metrics["adaptive_ece"] == pytest.approx(float(single), abs=1e-15)
    over = sum(CHANCES) / count - Fraction(sum(RIGHT), count)
    assert found.metrics["overconfidence"] == pytest.approx(float(over), abs=1e-15)


def test_a_certain_mistake_costs_its_lead():
    """Not infinity, nor a bound: log p is -800 where p is 0 in float64."""
    logits, labels = certain()
    chance = math.prod((p if right else 1 - p) for p, right in zip(CHANCES[2:], RIGHT[2:], strict=True))
    assert calibration(logits, labels).metrics["nll"] == pytest.approx((800 - math.log(chance)) / 7, rel=1e-15)
    assert log_softmax(logits)[1, 1] == -800


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bins_of_few_images(count: int):
    sums = bin_sums(np.ones(count), np.zeros(count))
    assert [row.tolist() for row in sums] == [[0.0] * 14 + [count], [0.0] * 14 + [count], [0.0] * 15]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("classes", "lead"), [(2, 3.0), (3, 3.0), (4, 8.0), (4, 0.5)])
def test_temperature_of_one_lead(classes: int, lead: float, dtype: type):
    """Images that all lead by m, a share a of them rightly: p = a at T = m / log((K - 1) a / (1 - a))."""
    right, wrong = 30, 10
    logits = np.zeros((right + wrong, classes), dtype)
    logits[:, 0] = lead
    labels = np.array([0] * right + [1] * wrong)
    found = fit_temperature(logits.astype(np.float64), labels)
    assert found.value == pytest.approx(lead / math.log((classes - 1) * right / wrong), rel=1e-4)
    assert not found.degenerate


@pytest.mark.parametrize(("right", "wrong"), [(10, 30), (40, 0)])
def test_temperature_that_there_is_none_for(right: int, wrong: int):
    """At chance or below T is infinite, without a mistake it is 0: told, whatever number the search ends at."""
    logits = np.zeros((40, 4))
    logits[:, 0] = 2.0
    assert fit_temperature(logits, np.array([0] * right + [1] * wrong)).degenerate


# --- other data ----------------------------------------------------------------------------------------------------


def pairs(inside: list[float], outside: list[float]) -> Fraction:
    """Share of the pairs in the right order, ties half."""
    won = sum(Fraction(1 if a > b else 0) + Fraction(int(a == b), 2) for a, b in product(inside, outside))
    return won / (len(inside) * len(outside))


@pytest.mark.parametrize(
    ("inside", "outside"),
    [([0.5], [0.5]), ([1.0, 1.0, 0.5], [1.0, 0.5]), ([3.0, 2.0], [2.0, 2.0, 1.0]), ([1.0] * 3, [1.0] * 5)],
)
def test_auroc_in_fractions(inside: list[float], outside: list[float]):
    assert auroc(np.array(inside), np.array(outside)) == float(pairs(inside, outside))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_auroc_of_certain_networks(dtype: torch.dtype):
    """All softmax probabilities are 1 in float32, and the leads are in order: 1, where probabilities give 1/2."""
    inside, outside = (
        torch.tensor([[lead, 0.0, 0.0] for lead in leads], dtype=dtype) for leads in ([60, 90], [30, 40])
    )
    assert auroc(confidence(inside), confidence(outside)) == 1.0
    assert bool((inside.float().softmax(1)[:, 0] == 1).all())
    # log p is -2 exp(-lead): the same to the last bit for all types that hold the lead
    assert confidence(outside).tolist() == pytest.approx([-2 * math.exp(-30), -2 * math.exp(-40)], rel=1e-12)


def test_threshold_keeps_whole_images():
    """Of n images the lowest n - ceil(19 n / 20) may be lost: none below twenty."""
    for count in (1, 2, 3, 19, 20, 21, 39, 40, 1000):
        scores = np.arange(count, dtype=np.float64)
        kept = Fraction(math.ceil(Fraction(19 * count, 20)), count)
        assert false_positives(scores, scores) == float(kept)


# --- intervals -----------------------------------------------------------------------------------------------------

ONE_DEGREE = math.tan(math.pi * 0.475)
"""Student's 97.5 % quantile, 12.7: a Cauchy distribution."""
TWO_DEGREES = 0.95 * math.sqrt(2 / (1 - 0.95**2))
"""4.30."""


def test_interval_of_two_and_three_runs():
    """Half the range times 12.7, not 1.96 standard errors."""
    two = summarise([0.5, 0.75])
    assert (two["low"], two["high"]) == pytest.approx((0.625 - ONE_DEGREE / 8, 0.625 + ONE_DEGREE / 8), rel=1e-12)
    three = summarise([0.25, 0.5, 0.75])
    half = TWO_DEGREES * 0.25 / math.sqrt(3)
    assert (three["low"], three["high"]) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-12)


@pytest.mark.parametrize(
    ("differences", "tie"),
    [([1, 3], True), ([11, 13], True), ([13, 15], False), ([1, 2, 3], True), ([3, 4, 5], False), ([0, 0, 0], True)],
)
def test_better_every_time_can_be_a_tie(differences: list[int], tie: bool):
    """In hundredths. Of two seeds the mean must be over 12.7 times half their distance: 11 and 13 points are a tie."""
    ours = {seed: 0.5 + value / 100 for seed, value in enumerate(differences)}
    found = paired_difference(ours, [dict.fromkeys(ours, 0.5)])
    count = len(differences)
    mean = Fraction(sum(differences), 100 * count)
    spread = sum((Fraction(value, 100) - mean) ** 2 for value in differences) / (count - 1)
    half = (ONE_DEGREE if count == 2 else TWO_DEGREES) * math.sqrt(spread / count)
    assert found["mean"] == pytest.approx(float(mean), abs=1e-15)
    assert (found["low"], found["high"]) == pytest.approx((mean - half, mean + half), abs=1e-12)
    assert found["tie"] is tie


def test_two_seeds_and_two_subsets_have_two_degrees():
    """Satterthwaite's, where seeds and subsets vary alike: (2 v)^2 / (v^2 + v^2) = 2; not 1, and not 3."""
    others = [{0: 0.5, 1: 0.5 - 0.125}, {0: 0.5 - 0.125, 1: 0.5 - 0.25}]
    found = paired_difference({0: 0.5, 1: 0.5}, others)
    part = Fraction(1, 8) ** 2 / 2 / 2  # variance of two means that are 1/8 apart, over 2
    half = TWO_DEGREES * math.sqrt(2 * part)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((0.125, 0.125 - half, 0.125 + half), rel=1e-12)


# --- attacks -------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """Logits ``w_k x``, weights of whole numbers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(classes)
        weight = torch.randint(-4, 5, (classes, 4), generator=draws).float()
        self.weight = nn.Parameter(weight - weight.mean(1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


def radii(model: Linear, x: Tensor, y: Tensor) -> Tensor:
    """Largest bound on every pixel under which no image of the ball is misclassified, ``(n,)``; the box is far off."""
    weight, logits = model.weight.detach().double(), (x.double().flatten(1) - 0.5) @ model.weight.detach().double().T
    lead = logits.gather(1, y[:, None]) - logits
    length = (weight[y][:, None] - weight).abs().sum(2)
    return torch.where(length > 0, lead / length.clamp_min(1e-12), torch.inf).amin(1)


@pytest.mark.parametrize(
    ("attack", "classes"),
    [
        ("pgd", 2),
        pytest.param("autoattack", 2, marks=pytest.mark.slow),
        ("autoattack", 3),
        pytest.param("autoattack", 4, marks=pytest.mark.slow),
    ],
)
def test_few_classes_at_the_exact_radius(attack: str, classes: int, monkeypatch: pytest.MonkeyPatch):
    """No false "robust" just above the radius, no false "broken" just below, though DLR has no meaning for two classes
    and its targeted form none for three: APGD on the cross-entropy alone leaves 3 of 29 images of three classes whole.
    """
    torch.manual_seed(0)
    model = Linear(classes).eval()
    x = 0.4 + 0.2 * torch.rand(60, 1, 2, 2)
    y = model(x).argmax(1)
    exact = radii(model, x, y)
    eps = float(exact.median())
    assert eps < 0.3
    clear = (exact - eps).abs() > 1e-3 * eps
    if attack == "autoattack":
        pytest.importorskip("pyautoattack")
        whole = external._auto
        monkeypatch.setattr(external, "_auto", lambda *argv: whole(*argv[:7], 100))
        adv = external.autoattack(model, x, y, eps, classes, 0)
    else:
        adv = ascend(
            model, x, y, Ascent(eps=eps, steps=40, step=eps / 4, loss="margin")
        )  # exact where one class is wrong
    with torch.no_grad():
        broken = model(adv).argmax(1) != y
    assert torch.equal(broken[clear], exact[clear] < eps)


def test_settings_name_the_parts_where_they_are_few():
    """Rows of three classes that were measured without FAB have other settings, so they are not compared."""
    of = {k: RobustnessSuite(images=9, budget=budget("full", 1, 28, k), classes=k).settings for k in (3, 4)}
    assert of[3].pop("autoattack") == ["apgd-ce", "fab-t", "square"]
    assert of[3] == of[4]


def test_margin_of_two_classes():
    found = margin(torch.tensor([[1.0, 4.0], [2.0, 2.0], [-1.0, -3.0]]), torch.tensor([1, 0, 1]))
    assert found.tolist() == [-3.0, 0.0, 2.0]
