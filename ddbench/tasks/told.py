"""What a task tells a board of one run: described numbers, single values where intervals follow from them. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ddbench.statistics import Statistics, summarise

Values = Mapping[int, Mapping[str, float]]
"""Unit (a network seed, a class order, a target of the attack) -> metric -> value."""


class Described(NamedTuple):
    """What a number means: unit (``fraction``: 0 to 1; ``1``: another range), what is ``better``, and its title."""

    unit: str
    better: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Told:
    """A run's numbers.

    Attributes:
        over: what a unit is: ``seed``, ``order``, ``target``; of numbers without units what is drawn: ``net``.
        metrics: every number that is told.
        units: the values that intervals follow from (Student t); runs are paired by unit.
        stated: numbers without such values, with their interval (a bootstrap).
        beside: what is no number: whether a set leaks, what the first images were.
    """

    over: str
    metrics: Mapping[str, Described]
    units: Values = field(default_factory=dict)
    stated: Mapping[str, Statistics] = field(default_factory=dict)
    beside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Statistics]:
        """Metric -> mean, std, n, low, high."""
        return {
            name: self.stated[name] if name in self.stated else summarised(self.units, name) for name in self.metrics
        }

    def to_json(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """As a row of a board has it.

        Args:
            head: of the task's result.
        """
        return {
            "question": question_of(head),
            "over": self.over,
            "metrics": {name: one._asdict() for name, one in self.metrics.items()},
            "units": [{"unit": unit, "metrics": dict(own)} for unit, own in sorted(self.units.items())],
            "summary": {name: dict(one) for name, one in self.summary.items()},
            "beside": dict(self.beside),
            "threads": head["threads"],
            "versions": dict(head["versions"]),
        }


def summarised(units: Values, metric: str) -> Statistics:
    """Statistics of a metric over the units that have it."""
    return summarise([own[metric] for _, own in sorted(units.items()) if metric in own])


def stated(value: float, low: float, high: float, count: int) -> Statistics:
    """A number with the interval of a bootstrap over ``count`` things."""
    return {"mean": value, "std": None, "n": count, "low": low, "high": high}


def question_of(head: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked, without the runs: where it is equal, numbers may be compared."""
    names = ("config", "decides", "precision", "protocol", "seeds", "student")
    return {name: head[name] for name in names}
