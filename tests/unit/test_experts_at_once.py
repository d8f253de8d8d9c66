"""Experts trained at once: each as if alone; blocks that are killed, spoilt or cannot be stacked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EAGER, TINY, contents
from torch import Tensor, nn

from ddbench.experts.recipe import ExpertRecipe
from ddbench.experts.store import read_store
from ddbench.experts.train import Snapshots, trajectories
from ddbench.networks.build import build_student
from ddbench.training.loops import Inputs

CPU = torch.device("cpu")
SEEDS = (3, 9, 4)
CLASSES = 5
RECIPE = ExpertRecipe(epochs=4, lr=0.05, momentum=0.9, weight_decay=1e-3, batch=10, decay=True)
BN = "convnet-d1-w4-bn"


pytestmark = pytest.mark.usefixtures("one_thread")


def random_inputs(count: int, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return Inputs(x, torch.arange(count) % CLASSES, None, CPU)


def networks(name: str, device: torch.device = CPU) -> list[nn.Module]:
    return [build_student(name, channels=1, size=8, classes=CLASSES, seed=seed).double().to(device) for seed in SEEDS]


def both_ways(name: str, recipe: ExpertRecipe) -> tuple[list[Snapshots], list[Snapshots]]:
    """Experts trained one by one, and the same ones at once; 23 images: the last batch of an epoch is smaller."""
    inputs, held_out = random_inputs(23), random_inputs(12, seed=1)
    alone = [
        trajectories([net], inputs, held_out, recipe, [seed], None)[0]
        for net, seed in zip(networks(name), SEEDS, strict=True)
    ]
    return alone, trajectories(networks(name), inputs, held_out, recipe, SEEDS, None)


@pytest.mark.parametrize("name", ["convnet-d2-w4-in", BN, "mlp-d2-w8"])
def test_every_epoch_of_each_expert_is_as_if_alone(name: str):
    alone, together = both_ways(name, RECIPE)
    for one, other in zip(alone, together, strict=True):
        assert other.weights.dtype == torch.float64
        assert other.weights.shape == (RECIPE.epochs + 1, one.weights.shape[1])
        torch.testing.assert_close(other.weights, one.weights, rtol=0, atol=1e-10)
        assert len({tuple(row.tolist()) for row in other.weights}) == RECIPE.epochs + 1
        torch.testing.assert_close(other.buffers, one.buffers, rtol=0, atol=1e-6)  # kept in single precision
        assert other.buffers.shape[1] == (8 if name == BN else 0)
        assert other.diverged is None
        assert other.curves["seed"] == one.curves["seed"]
        for curve in ("loss", "train_accuracy", "holdout_accuracy"):
            assert other.curves[curve] == pytest.approx(one.curves[curve], abs=2e-6)
            assert len(other.curves[curve]) == RECIPE.epochs
    assert not torch.allclose(together[0].weights, together[1].weights)


def test_statistics_are_each_network_s_own():
    _, together = both_ways(BN, RECIPE)
    rows = [one.buffers[-1] for one in together]
    assert not torch.allclose(rows[0], rows[1])
    assert not torch.allclose(rows[1], rows[2])


def test_without_held_out_images():
    (one, *_) = trajectories(networks("mlp-d2-w8"), random_inputs(23), None, RECIPE, SEEDS, None)
    assert one.curves["holdout_accuracy"] == []


def spoilt(nets: list[nn.Module], position: int) -> list[nn.Module]:
    with torch.no_grad():
        next(nets[position].parameters()).mul_(1e200)
    return nets


def test_one_that_diverges_disturbs_no_other():
    alone, _ = both_ways("mlp-d2-w8", RECIPE)
    together = trajectories(
        spoilt(networks("mlp-d2-w8"), 1), random_inputs(23), random_inputs(12, seed=1), RECIPE, SEEDS, None
    )
    assert together[1].diverged == 1
    assert together[1].failure("expert 7", RECIPE) == (
        "expert 7: its weights are not finite after epoch 1; lower --lr (now 0.05)"
    )
    for position in (0, 2):
        torch.testing.assert_close(together[position].weights, alone[position].weights, rtol=0, atol=1e-10)
        assert together[position].failure("it", RECIPE) is None


def test_training_ends_when_all_have_diverged(monkeypatch: pytest.MonkeyPatch):
    taken: list[int] = []
    take = Snapshots.take
    monkeypatch.setattr(
        Snapshots, "take", lambda self, net, epoch: (taken.append(epoch.number), take(self, net, epoch))
    )
    made = trajectories(networks("mlp-d2-w8"), random_inputs(23), None, replace(RECIPE, lr=1e200), SEEDS, None)
    assert all(one.diverged == 1 for one in made)
    assert taken == [1, 1, 1]


# The verb


def command(place: Path, *more: object, student: str = TINY) -> list[object]:
    return [
        *("buffer", "--dataset", "digits", "--student", student, "--experts", 5, "--epochs", 2, "--at-once", 2),
        *("--workers", 1, "--buffers", place, *EAGER, *more),
    ]


def stored(place: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = place.rglob("manifest.json")
    return path.parent, json.loads(path.read_text())


@pytest.mark.parametrize("student", [TINY, BN])
def test_blocks_of_two_are_the_experts_of_one_by_one(student: str, ddb: Callable, tmp_path: Path):
    result = ddb(*command(tmp_path / "two", student=student))
    assert result.code == 0, result.err
    assert ddb(*command(tmp_path / "one", "--at-once", 1, student=student)).code == 0
    (two, record), (one, plain) = stored(tmp_path / "two"), stored(tmp_path / "one")
    assert two.name == one.name, "rounding is no part of the recipe"
    assert [record["experts"][f"{k:05d}"].get("at_once") for k in range(5)] == [2, 2, 2, 2, None]
    assert not any("at_once" in entry for entry in plain["experts"].values())
    ours, theirs = read_store(two), read_store(one)
    assert [ours.experts[k].at_once for k in ours.indices] == [2, 2, 2, 2, 1]
    for index in range(5):
        for epoch in range(3):
            mine, reference = ours.rows(index, epoch)[0], theirs.rows(index, epoch)[0]
            torch.testing.assert_close(mine, reference, rtol=0, atol=1e-4)
            torch.testing.assert_close(ours.buffers(index, epoch), theirs.buffers(index, epoch), rtol=0, atol=1e-4)
        assert ours.experts[index].seed == theirs.experts[index].seed
    assert ours.verify() == []
    cost = json.loads((two / "cost.json").read_text())
    assert [entry.get("at_once") for entry in cost.values()] == [2, 2, 2, 2, None]


def test_what_is_missing_of_a_block_comes_back_with_the_same_bytes(ddb: Callable, tmp_path: Path):
    """A kill between two files of a block, and in the middle of another block."""
    assert ddb(*command(tmp_path)).code == 0
    folder, _ = stored(tmp_path)
    whole = contents(folder, "cost.json")
    for index in (1, 2, 3):
        (folder / f"expert_{index:05d}.safetensors").unlink()
    kept = folder / "expert_00000.safetensors"
    written = kept.stat().st_mtime_ns
    result = ddb(*command(tmp_path))
    assert "2 of 5 experts are recorded" in result.err
    assert contents(folder, "cost.json") == whole
    assert kept.stat().st_mtime_ns == written


def test_a_block_with_one_that_diverges_is_kept_but_for_that_one(
    ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert ddb(*command(tmp_path / "whole")).code == 0
    folder, _ = stored(tmp_path / "whole")

    def build(*args: Any, seed: int, **named: Any) -> nn.Module:
        net = build_student(*args, seed=seed, **named)
        if seed == read_store(folder).experts[1].seed:
            with torch.no_grad():
                next(net.parameters()).mul_(float("inf"))
        return net

    monkeypatch.setattr("ddbench.experts.record.build_student", build)
    result = ddb(*command(tmp_path / "spoilt"))
    assert result.code == 2
    lines = result.err.splitlines()
    assert lines[-1] == "ddbench: error: expert 1: its weights are not finite after epoch 1; lower --lr (now 0.01)"
    spoilt_folder, _ = stored(tmp_path / "spoilt")
    store = read_store(spoilt_folder)
    assert store.indices == [0]
    torch.testing.assert_close(store.rows(0, 2)[0], read_store(folder).rows(0, 2)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--at-once", 0), "--at-once 0: expected at least 1"),
        (("--student", "vit-d1-w16"), "--at-once 2: this --student draws at random in training"),
        (("--kind", "gsam"), "--at-once 2: --kind gsam looks at each network's gradient as a whole"),
        (("--kind", "smooth"), "--at-once 2: --kind smooth looks at"),
        (("--optimizer", "adafactor"), "--at-once 2: --optimizer adafactor is not element by element"),
    ],
    ids=str,
)
def test_refused(flags: tuple[object, ...], message: str, refused: Callable, tmp_path: Path):
    refused(command(tmp_path / "buffers", *flags), message)


def test_memory_for_a_block(refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddbench.data.limits.available_memory", lambda: 1000)
    refused(command(tmp_path / "buffers"), "keeping every epoch of 2 experts needs", "use a smaller --at-once")


def test_one_expert_alone_is_refused_nothing(ddb: Callable, tmp_path: Path):
    """Where there is only one expert, nothing is stacked."""
    result = ddb(*command(tmp_path, "--experts", 1, "--kind", "gsam"))
    assert result.code == 0, result.err


@pytest.mark.gpu
def test_on_a_gpu():
    device = torch.device("cuda")
    x: Tensor = random_inputs(23).batch(slice(None)).to(device)
    inputs = Inputs(x, torch.arange(23) % CLASSES, None, device)
    alone = [
        trajectories([net], inputs, None, RECIPE, [seed], None)[0]
        for net, seed in zip(networks(BN, device), SEEDS, strict=True)
    ]
    for one, other in zip(alone, trajectories(networks(BN, device), inputs, None, RECIPE, SEEDS, None), strict=True):
        torch.testing.assert_close(other.weights, one.weights, rtol=0, atol=1e-9)
        assert other.weights.device.type == "cpu"
