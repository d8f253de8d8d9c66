"""What is kept of a board: it saves the checks, and hides nothing that was changed, damaged, removed or exchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE
from made_board import made_result, put

import ddbench
from ddbench.cli import leaderboard as verb
from ddbench.leaderboard import audit, images, kept, schema
from ddbench.leaderboard.kept import Kept, board_digest, digest
from ddbench.leaderboard.pages import page
from ddbench.runtime.errors import UserError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test, empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(kept.VARIABLE, str(folder))
    return folder


@pytest.fixture
def board(tmp_path: Path, cache: Path) -> Path:
    """Two methods and random images, one of them verified, with pictures."""
    root = tmp_path / "board"
    put(root, made_result("mtt", accuracy=0.8), verify="identical")
    put(root, made_result("dm", accuracy=0.75, rich=False, seed=1))
    put(root, made_result("random", accuracy=0.5, rich=False, seed=2))
    return root


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was checked in full: results, decoded pictures."""
    done: list[str] = []
    check, decode = schema.check_result, images._decode

    def checked(content: Any, where: str) -> Any:
        done.append(Path(where).name)
        return check(content, where)

    def decoded(data: bytes, where: str) -> Any:
        done.append(Path(where).name)
        return decode(data, where)

    monkeypatch.setattr(schema, "check_result", checked)
    monkeypatch.setattr(images, "_decode", decoded)
    return done


