"""Continual: steps see their own classes only, leaks are marked, the matrix gives what is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EAGER, TINY, contents, random_tiny
from made_students import accuracy_of, student_of
from made_synsets import KINDS

from ddbench.data.dataset import Split
from ddbench.data.load import load_dataset
from ddbench.experts.store import find_stores
from ddbench.runtime.errors import UserError
from ddbench.synset import read_synset
from ddbench.tasks import runner
from ddbench.tasks.continual import Continual, ContinualConfig, class_orders, joined, of_classes, steps_of
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
    right = [own * count for row in learned["matrix"] for own, count in zip(row, learned["test_images"], strict=False)]
    assert right == [pytest.approx(round(one), abs=1e-9) for one in right], "shares of whole images, unrounded"
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


@pytest.mark.parametrize("joint", [False, True])
def test_students_learn_all_classes_seen_and_no_others(run: Path, ddb: Callable, data_root: Path, joint: bool):
    """The matrix is that of students trained here on the sets of the steps so far; their class names say the labels."""
    steps = [[3, 8, 1, 6, 0], [9, 2, 7, 5, 4]]
    order = ",".join(str(digit) for step in steps for digit in step)
    argv = ("task", "continual", "a", "--memory", 2, "--steps", 2, "--order", order, "--seeds", 1, "--against", "")
    argv = (*argv, "--epochs", 30, "--student", "mlp-d1-w32", "--workers", 1, "--quiet", *EAGER, "--out", "x.json")
    assert ddb(*argv, *(["--joint"] if joint else [])).code == 0
    (matrix,) = (one["matrix"] for one in read_result(run / "x.json")["units"].values() if "matrix" in one)

    test, whole = load_dataset("digits").test, read_synset(run / "a" / "synset.safetensors")
    rows, images, labels = [], [], []
    for step, digits in enumerate(steps):
        made = whole if joint else read_synset(next((run / "x.files").glob(f"*-step{step}")) / "synset.safetensors")
        digit = torch.tensor([int(made.class_names[label]) for label in made.labels.tolist()])
        keep = torch.isin(digit, torch.tensor(digits))
        images, labels = [*images, made.images[keep]], [*labels, digit[keep]]
        memory = replace(whole, images=torch.cat(images), labels=torch.cat(labels))
        net = student_of(memory, "mlp-d1-w32", 30, "dc-legacy")
        asked = [torch.isin(test.labels, torch.tensor(own)) for own in steps[: step + 1]]
        rows.append([accuracy_of(net, Split(test.images[own], test.labels[own])) for own in asked])
    assert matrix == [pytest.approx(row, abs=1e-6) for row in rows]
    assert min(rows[1]) > 0.2, "at chance the rows could be those of another memory"


def test_what_the_matrices_say():
    """Two orders of one network each, two steps with one and three test images: all by hand."""

    def record(run: str, order: int, matrix: list[list[float]]) -> dict[str, Any]:
        return {"run": run, "order": order, "seed": 0, "leaks": False, "matrix": matrix, "test_images": [1, 3]}

    records = {
        "a": record("ours", 0, [[1.0], [0.5, 0.9]]),  # after the steps 1 and (0.5 + 2.7) / 4
        "b": record("ours", 1, [[0.6], [0.8, 0.4]]),  # 0.6 and (0.8 + 1.2) / 4
        "c": record("random", 0, [[0.4], [0.4, 0.4]]),
        "d": record("random", 1, [[0.4], [0.4, 0.4]]),
    }
    head = {"runs": [{"label": "ours", "method": "dm"}]}
    found = Continual.results(head, records)
    row, random = found["rows"]
    assert [step["mean"] for step in row["steps"]] == pytest.approx([0.8, 0.65])
    means = {name: one["mean"] for name, one in row["metrics"].items()}
    assert means == pytest.approx({"final": 0.65, "average": 0.725, "forgetting": (0.5 - 0.2) / 2})
    assert [(len(line), *line) for line in row["matrix"]] == [pytest.approx((1, 0.8)), pytest.approx((2, 0.65, 0.65))]
    (difference,) = found["differences"]
    assert (difference["run"], difference["against"], random["run"]) == ("ours", "random", "random")
    means = {name: one["mean"] for name, one in difference["metrics"].items()}
    assert means == pytest.approx({"final": 0.25, "average": 0.325, "forgetting": 0.15})
    told = Continual.told(head, records, "ours")
    assert told.units[0] == pytest.approx({"final": 0.8, "average": 0.9, "forgetting": 0.5})
    assert told.units[1] == pytest.approx({"final": 0.5, "average": 0.55, "forgetting": -0.2})


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
    """Outputs that are not finite would all be of class 0. Of several runs, the message says in which."""
    (run / "steep.toml").write_text('name = "steep"\nlr = 1e30\nlr_source = "protocol"\n')
    done = ddb(*TASK, "--joint", "--protocol", "steep.toml", "--out", "x.json")
    assert done.code == 2
    words = "the student's outputs are not finite: it diverged; choose another --student or --protocol"
    assert f"order 0 seed 0: {words}" in done.err
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
    refused((*TASK, "--against", "dc"), "dc: --ipc 2: the authors give loops", "leave it out of --against")
    words = refused((*TASK, "--against", "frepo"), "frepo: --student", "without a norm", "leave it out of --against")
    refused((*TASK, "--order", "5" * 5000), "--order", "no label")
    refused((*TASK, "--orders", 10**9), "--orders", "1 to 1000")
    refused((*TASK, "--orders", 1000, "--seeds", 1000), "--seeds times --orders 1000000", "at most 100,000")
    least = int(load_dataset("digits").train.labels.bincount().min())
    words = refused((*TASK, "--memory", least + 1), f"--memory {least + 1}", "takes different images", "--memory 1")
    assert "--joint" in words
    refused((*TASK, "--size", 0), "--size 0", "pixels")
    refused((*TASK, "--size", 16), "--size 16: the synset has images of digits with 8 pixels")
    assert not (run / "tasks").exists()
    mtt = next(path for path in finished_runs.iterdir() if "mtt" in path.name)
    shutil.copy(mtt / "synset.safetensors", "alone.safetensors")  # without the record of the run
    words = refused(
        ("task", "continual", "alone.safetensors", *SMALL), "mtt needs experts of the very images", "--joint"
    )
    assert "leaking" in words
    assert ddb(*random_tiny(run / "b", "--ipc", 2, "--holdout", 0.2)).code == 0
    refused((*TASK[:3], "b", *TASK[3:]), "--holdout 0.2", "one --holdout")


def test_a_step_without_test_images_is_refused(data_root: Path):
    digits = load_dataset("digits", data_root)
    keep = digits.test.labels < 8
    some = replace(digits, test=Split(digits.test.images[keep], digits.test.labels[keep]))
    for last, refused in (([0, 9], False), ([8, 9], True)):
        order = [label for label in range(10) if label not in last] + last
        task = SimpleNamespace(dataset=some, orders=[order], config=ContinualConfig())
        with pytest.raises(UserError, match=r"--steps 5: no test image .*\(8, 9\)") if refused else nullcontext():
            Continual._check_tested(task)


def test_a_diffusion_model_that_several_sets_share_counts_once(tmp_path: Path):
    for step, model in enumerate(("a", "a", "b")):
        folder = tmp_path / "x.files" / f"step{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"diffusion": {"sha256": model}}))
        upstream = {"diffusion": {"cpu_seconds": 40.0}}
        (folder / "cost.json").write_text(json.dumps({"cpu_seconds": 1.0, "upstream": upstream}))
    words = "3 sets distilled in 3.0 CPU s, and 80.0 for their experts, teachers and diffusion models"
    assert str(cost_of_sets(tmp_path / "x.json")) == words
