"""Several processes that share a distillation (torchrun, gloo): as one process, killed and gone on with, one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import PATIENCE, record_digits
from safetensors.torch import load_file

import ddbench
from ddbench.data.specs import resolve_augmentation
from ddbench.experts.recipe import ExpertRecipe
from ddbench.runtime.ranks import ALONE, Ranks

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

HERE = Path(__file__).resolve().parent
DISTILL = [
    *("-m", "ddbench"),
    *("distill", "--dataset", "digits", "--ipc", "2", "--student", "convnet-d2-w4-in"),
    *("--recipe", "none", "--compile", "off", "--threads", "1", "--checkpoint-every", "2"),
]


def environment(data_root: Path) -> dict[str, str]:
    path = os.pathsep.join([str(Path(ddbench.__file__).parents[1]), str(HERE.parent), str(HERE)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DDBENCH_DATA": str(data_root)}


def torchrun(*argv: Any) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *map(str, argv)]


def run(command: list[str], data_root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(data_root), capture_output=True, text=True, timeout=PATIENCE)


def own_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What ddbench says of why it ended; torchrun adds a report of its own."""
    return [line for line in done.stderr.splitlines() if line.startswith("ddbench:")]


def test_shares_are_all_there_is():
    for world in (1, 2, 3, 7):
        shares = [Ranks(rank=rank, world=world).share(10, 2) for rank in range(world)]
        assert [row for share in shares for row in range(20)[share]] == list(range(20))
        assert {(share.stop - share.start) // 2 for share in shares} <= {10 // world, 10 // world + 1}


def test_a_part_is_placed():
    part = torch.arange(1.0, 5.0).view(4, 1)
    placed = Ranks(rank=1, world=3).placed(part, 5, 2)
    assert placed.flatten().tolist() == [0, 0, 1, 2, 3, 4, 0, 0, 0, 0][:10]
    assert ALONE.placed(part, 2, 2) is part
    assert ALONE.sum(part)[0] is part


def test_gradients_are_those_of_one_process(tmp_path: Path, tiny_experts: Path, data_root: Path):
    buffers = tmp_path / "buffers"
    for kind in ("sgd", "gsam"):
        record_digits(
            buffers, data_root, ExpertRecipe(kind=kind, epochs=3, augmentation=resolve_augmentation("dsa", False))
        )
    done = run(torchrun(HERE / "ranks_gradients.py", data_root, buffers, tmp_path / "found.json"), data_root)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.pop("world") == 2
    assert (found.pop("idc"), found.pop("ncfm")) == (0, 0)
    assert len(found) == 7
    assert max(found.values()) <= 1e-10, found


@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_goes_on_to_what_one_process_makes(
    tmp_path: Path, data_root: Path, ddb: Callable, refused: Callable
):
    settings = ["--method", "dm", "--iterations", "120", "--batch-real", "8"]
    command = torchrun(*DISTILL, *settings, "--out", tmp_path / "two")
    killed = run(torchrun(HERE / "ranks_killed.py", *DISTILL[2:], *settings, "--out", tmp_path / "two"), data_root)
    assert killed.returncode != 0
    assert (tmp_path / "two" / "checkpoint.safetensors").exists(), killed.stderr
    assert not (tmp_path / "two" / "synset.safetensors").exists()
    again = run(command, data_root)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("going on at iteration") == 1
    assert again.stdout.count("synset:") == 1
    assert ddb(*DISTILL[2:], *settings, "--out", tmp_path / "one").code == 0
    one, two = (load_file(tmp_path / name / "synset.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-4)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("one", "two")]
    assert "processes" not in configs[0]
    assert configs[1].pop("processes") == 2
    assert configs[0] == configs[1]
    assert json.loads((tmp_path / "two" / "cost.json").read_text())["processes"] == 2
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == list(range(1, 121))
    refused((*DISTILL[2:], *settings, "--out", tmp_path / "two"), "processes differ(s)")


def test_ranks_end_with_a_killed_launcher(tmp_path: Path, data_root: Path):
    """torchrun killed outright tells its processes nothing; they end by themselves."""
    settings = ["--method", "dm", "--iterations", "1000000", "--batch-real", "8", "--quiet"]
    command = torchrun(*DISTILL, *settings, "--out", tmp_path / "run")
    launcher = subprocess.Popen(command, env=environment(data_root), stderr=subprocess.DEVNULL)
    limit = time.monotonic() + PATIENCE
    while not (tmp_path / "run" / "checkpoint.safetensors").exists():
        assert launcher.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)
    ranks = psutil.Process(launcher.pid).children(recursive=True)
    launcher.kill()
    launcher.wait()
    assert len(ranks) >= 2
    _, alive = psutil.wait_procs(ranks, timeout=PATIENCE)
    assert not alive


def test_one_line_ends_all(tmp_path: Path, data_root: Path):
    """A gradient that is not finite; the last good state is kept."""
    settings = ["--method", "dm", "--iterations", "50", "--lr-images", "1e30", "--batch-real", "8", "--quiet"]
    done = run(torchrun(*DISTILL, *settings, "--out", tmp_path / "run"), data_root)
    assert done.returncode != 0
    (line,) = own_lines(done)
    assert "likely cause: --lr-images" in line
    assert (tmp_path / "run" / "last_good.safetensors").exists()


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torchrun had started this process and another one; nobody joins it."""
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("two")
def test_other_verbs_are_not_shared(refused: Callable[..., str]):
    refused(["evaluate", "run"], "torchrun", "evaluate", "distill")


@pytest.mark.parametrize(
    ("method", "more", "needle"),
    [
        ("dm", ["--student", "convnet-d2-w4-bn"], "batch norm"),
        ("frepo", ["--recipe", "none", "--student", "convnet-d2-w4-nn"], "of one piece"),
        ("random", [], "of one piece"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    method: str,
    more: list[str],
    needle: str,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
    tmp_path: Path,
):
    monkeypatch.setattr("ddbench.distillation.start.join", lambda: Ranks(world=2))
    argv = ["distill", "--method", method, "--ipc", "1", "--out", tmp_path / "run", "--quiet", *more]
    refused(argv, "torchrun with 2 processes", needle)


def test_more_processes_than_parts(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], tmp_path: Path):
    monkeypatch.setattr("ddbench.distillation.start.join", lambda: Ranks(world=12))
    argv = ["distill", "--method", "dm", "--ipc", "1", "--out", tmp_path / "run", "--quiet"]
    refused(argv, "10 parts", "--nproc-per-node 10")
