"""The synset file: round trips, bytes, storage by closed form, what it belongs to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.decoders.multi_formation import MultiFormation
from ddbench.preview import preview_png
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget, Synset, check_against, pixels, read_synset, synset_path, write_synset


def make(**changes: Any) -> Synset:
    """Two images a class of three classes, with everything a synset can hold."""
    values: dict[str, Any] = {
        "images": torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        "labels": torch.arange(3).repeat_interleave(2),
        "preprocess": {"kind": "meanstd", "mean": [0.3], "std": [0.4]},
        "budget": Budget("ipc", 2),
        "dataset": "digits",
        "fingerprint": "f" * 64,
        "class_names": ("zero", "one", "twö"),
        "method": "mtt",
        "config": {"iterations": 3, "lr": 0.1},
        "seed": 4,
        "student": "lenet",
        "augmentation": "crop",
        "versions": {"torch": "2.9"},
        "parents": {"experts": "e" * 64},
    }
    return Synset(**{**values, **changes})


def same(one: Synset, two: Synset) -> bool:
    for field in dataclasses.fields(Synset):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
            if a is None or b is None or a.dtype != b.dtype or not torch.equal(a, b):
                return False
        elif a != b:
            return False
    return True


VARIANTS = {
    "input": {},
    "pixels": {"images": torch.arange(6 * 64).remainder(256).to(torch.uint8).view(6, 1, 8, 8)},
    "soft": {"labels": torch.randn(6, 3, generator=torch.Generator().manual_seed(1))},
    "lr": {"learned_lr": torch.tensor(0.02)},
    "lr-per-step": {"learned_lr": torch.tensor([0.02, 0.03])},
    "stage": {"stage": torch.tensor([0, 0, 1, 1, 2, 2])},
    "no-student": {"student": None},
    "patches": {"patches": 2},
    "decoder": {"decoder": MultiFormation(factor=2)},
    "teacher": {"teacher": {"sha256": "a" * 64, "student": "lenet", "test_accuracy": 0.9}},
    "all": {"budget": Budget("all", 6)},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_round_trip(changes: dict[str, Any], tmp_path: Path):
    synset = make(**changes)
    path = tmp_path / "synset.safetensors"
    write_synset(path, synset)
    assert same(read_synset(path), synset)
    raw = path.read_bytes()
    write_synset(path, read_synset(path))
    assert path.read_bytes() == raw, "the same content has the same bytes"
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o044 == 0o044 & ~_umask(), "readable as the user's umask says"


def _umask() -> int:
    import os

    current = os.umask(0)
    os.umask(current)
    return current


def test_hard_labels_of_soft_ones():
    assert make(labels=torch.eye(3).repeat_interleave(2, 0)).hard_labels().tolist() == [0, 0, 1, 1, 2, 2]
    assert make().hard_labels().tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.full((6, 1, 8, 8), float("nan"))}, "NaN"),
        ({"labels": torch.tensor([0, 0, 1, 1, 2, 3])}, "labels from 0 to 3, expected 0 to 2"),
        ({"labels": torch.zeros(6, 4)}, r"soft labels of shape \[6, 4\]"),
        ({"budget": Budget("ipc", 3)}, "6 images for ipc 3 and 3 classes, expected 9"),
        ({"budget": Budget("ipc", 0)}, "6 images for ipc 0"),
        ({"budget": Budget("bits", 3)}, "'bits'"),
        ({"learned_lr": torch.tensor(float("inf"))}, "lr is not a finite number"),
        ({"stage": torch.zeros(5, dtype=torch.int64)}, "stage column"),
        ({"modality": "graph"}, "'graph'"),
    ],
)
def test_bad_synsets_are_not_written(changes: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        write_synset(tmp_path / "synset.safetensors", make(**changes))
    assert not list(tmp_path.iterdir())


def test_synset_path(tmp_path: Path):
    with pytest.raises(UserError, match="is the run finished"):
        synset_path(tmp_path)
    with pytest.raises(UserError, match="no such synset"):
        synset_path(tmp_path / "other.safetensors")
    (tmp_path / "digits-ipc10-dm-s0").mkdir()
    with pytest.raises(UserError, match=r"no such synset \(did you mean 'digits-ipc10-dm-s0'\?\); ddbench distill"):
        synset_path(tmp_path / "digits-ipc10-dm-s1")
    (tmp_path / "digits-ipc10-dm-s0").rmdir()
    write_synset(tmp_path / "synset.safetensors", make())
    runs = tmp_path / "runs"
    for name in ("b", "a"):
        (runs / name).mkdir(parents=True)
        write_synset(runs / name / "synset.safetensors", make())
    with pytest.raises(UserError, match=f"no such synset .that folder holds 2 run.s.: .* such as {runs / 'a'}"):
        synset_path(runs)
    assert synset_path(tmp_path) == synset_path(tmp_path / "synset.safetensors") == tmp_path / "synset.safetensors"


def test_picture_of_a_whole_set_that_was_learned(data_root: Path):
    dataset = load_dataset("digits", data_root)
    preprocess, pictures = fit_preprocess(dataset, "meanstd"), []
    for images in (dataset.train.images[:6], preprocess.apply(dataset.train.images[:6])):
        pictures.append(preview_png(make(images=images, budget=Budget("all", 6)), preprocess))
    assert pictures[0] == pictures[1]


def test_belongs_to_its_dataset(random_run: Path, data_root: Path):
    dataset = load_dataset("digits", data_root)
    path = random_run / "synset.safetensors"
    synset = read_synset(path)
    assert check_against(path, synset, dataset) == fit_preprocess(dataset, "meanstd")
    for changes, message in (
        ({"fingerprint": "0" * 64}, "fingerprint 000000000000"),
        ({"class_names": synset.class_names[::-1]}, "class names"),
        ({"images": torch.zeros(10, 1, 9, 9)}, r"\[1, 9, 9\]"),
        ({"preprocess": {"kind": "meanstd", "mean": [0.1] * 3, "std": [1.0] * 3}}, "3 channels"),
    ):
        with pytest.raises(UserError, match=message):
            check_against(path, dataclasses.replace(synset, **changes), dataset)


def test_pixels_invert_the_preprocess(data_root: Path):
    dataset = load_dataset("digits", data_root)
    real = dataset.train.images[:6]
    for kind in ("meanstd", "zca"):
        preprocess = fit_preprocess(dataset, kind, data_root)
        learned = make(images=preprocess.apply(real))
        assert int((pixels(learned, preprocess).int() - real.int()).abs().max()) <= 1
    assert pixels(make(images=real), preprocess) is real
    wild = make(images=torch.full((6, 1, 8, 8), 1e6))
    assert int(pixels(wild, fit_preprocess(dataset, "meanstd")).min()) == 255, "clamped, not wrapped round"
