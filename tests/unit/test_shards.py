"""Work shared out over processes: any number of shards, in turn, at once or killed, leaves the bytes of one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import halting
import pytest
from conftest import EAGER, PATIENCE, TINY, contents

import ddbench
from ddbench.evaluation import tasks
from ddbench.runtime import shards, signs
from ddbench.runtime.errors import UserError
from ddbench.runtime.shards import WHOLE, Shard, Units, parse_shard, run_common, run_units, status_lines
from ddbench.runtime.temporary import is_temporary, machine

ROOT = Path(ddbench.__file__).parents[1]
OTHER = "mlp-d1-w4"


def started(argv: Sequence[object], data: Path, **more: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    environment = {**os.environ, "DDBENCH_DATA": str(data), "PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-m", "ddbench", *map(str, argv)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def halted(place: str, argv: Sequence[object], data: Path) -> subprocess.Popen[bytes]:
    """The command, which stands still before a function's second call (:mod:`halting`)."""
    environment = {**os.environ, "DDBENCH_DATA": str(data), "PYTHONPATH": str(ROOT)}
    return halting.started(halting.command("before", place, 2, argv), environment)


def ended(process: subprocess.Popen[str]) -> str:
    """What a command printed; it must end well."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out


def wait_for(process: subprocess.Popen[Any], ready: Callable[[], bool]) -> None:
    """Wait until something is so; the process must be at work until then."""
    limit = time.monotonic() + PATIENCE
    try:
        while not ready():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit, "nothing happened"
            time.sleep(0.002)
    except BaseException:
        process.kill()
        process.communicate()
        raise


def dead_sign(folder: Path, suffix: str, **content: Any) -> Path:
    """The sign of a process of another machine that fell silent."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"elsewhere.7.00000000{suffix}"
    path.write_text(json.dumps({"since": 1.5, **content}))
    os.utime(path, (0, path.stat().st_mtime - signs.SILENCE - 60))
    return path


# Which part


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_parts_are_disjoint_and_all(count: int):
    units = list("abcdefg")
    parts = [Shard(index, count).own(units) for index in range(count)]
    assert sorted(unit for part in parts for unit in part) == units
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(sorted(Shard(index, count).rotated(units)) == units for index in range(count))


def slurm(**values: object) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, {}, WHOLE),
        ("2/5", {}, Shard(2, 5)),
        ("0/1", slurm(ID=3, COUNT=4, MIN=0), WHOLE),  # what is said counts
        (None, slurm(ID=3, COUNT=4, MIN=0), Shard(3, 4)),
        ("environment", slurm(ID=4, COUNT=4, MIN=1), Shard(3, 4)),
        (None, slurm(ID=9, COUNT=3, MIN=5, STEP=2), Shard(2, 3)),
        (None, slurm(ID=7, COUNT=1, MIN=7), Shard(0, 1)),
        ("JOB_COMPLETION_INDEX/8", {"JOB_COMPLETION_INDEX": "7"}, Shard(7, 8)),
    ],
)
def test_which_part(text: str | None, environment: dict[str, str], expected: Shard):
    found = parse_shard(text, environment)
    assert (found.index, found.count) == (expected.index, expected.count)


