"""Jobs on a Ray cluster of two nodes of this machine: as on local workers, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import halting
import psutil
import pytest
from conftest import EAGER, PATIENCE, TINY, contents, random_tiny
from test_distill_shared import METHOD

import ddbench
from ddbench.leaderboard.schema import load_results
from ddbench.runtime import jobs, ray_jobs
from ddbench.runtime.errors import UserError
from ddbench.runtime.jobs import WorkerDied, run_jobs

pytest.importorskip("ray")

ROOT = Path(ddbench.__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def add_node(cluster: Any, **options: Any) -> None:
    """With further tries: on a busy machine a node may miss its own limit of 30 s."""
    for tries in range(3):
        try:
            cluster.add_node(**options)
        except Exception:
            if tries == 2:
                raise
        else:
            return


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head, and two nodes of one core each; jobs find the modules beside this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # no token is left in the home folder
        for name, value in ray_jobs.QUIET.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
        patch.syspath_prepend(str(Path(__file__).parent))
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            add_node(cluster, num_cpus=0, include_dashboard=False)
            for _ in range(2):
                add_node(cluster, num_cpus=1)
            cluster.wait_for_nodes(PATIENCE)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture
def on_ray(nodes: Any) -> Iterator[None]:
    """Jobs of the test run on the cluster."""
    with ray_jobs.cluster(nodes.address, workers=2, cpus=1, gpus=None) as engine, jobs.engine(engine):
        yield


JOB = "workers:job"


def values(results: Any) -> dict[int, Any]:
    return {index: value for index, (value, _) in results}


def test_results(on_ray: None, tmp_path: Path):
    assert values(run_jobs(JOB, tmp_path, [("ok", n) for n in range(20)], workers=1)) == {n: n for n in range(20)}
    assert list(run_jobs(JOB, tmp_path, [], workers=1)) == []


def test_errors_are_those_of_local_workers(on_ray: None, tmp_path: Path):
    with pytest.raises(UserError, match=r"^value 4 cannot be$"):
        list(run_jobs(JOB, tmp_path, [("user-error", 4), ("ok", 1)], workers=2))
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed:\nTraceback.*workers\.py.*ZeroDivisionError: job 5"):
        list(run_jobs(JOB, tmp_path, [("raise", 5), ("ok", 1)], workers=2))
    with pytest.raises(RuntimeError, match="No module named 'nowhere'"):
        list(run_jobs("nowhere:job", tmp_path, [1], workers=2))


def test_killed_workers(on_ray: None, tmp_path: Path):
    payloads = [("ok", 0), ("die-once", 1), ("ok", 2), ("die-once", 3)]
    assert values(run_jobs(JOB, tmp_path, payloads, workers=2)) == {n: n for n in range(4)}


def test_a_job_that_always_dies(on_ray: None, tmp_path: Path):
    with pytest.raises(WorkerDied, match="died 3 times on the same job"):
        list(run_jobs(JOB, tmp_path, [("die", 7), ("ok", 1)], workers=2))
    assert (tmp_path / "tries").read_text() == "7\n" * 3


def pid_of_the_hanging(folder: Path) -> int:
    """The process of the job that hangs, once it does."""
    limit = time.monotonic() + PATIENCE
    place = folder / "pid"
    while not (place.exists() and place.read_text().endswith("\n")) and time.monotonic() < limit:
        time.sleep(0.05)
    return int(place.read_text())


def when_it_hangs(folder: Path, act: Callable[[int], object]) -> threading.Thread:
    """Do something to the process of the job that hangs; its next try does not hang."""

    def wait() -> None:
        pid = pid_of_the_hanging(folder)
        (folder / "killed").touch()
        act(pid)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_worker_killed_from_outside(on_ray: None, tmp_path: Path):
    killer = when_it_hangs(tmp_path, lambda pid: os.kill(pid, signal.SIGKILL))
    results = dict(run_jobs(JOB, tmp_path, [("ok", 0), ("hang-until-killed", 1)], workers=2))
    killer.join()
    assert values(results.items()) == {0: 0, 1: 1}
    assert results[1][1] != int((tmp_path / "pid").read_text())


def test_a_lost_node(nodes: Any, on_ray: None, tmp_path: Path):
    """The node on which a job runs is removed: the job is done on the other one."""

    def remove(pid: int) -> None:
        raylet = psutil.Process(pid).ppid()
        (lost,) = (one for one in nodes.worker_nodes if one.all_processes["raylet"][0].process.pid == raylet)
        nodes.remove_node(lost)

    remover = when_it_hangs(tmp_path, remove)
    results = dict(run_jobs(JOB, tmp_path, [("hang-until-killed", 1), ("ok", 0)], workers=2))
    remover.join()
    assert values(results.items()) == {0: 1, 1: 0}
    assert results[0][1] != int((tmp_path / "pid").read_text())
    assert len(nodes.worker_nodes) == 1
    add_node(nodes, num_cpus=1)
    nodes.wait_for_nodes(PATIENCE)


def test_the_time_is_up(on_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is when one job has ended and the other one hangs, however long that took; what hangs is stopped."""
    clock = [0.0]
    monkeypatch.setattr(ray_jobs, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    results = run_jobs(JOB, tmp_path, [("ok", 0), ("hang-until-killed", 1)], workers=2, deadline=PATIENCE)
    index, (value, _) = next(results)
    assert (index, value) == (0, 0)
    hanging = psutil.Process(pid_of_the_hanging(tmp_path))
    clock[0] = PATIENCE
    assert list(results) == []
    hanging.wait(PATIENCE)


def test_files_travel(on_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that the nodes do not see, since it is gone when the job begins."""
    path, pack = tmp_path / "file.txt", ray_jobs.packed
    path.write_text("what was in it")

    def packed(value: Any, put: Any) -> Any:
        made = pack(value, put)
        if isinstance(value, tuple):
            path.unlink()
        return made

    monkeypatch.setattr(ray_jobs, "packed", packed)
    assert values(run_jobs(JOB, tmp_path, [("read", path)], workers=2)) == {0: "what was in it"}


def test_no_node_can_take_a_job(nodes: Any):
    for wanted in ({"cpus": 64, "gpus": None}, {"cpus": 1, "gpus": 0.5}):
        with pytest.raises(UserError, match="no node has"), ray_jobs.cluster(nodes.address, workers=1, **wanted):
            pass


# Verbs


def evaluation(run: Path, *more: object) -> list[object]:
    return ["evaluate", run, "--students", TINY, "--seeds", 4, "--epochs", 20, "--workers", 2, *EAGER, *more]


def test_an_evaluation(nodes: Any, ddb: Callable, tmp_path: Path):
    left = []
    for name, more in (("local", ()), ("ray", ("--engine", "ray", "--ray-address", nodes.address))):
        assert ddb(*random_tiny(tmp_path / name)).code == 0
        result = ddb(*evaluation(tmp_path / name, "--calibration", *more))
        assert result.code == 0, result.err
        left.append(contents(tmp_path / name / "evaluations", "cost.json"))
    assert left[0] == left[1]


def test_experts(nodes: Any, ddb: Callable, tmp_path: Path):
    left = []
    for name, more in (("local", ()), ("ray", ("--engine", "ray", "--ray-address", nodes.address))):
        argv = ["buffer", "--dataset", "digits", "--student", TINY, "--experts", 4, "--epochs", 2, "--workers", 2]
        result = ddb(*argv, "--buffers", tmp_path / name, *EAGER, *more)
        assert result.code == 0, result.err
        left.append(contents(tmp_path / name, "cost.json"))
    assert left[0] == left[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_ends(number: int, ddb: Callable, data_root: Path, tmp_path: Path):
    """Nothing of its cluster is left; the same command, here on local workers, goes on."""
    for name in ("killed", "whole"):
        assert ddb(*random_tiny(tmp_path / name)).code == 0
    argv = evaluation(tmp_path / "killed", "--seeds", 40, "--engine", "ray")
    environment = {**os.environ, "DDBENCH_DATA": str(data_root), "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen([sys.executable, "-m", "ddbench", *map(str, argv)], env=environment)
    limit = time.monotonic() + PATIENCE
    while not halting.seen(tmp_path / "killed" / "evaluations", "*.parts/run-*.part"):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    computing = [one for one in family if "Agent" not in one.name()]  # two helpers look after their node now and then
    process.send_signal(number)
    code = process.wait(PATIENCE)
    assert code == -number if number == signal.SIGKILL else code in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    _, alive = psutil.wait_procs(computing, timeout=PATIENCE)
    assert not alive
    result = ddb(*evaluation(tmp_path / "killed", "--seeds", 40))
    assert result.code == 0
    assert "runs are there; going on with the others" in result.err
    assert ddb(*evaluation(tmp_path / "whole", "--seeds", 40)).code == 0
    left = [contents(tmp_path / name / "evaluations", "cost.json") for name in ("killed", "whole")]
    assert left[0] == left[1]


OWN = 'name = "quick-1"\nbase = "hard-v1"\nepochs = 3\n'
PLAN = """
title = "small"
[submission]
author = "A. Author"
licence = "MIT"
[defaults]
dataset = "digits"
ipc = 1
seeds = 2
protocols = ["quick.toml"]
students = ["mlp-d1-w8"]
[[cells]]
method = "random"
run_seeds = [0, 1]
minutes = 1
"""


def both(nodes: Any, ddb: Callable, command: Callable[[Path], list[object]], root: Path) -> None:
    """Run a command in one folder on local workers, in another one on the cluster."""
    for name, more in (("local", ()), ("ray", ("--engine", "ray", "--ray-address", nodes.address))):
        result = ddb(*command(root / name), "--workers", 2, "--threads", 1, "--quiet", *more)
        assert result.code == 0, result.err


def test_scores(nodes: Any, ddb: Callable, tmp_path: Path):
    def command(folder: Path) -> list[object]:
        assert ddb(*random_tiny(folder / "run")).code == 0
        flags = ("--student", TINY, "--repeats", 2, "--epochs", 2, "--cache", folder / "cache", "--compile", "off")
        return ["scores", folder / "run", *flags, "--out", folder / "scores.json"]

    both(nodes, ddb, command, tmp_path)
    local, ray = (contents(tmp_path / name, "cost.json") for name in ("local", "ray"))
    assert "scores.json" in local
    assert local == ray


def test_verification(nodes: Any, ddb: Callable, tmp_path: Path):
    def command(folder: Path) -> list[object]:
        folder.mkdir()
        (folder / "quick.toml").write_text(OWN)
        for argv in (
            random_tiny(folder / "run"),
            ["evaluate", folder / "run", "--protocol", folder / "quick.toml", "--students", TINY, "--seeds", 3, *EAGER],
            ["submit", folder / "run", "--leaderboard", folder / "board"],
        ):
            result = ddb(*argv)
            assert result.code == 0, result.err
        return ["leaderboard", "verify", "--leaderboard", folder / "board", "--work", folder / "work"]

    both(nodes, ddb, command, tmp_path)
    (local,), (ray,) = ([*(tmp_path / name / "board").rglob("*.verified.json")] for name in ("local", "ray"))
    assert local.name == ray.name
    assert local.read_bytes() == ray.read_bytes()
    assert b'"identical"' in local.read_bytes()


def test_a_plan(nodes: Any, ddb: Callable, tmp_path: Path):
    def command(folder: Path) -> list[object]:
        folder.mkdir()
        (folder / "quick.toml").write_text(OWN)
        (folder / "small.toml").write_text(PLAN.replace("quick.toml", str(folder / "quick.toml")))
        places = ("--out", folder / "work", "--leaderboard", folder / "board")
        return ["reproduce", folder / "small.toml", *places, "--compile", "off"]

    both(nodes, ddb, command, tmp_path)
    local, ray = (contents(tmp_path / name / "work", "cost.json", ".log") for name in ("local", "ray"))
    assert sum(path.endswith("synset.safetensors") for path in local) == 2
    assert local == ray
    rows = [load_results(tmp_path / name / "board") for name in ("local", "ray")]
    assert len(rows[0]) == 2
    assert [row.id for row in rows[0]] == [row.id for row in rows[1]]  # hashes of all but the cost


def test_a_distillation_in_parts(nodes: Any, ddb: Callable, tmp_path: Path):
    """Of a method that is in a file, and a part of which kills its worker."""
    (tmp_path / "bright.py").write_text(METHOD)

    def command(folder: Path) -> list[object]:
        (tmp_path / "dead").unlink(missing_ok=True)
        method = ("--method", "bright", "--method-file", tmp_path / "bright.py", "--die", tmp_path)
        flags = ("--dataset", "digits", "--ipc", 1, "--student", TINY, "--compile", "off")
        return ["distill", *method, *flags, "--out", folder]

    both(nodes, ddb, command, tmp_path)
    local, ray = (contents(tmp_path / name, "cost.json") for name in ("local", "ray"))
    assert local == ray
