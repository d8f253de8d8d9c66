"""A folder that is taken away, or replaced, while a command works in it: one line, and nothing that looks whole."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import EAGER, TINY, contents, distill_tiny, evaluate_tiny, random_tiny

from ddbench.distillation import runner
from ddbench.evaluation import evaluator
from ddbench.evaluation.work import Work
from ddbench.experts import record
from ddbench.leaderboard import references
from ddbench.tasks import runner as tasks

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


@pytest.fixture
def unscored(random_run: Path) -> Path:
    """A finished run without an evaluation."""
    shutil.rmtree(random_run / "evaluations")
    return random_run


@pytest.mark.parametrize(("holder", "name", "count"), [(Work, "keep", 1), (Work, "keep", 2), (evaluator, "_finish", 1)])
def test_a_run_that_is_evaluated(
    holder: Any, name: str, count: int, ddb: Callable, unscored: Path, monkeypatch: pytest.MonkeyPatch
):
    """Before its first and second student is kept, and before they are put together."""
    before(monkeypatch, holder, name, count, lambda: shutil.rmtree(unscored))
    result = ddb(*evaluate_tiny(unscored))
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert WORDS in result.err
    assert not unscored.exists()


def test_a_run_that_is_evaluated_in_whose_place_another_one_comes(
    ddb: Callable, unscored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = tmp_path / "other"
    assert ddb(*random_tiny(other, "--seed", 1)).code == 0
    held = contents(other)

    def replace() -> None:
        shutil.rmtree(unscored)
        other.rename(unscored)

    before(monkeypatch, Work, "keep", 2, replace)
    assert WORDS in ddb(*evaluate_tiny(unscored)).err
    assert contents(unscored) == held


def test_records_of_nobody_knows_what(ddb: Callable, unscored: Path, monkeypatch: pytest.MonkeyPatch):
    """What a killed evaluation left is not gone on with where it does not say of which synset it is."""
    with monkeypatch.context() as patch:
        before(patch, Work, "keep", 2, lambda: signal.raise_signal(signal.SIGTERM))
        assert ddb(*evaluate_tiny(unscored)).code == 128 + signal.SIGTERM
    (parts,) = (unscored / "evaluations").glob("*.parts")
    (parts / "head.json").unlink()
    (record,) = parts.glob("*.part")
    record.write_text(re.sub(r'"accuracy":[\d.]+', '"accuracy":0.875', record.read_text()))
    assert "0.875" in record.read_text()
    assert ddb(*evaluate_tiny(unscored)).code == 0
    (result,) = (one for one in (unscored / "evaluations").glob("*.json") if not one.name.endswith(".cost.json"))
    assert "0.875" not in result.read_text()


def test_a_run_that_is_scored(ddb: Callable, unscored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Once the random subsets are made that it is compared with."""
    made = references.make_references

    def and_gone(*args: Any, **options: Any) -> Any:
        found = made(*args, **options)
        shutil.rmtree(unscored)
        return found

    monkeypatch.setattr(references, "make_references", and_gone)
    argv = ["scores", unscored, "--epochs", 1, "--repeats", 2, "--cache", tmp_path / "cache", "--workers", 1]
    result = ddb(*argv, "--quiet", *EAGER)
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert f"synset.safetensors {WORDS}" in result.err
    assert not unscored.exists()


def redundancy(run: Path, out: Path, *more: object) -> list[object]:
    """A task that takes a fraction of a second."""
    argv = ["task", "transfer", run, "--parts", 2, "--seeds", 2, "--epochs", 1, "--student", TINY, "--out", out]
    return [*argv, "--workers", 1, "--quiet", *EAGER, *more]


@pytest.fixture
def pair(ddb: Callable, tmp_path: Path) -> Path:
    """A run of two images a class."""
    assert ddb(*random_tiny(tmp_path / "pair", "--ipc", 2)).code == 0
    return tmp_path / "pair"


def test_a_task(ddb: Callable, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "tasks" / "found.json"
    with monkeypatch.context() as patch:
        before(patch, tasks, "_check_there", 1, lambda: shutil.rmtree(out.parent))
        result = ddb(*redundancy(pair, out))
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert f"head.json {WORDS}" in result.err
    assert not out.parent.exists()
    assert ddb(*redundancy(pair, out)).code == 0


def test_records_of_a_task_of_nobody_knows_what(
    ddb: Callable, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "tasks" / "found.json"
    with monkeypatch.context() as patch:
        before(patch, tasks, "_check_there", 2, lambda: signal.raise_signal(signal.SIGTERM))
        assert ddb(*redundancy(pair, out)).code == 128 + signal.SIGTERM
    (out.parent / "found.parts" / "head.json").unlink()
    (record,) = (out.parent / "found.parts").glob("*.part")
    record.write_text(re.sub(r'"cross":[\d.]+', '"cross":0.875', record.read_text()))
    assert "0.875" in record.read_text()
    assert ddb(*redundancy(pair, out)).code == 0
    assert "0.875" not in out.read_text()


def test_a_synset_that_is_replaced_before_a_task_reads_it(
    ddb: Callable, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As a worker does, which begins later: what it finds would be told of the other one."""
    other = tmp_path / "other"
    assert ddb(*random_tiny(other, "--ipc", 2, "--seed", 1)).code == 0
    name = "synset.safetensors"
    before(monkeypatch, tasks, "task_of", 1, lambda: shutil.copy(other / name, pair / name))
    result = ddb(*redundancy(pair, tmp_path / "tasks" / "found.json"))
    assert result.code == 2
    assert f"{pair / name}: another file than when the command began" in result.err
    assert not (tmp_path / "tasks").exists()


def test_data_that_change_before_a_worker_of_a_task_reads_them(
    ddb: Callable, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read = iter([("digits as they were", "{}")])
    of = tasks._data_of
    monkeypatch.setattr(tasks, "_data_of", lambda task: next(read, None) or of(task))
    result = ddb(*redundancy(pair, tmp_path / "tasks" / "found.json"))
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert "dataset digits: its images changed since the command began" in result.err
