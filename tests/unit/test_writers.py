"""Several processes at work on one result: nothing that any of them made is lost."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import EAGER, PATIENCE, TINY, contents

import ddbench
from ddbench.evaluation import evaluator, parts, tasks
from ddbench.experts.store import TrajectoryStore
from ddbench.runtime import signs
from ddbench.runtime.errors import UserError
from ddbench.runtime.shards import Units

ROOT = Path(ddbench.__file__).parents[1]
OTHER = "mlp-d1-w4"
TINY_BN = "convnet-d1-w4-bn"


def command(run: Path, out: Path, students: str, *more: object) -> list[object]:
    return [
        *("evaluate", run, "--students", students, "--seeds", 2, "--epochs", 2, "--workers", 1, "--quiet"),
        *("--out", out, *EAGER, *more),
    ]


def interrupted_by(monkeypatch: pytest.MonkeyPatch, call: int, name: str, other: Callable[[], None]) -> None:
    """At this call of a function of the evaluator (from 1), everything that ``other`` does happens first."""
    real, count = getattr(evaluator, name), 0

    def wrapped(*args: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            other()
        return real(*args, **more)

    monkeypatch.setattr(evaluator, name, wrapped)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("same_head", 1),  # between reading what is there and the first run
        ("whole", 1),  # between reading everything and writing the result: it is written over the other's
        ("write_json", 1),
        ("write_json", 2),  # the other's result is written over, its costs are not
        ("_clear", 1),  # records that came meanwhile are removed only if they are in the result
    ],
)
def test_another_writer_at_any_moment(
    name: str, call: int, ddb: Callable, random_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whenever a second evaluation runs from beginning to end, the result is that of one with all students."""
    (tmp_path / "two").mkdir()
    out, whole = tmp_path / "two" / "score.json", tmp_path / "one" / "score.json"

    def second() -> None:
        assert ddb(*command(random_run, out, OTHER)).code == 0

    interrupted_by(monkeypatch, call, name, second)
    assert ddb(*command(random_run, out, TINY)).code == 0
    assert ddb(*command(random_run, whole, f"{TINY},{OTHER}")).code == 0
    assert contents(out.parent, "cost.json") == contents(whole.parent, "cost.json")
    costs = json.loads(out.with_name("score.cost.json").read_text())["runs"]
    assert [(entry["student"], entry["seed"]) for entry in costs] == [(s, n) for s in (TINY, OTHER) for n in (0, 1)]


