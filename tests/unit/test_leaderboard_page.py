"""Tables and pages: grouping, ranking, ties, escaping, and bytes that depend on nothing but the results."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_board import STUDENTS, in_bytes, made_result, put
from test_leaderboard import CONVNET, MLP, make_run, submit

import ddbench
from ddbench.cli import leaderboard as verb
from ddbench.data.specs import STATISTICS, Statistics
from ddbench.diffusion.recipe import DiffusionRecipe
from ddbench.leaderboard.board import read_board
from ddbench.leaderboard.commands import commands
from ddbench.leaderboard.grouping import build_cells
from ddbench.leaderboard.pages import markdown, page
from ddbench.leaderboard.pages.details import Pool, result_details
from ddbench.leaderboard.pages.export import csv_text, index
from ddbench.leaderboard.pages.latex import latex_text
from ddbench.leaderboard.pages.page import build, check, tables
from ddbench.leaderboard.pages.row_files import script
from ddbench.leaderboard.pages.view import Table, bytes_text, lay_out, parts, ratio_text, seconds_text
from ddbench.leaderboard.result import ProtocolInfo, Result
from ddbench.leaderboard.rows import Cell, Row, Score
from ddbench.leaderboard.schema import load_results, summary_of
from ddbench.leaderboard.submit import Submission, make_result
from ddbench.methods import shipped
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.runtime.errors import UserError
from ddbench.runtime.temporary import temporary


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A board of one table: two methods, three random subsets, all real data."""
    root = tmp_path / "board"
    for method, accuracies in {
        "mtt": {CONVNET: [0.88, 0.89, 0.90], MLP: [0.70, 0.71, 0.72]},
        "dm": {CONVNET: [0.80, 0.81, 0.82], MLP: [0.71, 0.70, 0.72]},
    }.items():
        submit(make_run(tmp_path / method, accuracies, method=method), root)
    for seed in range(3):
        accuracies = {CONVNET: [0.60 + seed / 50, 0.62 + seed / 50]}
        submit(make_run(tmp_path / f"r{seed}", accuracies, method="random", seed=seed, student=None), root)
    real = make_run(tmp_path / "full", {CONVNET: [0.99, 0.98]}, method="full", budget=("all", 1297), student=None)
    submit(real, root)
    return root


def texts(table: Table) -> list[list[str]]:
    return [[entry.text for entry in line.entries] for line in table.lines]


