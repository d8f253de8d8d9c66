"""What a table must not keep quiet about: how much was verified, whose labels, of how many networks and subsets."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_board import STUDENTS, made_result, put
from rich.console import Console

from ddbench.cli.leaderboard_verify import print_verification
from ddbench.evaluation.result import Evaluation, side_by_side
from ddbench.exchange.settings import ImportSettings
from ddbench.hub.card import Place
from ddbench.leaderboard.audit import check_lineage
from ddbench.leaderboard.board import read_board
from ddbench.leaderboard.coverage import Checked, together
from ddbench.leaderboard.grouping import build_cells
from ddbench.leaderboard.pages.embed import page_data
from ddbench.leaderboard.pages.export import csv_text, index, write_export
from ddbench.leaderboard.pages.latex import latex_text
from ddbench.leaderboard.pages.latex_wide import wide_text
from ddbench.leaderboard.pages.page import render
from ddbench.leaderboard.pages.terminal import show
from ddbench.leaderboard.pages.view import lay_out
from ddbench.leaderboard.recorded import read_scores
from ddbench.leaderboard.result import Metric, Result, Run, TaskInfo
from ddbench.leaderboard.retrain import choose
from ddbench.leaderboard.rows import Cell, Row
from ddbench.leaderboard.schema import check_result, result_id, summary_of
from ddbench.leaderboard.submit import _method
from ddbench.leaderboard.verification import make_verification, write_verification
from ddbench.runtime.errors import UserError
from ddbench.tasks.told import stated

FIRST, SECOND = STUDENTS[:2]


def plain(method: str, **changes: Any) -> Result:
    return made_result(method, rich=False, names=STUDENTS[:2], **changes)


def changed(result: Result, act: Callable[[dict[str, Any]], object]) -> Result:
    """Another valid row: what a stranger may submit."""
    content = result.to_json()
    act(content)
    content["summary"] = {
        student: {metric: dict(entry) for metric, entry in own.items()}
        for student, own in summary_of([Run(**run) for run in content["runs"]]).items()
    }
    content["id"] = result_id(content)
    return check_result(json.loads(json.dumps(content)), "changed")


def verify(root: Path, result: Result, seeds: Sequence[int], shift: float = 0.0) -> None:
    """A verification by some networks: the row's own, or with other seeds its first ones, shifted."""
    runs = [
        Run(student=run.student, seed=seed, metrics={name: one + shift for name, one in run.metrics.items()})
        for place, seed in enumerate(seeds)
        for run in result.runs
        if run.seed == (seed if seed < 5 else place)
    ]
    found = make_verification(
        result, runs, device="cpu: Example 3000", threads=1, at_once=1, versions={"torch": "2.6.0"}
    )
    write_verification(root, result, found)


def details(cell: Cell, title: str = "method") -> dict[str, str]:
    table = lay_out(cell)
    place = [column.title for column in table.columns].index(title)
    return {line.row.method: line.entries[place].detail for line in table.lines if line.row is not None}


def row_of(cell: Cell, method: str) -> Row:
    return next(row for row in cell.rows if row.method == method)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """Rows that were verified by one network of five, by all, by another one, and not; random images by some."""
    rows = {name: plain(name, accuracy=accuracy) for name, accuracy in (("dm", 0.8), ("mtt", 0.7), ("dc", 0.6))}
    drawn = [plain("random", accuracy=0.4, seed=seed) for seed in range(2)]
    for result in (*rows.values(), *drawn):
        put(tmp_path, result)
    verify(tmp_path, rows["dm"], [0])
    verify(tmp_path, rows["mtt"], range(5))
    verify(tmp_path, rows["dc"], [7], 0.0001)
    for result in drawn:
        verify(tmp_path, result, [0, 1])
    return tmp_path


