"""``ddbench reproduce``: fills a plan, stops in time, goes on, and ends in the same board."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import halting
import pytest
from conftest import PATIENCE

import ddbench
from ddbench.cli import reproduce
from ddbench.cli.main import run
from ddbench.cli.reproduce import arguments, workshop_of
from ddbench.leaderboard import reproduction
from ddbench.leaderboard.plans import find_plan
from ddbench.leaderboard.reproduction import Workshop, at_work, board_teachers
from ddbench.leaderboard.schema import load_results
from ddbench.runtime import interruption, progress
from ddbench.runtime.interruption import interruptible, what_is_kept
from ddbench.runtime.progress import Console

PLAN = """
title = "small"
[submission]
author = "A. Author"
licence = "MIT"
[defaults]
dataset = "digits"
seeds = 2
protocols = ["brief.toml"]
students = ["mlp-d1-w8"]
[[cells]]
method = "random"
ipc = 1
run_seeds = [0, 1]
minutes = 2
[[cells]]
method = "kmeans"
ipc = 1
minutes = 1
"""


def plan_in(folder: Path, text: str = PLAN) -> Path:
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    (folder / "brief.toml").write_text('name = "brief-v1"\nbase = "hard-v1"\nepochs = 3\n', encoding="utf-8")
    return path


def rows(board: Path) -> list[tuple[str, str]]:
    return sorted((result.synset.method, result.id) for result in load_results(board))


def test_fills_what_is_open_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan_in(tmp_path)
    run(["reproduce", "small.toml", "--dry-run"])
    assert "0 of 3 cells" in capsys.readouterr().out
    assert not (tmp_path / "reproduce").exists()
    assert not (tmp_path / "leaderboard").exists()
    run(["reproduce", "small.toml", "--only", "*kmeans*", "--quiet"])
    assert [method for method, _ in rows(tmp_path / "leaderboard")] == ["kmeans"]
    run(["reproduce", "small.toml", "--quiet"])
    out = capsys.readouterr().out
    assert "3 of 3 cells" in out
    found = rows(tmp_path / "leaderboard")
    assert [method for method, _ in found] == ["kmeans", "random", "random"]
    assert (tmp_path / "leaderboard" / "index.html").is_file()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "leaderboard" / "results").rglob("*")}
    run(["reproduce", "small.toml", "--quiet"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "leaderboard" / "results").rglob("*")} == before


def test_a_shard_without_cells_waits_for_no_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An array of more tasks than runs: the last ones may come first, and are done."""
    monkeypatch.chdir(tmp_path)
    plan_in(tmp_path)
    run(["reproduce", "small.toml", "--quiet", "--shard", "8/9"])
    assert "0 of 3 cells" in capsys.readouterr().out
    assert not (tmp_path / "leaderboard").exists()


