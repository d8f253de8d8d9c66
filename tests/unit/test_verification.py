"""Verdicts against the definition, and verifications that do not follow from their runs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made_board import STUDENTS, made_result, put
from scipy.stats import t as student_t
from test_leaderboard import ACCURACIES, CONVNET, MLP, make_run, submit

from ddbench.evaluation.record import SEARCHED
from ddbench.leaderboard import retrain
from ddbench.leaderboard.described import _rate, differing
from ddbench.leaderboard.result import Metric, Run, TaskInfo, TaskUnit
from ddbench.leaderboard.retrain import choose
from ddbench.leaderboard.schema import load_results, read_result
from ddbench.leaderboard.verification import (
    Verification,
    compare,
    load_verifications,
    make_verification,
    read_verification,
    verification_path,
    write_verification,
)
from ddbench.protocols.protocol import PROTOCOLS, changed
from ddbench.runtime.errors import UserError
from ddbench.statistics import summarise

CLAIMED = {0: 0.881, 1: 0.887, 2: 0.893}


def test_the_same_numbers_are_identical() -> None:
    assert compare(CLAIMED, CLAIMED, "higher").verdict == "identical"
    assert compare(CLAIMED, {1: 0.887}, "higher").verdict == "identical"
    assert compare(CLAIMED, {7: 0.887, 8: 0.888}, "higher").verdict == "within"


@pytest.mark.parametrize("tests", [1, 3])
def test_the_interval_is_that_of_the_definition(tests: int) -> None:
    """From the formula: claimed mean +- t(m - 1) s sqrt(1/n + 1/m), s of the re-trained runs, Bonferroni."""
    measured = {5: 0.86, 6: 0.89, 7: 0.87, 8: 0.90}
    found = compare(CLAIMED, measured, "higher", tests)
    quantile = student_t.ppf(1 - 0.05 / 2 / tests, 3)
    half = quantile * stdev(measured.values()) * math.sqrt(1 / 3 + 1 / 4)
    assert found.low == pytest.approx(fmean(CLAIMED.values()) - half, rel=1e-9)
    assert found.high == pytest.approx(fmean(CLAIMED.values()) + half, rel=1e-9)
    assert found.n == 4
    assert found.verdict == "within"


def test_above_and_below_follow_the_direction_of_the_metric() -> None:
    low, high = {5: 0.70, 6: 0.702, 7: 0.701}, {5: 0.95, 6: 0.952, 7: 0.951}
    assert compare(CLAIMED, low, "higher").verdict == "below"
    assert compare(CLAIMED, high, "higher").verdict == "above"
    assert compare(CLAIMED, low, "lower").verdict == "above"


def test_a_row_cannot_widen_its_own_interval() -> None:
    """Claimed runs of any spread leave the half width to the re-trained ones."""
    measured = {5: 0.70, 6: 0.702, 7: 0.701}
    wild = compare({0: 0.999, 1: 0.6, 2: 1.0}, measured, "higher")
    calm = compare({0: 0.866, 1: 0.866, 2: 0.867}, measured, "higher")
    assert wild.high - wild.low == pytest.approx(calm.high - calm.low)
    assert wild.verdict == calm.verdict == "below"


def test_single_runs() -> None:
    one = compare(CLAIMED, {9: 0.885}, "higher")  # nothing is known of one run's spread: the row's own is taken
    assert one.verdict == "within"
    assert one.high - one.low == pytest.approx(
        2 * student_t.ppf(0.975, 2) * stdev(CLAIMED.values()) * math.sqrt(1 / 3 + 1)
    )
    alone = compare({0: 0.9}, {1: 0.89}, "higher")
    assert (alone.low, alone.high, alone.verdict) == (None, None, "below")


def test_honest_rows_are_rarely_below() -> None:
    """Of rows whose runs come from one distribution, about one in forty is below its claim, as the level says."""
    import random

    draw = random.Random(0)
    verdicts = []
    for _ in range(2000):
        runs = [draw.gauss(0.8, 0.01) for _ in range(10)]
        verdicts.append(compare(dict(enumerate(runs[:5])), dict(enumerate(runs[5:], 5)), "higher").verdict)
    assert 0.015 < verdicts.count("below") / 2000 < 0.035
    assert 0.015 < verdicts.count("above") / 2000 < 0.035


@pytest.fixture
def board(tmp_path: Path) -> Path:
    submit(make_run(tmp_path / "run"), tmp_path / "board")
    return tmp_path / "board"


def retrained(shift: dict[str, float]) -> list[Run]:
    return [
        Run(student=student, seed=seed, metrics={"accuracy": value + shift.get(student, 0.0), "ece": 0.1})
        for student, values in ACCURACIES.items()
        for seed, value in enumerate(values)
    ]


def verified(board: Path, shift: dict[str, float]) -> Verification:
    (result,) = load_results(board)
    made = make_verification(
        result, retrained(shift), device="cpu: Example", threads=1, at_once=1, versions={"torch": "2.15.0"}
    )
    write_verification(board, result, made)
    return made


def test_written_beside_the_row_and_read_again(board: Path) -> None:
    made = verified(board, {})
    (result,) = load_results(board)  # the verification is no row
    path = verification_path(board, result)
    assert path.parent == next(board.rglob(f"{result.id}.json")).parent
    assert path.name == f"{result.id}.verified.json"
    assert load_verifications(board) == load_verifications(board, [result]) == {result.id: made}
    assert made.verdict == "identical"
    assert made.seeds == 3
    assert made.students[MLP].claimed == made.students[MLP].measured == pytest.approx(0.8)
    before = path.read_bytes()
    verified(board, {})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [({CONVNET: 0.001}, "within"), ({CONVNET: 0.1}, "above"), ({CONVNET: 0.1, MLP: -0.1}, "below")],
)
def test_the_row_has_the_worst_verdict_of_its_students(board: Path, shift: dict[str, float], verdict: str) -> None:
    assert verified(board, shift).verdict == verdict


def test_other_metrics_by_their_own_direction(tmp_path: Path) -> None:
    """The calibration error and the robust accuracy count as the accuracy does; a metric that is not named does not."""
    result = made_result("mtt", names=STUDENTS[:2])
    path = put(tmp_path, result)

    def verdict(change: dict[str, float], *measured: str) -> str:
        runs = [
            replace(run, metrics={name: value + change.get(name, 0.0) for name, value in run.metrics.items()})
            for run in result.runs
        ]
        found = make_verification(result, runs, measured, device="cpu", threads=1, at_once=1, versions=result.versions)
        assert read_verification(write_verification(tmp_path, result, found), result) == found
        assert set(found.measured) == set(measured)
        return found.verdict

    assert path.is_file()
    assert verdict({}, "ece", "robust_accuracy") == "identical"
    assert verdict({"ece": 0.1}) == "identical"
    assert verdict({"ece": 0.1}, "robust_accuracy") == "identical"
    assert verdict({"ece": 0.1}, "ece", "robust_accuracy") == "below", "a larger error is worse"
    assert verdict({"ece": -0.09}, "ece") == "above"
    assert verdict({"robust_accuracy": -0.1, "ece": -0.09}, "ece", "robust_accuracy") == "below"
    assert verdict({"robust_accuracy": 0.0001}, "robust_accuracy") == "within"


def test_a_metric_that_a_run_lacks_is_refused(tmp_path: Path) -> None:
    result = made_result("mtt", names=STUDENTS[:2])
    put(tmp_path, result)
    made = make_verification(result, result.runs, ["ece"], device="cpu", threads=1, at_once=1, versions={})
    lacking = [replace(made.runs[0], metrics={"accuracy": made.runs[0].metrics["accuracy"]}), *made.runs[1:]]
    with pytest.raises(UserError, match="malformed"):
        write_verification(tmp_path, result, replace(made, runs=tuple(lacking)))


def test_every_comparison_of_a_row_counts_for_the_level(tmp_path: Path) -> None:
    result = made_result("mtt", names=STUDENTS[:2])
    made = make_verification(result, result.runs, ["ece"], device="cpu", threads=1, at_once=1, versions={})
    values = [run.metrics["ece"] for run in result.runs if run.student == STUDENTS[0]]
    own = made.measured["ece"][STUDENTS[0]]
    quantile = student_t.ppf(1 - 0.05 / 2 / 4, 4)  # two students, accuracy and ECE
    assert own.high - own.claimed == pytest.approx(quantile * stdev(values) * math.sqrt(2 / 5))


def test_numbers_of_tasks_count_for_the_level_too(tmp_path: Path) -> None:
    """Each is one comparison more for all others; its own interval is about the claim, of the repetition's spread."""
    metrics = {"auc": Metric(unit="fraction", better="lower", title="AUC")}
    claimed, again = [0.5, 0.52, 0.51, 0.55], [0.58, 0.63, 0.61, 0.62]

    def task(values: list[float]) -> TaskInfo:
        units = tuple(TaskUnit(unit=place, metrics={"auc": value}) for place, value in enumerate(values))
        whole = {"question": {}, "over": "target", "beside": {}, "threads": 1, "versions": {}}
        return TaskInfo(metrics=metrics, units=units, summary={"auc": summarise(values)}, **whole)

    result = replace(made_result("mtt", names=STUDENTS[:2]), tasks={"membership": task(claimed)})
    made = make_verification(
        result,
        result.runs,
        ["ece"],
        device="cpu",
        threads=1,
        at_once=1,
        versions={},
        tasks={"membership": task(again)},
    )
    five = 1 - 0.05 / 2 / 5  # two students with accuracy and ECE, and the task's number
    own = made.measured["ece"][STUDENTS[0]]
    values = [run.metrics["ece"] for run in result.runs if run.student == STUDENTS[0]]
    assert own.high - own.claimed == pytest.approx(student_t.ppf(five, 4) * stdev(values) * math.sqrt(2 / 5))
    assert made.tasks is not None
    found = made.tasks["membership"].compared["auc"]
    half = student_t.ppf(five, 3) * stdev(again) * math.sqrt(1 / 4 + 1 / 4)
    assert (found.claimed, found.measured) == pytest.approx((fmean(claimed), fmean(again)))
    assert (found.low, found.high) == pytest.approx((fmean(claimed) - half, fmean(claimed) + half))
    assert (found.verdict, made.verdict) == ("below", "below"), "a larger AUC is worse"


