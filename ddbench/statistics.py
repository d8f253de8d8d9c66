"""Means, intervals and paired differences of a handful of runs. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any, TypedDict

LEVEL = 0.95


class Statistics(TypedDict):
    """Mean, standard deviation (ddof 1), count and 95 % interval; None where a single value has none."""

    mean: float
    std: float | None
    n: int
    low: float | None
    high: float | None


class Difference(Statistics):
    """A mean difference, and whether its interval contains 0 or is unknown."""

    tie: bool


def stdev(values: Sequence[float]) -> float:
    """Standard deviation (ddof 1) of two or more values; that of the standard library is exact and slow."""
    if min(values) == max(values):
        return 0.0
    mean = fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


@lru_cache(maxsize=4096)
def student_quantile(degrees: float) -> float:
    """Of the 95 % interval, for so many degrees of freedom (infinitely many: the normal one)."""
    from scipy.special import stdtrit  # Student's quantile; scipy.stats takes a second to import

    return float(stdtrit(degrees, 0.5 + LEVEL / 2))


def _summary(mean: float, std: float | None, n: int, half: float | None) -> Statistics:
    return {
        "mean": mean,
        "std": std,
        "n": n,
        "low": None if half is None else mean - half,
        "high": None if half is None else mean + half,
    }


def summarise(values: Sequence[float]) -> Statistics:
    """Mean, standard deviation (ddof 1), n, and the 95 % Student-t interval of independent runs.

    ``std``, ``low`` and ``high`` are None for a single value.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values")
    mean, n = fmean(values), len(values)
    if n == 1:
        return _summary(mean, None, 1, None)
    spread = stdev(values)
    return _summary(mean, spread, n, student_quantile(n - 1) * spread / math.sqrt(n))


def summarise_groups(groups: Sequence[Sequence[float]]) -> Statistics:
    """As :func:`summarise` when the runs come in groups (the seeds of several random subsets).

    The group is the unit: the interval is that of the group means, so that many seeds on few subsets do not look
    more certain than they are. With one group it is the interval over its runs. ``std`` is over all runs, ``n`` their
    number.

    Raises:
        ValueError: no groups, or an empty one.
    """
    if not groups or not all(groups):
        raise ValueError("no values")
    if len(groups) == 1:
        return summarise(groups[0])
    every = [value for group in groups for value in group]
    means = [fmean(group) for group in groups]
    half = student_quantile(len(means) - 1) * stdev(means) / math.sqrt(len(means))
    return _summary(fmean(means), stdev(every), len(every), half)


def paired_difference(ours: dict[int, float], others: Sequence[dict[int, float]]) -> Difference:
    """Mean difference of one synset's runs and those of one or more others, paired by network seed.

    ``d[k][s] = ours[s] - others[k][s]``. Seeds and (with several others, such as random subsets) the others are both
    drawn at random, so the variance of the grand mean is estimated from the seed means and from the subset means, and
    the degrees of freedom by Satterthwaite's rule. With one other it is the usual paired t interval.

    Args:
        ours: network seed -> value.
        others: the same for each comparison synset.

    Returns:
        mean, std (over the seed means), n (seeds), low, high; and ``tie``: whether the interval contains 0 (or is
        unknown).

    Raises:
        ValueError: no seed is common to all.
    """
    common = sorted(set(ours).intersection(*map(set, others)))
    if not common or not others:
        raise ValueError("no network seed is common to the runs that are compared")
    table = [[ours[seed] - other[seed] for seed in common] for other in others]
    seed_means = [fmean(row[s] for row in table) for s in range(len(common))]
    mean, n, k = fmean(seed_means), len(common), len(table)
    if n == 1:
        return {**_summary(mean, None, 1, None), "tie": True}
    parts = [(stdev(seed_means) ** 2 / n, n - 1)]
    if k > 1:
        parts.append((stdev([fmean(row) for row in table]) ** 2 / k, k - 1))
    variance = sum(part for part, _ in parts)
    if variance > 0:
        degrees = variance**2 / sum(part**2 / free for part, free in parts)
        half = student_quantile(degrees) * math.sqrt(variance)
    else:
        half = 0.0
    return {**_summary(mean, stdev(seed_means), n, half), "tie": mean - half <= 0 <= mean + half}