@pytest.mark.parametrize(
    ("flags", "environment", "needle"),
    [
        (["--shard", "3/2"], {}, "counted from 0"),
        (["--shard", "2/2"], {}, "counted from 0"),
        (["--shard", "x/2"], {}, "'x' is no number"),
        (["--shard", "-1/2"], {}, "--shard"),
        (["--shard", "1"], {}, "expected i/n"),
        (["--shard", "0/0"], {}, "expected i/n"),
        (["--shard", "1/x"], {}, "expected i/n"),
        (["--shard", "0/" + "9" * 5000], {}, "expected i/n"),
        (["--shard", "9" * 5000 + "/2"], {}, "is no number"),
        (["--shard", "NOT_THERE/2"], {}, "'NOT_THERE' is no number"),
        (["--shard"], {}, "no SLURM_ARRAY_TASK_ID"),
        ([], slurm(ID="x", COUNT=2), "SLURM_ARRAY_TASK_ID is 'x'"),
        ([], slurm(ID=0, COUNT="9" * 5000), "SLURM_ARRAY_TASK_COUNT is '999"),
        ([], slurm(ID=0), "SLURM_ARRAY_TASK_COUNT is ''"),
        ([], slurm(ID=7, COUNT=3, MIN=0), "without gaps"),
        ([], slurm(ID=2, COUNT=3, MIN=1, STEP=2), "without gaps"),
    ],
)
def test_wrong_parts_are_refused(
    flags: list[str], environment: dict[str, str], needle: str, random_run: Path, refused: Callable, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    refused(["evaluate", random_run, *flags], "--shard", needle, root=random_run)


# Who is at which unit


def test_a_sign_with_an_impossible_process_is_of_a_dead_one(tmp_path: Path):
    """Anybody may put a file of such a name into a folder."""
    for pid in ("9" * 15, "9" * 200):
        (tmp_path / f"{machine()}.{pid}.00000000{shards.CLAIM}").write_text("{}")
    assert [seen.dead for seen in signs.signs(tmp_path, shards.CLAIM)] == [True, True]


def test_what_became_of_units(tmp_path: Path):
    units = Units(tmp_path / "units")
    names = ["a", "b", "c", "d", "e"]
    dead_sign(units.folder, shards.CLAIM, units=["c"])
    with units.at(["b"]), pytest.raises(UserError), units.at(["d"]):
        raise UserError("no\nspace")
    with units.at(["b"]):
        found = {one.unit: one for one in units.states(names, {"a"})}
        assert [one.state for one in found.values()] == ["done", "running", "failed", "failed", "open"]
        assert f"process {os.getpid()} on {machine()}" in found["b"].words
        assert "process 7 on elsewhere" in found["c"].words
        assert found["d"].words.startswith("no space (process")
        lines = status_lines("x.json", list(found.values()))
        assert lines[0] == "x.json: 1 done, 1 running, 2 failed, 1 open, of 5"
        assert len(lines) == 4
        with units.at(["c", "d"]):  # tried again
            assert [one.state for one in units.states(["c", "d"], ())] == ["running", "running"]
        assert [one.state for one in units.states(["c", "d"], ())] == ["open", "open"]
        units.clear()
        assert units.running(), "this one is at work"
    units.clear()
    assert not units.folder.exists()


def test_a_killed_process_of_this_machine_failed_at_once(tmp_path: Path):
    units = Units(tmp_path / "units")
    script = (
        "import os, sys; from pathlib import Path; from ddbench.runtime.shards import Units\n"
        "with Units(Path(sys.argv[1])).at(['a']): os._exit(1)"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(units.folder)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ran.returncode == 1
    assert [one.state for one in units.states(["a"], ())] == ["failed"]
    assert not units.running()
    with units.at(["a"]):
        pass
    assert not list(units.folder.iterdir()), "what the dead process left is gone"


def fails(shared: Path, payload: str) -> str:
    """A job; run by a worker."""
    if payload == "bad":
        raise UserError("it is bad")
    if payload == "die":
        os._exit(9)
    if payload == "wait":
        time.sleep(PATIENCE)
    return payload


@pytest.mark.parametrize(
    ("payload", "expected"),
    [("bad", {"bad": "it is bad"}), ("die", {"die": "ended in it without a word"})],
)
def test_failed_jobs_are_known(payload: str, expected: dict[str, str], tmp_path: Path, monkeypatch):
    """What failed is told by name; what was stopped with it is open."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    units = Units(tmp_path / "units")
    jobs = [payload, "wait"]
    with pytest.raises(UserError):
        list(run_units("test_shards:fails", tmp_path, jobs, 2, units=units, names=[(job,) for job in jobs]))
    found = {one.unit: one for one in units.states(jobs, ())}
    for name, words in expected.items():
        assert found[name].state == "failed"
        assert words in found[name].words
    if payload == "bad":
        assert found["wait"].state == "open"


def test_why_a_unit_failed_is_told_where_that_cannot_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk is full, or the folder was taken away, which is not made again."""

    def full(path: Path, text: str) -> None:
        raise UserError("the disk is full")

    def fail(change: Callable[[], object]) -> None:
        with units.at(["unit"]):
            change()
            raise UserError("the reason")

    units = Units(tmp_path / "units")
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"^the reason$"):
        fail(lambda: patch.setattr(shards, "write_text", full))
    with pytest.raises(UserError, match=r"^the reason$"):
        fail(lambda: shutil.rmtree(units.folder))
    assert not units.folder.exists()


def test_no_unit_is_begun_where_the_work_was_taken_away(tmp_path: Path):
    """Its sign would make the folder again."""
    work = tmp_path / "work"
    with pytest.raises(UserError, match=f"^{work} is gone"), Units(work / "units").at(["unit"]):
        pytest.fail("begun")
    assert not work.exists()


def test_what_all_need_is_done_by_one(tmp_path: Path, monkeypatch):
    """A unit that a living process is at is waited for; one of a dead process is done again."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(shards, "POLL", 0.01)
    units, there = Units(tmp_path / "units"), set()
    dead_sign(units.folder, shards.CLAIM, units=["b"])
    other = units.at(["c"])
    other.__enter__()
    looks = []

    def done() -> set[str]:
        looks.append(set(there))
        if len(looks) == 6:  # the other one ends
            there.add("c")
            other.__exit__(None, None, None)
        return there

    names = ["a", "b", "c"]
    made = []
    for index, value in run_common(
        *("test_shards:fails", tmp_path, names, 1), units=units, names=names, done=done, shard=Shard(1, 2)
    ):
        assert value == names[index]
        made.append(value)
        there.add(value)
    assert sorted(made) == ["a", "b"]
    assert made[0] == "b", "shard 1 of 2 begins in the middle"


# Turns


def test_turns(tmp_path: Path, monkeypatch):
    """Who comes second waits and says so; a dead process's turn is over."""
    place = tmp_path / "locks" / "experts"
    left = place.with_name(f"experts{signs.TURN}")
    said, waited = [], []
    first = signs.turn(place, "store")

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            first.__exit__(None, None, None)

    monkeypatch.setattr(signs.time, "sleep", sleep)
    first.__enter__()
    with signs.turn(place, "store", said.append):
        assert left.exists()
    assert not left.exists()
    (line,) = said
    assert line.startswith(f"process {os.getpid()} on {machine()} is at work on this store; waiting for it")
    assert waited == [signs.POLL] * 3
    left.parent.mkdir(exist_ok=True)
    left.write_text("elsewhere.7.00000000.turn\n{}")
    os.utime(left, (0, left.stat().st_mtime - signs.SILENCE - 60))
    with signs.turn(place, "store"):
        assert left.read_text().startswith(machine())
    assert list(place.parent.iterdir()) == []
    with signs.turn(tmp_path / "new" / "folder" / "it", "store"):
        pass
    assert not (tmp_path / "new").exists(), "nothing is left behind"
    assert len(waited) == 3


def test_waiting_for_a_turn_costs_nothing(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who waited may go on where another one was killed: that one's seconds are in the checkpoint already."""
    real, clock, waited = signs.Sign.take, signs.time.perf_counter, []

    def take(sign: signs.Sign, path: Path) -> bool:
        if not waited:
            path.write_text(f"elsewhere.7.00000000{signs.TURN}\n{{}}")
        return real(sign, path)

    def sleep(seconds: float) -> None:
        waited.append(1000.0)
        (tmp_path / "run" / "units" / f"run{signs.TURN}").unlink()

    monkeypatch.setattr(signs.Sign, "take", take)
    monkeypatch.setattr(signs.time, "sleep", sleep)
    monkeypatch.setattr(signs.time, "perf_counter", lambda: clock() + sum(waited))
    run = ["distill", "--method", "random", "--dataset", "digits", "--ipc", 1, "--out", tmp_path / "run"]
    result = ddb(*run)
    assert result.code == 0, result.err
    assert len(waited) == 1
    assert json.loads((tmp_path / "run" / "cost.json").read_text())["wall_seconds"] < 1000


def sign_of_a_dead_one() -> str:
    """What a process that is no more left in the place of a turn."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return f"{machine()}.{ended.pid}.00000000{signs.TURN}\n{{}}"


def test_a_sign_that_took_a_dead_ones_place_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two processes saw a dead one's sign; the slower one must not move what the faster one put there since."""
    place = tmp_path / f"it{signs.TURN}"
    place.write_text(sign_of_a_dead_one())
    seen = signs._holder(place)
    assert seen is not None
    assert seen.dead
    with signs.turn(tmp_path / "it", "number"):
        there, look = [], signs._holder
        monkeypatch.setattr(signs, "_holder", lambda path: there.append(place.exists()) or look(path))
        signs._bury(place, seen)
        assert there, "it was looked at again"
        assert all(there), "or a third one could have taken the place meanwhile"
        assert place.exists()
    assert list(tmp_path.iterdir()) == []


def test_who_takes_a_dead_ones_sign_away_may_be_killed_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place, dead = tmp_path / f"it{signs.TURN}", sign_of_a_dead_one()
    place.write_text(dead)
    with monkeypatch.context() as patch:
        patch.setattr(signs.Sign, "leave", lambda self: signs._OWN.discard(self.path))
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        signs._bury(place, signs._holder(place))
    (grave,) = (path for path in tmp_path.iterdir() if path != place and not path.name.startswith(".clock"))
    assert is_temporary(grave)
    grave.write_text(f"elsewhere.7.00000000{signs.TURN}\n{{}}")  # another machine's, alive
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        grave.write_text(dead)  # as that of a killed one

    monkeypatch.setattr(signs.time, "sleep", sleep)
    with signs.turn(tmp_path / "it", "number"):
        assert not grave.exists()
    assert waited == [signs.POLL], "somebody alive was at it"
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".clock")] == []


