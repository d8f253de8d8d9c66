"""Specs, splits, fingerprints, mean/std, and the datasets that come as arrays."""

import gzip
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ddbench.data import sources
from ddbench.data.dataset import (
    VALIDATION_IMAGES,
    Split,
    check_dataset,
    class_indices,
    fingerprint,
    holdout_split,
    make_dataset,
    validation_sample,
)
from ddbench.data.idx import read_idx
from ddbench.data.load import data_root, load_dataset
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.data.specs import DATASETS, PREPROCESS_KINDS, STATISTICS, dataset_slug, dataset_spec
from ddbench.runtime.errors import UserError

DIGITS = "de2b5c1362d07049"
NEVER_MIRRORED = ["digits", "mnist", "svhn"]
NEVER_MIRRORED += [
    "kmnist",
    *(f"emnist-{one}" for one in ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")),
]
NEVER_MIRRORED += ["usps", "organamnist", "organcmnist", "organsmnist"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_dataset("digits", tmp_path_factory.mktemp("data"))


def test_specs_need_no_torch():
    code = "import sys, ddbench.data; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("spec", DATASETS.values(), ids=lambda spec: spec.name)
def test_specs_are_complete(spec):
    assert len(spec.mean) == len(spec.std) == spec.channels
    assert spec.class_names == () or len(spec.class_names) == spec.classes
    assert spec.indices == () or len(set(spec.indices)) == spec.classes
    assert spec.source
    assert spec.modality in ("image", "graph")
    assert dataset_slug(spec.name) == spec.name


def test_digits_are_not_mirrored():
    images = [spec for spec in DATASETS.values() if spec.modality == "image"]
    assert [spec.name for spec in images if not spec.flip] == NEVER_MIRRORED


def test_unknown_dataset_is_suggested():
    with pytest.raises(UserError, match=r"unknown dataset 'cifar-10' \(did you mean 'cifar10'\?\)"):
        dataset_spec("cifar-10")


def test_size():
    assert dataset_spec("imagenette", 64).shape == (3, 64, 64)
    assert dataset_spec("imagenette").size == 128
    assert dataset_spec("cifar10", 32).size == 32
    for name, size in (("cifar10", 64), ("imagenette", 0), ("imagenette", 10**6)):
        with pytest.raises(UserError, match=f"--size {size}"):
            dataset_spec(name, size)


def test_folder_specs():
    spec = dataset_spec("folder:a/My Birds", 32)
    assert (spec.channels, spec.classes, spec.mean) == (0, 0, ())
    assert dataset_slug(spec.name).startswith("folder-My-Birds-")
    assert dataset_slug(spec.name) != dataset_slug("folder:b/My Birds")
    with pytest.raises(UserError, match="--size PIXELS"):
        dataset_spec("folder:x")
    with pytest.raises(UserError, match="names no path"):
        dataset_spec("folder:", 32)


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("DDBENCH_DATA", str(tmp_path / "named"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert data_root(tmp_path) == tmp_path
    assert data_root(None) == tmp_path / "named"
    monkeypatch.delenv("DDBENCH_DATA")
    assert data_root(None) == tmp_path / "cache" / "ddbench"


def test_digits(digits):
    assert digits.train.images.shape == (1297, 1, 8, 8)
    assert digits.test.images.shape == (500, 1, 8, 8)
    assert torch.bincount(digits.test.labels).tolist() == [50] * 10
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)
    assert digits.train.images.is_contiguous()


def test_digits_split_is_fixed(digits):
    assert digits.fingerprint.startswith(DIGITS)


def test_digits_statistics(digits):
    pixels = digits.train.images.double() / 255
    assert pixels.mean().item() == pytest.approx(digits.spec.mean[0], abs=5e-5)
    assert pixels.std(unbiased=False).item() == pytest.approx(digits.spec.std[0], abs=5e-5)


def test_fingerprint_sees_every_part(digits):
    spec, train, test = digits.spec, digits.train, digits.test
    images = train.images.clone()
    images[-1, 0, -1, -1] ^= 1
    order = torch.arange(len(train)).flip(0)
    others = [
        (replace(spec, class_names=tuple("abcdefghij")), train, test),
        (spec, Split(images, train.labels), test),
        (spec, Split(train.images, train.labels[order]), test),
        (spec, Split(train.images[order], train.labels[order]), test),
        (spec, test, train),
    ]
    seen = {digits.fingerprint} | {fingerprint(*one) for one in others}
    assert len(seen) == 6
    assert fingerprint(spec, train, test) == digits.fingerprint


def test_class_indices():
    found = class_indices(torch.tensor([2, 0, 2, 2, 0]), 4)
    assert [index.tolist() for index in found] == [[1, 4], [], [0, 2, 3], []]


def test_holdout(digits):
    parts = holdout_split(digits.train, 0.1, 10)
    again = holdout_split(digits.train, 0.1, 10)
    assert all(torch.equal(a.images, b.images) for a, b in zip(parts, again, strict=True))
    train, held = parts
    total = torch.bincount(digits.train.labels)
    assert torch.equal(torch.bincount(train.labels) + torch.bincount(held.labels), total)
    assert (torch.bincount(held.labels) - 0.1 * total).abs().max() <= 0.5
    assert len({*map(bytes, train.images.numpy())} & {*map(bytes, held.images.numpy())}) <= 1
    # The images play no part, so the same positions are held out of another set with these labels.
    other = holdout_split(Split(torch.zeros_like(digits.train.images), digits.train.labels), 0.1, 10)
    assert torch.equal(other[1].labels, held.labels)


def test_holdout_bounds(digits):
    whole, none = holdout_split(digits.train, 0.0, 10)
    assert whole is digits.train
    assert len(none) == 0
    assert none.images.shape == (0, 1, 8, 8)
    _, held = holdout_split(digits.train, 1e-9, 10)
    assert torch.bincount(held.labels).tolist() == [1] * 10
    few = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]))
    assert torch.bincount(holdout_split(few, 0.9, 2)[0].labels).tolist() == [1, 1]
    for fraction in (-0.1, 0.95, float("nan")):
        with pytest.raises(UserError, match="hold-out fraction"):
            holdout_split(digits.train, fraction, 10)
    with pytest.raises(UserError, match="one image only"):
        holdout_split(Split(few.images, torch.tensor([0, 0, 0, 1])), 0.5, 2)


