"""``ddbench doctor``: what it tells of this machine, and of one that lacks something."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import listing
from packaging.requirements import Requirement

from ddbench.cli import doctor
from ddbench.measurements.robustness.budgets import budget
from ddbench.measurements.suite import BUDGETS

ROOT = Path(__file__).parents[2]


def report(ddb: Callable, *flags: object) -> dict:
    return json.loads(ddb("doctor", "--json", *flags).out)


def test_the_table_of_packages_is_that_of_the_project():
    path = ROOT / "pyproject.toml"
    if not path.is_file():
        pytest.skip("not in a checkout")
    project = tomllib.loads(path.read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        parsed = map(Requirement, requirements)
        return {one.name for one in parsed if one.marker is None or one.marker.evaluate()}

    assert names(project["dependencies"]) == set(doctor.NEEDED)
    extras = {name: names(one) for name, one in project["optional-dependencies"].items()}
    for own in ("page", "test", "lint", "docs"):  # for those who work on ddbench
        del extras[own]
    assert {name: set(one) for name, (one, _) in doctor.EXTRAS.items()} == extras


def test_a_machine_where_all_is_well(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz").touch()
    (tmp_path / "runs").mkdir()
    before = listing(tmp_path)
    monkeypatch.setattr(doctor, "LITTLE_DISK", 0)
    found = report(ddb, "--data", tmp_path)
    assert found["problems"] == []
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert found["threads"] == torch.get_num_threads()
    assert found["data"]["datasets"]["mnist"]
    assert not found["data"]["datasets"]["cifar10"]
    assert found["here"]["holds"] == ["runs"]
    text = ddb("doctor", "--data", tmp_path).out
    assert "datasets  digits, mnist" in text
    assert text.splitlines()[-1] == "next: ddbench demo"
    assert listing(tmp_path) == before


def test_what_is_missing_is_told_with_its_verb(ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    whole = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "pyarrow" else whole(name))
    found = {one["for"]: one for one in report(ddb)["missing"]}
    assert found["push, pull, --dataset hub:OWNER/NAME"]["packages"] == ["pyarrow"]
    assert 'pip install ".[hub]"' in ddb("doctor").out


def test_a_torchvision_of_another_build(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert report(ddb)["torchvision_error"] is None
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision")
    found = report(ddb)
    assert found["torchvision_error"] == "RuntimeError: operator torchvision::nms does not exist"
    assert found["problems"] == []
    assert "broken    torchvision for students named tv-..." in ddb("doctor").out


def test_every_budget_of_attacks_that_needs_a_package_is_named():
    words = doctor.EXTRAS["robustness"][1].removeprefix("evaluate --robustness ").split(", ")
    chosen = {name: budget(name, 3, 32) for name in BUDGETS}
    assert words == [name for name, one in chosen.items() if any(attack.library for attack in one.attacks)]


def test_problems_end_with_one(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "LITTLE_DISK", 2**80)
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "kornia" else "1")
    monkeypatch.setitem(sys.modules, "torch", None)
    result = ddb("doctor")
    assert result.code == 1
    problems = [line for line in result.out.splitlines() if line.startswith("PROBLEM")]
    assert "not installed: kornia" in problems[0]
    assert "torch does not work here: ModuleNotFoundError" in problems[1]
    assert "of disk free" in problems[2]
    assert "next:" not in result.out