def test_a_verdict_says_how_many_networks_it_rests_on(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everywhere that it is shown; the verdict itself, by which rows are sorted and coloured, stays."""
    read = read_board(board)
    (cell,) = read.cells
    words = {"dm": "1 of 5 networks", "mtt": "", "dc": "1 network for 5", "random": "4 of 10 networks"}
    assert details(cell, "verified") == words
    pages = {path.name: text for path, text in render(board).items()}
    text = pages["LEADERBOARD.md"]
    assert "identical (1 of 5 networks)" in text
    assert "| identical | " in text
    assert "5 verified, 4 of them by some of their networks." in text
    assert "<b>all</b> verified, 4 by some of their networks" in pages["index.html"]
    dm = row_of(cell, "dm").first
    assert '"extent":"1 of 5 networks"' in pages[f"{dm.id}.js"]
    console = Console(record=True, width=240)
    show([lay_out(cell)], console)
    assert "(1 of 5" in console.export_text()  # its column is as wide as the verdict
    assert "identical (1 of 5 networks)" in latex_text([cell], ["method", "verified"])
    print_verification(dm, read.verifications[dm.id])
    assert ": identical (1 of 5 networks)\n" in capsys.readouterr().out
    _, notes = choose(board, [dm.id])
    assert notes == [f"{dm.id} is verified already: identical (1 of 5 networks); --again repeats it"]


def test_exports_say_how_many_networks_a_verdict_rests_on(board: Path) -> None:
    cells = read_board(board).cells
    (table,) = index(cells)["tables"]
    found = {
        row["method"]: (row["verified"], row["verified_networks"], row["claimed_networks"]) for row in table["rows"]
    }
    wanted: dict[str, tuple[Any, ...]] = {
        "dm": ("identical", 1, 5),
        "mtt": ("identical", 5, 5),
        "dc": ("within", 1, 5),
        "random": ("identical", 4, 10),
    }
    assert found == wanted
    assert '"identical",1,5,' in csv_text(cells)
    write_export(board / "x.sqlite", "sqlite", cells)
    connection = sqlite3.connect(board / "x.sqlite")
    try:
        rows = connection.execute(
            "SELECT method, verified, verified_networks, claimed_networks FROM results"
        ).fetchall()
    finally:
        connection.close()
    assert {row[0]: row[1:] for row in rows} == wanted | {"random": ("identical", 2, 5)}


def test_several_verifications_together_are_the_worst() -> None:
    found = together([Checked("identical", 5, 5), Checked("below", 1, 5, own=False), Checked("within", 5, 5)])
    assert found == Checked("below", 11, 15, own=False)
    assert found.words == "below (11 networks for 15)"
    assert Place(result=plain("dm"), checked=found, ranks={}).checked == found


def test_more_networks_of_one_subset_do_not_stand_for_those_of_another() -> None:
    """Ten for the five of one and one of the five of another were eleven of ten, and nothing was said."""
    found = together([Checked("within", 10, 5, own=False), Checked("identical", 1, 5)])
    assert found.words == "within (6 networks for 10)"
    assert together([Checked("within", 10, 5, own=False), Checked("identical", 5, 5)]).words == "within"


def taught(method: str, teacher: str, **changes: Any) -> Result:
    made = made_result(method, rich=False, protocol="labels-view", labels="teacher", **changes)
    return replace(made, teacher={"sha256": 64 * teacher})


def test_a_row_of_another_teacher_names_it() -> None:
    """A verdict against random images says it only where those are there, and a rank says nothing of it."""
    (cell,) = build_cells([taught("mtt", "a"), taught("dm", "a"), taught("dc", "b")])
    assert details(cell) == {"mtt": "", "dm": "", "dc": "teacher bbbbbbbb"}
    note = "labelled by teacher aaaaaaaa unless they name another one"
    assert note in lay_out(cell).caption
    (table,) = page_data([lay_out(cell, everyone=True)], 10**6)["tables"]
    assert note in table["note"]
    assert {row["m"]: row["t"][:1] for row in table["rows"] if "m" in row} == {"mtt": "a", "dm": "a", "dc": "b"}
    assert note in latex_text([cell])
    wide = wide_text([cell])
    assert wide.count("^{\\ddagger}") == 2  # at its number and in the caption
    rows = {row["method"]: (row["teacher"], row["usual_teacher"]) for row in index([cell])["tables"][0]["rows"]}
    assert rows == {"mtt": (64 * "a", True), "dm": (64 * "a", True), "dc": (64 * "b", False)}


def test_of_two_teachers_of_as_many_rows_that_of_random_images_is_the_usual_one() -> None:
    rows = [taught("mtt", "a"), taught("edc", "a"), taught("dc", "b"), taught("random", "b")]
    (cell,) = build_cells(rows)
    assert cell.labellers == {64 * "b"}
    assert "teacher aaaaaaaa" in details(cell)["mtt"]


def test_where_all_have_one_teacher_nothing_is_said() -> None:
    (cell,) = build_cells([taught("mtt", "a"), taught("random", "a")])
    assert cell.labellers == frozenset()
    assert "teacher" not in "".join(details(cell).values())
    (table,) = page_data([lay_out(cell)], 10**6)["tables"]
    assert "note" not in table
    assert "ddagger" not in wide_text([cell])
    (hard,) = build_cells([plain("mtt"), plain("dm")])
    assert [row["usual_teacher"] for row in index([hard])["tables"][0]["rows"]] == [None, None]


@pytest.mark.parametrize("said", [True, False])
def test_the_runs_of_a_fixed_network_are_one(*, said: bool) -> None:
    """Five runs of one network have no spread; its row had an interval of no width and the first rank."""

    def fix(content: dict[str, Any]) -> None:
        content["synset"].update({"fixed_network": True} if said else {"config": {"init_networks": "fixed"}})
        for run in content["runs"]:
            run["metrics"]["accuracy"] = 0.9

    fixed = changed(plain("dd"), fix)
    if not said:  # as in early rows
        fixed = replace(fixed, protocol=replace(fixed.protocol, settings={"replay": True}))
    (cell,) = build_cells([fixed, plain("dm", accuracy=0.8), plain("random", accuracy=0.3)])
    row = row_of(cell, "dd")
    found = row.scores[cell.main(FIRST)]
    assert found.statistics == {"mean": 0.9, "std": None, "n": 1, "low": None, "high": None}
    assert (cell.rank(row), cell.against_random(row), row.seeds) == (None, None, (1,))
    assert cell.rank(row_of(cell, "dm")) == 1
    assert fixed.to_json()["summary"][FIRST]["accuracy"]["n"] == 5


def test_bytes_of_several_subsets_are_their_mean() -> None:
    """Random graphs take as many bytes as they have edges; the row told those of its first subset."""

    def larger(content: dict[str, Any]) -> None:
        own = content["synset"]["bytes"]
        own["images"] += 101
        own["total"] += 101

    first, second = plain("random"), changed(plain("random", seed=1), larger)
    (cell,) = build_cells([first, second])
    (row,) = cell.rows
    total = first.synset.bytes.total + 50.5
    assert row.stored == total
    assert row.bits == 8 * total / 10
    assert row.compression == 83008 / total
    assert index([cell])["tables"][0]["rows"][0]["stored_bytes"] == total
    assert f",{total}," in csv_text([cell])


def test_a_verdict_rests_on_the_student_of_which_the_least_share_was_trained_again(tmp_path: Path) -> None:
    """Two networks of two are all, though they are fewer than three of five."""

    def shorten(content: dict[str, Any]) -> None:
        content["runs"] = [run for run in content["runs"] if run["student"] == FIRST or run["seed"] < 2]

    result = changed(plain("mtt"), shorten)
    put(tmp_path, result)
    verify(tmp_path, result, [0, 1, 2])
    (cell,) = read_board(tmp_path).cells
    assert row_of(cell, "mtt").checked == Checked("identical", 3, 5)


def test_seconds_of_several_subsets_are_their_mean() -> None:
    """Over those that are known; of none nothing is told."""

    def cost(result: Result, seconds: float | None) -> Result:
        known = result.cost.distill
        assert known is not None
        spent = None if seconds is None else replace(known, cpu_seconds=seconds)
        return replace(result, cost=replace(result.cost, distill=spent))

    for told, seconds in (([10.0, None, 40.0], 25.0), ([None, None, None], None)):
        (cell,) = build_cells([cost(plain("random", seed=seed), one) for seed, one in enumerate(told)])
        assert cell.rows[0].distill_seconds == seconds


def test_the_student_that_ranks_does_not_hang_on_the_files() -> None:
    """Where nothing was distilled on a network of the table: not on which row is read first."""
    rows = [
        changed(made_result(name, rich=False, names=names), lambda content: content["synset"].update(student=None))
        for name, names in (("herding", STUDENTS[:2]), ("kcenter", STUDENTS[1::-1]))
    ]
    ranking = {build_cells(own)[0].students[0] for own in (rows, rows[::-1])}
    assert ranking == {min(FIRST, SECOND)}


@pytest.mark.parametrize("first", ["aaa", "zzz"])
def test_no_single_row_turns_a_column_round(first: str) -> None:
    """A row that calls a high ECE better made, read first, the worst of the others their best."""

    def turned(content: dict[str, Any]) -> None:
        content["metrics"] = {**content["metrics"], "ece": {**content["metrics"]["ece"], "better": "higher"}}

    odd = changed(made_result(first), turned)
    others = [made_result(name, accuracy=accuracy) for name, accuracy in (("dm", 0.9), ("mtt", 0.8), ("dc", 0.7))]
    (cell,) = build_cells([odd, *others] if first == "aaa" else [*others, odd])
    measure = next(one for one in cell.measures if one.metric == "ece" and one.student == FIRST)
    assert measure.better == "lower"
    scores = {row.method: row.scores[measure] for row in cell.rows}
    assert scores[first].odd
    assert scores[first].rank is None
    best = min(
        (row for row in cell.rows if row.method != first), key=lambda row: row.scores[measure].statistics["mean"]
    )
    assert scores[best.method].rank == 1


def test_an_export_ranks_by_the_student_that_was_asked_for() -> None:
    """As ``show`` and LaTeX do; it told the rank by another one."""

    def other(content: dict[str, Any]) -> None:
        for run in content["runs"]:
            if run["student"] == SECOND:
                run["metrics"]["accuracy"] += 0.15

    cells = build_cells([plain("mtt", accuracy=0.8), changed(plain("dm", accuracy=0.75), other)])
    (table,) = index(cells, SECOND)["tables"]
    assert [(row["method"], row["rank"], row["ranked_by"]) for row in table["rows"]] == [
        ("dm", 1, SECOND),
        ("mtt", 2, SECOND),
    ]
    (usual,) = index(cells)["tables"]
    assert [(row["method"], row["ranked_by"]) for row in usual["rows"]] == [("mtt", FIRST), ("dm", FIRST)]
    assert f'"{SECOND}",1,"dm"' in csv_text(cells, SECOND)


def test_a_row_that_takes_the_place_of_another_has_all_of_it() -> None:
    """``submit`` sees to it; a file by hand hid what the earlier one has."""
    old = made_result("mtt")
    new = changed(old, lambda content: content.update(supersedes=old.id))
    check_lineage([old, new])

    def without(*parts: str) -> Callable[[dict[str, Any]], None]:
        def act(content: dict[str, Any]) -> None:
            content["supersedes"] = old.id
            for part in parts:
                content.pop(part)

        return act

    with pytest.raises(UserError, match=f"supersedes {old.id}, which has DD-Ranking's scores, and it has not"):
        check_lineage([old, changed(old, without("scores"))])
    with pytest.raises(UserError, match="which has calibration and corruptions and robustness, and it has not"):
        check_lineage([old, changed(old, without("measured", "details"))])

    def uncalibrated(content: dict[str, Any]) -> None:
        content["supersedes"] = old.id
        for run in content["runs"]:
            if run["student"] == SECOND:
                run["metrics"] = {name: one for name, one in run["metrics"].items() if not name.startswith("ece")}

    with pytest.raises(UserError, match=f"has calibration of {SECOND}, and it has not: .* --calibration, then submit"):
        check_lineage([old, changed(old, uncalibrated)])


def test_random_subsets_of_another_preprocess_are_a_row_of_their_own() -> None:
    """The same draws seen otherwise are neither more subsets nor measured alike; a row is held against its own."""

    def whitened(content: dict[str, Any]) -> None:
        content["synset"]["preprocess"] = {"kind": "zca"}
        content["synset"]["sha256"] = content["synset"]["sha256"][::-1]

    own = [plain("random", accuracy=0.3, seed=seed) for seed in range(3)]
    zca = [changed(plain("random", accuracy=0.5, seed=seed), whitened) for seed in range(2)]
    rows = [*own, *zca, plain("mtt", accuracy=0.6), changed(plain("dm", accuracy=0.6), whitened)]
    (cell,) = build_cells(rows)
    drawn = [row for row in cell.rows if row.reference == "random"]
    assert sorted(len(row.results) for row in drawn) == [2, 3]
    gaps = {row.method: cell.against_random(row) for row in cell.rows}
    assert gaps["mtt"] is not None
    assert gaps["dm"] is not None
    assert gaps["mtt"].difference == pytest.approx(0.3, abs=0.03)
    assert gaps["dm"].difference == pytest.approx(0.1, abs=0.03)
    told = [line.entries[1].detail for line in lay_out(cell).lines if line.row in drawn]
    assert sorted(told) == ["2 subsets, zca", "3 subsets, meanstd"]


def test_a_number_of_fewer_subsets_than_its_row_says_so() -> None:
    rows = [made_result("random", rich=False, seed=seed, names=STUDENTS[: 1 + (seed < 2)]) for seed in range(3)]
    (cell,) = build_cells([*rows, plain("mtt")])
    assert details(cell, FIRST)["random"] == ""
    assert details(cell, SECOND)["random"] == "2 subsets"


def test_a_stated_interval_stays_where_one_subset_has_the_number() -> None:
    metrics = {"rate": Metric(unit="fraction", better="lower", title="Rate")}
    summary = {"rate": stated(0.2, 0.1, 0.4, 8)}
    task = TaskInfo(
        question={}, over="target", metrics=metrics, units=(), summary=summary, beside={}, threads=1, versions={}
    )
    first, *others = [plain("random", seed=seed) for seed in range(3)]
    (cell,) = build_cells([replace(first, tasks={"membership": task}), *others, plain("mtt")])
    (found,) = [one for one in cell.measures if one.group == "tasks"]
    assert row_of(cell, "random").scores[found].statistics == summary["rate"]


@pytest.mark.parametrize("name", ["random", "full"])
def test_a_foreign_set_is_not_called_a_reference(name: str) -> None:
    """All rows of a table are told against those of that name."""
    with pytest.raises(UserError, match=f"--method {name}: what other"):
        _method(plain("imported"), name)
    with pytest.raises(UserError, match=f"--method {name}: what other"):
        ImportSettings(method=name).check()
    assert _method(plain("random"), "random") == "random"


def test_scores_with_another_teacher_are_not_taken(tmp_path: Path) -> None:
    """HLR and the like of one teacher beside the accuracy of another one would look as of one training."""
    result = taught("mtt", "a")
    legs = dict.fromkeys(("real_hard", "syn_hard", "syn", "random", "syn_plain", "random_plain"), 0.5)
    found = {
        "kind": "ddbench-scores",
        "synset": {"sha256": result.synset.sha256},
        "protocol": {"hash": result.protocol.hash},
        "repeats": [{"seed": seed, **legs} for seed in range(2)],
        "student": FIRST,
        "standard": True,
        "weight": 0.5,
        "random_labels": "teacher",
        "teacher": 64 * "a",
    }
    path = tmp_path / "labels-view.json"
    path.write_text(json.dumps(found))
    assert read_scores(path, result) is not None
    path.write_text(json.dumps(found | {"teacher": 64 * "b"}))
    with pytest.raises(UserError, match="another teacher than the evaluation's"):
        read_scores(path, result)


def test_an_evaluation_of_a_fixed_network_tells_no_interval() -> None:
    data = plain("dd").to_json()
    assert "95 % interval" in repr(Evaluation(Path("x.json"), data))
    data["synset"]["fixed_network"] = True
    line = repr(Evaluation(Path("x.json"), data)).splitlines()[1]
    assert line.endswith("%  (one fixed network)  lr 0.02")
    other = plain("dd", accuracy=0.7).to_json()
    told = side_by_side([Evaluation(Path("y.json"), other), Evaluation(Path("x.json"), data)])
    lines = [line for line in told if line.endswith("(one fixed network)")]
    assert len(lines) == len(STUDENTS[:2])
    assert not any(" to " in line for line in lines)


def test_nothing_measured_on_a_fixed_network_has_an_interval() -> None:
    data = made_result("dd", names=STUDENTS[:1]).to_json()
    one = Evaluation(Path("x.json"), data)
    measured = [line for line in repr(one).splitlines() if line.startswith("    ")]
    assert len(measured) > 2
    assert all(" to " in line and line.endswith("(5 seeds)") for line in measured)
    assert one.summary(FIRST)["low"] is not None
    data["synset"]["fixed_network"] = True
    told = [line for line in repr(one).splitlines() if line.startswith("    ")]
    assert [line.split("  ")[0] for line in told] == [line.split("  ")[0] for line in measured]
    assert all(" to " not in line and line.endswith("(one fixed network)") for line in told)
    assert one.summary(FIRST, "nll") | {"mean": 0} == {"mean": 0, "std": None, "n": 1, "low": None, "high": None}