def test_turns_exclude_each_other(tmp_path: Path):
    """Four processes count up a number in a file, each reading and writing it in its turn."""
    script = (
        "import sys; from pathlib import Path; from ddbench.runtime import signs\n"
        "signs.POLL = 0.002; number = Path(sys.argv[1]) / 'number'\n"
        "for _ in range(20):\n"
        "    with signs.turn(Path(sys.argv[1]) / 'it', 'number'): number.write_text(str(int(number.read_text()) + 1))\n"
    )
    (tmp_path / "number").write_text("0")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    crew = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in crew:
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
    assert (tmp_path / "number").read_text() == "80"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


# Evaluations


def evaluation(run: Path, out: Path, *more: object) -> list[object]:
    return [
        *("evaluate", run, "--students", f"{TINY},{OTHER}", "--seeds", 3, "--epochs", 2, "--workers", 1, "--quiet"),
        *("--out", out, *EAGER, *more),
    ]


MEASURED = ("--calibration", "--lr-source", "search", "--at-once", 2)


@pytest.mark.parametrize("more", [(), MEASURED], ids=["plain", "measured"])
@pytest.mark.parametrize("order", [(0, 1), (2, 0, 1), (4, 3, 2, 1, 0)])
def test_shards_in_turn(
    more: tuple[object, ...], order: tuple[int, ...], ddb: Callable, random_run: Path, tmp_path: Path
):
    """Whichever comes last writes the result; until then there is none."""
    whole, out = tmp_path / "one" / "score.json", tmp_path / "parts" / "score.json"
    assert ddb(*evaluation(random_run, whole, *more)).code == 0
    for position, index in enumerate(order):
        shard = f"{index}/{len(order)}"
        made = ddb(*evaluation(random_run, out, *more, "--shard", shard))
        assert made.code == 0, made.err
        if position + 1 < len(order) and not out.exists():
            assert made.out.startswith(f"shard {shard}: its runs are done (")
    assert contents(out.parent, "cost.json") == contents(whole.parent, "cost.json")
    costs = [json.loads(path.with_name("score.cost.json").read_text())["runs"] for path in (whole, out)]
    assert [{**run, "cpu_seconds": 0}.keys() for run in costs[0]] == [
        {**run, "cpu_seconds": 0}.keys() for run in costs[1]
    ]
    again = ddb(*evaluation(random_run, out, *more, "--shard", "1/2"))
    assert again.code == 0
    assert f"result: {out}" in again.out


