"""Tasks from Python, in lists, in ``info``, and of other packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import EAGER, TINY, random_tiny

import ddbench
from ddbench import registry
from ddbench.config import setting
from ddbench.tasks import TASKS, runner
from ddbench.tasks.base import TABLE_PROPERTIES, Task, Unit, shown, table

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"seeds": 2, "epochs": 2, "parts": 2, "student": TINY, "compile": "off", "quiet": True}


@pytest.fixture
def run(tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch, data_root: Path) -> Path:
    """A folder with a run ``a`` of two random images a class; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDBENCH_DATA", str(data_root))
    assert ddb(*random_tiny(tmp_path / "a", "--ipc", 2)).code == 0
    return tmp_path


def test_from_python(run: Path, ddb: Callable):
    """The bytes and words of the command line."""
    found = ddbench.task("transfer", run / "a", out="python.json", **SMALL)
    argv = ("--seeds", 2, "--epochs", 2, "--parts", 2, "--student", TINY, "--workers", 1, "--quiet", *EAGER)
    done = ddb("task", "transfer", "a", "--out", "typed.json", *argv)
    assert done.out.splitlines()[:-1] == str(found).splitlines()
    assert (run / "python.json").read_bytes() == (run / "typed.json").read_bytes()
    assert found.path == Path("python.json")
    assert isinstance(found, ddbench.TaskResult)
    (row,) = found.results["rows"]
    assert found.labels == (row["run"],)
    with pytest.raises(ddbench.UserError, match=r"unknown setting 'partz' \(did you mean 'parts'\?\)"):
        ddbench.task("transfer", "a", partz=3)
    with pytest.raises(ddbench.UserError, match="unknown task 'transfr'"):
        ddbench.task("transfr", "a")
    with pytest.raises(ddbench.UserError, match="parts"):
        ddbench.task("transfer", "a", parts="many")


def test_lists_and_info(run: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    listed = ddb("list", "tasks").out.splitlines()
    assert [line.split()[0] for line in listed] == ["continual", "membership", "nas", "transfer"]
    work = runner.work

    def once(job: Any, unit: Unit) -> Any:
        if unit.name.endswith("seed 1 redundancy"):
            raise KeyboardInterrupt
        return work(job, unit)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "work", once)
        with pytest.raises(KeyboardInterrupt):
            ddbench.task("transfer", "a", **SMALL)
    assert "tasks that are not finished  1\nnext: ddbench info tasks/digits-transfer.parts" in ddb("info", "tasks").out
    told = ddb("info", "tasks/digits-transfer.parts").out
    assert told.startswith("task that is not finished: tasks/digits-transfer.parts\n")
    assert "units done  1\n" in told
    assert "random-ipc2-s0-" in told
    ddbench.task("transfer", "a", **SMALL)
    told = ddb("info", "tasks").out
    assert "results of tasks  1\nnext: ddbench info tasks/digits-transfer.json" in told
    told = ddb("info", "tasks/digits-transfer.json").out
    assert "student   " in told
    assert "next: ddbench submit RUN --task tasks/digits-transfer.json" in told


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of count."""

    step: int = setting(1, at_least=1)
    """What each image counts."""


class Count(Task[Config]):
    """How many images there are: a task of another package."""

    config_class = Config
    schema: ClassVar[Mapping[str, Any]] = {"properties": TABLE_PROPERTIES}
    units: ClassVar[Mapping[str, str]] = {"count": "1"}

    def stages(self) -> Sequence[Sequence[Unit]]:
        return [[Unit(name=run.label, values=(run.label,)) for run in self.job.runs]]

    def work(self, unit: Unit) -> dict[str, Any]:
        return {"run": unit.values[0], "count": self.config.step * len(self.synsets[unit.values[0]].images)}

    @classmethod
    def results(cls, head: Any, records: Any) -> dict[str, Any]:
        counts = {one["run"]: {seed: float(one["count"] + seed) for seed in range(2)} for one in records.values()}
        return table({label: {"count": values} for label, values in counts.items()}, [])


def test_task_of_another_package(run: Path, ddb: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    """By an entry point: listed, with flags of its own, and refused in one line where its code is not there."""

    def points(group: str) -> list[EntryPoint]:
        return [EntryPoint("count", f"{__name__}:Count", group), EntryPoint("gone", "no_such_module:x", group)]

    monkeypatch.setattr(registry, "entry_points", points)
    monkeypatch.setattr(TASKS, "_scanned", False)
    for name in ("_table", "_objects"):
        monkeypatch.setattr(TASKS, name, dict(getattr(TASKS, name)))
    assert f"count       {__name__}:Count" in ddb("list", "tasks").out
    assert "--step" in ddb("task", "count", "--help").out
    done = ddb("task", "count", "a", "--step", 3, "--workers", 1, "--quiet", "--out", "x.json")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0].endswith("count: 60.5000 (54.1469 to 66.8531)")
    refused(("task", "count", "a", "--step", 0), "--step", "at least 1")
    refused(("task", "gone", "a"), "task 'gone' (no_such_module:x) cannot be loaded")


def test_intervals_end_where_values_do():
    """As on the board: cut and marked, or said to be of too few seeds; the file keeps what was computed."""
    assert shown({"mean": 0.9, "low": 0.7, "high": 1.1}) == "0.9000 (0.7000 to 1.0000, clipped)"
    assert shown({"mean": 0.5, "low": -0.1, "high": 1.1}) == "0.5000 (too few seeds for an interval)"
    assert shown({"mean": 0.1, "low": -0.2, "high": 0.4}, "difference") == "0.1000 (-0.2000 to 0.4000)"
    assert shown({"mean": 0.1, "low": -1.2, "high": 0.4}, "difference") == "0.1000 (-1.0000 to 0.4000, clipped)"
    assert shown({"mean": 0.1, "low": -0.2, "high": 0.4, "tie": True}) == "0.1000 (-0.2000 to 0.4000), a tie"
    assert shown({"mean": 60.0, "low": 55.0, "high": 65.0}, "1") == "60.0000 (55.0000 to 65.0000)"
    assert shown({"mean": 1.3, "low": 0.9, "high": 1.7, "tie": False}, "1") == "1.3000 (0.9000 to 1.7000)"
    assert shown({"mean": 0.9, "low": None, "high": None}) == "0.9000"
    assert shown({"mean": -0.5, "low": None, "high": None, "tie": True}) == "-0.5000", "of one seed no tie is known"
