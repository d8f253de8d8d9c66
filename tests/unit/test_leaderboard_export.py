"""Exports, filters and the terminal: the same numbers everywhere, and text of submitters that stays text."""

from __future__ import annotations

import csv
import io
import json
import re
import resource
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_board import STUDENTS, made_board, made_result, many_results, put
from rich.console import Console

from ddbench.cli import leaderboard as verb
from ddbench.leaderboard.board import Board, read_board
from ddbench.leaderboard.columns import SCORE, SCORES
from ddbench.leaderboard.coverage import Checked
from ddbench.leaderboard.grouping import Group, Known, build_cells
from ddbench.leaderboard.pages import embed
from ddbench.leaderboard.pages.export import csv_text, frame, harmless, index, write_export
from ddbench.leaderboard.pages.latex import escape, latex_text
from ddbench.leaderboard.pages.latex_wide import title_of, wide_text
from ddbench.leaderboard.pages.page import build
from ddbench.leaderboard.pages.terminal import show
from ddbench.leaderboard.pages.view import PLACE, budget_text, lay_out
from ddbench.leaderboard.result import Result, Run
from ddbench.leaderboard.rows import Cell
from ddbench.leaderboard.schema import check_result, result_id, summary_of
from ddbench.leaderboard.select import Selection
from ddbench.runtime.errors import UserError


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def read(board: Path) -> Board:
    return read_board(board)


@pytest.fixture(scope="module")
def cells(read: Board) -> list[Cell]:
    return read.cells


def test_selection(read: Board) -> None:
    found = read.select(Selection(dataset="digits", ipc=10, labels="hard"))
    assert [(cell.dataset, cell.budget.value, cell.label_kind) for cell in found] == [("digits", 10, "hard")]
    (cell,) = read.select(Selection(dataset="digits", ipc=10, labels="hard", verified=True))
    found = [row.checked.verdict for row in cell.rows if row.checked and not row.reference]
    assert found == ["within", "identical", "within", "identical"]
    assert [row.reference for row in cell.rows[-2:]] == ["random", "full"]
    for wrong, text in (
        (Selection(dataset="digit"), "did you mean 'digits'"),
        (Selection(ipc=3), "--ipc 3: not on this board; it has: 1, 10, 50"),
        (Selection(labels="sof"), "did you mean 'soft'"),
        (Selection(student="resnet"), "--student resnet"),
        (Selection(protocol="soft-v2"), "--protocol soft-v2: .*did you mean 'soft-v1'"),
        (Selection(dataset="cifar10", ipc=50, labels="soft"), "--dataset cifar10 --ipc 50 --labels soft: no table"),
        (Selection(ipc=50, labels="soft", protocol="hard-v1"), "--ipc 50 --labels soft --protocol hard-v1: no table"),
    ):
        with pytest.raises(UserError, match=text):
            read.select(wrong)


