"""``ddbench slurm`` on a real Slurm of one node: an array, tasks that are killed, requeued, out of time, refused."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import halting
import psutil
import pytest
from conftest import EAGER, PATIENCE, TINY, contents, random_tiny
from slurm_cluster import DAEMONS, Cluster, running

import ddbench

ROOT = Path(ddbench.__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(DAEMONS.values()), reason="no Slurm here: apt-get install slurm-wlm munge"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def submitted(slurm: Cluster, ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``submitted(flags, verb)``: hand a verb to the cluster; the job's number. Its logs are in the folder."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.config))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def call(*argv: object) -> str:
        result = ddb("slurm", "--submit", "--logs", tmp_path, *argv)
        assert (result.code, result.err) == (0, "")
        return result.out.split()[2].rstrip(",")

    return call


def wait_for(ready: Callable[[], object], words: Callable[[], object]) -> None:
    limit = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < limit, words()
        time.sleep(0.1)


def log_of(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("ddbench-*.log")))


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


def completed(slurm: Cluster, job: str, folder: Path) -> None:
    """Wait until all tasks of a job have ended well."""

    def all_ended() -> bool:
        if "Reason=BeginTime" in slurm.call("scontrol", "show", "job", job):  # queued again: to begin in two minutes
            time.sleep(3)  # the node refuses it in the second of its end
            slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")
        return all(state in ENDED for state in slurm.states(job))

    wait_for(all_ended, lambda: (slurm.states(job), log_of(folder)))
    assert set(slurm.states(job)) == {"COMPLETED"}, log_of(folder)


def evaluation(run: Path, epochs: int, seeds: int = 4) -> list[object]:
    return ["evaluate", run, "--students", TINY, "--seeds", seeds, "--epochs", epochs, "--workers", 1, *EAGER]


def whole(ddb: Callable, tmp_path: Path, epochs: int, seeds: int = 4) -> dict[str, bytes]:
    """What an evaluation here, that nothing happened to, leaves."""
    assert ddb(*random_tiny(tmp_path / "whole")).code == 0
    assert ddb(*evaluation(tmp_path / "whole", epochs, seeds)).code == 0
    return contents(tmp_path / "whole" / "evaluations", "cost.json")


def left(run: Path) -> dict[str, bytes]:
    return contents(run / "evaluations", "cost.json")


def trained(run: Path) -> int:
    return len(halting.seen(run / "evaluations", "*.parts/run-*.part"))


def process_of(run: Path) -> psutil.Process:
    """The task's ddbench."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        line = one.info["cmdline"] or []
        if "evaluate" in line and str(run) in line and "-m" in line:
            found.append(one)
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def run(ddb: Callable, tmp_path: Path) -> Path:
    assert ddb(*random_tiny(tmp_path / "run")).code == 0
    return tmp_path / "run"


def test_a_task(slurm: Cluster, submitted: Callable, ddb: Callable, run: Path, tmp_path: Path):
    job = submitted(*evaluation(run, 3))
    completed(slurm, job, tmp_path)
    assert "result: " in log_of(tmp_path)
    assert left(run) == whole(ddb, tmp_path, 3)


@pytest.mark.parametrize("tasks", [2, 3])
def test_an_array(tasks: int, slurm: Cluster, submitted: Callable, ddb: Callable, run: Path, tmp_path: Path):
    """The tasks share the seeds out by themselves; the last one writes the result."""
    job = submitted("--array", tasks, *evaluation(run, 3, 7))
    completed(slurm, job, tmp_path)
    assert len(list(tmp_path.glob("ddbench-evaluate-*.log"))) == tasks
    assert "result: " in log_of(tmp_path)
    assert left(run) == whole(ddb, tmp_path, 3, 7)


EPOCHS = 500
"""A seed takes seconds: there is time to do something to it."""


def test_a_killed_process(slurm: Cluster, submitted: Callable, ddb: Callable, run: Path, tmp_path: Path):
    job = submitted(*evaluation(run, EPOCHS))
    wait_for(lambda: trained(run), lambda: log_of(tmp_path))
    process_of(run).send_signal(signal.SIGKILL)
    completed(slurm, job, tmp_path)
    assert "killed by signal 9 (try 1 of 3)" in log_of(tmp_path)
    assert "runs are there; going on with the others" in log_of(tmp_path)
    assert left(run) == whole(ddb, tmp_path, EPOCHS)


def test_a_task_that_is_requeued(slurm: Cluster, submitted: Callable, ddb: Callable, run: Path, tmp_path: Path):
    """As Slurm does itself after preemption and for a lost node."""
    job = submitted(*evaluation(run, EPOCHS))
    wait_for(lambda: trained(run), lambda: log_of(tmp_path))
    slurm.call("scontrol", "requeue", job)
    completed(slurm, job, tmp_path)
    assert "runs are there; going on with the others" in log_of(tmp_path)
    assert left(run) == whole(ddb, tmp_path, EPOCHS)


def test_a_task_whose_time_is_up(slurm: Cluster, submitted: Callable, ddb: Callable, run: Path, tmp_path: Path):
    """The signal that Slurm sends then: it stops, is queued again and goes on."""
    job = submitted(*evaluation(run, EPOCHS))
    wait_for(lambda: trained(run), lambda: log_of(tmp_path))
    slurm.call("scancel", "--signal=USR1", "--batch", job)
    completed(slurm, job, tmp_path)
    assert "the time is nearly up: queued again" in log_of(tmp_path)
    assert "runs are there; going on with the others" in log_of(tmp_path)
    assert left(run) == whole(ddb, tmp_path, EPOCHS)


def test_a_cancelled_task_stays_away(slurm: Cluster, submitted: Callable, run: Path, tmp_path: Path):
    job = submitted(*evaluation(run, EPOCHS))
    wait_for(lambda: trained(run), lambda: log_of(tmp_path))
    slurm.call("scancel", job)
    wait_for(lambda: slurm.states(job) == ["CANCELLED"], lambda: slurm.states(job))
    time.sleep(2)
    assert slurm.states(job) == ["CANCELLED"]
    assert trained(run) < 4


def test_no_such_partition(slurm: Cluster, monkeypatch: pytest.MonkeyPatch, refused: Callable):
    monkeypatch.setenv("SLURM_CONF", str(slurm.config))
    refused(["slurm", "--submit", "--partition", "nowhere", "evaluate", "x"], "invalid partition specified: nowhere")


def test_a_full_queue(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, refused: Callable):
    with running(tmp_path_factory.mktemp("slurm") / "full", cpus=1, jobs=3) as cluster:
        monkeypatch.setenv("SLURM_CONF", str(cluster.config))
        job = cluster.call("sbatch", "--parsable", "--array=0-1", "--wrap", "exec sleep 3000")
        said = refused(["slurm", "--submit", "evaluate", "x"], "temporarily unable to accept job")
        assert "failed" not in said  # sbatch's last word, after minutes of tries
        cluster.call("scancel", job)


def test_no_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable):
    monkeypatch.setenv("SLURM_CONF", os.fspath(tmp_path / "nothing.conf"))
    refused(["slurm", "--submit", "evaluate", "x"], "Slurm did not take the job: s_p_parse_file: cannot stat file")
