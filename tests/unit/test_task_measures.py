"""Statistics of tasks against closed forms and scipy."""

from __future__ import annotations

from statistics import fmean, stdev

import numpy as np
import pytest
from scipy import stats

from ddbench.statistics import auroc
from ddbench.tasks.base import shown
from ddbench.tasks.measures import (
    bootstrap,
    forgetting,
    kendall,
    lira_scores,
    paired_groups,
    pooled_tpr,
    regret,
    seen_accuracies,
    spearman,
    top_spearman,
    tpr_at_fpr,
)

MIRRORED = ([0.333333, 0.0], [0.0, 0.5])
MATRIX = [[0.9], [0.7, 0.8], [0.5, 0.9, 0.6]]


def test_seen_accuracies():
    assert seen_accuracies(MATRIX, [10, 30, 60]) == pytest.approx([0.9, (7 + 24) / 40, (5 + 27 + 36) / 100])


def test_forgetting():
    assert forgetting(MATRIX) == pytest.approx(fmean([0.9 - 0.5, 0.8 - 0.9]))
    assert forgetting([[0.9]]) == 0
    assert forgetting([[0.5], [0.4, 1.0], [0.6, 1.0, 1.0]]) == pytest.approx(fmean([0.5 - 0.6, 0.0]))


def test_paired_groups():
    """The group is the unit: Student's interval of the groups' mean differences."""
    ours = {0: {0: 0.5, 1: 0.7}, 1: {0: 0.6, 1: 0.6}, 2: {0: 0.9, 1: 0.7, 5: 0.1}}
    other = {0: {0: 0.4, 1: 0.7}, 1: {0: 0.2, 1: 0.4}, 2: {0: 0.7, 1: 0.8}, 3: {0: 0.0}}
    found = paired_groups(ours, other)
    means = [0.05, 0.3, 0.05]
    low, high = stats.t.interval(0.95, 2, loc=fmean(means), scale=stdev(means) / 3**0.5)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((fmean(means), low, high))
    assert found["tie"] is True
    assert paired_groups({0: {0: 1.0}}, {0: {0: 0.0}})["tie"] is True  # one value has no interval


def test_as_many_right_are_a_tie():
    """50 of 250 images by either, of other classes: a third in six digits times 150 is not quite 50."""
    ours, other = ({seed: seen_accuracies([[0.0], row], [150, 100])[-1] for seed in (0, 1)} for row in MIRRORED)
    found = paired_groups({0: ours}, {0: other})
    assert 0 < abs(found["mean"]) < 1e-6
    assert found["low"] == found["high"]
    assert found["tie"] is True
    assert shown(found) == "0.0000 (0.0000 to 0.0000), a tie"
    assert paired_groups({0: {0: 0.5, 1: 0.5}}, {0: {0: 0.498, 1: 0.498}})["tie"] is False


def test_tpr_at_fpr():
    """The best of all thresholds, ties included."""
    randomness = np.random.default_rng(0)
    for decimals in (8, 1):
        inside = randomness.normal(0.8, 1, 300).round(decimals)
        outside = randomness.normal(0, 1, 200).round(decimals)
        for wanted in (0.001, 0.01, 0.05, 0.3, 1.0):
            thresholds = [-np.inf, *inside, *outside]
            best = max((inside > t).mean() for t in thresholds if (outside > t).mean() <= wanted)
            assert tpr_at_fpr(inside, outside, wanted) == pytest.approx(best)
    assert tpr_at_fpr(np.ones(5), np.zeros(5), 0.001) == 1
    assert tpr_at_fpr(np.zeros(5), np.zeros(5), 0.001) == 0


def test_lira_is_the_likelihood_ratio():
    """With one variance for all images it is that of scipy's normal densities."""
    randomness = np.random.default_rng(1)
    members = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    phi = randomness.normal(size=(6, 3)) + members
    scores = lira_scores(phi, members, 2)
    rest = [0, 1, 3, 4, 5]
    for image in range(3):
        densities = []
        for kind in (True, False):
            cells = [[phi[row, x] for row in rest if members[row, x] == kind] for x in range(3)]
            pooled = sum(np.var(cell) * len(cell) for cell in cells) / sum(len(cell) - 1 for cell in cells)
            densities.append(stats.norm.logpdf(phi[2, image], np.mean(cells[image]), pooled**0.5))
        assert scores[image] == pytest.approx(densities[0] - densities[1])


