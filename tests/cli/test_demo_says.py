"""What the demo says at its start, and how jobs that run at once tell their progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddbench.leaderboard.demonstration import announcement, tasks_of
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