def test_holdout_checks_memory(digits, monkeypatch):
    monkeypatch.setattr("ddbench.data.limits.available_memory", lambda: 10)
    with pytest.raises(UserError, match=r"10 bytes are available; .*--size"):
        holdout_split(digits.train, 0.1, 10)


def test_large_parts_are_mapped_and_leave_no_file(digits, tmp_path, monkeypatch):
    plain = holdout_split(digits.train, 0.1, 10)
    monkeypatch.setattr("ddbench.data.dataset.MAPPED_BYTES", 1)
    monkeypatch.setattr("ddbench.data.limits.available_memory", lambda: 0)
    monkeypatch.setattr("ddbench.data.dataset.CHUNK_BYTES", 1000)
    mapped = holdout_split(digits.train, 0.1, 10, tmp_path)
    assert not list(tmp_path.iterdir())
    for one, other in zip(plain, mapped, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    with pytest.raises(UserError, match="memory"):
        holdout_split(digits.train, 0.1, 10)


def broken(digits):
    spec, train, test = digits.spec, digits.train, digits.test
    some = train.labels != 3
    return {
        "are torch.float32": (Split(train.images.float(), train.labels), test),
        "have shape": (Split(train.images[:, :, :7], train.labels), test),
        "labels of shape": (Split(train.images, train.labels[1:]), test),
        "labels from 0 to 10": (train, Split(test.images, test.labels + (test.labels == 9))),
        "without a training image: 3": (Split(train.images[some], train.labels[some]), test),
        "test set: it is empty": (train, Split(test.images[:0], test.labels[:0])),
    }, spec


@pytest.mark.parametrize("index", range(6))
def test_check_dataset(digits, index):
    cases, spec = broken(digits)
    message, (train, test) = list(cases.items())[index]
    with pytest.raises(UserError, match=message):
        make_dataset(spec, train, test)


def test_meanstd_round_trip(digits):
    made = fit_preprocess(digits, "meanstd")
    x = made.apply(digits.test.images)
    expected = (digits.test.images.double() / 255 - 0.3067) / 0.3767
    torch.testing.assert_close(x, expected.float(), rtol=0, atol=1e-6)
    assert x.is_contiguous()
    torch.testing.assert_close(made.apply(digits.test.images / 255), x, rtol=0, atol=1e-6)
    torch.testing.assert_close(made.invert(x), digits.test.images / 255, rtol=0, atol=1e-6)
    assert Preprocess.from_json(made.to_json(), digits) == made
    assert Preprocess.from_json(made.to_json(), None).key == made.key


def test_meanstd_in_pieces(digits, monkeypatch):
    made = fit_preprocess(digits, "meanstd")
    whole = made.apply(digits.test.images)
    monkeypatch.setattr("ddbench.data.dataset.CHUNK_BYTES", 4 * 64 * 7)
    assert torch.equal(made.apply(digits.test.images), whole)


def test_named_statistics(digits):
    colour = make_dataset(
        replace(digits.spec, channels=3, mean=STATISTICS["cifar100"][0], std=STATISTICS["cifar100"][1]),
        *(Split(split.images.expand(-1, 3, 8, 8), split.labels) for split in (digits.train, digits.test)),
    )
    assert fit_preprocess(colour, "mtt").mean == STATISTICS["cifar10"][0]
    assert fit_preprocess(colour, "meanstd").mean == (0.5071, 0.4866, 0.4409)
    assert fit_preprocess(colour, "mtt") != fit_preprocess(colour, "meanstd")
    assert "zca" in PREPROCESS_KINDS
    with pytest.raises(UserError, match="statistics of 3 channels, digits has 1"):
        fit_preprocess(digits, "mtt")
    with pytest.raises(UserError, match=r"unknown normalisation 'zcaa' \(did you mean 'zca'"):
        fit_preprocess(digits, "zcaa")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "kind None"),
        ([], "kind None"),
        ({"kind": "pca"}, "'pca'"),
        ({"kind": "meanstd", "mean": [0.5]}, "fields"),
        ({"kind": "meanstd", "mean": [0.5], "std": [1], "x": 1}, "fields"),
        ({"kind": "meanstd", "mean": "0.5", "std": [1]}, "list of numbers"),
        ({"kind": "meanstd", "mean": [True], "std": [1]}, "finite"),
        ({"kind": "meanstd", "mean": [float("nan")], "std": [1]}, "finite"),
        ({"kind": "meanstd", "mean": [0.5], "std": [float("inf")]}, "finite"),
        ({"kind": "meanstd", "mean": [10**400], "std": [1]}, "finite"),
        ({"kind": "meanstd", "mean": [0.5], "std": [0.0]}, "at least"),
        ({"kind": "meanstd", "mean": [0.5], "std": [-1]}, "at least"),
        ({"kind": "meanstd", "mean": [0.5, 0.5], "std": [1]}, "one of each"),
        ({"kind": "meanstd", "mean": [0.5] * 3, "std": [1] * 3}, "3 channels, digits has 1"),
    ],
)
def test_records_that_are_refused(digits, record, message):
    with pytest.raises(UserError, match=message):
        Preprocess.from_json(record, digits)


