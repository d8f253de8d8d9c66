"""Statistics of tasks against closed forms and scipy."""

from __future__ import annotations

from statistics import fmean, stdev

import pytest
from scipy import stats

from ddbench.tasks.measures import forgetting, paired_groups, seen_accuracies

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