def corruption_errors(
    table: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]]
) -> dict[str, float] | None:
    """CE of each type of corruption: the errors, summed over severities, divided by the reference's. Their mean is mCE.

    Hendrycks and Dietterich, ICLR 2019, section 4.2.

    Args:
        table, reference: type -> accuracies of as many severities; the reference has all types of the table.

    Returns:
        None where the reference makes no error under some type.
    """
    found = {}
    for name, row in table.items():
        base = math.fsum(1 - value for value in reference[name])
        if base <= 0:
            return None
        found[name] = math.fsum(1 - value for value in row) / base
    return found


def auroc(inside: Any, outside: Any) -> float:
    """Probability that one of ``inside`` has the higher score; a tie counts half (Mann and Whitney).

    Args:
        inside, outside: scores ``(N,)`` and ``(M,)``, arrays or lists; neither is empty.
    """
    import numpy as np
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([inside, outside]))
    count = len(inside)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / (count * len(outside)))


CLIPPED, TOO_FEW = "clipped", "too few seeds for an interval"

FRACTION, SIGNED = "fraction", "signed fraction"
"""Units that are shown in per cent."""

RANGES: Mapping[str, tuple[float, float]] = {
    FRACTION: (0.0, 1.0),
    SIGNED: (-1.0, 1.0),
    "difference": (-1.0, 1.0),
    "points": (0.0, 100.0),
    "sum of squares": (0.0, 2.0),
    **dict.fromkeys(("nats", "factor", "ratio", "l2"), (0.0, math.inf)),
}
"""Unit -> what is possible; a ``difference`` is one of two fractions, and not shown in per cent."""


def ends_within(low: float, high: float, unit: str) -> tuple[float, float, str]:
    """The ends of an interval as people are shown them, and what was done: nothing, :data:`CLIPPED`, :data:`TOO_FEW`.

    An interval of a few runs can leave what is possible (:data:`RANGES`): it ends there; where it holds all that is
    possible, it says nothing.
    """
    least, most = RANGES.get(unit, (-math.inf, math.inf))
    if low >= least and high <= most:
        return low, high, ""
    return max(low, least), min(high, most), TOO_FEW if low < least and high > most else CLIPPED


def range_words(low: float | None, high: float | None, show: Callable[[float], str], unit: str) -> str:
    """An interval as people read it: ``92.25 to 93.67``, ``98.20 to 100.00, clipped``; empty where there is none.

    Args:
        show: a number as text.
        unit: of the numbers.
    """
    if low is None or high is None:
        return ""
    low, high, mark = ends_within(low, high, unit)
    if mark == TOO_FEW:
        return TOO_FEW
    return f"{show(low)} to {show(high)}" + (f", {mark}" if mark else "")


def interval_words(entry: Statistics, scale: float = 1.0, digits: int = 4, unit: str = FRACTION) -> str:
    """:func:`range_words` of a summary's interval.

    Args:
        scale: factor of the numbers, 100 for percent.
        digits: behind the point.
        unit: of the numbers before they are scaled.
    """
    return range_words(entry["low"], entry["high"], lambda value: f"{scale * value:.{digits}f}", unit)


def spread_words(entry: Statistics, show: Callable[[float], str], unit: str, sign: str = "±") -> str:
    """Mean and half of the interval, ``88.7 ± 0.9``; the mean alone for a single run.

    Where the interval leaves what is possible, its ends: ``97.9 (89.5 to 100.0, clipped)``, ``55.0 (too few seeds)``;
    also where it is a bootstrap's (there is no standard deviation), which has no middle.

    Args:
        show: a number as text.
        unit: of the numbers.
    """
    mean, low, high = show(entry["mean"]), entry["low"], entry["high"]
    if low is None or high is None:
        return mean
    ends = ends_within(low, high, unit)
    if ends[2]:
        return (
            f"{mean} (too few seeds)"
            if ends[2] == TOO_FEW
            else f"{mean} ({show(ends[0])} to {show(ends[1])}, {CLIPPED})"
        )
    if entry["std"] is None:
        return f"{mean} ({show(low)} to {show(high)})"
    return f"{mean} {sign} {show((high - low) / 2)}"


def gap_words(mean: float, low: float | None, high: float | None) -> str:
    """A difference of two fractions in points, with its interval where there is one: ``+1.1 (-3.3 to +5.5)``."""
    words = range_words(low, high, lambda value: f"{100 * value:+.1f}", SIGNED)
    return f"{100 * mean:+.1f}" + (f" ({words})" if words else "")


def count_words(count: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