def rate_of(row: dict[str, Any], **settings: Any) -> str | None:
    """Where a row's rate differs from what it must be, for a synset without a learned scalar rate."""
    protocol = changed(PROTOCOLS["hard-v1"], **settings)[0]
    synset = SimpleNamespace(learned_lr=torch.tensor([0.5, 1.5]) if protocol.replay else None, stage=None)
    plan = SimpleNamespace(protocol=protocol, synset=synset)
    result = replace(made_result("mtt", names=STUDENTS[:1]), learning_rates={STUDENTS[0]: row})
    return differing(row, _rate(result, protocol, plan, STUDENTS[0]))


def test_the_rate_of_a_row_is_the_one_that_follows() -> None:
    plain: dict[str, Any] = {"rate": 0.01, "source": "protocol", "searched": {}}
    assert rate_of(plain) is None
    assert rate_of({**plain, "rate": 123.0}) == "rate"
    assert rate_of({**plain, "source": "synset"}) == "source"
    assert rate_of({**plain, "searched": {"0.1": 0.9}}) == "searched.0.1"
    assert rate_of({**plain, "rate": 1.0, "source": "synset"}, replay=True) is None, "the mean of the recipe's"
    assert rate_of({**plain, "rate": 1.0}, replay=True) is None, "as early rows have it"
    assert rate_of(plain, replay=True) is None, "as the earliest have it"
    assert rate_of({**plain, "rate": 0.5}, replay=True) == "rate"
    assert rate_of({**plain, "source": "synset"}, replay=True) == "rate"