def test_shards_at_once(ddb: Callable, random_run: Path, data_root: Path, tmp_path: Path):
    whole, out = tmp_path / "one" / "score.json", tmp_path / "parts" / "score.json"
    more = ("--lr-source", "search")
    assert ddb(*evaluation(random_run, whole, *more)).code == 0
    tasks = [
        started(evaluation(random_run, out, *more), data_root, **slurm(ID=index, COUNT=3, MIN=1)) for index in (1, 2, 3)
    ]
    said = [ended(process) for process in tasks]
    assert any(f"result: {out}" in text for text in said)
    assert contents(out.parent, "cost.json") == contents(whole.parent, "cost.json")


def test_a_killed_shard_is_typed_again(ddb: Callable, random_run: Path, data_root: Path, tmp_path: Path):
    """Status tells what it was at; the same command goes on, and another shard's records are not lost."""
    whole, out = tmp_path / "one" / "score.json", tmp_path / "parts" / "score.json"

    def long(out: Path, *more: object) -> list[object]:
        return evaluation(random_run, out, "--epochs", 150, *more)

    assert ddb(*long(whole)).code == 0
    assert ddb(*long(out, "--shard", "1/2")).code == 0
    other = set(out.parent.glob("score.parts/run-*"))
    assert len(other) == 3
    victim = halted("ddbench.evaluation.tasks:run_task", long(out, "--shard", "0/2"), data_root)
    parts = out.parent / "score.parts"
    wait_for(victim, lambda: len(halting.seen(parts, "run-*")) == 4 and bool(halting.seen(parts, "units/*.claim")))
    shown = ddb(*long(out, "--status"))
    victim.kill()
    victim.communicate()
    assert shown.code == 0
    assert shown.out.startswith(f"{out}: 4 done, 1 running, 1 open, of 6\n"), shown.out
    assert "seed" in shown.out.splitlines()[1]
    shown = ddb(*long(out, "--status"))
    assert shown.out.startswith(f"{out}: 4 done, 1 failed, 1 open, of 6\n")
    assert f"process {victim.pid} on {machine()} ended in it without a word" in shown.out
    assert not out.exists()
    assert ddb(*long(out, "--shard", "0/2")).code == 0
    assert contents(out.parent, "cost.json") == contents(whole.parent, "cost.json")
    assert ddb(*long(out, "--status")).out == f"{out}: 6 done, of 6\n"


