"""What the demo says at its start, and how jobs that run at once tell their progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddbench.leaderboard import demonstration
from ddbench.leaderboard.demonstration import announcement, demonstrate, tasks_of
from ddbench.runtime.progress import Console


def test_the_demo_says_where_its_nine_jobs_write(tmp_path: Path):
    tasks = tasks_of(tmp_path / "demo", quiet=False)
    lines = list(announcement(tasks, workers=2))
    assert len(tasks) == 9
    for number, task in enumerate(tasks, 1):
        assert f"  {task.run}: job {number} of 9, distilled, then scored" in lines
    assert lines[0].startswith(f"everything goes to {tmp_path / 'demo'};")
    assert any("leaderboard" in line for line in lines)
    assert lines[-1].startswith("2 workers;")


def test_each_job_tells_its_own_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first, *_ = tasks_of(tmp_path, quiet=False)
    with first.console.bar("MTT", 3) as bar:
        bar.advance(units=3)
    assert capsys.readouterr().err == "digits-ipc10-mtt-s0: MTT: 3/3 in 0 s\n"
    quiet, *_ = tasks_of(tmp_path, quiet=True)
    with quiet.console.bar("MTT", 3) as bar:
        bar.advance(units=3)
    assert capsys.readouterr().err == ""


def test_a_named_console_draws_no_bar(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert Console().terminal
    assert not Console(name="one").terminal


def test_the_page_that_it_names_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A build gives the files of the rows behind the two pages."""
    made = ("LEADERBOARD.md", "index.html", "rows/0123456789abcdef.js")
    monkeypatch.setattr("ddbench.leaderboard.pages.page.build", lambda board: [board / name for name in made])
    for name in ("make_result", "plan_submission", "write_plan"):
        monkeypatch.setattr(f"ddbench.leaderboard.submit.{name}", lambda *_: None)
    for name in ("_experts", "_stage"):
        monkeypatch.setattr(demonstration, name, lambda *_: None)
    monkeypatch.setattr(demonstration, "_compared", lambda tasks: [])
    found = demonstrate(tmp_path / "demo", 1, Console(quiet=True))
    assert found.page == tmp_path / "demo" / "leaderboard" / "index.html"
