"""What all tasks share: verb, records, the result file and its checks; going on leaves the bytes of one go."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import halting
import pytest
from conftest import EAGER, PATIENCE, TINY, random_tiny
from made_synsets import KINDS

import ddbench
from ddbench.methods.needs.flags import TeacherFlags
from ddbench.methods.needs.teacher import TrainedTeachers
from ddbench.protocols.training import Settings
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import write_json
from ddbench.statistics import paired_difference, summarise
from ddbench.tasks import TASKS, distilling, runner
from ddbench.tasks.base import Run, Unit, table
from ddbench.tasks.distilling import again, check_source, default_source, source_of
from ddbench.tasks.record import read_result
from ddbench.teachers.store import default_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = ("--epochs", 2, "--student", TINY, "--workers", 1, "--quiet", *EAGER)
SMALL = (*FAST, "--parts", 2)


@pytest.fixture
def pair(tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs of random images, two a class, ``a`` and ``b``; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):
        assert ddb(*random_tiny(tmp_path / name, "--ipc", 2, "--seed", seed)).code == 0
    return tmp_path


def test_verb(pair: Path, ddb: Callable):
    done = ddb("task", "transfer", "a", "b", "--seeds", 2, *SMALL)
    assert (done.code, done.err) == (0, "")
    path = pair / "tasks" / "digits-transfer.json"
    found = read_result(path)
    assert done.out.splitlines()[-1] == f"result: {path.relative_to(pair)}"
    assert [run["method"] for run in found["head"]["runs"]] == ["random", "random"]
    assert len(found["units"]) == 4
    assert str(pair) not in path.read_text()
    assert sorted(one.name for one in path.parent.iterdir()) == [path.name]
    before = path.stat().st_mtime_ns
    assert ddb("task", "transfer", "a", "b", "--seeds", 2, *SMALL).out == done.out
    assert path.stat().st_mtime_ns == before
    assert ddb("task", "transfer", "a", "b", "--seeds", 2, "--status", *SMALL).out.startswith(
        "tasks/digits-transfer.json: 4 done, of 4"
    )


def test_going_on(pair: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """Stopped after each unit, by shards, by workers, and extended: the bytes of one go."""
    argv = ("task", "transfer", "a", "b", "--seeds", 2, *SMALL)
    assert ddb(*argv, "--out", "whole.json").code == 0
    wanted = (pair / "whole.json").read_bytes()
    work = runner.work

    for _ in range(4):
        calls: list[Any] = []

        def once(job: Any, unit: Any, calls: list[Any] = calls) -> Any:
            if calls:
                raise KeyboardInterrupt
            calls.append(unit)
            return work(job, unit)

        with monkeypatch.context() as patch:
            patch.setattr(runner, "work", once)
            ddb(*argv, "--out", "stopped.json")
    assert (pair / "stopped.json").read_bytes() == wanted
    assert not (pair / "stopped.parts").exists()

    first = ddb(*argv, "--out", "shards.json", "--shard", "0/2")
    assert (first.code, (pair / "shards.json").exists()) == (0, False)
    assert "2 of other shards are open" in first.out
    assert ddb(*argv, "--out", "shards.json", "--shard", "1/2").code == 0
    assert (pair / "shards.json").read_bytes() == wanted

    assert ddb("task", "transfer", "a", "--seeds", 1, *SMALL, "--out", "grown.json").code == 0
    assert ddb(*argv, "--out", "grown.json").code == 0
    assert (pair / "grown.json").read_bytes() == wanted


def test_a_method_of_a_file_is_not_only_unknown():
    with pytest.raises(UserError, match=r"no method 'of-a-file' is known.*; leave it out .*--method-file.*entry point"):
        check_source(replace(default_source("random", 8), method="of-a-file"), "leave it out")


def test_a_result_of_another_kind_of_device_is_not_gone_on_with(
    pair: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch
):
    """A CPU's head is as it was; that of a GPU says so, and neither extends the other."""
    argv = ("task", "transfer", "a", *SMALL, "--seeds")
    assert ddb(*argv, 1, "--out", "cpu.json").code == 0
    assert "device" not in read_result(pair / "cpu.json")["head"]
    with monkeypatch.context() as patch:
        patch.setattr(devices, "recorded_kind", lambda name: {"device": "cuda"})
        assert "cpu.json answers another question (device differs)" in ddb(*argv, 2, "--out", "cpu.json").err
        assert ddb(*argv, 1, "--out", "cuda.json").code == 0
    assert read_result(pair / "cuda.json")["head"]["device"] == "cuda"
    assert "cuda.json answers another question (device differs)" in ddb(*argv, 2, "--out", "cuda.json").err
    assert devices.recorded_kind("cpu") == {}


