"""The robustness suite: budgets, worst case over attacks, warnings of hidden gradients, BEARD's figures, costs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from robust_student import digits, student, trained
from torch import Tensor, nn

from ddbench.data.dataset import Split
from ddbench.measurements.robustness import attack_probes as probes
from ddbench.measurements.robustness import legacy, masking
from ddbench.measurements.robustness.attack_suite import RobustnessSuite, robustness_suite
from ddbench.measurements.robustness.budgets import Attack, bounds, budget
from ddbench.measurements.suite import BUDGETS, SUITES, Choice, Finding
from ddbench.runtime.errors import UserError


class Plan:
    """As much of a plan as the builder looks at."""

    def __init__(self, channels: int = 1, size: int = 8, classes: int = 10) -> None:
        self.synset = self
        self.images = torch.zeros(1, channels, size, size)
        self.classes = classes


def suite(name: str = "quick", images: int = 60) -> RobustnessSuite:
    return RobustnessSuite(images=images, budget=budget(name, 1, 8), classes=10)


def run(made: RobustnessSuite, model: nn.Module, **how: Any) -> Finding:
    """Every probe, through the partial log's JSON, then combined."""
    measured = trained(model, made.images, **how)
    return made.combine({one.name: Finding.from_json(one.measure(measured).to_json()) for one in made.probes})


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64), (3, 224)])
def test_budgets(name: str, channels: int, size: int):
    chosen = budget(name, channels, size)
    made = RobustnessSuite(images=10, budget=chosen, classes=10)
    names = [one.name for one in made.probes]
    assert len(set(names)) == len(names)
    assert any(attack.eps == chosen.headline and attack.norm == "linf" for attack in chosen.attacks)
    assert pickle.loads(pickle.dumps(made)) == made
    assert all(one.cost(10).passes > 0 for one in made.probes)
    assert made.settings["attacks"][0]["name"] == chosen.attacks[0].name


def test_bounds_follow_the_size():
    assert bounds(1, 28) == (8, (2, 4, 8, 16))
    assert bounds(3, 32) == (8, (1, 2, 4, 8))
    assert bounds(3, 64) == (4, (1, 2, 4, 8))
    assert bounds(3, 224) == (1, (1, 2, 4))


def test_settings_of_the_papers():
    """DD-RobustBench: 2, 4, 8 over 255, ten steps of 2; GUARD: everything at 1 over 255; BEARD: 8, 2/255, L2 of 128."""
    robustbench = budget("ddrobustbench", 3, 32)
    assert [attack.name for attack in robustbench.attacks[:3]] == ["fgsm-linf-2", "fgsm-linf-4", "fgsm-linf-8"]
    for kind in ("pgd", "vmi", "jitter"):
        rows = {(attack.eps, attack.steps) for attack in robustbench.attacks if attack.kind == kind}
        assert rows == {(2, 10), (2, 5), (4, 5), (4, 10), (8, 10)}
    assert {attack.step for attack in robustbench.attacks if attack.steps in (5, 10)} == {2}
    for kind in ("autoattack", "apgd-ce", "apgd-t", "fab-t", "square"):
        assert [attack.eps for attack in robustbench.attacks if attack.kind == kind] == [1, 2, 3, 4]
    assert not any(attack.kind in ("apgd-t", "fab-t") for attack in budget("ddrobustbench", 1, 28, 3).attacks)
    guard = {attack.name: attack for attack in budget("guard", 3, 224).attacks}
    assert (guard["pgd-linf-1"].steps, guard["pgd-linf-1"].step) == (100, 0.25)
    assert (guard["mim-linf-1"].steps, guard["mim-linf-1"].step) == (20, 1)
    assert {attack.eps for attack in guard.values() if attack.norm == "linf"} == {1}
    beard = {attack.name: attack for attack in budget("legacy", 3, 32).attacks}
    assert (beard["pgd-linf-8"].steps, beard["pgd-linf-8"].step, beard["pgd-linf-8"].random_start) == (10, 2, False)
    assert beard["pgd-l2-128"].step == 15


