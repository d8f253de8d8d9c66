"""The same seed gives the same bytes; nobody's global random state is touched."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from conftest import EAGER, TINY, contents, distill_tiny, evaluate_tiny, random_tiny


def twice(ddb: Callable, tmp_path: Path, command: Callable[[Path], list[object]]) -> dict[str, bytes]:
    """Run a command into two folders; what both hold, costs aside."""
    for name in ("one", "two"):
        result = ddb(*command(tmp_path / name))
        assert result.code == 0, result.err
    made = contents(tmp_path / "one", "cost.json")
    assert made == contents(tmp_path / "two", "cost.json")
    return made


def test_buffer(ddb: Callable, tmp_path: Path):
    def command(place: Path, *more: object) -> list[object]:
        flags = ("--experts", 2, "--epochs", 2, "--workers", 1)
        return ["buffer", "--dataset", "digits", "--student", TINY, *flags, "--buffers", place, *EAGER, *more]

    made = twice(ddb, tmp_path, command)
    first, second = [made[name] for name in sorted(made) if name.endswith(".safetensors")]
    assert first != second, "two experts of a store differ"
    assert ddb(*command(tmp_path / "seed", "--seed", 1)).code == 0
    others = contents(tmp_path / "seed", ".json").values()
    assert not {first, second} & set(others)


def test_random(ddb: Callable, tmp_path: Path):
    made = twice(ddb, tmp_path, lambda place: random_tiny(place, "--ipc", 2))
    assert set(made) == {"config.json", "preview.png", "synset.safetensors"}
    assert ddb(*random_tiny(tmp_path / "other", "--ipc", 2, "--seed", 1)).code == 0
    assert (tmp_path / "other" / "synset.safetensors").read_bytes() != made["synset.safetensors"]


@pytest.mark.parametrize(
    "more", [(), ("--batch-syn", 7, "--expert-order", "cycle", "--init", "noise", "--lr-parametrisation", "log")]
)
def test_mtt(more: tuple[object, ...], ddb: Callable, buffers: Path, tmp_path: Path):
    made = twice(ddb, tmp_path / "runs", lambda place: distill_tiny(buffers, place, *more))
    assert set(made) == {"config.json", "metrics.jsonl", "preview.png", "synset.safetensors"}
    assert ddb(*distill_tiny(buffers, tmp_path / "other", *more, "--seed", 1)).code == 0
    assert (tmp_path / "other" / "synset.safetensors").read_bytes() != made["synset.safetensors"]


def test_checkpoints_and_validation_change_no_image(ddb: Callable, buffers: Path, tmp_path: Path):
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    assert ddb(*distill_tiny(buffers, plain)).code == 0
    more = ("--checkpoint-every", 1, "--validate-every", 2, "--validate-epochs", 2)
    assert ddb(*distill_tiny(buffers, watched, *more)).code == 0
    assert (plain / "synset.safetensors").read_bytes() == (watched / "synset.safetensors").read_bytes()
    assert "holdout_accuracy" in (watched / "metrics.jsonl").read_text()


def test_evaluate_with_one_and_two_workers(ddb: Callable, random_run: Path, tmp_path: Path):
    for workers in (1, 2):
        out = tmp_path / f"{workers}.json"
        result = ddb(*evaluate_tiny(random_run, "--workers", workers, "--out", out))
        assert result.code == 0, result.err
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_order_of_students_changes_nothing(ddb: Callable, random_run: Path, tmp_path: Path):
    for name, students in (("one", f"{TINY},mlp-d1-w8"), ("two", f"mlp-d1-w8,{TINY}")):
        assert ddb(*evaluate_tiny(random_run, "--students", students, "--out", tmp_path / f"{name}.json")).code == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


# Global random states


@pytest.fixture
def untouched():
    """Fails when the test changed the state of a global generator."""
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002 (it is the legacy state that is watched)
    random.seed(123)

    def states() -> tuple[bytes, str, tuple]:
        legacy = [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]  # noqa: NPY002
        return torch.get_rng_state().numpy().tobytes(), str(legacy), random.getstate()

    before = states()
    yield
    for name, old, new in zip(("torch", "numpy", "random"), before, states(), strict=True):
        assert old == new, f"the global state of {name} changed"


@pytest.mark.usefixtures("untouched")
def test_commands_leave_global_states(ddb: Callable, buffers: Path, random_run: Path, tmp_path: Path, monkeypatch):
    cli = tyro.cli

    def without_dice(*args: Any, **options: Any) -> Any:
        """The flag parser prunes a cache of its own by ``random.random()``; that is not ours to judge."""
        state = random.getstate()
        try:
            return cli(*args, **options)
        finally:
            random.setstate(state)

    monkeypatch.setattr(tyro, "cli", without_dice)
    argv = ("buffer", "--dataset", "digits", "--student", TINY, "--experts", 1, "--epochs", 1, "--workers", 1)
    assert ddb(*argv, "--buffers", tmp_path / "new", *EAGER).code == 0
    more = ("--validate-every", 2, "--validate-epochs", 2, "--init", "noise", "--batch-syn", 5)
    assert ddb(*distill_tiny(buffers, tmp_path / "run", *more)).code == 0
    assert ddb(*random_tiny(tmp_path / "real")).code == 0
    assert ddb(*evaluate_tiny(random_run, "--out", tmp_path / "score.json")).code == 0
    assert ddb("export", random_run, "--format", "grid", "--out", tmp_path / "grid").code == 0


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", [TINY, "mlp-d1-w8", "resnet18-bn", "vit-d1-w16", "lenet", "alexnet", "vgg11-bn"])
def test_building_students_leaves_global_states(name: str):
    from ddbench.networks.build import build_student

    first = build_student(name, channels=1, size=32, classes=10, seed=0)
    torch.rand(1, generator=torch.Generator().manual_seed(9))
    again = build_student(name, channels=1, size=32, classes=10, seed=0)
    other = build_student(name, channels=1, size=32, classes=10, seed=1)
    states = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (first, again, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.usefixtures("untouched")
def test_library_calls_leave_global_states(data_root: Path):
    from ddbench.data.augment import apply, draw, parse_strategy
    from ddbench.data.dataset import holdout_split
    from ddbench.data.load import load_dataset
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.data.specs import DSA

    dataset = load_dataset("digits", data_root)
    holdout_split(dataset.train, 0.1, 10)
    fit_preprocess(dataset, "meanstd")
    strategy = parse_strategy(DSA)
    assert strategy is not None
    for seed in range(12):  # every family
        drawn = draw(strategy, 4, 8, torch.Generator().manual_seed(seed))
        apply(drawn, torch.zeros(4, 1, 8, 8))
