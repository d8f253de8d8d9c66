"""BEARD's robustness ratio, attack-efficiency ratio and their mean, kept to read its tables with. Not for ranking.

With clean accuracy A0, accuracy A_k under attack k, time t0 of a clean test and t_k of attack k (Zhou et al., BEARD,
2024, and its metrics script):

    RR   = 100 (1 - (A0 - mean A_k) / (A0 - min A_k)),    0 where A0 = min A_k
    AE   = 100 (mean t_k - t0) / (max t_k - t0),          0 where max t_k = t0
    CREI = alpha RR + (1 - alpha) AE

Why they rank nothing. RR measures the spread over attacks, not robustness: it is 0 for any single attack, 0 for a
model that keeps 59 of 60 points under every attack and 0 for one that keeps none, and it is not monotone: with clean
accuracy 60, attacks that leave (40, 30) give 16.7 and (40, 10) give 30. An attack that does nothing lifts it. AE
compares the machine and the choice of attacks, not models.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean


def robustness_ratio(clean: float, attacked: Sequence[float]) -> float:
    """RR in percent, of accuracies on one scale (fractions or percent).

    Raises:
        ValueError: no attacks.
    """
    if not attacked:
        raise ValueError("no attacks")
    drop = clean - min(attacked)
    return 100 * (1 - (clean - fmean(attacked)) / drop) if drop else 0.0


def attack_efficiency(clean: float, attacked: Sequence[float]) -> float:
    """AE in percent, of seconds for a pass over the test set.

    Raises:
        ValueError: no attacks.
    """
    if not attacked:
        raise ValueError("no attacks")
    longest = max(attacked) - clean
    return 100 * (fmean(attacked) - clean) / longest if longest else 0.0


def comprehensive_index(robustness: float, efficiency: float, alpha: float = 0.5) -> float:
    """CREI in percent, of RR and AE in percent; ``alpha`` is the weight of RR."""
    return alpha * robustness + (1 - alpha) * efficiency