def embedded(text: str) -> dict[str, Any]:
    """The data of a page."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return dict(json.loads(found))


def row_file(path: Path) -> dict[str, Any]:
    """What the file of a row hands over: a JavaScript string of JSON, which its escapes make one of Python as well."""
    found = re.fullmatch(r"ddbenchRow\('([0-9a-f]{16})','(.*)'\)\n", path.read_text(encoding="utf-8"))
    assert found is not None
    name, text = found.groups()
    assert name == path.stem
    return dict(
        json.loads(re.sub(r"\\(u2028|u2029|.)", lambda m: chr(int(m[1][1:], 16)) if len(m[1]) > 1 else m[1], text))
    )


def main_score(cell: Cell, row: Row, student: str = CONVNET) -> Score:
    return row.scores[cell.main(student)]


def test_one_table_ranked_with_the_references_last(board: Path) -> None:
    (table,) = tables(board)
    assert table.title == "digits, IPC 1"
    assert [column.title for column in table.columns][:4] == ["rank", "method", CONVNET, MLP]
    lines = texts(table)
    assert [line[:2] for line in lines] == [["1", "mtt"], ["2", "dm"], ["–", "random"], ["–", "full"]]
    assert lines[0][2] == "89.0 ± 2.5"  # t(2) = 4.303: 4.303 * 0.01 / sqrt(3)
    assert lines[2][table.columns.index(next(c for c in table.columns if c.title == "seeds"))] == "3 × 2"


@pytest.mark.parametrize(
    ("subsets", "text", "networks"), [((2, 2), "2 × 2", 4), ((3, 2, 2), "3 × 2 to 3", 7), ((4,), "4", 4)]
)
def test_seeds_of_subsets(subsets: tuple[int, ...], text: str, networks: int, tmp_path: Path) -> None:
    root = tmp_path / "board"
    for seed, count in enumerate(subsets):
        accuracies = [0.5 + 0.01 * number for number in range(count)]
        submit(make_run(tmp_path / f"run{seed}", {CONVNET: accuracies}, method="random", seed=seed), root)
    (table,) = tables(root)
    place = [column.title for column in table.columns].index("seeds")
    (entry,) = [line.entries[place] for line in table.lines if line.row is not None]
    assert (entry.text, entry.key) == (text, networks)


def test_an_interval_that_leaves_what_is_possible_is_clipped_everywhere_but_in_the_data(tmp_path: Path) -> None:
    root = tmp_path / "board"
    submit(make_run(tmp_path / "run", {CONVNET: [0.99, 0.999, 0.98], MLP: [0.2, 0.8]}), root)
    clipped, few = "99.0 (96.6 to 100.0, clipped)", "50.0 (too few seeds)"
    build(root)
    written = (root / "LEADERBOARD.md").read_text(encoding="utf-8").replace("&#40;", "(").replace("&#41;", ")")
    data = embedded((root / "index.html").read_text(encoding="utf-8"))
    shown = [entry[0] for entry in data["tables"][0]["rows"][0]["e"] if entry and entry != 0]
    cells = read_board(root).cells
    for text in (written, latex_text(cells, spread="interval"), shown):
        assert clipped in text
        assert few in text
    assert "$\\pm$" in latex_text(cells), "a standard deviation is no interval"
    assert "1.013" in csv_text(cells), "exports hold the numbers as they are"


def test_references_that_nobody_measured_are_said_to_be(tmp_path: Path) -> None:
    submit(make_run(tmp_path / "run"), tmp_path / "board")
    (table,) = tables(tmp_path / "board")
    assert [(line.row is None, line.reference, line.entries[1].detail) for line in table.lines] == [
        (False, "", ""),
        (True, "random", "not measured"),
        (True, "full", "not measured"),
    ]


def test_all_real_data_stand_beside_a_synset_of_as_many_epochs(tmp_path: Path) -> None:
    """``--epochs 100`` alters hard-v1 for a synset, and is what all real data have anyway; 5 alter it for both."""

    def evaluated(method: str, **changed: int) -> None:
        made = made_result(method, rich=False, names=STUDENTS[:1], budget="all" if method == "full" else "ipc")
        used = replace(PROTOCOLS["hard-v1"], **changed)  # type: ignore[arg-type]
        told = {"name": used.name, "hash": used.hash, "standard": not changed, "changed": changed}
        entry = ProtocolInfo(**told, settings=used.settings())  # type: ignore[arg-type]
        results.append(replace(made, protocol=entry, id=f"{len(results):016}"))

    results: list[Result] = []
    for epochs in ({}, {"epochs": 100}, {"epochs": 5, "full_epochs": 5}, {"epochs": 7, "full_epochs": 7}):
        evaluated("mtt", **epochs)
    evaluated("full")
    evaluated("full", epochs=5, full_epochs=5)
    found = {cell.protocol.settings["epochs"]: [row.first.id for row in cell.rows] for cell in build_cells(results)}
    standard, altered = (f"{place:016}" for place in (4, 5))
    assert {epochs: rows[1:] for epochs, rows in found.items()} == {
        1000: [standard],
        100: [standard],
        5: [altered],
        7: [],
    }


def test_rows_that_cannot_be_told_apart_share_a_rank(tmp_path: Path) -> None:
    """a, b within noise; c clearly lower but tied with d; e has one seed and no rank."""
    for method, values in {
        "a": [0.900, 0.910, 0.905, 0.902],
        "b": [0.902, 0.906, 0.905, 0.901],
        "c": [0.800, 0.810, 0.805, 0.802],
        "d": [0.801, 0.808, 0.806, 0.800],
        "e": [0.99],
    }.items():
        submit(make_run(tmp_path / method, {CONVNET: values}, method=method), tmp_path / "board")
    (cell,) = build_cells(load_results(tmp_path / "board"))
    assert [(row.method, cell.rank(row)) for row in cell.rows] == [("a", 1), ("b", 1), ("c", 3), ("d", 3), ("e", None)]
    assert [main_score(cell, row).best for row in cell.rows] == [True, True, False, False, False]


def test_a_noisy_row_does_not_make_everything_below_it_a_tie(tmp_path: Path) -> None:
    """The noisy row joins the group of the row above it; the next is compared with that group's best, not with it."""
    for method, values in {
        "best": [0.900, 0.901, 0.902, 0.900],
        "noisy": [0.99, 0.70, 0.95, 0.80],
        "next": [0.800, 0.801, 0.802, 0.800],
    }.items():
        submit(make_run(tmp_path / method, {CONVNET: values}, method=method), tmp_path / "board")
    (cell,) = build_cells(load_results(tmp_path / "board"))
    assert [(row.method, cell.rank(row)) for row in cell.rows] == [("best", 1), ("noisy", 1), ("next", 3)]


@pytest.mark.parametrize("seeds", [5, 3])
def test_a_row_that_is_better_by_the_common_seeds_is_not_ranked_below(tmp_path: Path, seeds: int) -> None:
    """The five seeds that only ``more`` has make its mean the higher one; ``worst`` is below both."""
    noise = [0.001, 0.003, 0.0, 0.002, 0.004]
    for method, values in {
        "more": [0.50 + one for one in noise] + [0.90 + one for one in noise],
        "fewer": [0.60 + one for one in noise[:seeds]],
        "worst": [0.40 + one for one in reversed(noise)],
    }.items():
        submit(make_run(tmp_path / method, {CONVNET: values}, method=method), tmp_path / "board")
    (cell,) = build_cells(load_results(tmp_path / "board"))
    assert [(row.method, cell.rank(row)) for row in cell.rows] == [("more", 1), ("fewer", 1), ("worst", 3)]
    assert [main_score(cell, row).best for row in cell.rows] == [True, True, False]


def test_a_row_says_how_it_stands_to_random_images(tmp_path: Path, board: Path) -> None:
    """Above, level or below, with the difference; a row that is worse is not "not told" from random images."""
    for method, values in (("weak", [0.63, 0.62, 0.66]), ("bad", [0.30, 0.31, 0.30])):
        submit(make_run(tmp_path / method, {CONVNET: values}, method=method), board)
    (cell,) = build_cells(load_results(board))
    stands = {row.method: cell.against_random(row) for row in cell.rows if not row.reference}
    assert {name: against.verdict for name, against in stands.items() if against} == {
        "mtt": "above",
        "dm": "above",
        "weak": "tie",
        "bad": "below",
    }
    bad, weak = stands["bad"], stands["weak"]
    assert bad is not None
    assert weak is not None
    assert bad.difference == pytest.approx(-0.325)  # over the common seeds
    assert bad.low is not None
    assert bad.high is not None
    assert bad.low < bad.difference < bad.high < 0
    assert weak.low is not None
    assert weak.high is not None
    assert weak.low < 0 < weak.high
    table = lay_out(cell)
    details = {line.row.method: line.entries[1].detail for line in table.lines if line.row is not None}
    assert "below random by 32.5" in details["bad"]
    assert "ties with random (-0.5)" in details["weak"]
    assert "above random by" in details["mtt"]


