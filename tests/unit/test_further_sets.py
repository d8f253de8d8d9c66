"""KMNIST, EMNIST, USPS, STL-10, Imagenette's archives and MedMNIST, on small files of their true layouts."""

from __future__ import annotations

import bz2
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ddbench.data.load import load_dataset
from ddbench.data.places import find_files
from ddbench.data.specs import DATASETS, dataset_spec
from ddbench.runtime.errors import UserError

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes((0, 0, 8, array.ndim)) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def emnist_files(root: Path, split: str, first: int, classes: int) -> None:
    for part in ("train", "test"):
        labels = np.arange(2 * classes) % classes + first
        stem = root / "EMNIST" / "raw" / f"emnist-{split}-{part}"
        write_idx(stem.with_name(f"{stem.name}-images-idx3-ubyte"), pixels(len(labels), 28, 28))
        write_idx(stem.with_name(f"{stem.name}-labels-idx1-ubyte"), labels)


def test_kmnist(tmp_path: Path):
    images, labels = pixels(20, 28, 28), np.arange(20) % 10
    for part in ("train", "t10k"):
        write_idx(tmp_path / "KMNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(tmp_path / "KMNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels)
    found = load_dataset("kmnist", tmp_path)
    assert found.spec.class_names == tuple(torchvision.datasets.KMNIST.classes)
    assert np.array_equal(found.train.images[:, 0], images)
    assert found.test.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("split", torchvision.datasets.EMNIST.splits)
def test_emnist_is_upright_and_counts_from_zero(tmp_path: Path, split: str):
    names = dataset_spec(f"emnist-{split}").class_names
    known = torchvision.datasets.EMNIST.classes_split_dict[split]
    assert list(names) == [name for name in known if name != "N/A"]
    emnist_files(tmp_path, split, first=int(split == "letters"), classes=len(names))
    found = load_dataset(f"emnist-{split}", tmp_path)
    oracle = torchvision.datasets.EMNIST(str(tmp_path), split=split, train=True)
    assert torch.equal(found.train.images[:, 0], oracle.data.transpose(1, 2))
    assert [names[label] for label in found.train.labels] == [known[label] for label in oracle.targets]


def usps_text(count: int, seed: int = 0) -> bytes:
    values = np.random.default_rng(seed).uniform(-1, 1, (count, 256)).round(4)
    rows = (" ".join(f"{i}:{value:g}" for i, value in enumerate(row, 1)) for row in values)
    return "".join(f"{number % 10 + 1} {row} \n" for number, row in enumerate(rows)).encode()


def test_usps_is_what_torchvision_reads(tmp_path: Path):
    for name, count in (("usps.bz2", 20), ("usps.t.bz2", 10)):
        (tmp_path / name).write_bytes(bz2.compress(usps_text(count)))
    found = load_dataset("usps", tmp_path)
    for split, train in ((found.train, True), (found.test, False)):
        oracle = torchvision.datasets.USPS(str(tmp_path), train=train)
        assert np.array_equal(split.images[:, 0], oracle.data)
        assert split.labels.tolist() == oracle.targets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1 1:0.5 1:0.5\n", "line 1: expected different indices"),
        (b"1 1:0.5\n2 257:0.5\n", "line 2: expected different indices"),
        (b"1 1:2\n", "line 1: expected values"),
        (b"1 1:nan\n", "line 1: expected values"),
        (b"1 one:0.5\n", "not a whole libsvm file"),
        (b"x 1:0.5\n", "not a whole libsvm file"),
        (b"1 1\n", "not a whole libsvm file"),
        (b"1 " + b" " * 20000, "line 1: too long"),
        (b"", "no images"),
        (b"12 1:0.5\n", "labels from 11"),
        (b"9" * 30 + b" 1:0.5\n", "not a whole libsvm file"),
    ],
)
def test_damaged_usps(tmp_path: Path, text: bytes, message: str):
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).write_bytes(bz2.compress(text))
    with pytest.raises(UserError, match=message):
        load_dataset("usps", tmp_path)


@pytest.mark.parametrize(
    ("name", "file"), [("medmnist", "medmnist/pathmnist_64.npz"), ("tiny-imagenet", "tiny-imagenet/train/n0/a.JPEG")]
)
def test_what_a_reader_takes_is_told_to_be_there(tmp_path: Path, name: str, file: str):
    assert find_files(tmp_path)[name] is None
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    assert find_files(tmp_path)[name] is not None