def test_a_failed_unit_is_told(ddb: Callable, random_run: Path, tmp_path: Path, monkeypatch):
    out, real = tmp_path / "score.json", tasks.run_task

    def run_task(job: Any, task: Any) -> Any:
        if task.seeds == (1,):
            raise UserError("the device is gone")
        return real(job, task)

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "run_task", run_task)
        assert ddb(*evaluation(random_run, out, "--shard", "0/1")).code == 2
    shown = ddb(*evaluation(random_run, out, "--status"))
    assert shown.out.startswith(f"{out}: 1 done, 1 failed, 4 open, of 6\n  failed   {TINY} seed 1  the device is gone")
    assert ddb(*evaluation(random_run, out)).code == 0
    assert [path.name for path in sorted(tmp_path.glob("score*"))] == ["score.cost.json", "score.json"]


def test_status_writes_nothing(ddb: Callable, random_run: Path, tmp_path: Path):
    place = tmp_path / "not" / "there" / "score.json"
    shown = ddb(*evaluation(random_run, place, "--status", "--calibration"))
    assert shown.out == f"{place}: 0 done, 12 open, of 12\n"
    assert not place.parent.parent.exists()


# Experts


def experts(place: Path, *more: object) -> list[object]:
    return [
        *("buffer", "--dataset", "digits", "--student", TINY, "--experts", 5, "--epochs", 2, "--quiet"),
        *("--workers", 1, "--buffers", place, *EAGER, *more),
    ]


def costs_of(place: Path) -> list[str]:
    return sorted(json.loads(next(place.rglob("cost.json")).read_text()))