def test_the_steps_are_pixels():
    how = probes.ascent(Attack(kind="pgd", eps=8, steps=20, step=2, random_start=True))
    assert (how.eps, how.step, how.steps, how.random_start) == (8 / 255, 2 / 255, 20, True)
    assert probes.ascent(Attack(kind="fgsm", eps=4)).step == 4 / 255
    assert probes.ascent(Attack(kind="mim", eps=4, steps=2, step=1)).momentum == 1.0
    vmi = probes.ascent(Attack(kind="vmi", eps=4, steps=2, step=1))
    assert (vmi.momentum, vmi.neighbours, vmi.loss) == (1.0, 5, "cross-entropy")
    assert probes.ascent(Attack(kind="jitter", eps=4, steps=2, step=1)).loss == "jitter"


def test_quick_on_digits():
    made = suite()
    found = run(made, student())
    assert found.metrics.keys() == made.metrics.keys() == {"robust_accuracy", "robust_fgsm", "robust_pgd"}
    curve = {(one["attack"], one["eps"]): one["accuracy"] for one in found.details["robustness"]}
    assert found.metrics["robust_pgd"] == curve["pgd", "8/255"]
    assert found.metrics["robust_accuracy"] == curve["worst-case", "8/255"]
    for eps in ("2/255", "4/255", "8/255", "16/255"):
        assert curve["worst-case", eps] <= min(curve["fgsm", eps], curve["pgd", eps]) <= curve["none", "0/255"]
    assert curve["pgd", "2/255"] > curve["pgd", "16/255"]
    assert ("pgd", "128/255") not in curve, "a test of the attack is no row"
    assert found.details["masking"] == []
    assert found == run(made, student())


def test_worst_case_is_per_image():
    """Two attacks that each break another half leave nothing, though each leaves half; other bounds do not count."""
    made = RobustnessSuite(
        images=4,
        classes=10,
        budget=type(budget("quick", 1, 8))(
            name="mine",
            headline=8,
            attacks=(
                Attack(kind="fgsm", eps=8),
                Attack(kind="pgd", eps=8),
                Attack(kind="pgd", eps=4),
                Attack(kind="pgd", eps=128, norm="l2"),
                Attack(kind="cw", norm="l2"),
            ),
        ),
    )
    bits = {
        "clean": [1, 1, 1, 1],
        "fgsm-linf-8": [1, 1, 0, 0],
        "pgd-linf-8": [0, 1, 1, 1],
        "pgd-linf-4": [1, 1, 1, 1],
        "pgd-l2-128": [0, 0, 0, 0],
        "cw": [0, 0, 0, 0],
    }
    findings = {name: Finding(bits={"correct": np.array(row, dtype=bool)}) for name, row in bits.items()}
    findings["cw"].metrics["cw_l2"] = 0.25
    found = made.combine(findings)
    assert found.metrics == {
        "robust_accuracy": 0.25,
        "robust_fgsm": 0.5,
        "robust_pgd": 0.75,
        "robust_pgd_l2": 0.0,
        "cw_l2": 0.25,
    }
    order = [(one["attack"], one["norm"], one["eps"]) for one in found.details["robustness"]]
    assert order == [
        ("none", "linf", "0/255"),
        ("pgd", "l2", "128/255"),
        ("fgsm", "linf", "8/255"),
        ("pgd", "linf", "4/255"),
        ("pgd", "linf", "8/255"),
        ("worst-case", "linf", "4/255"),
        ("worst-case", "linf", "8/255"),
    ]
    assert found.metrics.keys() == made.metrics.keys()


def test_pool():
    one = {"attack": "fgsm", "norm": "linf", "eps": "8/255", "value": 0.031373}
    details = [
        {"robustness": [{**one, "accuracy": 0.25}], "masking": ["square-beats-pgd"]},
        {"robustness": [{**one, "accuracy": 0.75}], "masking": []},
    ]
    pooled = suite(images=7).pool(details)
    assert pooled["robustness"] == [{**one, "accuracy": 0.5}]
    assert pooled["masking_warnings"] == [masking.WARNINGS["square-beats-pgd"] + " (1 of 2 seeds)"]
    assert pooled["n_test"] == 7


