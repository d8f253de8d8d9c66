"""Student's quantile by numerical integration and bisection; good to 1e-6 for 1 and more degrees of freedom."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np


def stdtrit(degrees: float, p: float) -> float:
    """The ``p``-quantile of Student's t with ``degrees`` of freedom."""
    if math.isinf(degrees):
        return NormalDist().inv_cdf(p)
    if p < 0.5:
        return -stdtrit(degrees, 1 - p)
    # t = sqrt(degrees) tan(a): the density becomes cos(a)^(degrees - 1), and the line an interval
    log = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        angles = np.linspace(0.0, middle, 2001)
        density = np.exp(log + (degrees - 1) * np.log(np.cos(angles).clip(1e-300)))
        below = 0.5 + float((density[1:] + density[:-1]).sum()) * (angles[1] - angles[0]) / 2
        low, high = (middle, high) if below < p else (low, middle)
    return math.sqrt(degrees) * math.tan(low)