def test_a_larger_result_that_came_meanwhile_stays(pair: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """Two processes, the one with fewer seeds ends last."""
    argv = ("task", "transfer", "a", *SMALL, "--out", "x.json", "--seeds")
    check, ends = runner.check_result, []

    def meanwhile(out: Path, result: Any) -> Any:
        if not ends:
            ends.append(out)
            assert ddb(*argv, 2).code == 0
        return check(out, result)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "check_result", meanwhile)
        late = ddb(*argv, 1)
    assert ends
    assert late.code == 2
    assert "2" in late.err
    assert json.loads((pair / "x.json").read_text())["head"]["seeds"] == 2


def test_killed(pair: Path, ddb: Callable, data_root: Path):
    """SIGKILL at the third unit: the records of two are there, and the same command ends in the bytes of one go."""
    argv = ("task", "transfer", "a", "b", "--seeds", 2, *SMALL)
    assert ddb(*argv, "--out", "whole.json").code == 0
    environment = {**os.environ, "DDBENCH_DATA": str(data_root), "PYTHONPATH": str(Path(ddbench.__file__).parents[1])}
    command = halting.command("before", "ddbench.tasks.runner:work", 3, [*argv, "--out", pair / "killed.json"])
    process, limit = halting.started(command, environment), time.monotonic() + PATIENCE
    try:
        while len(halting.seen(pair / "killed.parts", "*.part")) < 2:
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < limit, "nothing happened"
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    assert not (pair / "killed.json").exists()
    assert ddb(*argv, "--out", "killed.json").code == 0
    assert (pair / "killed.json").read_bytes() == (pair / "whole.json").read_bytes()
    assert not (pair / "killed.parts").exists()


def test_records_that_another_process_moves_into_the_result_are_found(
    pair: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch
):
    argv = ("task", "transfer", "a", "--seeds", 2, *SMALL)
    assert ddb(*argv, "--out", "whole.json").code == 0
    assert "1 of other shards are open" in ddb(*argv, "--out", "x.json", "--shard", "0/2").out
    parts, looks = runner._parts, []

    def just_moved(folder: Path) -> dict[str, Any]:
        looks.append(folder)
        if len(looks) == 2:  # the last look: the other shard ends now
            shutil.copy("whole.json", "x.json")
            shutil.rmtree(folder)
        return parts(folder)

    monkeypatch.setattr(runner, "_parts", just_moved)
    done = ddb(*argv, "--out", "x.json", "--shard", "0/2")
    assert (done.code, done.out.splitlines()[-1]) == (0, "result: x.json")


def test_records_of_who_does_more_seeds_stay(tmp_path: Path):
    folder = tmp_path / "x.parts"
    for unit in ("seed 0", "seed 1"):
        write_json(runner._part(folder, unit), {"unit": unit, "record": {}})
    write_json(folder / runner.HEAD, {})
    runner._clear(folder, {"seed 0"})
    assert {path.name for path in folder.iterdir()} == {runner._part(folder, "seed 1").name, runner.HEAD}
    runner._clear(folder, {"seed 0", "seed 1"})
    assert not folder.exists()


