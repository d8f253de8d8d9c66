"""Scoring: what a run is, what is recorded, what makes it non-standard."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import EAGER, TINY, evaluate_tiny
from PIL import Image

from ddbench.data import load
from ddbench.data.augment import apply, draw, parse_strategy
from ddbench.data.dataset import Dataset, Split, holdout_split
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.evaluation import tasks
from ddbench.evaluation.kept import Kept
from ddbench.evaluation.start import _altered as altered
from ddbench.evaluation.start import asked
from ddbench.evaluation.work import SEARCH_SEED
from ddbench.leaderboard.commands import _protocol_flags
from ddbench.measurements.corruptions import CorruptionProbe
from ddbench.measurements.suite import Finding
from ddbench.measurements.trained import weights_path
from ddbench.modalities import modality
from ddbench.networks.build import build_student
from ddbench.protocols import labels, training
from ddbench.protocols.plan import Plan, check_plan, rate_of
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.protocols.training import DivergedError, Settings
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.statistics import summarise
from ddbench.synset import Budget, Synset, read_synset


def score(ddb: Callable, run: Path, out: Path, *more: object) -> dict[str, Any]:
    result = ddb(*evaluate_tiny(run, "--out", out, *more))
    assert result.code == 0, result.err
    return json.loads(out.read_text())


def by_hand(synset: Any, dataset: Any, *, seed: int, epochs: int, lr: float, augmentation: str) -> float:
    """One run of hard-v1 written out in plain PyTorch."""
    preprocess = fit_preprocess(dataset, "meanstd")
    x = preprocess.apply(synset.images) if synset.space == "pixels" else synset.images
    net = build_student(TINY, channels=1, size=8, classes=10, seed=seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    strategy = parse_strategy(augmentation)
    for epoch in range(epochs):
        if epoch == epochs // 2 + 1:
            optimizer.param_groups[0]["lr"] = lr * 0.1
        order = torch.randperm(len(x), generator=seeds.generator(seed, "order", epoch))
        batch = apply(draw(strategy, len(x), 8, seeds.generator(seed, "augment", epoch)), x[order])
        optimizer.zero_grad()
        F.cross_entropy(net(batch), synset.labels[order]).backward()
        optimizer.step()
    with torch.no_grad():
        logits = net.eval()(preprocess.apply(dataset.test.images))
    return float((logits.argmax(1) == dataset.test.labels).float().mean())


@pytest.mark.parametrize("name", ["random", "mtt"])
def test_a_run_is_what_the_protocol_says(
    name: str, ddb: Callable, finished_runs: Path, data_root: Path, tmp_path: Path
):
    argv = ["evaluate", finished_runs / name, "--students", TINY, "--seeds", 3, "--epochs", 60, "--workers", 1, *EAGER]
    assert ddb(*argv, "--out", tmp_path / "score.json").code == 0
    runs = json.loads((tmp_path / "score.json").read_text())["runs"]
    synset = read_synset(finished_runs / name / "synset.safetensors")
    dataset = load_dataset("digits", data_root)
    assert [run["seed"] for run in runs] == [0, 1, 2]
    lr = 0.01 if synset.learned_lr is None else float(synset.learned_lr)
    for run in runs:
        expected = by_hand(
            synset,
            dataset,
            seed=run["seed"],
            epochs=60,
            lr=lr,
            augmentation="color_crop_cutout_scale_rotate",
        )
        # 500 test images; rounding may move one or two of them over a boundary
        assert run["metrics"]["accuracy"] == pytest.approx(expected, abs=0.0041)
    assert len({run["metrics"]["accuracy"] for run in runs}) > 1


def test_record(ddb: Callable, random_run: Path, tmp_path: Path):
    data = score(ddb, random_run, tmp_path / "score.json", "--students", f"{TINY},mlp-d1-w8", "--seeds", 3)
    assert (data["kind"], data["schema"]) == ("ddbench-evaluation", 1)
    assert [(run["student"], run["seed"]) for run in data["runs"]] == [
        (student, seed) for student in (TINY, "mlp-d1-w8") for seed in range(3)
    ]
    for student, metrics in data["summary"].items():
        values = [run["metrics"]["accuracy"] for run in data["runs"] if run["student"] == student]
        assert metrics["accuracy"] == summarise(values)
    assert data["synset"]["bytes"] == {
        "images": 640,
        "labels": 10,
        "augmentation": 0,
        "teacher": 0,
        "other": 0,
        "total": 650,
        "real": 1297 * 64,
        "real_images": 1297,
    }
    assert data["protocol"]["name"] == "hard-v1"
    assert data["protocol"]["standard"] is False
    assert data["protocol"]["changed"] == {"epochs": 3, "full_epochs": 3, "max_images": 100}
    assert data["protocol"]["settings"]["epochs"] == 3
    assert data["protocol"]["hash"] != PROTOCOLS["hard-v1"].hash
    assert not any("seconds" in key for key in json.dumps(data).split('"')), "costs are not in the result"
    costs = json.loads((tmp_path / "score.cost.json").read_text())
    assert len(costs["runs"]) == 6
    assert costs["wall_seconds"] == pytest.approx(sum(run["wall_seconds"] for run in costs["runs"]), abs=0.01)


def test_table(ddb: Callable, random_run: Path, tmp_path: Path):
    result = ddb(*evaluate_tiny(random_run, "--out", tmp_path / "score.json"))
    assert "NON-STANDARD" in result.out
    mean = json.loads((tmp_path / "score.json").read_text())["summary"][TINY]["accuracy"]["mean"]
    assert f"{100 * mean:.2f} %" in result.out
    assert "95 % interval" in result.out
    assert "(2 seeds)" in result.out


def test_default_student_and_place(ddb: Callable, mtt_run: Path):
    """The network that the synset was distilled on, and a file that is named by the protocol and its changes."""
    argv = ("evaluate", mtt_run, "--seeds", 1, "--epochs", 2, "--workers", 1, "--quiet", *EAGER)
    assert ddb(*argv).code == 0
    place = mtt_run / "evaluations" / "hard-v1-nonstandard-epochs=2-full_epochs=2.json"
    assert [run["student"] for run in json.loads(place.read_text())["runs"]] == [TINY]
    assert ddb(*argv, "--precision", "bfloat16").code == 0
    assert len([path for path in place.parent.glob("*.json") if "cost" not in path.name]) == 2


STANDARD = {
    "epochs of the protocol": ("hard-v1", {"epochs": 1000}, False),
    "epochs of a teacher's protocol": ("kd-v1", {"epochs": 300}, False),
    "epochs of all real data": ("hard-v1", {"epochs": 100}, True),
    "rate of the protocol": ("kd-v1", {"lr": 0.001}, False),
    "both": ("kd-v1", {"lr": 0.001, "epochs": 300}, False),
}


@pytest.mark.parametrize("case", STANDARD)
def test_what_the_protocol_says_anyway_is_standard(case: str):
    name, settings, whole = STANDARD[case]
    base = PROTOCOLS[name]
    assert altered(asked(settings), base, modality("image"), [TINY], whole=whole) == (base, {})


ALTERED = {
    "epochs": ("hard-v1", {"epochs": 5}, False, {"epochs": 5, "full_epochs": 5}),
    "epochs of all real data": ("hard-v1", {"epochs": 1000}, True, {"full_epochs": 1000}),
    "epochs that all real data have": ("hard-v1", {"epochs": 100}, False, {"epochs": 100}),
    "rate": ("kd-v1", {"lr": 0.5}, False, {"lr": 0.5, "lr_students": []}),
    "rate that other students have": ("rded", {"lr": 0.001}, False, {"lr_students": []}),
    "rate that may be the synset's": ("hard-v1", {"lr": 0.01}, False, {"lr_source": "protocol"}),
    "source": ("hard-v1", {"lr_source": "search"}, False, {"lr_source": "search"}),
    "source and epochs": (
        *("hard-v1", {"lr_source": "protocol", "epochs": 7}, False),
        {"epochs": 7, "full_epochs": 7, "lr_source": "protocol"},
    ),
}


@pytest.mark.parametrize("case", ALTERED)
def test_flags_of_a_row_alter_its_protocol_in_the_same_way(case: str):
    """From flags to what is told as changed, to the flags of the row's command, to what is told as changed."""
    name, settings, whole, difference = ALTERED[case]
    students = [TINY, "vgg11-in"] if case == "rate that other students have" else [TINY]
    made, found = altered(asked(settings), PROTOCOLS[name], modality("image"), students, whole=whole)
    assert found == difference
    flags = _protocol_flags(found, made.settings())
    typed = {flag[2:].replace("-", "_"): value for flag, value in zip(flags[::2], flags[1::2], strict=True)}
    kinds = {"epochs": int, "lr": float}
    again = asked({flag: kinds.get(flag, str)(value) for flag, value in typed.items()})
    assert altered(again, PROTOCOLS[name], modality("image"), students, whole=whole) == (made, found)


