"""Intervals and paired differences against formulas written by hand with scipy's distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ddbench.statistics import (
    count_words,
    gap_words,
    interval_words,
    paired_difference,
    spread_words,
    summarise,
    summarise_groups,
)

VALUES = [0.611, 0.598, 0.634, 0.605, 0.622]


def test_summarise():
    found = summarise(VALUES)
    mean, std = np.mean(VALUES), np.std(VALUES, ddof=1)
    low, high = stats.t.interval(0.95, 4, loc=mean, scale=std / math.sqrt(5))
    assert found == pytest.approx({"mean": mean, "std": std, "n": 5, "low": low, "high": high}, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_interval_is_that_of_the_one_sample_t_test(n: int):
    values = np.random.default_rng(n).normal(0.6, 0.02, n).tolist()
    found, expected = summarise(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_single_and_equal_values():
    assert summarise([0.5]) == {"mean": 0.5, "std": None, "n": 1, "low": None, "high": None}
    assert summarise([0.5] * 4) == {"mean": 0.5, "std": 0.0, "n": 4, "low": 0.5, "high": 0.5}
    with pytest.raises(ValueError, match="no values"):
        summarise([])


def test_groups_are_the_unit():
    groups = [[0.60, 0.61, 0.62], [0.55, 0.56, 0.57], [0.63, 0.64, 0.68]]
    found = summarise_groups(groups)
    means = [np.mean(group) for group in groups]
    half = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / math.sqrt(3)
    every = np.concatenate(groups)
    expected = {"mean": np.mean(means), "std": np.std(every, ddof=1), "n": 9}
    assert found == pytest.approx({**expected, "low": np.mean(means) - half, "high": np.mean(means) + half}, abs=1e-12)
    # more seeds in the same subsets do not make it narrower
    doubled = summarise_groups([group * 2 for group in groups])
    assert doubled["high"] - doubled["low"] == pytest.approx(found["high"] - found["low"], abs=1e-12)
    assert summarise(every.tolist())["high"] < found["high"]


def test_one_group_and_bad_groups():
    assert summarise_groups([VALUES]) == summarise(VALUES)
    for groups in ([], [[]], [[0.5], []]):
        with pytest.raises(ValueError, match="no values"):
            summarise_groups(groups)


def test_paired_difference_with_one_other_is_the_paired_t_test():
    ours = dict(enumerate(VALUES))
    other = {seed: value - 0.01 + 0.004 * (-1) ** seed for seed, value in ours.items()}
    found = paired_difference(ours, [other])
    expected = stats.ttest_rel(VALUES, [other[seed] for seed in range(5)])
    interval = expected.confidence_interval(0.95)
    difference = np.array(VALUES) - np.array([other[seed] for seed in range(5)])
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert (found["mean"], found["std"], found["n"]) == pytest.approx((difference.mean(), difference.std(ddof=1), 5))
    assert found["tie"] is bool(expected.pvalue > 0.05)


def test_paired_difference_with_several_others():
    randomness = np.random.default_rng(3)
    table = randomness.normal(0.02, 0.03, (4, 6))  # others x seeds
    ours = dict.fromkeys(range(6), 0.6)
    others = [{seed: 0.6 - table[k, seed] for seed in range(6)} for k in range(4)]
    found = paired_difference(ours, others)
    by_seed = table.mean(0).var(ddof=1) / 6
    by_subset = table.mean(1).var(ddof=1) / 4
    variance = by_seed + by_subset
    degrees = variance**2 / (by_seed**2 / 5 + by_subset**2 / 3)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(variance)
    assert found["mean"] == pytest.approx(table.mean(), abs=1e-12)
    assert (found["low"], found["high"]) == pytest.approx((table.mean() - half, table.mean() + half), abs=1e-12)
    assert found["tie"] is bool(table.mean() - half <= 0 <= table.mean() + half)


def test_only_common_seeds_are_compared():
    found = paired_difference({0: 0.5, 1: 0.6, 7: 0.9}, [{1: 0.5, 0: 0.45, 3: 0.1}])
    assert (found["n"], found["mean"]) == (2, pytest.approx(0.075))
    with pytest.raises(ValueError, match="no network seed is common"):
        paired_difference({0: 0.5}, [{1: 0.5}])
    with pytest.raises(ValueError, match="no network seed is common"):
        paired_difference({0: 0.5}, [])


def test_ties():
    assert paired_difference({0: 0.9}, [{0: 0.1}])["tie"] is True, "one seed says nothing"
    assert paired_difference({0: 0.5, 1: 0.6}, [{0: 0.4, 1: 0.5}])["tie"] is False
    assert paired_difference({0: 0.5, 1: 0.5}, [{0: 0.5, 1: 0.5}])["tie"] is True
    assert paired_difference({0: 0.5, 1: 0.9}, [{0: 0.6, 1: 0.4}])["tie"] is True


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.5], ""),
        ([0.9, 0.92, 0.91], "88.52 to 93.48"),
        ([0.99, 0.999, 0.98], "96.61 to 100.00, clipped"),
        ([0.01, 0.0, 0.005], "0.00 to 1.74, clipped"),
        ([0.2, 0.8], "too few seeds for an interval"),
        ([0.7, 0.7], "70.00 to 70.00"),
    ],
)
def test_an_interval_in_words(values: list[float], words: str):
    assert interval_words(summarise(values), 100, 2) == words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.5], "50.0"),
        ([0.9, 0.92, 0.91], "91.0 ± 2.5"),
        ([0.99, 0.999, 0.98], "99.0 (96.6 to 100.0, clipped)"),
        ([0.2, 0.8], "50.0 (too few seeds)"),
    ],
)
def test_mean_and_spread_in_words(values: list[float], words: str):
    assert spread_words(summarise(values), lambda value: f"{100 * value:.1f}", "fraction") == words


def test_the_spread_of_what_is_no_fraction_is_not_clipped():
    assert spread_words(summarise([-1.0, 3.0, 1.0]), lambda value: f"{value:.0f}", "1", "+-") == "1 +- 5"


def test_an_interval_of_what_is_no_fraction_is_not_clipped():
    assert interval_words(summarise([-3.0, 5.0, 4.0]), unit="percent") == "-8.8281 to 12.8281"
    assert interval_words(summarise([2.0]), unit="percent") == ""


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("factor", "0.0000 to 12.8281, clipped"),  # a temperature
        ("nats", "0.0000 to 12.8281, clipped"),
        ("sum of squares", "too few seeds for an interval"),
        ("difference", "too few seeds for an interval"),  # confidence less accuracy
        ("points", "0.0000 to 12.8281, clipped"),
    ],
)
def test_an_interval_ends_where_its_unit_does(unit: str, words: str):
    assert interval_words(summarise([-3.0, 5.0, 4.0]), unit=unit) == words


def test_a_difference_in_words():
    assert gap_words(0.011, -0.033, 0.055) == "+1.1 (-3.3 to +5.5)"
    assert gap_words(-0.5, -1.2, 0.2) == "-50.0 (-100.0 to +20.0, clipped)"
    assert gap_words(0.5, None, None) == "+50.0"


def test_counts_in_words():
    assert [count_words(count, "seed") for count in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]