def test_refused(pair: Path, ddb: Callable, refused: Callable, tmp_path: Path):
    argv = ("task", "transfer")
    refused(("task", "transfr", "a"), "unknown task 'transfr'", "transfer")
    refused(("task",), "which task?", "transfer")
    refused(argv, "no RUN is named")
    refused((*argv, "nowhere"), "nowhere")
    refused((*argv, "a", "a", *SMALL), "the same synset")
    refused((*argv, "a", "--seeds", 0, *SMALL), "--seeds 0")
    refused((*argv, "a", "--protocol", "kd-v1", *SMALL), "--protocol kd-v1", "teacher")
    refused((*argv, "a", "--protocol", "labels-once", *SMALL), "--protocol labels-once", "teacher's labels, which no")
    (tmp_path / "search.toml").write_text('name = "searching"\nlr_source = "search"\n')
    for name in ("transfer", "continual", "nas", "membership"):
        words = "--protocol searching: it searches a learning rate, which no task does"
        refused(("task", name, "a", "--protocol", tmp_path / "search.toml", *EAGER), words)
    refused((*argv, "a", "--part", 2), "unknown flag --part", "--parts")
    assert ddb(*argv, "a", "b", "--seeds", 2, *SMALL, "--out", "x.json").code == 0
    refused((*argv, "a", "b", "--seeds", 1, *SMALL, "--out", "x.json"), "--seeds 1", "has 2")
    refused((*argv, "a", "--seeds", 2, *SMALL, "--out", "x.json"), "has the run random-ipc2-s1")
    refused((*argv, "a", "b", "--seeds", 2, *SMALL, "--epochs", 3, "--out", "x.json"), "protocol differs")
    shutil.copy("a/config.json", "y.json")
    refused((*argv, "a", *SMALL, "--out", "y.json"), "y.json: no result of a task")


@pytest.mark.parametrize("name", ["continual", "nas", "membership"])
def test_a_whitening_of_all_images_would_leak(name: str, pair: Path, ddb: Callable, refused: Callable):
    assert ddb(*random_tiny("zca"), "--preprocess", "zca").code == 0
    refused(("task", name, "zca", *EAGER), "its preprocess is not meanstd")