def test_a_row_says_where_another_teacher_labelled_random_images() -> None:
    """The difference may be the teachers' then, not the images'."""
    teachers = {"mtt": "a", "dm": "b", "random": "a"}
    results = [
        replace(
            made_result(method, rich=False, protocol="labels-view", labels="teacher"), teacher={"sha256": 64 * name}
        )
        for method, name in teachers.items()
    ]
    (cell,) = build_cells(results)
    details = {line.row.method: line.entries[1].detail for line in lay_out(cell).lines if line.row is not None}
    assert re.search(r"(above|below|ties with) random of another teacher", details["dm"])
    assert re.search(r"(above|below|ties with) random (by|\()", details["mtt"])
    alike = {line["method"]: line["random_labelled_alike"] for line in csv.DictReader(io.StringIO(csv_text([cell])))}
    assert alike == {"mtt": "True", "dm": "False", "random": ""}
    stored = [replace(one, teacher=None, labels={"teacher": one.teacher}) for one in results]
    (cell,) = build_cells(stored)
    stands = [cell.against_random(row) for row in cell.rows if row.method == "dm"]
    assert stands[0] is not None
    assert not stands[0].labelled_alike


def test_random_subsets_are_one_row_with_their_own_interval(board: Path) -> None:
    (cell,) = build_cells(load_results(board))
    row = next(row for row in cell.rows if row.method == "random")
    assert len(row.results) == 3
    found = main_score(cell, row).statistics
    assert found["mean"] == pytest.approx(0.63)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(4.302653 * 0.02 / 3**0.5)


def test_numbers_measured_alike_are_compared(tmp_path: Path) -> None:
    """The ECE before scaling does not hang on the temperature's images, nor the corrupted accuracy on the reference."""
    settings = {
        "calibration": {"n_test": 500, "n_bins": 15, "norm": "l1", "temperature_images": 129, "synset_images": 10},
        "corruptions": {"images": 500, "types": ["fog"], "version": 1, "reference": None},
        "robustness": {"budget": "quick", "images": 500},
    }
    other = json.loads(json.dumps(settings))
    other["calibration"] |= {"temperature_images": 500, "synset_images": 40}
    other["corruptions"]["reference"] = {"sha256": "0" * 64}
    for method, said in (("mtt", settings), ("dm", settings), ("dc", other)):
        put(tmp_path, made_result(method, names=STUDENTS[:1], measured=said))
    (cell,) = build_cells(load_results(tmp_path))
    odd = {m.metric: {row.method for row in cell.rows if m in row.scores and row.scores[m].odd} for m in cell.measures}
    assert odd["ece_scaled"] == {"dc"}
    assert odd["ece"] == odd["corruption_accuracy"] == odd["robust_accuracy"] == set()


def test_random_subsets_measured_otherwise_are_not_averaged(tmp_path: Path) -> None:
    quick, full = ({"robustness": {"budget": budget, "images": 500}} for budget in ("quick", "full"))
    put(tmp_path, made_result("mtt", names=STUDENTS[:1], measured=quick))
    drawn = [
        made_result("random", names=STUDENTS[:1], seed=seed, accuracy=0.5 + seed / 10, measured=said)
        for seed, said in enumerate((full, quick, quick))
    ]
    for result in drawn:
        put(tmp_path, result)
    (cell,) = build_cells(load_results(tmp_path))
    row = next(row for row in cell.rows if row.method == "random")
    robust = next(measure for measure in cell.measures if measure.metric == "robust_accuracy")
    assert len(row.results) == 3
    assert row.scores[robust].statistics["n"] == 10
    own = [run.metrics["robust_accuracy"] for result in drawn[1:] for run in result.runs]
    assert row.scores[robust].statistics["mean"] == pytest.approx(sum(own) / 10)
    assert not row.scores[robust].odd
    assert main_score(cell, row, STUDENTS[0]).statistics["n"] == 15


def test_students_of_another_precision_stand_in_a_table_of_their_own() -> None:
    results = [made_result("dc"), replace(made_result("dm"), precision="bfloat16")]
    cells = build_cells(results)
    assert sorted((cell.precision, [row.method for row in cell.rows]) for cell in cells) == [
        ("bfloat16", ["dm"]),
        ("float32", ["dc"]),
    ]


def test_best_is_bold_alone_or_with_all_that_tie(board: Path) -> None:
    (cell,) = build_cells(load_results(board))
    best = {
        row.method: {measure.student for measure, score in row.scores.items() if score.best and measure.student}
        for row in cell.rows
    }
    assert best == {"mtt": {CONVNET, MLP}, "dm": {MLP}, "random": set(), "full": set()}


def test_cross_architecture_mean_leaves_the_training_student_out(tmp_path: Path, board: Path) -> None:
    third = "lenet"
    accuracies = {CONVNET: [0.9, 0.9], MLP: [0.5, 0.52], third: [0.7, 0.74]}
    submit(make_run(tmp_path / "wide", accuracies, method="wide"), board)
    (cell,) = build_cells(load_results(board))
    cross = next(measure for measure in cell.measures if measure.group == "cross")
    rows = {row.method: row for row in cell.rows}
    assert cross not in rows["random"].scores
    assert rows["mtt"].scores[cross].statistics["mean"] == pytest.approx(0.71)
    wide = rows["wide"].scores[cross]
    assert (wide.statistics["mean"], wide.statistics["n"]) == (pytest.approx(0.615), 2)
    assert wide.statistics["std"] == pytest.approx(0.03 / 2**0.5), "the mean over students of each seed is one value"
    assert wide.odd, "a mean over other students is not compared"
    assert not wide.best


