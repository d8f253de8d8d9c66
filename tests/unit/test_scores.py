"""DD-Ranking's scores: reference values, ranges, what is refused, and which trainings they are made of."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PATIENCE
from made_synsets import COUNT, GREY, KINDS, made

from ddbench.evaluation.ddranking.definitions import (
    SCORES,
    Accuracies,
    alpha,
    ars,
    beta,
    hlr,
    ior,
    legs,
    lrs,
    own_protocol,
    repeat_scores,
    scaled,
    summary,
)
from ddbench.leaderboard import scoring
from ddbench.protocols.protocol import LATER, PROTOCOLS, changed
from ddbench.runtime.errors import UserError
from ddbench.statistics import summarise
from ddbench.synset import Replay

# Worked out by hand from 100 (e^x - 1/e) / (e - 1/e).
REFERENCES = {0.0: 26.8941, -0.10: 22.8454, -0.125: 21.8949, 0.05: 29.0755, 1.0: 100.0, -1.0: 0.0}

ONE = Accuracies(real_hard=0.9, syn_hard=0.6, syn=0.7, random=0.55, syn_plain=0.5, random_plain=0.52)


@pytest.mark.parametrize(("value", "expected"), REFERENCES.items())
def test_reference_values(value: float, expected: float):
    assert scaled(value) == pytest.approx(expected, abs=5e-5)


def test_published_cases_in_fractions():
    """What the released code takes in percent, where two very different cases both give -0.1565 and a third 62.99."""
    assert lrs(0.25, 0.0) == pytest.approx(21.8949, abs=5e-5)
    assert lrs(0.40, 0.20) == pytest.approx(22.8454, abs=5e-5)
    assert lrs(0.0, 0.10) == pytest.approx(29.0755, abs=5e-5)
    assert ars(0.15, -0.05) == pytest.approx(scaled(0.05), abs=1e-12)


def test_differences():
    assert hlr(0.9, 0.6) == pytest.approx(0.3)
    assert ior(0.7, 0.55) == pytest.approx(0.15)
    assert alpha(0.3, 0.15) == pytest.approx(0.5 * 0.15 - 0.5 * 0.3)
    assert alpha(0.3, 0.15, 0.2) == pytest.approx(0.2 * 0.15 - 0.8 * 0.3)
    assert beta(0.15, -0.02, 0.25) == pytest.approx(0.25 * 0.15 - 0.75 * 0.02)
    assert (alpha(0.3, 0.15, 1), alpha(0.3, 0.15, 0)) == (0.15, -0.3)


def test_range_and_order():
    """Whatever the accuracies, 0 to 100; a better synset never scores less."""
    chance = random.Random(0)
    for _ in range(500):
        values = [chance.choice((0.0, 1.0, chance.random())) for _ in range(6)]
        weight = chance.choice((0.0, 0.5, 1.0, chance.random()))
        one = Accuracies(**dict(zip(Accuracies.__dataclass_fields__, values, strict=True)))
        found = repeat_scores(one, weight)
        for name in ("lrs", "ars"):
            assert 0 <= found[name] <= 100
        better = repeat_scores(replace(one, syn=min(1.0, one.syn + 0.1), syn_hard=min(1.0, one.syn_hard + 0.1)), weight)
        assert better["lrs"] >= found["lrs"]
        assert better["ars"] >= found["ars"]
    ends = {"syn": 1.0, "syn_plain": 1.0, "syn_hard": 1.0, "random": 0.0, "random_plain": 0.0, "real_hard": 0.0}
    best = repeat_scores(Accuracies(**ends))
    worst = repeat_scores(Accuracies(**{name: 1 - value for name, value in ends.items()}))
    assert [best["lrs"], best["ars"]] == pytest.approx([100, 100])
    assert [worst["lrs"], worst["ars"]] == pytest.approx([0, 0])


@pytest.mark.parametrize("value", [62.5, 1.0001, math.inf])
def test_percent_is_refused(value: float):
    for call in (lambda: hlr(value, 0.5), lambda: hlr(0.5, value), lambda: ior(value, 0.5), lambda: ior(0.5, value)):
        with pytest.raises(ValueError, match=r"fraction.*percent"):
            call()
    for call in (lambda: lrs(value, 0.1), lambda: lrs(0.1, -value), lambda: ars(value, 0.1), lambda: scaled(-value)):
        with pytest.raises(ValueError, match="percent"):
            call()
    with pytest.raises(ValueError, match="real_hard is 87, expected a fraction"):
        repeat_scores(replace(ONE, real_hard=87.0))


@pytest.mark.parametrize("value", [-0.01, math.nan, -math.inf])
def test_no_fraction(value: float):
    with pytest.raises(ValueError, match="fraction"):
        hlr(value, 0.5)
    with pytest.raises(ValueError, match="weight"):
        alpha(0.1, 0.1, value)
    with pytest.raises(ValueError, match="gamma"):
        ars(0.1, 0.1, value)


def test_repeat():
    found = repeat_scores(ONE, 0.25)
    assert found["real_hard"] == 0.9
    assert [found[name] for name in ("hlr", "ior", "a1", "a0")] == pytest.approx([0.3, 0.15, 0.15, -0.02])
    assert found["lrs"] == pytest.approx(100 * (math.exp(0.25 * 0.15 - 0.75 * 0.3 + 1) - 1) / (math.exp(2) - 1))
    assert found["ars"] == pytest.approx(100 * (math.exp(0.25 * 0.15 - 0.75 * 0.02 + 1) - 1) / (math.exp(2) - 1))


def test_scores_are_averaged_over_repeats_not_computed_from_averages():
    accuracies = (replace(ONE, syn=0.9), replace(ONE, syn=0.3, syn_plain=0.1), replace(ONE, real_hard=0.99))
    repeats = [repeat_scores(one) for one in accuracies]
    found = summary(repeats)
    for name in (*SCORES, *Accuracies.__dataclass_fields__):
        assert found[name] == summarise([repeat[name] for repeat in repeats])
    means = {name: found[name]["mean"] for name in Accuracies.__dataclass_fields__}
    of_means = repeat_scores(Accuracies(**means))
    assert found["hlr"]["mean"] == pytest.approx(of_means["hlr"]), "linear"
    assert found["lrs"]["mean"] > of_means["lrs"] + 0.1, "convex"
    with pytest.raises(ValueError, match="no values"):
        summary([])


# Which trainings


def plan(base: str = "hard-v1", **options):
    known = {"soft": False, "soft_random": False, "learned_lr": False, "hard_augmentation": False}
    return legs(PROTOCOLS[base], **{**known, **options})


def test_the_protocols_own_number_of_epochs_alters_nothing():
    assert plan(epochs=PROTOCOLS["hard-v1"].epochs) == plan()
    assert plan(epochs=7)["syn"].difference == {"epochs": 7, "full_epochs": 7}


def altered(name: str, **settings) -> tuple[str, str]:
    """Name and hash of a known protocol with some settings altered."""
    return name, changed(PROTOCOLS[name], **settings)[0].hash


def named(leg) -> tuple[str, str]:
    assert leg.protocol.name == leg.base.name
    assert leg.protocol == changed(leg.base, **leg.difference)[0]
    return leg.base.name, leg.protocol.hash


def test_legs_of_a_hard_synset():
    found = plan()
    assert list(found) == list(Accuracies.__dataclass_fields__)
    assert [leg.subject for leg in found.values()] == ["real", "synset", "synset", "random", "synset", "random"]
    hard = altered("hard-v1", augmentation="none", lr_source="search")
    plain = altered("hard-v1", augmentation="none")
    own = altered("hard-v1")
    assert [named(leg) for leg in found.values()] == [hard, hard, own, own, plain, plain]
    assert found["syn"].difference == {}
    assert found["syn_hard"].difference == {"augmentation": "none", "lr_source": "search"}


def test_learned_rate_is_used_where_the_protocol_uses_it():
    found = plan(learned_lr=True)
    assert named(found["syn_hard"]) == altered("hard-v1", augmentation="none") == named(found["syn_plain"])
    assert named(found["real_hard"]) == named(plan()["real_hard"]), "one row of real images for the whole cell"
    assert plan("dc-legacy", learned_lr=True)["syn_hard"].protocol.lr_source == "search"


@pytest.mark.parametrize("base", ["pdd", "hard-v1"])
def test_rates_of_stages_are_learned_ones_too(base: str, tmp_path: Path):
    rates, stage = torch.tensor([0.1, 0.3]), torch.arange(COUNT) % 2
    staged = made(GREY, pixels=True, learned_lr=rates, stage=stage)
    found = scoring._choose(scoring.Asked(), tmp_path / "a.safetensors", staged, PROTOCOLS[base], None).plan
    assert named(found["syn_hard"]) == named(found["syn_plain"]) == altered(base, augmentation="none")
    recipe = replace(staged, learned_lr=torch.ones(4), schedule=Replay(epochs=2, init="xavier"))
    found = scoring._choose(scoring.Asked(), tmp_path / "a.safetensors", recipe, PROTOCOLS[base], None).plan
    assert found["syn_hard"].protocol.lr_source == "search", "no protocol but its own uses a rate a step"


def test_hard_augmentation():
    found = plan(learned_lr=True, hard_augmentation=True)
    assert named(found["syn_hard"]) == named(found["syn"]) == altered("hard-v1")
    assert found["real_hard"].difference == {"lr_source": "search"}
    assert plan("kd-v1", hard_augmentation=True)["syn_hard"].protocol.augmentation == "rrc+flip+cutmix"


def test_legs_of_a_soft_synset_share_what_hard_ones_use():
    found, hard = plan("soft-v1", soft=True), plan("hard-v1")
    for name in ("real_hard", "random", "random_plain"):
        assert named(found[name]) == named(hard[name])
    assert named(found["syn"]) == altered("soft-v1")
    assert named(found["syn_plain"]) == altered("soft-v1", augmentation="none")
    assert found["syn_hard"].protocol.labels == "hard"
    labelled = plan("soft-v1", soft=True, soft_random=True)
    assert named(labelled["random"]) == altered("soft-v1")


@pytest.mark.parametrize("kind", ["targets", "soft labels and stages"])
def test_hard_labels_of_a_synset_that_has_others_are_its_classes(kind: str, tmp_path: Path):
    chosen = scoring._choose(scoring.Asked(), tmp_path / "a.safetensors", KINDS[kind], PROTOCOLS["hard-v1"], None)
    assert chosen.plan["syn_hard"].protocol.labels == "hard"
    assert chosen.plan["syn"].protocol == PROTOCOLS["hard-v1"]


@pytest.mark.parametrize("name", ["kd-v1", "rded", "sre2l-cifar"])
def test_legs_with_a_teacher(name: str):
    found = plan(name)
    assert named(found["syn"]) == named(found["random"]) == altered(name)
    assert named(found["syn_plain"]) == named(found["random_plain"]) == altered(name, augmentation="none")
    for leg in (found["real_hard"], found["syn_hard"]):
        one = leg.protocol
        assert not one.needs_teacher
        assert (one.loss, one.augmentation, one.lr_source) == ("ce", "none", "search")
        assert (one.optimizer, one.epochs, one.batch_rule) == tuple(
            getattr(PROTOCOLS[name], field) for field in ("optimizer", "epochs", "batch_rule")
        )
        assert leg.difference, "never standard"


@pytest.mark.parametrize("name", ["mse-v1", "edc-ema", "rd3"])
def test_settings_that_most_protocols_do_not_record_are_legs_settings_too(name: str):
    """An initialisation, averaged weights, a schedule of some students: scores ended in a KeyError there."""
    found = plan(name, soft=name == "mse-v1")
    assert named(found["syn"]) == named(found["random"]) == altered(name)
    assert named(found["syn_plain"]) == altered(name, augmentation="none")
    for leg in found.values():
        assert named(leg)[1] == leg.protocol.hash, "told by name and difference alone"
        for setting in LATER:
            assert getattr(leg.protocol, setting) == getattr(PROTOCOLS[name], setting)


def test_epochs_and_protocols_of_ones_own():
    found = plan(epochs=7)
    assert found["syn"].difference == {"epochs": 7, "full_epochs": 7}
    assert {(leg.protocol.epochs, leg.protocol.full_epochs) for leg in found.values()} == {(7, 7)}
    mine = replace(PROTOCOLS["hard-v1"], name="mine", lr=0.05)
    own = legs(mine, soft=False, soft_random=False, learned_lr=False, hard_augmentation=False)
    assert (own["syn"].base, own["syn"].difference) == (mine, {})
    assert named(own["random"]) == altered("hard-v1", lr=0.05)
    with pytest.raises(UserError, match="--epochs 0"):
        plan(epochs=0)


def test_stored_labels_are_refused():
    with pytest.raises(UserError, match=r"--protocol fkd replays stored labels.*kd-v1"):
        plan("fkd")


def test_own_protocol():
    assert (own_protocol("hard"), own_protocol("soft")) == ("hard-v1", "soft-v1")


def test_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import ddbench.evaluation.ddranking.definitions, ddbench.cli.scores"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