def plan_of(synset: Any, dataset: Any, settings: Any) -> Plan:
    return Plan(synset=synset, protocol=settings, preprocess=fit_preprocess(dataset, "meanstd"), flip=False)


def test_learned_lr(ddb: Callable, mtt_run: Path, data_root: Path, tmp_path: Path):
    synset, dataset = read_synset(mtt_run / "synset.safetensors"), load_dataset("digits", data_root)
    assert rate_of(plan_of(synset, dataset, PROTOCOLS["hard-v1"]), TINY) == float(synset.learned_lr)
    assert rate_of(plan_of(synset, dataset, PROTOCOLS["mtt"]), TINY) == float(synset.learned_lr)
    assert rate_of(plan_of(synset, dataset, PROTOCOLS["dc-legacy"]), TINY) == 0.01
    assert rate_of(plan_of(synset, dataset, PROTOCOLS["kd-v1"]), "vgg11-bn") == 0.0005
    data = score(ddb, mtt_run, tmp_path / "learned.json")
    assert data["learning_rates"][TINY] == {"rate": float(synset.learned_lr), "source": "synset", "searched": {}}
    assert data["synset"]["learned_lr"] == float(synset.learned_lr)
    data = score(ddb, mtt_run, tmp_path / "score.json", "--lr", 0.3)
    assert data["protocol"]["settings"]["lr"] == 0.3
    assert data["protocol"]["changed"]["lr_source"] == "protocol"
    assert data["learning_rates"][TINY] == {"rate": 0.3, "source": "protocol", "searched": {}}


