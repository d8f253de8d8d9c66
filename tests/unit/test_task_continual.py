"""Continual: steps see their own classes only, leaks are marked, the matrix gives what is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EAGER, TINY, contents, random_tiny
from made_synsets import KINDS

from ddbench.data.load import load_dataset
from ddbench.experts.store import find_stores
from ddbench.runtime.errors import UserError
from ddbench.synset import read_synset
from ddbench.tasks import runner
from ddbench.tasks.continual import ContinualConfig, class_orders, joined, of_classes, steps_of
from ddbench.tasks.costs import cost_of_sets
from ddbench.tasks.measures import seen_accuracies
from ddbench.tasks.record import read_result

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("--epochs", 2, "--student", TINY, "--workers", 1, "--quiet", *EAGER)
TASK = ("task", "continual", "a", "--memory", 2, "--steps", 3, "--orders", 2, "--seeds", 2, *SMALL)


@pytest.fixture
def run(tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run ``a`` of two random images a class; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    assert ddb(*random_tiny(tmp_path / "a", "--ipc", 2)).code == 0
    return tmp_path


def test_orders_are_those_of_dm():
    """NumPy's legacy generator, as the public code seeds it."""
    np.random.seed(3)  # noqa: NPY002
    theirs = np.random.permutation(100).tolist()  # noqa: NPY002
    assert class_orders(100, ContinualConfig())[3] == theirs
    assert class_orders(3, ContinualConfig(order="2, 0,1")) == [[2, 0, 1]]
    with pytest.raises(UserError, match="'7' is no label; expected every label from 0 to 2"):
        class_orders(3, ContinualConfig(order="0,1,7"))
    with pytest.raises(UserError, match="2 of 3 labels"):
        class_orders(3, ContinualConfig(order="0,1,1"))


def test_steps():
    assert steps_of([4, 2, 0, 1, 3], 2) == [[4, 2, 0], [1, 3]]
    assert [len(step) for step in steps_of(range(10), 5)] == [2] * 5


def test_part_of_a_dataset(data_root: Path):
    whole = load_dataset("digits", data_root)
    part = of_classes(whole, [7, 2])
    assert part.spec.class_names == ("7", "2")
    assert part.fingerprint != whole.fingerprint
    for own, all_of in ((part.train, whole.train), (part.test, whole.test)):
        for label, digit in enumerate((7, 2)):
            assert torch.equal(own.images[own.labels == label], all_of.images[all_of.labels == digit])


def test_memory_has_plain_labels(data_root: Path):
    dataset = load_dataset("digits", data_root)
    soft = KINDS["soft labels and stages"]
    found = joined([soft, soft], dataset, 4)
    assert (found.label_kind, found.learned_lr, found.stage) == ("hard", None, None)
    assert found.labels.tolist() == soft.labels.argmax(1).tolist() * 2


def test_whole(run: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """Sets of a step's classes, a matrix a unit, random beside; stopped and gone on: the same bytes."""
    argv = (*TASK, "--against", "random")
    done = ddb(*argv, "--out", "x.json")
    assert (done.code, done.err) == (0, "")
    found = read_result(run / "x.json")
    label = found["head"]["runs"][0]["label"]
    for order in range(2):
        steps = steps_of(found["head"]["decides"]["orders"][order], 3)
        for step, classes in enumerate(steps):
            made = read_synset(run / "x.files" / f"{label}-order{order}-step{step}" / "synset.safetensors")
            assert made.class_names == tuple(map(str, classes))
            assert len(made.images) == 2 * len(classes)
    learned = found["units"][f"{label} order 1 seed 0"]
    assert [len(row) for row in learned["matrix"]] == [1, 2, 3]
    ours, random = found["results"]["rows"]
    assert (ours["run"], random["run"], ours["leaks"]) == (label, "random", False)
    finals = [
        seen_accuracies(one["matrix"], one["test_images"])[-1]
        for name, one in found["units"].items()
        if name.startswith(label) and "seed" in name
    ]
    assert ours["metrics"]["final"]["mean"] == pytest.approx(sum(finals) / 4)
    # The run is random images too, under the same seed: every difference is 0, and a tie.
    assert found["results"]["differences"][0]["metrics"]["average"]["tie"] is True
    assert found["results"]["differences"][0]["metrics"]["average"]["mean"] == 0

    work, calls = runner.work, []

    def stopping(job: Any, unit: Any) -> Any:
        calls.append(unit)
        if len(calls) in (3, 9, 14):
            raise KeyboardInterrupt
        return work(job, unit)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "work", stopping)
        for _ in range(4):
            ddb(*argv, "--out", "y.json")
    assert (run / "y.json").read_bytes() == (run / "x.json").read_bytes()
    assert contents(run / "y.files", "cost.json") == contents(run / "x.files", "cost.json")


def test_a_leaking_set_is_marked(run: Path, ddb: Callable):
    done = ddb(*TASK, "--joint", "--against", "", "--out", "x.json")
    assert done.code == 0, done.err
    assert "LEAKS" in done.out
    found = read_result(run / "x.json")
    assert [row["leaks"] for row in found["results"]["rows"]] == [True]
    assert found["results"]["differences"] == []
    assert not (run / "x.files").exists()


@pytest.mark.slow
def test_herding_learns_from_a_teacher_of_the_step(run: Path, ddb: Callable):
    argv = ("task", "continual", "a", "--memory", 2, "--steps", 2, "--orders", 1, "--seeds", 1, *SMALL)
    assert ddb(*argv, "--against", "herding", "--out", "x.json").code == 0
    assert len(list((run / "x.files" / "teachers").iterdir())) == 2


