"""Work that was begun with two threads goes on where there is one core, in the bytes that it would have had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import TINY, Outcome, contents, random_tiny

from ddbench.methods.dm import DM
from ddbench.protocols import relabel
from ddbench.runtime import device
from ddbench.runtime.tensors import open_tensors
from ddbench.teachers import train

Command = Callable[..., Outcome]
TWO = ("--threads", 2)
PLAIN = ("--quiet", "--compile", "off")


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cores", lambda: 1)


def killed_at(monkeypatch: pytest.MonkeyPatch, where: object, name: str, call: int) -> Callable[[], None]:
    """Let a call of a function end the command as a kill does; the result lets it go on."""
    function, calls = getattr(where, name), []

    def end(*args: object, **named: object) -> object:
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **named)

    monkeypatch.setattr(where, name, end)
    return lambda: monkeypatch.setattr(where, name, function)


def distill(out: Path, *more: object) -> list[object]:
    return [
        *("distill", "--method", "dm", "--dataset", "digits", "--ipc", 1, "--student", TINY, "--recipe", "none"),
        *("--iterations", 6, "--checkpoint-every", 1, "--out", out, "--compile", "off", *more),
    ]


def test_a_run(ddb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert ddb(*distill(whole, *TWO, "--quiet")).code == 0
    go_on = killed_at(monkeypatch, DM, "step", 4)
    assert ddb(*distill(run, *TWO, "--quiet")).code == 130
    go_on()
    before = contents(run)
    refused = ddb(*distill(run, "--threads", 1))
    assert refused.code == 2
    assert "--threads 2" in refused.err
    assert contents(run) == before
    told = ddb(*distill(run))
    assert told.code == 0
    assert "warning: 2 threads" in told.err
    assert "on 1 core(s)" in told.err
    assert contents(run, "cost.json", "log.jsonl") == contents(whole, "cost.json", "log.jsonl")
    again = ddb(*distill(run))
    assert "finished already" in again.err
    assert "warning" not in again.err


def test_an_evaluation(ddb: Command, random_run: Path):
    out = random_run / "evaluations" / "two.json"
    evaluate = ("evaluate", random_run, "--students", TINY, "--epochs", 2, "--workers", 1, "--out", out, *PLAIN)
    assert ddb(*evaluate, "--seeds", 1, *TWO).code == 0
    assert "--threads 2" in ddb(*evaluate, "--seeds", 2, "--threads", 1).err
    assert ddb(*evaluate, "--seeds", 2).code == 0
    found = json.loads(out.read_text())
    assert found["threads"] == 2
    assert len(found["runs"]) == 2


def test_scores(ddb: Command, tmp_path: Path, random_run: Path):
    out = tmp_path / "scores.json"
    command = ("scores", random_run, "--student", TINY, "--repeats", 2, "--epochs", 1, "--workers", 1, *PLAIN)
    command += ("--cache", tmp_path / "cache", "--out", out)
    assert ddb(*command, *TWO).code == 0
    made = out.read_bytes()
    out.unlink()  # as if killed before it was written
    assert ddb(*command).code == 0
    assert out.read_bytes() == made
    assert json.loads(out.with_name("scores.cost.json").read_text())["trained"] == 0


def test_a_teacher_and_its_labels(ddb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    whole, teachers = tmp_path / "whole", tmp_path / "teachers"
    teacher = ("teacher", "--dataset", "digits", "--student", "convnet-d1-w4-bn", "--epochs", 3, "--compile", "off")
    assert ddb(*teacher, "--teachers", whole, *TWO, "--quiet").code == 0
    go_on = killed_at(monkeypatch, train._Progress, "take", 3)
    assert ddb(*teacher, "--teachers", teachers, *TWO, "--quiet").code == 130
    go_on()
    assert "with 2 threads, as it was begun" in ddb(*teacher, "--teachers", teachers).err
    assert contents(teachers, "cost.json") == contents(whole, "cost.json")

    run = tmp_path / "run"
    assert ddb(*random_tiny(run)).code == 0
    labels = ("relabel", run, "--teachers", teachers, "--epochs", 3, *PLAIN)
    go_on = killed_at(monkeypatch, relabel, "_epoch", 3)
    assert ddb(*labels, *TWO).code == 130
    go_on()
    left = shutil.copytree(run, tmp_path / "left")
    assert ddb(*labels).code == 0
    with open_tensors(run / "labels.safetensors", "ddbench-labels", 1) as (_, header):
        assert header["threads"] == 2
    assert "starting again" in ddb(*labels[:1], left, *labels[2:-3], "--threads", 1).err


def test_a_plan_takes_the_threads_of_its_runs(ddb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("brief.toml").write_text('name = "brief-v1"\nbase = "hard-v1"\nepochs = 1\n', encoding="utf-8")
    Path("small.toml").write_text(
        'title = "small"\n[submission]\nauthor = "A. Author"\nlicence = "MIT"\n[defaults]\ndataset = "digits"\n'
        f'protocols = ["brief.toml"]\nseeds = 1\nstudents = ["{TINY}"]\n'
        '[[cells]]\nmethod = "random"\nipc = 1\nminutes = 1\n',
        encoding="utf-8",
    )
    run = Path("reproduce/small/runs/digits-ipc1-random-s0")
    assert ddb("distill", "--method", "random", "--dataset", "digits", "--ipc", 1, "--out", run, *PLAIN, *TWO).code == 0
    assert ddb("reproduce", "small.toml", *PLAIN).code == 0
    assert json.loads((run / "config.json").read_text())["threads"] == 2


def test_small_images_take_one_thread_on_any_machine(
    ddb: Command, tmp_path: Path, random_run: Path, monkeypatch: pytest.MonkeyPatch
):
    """So they have the same bytes there; alone, too, since several threads would mostly wait for each other."""
    monkeypatch.setattr(device, "cores", lambda: 4)
    out, scores = tmp_path / "evaluation.json", tmp_path / "scores.json"
    flags = ("--epochs", 1, "--workers", 1, *PLAIN)
    assert ddb("evaluate", random_run, "--students", TINY, "--seeds", 1, "--out", out, *flags).code == 0
    assert json.loads(out.read_text())["threads"] == 1
    cache = ("--repeats", 2, "--cache", tmp_path / "cache")
    assert ddb("scores", random_run, "--student", TINY, "--out", scores, *cache, *flags).code == 0
    assert json.loads(scores.read_text())["threads"] == 1
    told = ddb("plan", "--seconds", 0.01, "--json", "buffer", "--student", TINY, "--experts", 1, *flags[:4])
    assert json.loads(told.out)["threads"] == 1
    torch.set_num_threads(3)
    recorded = ddb("buffer", "--student", TINY, "--experts", 1, "--buffers", tmp_path / "experts", *flags)
    assert recorded.code == 0
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("count", [None, "2", True, 0, -1, 10**9, 2.0])
def test_a_record_that_says_no_threads_is_passed_over(tmp_path: Path, count: object):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"threads": count}), encoding="utf-8")
    assert device.begun_threads(tmp_path / "none.json", path) == 0


def test_no_machine_has_so_many(refused: Callable[..., str], tmp_path: Path):
    refused([*random_tiny(tmp_path / "out"), "--threads", 10**6], "--threads 1000000", "at most 1024")