@pytest.fixture
def show(board: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What ``leaderboard show`` prints."""

    def printed() -> str:
        capsys.readouterr()
        verb.main(["show", "--leaderboard", str(board)])
        return capsys.readouterr().out

    return printed


def edit(path: Path, old: str, new: str) -> None:
    """Change a file so that size, times and mode are as before."""
    before, text = path.stat(), path.read_text()
    assert old in text
    assert len(old) == len(new)
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_nothing_is_checked_twice(board: Path, show: Callable[[], str], checks: list[str]) -> None:
    first = show()
    assert sorted(checks) == sorted(path.name for path in board.rglob("*.json") if ".verified" not in path.name)
    page.build(board)
    verb.main(["build", "--check", "--leaderboard", str(board)])
    checks.clear()
    assert show() == first
    page.build(board)
    page.check(board)
    audit.check_board(board)
    verb.main(["build", "--leaderboard", str(board)])
    assert checks == []
    new = put(board, made_result("dc", accuracy=0.7, seed=3))
    assert "dc" in show()
    page.build(board)
    assert set(checks) == {new.name, new.with_suffix(".png").name}, "of a board that grew only what is new"
    page.check(board)


@pytest.mark.parametrize("flags", [["csv"], ["json"], ["latex"], ["latex", "--layout", "wide"]], ids=" ".join)
def test_an_export_is_the_same_again_and_follows_the_board(
    flags: list[str], board: Path, checks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def export(*more: str) -> str:
        verb.main(["export", "--format", *flags, "--leaderboard", str(board), *more])
        return capsys.readouterr().out

    first = export()
    checks.clear()
    assert export() == first
    assert checks == []
    assert "of 1 table" in export("--out", str(board.parent / "out"))
    assert (board.parent / "out").read_text() == first
    put(board, made_result("dc", accuracy=0.7, seed=3))
    assert export() != first


def test_a_changed_file_of_the_same_size_and_time_is_seen(board: Path, show: Callable[[], str]) -> None:
    first = show()
    page.build(board)
    path = next(board.rglob("mtt/*.json"))
    edit(path, "A. Author", "B. Author")
    for look in (show, lambda: page.build(board), lambda: page.check(board), lambda: audit.check_board(board)):
        with pytest.raises(UserError, match=f"{path.name}: id .* is not the hash of the content"):
            look()
    edit(path, "B. Author", "A. Author")
    assert show() == first
    page.check(board)


def test_a_damaged_removed_or_exchanged_file_is_seen(board: Path, show: Callable[[], str]) -> None:
    first = show()
    audit.check_board(board)
    path = next(board.rglob("dm/*.json"))
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    with pytest.raises(UserError, match=path.name):
        show()
    with pytest.raises(UserError, match=path.name):
        audit.check_board(board)
    other = next(path for path in board.rglob("mtt/*.json") if ".verified" not in path.name)
    times = path.stat()
    path.unlink()
    path.hardlink_to(other)  # a content that passed, in a place that is not its own
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match="this result belongs at"):
        show()
    path.unlink()
    assert "dm" not in show()
    path.write_bytes(data)
    assert show() == first
    verified = next(board.rglob("*.verified.json"))
    verified.unlink()
    assert "identical" in first
    assert "identical" not in show()


def test_a_damaged_picture_is_seen(board: Path) -> None:
    page.build(board)
    audit.check_board(board)
    path = next(board.rglob("dm/*.png"))
    data = bytearray(path.read_bytes())
    before = path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for look in (page.build, page.check, audit.check_board):
        with pytest.raises(UserError, match=path.name):
            look(board)


def test_a_page_that_was_changed_is_seen(board: Path) -> None:
    """Kept hashes stand for what a build gives, never for what lies there."""
    page.build(board)
    row = next((board / "rows").iterdir())
    for path in (board / "index.html", row):
        text = path.read_text()
        edit(path, text[-9:], "tampered\n")
        with pytest.raises(UserError, match=f"{path.name} differs"):
            page.check(board)
        page.build(board)
        assert path.read_text() == text
        path.unlink()
        with pytest.raises(UserError, match=f"{path.name} is missing"):
            page.check(board)
        page.build(board)
    (board / "rows" / f"{'0' * 16}.js").write_text("")
    with pytest.raises(UserError, match="is of no row"):
        page.check(board)
    page.build(board)
    page.check(board)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x" * 32),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("{}"),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_cache_is_as_none(
    how: str, board: Path, cache: Path, show: Callable[[], str], checks: list[str]
) -> None:
    first = show()
    page.build(board)
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert {path.name.split("-")[0] for path in files} == {"results.marks", "previews.marks", "show", "pages"}
    for path in files:
        DAMAGE[how](path)
    checks.clear()
    assert show() == first
    page.check(board)
    assert len(set(checks)) == 3 + 3, "all results and pictures again"


def test_a_cache_of_other_code_is_as_none(
    board: Path, show: Callable[[], str], checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = show()
    checks.clear()
    monkeypatch.setattr(kept, "code", lambda: b"another version")
    assert show() == first
    assert len(checks) == 3
    checks.clear()
    assert show() == first
    assert checks == []


def test_the_code_is_told_by_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept.code()
    kept.code.cache_clear()
    assert kept.code() == before
    monkeypatch.setattr(kept, "LIBRARIES", (*kept.LIBRARIES, "pytest"))
    kept.code.cache_clear()
    assert kept.code() != before
    kept.code.cache_clear()


@pytest.mark.parametrize("where", ["off", "a file", "below a file"])
def test_without_a_place_nothing_is_kept_and_nothing_said(
    where: str, tmp_path: Path, board: Path, show: Callable[[], str], checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    monkeypatch.setenv(kept.VARIABLE, {"off": "", "a file": str(file), "below a file": str(file / "x")}[where])
    first = show()
    checks.clear()
    assert show() == first
    assert len(checks) == 3
    page.build(board)
    page.check(board)
    assert file.read_text() == "mine"


def test_it_lies_in_the_users_cache_and_not_in_the_board(
    board: Path, tmp_path: Path, show: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path for path in board.rglob("*") if path.is_file()}
    monkeypatch.delenv(kept.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    show()
    assert {path.suffix for path in (tmp_path / "xdg" / "ddbench" / "boards").glob("*/*")} == {".marks", ".text"}
    assert {path for path in board.rglob("*") if path.is_file()} == before


def test_it_is_bounded(board: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_PRODUCTS", 5)
    monkeypatch.setattr(kept, "MAX_BOARDS", 3)
    store = Kept(board)
    for number in range(9):
        store.keep("show", digest(str(number)), "x" * 100)
    assert len(list(cache.rglob("*.text"))) == 5
    assert store.product("show", digest("8")) == "x" * 100
    monkeypatch.setattr(kept, "MAX_BYTES", 250)
    store.keep("show", digest("9"), "x" * 60)
    assert sum(path.stat().st_size for path in cache.rglob("*.text")) <= 250
    store.keep("show", digest("10"), "x" * 200)
    assert store.product("show", digest("10")) is None, "too large for its share"
    for number in range(6):
        Kept(board / str(number)).keep("show", digest(""), "x")
    assert len(list(cache.iterdir())) == 3
    marks = store.marks("results")
    for number in range(10):
        marks.add(digest(str(number)))
    monkeypatch.setattr(kept, "MAX_BYTES", 9 * kept.DIGEST)
    marks.keep()
    assert not store.marks("results").known


def test_marks_of_what_is_gone_go(board: Path) -> None:
    store = Kept(board)
    marks = store.marks("results")
    for number in range(10):
        marks.add(digest(str(number)))
    marks.keep()
    for count in (6, 2):
        marks = store.marks("results")
        assert all(digest(str(number)) in marks for number in range(count))
        marks.keep()
    assert len(store.marks("results").known) == 2


def test_a_board_with_a_link_is_looked_at_anew(board: Path, show: Callable[[], str]) -> None:
    show()
    audit.check_board(board)
    path = next(board.rglob("dm/*.png"))
    target = board.parent / "elsewhere.png"
    path.rename(target)
    path.symlink_to(target)
    assert board_digest(board / "results") is None
    with pytest.raises(UserError, match="a link"):
        audit.check_board(board)


def test_several_processes_at_once(board: Path, cache: Path) -> None:
    """All begin with an empty cache and print the same; what they leave is whole."""
    environment = {**os.environ, "PYTHONPATH": str(Path(ddbench.__file__).parents[1])}
    command = [sys.executable, "-m", "ddbench", "leaderboard", "show", "--leaderboard", str(board)]
    crew = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=PATIENCE)[0] for process in crew}
    assert [process.returncode for process in crew] == [0, 0]
    assert len(said) == 1
    assert {path.name.split("-")[0] for path in cache.rglob("*.*")} == {"results.marks", "show"}
    assert not list(cache.rglob("*.tmp"))


def test_a_file_that_is_larger_than_any_is_not_read(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Kept(board)
    store.keep("show", b"key", "text")
    assert store.product("show", b"key") == "text"
    monkeypatch.setattr(kept, "MAX_BYTES", len("text") - 1)
    assert store.product("show", b"key") is None