def test_a_selection_makes_only_its_tables(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, make = [], Group.cell

    def counted(group: Group, known: Known) -> Cell:
        made.append((group.dataset, group.budget.value, group.label_kind))
        return make(group, known)

    monkeypatch.setattr(Group, "cell", counted)
    found = read_board(board).select(Selection(dataset="digits", ipc=10))
    assert made == [(cell.dataset, cell.budget.value, cell.label_kind) for cell in found]
    assert len(made) < len(read_board(board).cells)


def test_another_student_ranks(read: Board) -> None:
    cell = read.select(Selection(dataset="digits", ipc=10, labels="hard"))[0]
    table = lay_out(cell, STUDENTS[2])
    ranks = {line.row.method: line.entries[0].text for line in table.lines if line.row is not None}
    assert ranks["mtt"] == "–"
    assert ranks["datm"] == "1"
    assert "Ranked by mlp-d3-w128" in table.caption


def test_rows_stand_in_the_order_of_the_student_that_ranks(tmp_path: Path) -> None:
    """So does what is said of random images: the difference is that student's."""
    first, second = STUDENTS[:2]
    for method, own, its in (("mtt", 0.9, 0.5), ("dm", 0.8, 0.7), ("random", 0.6, 0.2)):
        put(tmp_path, _of_two(method, own, its), picture=False)
    (cell,) = read_board(tmp_path).cells
    assert cell.students[0] == first
    told = {first: ["mtt", "above random by 30.0", "dm", "above random by 20.0"]}
    told[second] = ["dm", "above random by 50.0", "mtt", "above random by 30.0"]
    for student, words in told.items():
        lines = [line.entries for line in lay_out(cell, student).lines if not line.reference]
        assert [word for line in lines for word in (line[1].text, line[1].detail)] == words
        assert [line[0].text for line in lines] == ["1", "2"]
        assert words[1] in latex_text([cell], student=student).split("midrule")[1].splitlines()[1]
    (table,) = embed.page_data([lay_out(cell, everyone=True)], 10**6)["tables"]
    assert [row.get("a") for row in table["rows"][:3]] == [
        ["above random by 30.0", "above random by 30.0"],
        ["above random by 20.0", "above random by 50.0"],
        None,
    ]
    assert len(table["rows"][0]["e"][1]) == 1, "which of the two is said is for the page to choose"


def test_every_row_is_exported_by_the_same_student_and_says_how_it_stands_to_random_images(tmp_path: Path) -> None:
    """What is measured beside the columns was told student by student, by the last of whom the next rows were ranked;
    a table without that student ended in a traceback.
    """
    told = {"mtt": ("above", 0.3), "dm": ("tie", 0.001), "dc": ("below", -0.2)}
    for method, means in {"mtt": (0.9, 0.1), "dm": (0.601, 0.9), "dc": (0.4, 0.8), "random": (0.6, 0.2)}.items():
        put(tmp_path, _of_two(method, *means, rich=True, shake=0.01 * (method == "dm")), picture=False)
    put(tmp_path, made_result("mtt", ipc=50, names=STUDENTS[:1]), picture=False)
    cells = read_board(tmp_path).cells
    write_export(tmp_path / "x.sqlite", "sqlite", cells)
    with sqlite3.connect(tmp_path / "x.sqlite") as opened:
        opened.row_factory = sqlite3.Row
        stored = [dict(line) for line in opened.execute("select * from numbers")]
    listed = [row for table in index(cells)["tables"] for row in table["rows"]]
    for lines in (list(csv.DictReader(io.StringIO(csv_text(cells)))), stored, listed):
        assert {line["ranked_by"] for line in lines} == {STUDENTS[0]}
        for method, (verdict, difference) in told.items():
            line = next(line for line in lines if line["method"] == method)
            assert line["against_random"] == verdict
            assert float(line["random_difference"]) == pytest.approx(difference, abs=1e-6)
            ends = float(line["random_low"]), float(line["random_high"])
            assert (ends[0] <= 0 <= ends[1]) == (verdict == "tie")
            assert ends[0] <= difference + 1e-6
            assert ends[1] >= difference - 1e-6
    build(tmp_path)
    console = Console(file=io.StringIO(), width=300)
    show([lay_out(cells[0])], console)
    for text in (console.file.getvalue(), (tmp_path / "LEADERBOARD.md").read_text()):
        assert all(words in text for words in ("above random by 30.0", "below random by 20.0"))
        assert re.search(r"ties with random (&#40;|\()\+0\.1(&#41;|\))", text)


def _of_two(method: str, *means: float, rich: bool = False, shake: float = 0.0) -> Result:
    """A result whose two students come near these accuracies, each seed by the same amount, and shaken up and down."""
    made = made_result(method, names=STUDENTS[:2], rich=rich, seeds=3).to_json()
    near = dict(zip(STUDENTS[:2], means, strict=True))
    for run in made["runs"]:
        accuracy = near[run["student"]] + run["seed"] / 1000 + shake * (run["seed"] - 1)
        run["metrics"]["accuracy"] = round(accuracy, 6)
    made["summary"] = summary_of([Run(**run) for run in made["runs"]])
    made["id"] = result_id(made)
    return check_result(made, method)


def test_csv_has_every_number_once(cells: list[Cell], board: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(cells))))
    keys = [
        tuple(line[name] for name in ("fingerprint", "budget", "labels", "id", "student", "metric")) for line in lines
    ]
    assert len(set(keys)) == len(keys)
    wanted = next(row for cell in cells for row in cell.rows if row.method == "dm")
    for student, own in wanted.first.summary.items():
        for metric, statistics in own.items():
            (found,) = (
                line
                for line in lines
                if (line["id"], line["student"], line["metric"]) == (wanted.first.id, student, metric)
            )
            assert float(found["mean"]) == statistics["mean"]
            assert int(found["n"]) == statistics["n"]
    assert {line["reference"] for line in lines} == {"", "random", "full"}
    assert str(board) not in csv_text(cells)


