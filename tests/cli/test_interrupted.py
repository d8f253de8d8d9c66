"""Ctrl-C and SIGTERM: what is done is kept, what is told is true, and the same command ends in the same bytes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import EAGER, PATIENCE, TINY, Outcome, contents

from ddbench.methods.dm import DM
from ddbench.runtime import interruption
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