@pytest.mark.parametrize("more", [(), ("--at-once", 2)], ids=["one by one", "at once"])
def test_shards_of_experts_in_turn(more: tuple[object, ...], ddb: Callable, tmp_path: Path):
    whole, parts = tmp_path / "one", tmp_path / "parts"
    assert ddb(*experts(whole, *more)).code == 0
    shown = ddb(*experts(parts, "--status"))
    assert shown.out.endswith(": 0 done, 5 open, of 5\n")
    assert not parts.exists()
    for shard in ("2/3", "0/3", "1/3"):
        made = ddb(*experts(parts, *more, "--shard", shard))
        assert made.code == 0, made.err
        assert made.out.startswith(f"shard {shard}: its experts are done (" if shard != "1/3" else "5 experts")
    assert contents(parts, "cost.json") == contents(whole, "cost.json")
    assert costs_of(parts) == costs_of(whole)
    assert ddb("buffer", "verify", parts).code == 0


def test_shards_of_experts_at_once(ddb: Callable, data_root: Path, tmp_path: Path):
    whole, parts = tmp_path / "one", tmp_path / "parts"
    assert ddb(*experts(whole)).code == 0
    for process in [started(experts(parts, "--shard", f"{index}/3"), data_root) for index in range(3)]:
        ended(process)
    assert contents(parts, "cost.json") == contents(whole, "cost.json")
    assert costs_of(parts) == costs_of(whole)


def claims(folder: Path) -> str:
    """What the signs in a folder say; one may be replaced or taken away while it is looked for."""
    said = []
    for path in halting.seen(folder, "*.claim"):
        with suppress(FileNotFoundError):
            said.append(path.read_text())
    return "".join(said)


def test_a_killed_shard_of_experts(ddb: Callable, data_root: Path, tmp_path: Path):
    whole, parts = tmp_path / "one", tmp_path / "parts"

    def long(place: Path, *more: object) -> list[object]:
        return experts(place, "--epochs", 40, *more)

    assert ddb(*long(whole)).code == 0
    victim = halted("ddbench.experts.record:record_block", long(parts, "--shard", "0/2"), data_root)
    wait_for(victim, lambda: "expert 00002" in claims(parts))
    victim.kill()
    victim.communicate()
    assert ddb(*long(parts, "--shard", "1/2")).code == 0
    shown = ddb(*long(parts, "--status")).out
    assert "1 failed" in shown
    assert f"process {victim.pid} on {machine()} ended in it without a word" in shown
    assert ddb(*long(parts, "--shard", "0/2")).code == 0
    assert contents(parts, "cost.json") == contents(whole, "cost.json")
    assert ddb(*long(parts, "--status")).out.endswith(": 5 done, of 5\n")


def test_an_expert_that_came_meanwhile_keeps_its_bytes(ddb: Callable, tmp_path: Path, monkeypatch):
    """Of two that record the same expert the first one's file stays: its hash may be known to others."""
    from ddbench.experts.store import TrajectoryStore

    write, written = TrajectoryStore.write_expert, []

    def wrapped(store: TrajectoryStore, index: int, *args: Any) -> None:
        written.append(index)
        write(store, index, *args)

    from ddbench.experts import record

    monkeypatch.setattr(TrajectoryStore, "write_expert", wrapped)
    real, done = record.trajectories, []

    def second(*args: Any, **more: Any) -> Any:
        if not done:
            done.append(1)
            assert ddb(*experts(tmp_path)).code == 0
        return real(*args, **more)

    monkeypatch.setattr(record, "trajectories", second)
    assert ddb(*experts(tmp_path)).code == 0
    assert sorted(written) == [0, 1, 2, 3, 4]
    assert costs_of(tmp_path) == [f"{index:05d}" for index in range(5)]
    assert not list(tmp_path.rglob("units"))


# Plans

PLAN = f"""
title = "small"
[submission]
author = "A. Author"
licence = "MIT"
[defaults]
dataset = "digits"
seeds = 2
protocols = ["brief.toml", "briefer.toml"]
students = ["{OTHER}"]
[[cells]]
method = "random"
ipc = 1
run_seeds = [0, 1]
minutes = 2
[[cells]]
method = "kmeans"
ipc = 1
minutes = 1
"""


