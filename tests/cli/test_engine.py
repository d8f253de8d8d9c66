"""``--engine``: what is refused, without ray and with it, before anything is written."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import random_tiny
from made_board import made_result

from ddbench.leaderboard.retrain import Request, verify_rows
from ddbench.runtime import jobs, ray_jobs
from ddbench.runtime.jobs import run_jobs

VERBS = [
    ["buffer", "--dataset", "digits"],
    ["evaluate", "run"],
    ["scores", "run"],
    ["task", "transfer", "run"],
    ["reproduce", "digits-cpu"],
    ["distill", "--method", "kcenter", "--ipc", "1"],
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ddb: Callable) -> Path:
    monkeypatch.chdir(tmp_path)
    assert ddb(*random_tiny(tmp_path / "run")).code == 0
    return tmp_path


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_without_ray(verb: list[str], here: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused([*verb, "--engine", "ray"], "--engine ray needs the package ray: pip install", "[ray]")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_flags_of_ray_without_it(verb: list[str], here: Path, refused: Callable):
    refused([*verb, "--ray-address", "a:1"], "--ray-address a:1: give --engine ray with it")
    refused([*verb, "--gpu-share", "0.5"], "--gpu-share 0.5: give --engine ray with it")


@pytest.mark.parametrize(
    ("flags", "needle"),
    [
        (["--gpu-share", "1.5"], "--gpu-share 1.5: expected 0 to 1"),
        (["--gpu-share", "nan"], "--gpu-share nan: expected 0 to 1"),
        (["--workers", "-1"], "--workers -1"),
        (["--engine", "dask"], "'dask' is none of local, ray"),
        (["--ray-address", "head"], "--ray-address head: expected HOST:PORT"),
        (["--ray-address", "ray://head:6379"], "expected HOST:PORT"),
        (["--ray-address", "head:99999"], "expected HOST:PORT"),
        (["--ray-address", "127.0.0.1:1"], "--ray-address 127.0.0.1:1: nothing answers there"),
    ],
)
def test_refusals(flags: list[str], needle: str, here: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    if importlib.util.find_spec("ray") is None and flags[0] == "--ray-address":
        pytest.skip("ray is not installed")
    monkeypatch.setattr(ray_jobs, "_connect", lambda *_: pytest.fail("ray itself tries for minutes"))
    refused(["evaluate", "run", "--engine", "ray", *flags], needle)


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_without_a_tracker(name: str, here: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, name, None)
    flags = ["distill", "--method", "kcenter", "--dataset", "digits", "--ipc", 1, "--track", name]
    refused(flags, f"--track {name} needs the package {name}: pip install", f"[{name}]")


class Backwards:
    """An engine that does the last job first."""

    def run(
        self,
        target: str,
        shared: Any,
        payloads: Sequence[Any],
        workers: int,
        deadline: float | None,
        *,
        survive: bool = False,
    ) -> Iterator[tuple[int, Any]]:
        for index in reversed(range(len(payloads))):
            yield index, jobs.resolve(target)(shared, payloads[index])


def test_jobs_run_on_the_engine_of_the_block():
    with jobs.engine(Backwards()):
        assert list(run_jobs("builtins:pow", 2, [1, 2, 3], workers=1)) == [(2, 8), (1, 4), (0, 2)]
    assert list(run_jobs("builtins:pow", 2, [1, 2, 3], workers=1)) == [(0, 2), (1, 4), (2, 8)]


def test_what_a_verb_distills_for_itself_is_done_by_itself(ddb: Callable, tmp_path: Path):
    """An engine is for the jobs of the verb that was asked to use it; a method of one piece is no mistake then."""
    with jobs.engine(Backwards()):
        made = ddb(*random_tiny(tmp_path / "run"))
    assert made.code == 0, made.err


class Noting:
    """An engine that does nothing but note what its jobs are given."""

    def __init__(self) -> None:
        self.shared: list[Any] = []

    def run(self, target: str, shared: Any, *rest: Any, survive: bool = False) -> Iterator[tuple[int, Any]]:
        self.shared.append(shared.shared)
        yield from ()


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_a_row_on_an_engine_has_one_process(seconds: float | None, tmp_path: Path):
    """Each row is a job of the engine; as many processes again in each would be workers by workers."""
    request, noting = Request(root=tmp_path, work=tmp_path / "work", workers=3), Noting()
    with jobs.engine(noting):
        assert list(verify_rows(request, [made_result("mtt"), made_result("dm")], seconds)) == []
    assert [given.workers for given in noting.shared] == [1]
