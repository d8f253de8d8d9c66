"""kill -9 at work: the same command goes on, and leaves the bytes of a run that was never killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import halting
import psutil
import pytest
from conftest import EAGER, PATIENCE, TINY, contents, distill_tiny, no_children_left, random_tiny

import ddbench
from ddbench.runtime import jobs
from ddbench.runtime.errors import UserError
from ddbench.runtime.interruption import KEPT
from ddbench.runtime.jobs import WorkerDied, run_jobs

ROOT = Path(ddbench.__file__).parents[1]  # where the package of these tests lies: a wheel, or the checkout
SOON = 10.0
"""CPU seconds of a process that has only to see that its parent is gone, whatever it is at."""
RECORDED = "ddbench.evaluation.parts:Writer.append"


def started(argv: list[object], data: Path) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    environment = {**os.environ, "DDBENCH_DATA": str(data), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ddbench", *map(str, argv)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def halted(place: str, count: int, argv: list[object], data: Path, *constants: str) -> subprocess.Popen[bytes]:
    """The command, which stands still when a function has been called so often (:mod:`halting`): it cannot get further
    than this before it is killed."""
    environment = {**os.environ, "DDBENCH_DATA": str(data), "PYTHONPATH": str(ROOT)}
    return halting.started(halting.command("after", place, count, argv, *constants), environment)


def check_ended(family: Sequence[psutil.Process]) -> None:
    """All end by themselves, and soon by their own CPU time: by the clock a busy machine may need any number of
    seconds until it lets them."""
    used: dict[psutil.Process, list[float]] = {}
    limit, alive = time.monotonic() + PATIENCE, list(family)
    while alive:
        for one in alive:
            with contextlib.suppress(psutil.Error):  # it ended just now
                spent = sum(one.cpu_times()[:2])
                used.setdefault(one, []).append(spent)
        assert time.monotonic() < limit, "workers outlive the command"
        _, alive = psutil.wait_procs(alive, timeout=0.05)
    assert all(seen[-1] - seen[0] < SOON for seen in used.values()), "workers went on for nobody"


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """SIGKILL the process as soon as ``ready`` is true; its children must end by themselves."""
    limit = time.monotonic() + PATIENCE
    try:
        while not ready():
            assert process.poll() is None, f"ended before it could be killed: {process.stderr.read().decode()}"
            assert time.monotonic() < limit, "nothing happened"
            time.sleep(0.002)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    assert process.returncode == -signal.SIGKILL
    check_ended(children)


def loud(argv: list[object]) -> list[object]:
    return [part for part in argv if part != "--quiet"]


def test_buffer(ddb: Callable, data_root: Path, tmp_path: Path):
    def command(place: Path, workers: int) -> list[object]:
        return [
            *("buffer", "--dataset", "digits", "--student", TINY, "--experts", 6, "--epochs", 8),
            *("--workers", workers, "--buffers", place, *EAGER),
        ]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = halted("ddbench.experts.record:_take_in", 1, command(killed, 2), data_root)
    kill_when(process, lambda: bool(halting.seen(killed, "expert_*.safetensors")))
    done = sorted(path.name for path in killed.rglob("expert_*.safetensors"))
    assert len(done) < 6
    result = ddb(*command(killed, 2))
    assert result.code == 0, result.err
    assert f"{len(done)} of 6 experts are recorded" in result.err
    assert "going on" in result.err
    assert ddb(*command(whole, 1)).code == 0
    assert contents(killed, ".tmp", "cost.json") == contents(whole, "cost.json")
    assert len(contents(whole, "cost.json")) == 7
    assert ddb("buffer", "verify", killed).code == 0


def test_distill(ddb: Callable, data_root: Path, buffers: Path, tmp_path: Path):
    def command(place: Path) -> list[object]:
        more = ("--iterations", 9, "--student-steps", 5, "--checkpoint-every", 3, "--lr-images", 1)
        return loud(distill_tiny(buffers, place, *more))

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = halted("ddbench.distillation.runner:checkpoint", 1, command(killed), data_root)
    kill_when(process, (killed / "checkpoint.safetensors").exists)
    assert not (killed / "synset.safetensors").exists()
    result = ddb(*command(killed))
    assert result.code == 0, result.err
    assert "going on at iteration" in result.err
    assert "of 9" in result.err
    assert ddb(*command(whole)).code == 0
    final = contents(killed, "cost.json", ".tmp")
    assert set(final) == {"config.json", "metrics.jsonl", "preview.png", "synset.safetensors"}
    assert final == contents(whole, "cost.json")


def test_distill_graphs(ddb: Callable, data_root: Path, tmp_path: Path):
    def command(place: Path) -> list[object]:
        more = ("--iterations", 9, "--checkpoint-every", 2, "--student", "gin-d1-w4-mean", "--threads", 1)
        return ["distill", "--method", "doscond", "--dataset", "graphs:made", "--max-bytes", 400, "--out", place, *more]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = halted("ddbench.distillation.runner:checkpoint", 2, command(killed), data_root)
    kill_when(process, (killed / "checkpoint.safetensors").exists)
    assert not (killed / "synset.safetensors").exists()
    result = ddb(*command(killed))
    assert result.code == 0, result.err
    assert "going on at iteration" in result.err
    assert ddb(*command(whole)).code == 0
    final = contents(killed, "cost.json", ".tmp")
    assert set(final) == {"config.json", "metrics.jsonl", "preview.png", "synset.safetensors"}
    assert final == contents(whole, "cost.json")


def test_graphs_of_one_shot(ddb: Callable, data_root: Path, tmp_path: Path):
    """Killed before its product is written; typed again it ends in the same bytes."""

    def command(place: Path) -> list[object]:
        return ["distill", "--method", "mirage", "--dataset", "graphs:made", "--support", 0.3, "--out", place]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = halted("ddbench.distillation.product:write_json", 1, command(killed), data_root)
    kill_when(process, (killed / "cost.json").exists)
    assert not (killed / "synset.safetensors").exists()
    for place in (killed, whole):
        result = ddb(*command(place))
        assert result.code == 0, result.err
    final = contents(killed, "cost.json", ".tmp")
    assert set(final) == {"config.json", "preview.png", "synset.safetensors"}
    assert final == contents(whole, "cost.json")


@pytest.mark.parametrize("method", ["random", "mirage"])
def test_evaluate_graphs(method: str, ddb: Callable, data_root: Path, tmp_path: Path):
    budget = ("--max-bytes", 400) if method == "random" else ("--support", 0.3)
    for name in ("killed", "whole"):
        argv = ["distill", "--method", method, "--dataset", "graphs:made", *budget, "--out", tmp_path / name]
        assert ddb(*argv).code == 0

    def command(place: Path) -> list[object]:
        return ["evaluate", place, "--students", "gcn-d1-w4-mean", "--seeds", 2, "--workers", 1, "--threads", 1]

    partial = tmp_path / "killed" / "evaluations"

    def one_run_is_kept() -> bool:
        return bool(halting.seen(partial, "*.parts/run-*.part"))

    kill_when(halted(RECORDED, 1, command(tmp_path / "killed"), data_root), one_run_is_kept)
    assert not any(partial.glob("*.json"))
    result = ddb(*command(tmp_path / "killed"))
    assert result.code == 0, result.err
    assert "1 of 2 runs are there; going on with the others" in result.err
    assert ddb(*command(tmp_path / "whole")).code == 0
    final = contents(partial, "cost.json", ".tmp")
    assert set(final) == {"graph-v1.json"}
    assert final == contents(tmp_path / "whole" / "evaluations", "cost.json")


def test_evaluate(ddb: Callable, data_root: Path, tmp_path: Path):
    for name in ("killed", "whole"):
        assert ddb(*random_tiny(tmp_path / name)).code == 0

    def command(place: Path) -> list[object]:
        return [
            *("evaluate", place, "--students", TINY, "--seeds", 3, "--epochs", 200),
            *("--workers", 1, *EAGER),
        ]

    partial = tmp_path / "killed" / "evaluations"

    def one_run_is_kept() -> bool:
        return bool(halting.seen(partial, "*.parts/run-*.part"))

    kill_when(halted(RECORDED, 1, command(tmp_path / "killed"), data_root), one_run_is_kept)
    assert not any(partial.glob("*.json"))
    result = ddb(*command(tmp_path / "killed"))
    assert result.code == 0, result.err
    assert "of 3 runs are there; going on with the others" in result.err
    assert ddb(*command(tmp_path / "whole")).code == 0
    final = contents(partial, "cost.json", ".tmp")
    assert final == contents(tmp_path / "whole" / "evaluations", "cost.json")
    assert len(final) == 1


def test_measurements(ddb: Callable, data_root: Path, tmp_path: Path):
    """Killed among the attacks and corruptions: what is measured is kept, students are not trained again."""
    for name in ("killed", "whole"):
        assert ddb(*random_tiny(tmp_path / name)).code == 0

    def command(place: Path) -> list[object]:
        return [
            *("evaluate", place, "--students", TINY, "--seeds", 2, "--epochs", 20, "--workers", 1, *EAGER),
            *("--calibration", "--robustness", "--corruptions", "--max-images", 200),
        ]

    partial = tmp_path / "killed" / "evaluations"

    def some_probes_are_kept() -> bool:
        return len(halting.seen(partial, "*.parts/probe-*.part")) >= 4

    kill_when(halted(RECORDED, 2 + 4, command(tmp_path / "killed"), data_root), some_probes_are_kept)
    assert not any(partial.glob("*.json"))
    result = ddb(*command(tmp_path / "killed"))
    assert result.code == 0, result.err
    assert "all 2 runs" not in result.err
    assert "2 of 2 runs are there; going on with the others" in result.err
    assert "again" not in result.err
    assert ddb(*command(tmp_path / "whole")).code == 0
    final = contents(partial, "cost.json", ".tmp")
    assert final == contents(tmp_path / "whole" / "evaluations", "cost.json")
    assert any(name.endswith(".svg") for name in final)


def test_a_damaged_record_is_dropped(ddb: Callable, tmp_path: Path):
    """A run whose record is not whole is trained again."""
    assert ddb(*random_tiny(tmp_path / "run")).code == 0
    argv = ["evaluate", tmp_path / "run", "--students", TINY, "--epochs", 3, "--workers", 1, *EAGER]
    from ddbench.evaluation import tasks

    count = 0
    run_task = tasks.run_task

    def stop(job: Any, payload: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return run_task(job, payload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "run_task", stop)
        assert ddb(*argv).code == 130
    records = sorted((tmp_path / "run" / "evaluations").glob("*.parts/*.part"))
    assert len(records) == 2
    records[1].write_bytes(records[1].read_bytes()[:20])
    result = ddb(*argv)
    assert "1 of 5 runs are there" in result.err
    assert ddb(*argv, "--out", tmp_path / "whole.json").code == 0
    made = contents(tmp_path / "run" / "evaluations", "cost.json")
    assert [*made.values()] == [(tmp_path / "whole.json").read_bytes()]


def test_a_killed_search_goes_on(ddb: Callable, tmp_path: Path):
    """Learning rates that were tried are kept, and the numbers equal an uninterrupted evaluation's."""
    assert ddb(*random_tiny(tmp_path / "run")).code == 0
    argv = ["evaluate", tmp_path / "run", "--students", TINY, "--epochs", 3, "--workers", 1, "--seeds", 2, *EAGER]
    argv += ["--lr-source", "search"]
    from ddbench.evaluation import tasks

    run_task, tried = tasks.run_task, []

    def stop(job: Any, task: Any) -> Any:
        if len(tried) == 3:
            raise KeyboardInterrupt
        tried.append(task.lr)
        return run_task(job, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "run_task", stop)
        assert ddb(*argv).code == 130
    assert tried == [0.001, 0.005, 0.01]

    def go_on(job: Any, task: Any) -> Any:
        tried.append(task.lr)
        return run_task(job, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "run_task", go_on)
        assert ddb(*argv).code == 0
    assert tried[3:5] == [0.05, 0.1]
    assert len(tried) == 7, "five rates and two seeds, none of them twice"
    assert ddb(*argv, "--out", tmp_path / "whole.json").code == 0
    made = contents(tmp_path / "run" / "evaluations", "cost.json")
    assert [*made.values()] == [(tmp_path / "whole.json").read_bytes()]


