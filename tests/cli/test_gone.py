"""A folder that is taken away, or replaced, while a command works in it: one line, and nothing that looks whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import EAGER, TINY, contents, distill_tiny, random_tiny

from ddbench.distillation import runner
from ddbench.experts import record

WORDS = "is gone: its folder was removed or replaced during work"


def before(patch: pytest.MonkeyPatch, holder: Any, name: str, count: int, act: Callable[[], object]) -> None:
    """Do something before the ``count``-th call of a function."""
    function, calls = getattr(holder, name), []

    def wrapped(*args: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == count:
            act()
        return function(*args, **options)

    patch.setattr(holder, name, wrapped)


@pytest.mark.parametrize(("name", "count"), [("finish", 1), ("metrics_of", 2)])
def test_a_run(name: str, count: int, ddb: Callable, buffers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """At its end, and between two checkpoints."""
    out = tmp_path / "run"
    argv = distill_tiny(buffers, out, "--checkpoint-every", 1)
    with monkeypatch.context() as patch:
        before(patch, runner, name, count, lambda: shutil.rmtree(out))
        result = ddb(*argv)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert f"ddbench: error: {out / 'config.json'} {WORDS}" in result.err
    assert not out.exists()
    assert ddb(*argv).code == 0


def test_a_run_in_whose_place_another_one_comes(
    ddb: Callable, random_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, held = tmp_path / "run", contents(random_run)

    def replace() -> None:
        shutil.rmtree(out)
        random_run.rename(out)

    before(monkeypatch, runner, "finish", 1, replace)
    result = ddb(*random_tiny(out, "--seed", 1))
    assert result.code == 2
    assert f"{out} holds another run: seed differ(s)" in result.err
    assert contents(out) == held


def test_a_store(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "buffers"
    argv = ["buffer", "--dataset", "digits", "--student", TINY, "--experts", 2, "--epochs", 1, "--workers", 1]
    argv += ["--buffers", root, *EAGER, "--quiet"]
    with monkeypatch.context() as patch:
        before(patch, record, "_take_in", 1, lambda: shutil.rmtree(root))
        result = ddb(*argv)
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert f"expert_00000.safetensors {WORDS}" in result.err
    assert not root.exists()
    assert ddb(*argv).code == 0


def test_a_store_while_an_expert_is_trained(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "buffers"
    argv = ["buffer", "--dataset", "digits", "--student", TINY, "--experts", 1, "--epochs", 1, "--workers", 1]
    before(monkeypatch, record, "read_store", 1, lambda: shutil.rmtree(root))
    result = ddb(*argv, "--buffers", root, *EAGER, "--quiet")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert "no such trajectory manifest" in result.err
    assert not root.exists()