def test_experts_of_the_steps_are_recorded_first(run: Path, ddb: Callable, finished_runs: Path):
    """As the run's own were trained, on the step's classes only; stopped and gone on: the same bytes."""
    mtt = next(path for path in finished_runs.iterdir() if "mtt" in path.name)
    argv = ("task", "continual", mtt, "--memory", 1, "--steps", 2, "--orders", 1, "--seeds", 1, "--against", "", *SMALL)
    done = ddb(*argv, "--out", "x.json")
    assert (done.code, done.err) == (0, "")
    wanted = json.loads((mtt / "config.json").read_text())["experts"]
    head = read_result(run / "x.json")["head"]
    assert head["runs"][0]["needs"] == {"experts": {name: wanted[name] for name in ("count", "recipe")}}
    stores = [store for part in (run / "x.files" / "experts").iterdir() for store in find_stores(part)]
    assert [len(store.experts) for store in stores] == [wanted["count"]] * 2
    assert [replace(store.recipe, holdout=0.1).to_json() for store in stores] == [wanted["recipe"]] * 2
    for step in range(2):
        folder = run / "x.files" / f"{head['runs'][0]['label']}-order0-step{step}"
        made = json.loads((folder / "config.json").read_text())
        assert made["experts"]["identity"] in {store.identity() for store in stores}
        assert json.loads((folder / "cost.json").read_text())["upstream"]["experts"]["experts"] == wanted["count"]
        assert made["dataset_fingerprint"] in {store.header["dataset_fingerprint"] for store in stores}

    costs = [json.loads(path.read_text()) for path in (run / "x.files").glob("*-step*/cost.json")]
    found = cost_of_sets(run / "x.json")
    assert found is not None
    assert found.sets == 2
    assert found.distillation == pytest.approx(sum(one["cpu_seconds"] for one in costs))
    assert found.needs == pytest.approx(sum(one["upstream"]["experts"]["cpu_seconds"] for one in costs))
    assert f"2 sets distilled in {found.distillation:.1f} CPU s, and {found.needs:.1f} for their experts" in done.out
    assert str(found) in ddb("info", "x.json").out

    lost = next((run / "x.files" / "experts").rglob("expert_00000.safetensors"))
    shutil.copytree(run / "x.files", run / "y.files")
    (run / "y.files" / lost.relative_to(run / "x.files")).unlink()  # as if stopped while experts were recorded
    for folder in (run / "y.files").glob("*-step*"):
        shutil.rmtree(folder)
    assert ddb(*argv, "--out", "y.json").code == 0
    assert (run / "y.json").read_bytes() == (run / "x.json").read_bytes()
    assert contents(run / "y.files", "cost.json") == contents(run / "x.files", "cost.json")


def test_a_student_that_diverged_has_no_accuracy(run: Path, ddb: Callable):
    """Outputs that are not finite would all be of class 0."""
    (run / "steep.toml").write_text('name = "steep"\nlr = 1e30\nlr_source = "protocol"\n')
    done = ddb(*TASK, "--joint", "--protocol", "steep.toml", "--out", "x.json")
    assert done.code == 2
    assert "the student's outputs are not finite: it diverged; choose another --student or --protocol" in done.err
    assert not (run / "x.json").exists()


def test_refused(run: Path, ddb: Callable, refused: Callable, finished_runs: Path):
    refused((*TASK, "--steps", 11), "--steps 11", "10 classes only")
    refused((*TASK, "--steps", 6), "--steps 6", "choose --steps 5 or less")
    refused((*TASK, "--order", "0,1,2,3,4,5,6,7,8,cat"), "--order", "'cat' is no label", "0 to 9")
    refused((*TASK, "--memory", 0), "--memory", "at least 1")
    refused((*TASK, "--joint", "--memory", 3), "has ipc 2", "--memory is 3")
    refused((*TASK, "--against", "randm"), "--against: unknown method 'randm' (did you mean 'random'?)")
    words = refused((*TASK, "--against", "mtt"), "mtt needs experts", "leave it out of --against")
    assert "--joint" not in words
    refused((*TASK, "--order", "5" * 5000), "--order", "no label")
    refused((*TASK, "--orders", 10**9), "--orders", "1 to 1000")
    refused((*TASK, "--orders", 1000, "--seeds", 1000), "--seeds times --orders 1000000", "at most 100,000")
    least = int(load_dataset("digits").train.labels.bincount().min())
    words = refused((*TASK, "--memory", least + 1), f"--memory {least + 1}", "takes different images", "--memory 1")
    assert "--joint" in words
    refused((*TASK, "--size", 0), "--size 0", "pixels")
    refused((*TASK, "--size", 16), "--size 16: digits has a fixed size of 8 pixels")
    assert not (run / "tasks").exists()
    mtt = next(path for path in finished_runs.iterdir() if "mtt" in path.name)
    shutil.copy(mtt / "synset.safetensors", "alone.safetensors")  # without the record of the run
    words = refused(
        ("task", "continual", "alone.safetensors", *SMALL), "mtt needs experts of the very images", "--joint"
    )
    assert "leaking" in words
    assert ddb(*random_tiny(run / "b", "--ipc", 2, "--holdout", 0.2)).code == 0
    refused((*TASK[:3], "b", *TASK[3:]), "--holdout 0.2", "one --holdout")