# Worker processes


def test_jobs_of_a_killed_worker_are_done_again(light_workers: str, tmp_path: Path):
    payloads = [("ok", 0), ("die-once", 1), ("ok", 2), ("die-once", 3)]
    with no_children_left():
        results = dict(run_jobs(light_workers, tmp_path, payloads, workers=2))
    assert {index: value for index, (value, _) in results.items()} == {0: 0, 1: 1, 2: 2, 3: 3}
    assert os.getpid() not in {pid for _, pid in results.values()}


def test_job_whose_worker_is_killed_from_outside(light_workers: str, tmp_path: Path):
    victims = []

    def kill() -> None:
        limit = time.monotonic() + PATIENCE
        place = tmp_path / "pid"
        while not (place.exists() and place.read_text().endswith("\n")) and time.monotonic() < limit:
            time.sleep(0.01)
        victims.append(int(place.read_text()))
        (tmp_path / "killed").touch()
        os.kill(victims[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with no_children_left():
        results = dict(run_jobs(light_workers, tmp_path, [("ok", 0), ("hang-until-killed", 1)], workers=2))
    killer.join()
    assert {index: value for index, (value, _) in results.items()} == {0: 0, 1: 1}
    assert results[1][1] != victims[0]


def test_worker_that_dies_before_it_is_given_a_job(light_workers: str, tmp_path: Path, monkeypatch):
    give, dead = jobs._Worker.give, []

    def late(self: Any, index: int, payloads: Any) -> None:
        if not dead:
            dead.append(self.process.pid)
            self.process.kill()
            self.process.join()
        give(self, index, payloads)

    monkeypatch.setattr(jobs._Worker, "give", late)
    results = dict(run_jobs(light_workers, tmp_path, [("ok", 0), ("ok", 1)], workers=2))
    assert {index: value for index, (value, _) in results.items()} == {0: 0, 1: 1}
    assert not {pid for _, pid in results.values()} & set(dead)


def test_job_that_always_dies(light_workers: str, tmp_path: Path):
    with no_children_left(), pytest.raises(UserError, match=r"died 3 times on the same job \(exit code -9\)"):
        list(run_jobs(light_workers, tmp_path, [("die", 7), ("ok", 1)], workers=2))
    assert (tmp_path / "tries").read_text() == "7\n" * 3


def test_the_others_go_on_where_a_job_always_dies(light_workers: str, tmp_path: Path):
    with no_children_left():
        jobs_of = [("die", 7), ("ok", 1), ("die", 8), ("ok", 2), ("ok", 3)]
        found = dict(run_jobs(light_workers, tmp_path, jobs_of, workers=2, survive=True))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert [isinstance(found[index], WorkerDied) for index in range(5)] == [True, False, True, False, False]
    assert [found[index][0] for index in (1, 3, 4)] == [1, 2, 3]
    assert sorted((tmp_path / "tries").read_text().split()) == ["7"] * 3 + ["8"] * 3


def test_exception_in_a_job(light_workers: str, tmp_path: Path):
    with no_children_left(), pytest.raises(RuntimeError) as caught:
        list(run_jobs(light_workers, tmp_path, [("raise", 5), ("ok", 1)], workers=2))
    text = str(caught.value)
    assert "ZeroDivisionError: job 5" in text
    assert "Traceback" in text
    assert "workers.py" in text


def test_user_error_in_a_job(light_workers: str, tmp_path: Path):
    with no_children_left(), pytest.raises(UserError, match=r"^value 4 cannot be$"):
        list(run_jobs(light_workers, tmp_path, [("user-error", 4), ("ok", 1)], workers=2))


def test_jobs_in_this_process(light_workers: str, tmp_path: Path):
    results = list(run_jobs(light_workers, tmp_path, [("ok", 0), ("ok", 1)], workers=1))
    assert results == [(0, (0, os.getpid())), (1, (1, os.getpid()))]
    assert list(run_jobs(light_workers, tmp_path, [], workers=2)) == []


HANGING = """
import sys
from pathlib import Path
from ddbench.runtime.jobs import run_jobs
if __name__ == "__main__":
    list(run_jobs("workers:job", Path(sys.argv[1]), [("compute", 0), ("compute", 1)], workers=2))
"""


def test_workers_end_with_a_killed_parent(light_workers: str, tmp_path: Path):
    """In the middle of a job that would never end; nothing is left that would go on computing."""
    script = tmp_path / "script.py"
    script.write_text(HANGING)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    limit = time.monotonic() + PATIENCE
    while not (tmp_path / "pid").exists():
        assert parent.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) >= 2
    parent.kill()
    parent.wait()
    check_ended(family)


def test_jobs_see_the_environment_of_now(light_workers: str, tmp_path: Path, monkeypatch):
    for value in ("one", "two"):
        monkeypatch.setenv("DDBENCH_TEST_VALUE", value)
        results = dict(run_jobs(light_workers, tmp_path, [("environment", 0), ("environment", 1)], workers=2))
        assert {seen for seen, _ in results.values()} == {value}


def test_terminated(tmp_path: Path, data_root: Path):
    """SIGTERM ends a verb as Ctrl-C does: one line, the workers gone, an exit code that says which."""
    argv = ["buffer", "--dataset", "digits", "--student", TINY, "--experts", 4, "--epochs", 20000, "--workers", 2]
    process = subprocess.Popen(
        [sys.executable, "-m", "ddbench", *map(str, argv), "--buffers", str(tmp_path), *EAGER],
        env={**os.environ, "DDBENCH_DATA": str(data_root), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + PATIENCE
    while not halting.seen(tmp_path, "*.json") or len(psutil.Process(process.pid).children(recursive=True)) < 3:
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.splitlines()[-1] == f"ddbench: terminated; {KEPT}"
    assert "Traceback" not in err
    check_ended(family)