def test_searched_lr(ddb: Callable, random_run: Path, data_root: Path, tmp_path: Path):
    """Every rate of the grid is tried on held-out training images; the best of them trains the runs."""
    out = tmp_path / "score.json"
    data = score(ddb, random_run, out, "--lr-source", "search", "--students", f"{TINY},mlp-d1-w8")
    grid = PROTOCOLS["hard-v1"].lr_grid
    for student in (TINY, "mlp-d1-w8"):
        entry = data["learning_rates"][student]
        assert tuple(map(float, entry["searched"])) == grid
        assert entry["searched"][repr(entry["rate"])] == max(entry["searched"].values())
        assert entry["source"] == "search on held-out training images"
    costs = json.loads((tmp_path / "score.cost.json").read_text())["runs"]
    assert sum("searched_lr" in entry for entry in costs) == 2 * len(grid)
    # A searched rate gives the numbers of that rate given by hand, and more seeds do not search again.
    rate = data["learning_rates"][TINY]["rate"]
    fixed = score(ddb, random_run, tmp_path / "fixed.json", "--lr", rate)
    assert [r["metrics"] for r in fixed["runs"]] == [r["metrics"] for r in data["runs"] if r["student"] == TINY]
    before = len(costs)
    score(ddb, random_run, out, "--lr-source", "search", "--students", f"{TINY},mlp-d1-w8", "--seeds", 3)
    assert len(json.loads((tmp_path / "score.cost.json").read_text())["runs"]) == before + 2


def test_search_never_looks_at_the_test_set(ddb: Callable, random_run: Path, tmp_path: Path, monkeypatch):
    """The search's accuracies do not move when the test labels are wrong."""
    first = score(ddb, random_run, tmp_path / "a.json", "--lr-source", "search", "--seeds", 1)
    real = load.load_dataset

    def wrong(*args: Any, **more: Any) -> Dataset:
        dataset = real(*args, **more)
        test = Split(dataset.test.images, dataset.test.labels.flip(0))
        return Dataset(dataset.spec, dataset.train, test, dataset.fingerprint, dataset.root)

    monkeypatch.setattr(load, "load_dataset", wrong)
    tasks._loaded.cache_clear()
    second = score(ddb, random_run, tmp_path / "b.json", "--lr-source", "search", "--seeds", 1)
    tasks._loaded.cache_clear()
    assert first["learning_rates"] == second["learning_rates"]
    assert first["runs"] != second["runs"]


def tried(
    synset: Synset, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, accuracy: float | UserError = 0.5
) -> tuple[float, list[Any]]:
    """What the search says of one rate, and what it trained and judged: plan, images, student, seed, rate."""
    seen: list[Any] = []

    def train(plan: Plan, judged: Split, student: str, seed: int, settings: Settings, lr: float) -> dict[str, float]:
        seen.extend([plan, judged, student, seed, lr])
        if isinstance(accuracy, UserError):
            raise accuracy
        return {"accuracy": accuracy}

    monkeypatch.setattr(tasks, "train_student", train)
    task = tasks.Task(student=TINY, seeds=(SEARCH_SEED,), sha256="", lr=0.3, search=True)
    plan = plan_of(synset, dataset, PROTOCOLS["hard-v1"])
    return tasks._try_rate(plan, dataset, task, Settings(device="cpu", threads=1)), seen


