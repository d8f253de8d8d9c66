"""Signs that a student is not robust but hides its gradient, so that attacks fail without need.

After Athalye et al., ICML 2018, and Carlini et al., 2019: a stronger attack does worse than a weaker one, an attack
without gradients does better than one with them, or something survives a bound at which nothing can be seen.
"""

from __future__ import annotations

from collections.abc import Mapping

from ddbench.measurements.robustness.budgets import SANITY_EPS, Attack

WARNINGS = {
    "pgd-worse-than-fgsm": "PGD leaves more images right than FGSM at the same bound",
    "square-beats-pgd": "Square, which uses no gradient, breaks more images than PGD at the same bound",
    "survives-anything": f"more than 5 % of the images survive PGD at {SANITY_EPS}/255",
}
"""What each suspicion means; the names are kept for every seed."""

SLACK = 0.005
"""Differences of accuracy up to this are chance: two images of five hundred."""

SURVIVORS = 0.05


def suspicions(accuracies: Mapping[Attack, float], headline: float) -> list[str]:
    """Names of :data:`WARNINGS` that hold for accuracies under attack."""
    pgd = {attack.eps: value for attack, value in accuracies.items() if attack.family == "pgd" and not attack.sanity}
    fgsm = {attack.eps: value for attack, value in accuracies.items() if attack.family == "fgsm"}
    square = [value for attack, value in accuracies.items() if attack.family == "square" and attack.eps == headline]
    found = []
    if any(pgd[eps] > fgsm[eps] + SLACK for eps in pgd.keys() & fgsm.keys()):
        found.append("pgd-worse-than-fgsm")
    if square and headline in pgd and square[0] < pgd[headline] - SLACK:
        found.append("square-beats-pgd")
    if any(attack.sanity and value > SURVIVORS for attack, value in accuracies.items()):
        found.append("survives-anything")
    return found