def test_cross_architecture_mean_of_a_set_of_no_student_leaves_the_ranking_one_out() -> None:
    names = (*STUDENTS, "lenet")
    drawn = made_result("herding", names=names)
    drawn = replace(drawn, synset=replace(drawn.synset, student=None))
    (cell,) = build_cells([made_result("dc", names=names), drawn])
    cross = next(measure for measure in cell.measures if measure.group == "cross")
    assert cross.hint.endswith(f"distilled on; if that is none of them, but {cell.students[0]}")
    left = [name for name in names if name != cell.students[0]]
    row = next(row for row in cell.rows if row.method == "herding")
    own = [run.metrics["accuracy"] for run in drawn.runs if run.student in left]
    assert row.scores[cross].statistics["mean"] == pytest.approx(sum(own) / len(own))


def test_a_table_of_sets_of_no_student_is_ranked_by_one_that_most_have() -> None:
    """Not by the first row's, which may be the only one that has it: all others would have no rank."""
    drawn = [made_result(name, names=STUDENTS[1:], rich=False) for name in ("herding", "kcenter")]
    drawn.insert(0, made_result("alone", names=("alexnet", STUDENTS[2]), rich=False))
    rows = [replace(one, synset=replace(one.synset, student=None)) for one in drawn]
    (cell,) = build_cells([*rows, made_result("random", names=("alexnet",), rich=False)])
    assert cell.students[0] == STUDENTS[2]
    assert None not in [cell.rank(row) for row in cell.rows if not row.reference]


def test_non_standard_and_other_budgets_are_other_tables(tmp_path: Path, board: Path) -> None:
    submit(make_run(tmp_path / "a", changed={"max_images": 100}), board)
    submit(make_run(tmp_path / "b", budget=("ipc", 10)), board)
    submit(make_run(tmp_path / "c", dataset="mnist"), board)
    found = [(cell.dataset, cell.budget.value, cell.protocol.standard) for cell in build_cells(load_results(board))]
    assert found == [("digits", 1, True), ("digits", 10, True), ("digits", 1, False), ("mnist", 1, True)]
    full = [any(row.reference == "full" for row in cell.rows) for cell in build_cells(load_results(board))]
    assert full == [True, True, False, False]


def test_real_data_alone_is_a_table(tmp_path: Path) -> None:
    submit(make_run(tmp_path / "full", method="full", budget=("all", 1297), student=None), tmp_path / "board")
    (table,) = tables(tmp_path / "board")
    assert table.title == "digits, all images"
    assert [line.reference for line in table.lines] == ["full"]
    assert index([table.cell])["tables"][0]["missing"] == [], "random images of all there are would be these"


def test_a_table_that_another_metric_ranks_has_one_column_of_the_accuracy() -> None:
    """That of the student that ranks; the page has every student's, in a group of its own."""
    made = made_result("mirage", rich=False)
    runs = tuple(replace(run, metrics={**run.metrics, "roc_auc": run.metrics["accuracy"]}) for run in made.runs)
    described = {**made.metrics, "roc_auc": replace(made.metrics["accuracy"], title="Test ROC-AUC")}
    (cell,) = build_cells([replace(made, runs=runs, summary=summary_of(runs), metrics=described)])
    assert cell.metric == "roc_auc"
    titles = [column.title for column in lay_out(cell).columns]
    assert titles.count("Test accuracy") == 1
    groups = [column.group for column in lay_out(cell, everyone=True).columns]
    assert (groups.count("accuracy"), groups.count("further")) == (len(STUDENTS), len(STUDENTS))


def test_only_the_newest_is_shown_and_the_rest_is_folded(tmp_path: Path) -> None:
    root = tmp_path / "board"
    paths = [submit(make_run(tmp_path / "run", {CONVNET: [0.8, 0.81, 0.82][:count]}), root) for count in (1, 2, 3)]
    (cell,) = build_cells(load_results(root))
    (row,) = cell.rows
    assert len(row.first.runs) == 3
    assert [result.id for result in row.earlier] == [paths[1].stem, paths[0].stem]
    build(root)
    lines = (root / "LEADERBOARD.md").read_text()
    assert "2 earlier results are superseded" in lines
    assert lines.count("- superseded: mtt") == 2
    found = row_file(root / "rows" / f"{paths[2].stem}.js")
    assert [entry[0] for entry in found["earlier"]] == [paths[1].stem, paths[0].stem]
    assert len(list((root / "rows").iterdir())) == 1


def test_a_single_seed_has_no_rank(tmp_path: Path) -> None:
    submit(make_run(tmp_path / "one", {CONVNET: [0.9]}), tmp_path / "board")
    (cell,) = build_cells(load_results(tmp_path / "board"))
    assert cell.rank(cell.rows[0]) is None
    assert not main_score(cell, cell.rows[0]).best


