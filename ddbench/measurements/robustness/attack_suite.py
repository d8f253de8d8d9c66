"""``--robustness`` and ``--corruptions``: the suites that the evaluator runs, made for a synset's dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, ClassVar

from ddbench.data.dataset import Dataset
from ddbench.measurements.robustness import legacy
from ddbench.measurements.robustness.attack_probes import AttackProbe, CleanProbe
from ddbench.measurements.robustness.budgets import IMAGES, VERSION, Attack, Budget, budget, parts_for
from ddbench.measurements.robustness.external import installed
from ddbench.measurements.robustness.masking import WARNINGS, suspicions
from ddbench.measurements.suite import BUDGETS, Choice, Finding, Metric, Probe, Suite
from ddbench.protocols.plan import Plan
from ddbench.registry import unknown

TITLES = {
    "fgsm": "Accuracy after FGSM",
    "pgd": "Accuracy after PGD",
    "pgd_l2": "Accuracy after PGD (L2)",
    "pgd_margin": "Accuracy after PGD on the margin",
    "mim": "Accuracy after MIM",
    "vmi": "Accuracy after VMI-FGSM",
    "jitter": "Accuracy after Jitter",
    "autoattack": "Accuracy after AutoAttack",
    "apgd_ce": "Accuracy after APGD on the cross-entropy",
    "apgd_t": "Accuracy after targeted APGD",
    "fab_t": "Accuracy after targeted FAB",
    "square": "Accuracy after Square",
}
TITLES |= {f"{family}5": f"{TITLES[family]}, 5 steps" for family in ("pgd", "pgd_margin", "vmi", "jitter")}

WORST, CLEAN = "worst-case", "none"


@dataclass(frozen=True, kw_only=True)
class RobustnessSuite(Suite):
    """Attacks of a budget on the test images.

    Attributes:
        budget: the attacks and the headline's bound.
        classes: K.
        libraries: versions of the packages that have attacks of it.
    """

    kind: ClassVar[str] = "robustness"
    images: int
    budget: Budget
    classes: int
    libraries: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The worst case, each family of attacks at its reported bound, and the medians of the smallest norms."""
        found = {
            "robust_accuracy": Metric(
                unit="fraction", better="higher", title=f"Robust accuracy (worst case, {self.budget.headline}/255)"
            )
        }
        for attack in self.budget.attacks:
            if attack.kind in ("cw", "deepfool"):
                title = "C&W" if attack.kind == "cw" else "DeepFool"
                found[f"{attack.kind}_l2"] = Metric(unit="l2", better="higher", title=f"Median L2 norm of {title}")
            elif self._reported(attack):
                found[f"robust_{attack.family}"] = Metric(
                    unit="fraction", better="higher", title=f"{TITLES[attack.family]} ({attack.eps:g}/255)"
                )
        if self.budget.name == "legacy":
            found["beard_rr"] = Metric(unit="percent", better="higher", title="BEARD's RR (not monotone)")
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """Budget, headline, images, attacks one by one, versions of the libraries; AutoAttack's parts if not all."""
        few = self.classes < 4 and any(attack.kind == "autoattack" for attack in self.budget.attacks)
        return {
            "version": VERSION,
            "budget": self.budget.name,
            "headline_eps": f"{self.budget.headline}/255",
            "images": self.images,
            "attacks": [attack.settings() for attack in self.budget.attacks],
            "libraries": dict(sorted(self.libraries.items())),
            **({"autoattack": list(parts_for(self.classes))} if few else {}),
        }

    @property
    def probes(self) -> Sequence[Probe]:
        """The images as they are, then every attack."""
        return (CleanProbe(), *(AttackProbe(attack=attack, classes=self.classes) for attack in self.budget.attacks))

    def combine(self, findings: Mapping[str, Finding]) -> Finding:
        """Per image the worst case over the Linf attacks at one bound: an image counts if it survives all of them."""
        clean = findings[CleanProbe.name].bits["correct"]
        right = {attack: findings[attack.name].bits["correct"] for attack in self.budget.attacks}
        metrics: dict[str, float] = {}
        curve = [_point(CLEAN, "linf", 0, clean)]
        for attack in sorted(right, key=lambda attack: (attack.norm, attack.family, attack.eps)):
            if attack.eps and not attack.sanity:
                curve.append(_point(attack.family.removesuffix("_l2"), attack.norm, attack.eps, right[attack]))
            if self._reported(attack):
                metrics[f"robust_{attack.family}"] = float(right[attack].mean())
            metrics.update(findings[attack.name].metrics)
        worst = {}
        for eps in sorted({attack.eps for attack in right if _threat(attack)}):
            worst[eps] = clean.copy()
            for attack, correct in right.items():
                if _threat(attack) and attack.eps == eps:
                    worst[eps] &= correct
        curve += [_point(WORST, "linf", eps, correct) for eps, correct in worst.items()]
        metrics["robust_accuracy"] = float(worst[self.budget.headline].mean())
        if self.budget.name == "legacy":
            metrics["beard_rr"] = legacy.robustness_ratio(clean.mean(), [each.mean() for each in right.values()])
        accuracies = {attack: float(correct.mean()) for attack, correct in right.items()}
        return Finding(
            metrics=metrics,
            details={"robustness": curve, "masking": suspicions(accuracies, self.budget.headline)},
        )

    def _reported(self, attack: Attack) -> bool:
        """Whether a metric of its own is read at this bound."""
        return not attack.sanity and (attack.norm == "l2" or attack.eps == self.budget.headline) and attack.eps > 0

    def pool(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The curve's means over seeds, and each suspicion with the number of seeds that have it."""
        curve = [
            {**points[0], "accuracy": fmean(point["accuracy"] for point in points)}
            for points in zip(*(one["robustness"] for one in details), strict=True)
        ]
        counts = {name: sum(name in one["masking"] for one in details) for name in WARNINGS}
        warnings = [
            f"{text} ({counts[name]} of {len(details)} seeds)" for name, text in WARNINGS.items() if counts[name]
        ]
        return {"robustness": curve, "masking_warnings": warnings, "n_test": self.images}


def _threat(attack: Attack) -> bool:
    """Whether it counts for the worst case: Linf, with a bound."""
    return attack.norm == "linf" and attack.eps > 0 and not attack.sanity


def _point(attack: str, norm: str, eps: float, correct: Any) -> dict[str, Any]:
    return {
        "attack": attack,
        "norm": norm,
        "eps": f"{eps:g}/255",
        "value": round(eps / 255, 6),
        "accuracy": float(correct.mean()),
    }


def robustness_suite(choice: Choice, plan: Plan, dataset: Dataset) -> Suite:
    """The attacks of a budget for a dataset's images.

    Raises:
        UserError: an unknown budget, or a library that it needs is not installed.
    """
    if choice.budget not in BUDGETS:
        raise unknown("budget", choice.budget, BUDGETS, "--robustness")
    _, channels, size, _ = plan.synset.images.shape
    chosen = budget(choice.budget, channels, size, plan.synset.classes)
    notes = []
    if any(attack.kind == "autoattack" for attack in chosen.attacks) and plan.synset.classes < 4:
        notes.append(
            f"robustness: with {plan.synset.classes} classes AutoAttack is APGD on the cross-entropy, FAB and Square"
        )
    return RobustnessSuite(
        images=min(choice.max_images or IMAGES, len(dataset.test)),
        budget=chosen,
        classes=plan.synset.classes,
        libraries=installed(sorted({attack.library for attack in chosen.attacks if attack.library})),
        notes=tuple(notes),
    )
