"""Turns of teachers, diffusion models and stored labels: what waiting costs, and what a killed process leaves."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import EAGER, TINY, TINY_DIFFUSION, few_plain_samples, random_tiny

from ddbench.runtime import signs
from ddbench.runtime.errors import UserError
from ddbench.runtime.signs import TURN, turn

LONG = 1000.0
"""Seconds that are waited."""
VERBS = pytest.mark.parametrize("verb", ["teacher", "diffusion train", "relabel"])


def teacher(root: Path) -> list[object]:
    return ["teacher", "--student", TINY, "--epochs", 1, "--batch", 512, "--teachers", root, "--quiet", *EAGER]


@pytest.fixture
def command(
    verb: str, ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[object], Path, Callable[[], Path]]:
    """A command, the folder that it writes in, and where that then says what it cost."""
    place = tmp_path / "place"
    if verb == "teacher":
        return teacher(place), place, lambda: next(place.glob("digits/*/*.cost.json"))
    if verb == "relabel":
        for before in (teacher(tmp_path), random_tiny(place)):
            assert ddb(*before).code == 0
        flags = ["--teachers", tmp_path, "--epochs", 2, "--quiet", "--threads", 1]
        return ["relabel", place, *flags], place, lambda: place / "labels.cost.json"
    pytest.importorskip("diffusers")
    few_plain_samples(monkeypatch)
    words = {name: " ".join(map(str, value)) if name == "widths" else value for name, value in TINY_DIFFUSION.items()}
    flags = [part for name, value in words.items() for part in (f"--{name}", *str(value).split())]
    argv = ["diffusion", "train", *flags, "--diffusions", place, "--quiet", "--threads", 1]
    return argv, place, lambda: next(place.glob("digits/*/cost.json"))


@VERBS
def test_waiting_costs_nothing(
    ddb: Callable, command: tuple[list[object], Path, Callable[[], Path]], monkeypatch: pytest.MonkeyPatch
):
    """Who waited may go on where another one was killed: that one's seconds are in the checkpoint already."""
    argv, folder, cost = command
    real, clock, waited = signs.Sign.take, signs.time.perf_counter, []

    def take(sign: signs.Sign, path: Path) -> bool:
        if not waited:
            path.write_text(f"elsewhere.7.00000000{TURN}\n{{}}")
        return real(sign, path)

    def sleep(seconds: float) -> None:
        (there,) = folder.rglob(f"*{TURN}")
        there.unlink()
        waited.append(LONG)

    monkeypatch.setattr(signs.Sign, "take", take)
    monkeypatch.setattr(signs.time, "sleep", sleep)
    monkeypatch.setattr(signs.time, "perf_counter", lambda: clock() + sum(waited))
    result = ddb(*argv)
    assert result.code == 0, result.err
    assert len(waited) == 1
    assert 0 < json.loads(cost().read_text())["wall_seconds"] < LONG


@VERBS
def test_a_sign_of_who_was_killed_at_the_end(
    ddb: Callable, command: tuple[list[object], Path, Callable[[], Path]], monkeypatch: pytest.MonkeyPatch
):
    """Nothing is left to be done then: the same command takes it away; that of a living process stays."""
    argv, folder, _ = command
    with monkeypatch.context() as patch:
        patch.setattr(signs.Sign, "leave", lambda sign: None)
        assert ddb(*argv).code == 0
    (left,) = folder.rglob(f"*{TURN}")
    own = signs.Sign(left.parent, TURN)
    ended = subprocess.Popen(["true"])
    ended.wait()
    for pid, stays in ((os.getppid(), True), (ended.pid, False)):
        left.write_text(f"{own.path.name.replace(f'.{os.getpid()}.', f'.{pid}.')}\n{{}}")
        assert ddb(*argv).code == 0
        assert left.exists() == stays


def test_folders_go_where_no_turn_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(sign: signs.Sign, path: Path) -> bool:
        raise UserError("the disk is full")

    monkeypatch.setattr(signs.Sign, "take", refused)
    with pytest.raises(UserError, match="the disk is full"), turn(tmp_path / "a" / "b" / "run", "run"):
        pass
    assert not (tmp_path / "a").exists()