def test_a_row_without_a_rival_is_not_the_best(tmp_path: Path) -> None:
    """Neither alone, nor over references and rows without a rank; a second ranked row makes the first the best."""
    root = tmp_path / "board"
    for method, values in {"mtt": [0.88, 0.89, 0.90], "random": [0.6, 0.61, 0.62], "once": [0.7]}.items():
        submit(make_run(tmp_path / method, {CONVNET: values}, method=method), root)
        (cell,) = build_cells(load_results(root))
        assert {row.method: cell.rank(row) for row in cell.rows}["mtt"] == 1
        assert not any(main_score(cell, row).best for row in cell.rows)
    submit(make_run(tmp_path / "dm", {CONVNET: [0.70, 0.71, 0.72]}, method="dm"), root)
    (cell,) = build_cells(load_results(root))
    assert {row.method for row in cell.rows if main_score(cell, row).best} == {"mtt"}


HOSTILE = (
    "<script>alert(1)</script> | a\nb ](javascript:alert(2)) {{ 7*7 }} {% x %} **b** `c` <!-- & \"q\" 'r' www.evil.org"
)


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[tuple[str, str, str]] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset", "data", "poster"):
                self.addresses.append((tag, name, value or ""))
            if name.startswith("on") or name == "style":
                self.handlers.append(name)


