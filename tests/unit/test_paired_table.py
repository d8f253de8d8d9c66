"""Tables of a document are made again from a board, and what is not theirs stays."""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from made_board import STUDENTS, made_result, put
from scripts import benchmark

from ddbench.leaderboard.schema import result_id

MARK = f"<!-- paired_table --ipc 1 --methods random,dm,mtt --base mtt --students {STUDENTS[0]} -->"
TEXT = f"""# Title

Before.

{MARK}

| method | as it was |
| --- | --- |
| dm | 12.3 |

After, and a table of its own:

| a | b |
| --- | --- |
"""


@pytest.fixture
def tables() -> ModuleType:
    return benchmark("paired_table")


@pytest.fixture
def board(tmp_path: Path) -> Path:
    root = tmp_path / "board"
    put(root, made_result("dm", accuracy=0.7, rich=False))
    put(root, made_result("mtt", accuracy=0.8, rich=False))
    for seed in range(2):
        put(root, made_result("random", accuracy=0.5, seed=seed, rich=False))
    return root


def run(tables: ModuleType, monkeypatch: pytest.MonkeyPatch, *argv: object) -> int:
    monkeypatch.setattr(sys, "argv", ["paired_table.py", *map(str, argv)])
    code: int = tables.main()
    return code


def test_only_the_table_below_the_mark_is_made_again(
    tables: ModuleType, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(TEXT)
    assert run(tables, monkeypatch, "--board", board, "--check", page) == 1
    assert page.read_text() == TEXT
    assert run(tables, monkeypatch, "--board", board, "--write", page) == 0
    text = page.read_text()
    head, _, rest = text.partition(f"{MARK}\n\n")
    assert head == TEXT.partition(MARK)[0]
    made, _, after = rest.partition("\nAfter, ")
    assert f"\nAfter, {after}" == TEXT[TEXT.index("\nAfter, ") :]
    lines = made.splitlines()
    assert lines[0] == "| method | protocol | % | - random | - mtt |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["random", "dm", "mtt"]
    dm = [part.strip() for part in lines[3].split("|")[1:-1]]
    assert dm[2].startswith("70.")
    assert dm[3].startswith("+2")
    assert dm[4].startswith("-1")
    assert run(tables, monkeypatch, "--board", board, "--check", page) == 0


def test_rows_of_other_networks_are_passed_over(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, page = tmp_path / "board", tmp_path / "page.md"
    for method, accuracy in (("random", 0.5), ("dm", 0.7), ("mtt", 0.8)):
        put(root, made_result(method, accuracy=0.9, names=STUDENTS[1:], rich=False))
        put(root, made_result(method, accuracy=accuracy, seed=1, rich=False))
    page.write_text(TEXT)
    assert run(tables, monkeypatch, "--board", root, "--write", page) == 0
    lines = page.read_text().partition(MARK)[2].splitlines()[4:7]
    cells = [[part.strip() for part in line.split("|")[1:-1]] for line in lines]
    assert [one[0] for one in cells] == ["random", "dm", "mtt"]
    assert [round(float(one[2].split()[0])) for one in cells] == [50, 70, 80]
    assert cells[1][4].startswith("-1")


def test_a_mark_without_a_table_yet(
    tables: ModuleType, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{MARK}\n\nAfter.\n")
    assert run(tables, monkeypatch, "--board", board, "--write", page) == 0
    lines = page.read_text().splitlines()
    assert lines[1:3] == ["", "| method | protocol | % | - random | - mtt |"]
    assert lines[-3].startswith("| mtt |")
    assert lines[-2:] == ["", "After."]
    assert run(tables, monkeypatch, "--board", board, "--check", page) == 0


def test_a_mark_names_one_student(tables: ModuleType, board: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="with one student"):
        tables.made("<!-- paired_table --ipc 1 --methods dm -->\n", [])


def test_printed_for_every_student(
    tables: ModuleType, board: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--board", board, "--ipc", 1, "--methods", "random:hard-v1,dm:hard-v1"]
    assert run(tables, monkeypatch, *argv) == 0
    out = capsys.readouterr().out
    heads = {line for line in out.splitlines() if line.startswith("IPC")}
    assert heads == {f"IPC 1, {student}, accuracy" for student in STUDENTS}
    assert out.count("| dm | `hard-v1` | ") == len(STUDENTS)


def test_what_another_protocol_changes(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same set over the seeds that both have; of several sets over their means."""
    board, name = tmp_path / "board", STUDENTS[0]
    rows = {"dm": ((0.7, 0.8, 0),), "random": ((0.5, 0.6, 0), (0.5, 0.62, 1), (0.5, 0.58, 2))}
    wanted = {}
    for method, sets in rows.items():
        differences = []
        for before, after, seed in sets:
            old = made_result(method, accuracy=before, seed=seed, seeds=5, rich=False)
            new = made_result(method, accuracy=after, seed=seed, seeds=3, rich=False, protocol="dc-plain")
            new = replace(new, synset=replace(new.synset, sha256=old.synset.sha256))
            new = replace(new, id=result_id(new.to_json()))
            put(board, old)
            put(board, new)
            was, now = old.values(name, "accuracy"), new.values(name, "accuracy")
            differences.append([100 * (now[seed] - was[seed]) for seed in range(3)])
        numbers = differences[0] if len(sets) == 1 else [statistics.mean(one) for one in differences]
        half = 4.302653 * statistics.stdev(numbers) / 3**0.5  # t of two degrees of freedom
        mean = statistics.mean(numbers)
        wanted[method] = f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"
    flags = ("--ipc", 1, "--methods", "random,dm,mtt", "--protocols", "hard-v1,dc-plain,mtt", "--students", name)
    assert run(tables, monkeypatch, "--board", board, *flags) == 0
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[3:]]
    assert found[0] == ["method", "`dc-plain` - `hard-v1`", "`mtt` - `hard-v1`"]
    cells = {row[0]: row[1:] for row in found[2:]}
    assert cells["dm"] == [wanted["dm"], ""]
    assert cells["random"] == [wanted["random"], ""]
    assert cells["mtt"] == ["", ""]
