"""Ctrl-C and SIGTERM: what is done is kept, what is told is true, and the same command ends in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import EAGER, PATIENCE, TINY, Outcome, contents, no_children_left

from ddbench.methods.dm import DM
from ddbench.runtime import interruption
from ddbench.runtime.jobs import run_jobs
from ddbench.runtime.progress import Console
from ddbench.teachers import train

pytestmark = pytest.mark.usefixtures("ctrl_c")

Command = Callable[..., Outcome]
SIGNALS = pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")], ids=["ctrl-c", "sigterm"]
)


def distill(out: Path) -> list[object]:
    return [
        *("distill", "--method", "dm", "--dataset", "digits", "--ipc", 1, "--student", TINY, "--recipe", "none"),
        *("--iterations", 6, "--out", out, "--quiet", *EAGER),
    ]


def teacher(root: Path) -> list[object]:
    return ["teacher", "--dataset", "digits", "--student", TINY, "--epochs", 4, "--teachers", root, "--quiet", *EAGER]


def in_step(monkeypatch: pytest.MonkeyPatch, where: object, name: str, call: int, act: Callable[[], None]) -> None:
    """Let something happen at the beginning of a call of a function; once."""
    function, calls = getattr(where, name), []

    def step(*args: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            act()
        return function(*args, **named)

    monkeypatch.setattr(where, name, step)


@SIGNALS
def test_a_run_is_kept(ddb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, word: str):
    assert ddb(*distill(tmp_path / "whole")).code == 0
    handlers = [signal.getsignal(one) for one in interruption.SIGNALS]
    in_step(monkeypatch, DM, "step", 3, lambda: signal.raise_signal(number))
    stopped = ddb(*distill(tmp_path / "run"))
    assert stopped.code == 128 + number
    assert stopped.err == f"ddbench: {word}; the same command goes on after iteration 3 of 6\n"
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert [signal.getsignal(one) for one in interruption.SIGNALS] == handlers
    again = ddb(*[word for word in distill(tmp_path / "run") if word != "--quiet"])
    assert again.code == 0, again.err
    assert "going on at iteration 3 of 6" in again.err
    assert contents(tmp_path / "run", "cost.json") == contents(tmp_path / "whole", "cost.json")


def test_in_the_last_step(ddb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert ddb(*distill(tmp_path / "whole")).code == 0
    in_step(monkeypatch, DM, "step", 6, lambda: signal.raise_signal(signal.SIGINT))
    assert ddb(*distill(tmp_path / "run")).err.endswith("goes on after iteration 6 of 6\n")
    assert ddb(*distill(tmp_path / "run")).code == 0
    assert contents(tmp_path / "run", "cost.json") == contents(tmp_path / "whole", "cost.json")


def twice() -> None:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def and_does_not_end() -> None:
    signal.raise_signal(signal.SIGINT)
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        pass


@pytest.mark.parametrize("act", [twice, and_does_not_end])
def test_a_step_that_is_given_up(ddb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable):
    """A second signal, or the end of the time, ends a step in its midst: it is told that it is lost."""
    if act is and_does_not_end:
        monkeypatch.setattr(interruption, "GRACE", 0.0)
    in_step(monkeypatch, DM, "step", 2, act)
    stopped = ddb(*distill(tmp_path / "run"))
    assert (stopped.code, stopped.err) == (130, f"ddbench: interrupted; {interruption.KEPT}\n")
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert ddb(*distill(tmp_path / "run")).code == 0


@SIGNALS
def test_a_teacher_is_kept(ddb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, word: str):
    assert ddb(*teacher(tmp_path / "whole")).code == 0
    in_step(monkeypatch, train._Progress, "hold", 2, lambda: signal.raise_signal(number))
    stopped = ddb(*teacher(tmp_path / "killed"))
    assert stopped.err == f"ddbench: {word}; the same command goes on after epoch 2 of 4\n"
    assert ddb(*teacher(tmp_path / "killed")).code == 0
    assert contents(tmp_path / "killed", "cost.json") == contents(tmp_path / "whole", "cost.json")


def test_a_signal_after_the_last_step_is_not_lost():
    """Nothing more is kept then: the end of the loop is where it is raised, and what was kept is told."""
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with interruption.interruptible(Console(quiet=True), "step", 4, 0) as asked:
            asked.kept(4)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert interruption.what_is_kept(caught.value) == "the same command goes on after step 4 of 4"
    assert signal.getsignal(signal.SIGINT) is before


def stopped(target: str, folder: Path, jobs: list[tuple[str, int]], numbers: list[int]) -> KeyboardInterrupt:
    """How two workers end when these signals come to the process that has them, both being at work."""

    def stop() -> None:
        limit = time.monotonic() + PATIENCE
        while not all((folder / str(value)).exists() for _, value in jobs[:2]) and time.monotonic() < limit:
            time.sleep(0.01)
        for number in numbers:
            signal.pthread_kill(main, number)
            time.sleep(0.1)  # two of a kind that come at once are one

    main, stopper = threading.get_ident(), threading.Thread(target=stop)
    stopper.start()
    with no_children_left(), pytest.raises(KeyboardInterrupt) as caught:
        list(run_jobs(target, folder, jobs, workers=2, patient=Console(quiet=True)))
    stopper.join()
    return caught.value


def test_workers_keep_the_step_at_work(light_workers: str, tmp_path: Path):
    """The job that waits is not begun; what each worker kept is told, and the handlers are given back."""
    before = signal.getsignal(signal.SIGINT)
    stop = stopped(light_workers, tmp_path, [("steps", 3), ("steps", 4), ("steps", 5)], [signal.SIGINT])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"3": "kept", "4": "kept"}
    both = ("step 3 of 9 and step 4 of 9", "step 4 of 9 and step 3 of 9")
    assert interruption.what_is_kept(stop) in [f"the same command goes on after {words}" for words in both]
    assert signal.getsignal(signal.SIGINT) is before


def test_workers_end_at_once_at_the_second_signal(light_workers: str, tmp_path: Path):
    stop = stopped(light_workers, tmp_path, [("endless-step", 3), ("endless-step", 4)], [signal.SIGINT] * 2)
    assert interruption.what_is_kept(stop) == interruption.KEPT
    assert {path.read_text() for path in tmp_path.iterdir()} == {""}


def test_workers_that_have_no_steps_end_at_once(light_workers: str, tmp_path: Path):
    stop = stopped(light_workers, tmp_path, [("wait", 3), ("wait", 4)], [signal.SIGINT])
    assert interruption.what_is_kept(stop) == interruption.KEPT


def test_ctrl_c_of_a_terminal_does_not_reach_the_workers(tmp_path: Path):
    """It goes to all processes of a terminal: neither who starts the workers nor they have a word to say of it."""
    root = Path(interruption.__file__).parents[2]
    (tmp_path / "hit.py").write_text(
        "import os, signal\n\n\n"
        "def job(shared, payload):\n    os.kill(os.getpid(), signal.SIGINT)\n    return payload\n\n\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    program = "from ddbench.runtime.jobs import run_jobs; print(sorted(run_jobs('hit:job', None, [5, 6], 2)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(tmp_path)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[(0, 5), (1, 6)]\n", "")