def test_hostile_text_stays_text(tmp_path: Path, board: Path) -> None:
    submission = Submission(
        method_title=HOSTILE[:110],
        authors=(HOSTILE[:115], "B"),
        links=("https://example.org/a_(b)*c?d=e&f=[g]",),
        code="https://example.org/'x'",
        licence=HOSTILE[:80],
        note=HOSTILE,
        claims=((CONVNET, 0.9),),
        claim_source=HOSTILE,
    )
    submit(
        make_run(tmp_path / "hostile", method="x", dataset="folder:<img src=x onerror=alert(1)>|"), board, submission
    )
    build(board)
    text = (board / "index.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.tags.count("script") == 2
    assert "img" not in reader.tags, "rows are drawn by the script, from text"
    assert not reader.handlers
    assert "<script>alert(1)" not in text
    assert HOSTILE in json.dumps(embedded(text), ensure_ascii=False).replace('\\"', '"').replace("\\n", "\n")
    assert {address for _, _, address in reader.addresses} == {"#board", "LEADERBOARD.md", "data:,"}
    lines = (board / "LEADERBOARD.md").read_text()
    assert "&#60;script&#62;" in lines
    assert "<script" not in lines
    assert "<img" not in lines
    assert "](javascript" not in lines
    assert "{{" not in lines
    assert "www.evil" not in lines
    for line in lines.splitlines():
        if line.startswith("|"):
            columns = line.count("|")
            assert columns in {len(part.columns) + 1 for table in tables(board) for part in parts(table)}


def test_commands_repeat_the_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", dataset="folder:a b; rm -rf x", changed={"epochs": 5, "full_epochs": 5})
    distill, evaluate, _ = commands(make_result(run))
    assert distill == (
        f"ddbench distill --method mtt --dataset 'folder:a b; rm -rf x' --size 8 --ipc 1 --student {CONVNET} --seed 0 "
        "--recipe none --iterations 1000 --lr-image 100.0 --out RUN"
    )
    assert evaluate == (
        f"ddbench evaluate RUN --protocol hard-v1 --size 8 --threads 1 --students {CONVNET},{MLP} --seeds 3 --epochs 5"
    )


def test_commands_name_the_statistics() -> None:
    """A row has their numbers; a dataset's own need no flag, nor do those of images of one's own."""
    made = made_result("random", rich=False)

    def said(dataset: str, numbers: Statistics, **recipe: Any) -> str:
        preprocess = {"kind": "meanstd", "mean": [*numbers[0]], "std": [*numbers[1]]}
        synset = replace(made.synset, dataset=dataset, preprocess=preprocess, shape=(3, 32, 32))
        lines = commands(replace(made, synset=synset, recipe=recipe or None))
        return " ".join(re.findall("(?<=--preprocess )[^ ]+", " ".join(lines)))

    assert said("cifar100", STATISTICS["mtt"]) == "mtt"
    assert said("cifar10", STATISTICS["mtt"]) == said("cifar100", STATISTICS["cifar100"]) == ""
    assert said("cifar10", STATISTICS["cifar10-idc"]) == "cifar10-idc"
    assert said("folder:mine", STATISTICS["imagenet"]) == "imagenet"
    assert said("folder:mine", ((0.1,) * 3, (0.2,) * 3)) == ""
    experts = {"count": 1, "recipe": {"preprocess": "cifar10"}}
    assert said("cifar100", STATISTICS["mtt"], experts=experts) == "cifar10 cifar10", "experts are found by their name"


def test_commands_name_the_teacher_and_the_stored_labels() -> None:
    """The file on the board; one that is too large for it by a word, as the run's folder is."""
    made = made_result("mtt", rich=False, protocol="labels-view", labels="teacher")
    made = replace(made, teacher={"sha256": "0" * 64}, threads=3)
    place = f"leaderboard/results/digits/ipc1/mtt/{made.id}.teacher.safetensors"
    _, evaluate, _ = commands(made)
    assert evaluate.startswith(f"ddbench evaluate RUN --protocol labels-view --teacher {place} --threads 3 --students")
    away = replace(made, submission=replace(made.submission, teacher_url="https://example.org/t"))
    assert "--teacher TEACHER --threads 3" in commands(away)[1]
    made = made_result("mtt", rich=False, protocol="fkd", labels="teacher")
    made = replace(made, labels={"synset_sha256": made.synset.sha256, "epochs": 40, "seed": 2})
    _, relabel, evaluate, _ = commands(made)
    assert relabel == "ddbench relabel RUN --protocol fkd --epochs 40 --seed 2 --threads 1"
    made = replace(made, labels={**made.labels, "teacher": {"sha256": "0" * 64, "student": "convnet-d2-w32-bn"}})
    assert commands(made)[1].startswith("ddbench relabel RUN --protocol fkd --teacher-student convnet-d2-w32-bn --epo")
    assert evaluate.startswith("ddbench evaluate RUN --protocol fkd --threads 1 --students")


def test_commands_name_the_networks_of_the_runs_teachers() -> None:
    one, two = "convnet-d2-w32-bn", "convnet-d1-w32-bn"
    teacher: dict[str, Any] = {"sha256": "0" * 64, "student": f"{one}+{two}"}
    made = replace(made_result("edc", rich=False), recipe={"teacher": teacher})
    assert f"--recipe none --teacher-student {one}+{two} " in commands(made)[0]
    teacher["members"] = [{"student": one}, {"student": two}]
    assert f"--recipe none --teacher-student {one},{two} " in commands(made)[0]
    for odd in ("x", [], ["x"]):
        teacher["members"] = odd
        assert commands(made)[0].startswith("ddbench distill"), "a row may say what it likes"


@pytest.mark.parametrize(("kind", "said"), [("latent", True), ("pixel", False)])
def test_commands_say_that_a_pretrained_model_is_needed(kind: str, said: bool) -> None:
    """Without its flag a small model of pixels would be trained in its place."""
    model = {"sha256": "0" * 64, "kind": kind, "parameters": 9, "dataset_fingerprint": None}
    result = replace(made_result("d3hr"), recipe={"diffusion": model})
    (distill,) = (line for line in commands(result) if line.startswith("ddbench distill"))
    assert (" --diffusion-model MODEL " in distill) is said


def test_commands_train_a_diffusion_model_as_the_runs_was() -> None:
    """And distil with that one, whatever else lies beside it; of a row without the recipe the run trains its own."""
    recipe = DiffusionRecipe(steps=50, widths=(8, 16), flip=False)
    model: dict[str, Any] = {"sha256": "0" * 64, "kind": "pixel", "recipe": recipe.to_json()}
    result = replace(made_result("d3hr"), recipe={"diffusion": model})
    train, distill = commands(result)[:2]
    assert train == "ddbench diffusion train --dataset digits --steps 50 --widths 8 16 --no-flip"
    assert f" --diffusion-model diffusions/digits/{recipe.key(result.synset.dataset_fingerprint)} " in distill
    for odd in (None, "x", {"steps": "many"}):
        model["recipe"] = odd
        assert commands(result)[0].startswith("ddbench distill"), "a row may say what it likes"


def test_a_protocol_of_a_file_is_no_name_for_a_command() -> None:
    """Its row has the settings, by which verification trains."""
    made = made_result("mtt", rich=False)
    made = replace(made, protocol=replace(made.protocol, name="my-own"))
    distill, again = commands(made)
    assert distill.startswith("ddbench distill")
    assert again == f"ddbench leaderboard verify {made.id}"


@pytest.mark.parametrize(
    ("changed", "flags"),
    [
        ({"label_smoothing": 0.1}, "--label-smoothing 0.1"),
        ({"focal_gamma": 2.0}, "--focal-gamma 2.0"),
        ({"augmentation": "mixup", "mix_alpha": 0.2}, "--mixup 0.2"),
        ({"augmentation": "dsa+mixup", "mix_alpha": 0.2}, "--mixup 0.2 --augmentation dsa"),
        ({"lr_source": "search"}, "--lr-source search"),
        ({"lr": 0.02, "lr_source": "protocol", "lr_students": []}, "--lr 0.02"),
        ({"full_epochs": 1000}, "--epochs 1000"),
    ],
)
def test_commands_repeat_what_was_altered(tmp_path: Path, changed: dict[str, Any], flags: str) -> None:
    made = make_result(make_run(tmp_path / "run", changed=changed))
    assert commands(made)[1].endswith(f"--seeds 3 {flags}")
    assert commands(replace(made, at_once=2))[1].endswith(f"--seeds 3 --at-once 2 {flags}")


def test_commands_repeat_the_measurements() -> None:
    """With their budget and number of images; of several numbers, in several commands."""
    said = {
        "calibration": {"n_bins": 15},
        "robustness": {"budget": "full; rm -rf x", "images": 200},
        "corruptions": {"images": 1000},
        "ood": {"other": "noise", "images": 200},
    }
    made = made_result("mtt", names=STUDENTS[:1], measured=said)
    *_, first, second, again = commands(made)
    assert first.endswith("--seeds 5 --calibration --robustness 'full; rm -rf x' --ood noise --max-images 200")
    assert second.endswith("--seeds 5 --corruptions --max-images 1000")
    assert again == f"ddbench leaderboard verify {made.id} --measured"
    made = replace(made, measured={**made.measured, "robustness": {"budget": ["x"], "images": {"many": [1]}}})
    assert any("--robustness" in line for line in commands(made)), "a row may say what it likes"


def test_tables_say_in_what_their_budget_is_counted(tmp_path: Path) -> None:
    """For the axis of the chart of budgets, which all images have no place in."""
    put(tmp_path, made_result("mtt", rich=False))
    put(tmp_path, in_bytes(made_result("mirage", rich=False), 500))
    put(tmp_path, made_result("full", dataset="cifar10", budget="all", rich=False))
    build(tmp_path)
    found = embedded((tmp_path / "index.html").read_text(encoding="utf-8"))["tables"]
    assert {(table["budget"], table["counted"]) for table in found} == {
        ("IPC 1", "images per class"),
        ("bytes 500", "bytes"),
        ("all images", "all"),
    }


def test_every_character_of_a_hostile_cell_is_an_entity() -> None:
    escaped = markdown.escape(HOSTILE)
    assert not re.search(r"[<>|\[\]{}`*\\]", escaped)
    assert "\n" not in escaped
    assert html.unescape(escaped) == " ".join(HOSTILE.split())


def test_commands_record_the_experts_of_the_recipe(tmp_path: Path) -> None:
    made = make_result(make_run(tmp_path / "run"))
    expert = {"epochs": 3, "decay": False, "options": {"dampening": 0.1}, "kind": "sgd"}
    recipe = {"experts": {"count": 4, "recipe": expert}, "threads": 2, "compile": "off"}
    made = replace(made, recipe=recipe)
    buffer, distill, evaluate, again = commands(made)
    assert buffer == (
        f"ddbench buffer --dataset digits --student {CONVNET} --experts 4 --epochs 3 --no-decay --kind sgd "
        "--options dampening=0.1"
    )
    assert distill.endswith("--threads 2 --compile off --out RUN")
    assert evaluate.startswith("ddbench evaluate RUN")
    assert again == f"ddbench leaderboard verify {made.id}"
    expert["kind"] = "imported"
    assert len(commands(made)) == 3


def test_synset_made_elsewhere_is_trained_on_again(tmp_path: Path) -> None:
    made = make_result(make_run(tmp_path / "run", method="someones-own"))
    assert commands(made) == [f"ddbench leaderboard verify {made.id}"]


def test_page_is_self_contained(board: Path) -> None:
    build(board)
    text = (board / "index.html").read_text()
    assert "Content-Security-Policy" in text
    assert "default-src 'none'" in html.unescape(text)
    assert not re.search(r"url\(|@import|<iframe|//cdn|\beval\(|innerHTML|insertAdjacentHTML|document\.write", text)
    reader = Reader()
    reader.feed(text)
    assert "img" not in reader.tags
    assert not [address for _, _, address in reader.addresses if address.startswith(("http", "//"))]
    pictures = [
        result["picture"]
        for path in (board / "rows").iterdir()
        for result in row_file(path)["results"][:1]
        if "picture" in result
    ]
    assert len(pictures) == 3
    assert all((board / place).is_file() and width > 0 < height for place, width, height in pictures)
    assert str(board) not in text


def test_page_says_what_the_shipped_methods_are(board: Path) -> None:
    build(board)
    data = embedded((board / "index.html").read_text())
    there = {row["m"] for table in data["tables"] for row in table["rows"] if "m" in row}
    assert set(data["methods"]) == there & set(shipped())
    assert data["methods"]["random"]["card"].endswith("/methods/random/README.md")
    assert "paper" not in data["methods"]["random"], "nobody published it"


def test_policy_names_the_script_and_style_that_are_there(board: Path) -> None:
    build(board)
    text = (board / "index.html").read_text()
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert page._source_hash(content) in html.unescape(text)


def test_a_row_of_any_text_is_handed_over_as_it_is(tmp_path: Path) -> None:
    value = {"__proto__": {"x": 1}, "text": "\\ ' \" \u2028\u2029 </script> \n ${x} `"}
    (tmp_path / "0123456789abcdef.js").write_text(script("0123456789abcdef", value), encoding="utf-8")
    assert row_file(tmp_path / "0123456789abcdef.js") == value


def test_files_of_rows_come_and_go_with_their_rows(board: Path, tmp_path: Path) -> None:
    """A row that is gone takes its file with it; what somebody else put into the folder stays."""
    build(board)
    before = {path.name: path.stat().st_mtime_ns for path in (board / "rows").iterdir()}
    assert set(before) == {f"{row.first.id}.js" for cell in read_board(board).cells for row in cell.rows}
    (board / "rows" / "notes.txt").write_text("mine")
    whose = temporary(board / "rows" / f"{'0' * 16}.js").name.rsplit(".", 3)[0]
    (board / "rows" / f"{whose}.999999999.0a1b2c3d.tmp").touch()  # of a build that was killed
    (board / "rows" / f"{'0' * 16}.js").write_text("of a row that was removed")
    with pytest.raises(UserError, match=f"{'0' * 16}.js is of no row"):
        check(board)
    new = submit(make_run(tmp_path / "new", method="new"), board)
    build(board)
    check(board)
    after = {path.name: path.stat().st_mtime_ns for path in (board / "rows").iterdir()}
    assert set(after) == {*before, f"{new.stem}.js", "notes.txt"}
    assert {name: after[name] for name in before} == before, "a file that stays the same is not written"
    next((board / "rows").glob("*.js")).write_text("x")
    with pytest.raises(UserError, match=r"\.js differs"):
        check(board)
    next((board / "rows").glob("*.js")).unlink()
    with pytest.raises(UserError, match=r"\.js is missing"):
        verb.main(["build", "--check", "--leaderboard", str(board)])
    build(board)
    check(board)


def test_builds_are_the_same_bytes(board: Path) -> None:
    paths = build(board)
    before = [path.read_bytes() for path in paths]
    moved = board.rename(board.with_name("moved"))
    assert [path.read_bytes() for path in build(moved)] == before


def test_check_detects_a_changed_and_a_missing_file(board: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        check(board)
    build(board)
    check(board)
    verb.main(["build", "--check", "--leaderboard", str(board)])
    path = board / "LEADERBOARD.md"
    path.write_text(path.read_text().replace("89.0", "99.0"))
    with pytest.raises(UserError, match=r"LEADERBOARD.md differs"):
        verb.main(["build", "--check", "--leaderboard", str(board)])
    build(board)
    submit(make_run(tmp_path / "new", method="new"), board)
    with pytest.raises(UserError, match="differs"):
        check(board)


def test_broken_board_is_refused_and_pages_stay(board: Path) -> None:
    paths = build(board)
    before = [path.read_bytes() for path in paths]
    preview = next(board.rglob("mtt/*.png"))
    good = preview.read_bytes()
    preview.write_bytes(good[:50])
    with pytest.raises(UserError, match=preview.name):
        build(board)
    preview.write_bytes(good)
    result = next(board.rglob("dm/*.json"))
    result.write_text(result.read_text().replace("0.81", "0.91"))
    with pytest.raises(UserError, match=result.name):
        build(board)
    assert [path.read_bytes() for path in paths] == before


def test_empty_board_says_how_to_add_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in build(tmp_path):
        assert "ddbench submit" in path.read_text()
    verb.main(["show", "--leaderboard", str(tmp_path)])
    assert "empty" in capsys.readouterr().out


def test_verb(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb.main([])
    assert "build" in capsys.readouterr().out
    verb.main(["build", "--leaderboard", str(board)])
    assert "wrote" in capsys.readouterr().out
    verb.main(["show", "--leaderboard", str(board)])
    shown = capsys.readouterr().out
    assert "89.0 ± 2.5" in shown
    assert "hard-v1" in shown
    with pytest.raises(UserError, match="did you mean 'build'"):
        verb.main(["biuld"])
    with pytest.raises(UserError, match="no such leaderboard folder"):
        verb.main(["build", "--leaderboard", str(board / "nowhere")])


def test_neither_verb_loads_torch(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    code = f"""
import sys
from ddbench.cli import leaderboard, submit
submit.main([{str(run)!r}, "--leaderboard", "b"])
leaderboard.main(["build", "--leaderboard", "b"])
leaderboard.main(["show", "--leaderboard", "b"])
assert "torch" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=True,
        env={"PYTHONPATH": str(Path(ddbench.__file__).parents[1])},
    )


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (bytes_text(10), "10 B"),
        (bytes_text(2574), "2.6 kB"),
        (bytes_text(999_960), "1.0 MB"),
        (bytes_text(123_400_000), "123 MB"),
        (bytes_text(5e13), "50.0 TB"),
        (seconds_text(0.04), "0.0 s"),
        (seconds_text(99.6), "1.7 min"),
        (seconds_text(5_999), "1.7 h"),
        (ratio_text(1), "1.0 ×"),
        (ratio_text(1234.4), "1,234 ×"),
    ],
)
def test_numbers_as_text(found: str, text: str) -> None:
    assert found == text


def test_errors_under_corruption_relative_to_all_real_images():
    """Only where the same student on all real images was measured alike; the reference of a metric does not count."""
    ours, full = made_result("mtt"), made_result("full", budget="all", accuracy=0.95)
    tables = [one.details_of(STUDENTS[0])["corruptions"] for one in (ours, full)]
    expected = {name: sum(1 - v for v in row) / sum(1 - v for v in tables[1][name]) for name, row in tables[0].items()}

    def errors(result: Result, reference: Result | None) -> dict[str, float] | None:
        curves = result_details(result, Path("nowhere"), None, Pool(), reference)["curves"]
        return curves[STUDENTS[0]].get("corruption_errors")

    def measured_with(result: Result, **settings: object) -> Result:
        return replace(
            result, measured={**result.measured, "corruptions": {**result.measured_as("corruptions"), **settings}}
        )

    found = errors(ours, full)
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(found.values()) > 1
    full = measured_with(full, reference={"sha256": "0" * 64})
    assert errors(ours, full) == found
    full = measured_with(full, images=7)
    for other in (None, ours, full, made_result("full", budget="all", rich=False)):
        assert errors(ours, other) is None


def test_the_usual_protocol_stands_first() -> None:
    """Of a dataset: a reader begins with hard labels by the usual training; altered ones stand with the others."""
    usual = made_result("mtt", rich=False)
    others = [made_result("mtt", rich=False, protocol=name, labels="teacher") for name in ("edc-ema", "rd3")]
    altered = replace(usual, protocol=replace(usual.protocol, standard=False, changed={"epochs": 10}), id="a" * 16)
    found = [(cell.protocol.name, cell.protocol.standard) for cell in build_cells([*others, altered, usual])]
    assert found == [("hard-v1", True), ("edc-ema", True), ("rd3", True), ("hard-v1", False)]


def test_rows_are_compared_by_their_very_numbers() -> None:
    """Beyond the fifth digit two rows may differ with all their seeds; other metrics are only shown."""
    shift = 1e-7  # of each seed, so that the difference has no spread
    one = made_result("mtt", rich=False)
    values = [replace(run, metrics={"accuracy": run.metrics["accuracy"] + shift}) for run in one.runs]
    two = replace(one, runs=tuple(values))
    ours, theirs = (result_details(result, Path("nowhere"), None, Pool(), None)["runs"] for result in (two, one))
    for (_, mine), (_, other) in zip(ours, theirs, strict=True):
        pairs = zip(mine[0][3], other[0][3], strict=True)
        assert [value - less for (_, value), (_, less) in pairs] == pytest.approx([shift] * 5, rel=1e-6)
    rich = made_result("mtt")
    for _, metrics in result_details(rich, Path("nowhere"), None, Pool(), None)["runs"]:
        assert all(len(str(value)) < 12 for metric in metrics[1:] for _, value in metric[3])
