"""``ddbench plan``: what long commands will take; nothing is written where they would write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EAGER, TINY, distill_tiny, listing

from ddbench.cli.plan import span
from ddbench.runtime.forecast import Forecast, added, count_flops

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ["plan", "--seconds", "0.01", "--json", "--workers", "4"]


@pytest.fixture
def planned(ddb: Callable, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``planned(argv)``: the forecast of a command, which left everything as it was."""

    def call(*argv: object) -> dict[str, Any]:
        before = listing(tmp_path)
        result = ddb(*QUICK, *argv)
        assert result.code == 0, result.err
        assert listing(tmp_path) == before
        found: dict[str, Any] = json.loads(result.out)
        assert found["verb"] == argv[0]
        assert found["memory_bytes"] > 10**7
        return found

    return call


def forecast(seconds: list[float], parts: int = 1) -> Forecast:
    return Forecast(
        what="work",
        unit="unit",
        all=len(seconds),
        done=0,
        seconds=seconds,
        flops=None,
        measured=[],
        memory=0,
        disk=0,
        place=".",
        device="cpu",
        threads=1,
        parts=parts,
    )


def test_workers_take_the_longest_unit_first():
    work = forecast([1.0, 5.0, 2.0, 3.0])
    assert [work.wall(workers) for workers in (1, 2, 3, 9)] == [11, 6, 5, 5]
    assert forecast([]).wall(3) == 0


def test_one_unit_is_shared_by_its_parts():
    """In whole ones: of three parts one of two workers has two."""
    assert [forecast([12.0], 3).wall(workers) for workers in (1, 2, 8)] == [12, 8, 4]
    assert forecast([10.0], 10).wall(4) == 3


def test_operations_of_second_derivatives_are_counted():
    """A linear layer: forward, two products backward, and the products of the gradient's gradient."""
    x, weight = torch.randn(3, 5).requires_grad_(), torch.randn(7, 5).requires_grad_()

    def forward() -> torch.Tensor:
        return torch.nn.functional.linear(x, weight).square().sum()

    product = 2 * 3 * 5 * 7
    assert count_flops(forward) == product
    assert count_flops(lambda: torch.autograd.grad(forward(), [x, weight])) == 3 * product

    def twice() -> None:
        (gradient,) = torch.autograd.grad(forward(), weight, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), x)

    assert count_flops(twice) > 3 * product


@pytest.mark.parametrize(("seconds", "words"), [(0.0032, "3.2 ms"), (12, "12 s"), (450, "7.5 min"), (11160, "3.1 h")])
def test_times_for_people(seconds: float, words: str):
    assert span(seconds) == words


def test_buffer(planned: Callable, ddb: Callable, tmp_path: Path):
    command = ["buffer", "--student", "convnet-d1-w4-in", "--epochs", 3, "--buffers", tmp_path / "experts"]
    command += ["--workers", 1, "--threads", 1]
    found = planned(*command, "--experts", 2)
    assert found["units"] == {"unit": "expert", "all": 2, "done": 0, "left": 2}
    assert found["wall_seconds"]["1"] == pytest.approx(2 * found["wall_seconds"]["4"], abs=0.01)
    assert found["flops"] > 0
    assert ddb(*command, "--experts", 1, "--quiet").code == 0
    (expert,) = (tmp_path / "experts").rglob("expert_*.safetensors")
    assert found["disk_bytes"] / 2 == pytest.approx(expert.stat().st_size, rel=0.1)
    assert planned(*command, "--experts", 2)["units"]["done"] == 1


def test_distill(planned: Callable, ddb: Callable, buffers: Path, tmp_path: Path):
    command = distill_tiny(buffers, tmp_path / "run")
    found = planned(*command)
    assert found["units"]["left"] == 1
    assert found["flops"] == found["measured"][1]["flops"] * 4
    assert found["shared_by"] == 10
    assert not (tmp_path / "run").exists()
    assert ddb(*command).code == 0
    found = planned(*command)
    assert (found["units"]["done"], found["flops"], found["wall_seconds"]["1"]) == (1, 0, 0)
    assert found["what"].endswith("4 steps (4 done)")
    assert found["disk_bytes"] == 0


def test_the_disk_of_a_method_that_makes_class_after_class_is_that_of_all(planned: Callable, tiny_diffusions: Path):
    """However few of the ten are tried: images, state, labels and a line of metrics of each."""
    flags = ["--dataset", "digits", "--ipc", 2, "--student", TINY, "--recipe", "none", "--steps", 5]
    found = planned("distill", "--method", "unguided", *flags, "--diffusions", tiny_diffusions, *EAGER)
    assert found["disk_bytes"] == 10 * (2 * (64 + 64 + 8) + 200)


def test_what_is_left_of_a_run_is_shared_by_what_is_left(
    planned: Callable, ddb: Callable, tmp_path: Path, tiny_diffusions: Path
):
    """Of ten classes another process did five: the others are at most for five workers."""
    command = ["distill", "--method", "unguided", "--dataset", "digits", "--ipc", 1, "--student", TINY, "--steps", 5]
    command += ["--recipe", "none", "--diffusions", tiny_diffusions, "--out", tmp_path / "run", *EAGER]
    assert planned(*command)["shared_by"] == 10
    assert ddb(*command, "--shard", "0/2", "--quiet").code == 0
    found = planned(*command)
    assert found["shared_by"] == 5
    assert found["what"].endswith("10 steps (5 done)")