class Masked(nn.Module):
    """A student whose gradient is hidden: outputs in steps, so that they are flat almost everywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return logits.detach().round() + 0 * logits


def test_hidden_gradients_are_warned_of():
    found = run(suite(), Masked(student()).eval())
    assert found.details["masking"] == ["survives-anything"]
    assert found.metrics["robust_accuracy"] > 0.8, "and this is why"


def test_suspicions():
    fgsm, pgd, square = (Attack(kind=kind, eps=8) for kind in ("fgsm", "pgd", "square"))
    sanity = Attack(kind="pgd", eps=128, sanity=True)
    assert masking.suspicions({fgsm: 0.5, pgd: 0.4, square: 0.45, sanity: 0.0}, 8) == []
    assert masking.suspicions({fgsm: 0.5, pgd: 0.6, square: 0.3, sanity: 0.1}, 8) == list(masking.WARNINGS)
    assert masking.suspicions({fgsm: 0.5, pgd: 0.504, square: 0.5}, 8) == [], "an image or two are chance"


def test_a_broken_student():
    """Always another class: nothing is right, so nothing is robust, and there is no norm to speak of."""

    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(10)[9].expand(len(x), 10) + 0 * x.flatten(1)[:, :1]

    others = digits().test.labels != 9
    test = Split(digits().test.images[others][:60], digits().test.labels[others][:60])
    found = run(suite(), Wrong().eval(), test=test)
    assert set(found.metrics.values()) == {0.0}
    assert found.details["masking"] == []


def test_builder():
    made = robustness_suite(Choice(kind="robustness", budget="quick"), Plan(), digits())  # type: ignore[arg-type]
    assert made.images == 500, "the whole test set of the digits"
    few = robustness_suite(
        Choice(kind="robustness", budget="ddrobustbench", max_images=30),
        Plan(classes=3),
        digits(),  # type: ignore[arg-type]
    )
    assert few.images == 30
    assert any("3 classes" in note for note in few.notes)
    with pytest.raises(UserError, match="did you mean 'guard'"):
        robustness_suite(Choice(kind="robustness", budget="gard"), Plan(), digits())  # type: ignore[arg-type]
    assert SUITES["robustness"] == "ddbench.measurements.robustness.attack_suite:robustness_suite"


def test_no_library_is_imported_for_quick():
    code = (
        "import sys, ddbench.measurements.robustness.attack_suite, ddbench.measurements.corruptions;"
        "print([name for name in ('foolbox', 'pyautoattack', 'scipy', 'PIL') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# BEARD's figures, kept for reading


def test_beard_row():
    """BACON, CIFAR-10, 50 images per class, untargeted: the row of BEARD's own log."""
    rr = legacy.robustness_ratio(69.95, [38.16, 28.86, 50.80, 18.28, 8.31, 27.00])
    ae = legacy.attack_efficiency(2.31, [3.68, 12.21, 9.18, 2374.80, 76.49, 968.53])
    assert rr == pytest.approx(32.87, abs=0.005)
    assert ae == pytest.approx(24.10, abs=0.005)
    assert legacy.comprehensive_index(rr, ae) == pytest.approx(28.48, abs=0.006)


def test_beard_is_not_monotone():
    """What its docstring says of it."""
    assert legacy.robustness_ratio(60, [59]) == legacy.robustness_ratio(60, [0]) == 0
    assert legacy.robustness_ratio(60, [59, 59, 59]) == legacy.robustness_ratio(60, [0, 0]) == 0
    assert legacy.robustness_ratio(60, [60, 0, 0]) == pytest.approx(100 / 3)
    assert legacy.robustness_ratio(60, [40, 30]) == pytest.approx(100 / 6)
    assert legacy.robustness_ratio(60, [40, 10]) == pytest.approx(30)
    assert legacy.robustness_ratio(60, [60]) == legacy.attack_efficiency(1, [1]) == 0
    with pytest.raises(ValueError, match="no attacks"):
        legacy.robustness_ratio(60, [])


def test_legacy_budget_gives_rr_only():
    made = suite("legacy", images=2)
    rows = {"clean": [1, 1]} | {attack.name: [1, 0] for attack in made.budget.attacks}
    rows["pgd-linf-8"] = [0, 0]
    findings = {name: Finding(bits={"correct": np.array(row, dtype=bool)}) for name, row in rows.items()}
    found = made.combine(findings)
    accuracies = [0.5] * 6 + [0.0]
    assert found.metrics["beard_rr"] == pytest.approx(legacy.robustness_ratio(1.0, accuracies))
    assert "beard_rr" not in suite().metrics
