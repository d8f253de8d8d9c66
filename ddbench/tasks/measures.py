"""Statistics of tasks, as pure functions of numbers. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np
import numpy.typing as npt

from ddbench.statistics import Difference, Statistics, summarise_groups

# Continual learning

ROUNDING = 1e-6
"""Earlier records have accuracies to six digits: what differs by no more is equal."""

Matrix = Sequence[Sequence[float]]
"""Row t, column s <= t: accuracy on the classes of step s after learning step t."""


def seen_accuracies(matrix: Matrix, counts: Sequence[int]) -> list[float]:
    """Accuracy on all classes seen so far, after each step.

    Args:
        counts: test images of each step's classes.
    """
    return [sum(a * n for a, n in zip(row, counts, strict=False)) / sum(counts[: len(row)]) for row in matrix]


def forgetting(matrix: Matrix) -> float:
    """Mean over all steps but the last of the best accuracy on its classes before the last step, less the last one.

    Chaudhry et al., ECCV 2018. 0 for a single step; negative, where later steps help.
    """
    last = matrix[-1]
    lost = [max(row[step] for row in matrix[step:-1]) - last[step] for step in range(len(matrix) - 1)]
    return fmean(lost) if lost else 0.0


def paired_groups(ours: Mapping[int, Mapping[int, float]], other: Mapping[int, Mapping[int, float]]) -> Difference:
    """Mean difference of runs that are paired by group (a class order) and network seed; the group is the unit.

    Args:
        ours, other: group -> seed -> value.

    Raises:
        ValueError: nothing is common.
    """
    groups = [
        [own[seed] - other[group][seed] for seed in sorted(own) if seed in other[group]]
        for group, own in sorted(ours.items())
        if group in other
    ]
    return as_difference(summarise_groups([group for group in groups if group]))


def as_difference(found: Statistics) -> Difference:
    """A mean difference of what records have, a tie where its interval contains 0 or is unknown."""
    low, high = found["low"], found["high"]
    return {**found, "tie": low is None or high is None or (low <= ROUNDING and high >= -ROUNDING)}


# Membership

Scores = npt.NDArray[np.float64]


def tpr_at_fpr(inside: Scores, outside: Scores, fpr: float) -> float:
    """The largest true-positive rate of a rule ``score > t`` whose false-positive rate is at most ``fpr``.

    Args:
        inside, outside: scores of members and of others; neither is empty.
    """
    allowed = int(fpr * len(outside) + 1e-9)
    if allowed >= len(outside):
        return 1.0
    threshold = np.partition(outside, len(outside) - 1 - allowed)[len(outside) - 1 - allowed]
    return float((inside > threshold).mean())


def lira_scores(confidences: Scores, members: npt.NDArray[np.bool_], target: int) -> Scores:
    """Log-likelihood ratios of membership of a target's images, by the other shadows (Carlini et al. 2022).

    Each image has a normal distribution of the confidence when it is a member and one when it is not; their variances
    are pooled over images, as the paper advises for few shadows.

    Args:
        confidences: log-odds of the right class, ``(N, n)``.
        members: ``(N, n)``; among the shadows without the target every image is at least once in and once out.

    Returns:
        ``(n,)``; higher: rather a member.
    """
    others = np.arange(len(confidences)) != target
    phi, own = confidences[others], confidences[target]
    ratios = []
    for mask in (members[others], ~members[others]):
        counts = mask.sum(0)
        mean = (phi * mask).sum(0) / counts
        squares = (((phi - mean) ** 2) * mask).sum()
        variance = max(float(squares) / max(1, int((counts - 1).sum())), 1e-12)
        ratios.append(-((own - mean) ** 2) / (2 * variance) - math.log(variance) / 2)
    found: Scores = ratios[0] - ratios[1]
    return found


DRAWS = 400
"""Resamples of a bootstrap."""


def pooled_tpr(pairs: Sequence[tuple[Scores, Scores]], fpr: float) -> dict[str, float]:
    """:func:`tpr_at_fpr` over the scores of all targets together, and a 95 % interval by drawing targets anew.

    Args:
        pairs: (members' scores, others' scores) of each target.

    Returns:
        ``value``, ``low``, ``high``: percentiles of :data:`DRAWS` resamples.
    """

    def of(chosen: Sequence[int]) -> float:
        return tpr_at_fpr(
            np.concatenate([pairs[k][0] for k in chosen]), np.concatenate([pairs[k][1] for k in chosen]), fpr
        )

    randomness = np.random.default_rng(0)
    draws = [of(randomness.integers(len(pairs), size=len(pairs)).tolist()) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": of(range(len(pairs))), "low": float(low), "high": float(high)}


# Rankings


def spearman(x: Scores, y: Scores) -> float:
    """Spearman's rank correlation, ties by their mean rank; 0 where one side has no order at all."""
    from scipy.stats import rankdata

    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def kendall(x: Scores, y: Scores) -> float:
    """Kendall's tau-b: concordant less discordant pairs, corrected for ties; 0 where one side has no order at all."""
    a, b = np.sign(x[:, None] - x[None, :]), np.sign(y[:, None] - y[None, :])
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def regret(proxy: Scores, real: Scores) -> float:
    """Best real score less that of the choice by the proxy; of equal choices the mean."""
    return max(0.0, float(real.max() - real[proxy == proxy.max()].mean()))  # a mean of equal numbers may round up


def top_spearman(proxy: Scores, real: Scores, count: int) -> float:
    """Spearman's correlation among the ``count`` best by the *real* score; of equal ones the first."""
    best = np.argsort(-real, kind="stable")[:count]
    return spearman(proxy[best], real[best])


Statistic = Callable[[Scores, Scores], float]


def bootstrap(
    statistic: Statistic, proxy: Scores, real: Scores, other: Scores | None = None
) -> dict[str, float | bool]:
    """A statistic of paired scores and its 95 % interval by drawing networks anew (percentiles).

    Args:
        other: another proxy's scores; then it is the difference of both that is told, under the same draws, and
            ``tie``: whether its interval contains 0.

    Returns:
        ``value``, ``low``, ``high``.
    """

    def of(index: npt.NDArray[np.int64]) -> float:
        own = statistic(proxy[index], real[index])
        return own if other is None else own - statistic(other[index], real[index])

    randomness = np.random.default_rng(0)
    draws = [of(randomness.integers(len(real), size=len(real))) for _ in range(DRAWS)]
    low, high = (float(end) for end in np.quantile(draws, [0.025, 0.975]))
    found: dict[str, float | bool] = {"value": of(np.arange(len(real))), "low": low, "high": high}
    return found if other is None else {**found, "tie": low <= 0 <= high}