def test_a_killed_download_of_usps_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It leaves a part of a file."""

    def fetch(root: str, train: bool, download: bool) -> None:
        (Path(root) / ("usps.bz2" if train else "usps.t.bz2")).write_bytes(bz2.compress(usps_text(20)))

    monkeypatch.setattr("torchvision.datasets.USPS", fetch)
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(usps_text(20)))
    (tmp_path / "usps.t.bz2").write_bytes(bz2.compress(usps_text(20))[:50])
    assert len(load_dataset("usps", tmp_path, download=True).test) == 20


def test_usps_that_unfolds_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddbench.data.arrays.MAX_LINES", 50)
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(b"1 1:0\n" * 1000))
    (tmp_path / "usps.t.bz2").write_bytes(b"no bzip2")
    with pytest.raises(UserError, match="line 51: too long, or too many lines"):
        load_dataset("usps", tmp_path)
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(usps_text(20))[:-50])
    with pytest.raises(UserError, match="not a whole libsvm file"):
        load_dataset("usps", tmp_path)


def stl10_files(root: Path, count: int = 20) -> Path:
    folder = root / "stl10_binary"
    folder.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}_X.bin").write_bytes(pixels(count, 3, 96, 96).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes(number % 10 + 1 for number in range(count)))
    return folder


@pytest.mark.parametrize("left", ["some files", "a part of the last", "a part of one's images"])
def test_a_killed_download_of_stl10_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str):
    """It unpacks file after file; what is there is not fetched again."""
    asked = []

    def fetch(root: str, download: bool) -> None:
        asked.append((root, download))
        shutil.rmtree(tmp_path / "stl10_binary")
        stl10_files(tmp_path)

    monkeypatch.setattr("torchvision.datasets.STL10", fetch)
    folder = stl10_files(tmp_path)
    if left == "some files":
        (folder / "test_y.bin").unlink()
    elif left == "a part of the last":
        (folder / "test_y.bin").write_bytes((folder / "test_y.bin").read_bytes()[:7])
    else:  # whole images, but not all
        (folder / "train_X.bin").write_bytes((folder / "train_X.bin").read_bytes()[: 5 * 3 * 96 * 96])
    with pytest.raises(UserError, match=r"get (it|them) (again|with --download)"):
        load_dataset("stl10", tmp_path)
    assert not asked
    for _ in range(2):
        assert len(load_dataset("stl10", tmp_path, download=True).test) == 20
    assert asked == [(str(tmp_path), True)]


def test_stl10_is_what_torchvision_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stl10_files(tmp_path)
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda _: True)
    found = load_dataset("stl10", tmp_path)
    for split, name in ((found.train, "train"), (found.test, "test")):
        oracle = torchvision.datasets.STL10(str(tmp_path), split=name)
        assert np.array_equal(split.images, oracle.data)
        assert split.labels.tolist() == oracle.labels.tolist()


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("train_X.bin", bytes(3 * 96 * 96 + 1), "no whole number of images"),
        ("train_X.bin", b"", "no whole number of images"),
        ("train_y.bin", bytes([1] * 19), "20 images, but 19 labels"),
        ("train_y.bin", bytes(20), "a label of 0"),
        ("test_y.bin", bytes([11] * 20), "labels from 10 to 10"),
        ("train_y.bin", bytes([1] * 20), "without a training image"),
    ],
)
def test_damaged_stl10(tmp_path: Path, file: str, data: bytes, message: str):
    (stl10_files(tmp_path) / file).write_bytes(data)
    with pytest.raises(UserError, match=message):
        load_dataset("stl10", tmp_path)


def archive_files(root: Path, name: str, wnids: tuple[str, ...], side: int) -> None:
    for part in ("train", "val"):
        for wnid in wnids:
            path = root / name / part / wnid / f"{wnid}_1.JPEG"
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels(side + 4, side, 3)).save(path)
    (root / name / "noisy_imagenette.csv").write_text("path,noisy_labels_0\n")


@pytest.mark.parametrize("name", ["imagenette2", "imagewoof2"])
def test_archives_of_imagenette(tmp_path: Path, name: str):
    wnids = DATASETS[name].class_names
    archive_files(tmp_path, f"{name}-160", wnids, 32)
    found = load_dataset(name, tmp_path, size=16)
    assert found.spec.class_names == wnids
    assert found.train.images.shape == found.test.images.shape == (10, 3, 16, 16)
    # The classes stand where the subset of ImageNet of that name has them: wnids sort as ImageNet's indices do.
    indices = DATASETS[name.removesuffix("2")].indices
    assert sorted(range(10), key=indices.__getitem__) == sorted(range(10), key=wnids.__getitem__)
    with pytest.raises(UserError, match=rf"--size 224: .*{name}.tgz"):
        load_dataset(name, tmp_path, size=224)
    (tmp_path / f"{name}-160" / "val" / wnids[3]).rename(tmp_path / f"{name}-160" / "val" / "n00000001")
    with pytest.raises(UserError, match=f"not the classes of {name}"):
        load_dataset(name, tmp_path, size=16)


def test_largest_archive_is_taken(tmp_path: Path):
    wnids = DATASETS["imagenette2"].class_names
    archive_files(tmp_path, "imagenette2-160", wnids, 16)
    archive_files(tmp_path, "imagenette2-320", wnids, 16)
    assert load_dataset("imagenette2", tmp_path, size=224).spec.size == 224


def med_arrays(name: str, size: int = 28, labels: int = 1) -> dict[str, np.ndarray]:
    spec = DATASETS[name]
    found = {}
    for part in ("train", "val", "test"):
        count = 2 * spec.classes
        shape = (count, size, size, 3) if spec.channels == 3 else (count, size, size)
        found[f"{part}_images"] = pixels(*shape)
        found[f"{part}_labels"] = (np.arange(count * labels).reshape(count, labels) % spec.classes).astype(np.uint8)
    return found


@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if spec.sizes])
def test_medmnist(tmp_path: Path, name: str):
    (tmp_path / "medmnist").mkdir()
    arrays = med_arrays(name)
    np.savez_compressed(tmp_path / "medmnist" / f"{name}.npz", **arrays)
    found = load_dataset(name, tmp_path)
    stored = arrays["train_images"]
    assert np.array_equal(found.train.images, stored.transpose(0, 3, 1, 2) if stored.ndim == 4 else stored[:, None])
    assert found.test.labels.tolist() == arrays["test_labels"][:, 0].tolist()
    assert "validation images are left out" in found.spec.note
    with pytest.raises(UserError, match=rf"{name}_64.npz is not there; get {name}_64.npz from https://zenodo"):
        load_dataset(name, tmp_path, size=64)


def test_medmnist_in_another_size(tmp_path: Path):
    np.savez_compressed(tmp_path / "bloodmnist_64.npz", **med_arrays("bloodmnist", 64))
    assert load_dataset("bloodmnist", tmp_path, size=64).train.images.shape == (16, 3, 64, 64)
    with pytest.raises(UserError, match="comes in 28, 64, 128, 224 pixels"):
        load_dataset("bloodmnist", tmp_path, size=32)


@pytest.mark.parametrize("name", ["chestmnist", "organmnist3d"])
def test_what_is_not_taken_of_medmnist(name: str):
    with pytest.raises(UserError, match=f"--dataset {name}: .*(several labels|volumes)"):
        dataset_spec(name)


def several_labels(arrays: dict[str, np.ndarray]) -> None:
    arrays.update({name: np.zeros((len(array), 14), np.uint8) for name, array in arrays.items() if "labels" in name})


def volumes(arrays: dict[str, np.ndarray]) -> None:
    arrays.update({name: pixels(16, 28, 28, 28) for name in arrays if "images" in name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (several_labels, "several an image"),
        (volumes, r"shape \[16, 28, 28, 28\]"),
        (lambda arrays: arrays.pop("train_labels"), "expected train_images and train_labels"),
        (lambda arrays: arrays.pop("test_labels"), "holds test_images, but no whole test set"),
        (lambda arrays: [arrays.pop(f"test_{one}") for one in ("images", "labels")], "no test_images and test_labels"),
        (lambda arrays: arrays.update(test_labels=arrays["test_labels"][1:]), "16 images, but labels of shape"),
        (lambda arrays: arrays.update(train_labels=arrays["train_labels"] + 1), "labels from 1 to 8"),
        (lambda arrays: arrays.update(train_images=arrays["train_images"][..., :1]), "training images of"),
    ],
)
def test_files_that_are_not_their_set(tmp_path: Path, change: Callable, message: str):
    arrays = med_arrays("bloodmnist")
    change(arrays)
    np.savez(tmp_path / "bloodmnist.npz", **arrays)
    with pytest.raises(UserError, match=message):
        load_dataset("bloodmnist", tmp_path)


def test_zip_that_is_no_npz(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "bloodmnist.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"holds readme\.txt; expected train_images"):
        load_dataset("bloodmnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "needles"),
    [
        ("kmnist", ("KMNIST", "--download")),
        ("emnist-letters", ("emnist-letters-*", "--download")),
        ("usps", ("usps.bz2", "--download")),
        ("stl10", ("train_X.bin", "--download")),
        ("imagenette2", ("imagenette2.tgz", "no folder")),
        ("pathmnist", ("medmnist/pathmnist.npz", "zenodo")),
    ],
)
def test_what_is_not_there(tmp_path: Path, name: str, needles: tuple[str, ...]):
    with pytest.raises(UserError) as caught:
        load_dataset(name, tmp_path)
    for needle in needles:
        assert needle in str(caught.value)
    assert list(tmp_path.iterdir()) == []
