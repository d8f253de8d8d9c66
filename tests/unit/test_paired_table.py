"""Tables of a document are made again from a board, and what is not theirs stays."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from made_board import STUDENTS, made_result, put
from scripts import benchmark

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
