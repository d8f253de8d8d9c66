"""Published figures beside ours: the verdict by closed form, what a plan of reproduction must say, the document."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from ddbench.cli.distill import arguments
from ddbench.cli.main import run
from ddbench.leaderboard.board import Board, read_board
from ddbench.leaderboard.pages.truth import document, lines, summary
from ddbench.leaderboard.plans import REPRODUCTION, Plan, find_plan, read_plan, shipped_plans
from ddbench.leaderboard.published import Published, judge
from ddbench.leaderboard.reproduction import Workshop, distill_flags
from ddbench.leaderboard.truth import Truth, reproduction_plans, truths
from ddbench.runtime.errors import UserError
from ddbench.statistics import summarise

ROOT = Path(__file__).parents[2]
THEIRS = Published(
    student="convnet-d3-w128-in", value=0.70, std=0.01, runs=5, networks=20, setting="S", source="T", checked="C"
)
OURS = [0.69, 0.70, 0.71, 0.70, 0.72]
HEAD = """kind = "reproduction"
[defaults]
dataset = "digits"
students = ["mlp-d1-w8"]
[[cells]]
method = "dc"
ipc = 1
"""


@pytest.fixture(scope="module")
def board() -> Board:
    return read_board(ROOT / "leaderboard")


def plan_of(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return read_plan(path)


def welch(ours: list[float], theirs: Published) -> tuple[float, float]:
    """scipy's Welch interval of the difference of two means."""
    own = summarise(ours)
    n = theirs.count
    test = stats.ttest_ind_from_stats(own["mean"], own["std"], own["n"], theirs.value, theirs.std, n, equal_var=False)
    error = math.sqrt(own["std"] ** 2 / own["n"] + theirs.std**2 / n)
    degrees = error**4 / ((own["std"] ** 2 / own["n"]) ** 2 / (own["n"] - 1) + (theirs.std**2 / n) ** 2 / (n - 1))
    half = stats.t.ppf(0.975, degrees) * error
    difference = own["mean"] - theirs.value
    assert (test.pvalue < 0.05) == (abs(difference) > half)
    return difference - half, difference + half


@pytest.mark.parametrize(
    ("shift", "word"), [(0.0, "inside"), (0.05, "above"), (-0.05, "below"), (0.01, "inside"), (-0.021, "below")]
)
def test_the_verdict_is_welchs_test(shift: float, word: str) -> None:
    ours = [value + shift for value in OURS]
    found = judge(summarise(ours), THEIRS)
    assert found.word == word
    assert (found.low, found.high) == pytest.approx(welch(ours, THEIRS))
    assert found.difference == pytest.approx(sum(ours) / 5 - 0.70)


def test_what_counts_as_independent_in_a_publication() -> None:
    assert THEIRS.count == 5, "its synsets, not their networks"
    assert replace(THEIRS, runs=1, networks=200).count == 200, "of a single synset its networks, as ours"
    assert replace(THEIRS, runs=None).count == 1, "not told: the deviation counts in full"
    widths = [
        found.high - found.low
        for runs in (1, 5)
        if (found := judge(summarise(OURS), replace(THEIRS, runs=runs, networks=None))).high is not None
        and found.low is not None
    ]
    assert widths[0] > widths[1]