def idx(array, code=8, magic=b"\0\0"):
    head = magic + bytes((code, array.ndim)) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return head + array.astype(np.uint8).tobytes()


def write_idx_set(folder, count=40, zipped=False):
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, array in (
            ("images-idx3", np.arange(count * 784).reshape(count, 28, 28) % 251),
            ("labels-idx1", np.arange(count) % 10),
        ):
            path = folder / f"{part}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_sets(tmp_path, name, folder, zipped):
    write_idx_set(tmp_path / folder / "raw", zipped=zipped)
    dataset = load_dataset(name, tmp_path)
    assert dataset.train.images.shape == (40, 1, 28, 28)
    assert dataset.train.images.flatten()[:300].tolist() == [i % 251 for i in range(300)]
    assert dataset.test.labels.tolist() == [i % 10 for i in range(40)]


def test_fashion_mnist_of_debian(tmp_path, monkeypatch):
    write_idx_set(tmp_path / "debian", zipped=True)
    monkeypatch.setitem(sources.DEBIAN, "fashion-mnist", ("dataset-fashion-mnist", tmp_path / "debian"))
    assert len(load_dataset("fashion-mnist", tmp_path).train) == 40
    for name in ("DDBENCH_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # a user without a home needs no folder for them
    assert load_dataset("fashion-mnist", download=True).root is None
    spoilt = tmp_path / "debian" / "t10k-labels-idx1-ubyte.gz"
    spoilt.write_bytes(spoilt.read_bytes()[:20])
    with pytest.raises(UserError, match=r"get it again"):
        load_dataset("fashion-mnist", download=True)
    spoilt.unlink()
    with pytest.raises(UserError, match=r"no home folder.*--data FOLDER"):
        load_dataset("fashion-mnist")


@pytest.mark.parametrize("left", ["nothing", "some files", "a part of the last"])
def test_a_killed_download_goes_on(tmp_path, monkeypatch, left):
    """The same command again; it said to give --download, which was given."""
    raw, asked = tmp_path / "KMNIST" / "raw", []

    def fetch(root, download, train=True):
        asked.append((root, download))
        shutil.rmtree(raw, ignore_errors=True)
        write_idx_set(raw)

    monkeypatch.setattr("torchvision.datasets.KMNIST", fetch)
    if left != "nothing":
        write_idx_set(raw, zipped=True)
        last = raw / "t10k-labels-idx1-ubyte.gz"
        last.write_bytes(last.read_bytes()[:20]) if left == "a part of the last" else last.unlink()
        with pytest.raises(UserError, match=r"get (it again|them with --download)"):
            load_dataset("kmnist", tmp_path)
    assert not asked
    for _ in range(2):
        assert len(load_dataset("kmnist", tmp_path, download=True).train) == 40
    assert set(asked) == {(str(tmp_path), True)}
    assert len(asked) == 2, "what is there is not fetched again"


GOOD = np.arange(60).reshape(3, 4, 5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too short"),
        (idx(GOOD)[:10], "too short"),
        (idx(GOOD, magic=b"\1\0"), "magic number 01000803"),
        (idx(GOOD, code=9), "magic number 00000903"),
        (idx(GOOD[0]), "magic number 00000802"),
        (idx(GOOD)[:-1], r"announces 60 bytes \[3, 4, 5\], it holds 59"),
        (idx(GOOD) + b"\0", "it holds more"),
        (idx(GOOD[:0]), "no data"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "of memory"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx(tmp_path, data, message, zipped):
    path = tmp_path / ("x.gz" if zipped else "x")
    path.write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(UserError, match=message):
        read_idx(path, 3)


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (9, 9, 9))))
    for name, data in {"cut": whole[:200], "bits": whole[:100] + bytes(200) + whole[300:], "plain": b"plain"}.items():
        path = tmp_path / f"{name}.gz"
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"{name}.gz: cannot read"):
            read_idx(path, 3)


