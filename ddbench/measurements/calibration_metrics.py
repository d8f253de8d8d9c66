"""How far a classifier's confidence is from its accuracy: metrics, temperature and reliability, as pure functions.

Everything is numpy float64 and starts from *logits*: nothing guesses whether numbers are probabilities already (logits
that happen to lie in [0, 1] are logits). With ``p = softmax(z)``, confidence ``c_i = max_k p_ik`` and
``a_i = [argmax p_i = y_i]``. Bins are ``(lo, hi]``, so that a confidence of exactly 1 belongs to the last one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15
"""Bins of every binned metric."""

LOG_BOUND = 3.0
"""log T is searched in [-3, 3]."""

NEAR_BOUND = 1e-3
"""A log T this near to a bound lies at it (the bounded search never reaches it)."""

LEAST_NLL = 1e-4
"""A fit whose NLL is smaller says nothing: the images are interpolated, and the optimum is at T -> 0."""


def log_softmax(logits: Floats) -> Floats:
    """``z - log sum exp z`` of rows, ``(N, K)``."""
    shifted = logits - logits.max(1, keepdims=True)
    made: Floats = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return made


def nll(logits: Floats, labels: Ints) -> float:
    """Mean negative log-likelihood in nats, ``-mean log p_(i, y_i)``."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def brier(probabilities: Floats, labels: Ints) -> float:
    """Brier score (1950), sum form: ``mean_i sum_k (p_ik - [y_i = k])^2``, in [0, 2]."""
    target = np.zeros_like(probabilities)
    target[np.arange(len(labels)), labels] = 1
    return float(np.square(probabilities - target).sum(1).mean())


def bin_sums(confidence: Floats, correct: Floats, bins: int = BINS) -> tuple[Floats, Floats, Floats]:
    """Of each equal-width bin of [0, 1]: how many, the sum of their confidences, and of their correctness; ``(bins,)``.

    Args:
        confidence: ``(N,)`` in [0, 1].
        correct: ``(N,)`` of 0 and 1.
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    parts = (
        np.bincount(place, weights=each, minlength=bins) for each in (np.ones_like(confidence), confidence, correct)
    )
    count, confident, right = (part.astype(np.float64) for part in parts)
    return count, confident, right


def calibration_error(confidence: Floats, correct: Floats, bins: int = BINS, norm: str = "l1") -> float:
    """Expected calibration error over equal-width bins (Guo et al., ICML 2017); empty bins count nothing.

    Args:
        norm: ``l1``: ``sum_b n_b / N |gap_b|``; ``l2``: ``sqrt(sum_b n_b / N gap_b^2)``; ``max``: ``max_b |gap_b|``.
    """
    count, confident, right = bin_sums(confidence, correct, bins)
    filled = count > 0
    gap = np.abs(confident[filled] - right[filled]) / count[filled]
    share = count[filled] / len(confidence)
    if norm == "max":
        return float(gap.max())
    return float((share * gap).sum()) if norm == "l1" else float(np.sqrt((share * gap**2).sum()))


def adaptive_error(confidence: Floats, correct: Floats, bins: int = BINS) -> float:
    """As :func:`calibration_error` over bins of equal numbers of images (sizes differ by one at most), in order of
    confidence; equal confidences keep the order of the images.
    """
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(float(confidence[part].mean() - correct[part].mean())) * len(part) for part in parts]
    return float(sum(gaps) / len(confidence))


def classwise_error(probabilities: Floats, labels: Ints, bins: int = BINS) -> float:
    """Mean over classes k of the calibration error of ``p_ik`` as the probability of class k."""
    classes = probabilities.shape[1]
    each = [calibration_error(probabilities[:, k], (labels == k).astype(np.float64), bins) for k in range(classes)]
    return float(sum(each) / classes)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How calibrated outputs are.

    Attributes:
        metrics: ``ece``, ``adaptive_ece``, ``classwise_ece``, ``nll``, ``brier``, ``overconfidence`` (mean confidence
            less accuracy, signed).
        others: ``ece_l2``, ``largest_gap`` (of the same bins; noisy), ``accuracy``.
        bins: for each of the :data:`BINS` bins (number, sum of confidences, number of right ones).
    """

    metrics: dict[str, float]
    others: dict[str, float]
    bins: list[list[float]]


def calibration(logits: Floats, labels: Ints) -> Calibration:
    """All metrics of logits ``(N, K)`` and classes ``(N,)``."""
    probabilities = np.exp(log_softmax(logits))
    confidence = np.minimum(probabilities.max(1), 1.0)
    correct = (logits.argmax(1) == labels).astype(np.float64)
    return Calibration(
        metrics={
            "ece": calibration_error(confidence, correct),
            "adaptive_ece": adaptive_error(confidence, correct),
            "classwise_ece": classwise_error(probabilities, labels),
            "nll": nll(logits, labels),
            "brier": brier(probabilities, labels),
            "overconfidence": float(confidence.mean() - correct.mean()),
        },
        others={
            "ece_l2": calibration_error(confidence, correct, norm="l2"),
            "largest_gap": calibration_error(confidence, correct, norm="max"),
            "accuracy": float(correct.mean()),
        },
        bins=[[float(value) for value in row] for row in zip(*bin_sums(confidence, correct), strict=True)],
    )


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """A fitted temperature T; ``degenerate``: at a bound, or fitted on images that say nothing about it."""

    value: float
    degenerate: bool


def fit_temperature(logits: Floats, labels: Ints) -> Temperature:
    """T that minimises the NLL of ``z / T``, by a bounded search of log T in [-3, 3].

    It is flagged where it lies at a bound, where every image is classified rightly (the infimum is then at T -> 0), or
    where the fitted NLL is below :data:`LEAST_NLL`: there the search stops on a flat. Logits that are not finite tell
    nothing: T is then 1, flagged.
    """
    from scipy.optimize import minimize_scalar

    if not np.isfinite(logits).all():
        return Temperature(value=1.0, degenerate=True)

    def objective(log_t: float) -> float:
        return nll(logits / math.exp(log_t), labels)

    found: Any = minimize_scalar(
        objective, bounds=(-LOG_BOUND, LOG_BOUND), method="bounded", options={"xatol": 1e-6, "maxiter": 200}
    )
    log_t = float(found.x)
    at_bound = abs(log_t) > LOG_BOUND - NEAR_BOUND
    all_right = bool((logits.argmax(1) == labels).all())
    return Temperature(value=math.exp(log_t), degenerate=at_bound or all_right or objective(log_t) < LEAST_NLL)