def test_lira_reaches_the_closed_form():
    """Confidences N(d, 1) of members and N(0, 1) of others: the best AUC is that of normals, Phi(d / sqrt 2)."""
    randomness = np.random.default_rng(2)
    members = np.argsort(np.argsort(randomness.random((64, 2000)), 0), 0) < 32
    hard = randomness.normal(0, 5, 2000)  # images differ far more than membership does: the plain attack sees little
    phi = hard + 1.5 * members + randomness.normal(size=members.shape)
    scores = lira_scores(phi, members, 0)
    area = auroc(scores[members[0]], scores[~members[0]])
    assert area == pytest.approx(stats.norm.cdf(1.5 / 2**0.5), abs=0.02)
    assert auroc(phi[0][members[0]], phi[0][~members[0]]) < area - 0.2


def test_pooled_tpr():
    pairs = [(np.array([1.0, 3.0]), np.array([0.0, 2.0])), (np.array([5.0, 6.0]), np.array([0.0, 1.0]))]
    found = pooled_tpr(pairs, 0.001)
    assert found["value"] == 0.75
    assert (found["low"], found["high"]) == (0.5, 1.0)
    assert pooled_tpr(pairs, 0.001) == found


def test_rank_correlations():
    randomness = np.random.default_rng(3)
    for decimals in (8, 0):  # without and with ties
        x = randomness.normal(size=30).round(decimals)
        y = (x + randomness.normal(size=30)).round(decimals)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
        assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    assert spearman(np.ones(5), np.arange(5.0)) == kendall(np.ones(5), np.arange(5.0)) == 0
    assert spearman(np.arange(5.0), np.arange(5.0) ** 3) == pytest.approx(1)


def test_areas():
    """Of attacks and in LiRA: Mann and Whitney's statistic, ties half."""
    randomness = np.random.default_rng(5)
    for decimals in (8, 1):
        inside, outside = randomness.normal(0.5, 1, 80).round(decimals), randomness.normal(0, 1, 60).round(decimals)
        wanted = stats.mannwhitneyu(inside, outside).statistic / (len(inside) * len(outside))
        assert auroc(inside, outside) == pytest.approx(wanted)


def test_regret():
    real = np.array([0.5, 0.9, 0.7])
    assert regret(np.array([0.1, 0.2, 0.3]), real) == pytest.approx(0.2)
    assert regret(np.array([0.1, 0.3, 0.3]), real) == pytest.approx(0.9 - 0.8)  # two are chosen alike
    assert regret(real, real) == 0


def test_top_by_the_real_ranking():
    real = np.array([0.9, 0.8, 0.7, 0.1, 0.2])
    proxy = np.array([3.0, 2.0, 1.0, 9.0, 8.0])  # the worst two are what it likes best
    assert top_spearman(proxy, real, 3) == pytest.approx(1)
    assert top_spearman(real, proxy, 3) == pytest.approx(stats.spearmanr(real[[3, 4, 0]], proxy[[3, 4, 0]]).statistic)


def test_bootstrap():
    """Of a mean it is the interval of the normal law; a difference to itself is an exact tie."""
    randomness = np.random.default_rng(4)
    x, y = randomness.normal(1, 1, 200), randomness.normal(size=200)
    found = bootstrap(lambda own, _: float(own.mean()), x, y)
    assert found["value"] == pytest.approx(x.mean())
    low, high = stats.norm.interval(0.95, loc=x.mean(), scale=x.std() / 200**0.5)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.03)
    again = stats.bootstrap(
        (x, y),
        lambda a, b: spearman(a, b),
        paired=True,
        vectorized=False,
        n_resamples=400,
        method="percentile",
        rng=np.random.default_rng(6),
    ).confidence_interval
    ours = bootstrap(spearman, x, y)
    assert (ours["low"], ours["high"]) == pytest.approx((again.low, again.high), abs=0.05)
    assert bootstrap(spearman, x, y, x) == {"value": 0, "low": 0, "high": 0, "tie": True}
    assert bootstrap(spearman, y, y, x)["tie"] is False
