"""Scoring: what a run is, what is recorded, what makes it non-standard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import EAGER, TINY, evaluate_tiny
from PIL import Image

from ddbench.data.augment import apply, draw, parse_strategy
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.evaluate.evaluator import student_lr
from ddbench.evaluate.protocols import DESCRIPTIONS, PROTOCOLS, changed, protocol, result_name
from ddbench.evaluate.statistics import summarise
from ddbench.networks.build import build_student
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.synset import read_synset


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
    assert data["synset"]["bytes"]["images"] == 640
    assert data["synset"]["bytes"]["real"] == 1297 * 64
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


def test_learned_lr(ddb: Callable, mtt_run: Path, tmp_path: Path):
    synset = read_synset(mtt_run / "synset.safetensors")
    assert student_lr(synset, PROTOCOLS["hard-v1"]) == float(synset.learned_lr)
    assert student_lr(synset, PROTOCOLS["dc-legacy"]) == 0.01
    altered, difference = changed(PROTOCOLS["hard-v1"], lr=0.3, use_learned_lr=False)
    assert student_lr(synset, altered) == 0.3
    assert difference == {"lr": 0.3, "use_learned_lr": False}
    data = score(ddb, mtt_run, tmp_path / "score.json", "--lr", 0.3)
    assert data["protocol"]["settings"]["lr"] == 0.3
    assert data["protocol"]["settings"]["use_learned_lr"] is False


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


# Protocols


def test_protocols():
    assert set(PROTOCOLS) == set(DESCRIPTIONS)
    for name, value in PROTOCOLS.items():
        assert value.name == name
        assert protocol(name) is value
        assert len(value.hash) == 16
    assert len({value.hash for value in PROTOCOLS.values()}) == len(PROTOCOLS)
    with pytest.raises(UserError, match=r"--protocol: unknown protocol 'hard' \(did you mean 'hard-v1'\?\)"):
        protocol("hard")


def test_published_protocols_never_change():
    """A protocol is never edited: rows of the board rest on it. A changed one gets a new name."""
    assert {name: value.hash for name, value in PROTOCOLS.items() if name in ("hard-v1", "dc-legacy")} == {
        "hard-v1": "73a0e4449f8632c6",
        "dc-legacy": "1fd5c043e21e301f",
    }


def test_changed():
    base = PROTOCOLS["hard-v1"]
    assert changed(base, epochs=None, lr=None) == (base, {})
    assert changed(base, epochs=1000) == (base, {}), "the standard value is no change"
    altered, difference = changed(base, epochs=5, augmentation="none")
    assert (altered.epochs, altered.augmentation, difference) == (5, "none", {"epochs": 5, "augmentation": "none"})
    assert altered.hash != base.hash
    assert result_name(base, {}) == "hard-v1"
    assert result_name(base, difference) == "hard-v1-nonstandard-augmentation=none-epochs=5"
    assert "/" not in result_name(base, {"augmentation": "../x y"})
    for settings, message in (({"epochs": 0}, "--epochs 0"), ({"lr": 0.0}, "--lr 0"), ({"epoch": 1}, "'epoch'")):
        with pytest.raises(UserError, match=message):
            changed(base, **settings)