def test_the_other_goes_on_after_this_one(
    ddb: Callable, random_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One that ends while another is at work leaves the records to it, with seeds that both have in common."""
    out, whole = tmp_path / "two" / "score.json", tmp_path / "one.json"
    run_task, calls = tasks.run_task, []

    def second(job: Any, task: Any) -> Any:
        calls.append(task)
        if len(calls) == 2:
            assert ddb(*command(random_run, out, f"{TINY},{OTHER}")).code == 0
            assert list(out.parent.glob("score.parts/*.part")), "the first is still at work"
        return run_task(job, task)

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "run_task", second)
        assert ddb(*command(random_run, out, TINY, "--seeds", 3)).code == 0
    assert set(contents(out.parent)) == {"score.json", "score.cost.json"}
    runs = [(run["student"], run["seed"]) for run in json.loads(out.read_text())["runs"]]
    assert runs == [(TINY, 0), (TINY, 1), (TINY, 2), (OTHER, 0), (OTHER, 1)]
    assert ddb(*command(random_run, whole, TINY, "--seeds", 3)).code == 0
    assert ddb(*command(random_run, whole, OTHER)).code == 0
    assert out.read_bytes() == whole.read_bytes()


def test_two_processes_at_once(ddb: Callable, random_run: Path, data_root: Path, tmp_path: Path):
    """Two commands with other students, several times."""
    whole = tmp_path / "whole" / "score.json"
    assert ddb(*command(random_run, whole, f"{TINY},{OTHER}")).code == 0
    script = (
        "import sys, json; from ddbench.cli.main import run\n"
        "for command in json.loads(sys.argv[1]): sys.stdin.readline(); run(command); print('done', flush=True)"
    )
    outs = [tmp_path / str(number) / "score.json" for number in range(4)]
    environment = {**os.environ, "DDBENCH_DATA": str(data_root), "PYTHONPATH": str(ROOT)}
    pair = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                script,
                json.dumps([[str(part) for part in command(random_run, out, student)] for out in outs]),
            ],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for student in (TINY, OTHER)
    ]
    try:
        for out in outs:
            for process in pair:
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in pair:
                while (line := process.stdout.readline()) != "done\n":
                    assert line, "the command failed"
            assert contents(out.parent, "cost.json") == contents(whole.parent, "cost.json")
    finally:
        for process in pair:
            process.kill()
            process.communicate()


def test_settings_that_another_process_measures_with(ddb: Callable, random_run: Path, tmp_path: Path, monkeypatch):
    """Two measurements of a kind with other settings are not mixed: the second is refused."""
    out = tmp_path / "score.json"
    found = []

    def second(job: Any, task: Any) -> Any:
        if not found:
            found.append(None)
            found[0] = ddb(*command(random_run, out, OTHER, "--corruptions", "--max-images", 20))
        return run_probe(job, task)

    run_probe = tasks.run_probe
    monkeypatch.setattr(tasks, "run_probe", second)
    assert ddb(*command(random_run, out, TINY, "--corruptions", "--max-images", 30)).code == 0
    assert found[0].code == 2
    assert "another process measures corruptions with other settings" in found[0].err
    assert json.loads(out.read_text())["measured"]["corruptions"]["images"] == 30


# Who is at work


def test_signs_of_life(tmp_path: Path):
    folder = tmp_path / "x.parts"
    with parts.writing(folder) as first:
        assert not first.others()
        with parts.writing(folder) as second:
            assert first.others()
            assert second.others()
        assert not first.others()
        silent = folder / f"elsewhere.7.0{parts.WRITER}"
        silent.touch()
        assert first.others(), "a process of another machine"
        os.utime(silent, (0, silent.stat().st_mtime - parts.SILENCE - 60))
        assert not first.others()
        assert not silent.exists()
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        sign = next(folder.glob(f"*{parts.WRITER}"))
        (folder / sign.name.replace(str(os.getpid()), str(ended.pid), 1)).touch()
        assert not first.others(), "a killed process of this machine"
    assert not folder.exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_sign_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException):
    """No empty one is left, which would be nobody's: the next process would wait ten minutes for it."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    def opened(path: Path, mode: str) -> Full:
        path.touch()
        return Full()

    with monkeypatch.context() as patch:
        patch.setattr(signs, "open", opened, raising=False)
        for work in (signs.turn(tmp_path / "run", "run"), Units(tmp_path).at(["unit"])):
            with pytest.raises((UserError, KeyboardInterrupt)) as caught, work:
                pass
            told = f"cannot write {tmp_path}.*: the disk is full"
            assert isinstance(error, KeyboardInterrupt) or re.search(told, str(caught.value))
            assert not list(tmp_path.iterdir())
    with signs.turn(tmp_path / "run", "run", lambda line: pytest.fail(line)):
        pass


def test_the_first_claim_holds(tmp_path: Path):
    with parts.writing(tmp_path / "x.parts") as first, parts.writing(tmp_path / "x.parts") as second:
        assert first.claim("head.json", {"a": 1}) == {"a": 1}
        assert second.claim("head.json", {"a": 2}) == {"a": 1}


def test_a_claim_that_goes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another process has finished, and removed all that was claimed: the claim is made anew."""
    folder = tmp_path / "x.parts"
    read = parts.read_json

    def gone(path: Path, kind: str) -> Any:
        path.unlink(missing_ok=True)
        return read(path, kind)

    with parts.writing(folder) as first, parts.writing(folder) as second:
        first.claim("head.json", {"a": 1})
        with monkeypatch.context() as patch:
            patch.setattr(parts, "read_json", gone)
            assert second.claim("head.json", {"a": 2}) == {"a": 2}
        (folder / "head.json").write_text("{")
        with pytest.raises(UserError, match=r"head\.json"):
            second.claim("head.json", {"a": 2})


def test_what_all_share_stays_for_another_writer(tmp_path: Path):
    folder = tmp_path / "x.parts"
    with parts.writing(folder) as writer:
        writer.claim("head.json", {"a": 1})
        record = folder / "run-1.part"
        record.write_text("{}")
        unfinished = folder / f".run-2.part.{os.getpid()}.0a1b2c3d.tmp"
        unfinished.write_text("{")
        elsewhere = folder / f"elsewhere.7.0{parts.WRITER}"
        elsewhere.touch()
        parts.remove_parts([record], folder)
        assert not record.exists()
        assert (folder / "head.json").exists()
        elsewhere.unlink()
        parts.remove_parts([], folder)
        assert not (folder / "head.json").exists()
        assert unfinished.exists(), "a living process is at it"
        unfinished.unlink()


def test_records_of_another_evaluation(ddb: Callable, random_run: Path, tmp_path: Path, refused: Callable):
    out = tmp_path / "score.json"

    def stop(job: Any, task: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "run_task", stop)
        assert ddb(*command(random_run, out, TINY)).code == 130
    refused(
        command(random_run, out, TINY, "--lr", 0.5), "head.json", "runs of another evaluation", "choose another --out"
    )


# Experts


@pytest.mark.parametrize("moment", ["before the first", "before a manifest", "after a manifest"])
def test_two_recorders_of_one_store(moment: str, ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No expert and no cost of either is lost, whichever writes the manifest last."""

    def buffer(place: Path, experts: int) -> list[object]:
        return [
            *("buffer", "--dataset", "digits", "--student", TINY, "--experts", experts, "--epochs", 2, "--quiet"),
            *("--workers", 1, "--buffers", place, *EAGER),
        ]

    write_manifest, done = TrajectoryStore.write_manifest, []

    def second() -> None:
        if not done:
            done.append(1)
            assert ddb(*buffer(tmp_path / "two", 5)).code == 0

    def wrapped(store: TrajectoryStore) -> None:
        if moment == "before the first" or (moment == "before a manifest" and store.experts):
            second()
        write_manifest(store)
        if moment == "after a manifest" and store.experts:
            second()

    with monkeypatch.context() as patch:
        patch.setattr(TrajectoryStore, "write_manifest", wrapped)
        assert ddb(*buffer(tmp_path / "two", 3)).code == 0
    assert ddb(*buffer(tmp_path / "one", 5)).code == 0
    assert done
    assert contents(tmp_path / "two", "cost.json") == contents(tmp_path / "one", "cost.json")
    assert len(json.loads(next((tmp_path / "two").rglob("cost.json")).read_text())) == 5


# Boards


@pytest.mark.parametrize("moment", [1, 2])
def test_two_builds_of_a_board(moment: int, ddb: Callable, random_run: Path, tmp_path: Path, monkeypatch):
    """The pages have every row, though one was added by another process after the rows were read."""
    from ddbench.leaderboard.pages import page

    board = tmp_path / "board"
    assert ddb("submit", random_run, "--leaderboard", board).code == 0
    write_text, count = page.write_text, 0

    def wrapped(path: Path, text: str) -> None:
        nonlocal count
        count += 1
        if count == moment:
            assert ddb("submit", random_run, "--leaderboard", board, "--note", "another").code == 0
            assert ddb("leaderboard", "build", "--leaderboard", board).code == 0
        write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(page, "write_text", wrapped)
        assert ddb("leaderboard", "build", "--leaderboard", board).code == 0
    assert ddb("leaderboard", "build", "--leaderboard", board, "--check").code == 0
    assert len(list(board.rglob("results/**/*.json"))) == 2


# Other verbs: two processes at once do what one does


def at_once(data_root: Path, *commands: list[object]) -> list[str]:
    """Commands in processes that start together; all must end well. Returns what they said to people."""
    environment = {**os.environ, "DDBENCH_DATA": str(data_root), "PYTHONPATH": str(ROOT)}
    crew = [
        subprocess.Popen(
            [sys.executable, "-m", "ddbench", *map(str, command)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    ended = [(process.communicate(timeout=PATIENCE), process.returncode) for process in crew]
    assert [code for _, code in ended] == [0] * len(crew), ended
    return ["".join(said) for said, _ in ended]


def test_two_teachers(ddb: Callable, data_root: Path, tmp_path: Path):
    def teacher(root: Path) -> list[object]:
        return ["teacher", "--dataset", "digits", "--student", TINY_BN, "--epochs", 3, "--teachers", root, *EAGER]

    assert ddb(*teacher(tmp_path / "one")).code == 0
    said = at_once(data_root, *[teacher(tmp_path / "two")] * 2)
    assert contents(tmp_path / "two", "cost.json") == contents(tmp_path / "one", "cost.json")
    assert sum("trained already" in text for text in said) == 1, "one trains, the other waits or comes later"


def test_two_relabels(ddb: Callable, random_run: Path, data_root: Path, tmp_path: Path):
    root = tmp_path / "teachers"
    trained = ("teacher", "--dataset", "digits", "--student", TINY_BN, "--epochs", 1, "--teachers", root, "--quiet")
    assert ddb(*trained, *EAGER).code == 0

    def relabel(out: Path) -> list[object]:
        out.parent.mkdir(exist_ok=True)
        return ["relabel", random_run, "--teachers", root, "--epochs", 20, "--out", out, *EAGER]

    assert ddb(*relabel(tmp_path / "one" / "labels.safetensors")).code == 0
    at_once(data_root, *[relabel(tmp_path / "two" / "labels.safetensors")] * 2)
    assert contents(tmp_path / "two", "cost.json") == contents(tmp_path / "one", "cost.json")


def test_two_submissions(random_run: Path, data_root: Path, tmp_path: Path):
    """Of two rows of the same synset and protocol one supersedes the other."""
    board = tmp_path / "board"
    at_once(data_root, *(["submit", random_run, "--leaderboard", board, "--note", note] for note in ("x", "y")))
    rows = [json.loads(path.read_text()) for path in board.rglob("results/**/*.json")]
    assert sorted(row["submission"]["note"] for row in rows) == ["x", "y"]
    (first,) = (row["id"] for row in rows if row["supersedes"] is None)
    assert [row["supersedes"] for row in rows if row["supersedes"]] == [first]
    assert not list(board.rglob("*.turn"))


def test_two_scores_of_one_cache(ddb: Callable, random_run: Path, data_root: Path, tmp_path: Path):
    """Two processes make the references that both need, and train on them."""

    def scores(place: Path, run: Path) -> list[object]:
        flags = ("--student", TINY, "--repeats", 2, "--epochs", 2, "--workers", 1, "--cache", place, "--quiet")
        return ["scores", run, *flags, "--out", place / "score.json", *EAGER]

    for name in ("one", "two"):
        shutil.copytree(random_run, tmp_path / name / "run")
    assert ddb(*scores(tmp_path / "one" / "cache", tmp_path / "one" / "run")).code == 0
    at_once(data_root, *[scores(tmp_path / "two" / "cache", tmp_path / "two" / "run")] * 2)
    assert contents(tmp_path / "two", "cost.json") == contents(tmp_path / "one", "cost.json")
