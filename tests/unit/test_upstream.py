"""A run's cost record tells what its experts and its teacher cost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import EAGER, TINY_EXPERTS, distill_tiny, random_tiny

from ddbench.experts.store import read_store
from ddbench.methods.needs.experts import Experts
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.teachers.store import read_teacher

NORMED = "convnet-d1-w4-bn"


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A poor teacher, trained in a second."""
    from ddbench.cli.main import run

    root = tmp_path_factory.mktemp("teachers")
    argv = ["teacher", "--student", NORMED, "--epochs", 1, "--teachers", root, "--data", data_root, "--quiet", *EAGER]
    run([str(part) for part in argv])
    return next(root.rglob("*.safetensors"))


def upstream(run: Path) -> Any:
    return json.loads((run / "cost.json").read_text())["upstream"]


def test_run_with_experts(ddb: Callable, buffers: Path, store_folder: Path, tmp_path: Path):
    entries = json.loads((store_folder / "cost.json").read_text())
    assert len(entries) == TINY_EXPERTS
    assert ddb(*distill_tiny(buffers, tmp_path / "run")).code == 0
    found = upstream(tmp_path / "run")
    assert found["teacher"] is None
    assert found["experts"]["experts"] == TINY_EXPERTS
    for name in ("wall_seconds", "cpu_seconds"):
        total = sum(entry[name] for entry in entries.values())
        assert total > 0
        assert found["experts"][name] == pytest.approx(total, abs=1e-3)


def test_run_with_a_teacher(ddb: Callable, teacher_path: Path, tmp_path: Path):
    flags = ("--dataset", "digits", "--ipc", 1, "--teachers", teacher_path.parents[2], "--teacher-student", NORMED)
    assert ddb("distill", "--method", "herding", *flags, "--out", tmp_path / "run", "--quiet", *EAGER).code == 0
    cost = json.loads(teacher_path.with_name(f"{teacher_path.stem}.cost.json").read_text())
    assert cost["wall_seconds"] > 0
    wanted = {name: cost[name] for name in ("wall_seconds", "cpu_seconds")}
    assert upstream(tmp_path / "run") == {"experts": None, "teacher": wanted}


def test_run_that_needs_nothing(ddb: Callable, tmp_path: Path):
    assert ddb(*random_tiny(tmp_path / "run")).code == 0
    assert upstream(tmp_path / "run") == {"experts": None, "teacher": None}


@pytest.mark.parametrize("text", [None, "no JSON", "[1]", '{"00000": 3}', '{"00000": {"wall_seconds": "x"}}'])
def test_no_record_is_no_error(text: str | None, store_folder: Path, teacher_path: Path, tmp_path: Path):
    """What others spoiled, or never made, does not end a run."""
    path = Path(shutil.copy(teacher_path, tmp_path / "copy.safetensors"))
    (store_folder / "cost.json").unlink()
    if text is not None:
        (store_folder / "cost.json").write_text(text)
        (tmp_path / "copy.cost.json").write_text(text)
    found = {"experts": Experts().cost(read_store(store_folder)), "teacher": TrainedTeacher().cost(read_teacher(path))}
    assert found == {"experts": None, "teacher": None}