@pytest.mark.parametrize("name", ["continual", "nas"])
def test_a_recipe_is_not_replayed_on_other_images(name: str, pair: Path, ddb: Callable, refused: Callable):
    """A memory, or all real images, have none; told before the set of the first step is made."""
    settings = ("--iterations", 1, "--batches", 2, "--epochs", 2, "--batch-real", 64, "--student", "mlp-d1-w8")
    made = ddb("distill", "--method", "dd", "--dataset", "digits", "--ipc", 2, *settings, "--out", "dd", *EAGER)
    assert made.code == 0, made.err
    refused(
        ("task", name, "dd", "--protocol", "dd-recipe", *EAGER), "--protocol dd-recipe: it replays a learned recipe"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.pop("units"), "'units' is a required property"),
        (lambda v: v.update(schema=9), "newer ddbench"),
        (lambda v: v["head"].update(seeds="two"), "head.seeds"),
        (lambda v: v["results"]["rows"][0]["metrics"]["cross"].update(mean=0.123), "do not follow"),
        (lambda v: v["results"].update(more=1), "results"),
        (lambda v: next(iter(v["units"].values())).pop("metrics"), "malformed"),
        (lambda v: v.update(task="nonsense"), "unknown task"),
        (lambda v: v["head"].update(seeds=2), "seed 1 redundancy' is missing among its units"),
    ],
)
def test_file_is_checked(pair: Path, ddb: Callable, change: Callable, words: str):
    assert ddb("task", "transfer", "a", "--seeds", 1, *SMALL, "--out", "x.json").code == 0
    value = json.loads((pair / "x.json").read_text())
    change(value)
    (pair / "x.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=words):
        read_result(pair / "x.json")


def test_chosen_seeds_are_no_result(pair: Path, ddb: Callable):
    """Results that follow from what is left after a bad seed was taken out are refused all the same."""
    assert ddb("task", "transfer", "a", "--seeds", 2, *SMALL, "--out", "x.json").code == 0
    value = json.loads((pair / "x.json").read_text())
    value["units"].pop(next(name for name in value["units"] if name.endswith("seed 1 redundancy")))
    value["results"] = TASKS.get("transfer").results(value["head"], value["units"])
    (pair / "x.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="seed 1 redundancy' is missing"):
        read_result(pair / "x.json")


@pytest.mark.parametrize("name", ["continual", "membership", "nas", "transfer"])
def test_wanted_units_are_those_of_the_runs(name: str):
    """Of two runs twice those of one; each once."""
    head: dict[str, Any] = {
        "config": {"shadows": 4, "to": "mnist", "parts": 2},
        "decides": {"orders": [[0, 1], [1, 0]], "nets": ["convnet-d1-w32-in", "convnet-d2-w32-in"]},
        "seeds": 3,
    }
    one, other, both = (
        list(TASKS.get(name).wanted({**head, "runs": [{"label": label} for label in labels]}))
        for labels in (["run-a"], ["run-b"], ["run-a", "run-b"])
    )
    many = {**head, "seeds": 10**12, "config": {**head["config"], "shadows": 10**12}, "runs": [{"label": "run-a"}]}
    assert len(list(itertools.islice(TASKS.get(name).wanted(many), 5))) == 5, "a head may ask for any number"
    shared = [unit for unit in one if not unit.startswith("run-a")]
    assert len(set(both)) == len(both) == 2 * (len(one) - len(shared)) + len(shared)
    assert set(both) == {*one, *other}


def test_a_method_is_run_again_as_the_run_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With its settings, seed, network and teacher; images, IPC and held-out fraction are the task's."""
    asked: list[Any] = []
    monkeypatch.setattr(distilling, "distill", lambda *given, **more: asked.append((*given, more)) or more["out"])
    made = replace(KINDS["network input"], config={"lr_images": 7.0, "holdout": 0.3})
    teacher = {"teacher": {"student": "mlp-d2-w8"}}
    run = Run(label="a", path=tmp_path, sha256="", method="mtt", needs=teacher)
    job: Any = SimpleNamespace(folder=tmp_path, data=None, settings=Settings(device="cpu", threads=1))
    part: Any = object()
    again(source_of(run, made), part, job, ipc=5, holdout=0.2, out=tmp_path / "set", kept="half")
    ((method, _, config, more),) = asked
    settings = more["settings"]
    assert (method, config.lr_images, more["dataset"]) == ("mtt", 7.0, part)
    assert (settings.seed, settings.student, settings.ipc, settings.holdout) == (made.seed, made.student, 5, 0.2)
    assert (made.seed, made.student) == (3, TINY), "no defaults"
    (flags,) = (one for one in settings.flags if isinstance(one, TeacherFlags))
    assert (flags.teachers, flags.teacher_student) == (tmp_path / "teachers" / "half", "mlp-d2-w8")


NETWORKS = {
    # what the run's record says, what the synset's header says, and what is asked for
    "several": ("mlp-d2-w8+mlp-d2-w4", None, "mlp-d2-w8,mlp-d2-w4"),
    "several, of a file alone": (None, "mlp-d2-w8+mlp-d2-w4", "mlp-d2-w8,mlp-d2-w4"),
    "one, the usual": (None, default_teacher(8), default_teacher(8)),
    "the record counts": ("mlp-d2-w8", "mlp-d2-w4", "mlp-d2-w8"),
    "nothing says it": (None, None, None),
}


@pytest.mark.parametrize("case", NETWORKS.values(), ids=NETWORKS)
def test_a_method_is_run_again_with_as_many_teachers(case: tuple[str | None, str | None, str | None], tmp_path: Path):
    """Of gvbsm and edc: several are joined by a plus in records, by commas in the flag; one is not three."""
    record, header, wanted = case
    needs = {"teacher": {"student": record}} if record else {}
    made = replace(KINDS["network input"], teacher={"sha256": "0" * 64, "student": header} if header else None)
    run = Run(label="a", path=tmp_path, sha256="", method="gvbsm", needs=needs)
    assert source_of(run, made).teacher == wanted
    if wanted:
        request: Any = SimpleNamespace(flags_of=lambda kind: kind(teacher_student=wanted))
        assert TrainedTeachers().architecture(request) == (record or header)


def test_table():
    values = {"one": {"accuracy": {0: 0.5, 1: 0.7}}, "random": {"accuracy": {0: 0.4, 1: 0.65}}}
    found = table(values, ["random"])
    assert found["rows"][0] == {"run": "one", "metrics": {"accuracy": summarise([0.5, 0.7])}}
    (row,) = found["differences"]
    assert row["against"] == ["random"]
    assert row["metrics"]["accuracy"] == paired_difference({0: 0.5, 1: 0.7}, [{0: 0.4, 1: 0.65}])


def test_every_task_says_itself():
    from jsonschema import Draft202012Validator

    from ddbench.tasks import LINES

    for name in TASKS:
        Draft202012Validator.check_schema(TASKS.get(name).schema)
        assert LINES[name]


RUBBISH: dict[str, tuple[str, Any, str]] = {
    # what it returns, and what is told
    "no stages": ("stages", None, "task transfer: stages() is None, expected lists of ddbench.tasks.base.Unit"),
    "stages of text": ("stages", [["a"]], "a unit of stages() is str 'a', expected ddbench.tasks.base.Unit"),
    "a name twice": ("stages", [[Unit(name="a", values=())] * 2], "a unit of stages() is 'a' twice"),
    "a record of text": ("work", "done", "work() of"),
    "a record of NaN": ("work", {"x": float("nan")}, "expected JSON by name (Out of range"),
    "what decides it": ("decides", [1], "decides() is list [1], expected JSON by name"),
    "what is remembered": ("remembered", {"a": 1}, "remembered() is dict {'a': 1}, expected records by the name"),
    "results": ("results", [1], "results() is list [1], expected JSON by name"),
    "results of another form": ("results", {"rows": 1}, "x.json: no result of a task: results"),
}


@pytest.mark.parametrize("case", RUBBISH.values(), ids=RUBBISH)
def test_what_somebodys_task_returns(
    case: tuple[str, Any, str], pair: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch
):
    name, value, told = case
    monkeypatch.setattr(runner.task_class("transfer"), name, lambda *given: value)
    runner.task_of.cache_clear()
    done = ddb("task", "transfer", "a", "--seeds", 1, *SMALL, "--out", "x.json")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert told in done.err
    assert not (pair / "x.json").exists()


@pytest.mark.parametrize("value", ["x:y", "builtins:dict"])
def test_a_task_that_is_none(value: str, pair: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    list(TASKS)
    monkeypatch.setattr(TASKS, "_table", {**TASKS._table, "own": value})
    refused(("task", "own", "a"), "task 'own'")


@pytest.mark.parametrize("record", [{}, {"accuracy": "high"}, {"metrics": None}])
def test_a_record_that_is_not_the_tasks(record: dict[str, Any], pair: Path, ddb: Callable):
    argv = ("task", "transfer", "a", "--seeds", 2, *SMALL, "--out", "x.json")
    assert ddb(*argv, "--shard", "0/2").code == 0
    (path,) = (pair / "x.parts").glob("*.part")
    write_json(path, {"unit": json.loads(path.read_text())["unit"], "record": record})
    done = ddb(*argv)
    assert done.code == 2
    assert "x.parts: its records are not of this task" in done.err
    assert not (pair / "x.json").exists()