def test_a_searched_rate_is_the_best_of_the_protocols_grid() -> None:
    tried = {"0.01": 0.4, "0.1": 0.6}
    best = {"rate": 0.1, "source": SEARCHED, "searched": tried}
    search = {"lr_source": "search", "lr_grid": (0.01, 0.1)}
    assert rate_of(best, **search) is None
    assert rate_of({**best, "rate": 0.01}, **search) == "rate"
    assert rate_of({**best, "searched": {**tried, "1.0": 0.1}}, **search) == "searched.1.0"
    assert rate_of({**best, "searched": {"0.1": 0.6}}, **search) == "searched.0.01"
    assert rate_of({**best, "source": "protocol"}, **search) == "source"


def test_where_two_descriptions_differ() -> None:
    said = {"bytes": {"images": 5, "real": 7}, "learned_lr": 0.25, "shape": [1, 8, 8]}
    assert differing(said, {**said, "learned_lr": 0.25 * (1 + 1e-8)}) is None, "a sum in float32"
    assert differing(said, {**said, "learned_lr": 0.2501}) == "learned_lr"
    assert differing(said, {**said, "learned_lr": None}) == "learned_lr"
    assert differing(said, {**said, "bytes": {"images": 5, "real": 8}}) == "bytes.real"
    assert differing(said, {**said, "shape": [1, 8]}) == "shape"
    assert differing({"seed": 1}, {"seed": True}) == "seed"
    assert differing({}, {"fixed_network": True}) == "fixed_network"


