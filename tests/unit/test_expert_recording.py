"""Recording experts: which images they are trained on, and that every setting of the recipe counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import TINY, held_out_mask, negative, record_digits
from plain_training import plain_loop
from safetensors.torch import load_file

from ddbench.data.dataset import Dataset, Split
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.experts.recipe import KINDS, ExpertRecipe
from ddbench.experts.record import _dataset, record
from ddbench.experts.store import TrajectoryStore, expert_file
from ddbench.networks.build import build_student
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.training.flat import load_flat, load_flat_buffers

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = ExpertRecipe(epochs=2, augmentation="none")


@pytest.fixture(scope="module")
def digits(data_root: Path) -> Dataset:
    return load_dataset("digits", data_root)


def tensors(store: TrajectoryStore) -> dict[str, torch.Tensor]:
    return load_file(store.folder / expert_file(0))


def test_a_class_of_one_image_is_told_before_anything_is_written(digits: Dataset, data_root: Path, tmp_path: Path):
    """The workers found it, when the store was made: it stayed, with no expert and its failures."""
    kept = torch.ones(len(digits.train), dtype=torch.bool)
    kept[(digits.train.labels == 3).nonzero()[1:]] = False
    alone = replace(digits, train=Split(digits.train.images[kept], digits.train.labels[kept]))
    with pytest.raises(UserError, match=r"--holdout 0\.1: class '3' has one image only"):
        record_digits(tmp_path / "root", data_root, RECIPE, alone, experts=1)
    assert not (tmp_path / "root").exists()


def test_images_that_changed_are_read_again(tmp_path: Path):
    """A process that recorded before trained on the images that it had, in a store that is named after the new ones."""
    images = numpy.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=numpy.uint8)

    def recorded(pixels: numpy.ndarray) -> TrajectoryStore:
        numpy.savez(tmp_path / "own.npz", images=pixels, labels=numpy.arange(20) % 2)
        own = load_dataset(f"npz:{tmp_path / 'own.npz'}", tmp_path)
        how: dict[str, Any] = {
            "workers": 1,
            "threads": 1,
            "device": "cpu",
            "compile": "off",
            "console": Console(quiet=True),
        }
        return record(root=tmp_path, dataset=own, data=tmp_path, student=TINY, recipe=RECIPE, experts=1, **how)

    first, second = recorded(images), recorded(255 - images)
    assert first.folder != second.folder
    assert first.experts[0].loss != second.experts[0].loss
    with pytest.raises(UserError, match=r"own\.npz: its images changed since the command began; repeat it"):
        _dataset(f"npz:{tmp_path / 'own.npz'}", tmp_path, None, "f" * 64)


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


def test_every_epoch_judges_as_its_record_says(digits: Dataset, data_root: Path, tmp_path: Path):
    """Weights and running statistics of an epoch make the network whose accuracies are in the curves."""
    student, recipe = "convnet-d1-w4-bn", replace(RECIPE, epochs=3, lr=0.1)
    store = record_digits(tmp_path, data_root, recipe, digits, experts=1, student=student)
    net = build_student(student, channels=1, size=8, classes=10, seed=1)
    preprocess, held = fit_preprocess(digits, "meanstd"), held_out_mask(digits)

    def judged(epoch: int, images: torch.Tensor, labels: torch.Tensor) -> float:
        load_flat(net, store.rows(0, epoch)[0])
        load_flat_buffers(net, store.buffers(0, epoch))
        with torch.no_grad():
            logits = net.eval()(preprocess.apply(images))
        return round(float((logits.argmax(1) == labels).double().mean()), 6)

    said = store.experts[0]
    found = [judged(epoch, digits.train.images[held], digits.train.labels[held]) for epoch in (1, 2, 3)]
    assert len(set(found)) > 1
    assert found == said.holdout_accuracy
    assert judged(3, digits.test.images, digits.test.labels) == said.test_accuracy


def test_precision(digits: Dataset, data_root: Path, tmp_path: Path):
    whole, half = (
        tensors(record_digits(tmp_path, data_root, replace(RECIPE, precision=precision), digits, experts=1))["w"]
        for precision in ("float32", "bfloat16")
    )
    assert torch.equal(half[0], whole[0])
    assert 0 < float((half - whole).abs().max()) < 0.01