@pytest.mark.parametrize(
    ("name", "place", "remedy"),
    [
        ("mnist", "MNIST", "--download"),
        ("fashion-mnist", "FashionMNIST", "Debian package dataset-fashion-mnist"),
        ("svhn", "SVHN", "--download"),
        ("cifar10", "cifar-10-batches-py", "--download"),
        ("cifar100", "cifar-100-python", "--download"),
        ("tiny-imagenet", "tiny-imagenet-200", "official archive"),
        ("imagenette", "imagenet", "ImageNet-1k copy"),
        ("imagenet-1k", "imagenet", "ImageNet-1k copy"),
    ],
)
def test_missing_data_names_folder_and_remedy(tmp_path, monkeypatch, name, place, remedy):
    monkeypatch.setattr(sources, "DEBIAN", {"fashion-mnist": ("dataset-fashion-mnist", tmp_path / "none")})
    with pytest.raises(UserError) as caught:
        load_dataset(name, tmp_path)
    assert str(tmp_path / place) in str(caught.value)
    assert remedy in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_incomplete_idx_set(tmp_path):
    write_idx_set(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="lacks t10k-images-idx3-ubyte or its labels"):
        load_dataset("mnist", tmp_path)


def test_altered_cifar_is_refused(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # a pickle that must never be opened
    with pytest.raises(UserError, match="incomplete or altered"):
        load_dataset("cifar10", tmp_path)


def test_reading_archives_checks_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("ddbench.data.limits.available_memory", lambda: 2**20)
    with pytest.raises(UserError, match=r"reading cifar10 needs 878.9 MiB of memory, 1.0 MiB are available"):
        load_dataset("cifar10", tmp_path)


class FakeArchive:
    """Stands for torchvision's classes, whose archives are too large for a test."""

    def __init__(self, root, download, train=True, split="train"):
        self.data = np.arange(100 * 32 * 32 * 3, dtype=np.int64).reshape(100, 32, 32, 3).astype(np.uint8)
        self.targets = list(range(100))
        self.classes = [f"c{i:03d}" for i in range(100)]


def test_cifar100_takes_names_and_layout(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR100", FakeArchive)
    (tmp_path / "cifar-100-python").mkdir()
    dataset = load_dataset("cifar100", tmp_path)
    assert dataset.spec.class_names[:2] == ("c000", "c001")
    assert dataset.train.images.shape == (100, 3, 32, 32)
    assert dataset.train.images[0, :, 0, 1].tolist() == [3, 4, 5]


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no\nnetwork")

    monkeypatch.setattr("torchvision.datasets.MNIST", fail)
    with pytest.raises(UserError, match=r"the download into .* failed: no network; try again"):
        load_dataset("mnist", tmp_path, download=True)


def test_checked_dataset_passes(digits):
    check_dataset(digits)


def test_a_validation_sample_is_spread_over_all_that_is_held_out():
    """Real datasets hold back more than a sample has; sorted by class, the first images would be of few."""
    held_out = Split(torch.arange(5000).view(-1, 1, 1, 1).to(torch.uint8), torch.arange(5000) // 500)
    sample = validation_sample(held_out)
    assert torch.bincount(sample.labels).tolist() == [VALIDATION_IMAGES // 10] * 10
    few = Split(held_out.images[:VALIDATION_IMAGES], held_out.labels[:VALIDATION_IMAGES])
    assert validation_sample(few) is few