Change = Callable[[dict[str, Any]], object]
FORGED: dict[str, tuple[Change, str]] = {
    "better verdict": (lambda v: v.update(verdict="identical"), "does not follow"),
    "better student": (lambda v: v["students"][CONVNET].update(verdict="identical"), "does not follow"),
    "better mean": (lambda v: v["students"][CONVNET].update(measured=0.99), "does not follow"),
    "other claim": (lambda v: v["students"][CONVNET].update(claimed=0.7), "does not follow"),
    "run changed": (lambda v: v["runs"][0]["metrics"].update(accuracy=0.5), "does not follow"),
    "more seeds": (lambda v: v.update(seeds=100), "does not follow"),
    "run twice": (lambda v: v["runs"].append(v["runs"][0]), "twice"),
    "run of nobody": (lambda v: v["runs"][0].update(student="x"), "malformed"),
    "run out of range": (lambda v: v["runs"][0]["metrics"].update(accuracy=1.5), "malformed"),
    "run is text": (lambda v: v["runs"][0]["metrics"].update(accuracy="0.5"), "malformed"),
    "seed is true": (lambda v: v["runs"][0].update(seed=True), "malformed"),
    "student left out": (lambda v: v.update(runs=[r for r in v["runs"] if r["student"] == CONVNET]), "no run of"),
    "other row": (lambda v: v.update(result="0" * 16), "verifies"),
    "other metric": (lambda v: v.update(metric="ece"), "verifies"),
    "other kind": (lambda v: v.update(kind="ddbench-result"), "not a verification"),
    "newer": (lambda v: v.update(schema=3), "newer ddbench"),
    "older": (lambda v: (v.update(schema=1), v.pop("measured")), "'measured'"),
    "measured nothing of the row's": (lambda v: v.update(measured={"robust_accuracy": {}}), "robust_accuracy"),
    "measured the main metric": (lambda v: v.update(measured={"accuracy": v["students"]}), "accuracy"),
    "measured without runs": (lambda v: v.update(measured={"ece": v["students"]}), "'ece' again"),
    "run with more": (lambda v: v["runs"][0]["metrics"].update(ece=0.1), "malformed"),
    "run without": (lambda v: v["runs"][0].update(metrics={}), "malformed"),
    "missing": (lambda v: v.pop("runs"), "'runs'"),
    "unknown": (lambda v: v.update(extra=1), "'extra'"),
    "device": (lambda v: v.update(device="x" * 201), "device"),
    "threads": (lambda v: v.update(threads=0), "threads"),
    "versions": (lambda v: v.update(versions={"torch": 2}), "versions"),
    "direction": (lambda v: v.update(device="cpu \u202e"), "u202e"),
    "not finite": (lambda v: v["runs"][0]["metrics"].update(accuracy=math.inf), "Infinity"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_verifications_are_refused(board: Path, name: str) -> None:
    change, word = FORGED[name]
    made = verified(board, {CONVNET: 0.001}).to_json()
    (result,) = load_results(board)
    path = verification_path(board, result)
    change(made)
    path.write_text(json.dumps(made))
    with pytest.raises(UserError) as caught:
        load_verifications(board)
    assert word in str(caught.value)
    assert path.name in str(caught.value)


def test_a_board_that_is_taken_away_does_not_come_back(board: Path) -> None:
    (result,) = load_results(board)
    made = verified(board, {})
    shutil.rmtree(board)
    with pytest.raises(UserError, match="is gone: its folder was removed or replaced during work"):
        write_verification(board, result, made)
    assert not board.exists()


def test_a_verification_without_its_row_is_refused(board: Path) -> None:
    verified(board, {})
    (result,) = load_results(board)
    verification_path(board, result).with_name(f"{result.id}.json").unlink()
    with pytest.raises(UserError, match="row that is not there"):
        load_verifications(board)


def test_a_verification_of_earlier_numbers_is_refused(board: Path, tmp_path: Path) -> None:
    """The row that supersedes another one does not inherit its verification."""
    made = verified(board, {})
    (old,) = load_results(board)
    more = make_run(tmp_path / "run", {name: [*values, 0.8] for name, values in ACCURACIES.items()})
    new = read_result(submit(more, board))
    assert set(load_verifications(board)) == {old.id}
    verification_path(board, new).write_text(json.dumps(made.to_json()))
    with pytest.raises(UserError, match="verifies"):
        load_verifications(board)


def test_a_superseded_row_says_by_which(board: Path, tmp_path: Path) -> None:
    (old,) = load_results(board)
    new = read_result(submit(make_run(tmp_path / "run", {CONVNET: [*ACCURACIES[CONVNET], 0.8], MLP: [0.8] * 4}), board))
    assert choose(board, [old.id])[1] == [f"{old.id} is superseded by {new.id}"]
    assert choose(board, [new.id])[1] == []


@pytest.mark.parametrize(("shift", "code"), [({CONVNET: -0.1}, 1), ({}, 2)])
def test_a_row_below_outweighs_one_that_is_refused(
    ddb: Callable[..., Any], board: Path, monkeypatch: pytest.MonkeyPatch, shift: dict[str, float], code: int
) -> None:
    """Who asks by the exit code whether a claim is false must not be told of a file that is missing."""
    made = verified(board, shift)
    (result,) = load_results(board)
    other = replace(result, id="00000000")
    outcomes = [retrain.Outcome(result.id, made), retrain.Outcome(other.id, None, "its synset is not there")]
    monkeypatch.setattr(retrain, "prepare", lambda *_, **__: ([result, other], []))
    monkeypatch.setattr(retrain, "verify_rows", lambda *_: outcomes)
    found = ddb("leaderboard", "verify", "--leaderboard", board)
    assert found.code == code
    assert "00000000 not verified: its synset is not there" in found.out