def test_the_teacher_of_the_boards_rows_labels_further_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On another machine the same flags train another network; the images alone are to differ."""
    monkeypatch.chdir(tmp_path)
    teacher = 'teacher = ["--student", "convnet-d1-w4-bn", "--epochs", "1"]\n'
    plan_in(tmp_path, PLAN[: PLAN.rindex("[[cells]]")] + teacher)
    (tmp_path / "brief.toml").write_text('name = "brief-kd"\nbase = "kd-v1"\nepochs = 3\n', encoding="utf-8")
    run(["reproduce", "small.toml", "--only", "*-s0/*", "--quiet"])
    shutil.rmtree(tmp_path / "reproduce")
    monkeypatch.setattr("ddbench.teachers.train.train_teacher", lambda **_: pytest.fail("another one is trained"))
    run(["reproduce", "small.toml", "--quiet"])
    assert "2 of 2 cells" in capsys.readouterr().out
    first, second = (result.teacher for result in load_results(tmp_path / "leaderboard"))
    assert first is not None
    assert first == second
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    more = PLAN[: PLAN.rindex("[[cells]]")].replace("[0, 1]", "[2]") + teacher.replace('"1"', '"2"')
    plan_in(tmp_path, more)
    (tmp_path / "brief.toml").write_text('name = "brief-kd"\nbase = "kd-v1"\nepochs = 3\n', encoding="utf-8")
    run(["reproduce", "small.toml", "--quiet"])
    board, (cell,) = tmp_path / "leaderboard", find_plan("small.toml").cells
    by_seed = {result.synset.seed: result for result in load_results(board)}
    assert by_seed[2].labeller != first["sha256"]
    assert [one.sha256 for one in board_teachers(cell, board)] == [first["sha256"], by_seed[2].labeller]
    left = [by_seed[0], replace(by_seed[2], supersedes=by_seed[0].id)]
    monkeypatch.setattr(reproduction, "load_results", lambda _: left)
    assert [one.sha256 for one in board_teachers(cell, board)] == [by_seed[2].labeller]
    (log,) = (tmp_path / "reproduce" / "small" / "logs").glob("*-s2-*.log")
    (note,) = [line for line in log.read_text().splitlines() if line.startswith("note: another teacher labelled")]
    assert re.search(r"; evaluate with --teacher leaderboard/results/\S+\.teacher\.safetensors to compare", note)


def test_a_failing_cell_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan_in(tmp_path, PLAN + '[[cells]]\nmethod = "herding"\nipc = 100000\nminutes = 0.1\n')
    with pytest.raises(SystemExit) as stop:
        run(["reproduce", "small.toml", "--quiet"])
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert "herding" in shown.err
    assert shown.err.strip().count("\n") == 0
    assert len(rows(tmp_path / "leaderboard")) == 3
    assert "herding-s0/brief-v1" in shown.out
    assert "failed" in shown.out


def test_a_cell_that_ends_in_an_error_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a method of one's own, or the machine, fails in a way that nobody foresaw."""
    monkeypatch.chdir(tmp_path)
    plan_in(tmp_path)

    def broken(*given: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr("ddbench.methods.kmeans.KMeans.setup", broken)
    with pytest.raises(SystemExit) as stop:
        run(["reproduce", "small.toml", "--quiet"])
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert "MemoryError: no more; see " in shown.err
    assert shown.err.strip().count("\n") == 0
    assert [method for method, _ in rows(tmp_path / "leaderboard")] == ["random", "random"]
    (log,) = (tmp_path / "reproduce" / "small" / "logs").glob("*kmeans*")
    assert "Traceback" in log.read_text()


def test_settings_of_the_machine_in_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Students trained together: the row is found under its protocol."""
    monkeypatch.chdir(tmp_path)
    plan_in(tmp_path, PLAN.replace("minutes = 1\n", 'minutes = 1\nevaluate = ["--at-once", "2"]\n'))
    run(["reproduce", "small.toml", "--only", "*kmeans*", "--quiet"])
    (row,) = load_results(tmp_path / "leaderboard")
    assert (row.at_once, row.protocol.name) == (2, "brief-v1")


GRAPHS = """
[[cells]]
method = "random"
dataset = "mutag"
max_bytes = 2000
protocols = ["graph-v1"]
students = ["gin-d1-w4-mean"]
seeds = 1
minutes = 1
"""


def test_graph_cells_of_a_mixed_plan_run_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan_in(tmp_path, PLAN + GRAPHS)
    args = arguments(["small.toml", "--device", "cuda", "--compile", "on", "--dry-run"])
    plan = find_plan(args.plan)
    workshop = workshop_of(args, plan, 1)
    told = {cell.dataset: " ".join(workshop.flags(cell)) for cell in plan.cells}
    assert "--device cuda --threads 0 --compile on" in told["digits"]
    assert "--device auto --threads 0 --compile auto" in told["mutag"]
    run(["reproduce", "small.toml", "--device", "cuda", "--dry-run"])
    assert "--device cuda: 10 of 13 cells are of graphs, which run on the CPU" in capsys.readouterr().out
    run(["reproduce", "small.toml", "--dry-run"])
    assert "run on the CPU" not in capsys.readouterr().out


def test_killed_and_stopped_it_goes_on_to_the_same_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
        plan_in(folder)
    monkeypatch.chdir(folders[0])
    run(["reproduce", "small.toml", "--quiet", "--workers", "2", "--threads", "1"])
    command = [
        sys.executable,
        "-m",
        "ddbench",
        "reproduce",
        "small.toml",
        "--quiet",
        "--threads",
        "1",
        "--budget",
        "20m",
    ]
    process = subprocess.Popen(command, cwd=folders[1], start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while not halting.seen(folders[1], "reproduce/small/runs/*/synset.safetensors"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    monkeypatch.chdir(folders[1])
    run(["reproduce", "small.toml", "--quiet", "--threads", "1", "--budget", "1s"])  # spent before the worker has torch
    run(["reproduce", "small.toml", "--quiet", "--threads", "1"])
    boards = [folder / "leaderboard" for folder in folders]
    assert rows(boards[0]) == rows(boards[1])
    assert len(rows(boards[0])) == 3


def test_two_processes_at_once_leave_the_pages_of_a_fresh_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan_in(tmp_path)
    command = [sys.executable, "-m", "ddbench", "reproduce", "small.toml", "--quiet", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(ddbench.__file__).parents[1])}
    both = [subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(rows(tmp_path / "leaderboard")) == 3
    run(["leaderboard", "build", "--check"])
    # nor does a kill between the last row and the pages matter
    page = tmp_path / "leaderboard" / "index.html"
    page.unlink()
    run(["reproduce", "small.toml", "--quiet"])
    assert page.is_file()
    run(["leaderboard", "build", "--check"])


@pytest.mark.parametrize("flags", [["--budget", "soon"], ["--only", "*cifar*"], ["--wrokers", "2"]])
def test_bad_flags_get_one_line_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = plan_in(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run(["reproduce", "small.toml", *flags])
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert set(tmp_path.iterdir()) == {path, path.with_name("brief.toml")}


def test_an_unknown_method_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan_in(tmp_path, PLAN + '[[cells]]\nmethod = "herdin"\nipc = 1\n')
    with pytest.raises(SystemExit):
        run(["reproduce", "small.toml"])
    told = capsys.readouterr().err
    assert "herding" in told
    assert "of a --method-file is known here once a package of yours" in told
    assert not (tmp_path / "reproduce").exists()


@pytest.mark.parametrize("shown", [True, False])
def test_what_a_running_cell_is_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: bool) -> None:
    """Verb and progress of quiet verbs, in a line for who looks at a terminal; nothing is left of it."""
    monkeypatch.setattr(progress, "HEARD_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    plan = find_plan(str(plan_in(tmp_path)))
    workshop = Workshop(
        out=tmp_path / "out", leaderboard=tmp_path / "board", submission={}, common=(), cores=1, shown=shown
    )
    cell = plan.cells[0]
    seen = []

    def distill(argv: list[str]) -> None:
        seen.append(at_work(workshop, plan.cells))
        with Console(quiet=True).bar("random (digits)", 3) as bar:
            bar.advance()
            seen.append(at_work(workshop, plan.cells))

    monkeypatch.setattr(reproduce, "_do", lambda *_: reproduce._say_and(["distill", "--quiet"], distill))
    assert reproduce.do_cell(workshop, cell) == ""
    assert seen == ([f"{cell.name} distill", f"{cell.name} distill: 1/3 random (digits)"] if shown else ["", ""])
    assert workshop.log(cell).read_text() == "$ ddbench distill --quiet\n"
    assert at_work(workshop, plan.cells) == ""
    assert [path.name for path in workshop.log(cell).parent.iterdir()] == [workshop.log(cell).name]


def test_the_line_is_shown_beside_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "WATCH_SECONDS", 0.001)
    monkeypatch.chdir(tmp_path)
    plan = find_plan(str(plan_in(tmp_path)))
    workshop = Workshop(out=tmp_path, leaderboard=tmp_path, submission={}, common=(), cores=1, shown=True)
    told, noted = [], threading.Event()

    class Noting(progress.Bar):
        def note(self, text: str) -> None:
            if text:
                told.append(text)
                noted.set()

    bar = Noting(Console(quiet=True), "plan", 2, 0)
    now = workshop.now(plan.cells[0])
    now.parent.mkdir()
    now.write_text("left by a killed one")
    with reproduction._watched(bar, workshop, plan.cells):
        assert not now.exists()
        now.write_text("cell distill: 1/3 dm")
        assert noted.wait(PATIENCE)
    assert told[0] == "cell distill: 1/3 dm"


@pytest.mark.parametrize("shown", [True, False])
def test_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shown: bool
) -> None:
    """That the step is waited for is told at once, above the bar, and of a cell it is named which one goes on."""
    monkeypatch.chdir(tmp_path)
    (cell,) = find_plan(str(plan_in(tmp_path, PLAN.replace("run_seeds = [0, 1]", "run_seeds = [0]")))).cells[:1]
    workshop = Workshop(out=tmp_path, leaderboard=tmp_path, submission={}, common=(), cores=1, shown=shown)

    def stopped(*given: object) -> None:
        with interruptible(Console(quiet=True), "iteration", 9, 0) as asked:
            asked._watch(signal.SIGINT)
            asked._kept = 6
            raise KeyboardInterrupt

    monkeypatch.setattr(interruption, "GRACE", 0.0)
    monkeypatch.setattr("_thread.interrupt_main", lambda number: None)
    monkeypatch.setattr(reproduce, "_do", stopped)
    with pytest.raises(KeyboardInterrupt) as stop:
        reproduce.do_cell(workshop, cell)
    assert what_is_kept(stop.value) == f"the same command goes on after iteration 6 of 9 of {cell.name}"
    told = "ends after this iteration, at the latest in 0 s; Ctrl-C again: at once\n"
    assert capsys.readouterr().err == (told if shown else "")