def plan_in(folder: Path, text: str = PLAN) -> list[object]:
    """The command that fills a plan in a folder."""
    folder.mkdir()
    for name, epochs in (("brief", 3), ("briefer", 2)):
        text = text.replace(f'"{name}.toml"', f'"{folder / name}.toml"')
        (folder / f"{name}.toml").write_text(f'name = "{name}-v1"\nbase = "hard-v1"\nepochs = {epochs}\n')
    (folder / "small.toml").write_text(text)
    places = ("--out", folder / "out", "--leaderboard", folder / "board")
    return ["reproduce", folder / "small.toml", *places, "--threads", 1, "--compile", "off", "--quiet"]


def rows_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "board" / "results").rglob("*.json"))


def test_cells_of_a_run_stay_together(tmp_path: Path):
    from ddbench.leaderboard.plans import find_plan
    from ddbench.leaderboard.reproduction import choose_cells, own_cells

    cells = choose_cells(find_plan(str(plan_in(tmp_path / "plan")[1])))
    parts = [own_cells(cells, Shard(index, 2)) for index in range(2)]
    assert sorted(cell.name for part in parts for cell in part) == sorted(cell.name for cell in cells)
    assert not {cell.run for cell in parts[0]} & {cell.run for cell in parts[1]}
    assert sorted(map(len, parts)) == [2, 4]


