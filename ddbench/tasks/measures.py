"""Statistics of tasks, as pure functions of numbers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from ddbench.statistics import Difference, Statistics, summarise_groups

# Continual learning

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
    """A mean difference, a tie where its interval contains 0 or is unknown."""
    low, high = found["low"], found["high"]
    return {**found, "tie": low is None or high is None or low <= 0 <= high}