def test_what_has_no_column_is_not_called_comparable(cells: list[Cell]) -> None:
    """How others measured it is looked at for columns only."""
    columns = {(one.student, one.metric) for cell in cells for one in cell.measures if one.group != "cross"}
    columns |= {("", f"cross_{one.metric}") for cell in cells for one in cell.measures if one.group == "cross"}
    said = frame(cells)
    told = [(student, metric) in columns for student, metric in zip(said.student, said.metric, strict=True)]
    assert said.comparable.notna().tolist() == told
    assert {True, False} <= set(told)


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "+1", "-1", "@x", "\tx", "\r=x", "  =1+1", "\u00a0=1"),
        *("\uff1d1", "\uff0b1", "\uff0d1", "\uff20x"),  # full width
    ],
)
def test_formulas_are_neutralised(text: str) -> None:
    assert harmless(text) == f"'{text}"
    assert harmless(f"A;{text}") == f"A;'{text}"
    assert harmless(f"A{text}") == f"A{text}"


def test_csv_of_a_hostile_row(tmp_path: Path) -> None:
    said = {"method_title": '=HYPERLINK("http://x","y")', "authors": ["@SUM(1)", 'a"b,c\nd', "=cmd|'/C calc'!A0"]}
    put(tmp_path, made_result(submission=said))
    (first, *_) = csv.DictReader(io.StringIO(csv_text(read_board(tmp_path).cells)))
    assert first["title"] == '\'=HYPERLINK("http://x","y")'
    assert first["authors"] == "'@SUM(1); a\"b,c\nd;' =cmd|'/C calc'!A0"
    assert not any(str(value).startswith(("=", "@", "+")) for value in first.values())


def test_csv_quotes_all_text_and_no_number(tmp_path: Path) -> None:
    """A semicolon parts no text in two, in whatever language a spreadsheet reads the file."""
    put(tmp_path, made_result(submission={"authors": ["A", "B"]}, rich=False))
    text = csv_text(read_board(tmp_path).cells)
    assert '"A; B"' in text
    head, first, *_ = csv.reader(io.StringIO(text), quoting=csv.QUOTE_NONE)
    assert all(name.startswith('"') for name in head)
    plain = {name.strip('"') for name, value in zip(head, first, strict=True) if not value.startswith('"')}
    assert {"budget", "rank", "stored_bytes", "mean", "std", "n", "low", "high"} <= plain
    assert not plain & {"dataset", "method", "title", "authors", "student", "metric"}