def test_steps_of_two_kinds_are_tried_apart(planned: Callable, tiny_diffusions: Path):
    """A method that tunes a model and then samples: a step of each counts for its own."""
    flags = ("--dataset", "digits", "--ipc", 2, "--recipe", "none", "--student", TINY, "--threads", 1)
    command = ("distill", "--method", "minimax", *flags, "--diffusions", tiny_diffusions, "--steps", 5)
    found = planned(*command, "--tuning-steps", 7)
    _, tuning, sampling = found["measured"]
    assert (tuning["what"], sampling["what"]) == ("step 1 to 7 of Minimax", "step 8 to 17 of Minimax")
    assert tuning["flops"] != sampling["flops"]
    assert found["flops"] == 7 * tuning["flops"] + 10 * sampling["flops"]
    assert len(planned(*command, "--tuning-steps", 0)["measured"]) == 2


def test_distill_that_cannot_be_tried(refused: Callable, tmp_path: Path):
    command = ["distill", "--method", "rded", "--ipc", 1, "--teachers", tmp_path / "teachers", "--recipe", "none"]
    refused([*QUICK, *command], "teacher", "ddbench teacher")


def test_evaluate(planned: Callable, ddb: Callable, random_run: Path, tmp_path: Path):
    command = ["evaluate", random_run, "--students", "convnet-d1-w4-in,mlp-d1-w8", "--epochs", 3, "--workers", 1]
    found = planned(*command, "--seeds", 2)
    assert found["units"]["left"] == 4
    assert len(found["measured"]) == 4
    assert ddb(*command, "--seeds", 1, "--quiet").code == 0
    assert planned(*command, "--seeds", 2)["units"] == {"unit": "run", "all": 4, "done": 2, "left": 2}


def test_evaluate_by_several_protocols(planned: Callable, random_run: Path, refused: Callable):
    """They follow each other: with many workers each takes as long as its longest run."""
    command = ["evaluate", random_run, "--students", "mlp-d1-w8", "--seeds", 2, "--epochs", 3, "--workers", 1]
    found = planned(*command, "--protocol", "hard-v1, dc-legacy")
    assert found["units"] == {"unit": "run", "all": 4, "done": 0, "left": 4}
    assert found["wall_seconds"]["1"] == pytest.approx(2 * found["wall_seconds"]["4"], abs=0.002)
    assert [f"protocol {name}, 3 epochs" in found["what"] for name in ("hard-v1", "dc-legacy")] == [True, True]
    refused(["plan", *command, "--protocol", "regimes"], "protocol labels-once needs a teacher")


def test_works_that_follow_each_other():
    both = added([forecast([4.0, 1.0]), forecast([2.0, 2.0, 2.0]), forecast([])])
    assert [both.wall(workers) for workers in (1, 2, 9)] == [11, 8, 6]
    assert (both.all, both.flops, both.disk, both.what) == (5, None, 0, "work; then work; then work")


def test_reproduce(planned: Callable, tmp_path: Path):
    plan, brief = tmp_path / "mine.toml", tmp_path / "brief.toml"
    brief.write_text('name = "brief-v1"\nepochs = 2\n')
    plan.write_text(
        'title = "Mine"\ndescription = "Two cells"\n'
        '[submission]\nauthor = "me"\nlicence = "MIT"\n'
        '[defaults]\ndataset = "digits"\nseeds = 1\nstudents = ["mlp-d1-w8"]\n'
        f'protocols = ["{brief.as_posix()}"]\n'
        '[[cells]]\nmethod = "random"\nipc = 1\nrun_seeds = [0]\nminutes = 1\n'
        '[[cells]]\nmethod = "dm"\nipc = 1\nminutes = 3\n'
    )
    found = planned("reproduce", plan, "--leaderboard", tmp_path / "board", "--out", tmp_path / "out")
    assert found["units"] == {"unit": "cell", "all": 2, "done": 0, "left": 2}
    assert found["wall_seconds"]["1"] == pytest.approx(found["wall_seconds"]["4"] * 4 / 3, rel=0.01, abs=0.002)
    assert "digits-ipc1-random-s0/brief-v1" in found["notes"][0]


def test_words_for_people(ddb: Callable, tmp_path: Path):
    command = ["distill", "--method", "dm", "--ipc", 1, "--recipe", "none", "--out", tmp_path / "run"]
    result = ddb("plan", "--seconds", "0.01", "--workers", 4, *command)
    assert result.code == 0, result.err
    for words in ("FLOPs", "1 worker (this command here)", "4 workers at best", "a worker;", "are free there"):
        assert words in result.out


@pytest.mark.parametrize(
    ("argv", "needles"),
    [
        (["plan"], ("no verb", "buffer, distill, evaluate, reproduce")),
        (["plan", "distil", "--method", "dm"], ("plan distil", "distill")),
        (["plan", "--workers", "-1", "buffer"], ("--workers -1",)),
        (["plan", "distill", "--ipc", "1"], ("--method is missing",)),
        (["plan", "evaluate", "nowhere"], ("nowhere",)),
    ],
)
def test_mistakes(argv: list[str], needles: tuple[str, ...], refused: Callable):
    refused(argv, *needles)
