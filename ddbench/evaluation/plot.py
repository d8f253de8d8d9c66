"""The picture of an evaluation, drawn with pillow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddbench.measurements.reliability import BAR, GRID, INK, OVER, Shape, draw
from ddbench.registry import unknown

if TYPE_CHECKING:
    from PIL.Image import Image

NAMES, SIDE, ROW, TOP = 200, 320, 28, 56
"""Widths of the names and of the scale, height of a student's line, and of the head, in units of the drawing."""


def plot(data: Mapping[str, Any], title: str, metric: str) -> Image:
    """A line a student: every run (black), the mean (red) and its 95 % interval (blue) on a common scale.

    The scale is 0 to 1 where all runs are in it, and intervals end there; else it holds every run and interval.

    Args:
        data: an evaluation as it is written.
        title: what was evaluated, over the picture.

    Raises:
        UserError: no student has the metric.
    """
    summary = {name: entry[metric] for name, entry in data["summary"].items() if metric in entry}
    if not summary:
        raise unknown("metric of this evaluation", metric, data["metrics"])
    runs = [(run["student"], run["metrics"][metric]) for run in data["runs"] if metric in run["metrics"]]
    ends = [entry[end] for entry in summary.values() for end in ("low", "high") if entry[end] is not None]
    values = [value for _, value in runs]
    low, high = 0.0, 1.0
    if min(values) < 0 or max(values) > 1:
        low, high = min(values + ends), max(values + ends)
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return NAMES + SIDE * (min(max(value, low), high) - low) / span

    bottom = TOP + ROW * len(summary)
    below = data["metrics"].get(metric, {}).get("title", metric)
    shapes = [Shape("text", (12, 20), INK, title), Shape("text", (12, 38), INK, below)]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        place = NAMES + SIDE * tick
        shapes.append(Shape("line", (place, TOP, place, bottom), GRID))
        shapes.append(Shape("text", (place, bottom + 16), INK, f"{low + span * tick:.3g}", "middle"))
    for line, (student, entry) in enumerate(summary.items()):
        y = TOP + ROW * (line + 0.5)
        shapes.append(Shape("text", (NAMES - 8, y + 4), INK, student, "end"))
        if entry["low"] is not None:
            shapes.append(Shape("box", (x(entry["low"]), y - 4, x(entry["high"]) - x(entry["low"]), 8), BAR))
        shapes += [Shape("line", (x(v), y - 8, x(v), y + 8), INK) for name, v in runs if name == student]
        shapes.append(Shape("box", (x(entry["mean"]) - 1.5, y - 10, 3, 20), OVER))
        shapes.append(Shape("text", (NAMES + SIDE + 10, y + 4), INK, f"{entry['mean']:.4g}"))
    return draw(shapes, NAMES + SIDE + 70, bottom + 28)
