"""Recording experts: which images they are trained on, and that every setting of the recipe counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, held_out_mask, negative, record_digits
from plain_training import plain_loop
from safetensors.torch import load_file

from ddbench.data.dataset import Dataset
from ddbench.data.load import load_dataset
from ddbench.experts.recipe import KINDS, ExpertRecipe
from ddbench.experts.store import TrajectoryStore, expert_file
from ddbench.networks.build import build_student
from ddbench.runtime import seeds

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = ExpertRecipe(epochs=2, augmentation="none")


@pytest.fixture(scope="module")
def digits(data_root: Path) -> Dataset:
    return load_dataset("digits", data_root)


def tensors(store: TrajectoryStore) -> dict[str, torch.Tensor]:
    return load_file(store.folder / expert_file(0))


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_and_test_images_change_no_weight(kind: Any, digits: Dataset, data_root: Path, tmp_path: Path):
    """They are judged: their accuracies change, and nothing else. Other pixels elsewhere change the weights."""
    recipe, held = replace(RECIPE, kind=kind), held_out_mask(digits)
    one, judged, other = (
        record_digits(tmp_path / name, data_root, recipe, dataset, experts=1)
        for name, dataset in (
            ("one", digits),
            ("judged", negative(digits, held, test=True)),
            ("other", negative(digits, ~held)),
        )
    )
    whole = tensors(one)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in tensors(judged).items())
    known, found = one.experts[0], judged.experts[0]
    assert (found.loss, found.train_accuracy) == (known.loss, known.train_accuracy)
    assert found.holdout_accuracy != known.holdout_accuracy
    assert found.test_accuracy != known.test_accuracy
    assert not torch.equal(tensors(other)["w"], whole["w"])


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 0.1},
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"batch": 64},
        {"augmentation": "color_crop_cutout_scale_rotate"},
        {"epochs": 3, "decay": True, "momentum": 0.9, "weight_decay": 0.1},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_every_epoch_is_that_of_a_plain_loop(changes: dict[str, Any], digits: Dataset, data_root: Path, tmp_path: Path):
    """In double precision, of the images that are not held out; each setting alone makes another expert."""
    recipe = replace(RECIPE, **changes)
    found = tensors(record_digits(tmp_path, data_root, recipe, digits, experts=1))["w"]
    seen = ~held_out_mask(digits)
    x = (digits.train.images[seen].double() / 255 - digits.spec.mean[0]) / digits.spec.std[0]
    seed = seeds.derive(0, "expert", 0)
    net = build_student(TINY, channels=1, size=8, classes=10, seed=seed).double()
    same = ("epochs", "batch", "lr", "momentum", "weight_decay", "augmentation")
    rows = plain_loop(
        net,
        x,
        digits.train.labels[seen],
        **{name: getattr(recipe, name) for name in same},
        decay_after=recipe.epochs // 2 + 1 if recipe.decay else None,
        rebuild=True,
        seed=seed,
    )
    for row, expected in zip(found[1:], rows, strict=True):
        torch.testing.assert_close(row.double(), expected, rtol=0, atol=1e-5)