@pytest.mark.parametrize(
    ("kept_back", "fraction"),
    [(0.3, 0.3), (0.9, 0.9), (0.05, 0.05), (None, 0.1), (0.0, 0.1), (0, 0.1), (0.95, 0.1), ("x", 0.1)],
)
def test_search_looks_at_what_the_method_did_not_see(
    kept_back: Any, fraction: float, random_run: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
):
    """The part that the synset's own run held out; a tenth, where it says of none."""
    dataset = load_dataset("digits", data_root)
    synset = read_synset(random_run / "synset.safetensors")
    synset = dataclasses.replace(synset, config={**synset.config, "holdout": kept_back})
    value, (plan, judged, *how) = tried(synset, dataset, monkeypatch)
    _, held_out = holdout_split(dataset.train, fraction, 10)
    assert torch.equal(judged.images, held_out.images)
    assert torch.equal(judged.labels, held_out.labels)
    assert plan.synset is synset
    assert how == [TINY, SEARCH_SEED, 0.3]
    assert value == 0.5


def test_search_of_full_trains_on_the_rest(random_run: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch):
    """Real images are not judged by a student that was trained on them."""
    dataset = load_dataset("digits", data_root)
    synset = read_synset(random_run / "synset.safetensors")
    full = dataclasses.replace(
        synset, images=dataset.train.images, labels=dataset.train.labels, budget=Budget("all", 1297)
    )
    _, (plan, judged, *_) = tried(full, dataset, monkeypatch)
    rest, held_out = holdout_split(dataset.train, 0.1, 10)
    assert torch.equal(plan.synset.images, rest.images)
    assert torch.equal(plan.synset.labels, rest.labels)
    assert torch.equal(judged.images, held_out.images)
    assert len(rest.images) + len(held_out.images) == 1297


def test_search_without_an_image_to_hold_out(random_run: Path, data_root: Path):
    """Told before a student is trained."""
    dataset, synset = load_dataset("digits", data_root), read_synset(random_run / "synset.safetensors")
    first = torch.stack([(dataset.train.labels == label).nonzero()[0, 0] for label in range(10)])
    alone = dataclasses.replace(dataset, train=Split(dataset.train.images[first], dataset.train.labels[first]))
    wanted = dataclasses.replace(PROTOCOLS["hard-v1"], lr_source="search")
    check_plan(plan_of(synset, dataset, wanted), dataset)
    with pytest.raises(UserError, match="every class of digits has one image only; use --lr-source protocol, or --lr"):
        check_plan(plan_of(synset, alone, wanted), alone)


def job_of(run: Path, data_root: Path, **files: Path) -> tasks.Job:
    """What workers know of an evaluation."""
    how: dict[str, Any] = {"device": "cpu", "threads": 1, "precision": "float32", "compile": "off", "max_images": None}
    synset = run / "synset.safetensors"
    return tasks.Job(synset=synset, data=data_root, size=None, protocol=PROTOCOLS["fkd"], **how, **files)


