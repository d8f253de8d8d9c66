"""Distillations whose parts are shared out over workers and shards, and two commands at one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import EAGER, PATIENCE, TINY, Outcome, contents, distill_tiny

import ddbench
from ddbench.distillation.pieces import RUN, units_of
from ddbench.runtime import signs
from ddbench.runtime.errors import UserError
from ddbench.synset import read_synset

METHOD = '''
"""Images that are as bright as their class, slow where it is asked for."""
import os, signal, time
from dataclasses import dataclass
from pathlib import Path

import torch

from ddbench.methods.base import Distilled, Method, NotFiniteError, State, joined


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = 2
    """Steps of a class."""
    whole: bool = False
    """Be of one piece."""
    meet: str = ""
    """A folder: step 5 tells there that it is reached, and waits."""
    die: str = ""
    """A folder: the first try of step 5 leaves a file there, and its process is killed."""
    bad: int = -1
    """A step that is not finite."""


class Bright(Method[Config]):
    config_class = Config
    title = "Bright"

    @property
    def iterations(self):
        return self.context.classes * self.config.steps

    def pieces(self):
        n = self.config.steps
        return () if self.config.whole else [range(k * n, k * n + n) for k in range(self.context.classes)]

    def merge(self, states):
        return joined(states, "levels")

    def setup(self):
        self.levels = torch.zeros(0, dtype=torch.float32)

    def step(self, iteration):
        if iteration == 5:
            self.trouble()
        if iteration == self.config.bad:
            raise NotFiniteError("no number")
        if iteration % self.config.steps == 0:
            self.levels = torch.cat([self.levels, torch.tensor([float(iteration)])])
        return {"loss": iteration / 7}

    def trouble(self):
        if self.config.die and not (Path(self.config.die) / "dead").exists():
            (Path(self.config.die) / "dead").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.meet:
            (Path(self.config.meet) / "there").touch()
            while not (Path(self.config.meet) / "go").exists():
                time.sleep(0.01)

    def distilled(self):
        shape = self.context.dataset.spec.shape
        black = torch.zeros(self.context.classes - len(self.levels))
        levels = torch.cat([self.levels, black]).to(torch.uint8).repeat_interleave(self.context.ipc)
        images = levels.view(-1, 1, 1, 1).expand(-1, *shape).contiguous()
        return Distilled(images=images, labels=self.context.hard_labels())

    def state(self):
        return State(tensors={"levels": self.levels})

    def load_state(self, state):
        self.levels = state.tensors["levels"].cpu()
'''


@pytest.fixture
def bright(tmp_path: Path, tables_kept: None) -> Callable[..., list[object]]:
    """``bright(out, ...)``: the command that makes ten bright images."""
    path = tmp_path / "method" / "bright.py"
    path.parent.mkdir()
    path.write_text(METHOD)

    def command(out: Path, *more: object) -> list[object]:
        return [
            *("distill", "--method", "bright", "--method-file", path, "--dataset", "digits", "--ipc", 1),
            *("--student", TINY, "--out", out, *EAGER, *more),
        ]

    return command


def started(argv: list[object], data: Path) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    environment = {
        **os.environ,
        "DDBENCH_DATA": str(data),
        "PYTHONPATH": str(Path(ddbench.__file__).parents[1]),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "ddbench", *map(str, argv)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit, f"no {path}"
        time.sleep(0.01)


def test_workers_one_of_which_is_killed(bright: Callable, ddb: Callable[..., Outcome], tmp_path: Path):
    """Its part is done again, and the product is that of one process."""
    flags = ("--die", tmp_path, "--quiet")
    (tmp_path / "dead").touch()
    assert ddb(*bright(tmp_path / "one", *flags)).code == 0
    (tmp_path / "dead").unlink()
    made = ddb(*bright(tmp_path / "two", *flags, "--workers", 2))
    assert made.code == 0, made.err
    assert (tmp_path / "dead").exists(), "a worker was killed"
    assert contents(tmp_path / "one", "cost.json") == contents(tmp_path / "two", "cost.json")


def test_a_killed_shard(bright: Callable, ddb: Callable[..., Outcome], data_root: Path, tmp_path: Path):
    """Status tells what it was at; one process does what is left, a part from where it was."""
    flags = ("--die", tmp_path, "--checkpoint-every", 1)
    (tmp_path / "dead").touch()
    assert ddb(*bright(tmp_path / "one", *flags)).code == 0
    (tmp_path / "dead").unlink()
    command = bright(tmp_path / "two", *flags)
    assert ddb(*command, "--status").out.splitlines() == [f"{tmp_path / 'two'}: 0 done, 10 open, of 10"]
    shard = started([*command, "--shard", "0/2"], data_root)
    shard.communicate(timeout=PATIENCE)
    assert shard.returncode == -9
    counts, failed = ddb(*command, "--status").out.splitlines()
    assert counts == f"{tmp_path / 'two'}: 1 done, 1 failed, 8 open, of 10"
    assert f"part 00002  process {shard.pid} on" in failed
    assert sorted(contents(tmp_path / "two" / "parts")) == ["00000.safetensors", "00002.checkpoint.safetensors"]
    made = ddb(*command)
    assert made.code == 0, made.err
    assert contents(tmp_path / "one", "cost.json") == contents(tmp_path / "two", "cost.json")
    assert ddb(*command, "--status").out == f"{tmp_path / 'two'}: 10 done, of 10\n"


def test_a_state_that_gives_the_methods_own_tensors(bright: Callable, ddb: Callable[..., Outcome], tmp_path: Path):
    """Every part begins as the method was set up, whatever the parts before it in this process did to its tensors."""
    text = METHOD
    for line, other in (
        ("self.levels = torch.zeros(0, dtype=torch.float32)", "self.levels = torch.zeros(self.context.classes)"),
        (
            "self.levels = torch.cat([self.levels, torch.tensor([float(iteration)])])",
            "self.levels[iteration // self.config.steps] += iteration + 1",
        ),
        ('self.levels = state.tensors["levels"].cpu()', 'self.levels.copy_(state.tensors["levels"])'),
        (
            'return joined(states, "levels")',
            'return State(tensors={"levels": sum(one.tensors["levels"] for one in states)})',
        ),
    ):
        assert line in text
        text = text.replace(line, other)
    (tmp_path / "method" / "bright.py").write_text(text)
    assert ddb(*bright(tmp_path / "one", "--quiet")).code == 0
    for shard in ("0/2", "1/2"):
        ddb(*bright(tmp_path / "two", "--quiet", "--shard", shard))
    assert contents(tmp_path / "one", "cost.json") == contents(tmp_path / "two", "cost.json")
    levels = read_synset(tmp_path / "two" / "synset.safetensors").images.flatten(1)[:, 0]
    assert levels.tolist() == list(range(1, 20, 2))


def test_an_engine_wants_the_parts(monkeypatch: pytest.MonkeyPatch, data_root: Path, tmp_path: Path):
    """With one worker too; a method of one piece is refused."""
    from ddbench.distillation import runner, start

    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(runner, "distill", lambda **given: asked.append(given["settings"].sharing.asked))
        for in_parts in (False, True):
            start.distill("kcenter", dataset="digits", ipc=1, data=data_root, out=tmp_path / "a", in_parts=in_parts)
    assert asked == ["", "--engine ray"]
    with pytest.raises(UserError, match="--engine ray"):
        start.distill("dm", dataset="digits", ipc=1, data=data_root, out=tmp_path / "b", in_parts=True, quiet=True)


def test_status_of_another_run_is_refused(ddb: Callable[..., Outcome], refused: Callable[..., str], tmp_path: Path):
    out = tmp_path / "run"
    both = ("--dataset", "digits", "--ipc", 1, "--holdout", 0.1, "--out", out, *EAGER)
    assert ddb("distill", "--method", "random", *both).code == 0
    refused(["distill", "--method", "kcenter", *both, "--status"], "holds another run", "method")


@pytest.mark.parametrize("whole", [True, False], ids=["of-one-piece", "in-pieces"])
def test_typed_twice(whole: bool, bright: Callable, ddb: Callable[..., Outcome], data_root: Path, tmp_path: Path):
    """The second command waits for the first one, and finds its product; so does a shard."""
    command = bright(tmp_path / "run", "--meet", tmp_path, "--whole" if whole else "--no-whole")
    first = started(command, data_root)
    wait_for(tmp_path / "there", first)
    (line,) = ddb(*command, "--status").out.splitlines()[1:]
    assert line.startswith(f"  running  all 20 steps  process {first.pid} on ")
    second = started(command if whole else [*command, "--shard", "0/2"], data_root)
    assert second.stdout is not None
    assert any(f"process {first.pid} on" in line and "at work on this run; waiting" in line for line in second.stdout)
    assert second.poll() is None
    (tmp_path / "go").touch()
    for process, words in ((first, "20/20"), (second, "finished already: ")):
        text, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, text
        assert words in text
    assert ddb(*command[:-5], "--out", tmp_path / "alone", *command[-5:]).code == 0
    assert contents(tmp_path / "run", "cost.json") == contents(tmp_path / "alone", "cost.json")


def test_who_was_killed_has_no_turn(bright: Callable, ddb: Callable[..., Outcome], tmp_path: Path):
    """Nobody waits for a process that is no more, and nothing of it stays."""
    place = units_of(tmp_path / "run").folder / f"{RUN}{signs.TURN}"
    command = bright(tmp_path / "run", "--bad", 7)
    assert ddb(*command).code == 2
    assert (tmp_path / "run" / "last_good.safetensors").exists()
    place.parent.mkdir()
    place.write_text("elsewhere.7.00000000.turn\n{}")
    os.utime(place, (0, place.stat().st_mtime - signs.SILENCE - 60))
    (line,) = ddb(*command, "--status").out.splitlines()[1:]
    assert line == "  failed   all 20 steps  process 7 on elsewhere ended in it without a word: killed?"
    assert "iteration 7: no number" in ddb(*command).err
    assert list(place.parent.iterdir()) == []


def test_a_part_that_fails(bright: Callable, ddb: Callable[..., Outcome], tmp_path: Path):
    """The reason is told and kept; other shards go on."""
    command = bright(tmp_path / "run", "--bad", 7)
    made = ddb(*command, "--shard", "1/2")
    assert made.code == 2
    assert made.err == "ddbench: error: iteration 7: no number; stopped, other parts go on and are kept\n"
    assert "its parts are done (5 of 10); 4 of other shards are open" in ddb(*command, "--shard", "0/2").out
    counts, failed = ddb(*command, "--status").out.splitlines()
    assert counts.endswith(": 6 done, 1 failed, 3 open, of 10")
    assert "part 00003  iteration 7: no number" in failed


def test_a_damaged_part(bright: Callable, ddb: Callable[..., Outcome], tmp_path: Path):
    """It is named, and nothing is made of it."""
    command = bright(tmp_path / "run")
    assert ddb(*command, "--shard", "1/2").code == 0
    (path, *_) = sorted((tmp_path / "run" / "parts").iterdir())
    path.write_bytes(path.read_bytes()[:-4])
    made = ddb(*command, "--quiet")
    assert made.code == 2
    assert f"{path}: not a whole safetensors file" in made.err
    assert not (tmp_path / "run" / "synset.safetensors").exists()
    path.unlink()
    assert ddb(*command, "--quiet").code == 0


SHARED = ("--shard", "0/2")


@pytest.mark.parametrize(
    ("flags", "needle"),
    [
        (("--whole", *SHARED), "--shard 0/2: Bright is of one piece here"),
        (("--whole", "--workers", 2), "--workers 2: Bright is of one piece here"),
        ((*SHARED, "--validate-every", 2), "--shard 0/2: a part of the images is not validated"),
        (("--workers", -1), "--workers -1"),
        (("--shard", "2/2"), "--shard 2/2: 2 is too large"),
        (("--shard",), "no SLURM_ARRAY_TASK_ID"),
        (("--ray-address", "head:1"), "give --engine ray with it"),
    ],
)
def test_refused(flags: tuple[object, ...], needle: str, bright: Callable, refused: Callable, tmp_path: Path):
    refused(bright(tmp_path / "run", *flags), needle)


@pytest.mark.parametrize("flags", [SHARED, ("--workers", 2), ("--engine", "ray")])
def test_methods_of_one_piece_are_refused(flags: tuple[object, ...], refused: Callable, buffers: Path, tmp_path: Path):
    refused(distill_tiny(buffers, tmp_path / "run", *flags), str(flags[0]), "is of one piece", root=tmp_path)


def test_a_job_array_is_no_shard_by_itself(
    bright: Callable, ddb: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Arrays distill with a seed a task as a rule: the parts are shared out where --shard says so."""
    for name, value in (("ID", 1), ("COUNT", 2), ("MIN", 0)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert ddb(*bright(tmp_path / "whole", "--quiet")).out.startswith("synset: ")
    assert ddb(*bright(tmp_path / "part", "--quiet", "--shard")).out.startswith("shard 1/2")


def test_slurm_arrays(bright: Callable, ddb: Callable[..., Outcome], refused: Callable, tmp_path: Path):
    made = ddb("slurm", "--array", 4, *bright(tmp_path / "run"))
    assert made.code == 0, made.err
    assert "--shard" in made.out
    assert "--shard" not in ddb("slurm", *bright(tmp_path / "run")).out
    refused(["slurm", "--array", 4, *distill_tiny(tmp_path, tmp_path / "run")], "--array 4: the work of distill")


@pytest.mark.usefixtures("ctrl_c")
def test_interrupted_in_a_part(
    bright: Callable, ddb: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The step that is at work is done and kept, and so is what the last step of a part leaves."""
    assert ddb(*bright(tmp_path / "whole", "--quiet")).code == 0
    from ddbench.distillation import pieces

    metrics_of, calls = pieces.metrics_of, []

    def interrupting(*given: object) -> dict[str, float]:
        calls.append(given)
        if len(calls) in (3, 4):  # the first step of part 2, and its last
            signal.raise_signal(signal.SIGINT)
        return metrics_of(*given)

    monkeypatch.setattr(pieces, "metrics_of", interrupting)
    command = [*bright(tmp_path / "run", "--quiet"), "--shard", "0/2"]
    told = [ddb(*command).err for _ in range(2)]
    assert told == [f"ddbench: interrupted; the same command goes on after iteration {done} of 20\n" for done in (5, 6)]
    assert ddb(*command).code == 0
    assert ddb(*command[:-1], "1/2").code == 0
    assert len(calls) == 20, "no step was done twice"
    assert contents(tmp_path / "run", "cost.json") == contents(tmp_path / "whole", "cost.json")