def test_parquet_reads_back_as_it_was(cells: list[Cell], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas

    from ddbench.leaderboard.pages.export import write_parquet

    write_parquet(tmp_path / "board.parquet", cells)
    found = pandas.read_parquet(tmp_path / "board.parquet")
    pandas.testing.assert_frame_equal(found, frame(cells), check_dtype=False)


def test_parquet_without_pyarrow_is_one_line(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddbench.leaderboard.pages.export import write_parquet

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install \"\.\[parquet\]\""):
        write_parquet(tmp_path / "board.parquet", cells)
    assert list(tmp_path.iterdir()) == []


def test_json_index(cells: list[Cell], board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb.main(["export", "--format", "json", "--leaderboard", str(board)])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(index(cells)))
    assert found["kind"] == "ddbench-index"
    for table in found["tables"]:
        for row in table["rows"]:
            assert all((board / result["path"]).is_file() for result in row["results"] + row["superseded"])
    assert sum(len(row["superseded"]) for table in found["tables"] for row in table["rows"]) == 1
    soft = [table["missing"] for table in found["tables"] if table["labels"] == "soft"]
    assert soft == [["random", "full"]] * len(soft)


def test_sqlite_index(cells: list[Cell], board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "index.sqlite"
    verb.main(["export", "--format", "sqlite", "--leaderboard", str(board), "--out", str(out)])
    assert "wrote" in capsys.readouterr().out
    first = out.read_bytes()
    verb.main(["export", "--format", "sqlite", "--leaderboard", str(board), "--out", str(out)])
    assert out.read_bytes() == first
    connection = sqlite3.connect(out)
    try:
        count = len([path for path in board.rglob("*.json") if not path.name.endswith(".verified.json")])
        assert connection.execute("SELECT count(*), count(DISTINCT path) FROM results").fetchone() == (count, count)
        row = cells[0].rows[0].first
        query = "SELECT seed, value FROM runs WHERE id = ? AND student = ? AND metric = 'accuracy' ORDER BY seed"
        found = connection.execute(query, (row.id, STUDENTS[0])).fetchall()
        assert found == [(r.seed, r.metrics["accuracy"]) for r in row.runs if r.student == STUDENTS[0]]
        where = "dataset = 'digits' AND budget = 10 AND labels = 'hard' AND rank = 1"
        best = f"SELECT DISTINCT method FROM numbers WHERE {where}"
        assert {name for (name,) in connection.execute(best)} == {"mtt", "datm"}
    finally:
        connection.close()
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with pytest.raises(UserError, match="something else than an index"):
        verb.main(["export", "--format", "sqlite", "--leaderboard", str(board), "--out", str(other)])
    assert other.read_text() == "mine"


@pytest.mark.parametrize("kind", ["csv", "json", "sqlite"])
def test_a_disk_that_refuses_the_file(cells: list[Cell], tmp_path: Path, kind: str) -> None:
    """Files of more than a few bytes are refused here, as by a quota; it is told as of any file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        with pytest.raises(UserError, match=f"cannot write .*index.{kind}"):
            write_export(tmp_path / f"index.{kind}", kind, cells, "text" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_sqlite_says_of_each_result_whether_it_is_verified(tmp_path: Path) -> None:
    """Of several random subsets each, and of those that were superseded."""
    root = tmp_path / "board"
    results = [made_result("random", seed=seed) for seed in range(3)]
    results.append(made_result("random", seed=0, seeds=6, supersedes=results[0].id))
    for result in results:
        put(root, result)
    verdicts = {results[0].id: "identical", results[1].id: "within"}
    known = {name: Checked(verdict, 5, 5) for name, verdict in verdicts.items()}
    write_export(tmp_path / "x.sqlite", "sqlite", build_cells(results, Known(known)))
    connection = sqlite3.connect(tmp_path / "x.sqlite")
    try:
        found = dict(connection.execute("SELECT id, verified FROM results").fetchall())
    finally:
        connection.close()
    assert found == {result.id: verdicts.get(result.id) for result in results}


def test_sqlite_names_the_row_that_a_result_is_folded_into(tmp_path: Path) -> None:
    """Also where none supersedes the other: two boards were merged."""
    less = made_result(seeds=3)
    more = made_result(seeds=5)
    later = made_result("dm", seeds=5, supersedes=made_result("dm", seeds=3).id)
    cells = build_cells([less, more, made_result("dm", seeds=3), later])
    write_export(tmp_path / "x.sqlite", "sqlite", cells)
    connection = sqlite3.connect(tmp_path / "x.sqlite")
    try:
        found = dict(connection.execute("SELECT id, superseded_by FROM results").fetchall())
    finally:
        connection.close()
    assert found == {less.id: more.id, more.id: None, made_result("dm", seeds=3).id: later.id, later.id: None}


def test_a_table_of_all_real_data_alone_has_their_kind_of_labels() -> None:
    content = made_result("full", budget="all", protocol="hard-v1").to_json()
    protocol = made_result("rded", labels="teacher").to_json()["protocol"]
    content["synset"]["label_kind"] = "teacher"
    content |= {"protocol": protocol}
    content["id"] = result_id(content)
    (cell,) = build_cells([check_result(content, "full")])
    assert cell.label_kind == "teacher"


def test_latex_explains_a_dagger_only_where_there_is_one() -> None:
    cells = build_cells([made_result(submission={"method_title": "Cloak and dagger"})])
    assert "Cloak and dagger" in latex_text(cells)
    assert "other students" not in latex_text(cells)


def test_over_how_many_is_that_of_the_subsets_that_were_averaged() -> None:
    """The first random subset has fewer students than the others, whose mean is shown."""
    names = (*STUDENTS, "convnet-d1-w16-in")
    subsets = [made_result("random", seed=seed, names=names[: 2 if seed == 0 else 3]) for seed in range(3)]
    (cell,) = build_cells([made_result("dm", names=names), made_result("mtt", names=names), *subsets])
    table = lay_out(cell)
    place = next(i for i, column in enumerate(table.columns) if column.title == "cross-arch.")
    details = {line.reference: line.entries[place].detail for line in table.lines}
    assert details["random"] == "over 2, 2 subsets"


def test_latex_table(read: Board) -> None:
    chosen = read.select(Selection(dataset="digits", ipc=10, labels="hard"))
    text = latex_text(chosen)
    lines = text.splitlines()
    assert [line for line in lines if "rule" in line] == ["\\toprule", "\\midrule", "\\midrule", "\\bottomrule"]
    head, *rows = (line.removesuffix(" \\\\").split(" & ") for line in lines if line.endswith("\\\\"))
    assert head == [
        "method",
        *sorted(STUDENTS[1:] + STUDENTS[:1], key=lambda n: (n != STUDENTS[0], n)),
        "cross-arch.",
        "stored",
    ]
    (cell,) = chosen
    for row, printed in zip(cell.rows, rows, strict=True):
        statistics = row.scores[cell.main(STUDENTS[0])].statistics
        assert f"{100 * statistics['mean']:.1f} $\\pm$ {100 * statistics['std']:.1f}" in printed[1]
    assert rows[0][1].startswith("\\textbf{")
    assert not rows[0][1].endswith("$^{\\ast}$"), "the best itself"
    assert rows[1][1].endswith("}$^{\\ast}$"), "tied with it"
    assert "textbf" not in rows[2][1]
    assert rows[-2][0].startswith("random")
    assert rows[-1][0].startswith("full")
    assert text.count("{") == text.count("}")


def test_latex_columns(read: Board) -> None:
    chosen = read.select(Selection(dataset="digits", ipc=10, labels="hard"))
    head = next(
        line for line in latex_text(chosen, ["rank", "method", "scores", "stored"]).splitlines() if "HLR" in line
    )
    assert head == "rank & method & HLR & IOR & LRS & ARS & stored \\\\"
    interval = latex_text(chosen, spread="interval")
    assert "half of the 95 \\% interval" in interval
    with pytest.raises(UserError, match="did you mean 'stored'"):
        latex_text(chosen, ["sotred"])
    with pytest.raises(UserError, match="--columns and --spread are for --format latex"):
        verb.main(["export", "--format", "csv", "--columns", "method"])


def test_latex_leaves_out_tables_without_the_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ipc in (1, 10, 50):
        put(tmp_path, made_result(ipc=ipc, rich=ipc == 10))
    cells = read_board(tmp_path).cells
    text = latex_text(cells, ["calibration"])
    assert text.count("\\begin{table}") == 1
    assert "tabular}{}" not in text
    assert "% left out: 2 tables that have none of these columns\n" in text
    assert "left out" not in latex_text(cells)
    assert "begin" not in latex_text([cell for cell in cells if cell.budget.value != 10], ["calibration"])
    where = ["--leaderboard", str(tmp_path), "--out", str(tmp_path / "board.tex")]
    verb.main(["export", "--format", "latex", "--columns", "calibration", *where])
    assert capsys.readouterr().out.endswith("of 3 tables; left out: 2 tables that have none of these columns\n")


def latex_rows(text: str) -> dict[str, list[str]]:
    """The lines of a LaTeX table by their first entry."""
    lines = [line.removesuffix(" \\\\").split(" & ") for line in text.splitlines() if line.endswith(" \\\\")]
    return {first: rest for first, *rest in lines}


def test_latex_as_papers_have_it(cells: list[Cell]) -> None:
    chosen = [cell for cell in cells if cell.label_kind == "hard" and cell.protocol.standard]
    assert len({cell.protocol.hash for cell in chosen}) == 1
    text = wide_text(chosen)
    assert text.count("\\begin{tabular}") == 1
    sets = list(dict.fromkeys(cell.dataset for cell in chosen))
    assert re.findall(r"\\multicolumn\{\d+\}\{c\}\{(\w+)\}", text) == sets
    assert text.count("\\cmidrule") == len(sets)
    rows = latex_rows(text)
    assert rows["Method"] == [budget_text(cell.budget) for cell in chosen]
    assert {len(row) for name, row in rows.items() if name} == {len(chosen)}
    for place, cell in enumerate(chosen):
        bold = {name for name, row in rows.items() if name and "textbf" in row[place]}
        top = {name for name in bold if not rows[name][place].endswith("$^{\\ast}$")}
        best = [row for row in cell.rows if (score := row.scores.get(cell.main(cell.students[0]))) and score.best]
        assert len(bold) == len(best)
        assert len(top) == bool(best)
        for row in best[:1]:
            mean = row.scores[cell.main(cell.students[0])].statistics["mean"]
            assert f"\\textbf{{{100 * mean:.1f} " in rows[title_of(row)][place]
    assert list(rows)[-2:] == ["Random real images", "All real images"]
    assert text.count("{") == text.count("}")
    fewer = [replace(chosen[0], rows=chosen[0].rows[1:]), *chosen[1:]]
    absent = latex_rows(wide_text(fewer))[title_of(chosen[0].rows[0])]
    assert absent[0] == "--", "not measured"
    assert "--" not in absent[1:]


def test_latex_wide_keeps_protocols_apart_and_every_row(tmp_path: Path) -> None:
    for seed in range(2):
        put(tmp_path, made_result("mtt", ipc=10, seed=seed))
    (cell,) = read_board(tmp_path).cells
    text = wide_text([cell], spread="interval")
    title = title_of(cell.rows[0])
    assert {title, f"{title} (2)"} < set(latex_rows(text))
    assert "another synset of the same method" in text
    assert "half of the 95 \\% interval" in text
    other = replace(cell, label_kind="soft")
    assert wide_text([cell, other]).count("\\begin{table}") == 2
    assert wide_text([cell, other]).endswith("\\end{table}\n")
    assert wide_text([]) == ""
    with pytest.raises(UserError, match="--columns is for --layout tables"):
        verb.main(["export", "--format", "latex", "--layout", "wide", "--columns", "method"])
    with pytest.raises(UserError, match="--layout is for --format latex"):
        verb.main(["export", "--format", "csv", "--layout", "wide"])


@pytest.mark.parametrize("write", [latex_text, wide_text])
def test_latex_tells_altered_protocols_apart(tmp_path: Path, write: Callable[[list[Cell]], str]) -> None:
    """By caption; and no two tables have one label, whatever tells them apart."""
    put(tmp_path, made_result("mtt"))
    (cell,) = read_board(tmp_path).cells
    altered = [
        replace(cell, protocol=replace(cell.protocol, standard=False, changed={"epochs": epochs, "lr": 0.5}))
        for epochs in (100, 200)
    ]
    others = [replace(cell, fingerprint="0" * 64, protocol=replace(cell.protocol, hash="0" * 64))]
    text = write([cell, *altered, replace(cell, precision="bfloat16"), *others])
    labels = re.findall(r"\\label{(.*?)}", text)
    assert len(set(labels)) == len(labels) == 5
    assert labels[1].endswith("-epochs-100-lr-0-5")
    assert labels[4] == f"{labels[0]}--2"
    assert text.count("(non-standard: epochs = 100, lr = 0.5)") == 1
    assert text.count("(non-standard: epochs = 200, lr = 0.5)") == 1
    assert text.count(f"protocol {cell.protocol.name}, bfloat16") == 1


def test_latex_wide_takes_no_method_for_a_reference_nor_for_another(tmp_path: Path) -> None:
    """Whatever titles submitters choose."""
    means = {"mtt": 0.8, "dm": 0.7, "dsa": 0.75, "random": 0.5}
    titles = {"mtt": "Random real images", "dm": "Ours", "dsa": "Ours"}
    for method, accuracy in means.items():
        said = {"method_title": titles.get(method, "")}
        put(tmp_path, made_result(method, accuracy=accuracy, submission=said))
    text = wide_text(read_board(tmp_path).cells)
    methods, references = (latex_rows(part) for part in text.split("\\midrule")[1:])
    assert list(methods) == ["Random real images (mtt)", "Ours (dsa)", "Ours (dm)"]
    assert list(references) == ["Random real images"]
    assert references["Random real images"][0].startswith("50.")


def test_latex_of_hostile_text() -> None:
    assert escape("\\input{/etc/x} $x_1^2$ & 5%\n#~") == (
        r"\textbackslash{}input\{/etc/x\} \$x\_1\textasciicircum{}2\$ \& 5\% \#\textasciitilde{}"
    )
    assert escape('[*] <a>|`"') == (r"{[}{*}{]} \textless{}a\textgreater{}\textbar{}\textasciigrave{}\textquotedbl{}")


def test_show_filters(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb.main(["show", "--leaderboard", str(board), "--dataset", "digits", "--ipc", "10", "--labels", "soft"])
    shown = capsys.readouterr().out
    assert "digits, IPC 10 · soft labels" in shown
    assert shown.count("not measured") == 4, "random and full, in both halves"
    assert "cifar10" not in shown
    assert "HLR" in shown
    with pytest.raises(UserError, match="--dataset mnist: not on this board"):
        verb.main(["show", "--leaderboard", str(board), "--dataset", "mnist"])
    verb.main(["show", "--leaderboard", str(board), "--protocol", "soft-v1"])
    shown = capsys.readouterr().out
    assert "soft labels" in shown
    assert "hard labels ·" not in shown


def test_show_names_the_rows_that_verify_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subsets = [made_result("random", seed=seed) for seed in range(3)]
    rows = [made_result("mtt"), *subsets]
    for row in rows:
        put(tmp_path, row)
    for flags, named in ([], 0), (["--ids"], 1):
        verb.main(["show", "--leaderboard", str(tmp_path), *flags])
        shown = capsys.readouterr().out
        assert [shown.count(row.id) for row in rows] == [named] * len(rows)


def test_verified_rows_are_ranked_among_themselves(tmp_path: Path) -> None:
    """The places of a table that is shown are places in it, whatever better rows are left out."""
    put(tmp_path, made_result("mtt", accuracy=0.9))
    for level, method in ((0.8, "dm"), (0.7, "dc")):
        put(tmp_path, made_result(method, accuracy=level), verify="identical")
    board = read_board(tmp_path)
    (whole,), (some,) = (board.select(Selection(verified=verified)) for verified in (False, True))
    assert [(row.method, whole.rank(row)) for row in whole.rows] == [("mtt", 1), ("dm", 2), ("dc", 3)]
    assert [(row.method, some.rank(row)) for row in some.rows] == [("dm", 1), ("dc", 2)]
    assert some.rows[0].scores[some.main(some.students[0])].best


def test_nothing_that_fits_is_told(tmp_path: Path) -> None:
    """Neither an empty board nor a file of its head alone."""
    put(tmp_path, made_result())
    put(tmp_path, made_result("datm", ipc=10, labels="soft"))
    for flags, text in (
        (["--ipc", "10", "--labels", "hard"], "--ipc 10 --labels hard: no table of this board is all of that"),
        (["--verified"], "--verified: no row of these tables is verified"),
    ):
        for called in (["show"], ["export", "--format", "csv"]):
            with pytest.raises(UserError, match=text):
                verb.main([*called, "--leaderboard", str(tmp_path), *flags])


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_terminal_of_any_width_cuts_no_name_and_no_number(cells: list[Cell], width: int) -> None:
    """Many students whose names differ at their ends stand in several tables, each with rank and method."""
    tables = [lay_out(cell, everyone=True) for cell in cells]
    tables.append(tables[0].at([0, 1, *range(2, len(tables[0].columns)), *range(2, len(tables[0].columns))]))
    for table in tables:
        console = Console(file=io.StringIO(), width=width, highlight=False)
        show([table], console)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        heads = [[field.strip() for field in line.split("┃")[1:-1]] for line in lines if line.startswith("┃")]
        whole = [title for head in heads for title in head if title not in ("rank", "method")]
        assert sorted(whole) == sorted(column.title for column in table.columns if column.group != PLACE)
        assert all(head[:2] == ["rank", "method"] for head in heads)
        numbers = {field.strip() for line in lines if line.startswith("│") for field in line.split("│")}
        for line in table.lines:
            for column, entry in zip(table.columns, line.entries, strict=True):
                assert not column.number or entry.detail or entry.text in numbers


def test_rows_measured_with_other_settings_are_not_compared(tmp_path: Path) -> None:
    put(tmp_path, made_result("mtt", accuracy=0.5))
    put(tmp_path, made_result("dm", accuracy=0.45))
    weaker: dict[str, Any] = {"calibration": {"bins": 15}, "robustness": {"budget": "other"}, "corruptions": {}}
    put(tmp_path, made_result("dsa", accuracy=0.95, measured=weaker))
    (cell,) = read_board(tmp_path).cells
    robust = next(measure for measure in cell.measures if measure.metric == "robust_accuracy")
    scores = {row.method: row.scores[robust] for row in cell.rows}
    assert scores["dsa"].statistics["mean"] > scores["mtt"].statistics["mean"]
    assert (scores["dsa"].odd, scores["dsa"].rank, scores["dsa"].best) == (True, None, False)
    assert scores["mtt"].best
    text = next(entry for line in lay_out(cell).lines for entry in line.entries if entry.detail == "other settings")
    assert "±" in text.text


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("student", STUDENTS[1]),
        ("standard", False),
        ("weight", 0.25),
        ("random_labels", "teacher"),
        ("hard_augmentation", True),
    ],
)
def test_scores_under_other_settings_are_not_ranked(setting: str, value: object) -> None:
    """Nor is a better score of other students, trainings, weights or labels the best of its column."""
    results = [made_result(name, accuracy=mean) for name, mean in (("mtt", 0.5), ("dm", 0.45), ("dsa", 0.95))]
    results[2] = replace(results[2], scores=replace(results[2].scores, **{setting: value}))
    (cell,) = build_cells(results)
    scored = [measure for measure in cell.measures if measure.group == SCORE]
    assert [measure.metric for measure in scored] == list(SCORES)
    for measure in scored:
        scores = {row.method: row.scores[measure] for row in cell.rows}
        assert {name for name, score in scores.items() if score.odd} == {"dsa"}
        assert (scores["dsa"].rank, scores["dsa"].best) == (None, False)
        assert {scores["mtt"].rank, scores["dm"].rank} <= {1, 2}
    texts = [[entry.detail for entry in line.entries] for line in lay_out(cell).lines]
    assert [line.count("other settings") for line in texts].count(len(SCORES)) == 1


def test_random_images_with_hard_labels_stand_in_for_soft_tables(tmp_path: Path) -> None:
    put(tmp_path, made_result("datm", labels="soft", accuracy=0.6))
    put(tmp_path, made_result("random", labels="hard", protocol="soft-v1", accuracy=0.4))
    (cell,) = read_board(tmp_path).cells
    assert [(row.method, row.reference) for row in cell.rows] == [("datm", ""), ("random", "random")]
    assert lay_out(cell).lines[1].entries[1].detail == "hard labels"
    assert cell.label_kind == "soft"


def test_a_large_board_keeps_within_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for result in many_results(150):
        put(tmp_path, result, picture=False)
    monkeypatch.setattr(embed, "MAX_PAGE_BYTES", 190_000)
    board = read_board(tmp_path)
    paths = build(tmp_path)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert 120_000 < len(text.encode()) <= 190_000
    assert data["left"] > 0
    shown = {row["id"] for table in data["tables"] for row in table["rows"] if "id" in row}
    assert {path.stem for path in paths if path.parent.name == "rows"} == shown
    for table, cell in zip(data["tables"], board.cells, strict=True):
        kept = [row["id"] for row in table["rows"] if not row.get("ref")]
        assert len(kept) == min(data["most"], sum(not row.reference for row in cell.rows))
        assert kept == [row.first.id for row in cell.rows if not row.reference][: data["most"]]
        assert {row.get("ref") for row in table["rows"]} >= {"random", "full"}


def test_building_is_deterministic(board: Path) -> None:
    first = [path.read_bytes() for path in build(board)]
    assert [path.read_bytes() for path in build(board)] == first
    assert max(map(len, first)) <= embed.MAX_PAGE_BYTES
