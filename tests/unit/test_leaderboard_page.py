"""Tables and pages: grouping, ranking, ties, escaping, and bytes that depend on nothing but the results."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_leaderboard import CONVNET, MLP, make_run, submit

from ddbench.cli import leaderboard as verb
from ddbench.leaderboard import markdown, page
from ddbench.leaderboard.page import build, check, tables
from ddbench.leaderboard.rows import build_cells
from ddbench.leaderboard.schema import load_results
from ddbench.leaderboard.submit import Submission, make_result
from ddbench.leaderboard.view import Table, bytes_text, commands, ratio_text, seconds_text
from ddbench.runtime.errors import UserError


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
    return [[entry.text for entry in entries] for _, entries in table.lines]


def test_one_table_ranked_with_full_last(board: Path) -> None:
    (table,) = tables(board)
    assert table.title == "digits, IPC 1"
    assert [column.title for column in table.columns][:4] == ["rank", "method", CONVNET, MLP]
    lines = texts(table)
    assert [line[:2] for line in lines] == [["1", "mtt"], ["2", "dm"], ["3", "random"], ["–", "full"]]
    assert lines[0][2] == "89.0 ± 2.5"  # t(2) = 4.303: 4.303 * 0.01 / sqrt(3)
    assert lines[2][table.columns.index(next(c for c in table.columns if c.title == "seeds"))] == "3 × 2"


def test_random_subsets_are_one_row_with_their_own_interval(board: Path) -> None:
    (cell,) = build_cells(load_results(board))
    row = next(row for row in cell.rows if row.method == "random")
    assert len(row.results) == 3
    assert row.summary[CONVNET]["mean"] == pytest.approx(0.63)
    assert (row.summary[CONVNET]["high"] - row.summary[CONVNET]["low"]) / 2 == pytest.approx(4.302653 * 0.02 / 3**0.5)


def test_best_is_bold_alone_or_with_all_that_tie(board: Path) -> None:
    (cell,) = build_cells(load_results(board))
    best = {row.method: row.best for row in cell.rows}
    assert best == {"mtt": {CONVNET, MLP}, "dm": {MLP}, "random": frozenset(), "full": frozenset()}


def test_cross_architecture_mean_leaves_the_training_student_out(board: Path) -> None:
    (cell,) = build_cells(load_results(board))
    assert [row.cross for row in cell.rows][:2] == [(pytest.approx(0.71), 1), (pytest.approx(0.71), 1)]
    assert cell.rows[2].cross is None


def test_non_standard_and_other_budgets_are_other_tables(tmp_path: Path, board: Path) -> None:
    submit(make_run(tmp_path / "a", changed={"max_images": 100}), board)
    submit(make_run(tmp_path / "b", budget=("ipc", 10)), board)
    submit(make_run(tmp_path / "c", dataset="mnist"), board)
    found = [
        (cell.dataset, cell.budget["value"], cell.protocol["standard"]) for cell in build_cells(load_results(board))
    ]
    assert found == [("digits", 1, True), ("digits", 10, True), ("digits", 1, False), ("mnist", 1, True)]
    full = [any(row.full for row in cell.rows) for cell in build_cells(load_results(board))]
    assert full == [True, True, False, False]


def test_real_data_alone_is_a_table(tmp_path: Path) -> None:
    submit(make_run(tmp_path / "full", method="full", budget=("all", 1297), student=None), tmp_path / "board")
    (table,) = tables(tmp_path / "board")
    assert table.title == "digits, all images"


def test_only_the_newest_is_shown_and_the_rest_counted(tmp_path: Path) -> None:
    root = tmp_path / "board"
    for count in (1, 2, 3):
        submit(make_run(tmp_path / "run", {CONVNET: [0.8, 0.81, 0.82][:count]}), root)
    (cell,) = build_cells(load_results(root))
    assert [(len(row.first["runs"]), row.earlier) for row in cell.rows] == [(3, 2)]
    build(root)
    assert "2 earlier results are superseded" in (root / "LEADERBOARD.md").read_text()
    assert "2 earlier results are superseded" in (root / "index.html").read_text()


def test_single_seeds_are_never_bold(tmp_path: Path) -> None:
    submit(make_run(tmp_path / "one", {CONVNET: [0.9]}), tmp_path / "board")
    (cell,) = build_cells(load_results(tmp_path / "board"))
    assert cell.rows[0].best == frozenset()
    assert cell.rows[0].rank == 1


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
    assert reader.tags.count("script") == 1
    assert reader.tags.count("img") == 4
    assert not reader.handlers
    assert html.escape("<script>alert(1)</script>", quote=False) in text
    for tag, name, address in reader.addresses:
        known = address.startswith(("data:image/png;base64,", "results/", "https://example.org/"))
        assert known, (tag, name, address)
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
            assert columns in {len(table.columns) + 1 for table in tables(board)}


def test_commands_repeat_the_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", dataset="folder:a b; rm -rf x", changed={"epochs": 5, "full_epochs": 5})
    distill, evaluate, _ = commands(make_result(run))
    assert distill == (
        f"ddbench distill --method mtt --dataset 'folder:a b; rm -rf x' --ipc 1 --student {CONVNET} --seed 0 "
        "--out RUN --size 8"
    )
    assert evaluate == (
        f"ddbench evaluate RUN --protocol hard-v1 --students {CONVNET},{MLP} --seeds 3 --epochs 5 --size 8"
    )


def test_every_character_of_a_hostile_cell_is_an_entity() -> None:
    escaped = markdown.escape(HOSTILE)
    assert not re.search(r"[<>|\[\]{}`*\\]", escaped)
    assert "\n" not in escaped
    assert html.unescape(escaped) == " ".join(HOSTILE.split())


def test_page_is_self_contained(board: Path) -> None:
    build(board)
    text = (board / "index.html").read_text()
    assert "Content-Security-Policy" in text
    assert "default-src 'none'" in html.unescape(text)
    assert not re.search(r"url\(|@import|<link|<iframe|//cdn", text)
    reader = Reader()
    reader.feed(text)
    assert {tag for tag, name, _ in reader.addresses if name == "src"} == {"img"}
    assert not [address for _, _, address in reader.addresses if address.startswith(("http", "//"))]
    assert text.count("data:image/png;base64,") == 3
    assert str(board) not in text


def test_policy_names_the_script_and_style_that_are_there(board: Path) -> None:
    build(board)
    text = (board / "index.html").read_text()
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert page._source_hash(content) in html.unescape(text)


def test_previews_beyond_the_bound_are_left_out_with_a_note(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(board)
    size = len(re.findall(r'data:image/png;base64,[^"]*', (board / "index.html").read_text())[0])
    monkeypatch.setattr(page, "MAX_INLINE_BYTES", size + 10)
    build(board)
    text = (board / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 1
    assert text.count("left out") == 2


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
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={"PYTHONPATH": str(Path.cwd())})


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
