"""Ranks, ties by their mean."""

from __future__ import annotations

from typing import Any

import numpy as np


def rankdata(values: Any) -> Any:
    """Rank of each number, from 1."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return ((2 * last - counts + 1) / 2)[place]