def test_labels_that_were_made_anew_are_read_again(
    random_run: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A process that evaluates twice took the new file for the old one: its teacher, and where its logits begin."""
    monkeypatch.setattr(labels, "read_labels", lambda path: path.read_text())
    path, sha256 = tmp_path / "labels.safetensors", "a" * 64
    job = job_of(random_run, data_root, labels=path)
    path.write_text("of one teacher")
    assert tasks.load_plan(job, sha256)[0].stored == "of one teacher"
    assert tasks.load_plan(job, sha256)[1] is tasks.load_plan(job, sha256)[1], "else read once"
    path.write_text("of another one")
    os.utime(path, ns=(1, 1))
    assert tasks.load_plan(job, sha256)[0].stored == "of another one"


def test_a_student_that_was_trained_anew_is_opened_again(
    random_run: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of one place and seed, as where a result was removed and made again with another teacher of the same file."""
    weights = weights_path(tmp_path, TINY, 0)
    monkeypatch.setattr(tasks, "open_student", lambda *how: weights.read_text())
    monkeypatch.setattr(tasks, "measure", lambda trained, probe: Finding(details={"student": trained}))
    probe = CorruptionProbe(name="fog", size=8)
    task = tasks.ProbeTask(
        student=TINY, seed=0, sha256="b" * 64, kind="corruptions", probe=probe, images=9, folder=tmp_path
    )
    found = []
    for number, content in enumerate(("one", "another")):
        weights.write_text(content)
        os.utime(weights, ns=(number, number))
        found.append(tasks.run_probe(job_of(random_run, data_root), task)["finding"]["details"]["student"])
    assert found == ["one", "another"]


def test_images_of_few_classes_are_told(ddb: Callable, random_run: Path, tmp_path: Path):
    argv = [part for part in evaluate_tiny(random_run, "--out", tmp_path / "a.json") if part != "--quiet"]
    assert "classes only" not in ddb(*argv).err
    argv[argv.index("--max-images") + 1] = 9
    assert "--max-images 9: of 9 of 10 classes only" in ddb(*argv[:-1], tmp_path / "b.json").err


def test_so_many_test_images_are_of_all_classes(random_run: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch):
    """A set of image files stands class by class: a score of its first images would be one of its first classes."""
    dataset = load_dataset("digits", data_root)
    order = dataset.test.labels.argsort(stable=True)
    ordered = dataclasses.replace(dataset, test=Split(dataset.test.images[order], dataset.test.labels[order]))
    seen: list[Split] = []

    def tested(_: Plan, test: Split, nets: dict[int, Any], *__: Any) -> list[dict[str, float]]:
        seen.append(test)
        return [{"accuracy": 0.0} for _ in nets]

    monkeypatch.setattr("ddbench.protocols.training.trained_students", lambda *_, **__: ([torch.nn.Identity()], None))
    monkeypatch.setattr("ddbench.protocols.training.tested_students", tested)
    plan = plan_of(read_synset(random_run / "synset.safetensors"), dataset, PROTOCOLS["hard-v1"])
    for count in (None, 30):
        modality("image").train_and_test(plan, ordered, TINY, [0], Settings(device="cpu", threads=1), None, count)
    assert torch.equal(seen[0].images, ordered.test.images)
    assert seen[1].labels.bincount().tolist() == [3] * 10


def test_search_goes_on_after_a_rate_that_diverges(random_run: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch):
    synset = read_synset(random_run / "synset.safetensors")
    dataset = load_dataset("digits", data_root)
    value, _ = tried(synset, dataset, monkeypatch, DivergedError("not finite"))
    assert value == 0.0
    with pytest.raises(UserError, match="the teacher is gone"):  # not a bad rate, which would be kept
        tried(synset, dataset, monkeypatch, UserError("the teacher is gone"))


@pytest.mark.parametrize("order", [1, -1])
def test_smallest_of_the_best_rates_is_taken(order: int):
    found = [(0.001, 0.2), (0.01, 0.7), (0.03, 0.7), (0.1, 0.6)]
    assert Kept(searches={TINY: dict(found[::order])}).best_rate(TINY) == 0.01


def test_costs_are_added_up():
    """Seconds of all trainings, each to the millisecond, together; the largest memory; in order of student and run."""
    kept = Kept()
    nothing = {"device": "cpu: x", "cores": 2, "wall_seconds": 0, "cpu_seconds": 0, "peak_memory_bytes": 0, "runs": []}
    assert kept.cost_report("cpu: x", 2) == nothing
    costs = [
        {"wall_seconds": 1.23449, "cpu_seconds": 2.0004, "peak_memory_bytes": 30},
        {"wall_seconds": 0.1, "cpu_seconds": 0.0004, "peak_memory_bytes": 50},
        {"wall_seconds": 0.0002, "cpu_seconds": 0.1237, "peak_memory_bytes": 40},
    ]
    for seed, cost in zip((1, 0), costs, strict=False):
        kept.take({"student": TINY, "seed": seed, "metrics": {"accuracy": 0.5}, "cost": cost})
    kept.take({"student": TINY, "searched_lr": 0.03, "holdout_accuracy": 0.5, "cost": costs[2]})
    assert kept.cost_report("cpu: x", 2) == {
        **nothing,
        "wall_seconds": 1.334,
        "cpu_seconds": 2.124,
        "peak_memory_bytes": 50,
        "runs": [
            {"student": TINY, "searched_lr": 0.03, "wall_seconds": 0.0, "cpu_seconds": 0.124, "peak_memory_bytes": 40},
            {"student": TINY, "seed": 0, "wall_seconds": 0.1, "cpu_seconds": 0.0, "peak_memory_bytes": 50},
            {"student": TINY, "seed": 1, "wall_seconds": 1.234, "cpu_seconds": 2.0, "peak_memory_bytes": 30},
        ],
    }


def test_seeds_that_are_trained_at_once_share_the_seconds(
    random_run: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
):
    """Their costs are added up: each telling all of them, three seeds would have taken three times as long."""
    monkeypatch.setattr(tasks, "Meter", lambda: SimpleNamespace(wall=6.0, cpu=12.0))
    runs = [{"seed": seed, "metrics": {"accuracy": 0.5}} for seed in range(3)]
    monkeypatch.setattr(tasks, "_train_and_test", lambda *_: runs)
    task = tasks.Task(student=TINY, seeds=(0, 1, 2), sha256="c" * 64)
    found = tasks.run_task(job_of(random_run, data_root), task)
    assert [(one["seed"], one["cost"]["wall_seconds"], one["cost"]["cpu_seconds"]) for one in found] == [
        (seed, 2.0, 4.0) for seed in range(3)
    ]


def test_a_metric_that_a_seed_lacks_is_left_out():
    """Measured alike, and one seed had no median: the mean of the others would be of those that are easy to break."""
    kept = Kept(
        runs={
            (TINY, 0): {"accuracy": 0.5, "cw_l2": 0.3},
            (TINY, 1): {"accuracy": 0.6},
            (TINY, 2): {"accuracy": 0.7, "calibration_error": 0.1, "cw_l2": 0.4},
            ("mlp-d1-w8", 0): {"accuracy": 0.5, "cw_l2": 0.2},
        },
        findings={(TINY, seed, "robustness"): {} for seed in range(3)}
        | {(TINY, 2, "calibration"): {}, ("mlp-d1-w8", 0, "robustness"): {}},
    )
    found = kept.tables()
    assert set(found["summary"][TINY]) == {"accuracy", "calibration_error"}  # of one seed, since one was measured
    assert [set(run["metrics"]) for run in found["runs"] if run["student"] == TINY] == [
        {"accuracy"},
        {"accuracy"},
        {"accuracy", "calibration_error"},
    ]
    assert found["summary"]["mlp-d1-w8"]["cw_l2"]["mean"] == 0.2


def test_student_that_diverges_is_told(ddb: Callable, random_run: Path, tmp_path: Path):
    result = ddb(*evaluate_tiny(random_run, "--lr", 1e30, "--out", tmp_path / "score.json"))
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert f"{TINY}, seed 0" in result.err
    assert "not finite" in result.err
    assert not (tmp_path / "score.json").exists()


def test_full_uses_the_whole_training_set(ddb: Callable, tmp_path: Path):
    argv = ("distill", "--method", "full", "--dataset", "digits", "--student", TINY, "--out", tmp_path / "run", *EAGER)
    assert ddb(*argv).code == 0
    synset = read_synset(tmp_path / "run" / "synset.safetensors")
    assert (len(synset.images), synset.budget.unit) == (1297, "all")
    data = score(ddb, tmp_path / "run", tmp_path / "score.json", "--seeds", 1)
    assert data["synset"]["bytes"]["images"] == data["synset"]["bytes"]["real"]


def test_image_folder_from_end_to_end(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A user's own pictures: distil, score and export with one command each."""
    monkeypatch.chdir(tmp_path)
    randomness = torch.Generator().manual_seed(0)
    for label, name in enumerate(("cat", "dog")):
        folder = tmp_path / "mine" / name
        folder.mkdir(parents=True)
        for number in range(6):
            picture = torch.randint(100 * label, 100 * label + 100, (8, 8, 3), generator=randomness, dtype=torch.uint8)
            Image.fromarray(picture.numpy()).save(folder / f"{number}.png")
    argv = ("distill", "--method", "random", "--dataset", "folder:mine", "--size", 8, "--ipc", 2, "--student", TINY)
    result = ddb(*argv, "--out", "run", "--data", tmp_path / "data", *EAGER)
    assert result.code == 0, result.err
    result = ddb(*evaluate_tiny(Path("run")), "--data", tmp_path / "data")
    assert result.code == 0, result.err
    result = ddb("export", "run", "--format", "png", "--out", "png", "--data", tmp_path / "data")
    assert result.code == 0, result.err
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == ["0000_cat", "0001_dog"]


def test_the_name_says_non_standard_where_the_row_does(ddb: Callable, random_run: Path):
    argv = ("evaluate", random_run, "--students", TINY, "--seeds", 2, "--status", *EAGER)
    for flags, name in (
        (("--at-once", 2), "hard-v1-at_once=2"),
        (("--precision", "bfloat16"), "hard-v1-precision=bfloat16"),
        (("--at-once", 2, "--max-images", 9), "hard-v1-nonstandard-max_images=9-at_once=2"),
    ):
        assert f"{name}.json: " in ddb(*argv, *flags).out


def test_several_seeds_at_once(ddb: Callable, random_run: Path, tmp_path: Path):
    """Their weights are stacked; each ends where it ends alone, up to rounding (an image or two of 100)."""
    alone = score(ddb, random_run, tmp_path / "alone.json", "--students", f"{TINY},mlp-d1-w8", "--seeds", 3)
    both = score(
        ddb, random_run, tmp_path / "both.json", "--students", f"{TINY},mlp-d1-w8", "--seeds", 3, "--at-once", 2
    )
    assert both["at_once"] == 2
    for one, other in zip(alone["runs"], both["runs"], strict=True):
        assert (one["student"], one["seed"]) == (other["student"], other["seed"])
        assert one["metrics"]["accuracy"] == pytest.approx(other["metrics"]["accuracy"], abs=0.021)
    costs = json.loads((tmp_path / "both.cost.json").read_text())["runs"]
    assert [cost["seed"] for cost in costs] == [0, 1, 2, 0, 1, 2]
    settings = ('name = "own"', 'base = "hard-v1"', 'optimizer = "adafactor"', "momentum = 0.0", "epochs = 2")
    (tmp_path / "own.toml").write_text("\n".join(settings))
    own = ("--protocol", tmp_path / "own.toml", "--students", "mlp-d1-w8", "--seeds", 2)  # not element by element
    one, other = (score(ddb, random_run, tmp_path / f"{n}.json", *own, "--at-once", n)["runs"] for n in (1, 2))
    assert one == other
    result = ddb(*evaluate_tiny(random_run, "--at-once", 0))
    assert (result.code, "--at-once 0" in result.err) == (2, True)


def test_seeds_that_go_one_after_another_are_no_block(
    ddb: Callable, random_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Only those that are asked for are trained, and each is kept as it ends; stacked ones go in whole blocks."""
    trained: list[tuple[str, tuple[int, ...]]] = []
    real = training.trained_students

    def noted(plan: Any, student: str, seeds: Any, *rest: Any, **more: Any) -> Any:
        trained.append((student, tuple(seeds)))
        return real(plan, student, seeds, *rest, **more)

    monkeypatch.setattr(training, "trained_students", noted)
    argv = ("--students", f"{TINY},vit-d1-w16", "--seeds", 3, "--at-once", 4)
    command = evaluate_tiny(random_run, "--out", tmp_path / "score.json", *argv)
    command.remove("--quiet")
    result = ddb(*command)
    assert result.code == 0, result.err
    assert trained == [(TINY, (0, 1, 2, 3)), *(("vit-d1-w16", (seed,)) for seed in range(3))]
    told = "--at-once 4: the seeds of vit-d1-w16 are trained one after another (it draws at random in training"
    assert told in result.err
    assert f"the seeds of {TINY}" not in result.err


def test_what_is_not_stacked_is_recorded_as_one(ddb: Callable, random_run: Path, tmp_path: Path):
    """A student that is trained alone goes with any evaluation; one that can be stacked only with its like."""
    alone, out = ("--students", "vit-d1-w16", "--seeds", 1), tmp_path / "score.json"
    flags = ("--out", out, "--at-once", 4)
    assert ddb(*evaluate_tiny(random_run, *flags, *alone)).code == 0
    assert json.loads(out.read_text())["at_once"] == 1
    before = out.read_bytes()
    assert ddb(*evaluate_tiny(random_run, "--out", out, *alone)).code == 0, "the same without the flag"
    assert out.read_bytes() == before
    refused = ddb(*evaluate_tiny(random_run, *flags))
    assert (refused.code, "give --at-once 1 as there" in refused.err) == (2, True)
    old = json.loads(before) | {"at_once": 4}  # as it was recorded once
    out.write_text(json.dumps(old))
    assert ddb(*evaluate_tiny(random_run, *flags, *alone)).code == 0
    both = ddb(*evaluate_tiny(random_run, *flags, "--students", f"vit-d1-w16,{TINY}", "--seeds", 1))
    assert both.code == 0, both.err
    refused = ddb(*evaluate_tiny(random_run, "--out", out, "--seeds", 3))
    assert (refused.code, "give --at-once 4 as there" in refused.err) == (2, True)
    assert ddb(*evaluate_tiny(random_run, *flags, *alone, "--seeds", 2)).code == 0
    found = json.loads(out.read_text())
    assert (found["at_once"], len(found["runs"])) == (4, 3)


# Students that diverge


@pytest.fixture
def hot(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, int], bool]], None]:
    """``hot(which)``: outputs of the students and seeds that are named are not finite."""
    real = training.tested_students

    def make(which: Callable[[str, int], bool]) -> None:
        def tested(plan: Any, test: Any, nets: dict[int, Any], *more: Any) -> Any:
            name = "mlp" if type(next(iter(nets.values()))).__name__.lower().startswith("mlp") else TINY
            for seed, net in nets.items():
                if which(name, seed):
                    next(net.parameters()).data.fill_(float("nan"))
            return real(plan, test, nets, *more)

        monkeypatch.setattr(training, "tested_students", tested)

    return make


def test_others_are_scored_when_a_student_diverges(ddb: Callable, random_run: Path, tmp_path: Path, hot: Callable):
    """A seed that diverged is told, its student has no mean, and all others have the numbers that they had alone."""
    alone = score(ddb, random_run, tmp_path / "alone.json")
    hot(lambda name, seed: name == "mlp" and seed == 1)
    out = tmp_path / "score.json"
    argv = evaluate_tiny(random_run, "--students", f"mlp-d1-w8,{TINY}", "--seeds", 3, "--out", out)
    result = ddb(*argv)
    assert result.code == 0, result.err
    assert "mlp-d1-w8                diverged: seeds 1 (1 of 3); it has no mean" in result.out
    data = json.loads(out.read_text())
    assert list(data["summary"]) == [TINY]
    assert [run for run in data["runs"] if run["student"] == TINY][:2] == alone["runs"]
    (told,) = data["diverged"]
    assert (told["student"], told["seed"]) == ("mlp-d1-w8", 1)
    assert "not finite after 3 epochs at learning rate 0.01" in told["diverged"]
    before = out.read_bytes()
    assert ddb(*argv).code == 0
    assert out.read_bytes() == before, "a repeat neither tries again nor forgets"


def test_diverged_students_are_not_measured(ddb: Callable, random_run: Path, tmp_path: Path, hot: Callable):
    hot(lambda name, seed: name == "mlp" and seed == 0)
    out = tmp_path / "score.json"
    assert ddb(*evaluate_tiny(random_run, "--students", f"mlp-d1-w8,{TINY}", "--calibration", "--out", out)).code == 0
    data = json.loads(out.read_text())
    assert {entry["student"] for entry in data["findings"]} == {TINY}
    assert not [*tmp_path.glob("score.parts"), *tmp_path.glob("score.weights")]


def test_seeds_that_are_trained_at_once_diverge_one_by_one(
    ddb: Callable, random_run: Path, tmp_path: Path, hot: Callable
):
    whole = score(ddb, random_run, tmp_path / "whole.json", "--at-once", 2, "--seeds", 4)
    hot(lambda name, seed: seed == 1)
    data = score(ddb, random_run, tmp_path / "score.json", "--at-once", 2, "--seeds", 4)
    assert data["runs"] == [run for run in whole["runs"] if run["seed"] != 1]
    assert [entry["seed"] for entry in data["diverged"]] == [1]


def test_a_row_has_no_diverged_student(
    ddb: Callable, random_run: Path, tmp_path: Path, hot: Callable, refused: Callable
):
    hot(lambda name, seed: name == "mlp" and seed == 1)
    assert ddb(*evaluate_tiny(random_run, "--students", f"mlp-d1-w8,{TINY}", "--augmentation", "none")).code == 0
    (name,) = (
        path.stem for path in (random_run / "evaluations").glob("*augmentation*.json") if "cost" not in path.name
    )
    submit = ["submit", random_run, "--protocol", name, "--leaderboard", tmp_path / "board"]
    refused(submit, "mlp-d1-w8 diverged (seeds 1)", "--leave-out mlp-d1-w8")
    refused([*submit, "--leave-out", "mlp-d1-w9"], "--leave-out", "mlp-d1-w8")
    result = ddb(*submit, "--leave-out", "mlp-d1-w8")
    assert result.code == 0, result.err
    (row,) = (tmp_path / "board").rglob("results/**/*.json")
    assert list(json.loads(row.read_text())["summary"]) == [TINY]