@pytest.mark.parametrize("at_once", [False, True], ids=["in turn", "at once"])
def test_shards_of_a_plan(at_once: bool, ddb: Callable, data_root: Path, tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert ddb(*plan_in(whole)).code == 0
    command = plan_in(parts)
    shown = ddb(*command, "--status")
    assert shown.out == "small: 0 done, 6 open, of 6\n"
    assert not (parts / "out").exists()
    if at_once:
        for process in [started(command, data_root, **slurm(ID=index, COUNT=2, MIN=0)) for index in range(2)]:
            ended(process)
    else:
        assert "2 of 6 cells have a row" in ddb(*command, "--shard", "1/2").out
        assert ddb(*command, "--status").out == "small: 2 done, 4 open, of 6\n"
        assert "6 of 6 cells have a row" in ddb(*command, "--shard", "0/2").out
    assert rows_in(parts) == rows_in(whole)
    assert len(rows_in(parts)) == 6
    assert ddb("leaderboard", "build", "--leaderboard", parts / "board", "--check").code == 0
    for name in ("experts", "runs"):
        assert contents(parts / "out" / name, "cost.json") == contents(whole / "out" / name, "cost.json")
    assert not (parts / "out" / "units").exists()
    assert list((parts / "out").rglob("*.turn")) == []


def test_a_failed_and_a_killed_cell(ddb: Callable, data_root: Path, tmp_path: Path):
    """Status names them; typed again, the killed one is done."""
    text = PLAN.replace("seeds = 2", "seeds = 12") + '[[cells]]\nmethod = "herding"\nipc = 100000\nminutes = 0.1\n'
    command = plan_in(tmp_path / "plan", text)
    brief = [*command, "--only", "*/brief-v1"]
    victim = halted("ddbench.evaluation.parts:Writer.append", [*brief, "--workers", 1], data_root)
    place = tmp_path / "plan" / "out"
    signs_of_both = ("evaluations/*.parts/run-*", "units/*.failed")
    wait_for(victim, lambda: all(halting.seen(place, pattern) for pattern in signs_of_both))
    victim.kill()
    victim.communicate()
    shown = ddb(*brief, "--status").out
    assert "2 failed" in shown or "3 failed" in shown, shown
    assert "herding-s0/brief-v1" in shown
    assert "ended in it without a word: killed?" in shown
    again = ddb(*brief)
    assert again.code == 2
    assert "3 of 4 cells have a row" in again.out
    shown = ddb(*brief, "--status").out
    assert shown.startswith("small: 3 done, 1 failed, of 4\n  failed ")
    assert "herding" in shown.splitlines()[1]


# Verifications


@pytest.fixture
def board(ddb: Callable, random_run: Path, tmp_path: Path) -> Path:
    """A board with three rows."""
    for epochs in (2, 3, 4):
        protocol = tmp_path / f"p{epochs}.toml"
        protocol.write_text(f'name = "p{epochs}-v1"\nbase = "hard-v1"\nepochs = {epochs}\n')
        scored = ("--students", OTHER, "--seeds", 2, "--workers", 1, "--quiet")
        assert ddb("evaluate", random_run, "--protocol", protocol, *scored, *EAGER).code == 0
        assert ddb("submit", random_run, "--protocol", f"p{epochs}-v1", "--leaderboard", tmp_path / "board").code == 0
    return tmp_path / "board"


def test_shards_of_a_verification(ddb: Callable, board: Path, data_root: Path, tmp_path: Path):
    def verify(board: Path, *more: object) -> list[object]:
        work = ("--work", board.parent / f"work-{board.name}", "--compile", "off")
        return ["leaderboard", "verify", "--leaderboard", board, *work, *more]

    copies = [Path(shutil.copytree(board, tmp_path / name)) for name in ("whole", "turn", "once")]
    whole, turn, once = copies
    assert ddb(*verify(whole)).code == 0
    assert ddb(*verify(turn, "--status")).out == f"{turn}: 0 done, 3 open, of 3\n"
    first = ddb(*verify(turn, "--shard", "0/2"))
    assert first.code == 0, first.err
    assert ddb(*verify(turn, "--status")).out == f"{turn}: 2 done, 1 open, of 3\n"
    assert "verified already" in ddb(*verify(turn, "--shard", "0/2")).out
    assert ddb(*verify(turn, "--shard", "1/2")).code == 0
    for process in [started(verify(once, "--shard", f"{index}/2", "--workers", 1), data_root) for index in range(2)]:
        ended(process)
    assert len(list(whole.rglob("*.verified.json"))) == 3
    assert contents(turn) == contents(whole) == contents(once)
    assert not list(tmp_path.rglob("units"))


def test_a_row_that_cannot_be_verified_is_told(ddb: Callable, board: Path, tmp_path: Path, monkeypatch):
    from ddbench.leaderboard import retrain

    def refuse(*args: object) -> None:
        raise UserError("no such synset")

    command = ["leaderboard", "verify", "--leaderboard", board, "--work", tmp_path / "work", "--compile", "off"]
    with monkeypatch.context() as patch:
        patch.setattr(retrain, "make_job", refuse)
        assert ddb(*command).code == 2
    shown = ddb(*command, "--status").out
    assert shown.startswith(f"{board}: 0 done, 3 failed, of 3\n")
    assert "no such synset" in shown
    assert ddb(*command, "--max-minutes", 5, "--workers", 2).code == 0
    assert ddb(*command, "--status").out == f"{board}: 3 done, of 3\n"


# DD-Ranking's scores


def scores(run: Path, cache: Path, *more: object) -> list[object]:
    flags = ("--student", TINY, "--repeats", 3, "--epochs", 2, "--workers", 1, "--cache", cache, "--quiet")
    return ["scores", run, *flags, "--out", cache / "score.json", *EAGER, *more]


@pytest.mark.parametrize("at_once", [False, True], ids=["in turn", "at once"])
def test_shards_of_scores(at_once: bool, ddb: Callable, random_run: Path, data_root: Path, tmp_path: Path):
    runs = [Path(shutil.copytree(random_run, tmp_path / name / "run")) for name in ("whole", "parts")]
    whole, parts = (scores(run, run.parent / "cache") for run in runs)
    out = runs[1].parent / "cache" / "score.json"
    assert ddb(*whole).code == 0
    shown = ddb(*parts, "--status").out
    assert shown.endswith(" 0 done, 18 open, of 18\n"), shown
    assert not out.parent.exists()
    if at_once:
        for process in [started([*parts, "--shard", f"{index}/2"], data_root) for index in range(2)]:
            ended(process)
    else:
        first = ddb(*parts, "--shard", "1/2")
        assert first.code == 0, first.err
        assert first.out.startswith("shard 1/2: its trainings are done ("), first.out
        assert not out.exists()
        assert not ddb(*parts, "--status").out.endswith(" 0 done, 18 open, of 18\n")
        assert f"result: {out}" in ddb(*parts, "--shard", "0/2").out
    assert contents(runs[1].parent, "cost.json") == contents(runs[0].parent, "cost.json")
    assert ddb(*parts, "--status").out == f"{out}: 18 done, of 18\n"