def test_without_a_deviation_the_published_value_counts_as_exact() -> None:
    found, own = judge(summarise(OURS), replace(THEIRS, std=None)), summarise(OURS)
    assert (found.low, found.high) == pytest.approx((own["low"] - 0.70, own["high"] - 0.70))
    same = judge(summarise([0.7, 0.7]), replace(THEIRS, std=None))
    assert (same.word, same.low, same.high) == ("inside", 0.0, 0.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason", "why"),
    [
        (OURS, THEIRS, "width 16 instead of 128", "width 16 instead of 128"),
        (OURS, replace(THEIRS, value=None), "", "the published figure could not be checked"),
        ([0.7], THEIRS, "", "a single run of ours has no interval"),
    ],
)
def test_what_cannot_be_compared_says_why(ours: list[float], theirs: Published, reason: str, why: str) -> None:
    found = judge(summarise(ours), theirs, reason)
    assert (found.word, found.why, found.low) == ("not comparable", why, None)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ('student = "mlp-d1-w8", source = "S"', "setting is missing"),
        ('student = "mlp-d1-w8", source = "S", setting = "P", value = 0.5', "value and checked go together"),
        ('student = "mlp-d1-w8", source = "S", setting = "P", checked = "C"', "value and checked go together"),
        ('student = "mlp-d1-w8", source = "S", setting = "P", std = 6', "std is 6"),
        ('student = "mlp-d1-w8", source = "S", setting = "P", runs = 0', "runs is 0"),
        ('student = "mlp-d1-w8", source = "S", setting = "P", runs = true', "runs is True"),
        ('student = "mlp-d1-w8", source = "S", setting = ""', "setting is ''"),
    ],
)
def test_a_plan_of_reproduction_says_where_each_figure_is_from(tmp_path: Path, entry: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_of(tmp_path, f"{HEAD}published = [{{ {entry} }}]\n")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_there_are_two_kinds_of_plans(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kind is 'truth', expected board or reproduction"):
        plan_of(tmp_path, HEAD.replace("reproduction", "truth"))
    assert {"mnist-paper-cpu", "fmnist-paper-cpu"} == {plan.name for plan in reproduction_plans()}


def test_shipped_cells_of_reproduction_say_what_they_differ_in() -> None:
    for plan in reproduction_plans():
        assert plan.kind == REPRODUCTION
        for cell in plan.cells:
            assert cell.published, cell.name
            assert cell.config, f"{cell.name}: rows of other settings would count"
            if cell.not_comparable:
                assert cell.deviations, cell.name


def test_cells_of_reproduction_are_commands_with_their_own_settings(tmp_path: Path) -> None:
    """What a cell asks of its row is what its command makes."""
    workshop = Workshop(out=tmp_path, leaderboard=tmp_path, submission={}, common=(), cores=1)
    for plan in reproduction_plans():
        for cell in {cell.method: cell for cell in plan.cells}.values():
            given = arguments(distill_flags(cell, workshop)[1:])
            assert {name: given[name] for name in cell.config} == cell.config, cell.name
            assert cell.student in ("", given["student"]), cell.name


def test_only_rows_of_the_cells_own_settings_count(board: Board) -> None:
    plan = find_plan("mnist-paper-cpu")

    def rows(**config: object) -> list[int]:
        cells = tuple(replace(cell, config=cell.config | config) for cell in plan.cells if cell.method == "dd")
        found = truths([replace(plan, cells=cells)], board.results, board.verifications)
        return [len(truth.rows) for truth in found]

    assert rows() == [1, 1]
    assert rows(iterations=100) == [0, 0]


def test_subsets_count_as_one_figure_and_each_as_one_value(board: Board) -> None:
    cells = tuple(
        replace(cell, published=(replace(THEIRS, student="convnet-d2-w32-in"),))
        for cell in find_plan("digits-cpu").cells
        if cell.run.startswith("digits-ipc1-random") and cell.protocol == "hard-v1"
    )
    plan = replace(find_plan("digits-cpu"), cells=cells)
    (found,) = truths([plan], board.results, board.verifications)
    assert found.ours is not None
    assert found.ours["n"] == len(found.rows) == len(cells) > 1
    assert found.cpu_seconds > 0
    assert any("theirs 5 synsets, 20 networks each" in one for one in found.deviations)
    (some,) = truths([plan], [row for row in board.results if row.id != found.rows[0].id], board.verifications)
    assert f"{len(cells) - 1} of the {len(cells)} synsets of the plan so far" in some.deviations


def test_synsets_of_one_figure_need_not_be_neighbours(board: Board) -> None:
    """Nor do cells of other settings join them; the document has one table of a dataset."""
    cells = [
        replace(cell, published=(replace(THEIRS, student="convnet-d2-w32-in"),))
        for cell in find_plan("digits-cpu").cells
        if cell.run.startswith(("digits-ipc1-random-s", "digits-ipc1-dm-s")) and cell.protocol == "hard-v1"
    ]
    first, *others = sorted(cells, key=lambda cell: cell.method, reverse=True)
    mnist = replace(first, dataset="mnist", seed=99)
    another = replace(first, seed=98, distill=("--x",))
    plan = replace(find_plan("digits-cpu"), cells=(first, mnist, *others[::-1], another))
    found = truths([plan], board.results, board.verifications)
    assert [(one.cell.dataset, one.cell.method, len(one.cells)) for one in found] == [
        ("digits", "random", len(others)),
        ("mnist", "random", 1),
        ("digits", "dm", 1),
        ("digits", "random", 1),
    ]
    assert document(found).count("## digits\n") == 1


def made(**changes: object) -> Truth:
    cell = replace(find_plan("digits-cpu").cells[0], title="A | B", dataset="digits")
    values = {"plan": "p", "cells": (cell,), "published": THEIRS, "rows": (), "ours": None, "verdict": None}
    return Truth(**{**values, "checked": None, **changes})  # type: ignore[arg-type]


def test_the_document_prints_no_figure_that_nobody_has_seen() -> None:
    text = document([made(published=replace(THEIRS, value=None, checked=""))])
    assert "not checked" in text
    assert "70.0" not in text
    assert "70.0 ± 1.0 (n 5)" in document([made()])
    assert "A \\| B" in text, "no title ends a column"


def test_the_words_of_a_line() -> None:
    own = summarise([value - 0.05 for value in OURS])
    measured = made(ours=own, verdict=judge(own, THEIRS))
    (line,) = lines([measured])
    assert line.word == "below"
    assert "below by 4.6" in line.entries
    assert "65.4 ± 1.4 (n 5)" in line.entries
    assert summary([measured, made()]) == (
        "2 published figures, 1 measured: 0 inside, 0 above, 1 below, 0 not comparable."
    )


def test_the_committed_document_is_fresh(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    run(["leaderboard", "truth", "--check"])
    assert "up to date: docs/truth.md" in capsys.readouterr().out


def test_a_stale_document_is_told_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "board" / "results").mkdir(parents=True)
    flags = ["leaderboard", "truth", "--leaderboard", "board", "--out", "truth.md"]
    for more, told in ((["--check"], "truth.md is stale"), (["--check", "--write"], "give one of them")):
        with pytest.raises(SystemExit) as stop:
            run([*flags, *more])
        assert stop.value.code == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "truth.md").exists()
    (tmp_path / "truth.md").write_bytes(b"no text \xff")
    with pytest.raises(SystemExit):
        run([*flags, "--check"])
    assert "truth.md is stale" in capsys.readouterr().err
    run([*flags, "--write"])
    run([*flags, "--check"])
    capsys.readouterr()
    run(flags)
    assert capsys.readouterr().out == (tmp_path / "truth.md").read_text(encoding="utf-8")


def test_minutes_that_nobody_measured_are_marked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in shipped_plans():
        if name.endswith("-gpu"):
            run(["reproduce", name, "--dry-run"])
            out = capsys.readouterr().out
            assert "min (expected)" in out
            assert "nobody has measured them" in out
    run(["reproduce", "digits-cpu", "--dry-run"])
    marked = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("min (expected)")]
    assert sorted(marked) == sorted(cell.name for cell in find_plan("digits-cpu").cells if cell.expected)
