"""Data of one's own as arrays (``npz:PATH``) and as parquet files (``hub:...``)."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import EAGER
from PIL import Image

from ddbench.cli import doctor
from ddbench.data import hub, limits
from ddbench.data.load import data_root, kept_root, load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.data.specs import dataset_slug, dataset_spec, size_to_load
from ddbench.diffusion import store
from ddbench.diffusion.recipe import model_folder
from ddbench.runtime.errors import UserError
from ddbench.runtime.folders import expanded
from ddbench.teachers.store import find_teacher

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 8, 8), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
CLASSES = np.arange(20) % 2


def arrays(tmp_path: Path, **parts: np.ndarray) -> str:
    np.savez(tmp_path / "own.npz", **parts)
    return f"npz:{tmp_path / 'own.npz'}"


@pytest.mark.parametrize("user", ["~nobody-of-this-name/x", "~with\0null/x"])
@pytest.mark.parametrize("form", ["", "folder:", "npz:", "hub:", "graphs:"])
def test_homes_of_users_that_are_not_there(tmp_path: Path, form: str, user: str):
    with pytest.raises(UserError):
        load_dataset(f"{form}{user}", tmp_path, size=8 if form in ("folder:", "hub:") else None, modality=None)


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert expanded("~/x") == Path.home() / "x"
    for name in ("DDBENCH_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where neither HOME nor the user is known
    assert expanded("~/x") == Path("~/x")
    with pytest.raises(UserError, match=r"no home folder.*--data FOLDER"):
        data_root(None)
    with pytest.raises(UserError, match=r"no home folder.*--data FOLDER"):
        load_dataset("mnist")
    for name, modality in (("digits", "image"), ("graphs:made", "graph")):  # these need no folder
        assert load_dataset(name, modality=modality).root is None
    own = arrays(tmp_path, images=IMAGES, labels=CLASSES)
    monkeypatch.chdir(tmp_path)
    for name in (own, "npz:own.npz"):  # nor do these, which lie where their names say
        assert load_dataset(name).root is None
    for name in (f"npz:{tmp_path}/gone.npz", f"graphs:{tmp_path}/gone.npz"):
        with pytest.raises(UserError, match=r"gone\.npz"):
            load_dataset(name, modality=None)
    for name in ("npz:gone.npz", f"folder:{tmp_path}"):  # what may be there is there, what is decoded is kept there
        with pytest.raises(UserError, match=r"no home folder.*--data FOLDER"):
            load_dataset(name, size=None if name.startswith("npz") else 8)
    assert fit_preprocess(load_dataset("digits"), "zca", kept_root(None)).kind == "zca"
    found = doctor.examine(None)
    assert (found["data"]["folder"], found["data"]["datasets"]["digits"]) == (None, True)
    assert any("no folder: this user has no home; give --data FOLDER" in line for line in doctor._lines(found))


def test_what_is_made_of_a_place_is_found_by_its_other_names(
    ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A relative and an absolute path are one place: its experts, teachers and models are there under both."""
    monkeypatch.chdir(tmp_path)
    names = (arrays(tmp_path, images=IMAGES, labels=CLASSES), "npz:own.npz")
    brief = ("--student", "mlp-d1-w8", "--epochs", 1, "--holdout", 0, *EAGER)
    for name in names:
        assert ddb("teacher", "--dataset", name, *brief).code == 0
        found = ddb("buffer", "--dataset", name, "--experts", 1, "--lr", 0.01, *brief)
        assert ("all 1 experts are recorded" in found.err) is (name == names[1]), found.err
    assert len(list(Path("teachers").rglob("*.safetensors"))) == 1
    assert len(list(Path("expert_trajectories").rglob("manifest.json"))) == 1
    dataset = load_dataset(names[1], tmp_path)
    assert find_teacher(Path("teachers"), dataset=names[1], fingerprint=dataset.fingerprint) is not None
    assert find_teacher(Path("teachers"), dataset=names[1], fingerprint="0" * 64) is None
    assert find_teacher(Path("teachers"), dataset="folder:own.npz", fingerprint=dataset.fingerprint) is None
    flags = ("--ipc", 1, "--iterations", 1, "--student", "mlp-d1-w8", "--holdout", 0, "--max-start-epoch", 1)
    flags += ("--expert-epochs", 1, "--student-steps", 1, "--lr-images", 1, "--augmentation", "none")
    made = ddb("distill", "--method", "mtt", "--dataset", names[1], *flags, "--out", "run", *EAGER)
    assert made.code == 0, made.err


def test_a_killed_training_goes_on_under_another_name_of_its_data(
    ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a teacher and, by its checkpoint or the sign of who is at work on it, of a diffusion model."""
    monkeypatch.chdir(tmp_path)
    own = arrays(tmp_path, images=IMAGES, labels=CLASSES)
    brief = ("--student", "mlp-d1-w8", "--epochs", 2, "--holdout", 0, *EAGER)
    with monkeypatch.context() as patch:
        patch.setattr("ddbench.teachers.train._write", Mock(side_effect=KeyboardInterrupt))
        assert ddb("teacher", "--dataset", "npz:own.npz", *brief).code == 130
    done = ddb("teacher", "--dataset", own, *brief)
    assert (done.code, "going on after epoch 2 of 2" in done.err) == (0, True), done.err
    assert len(list(Path("teachers").glob("*/*/*.safetensors"))) == 1
    assert not list(Path("teachers").rglob(".*")), "nothing is left of the killed one"
    for end in (".partial.safetensors", ".turn"):
        there = model_folder(tmp_path, "folder:/here/x", f"k{end}")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.with_name(f"{there.name}{end}").touch()
        assert model_folder(tmp_path, "folder:x", there.name) == there


def test_a_model_is_found_by_another_name_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    there = model_folder(tmp_path, "folder:/here/x", "k1") / store.FILE
    there.parent.mkdir(parents=True)
    there.touch()
    model = SimpleNamespace(
        dataset="folder:/here/x", fingerprint="f", sha256="s", recipe={"steps": 1, "batch": 1, "holdout": 0.0}
    )
    monkeypatch.setattr(store, "read_model", lambda folder: model)
    assert model_folder(tmp_path, "folder:x", "k1") == there.parent
    assert model_folder(tmp_path, "folder:x", "k2") != there.parent.with_name("k2"), "not made yet"
    assert store.find_model(tmp_path, dataset="folder:x", fingerprint="f") is model
    for other in ({"fingerprint": "g"}, {}):
        assert store.find_model(tmp_path, dataset="folder:x", **other) is None


def test_names_of_data_of_ones_own():
    assert dataset_spec("npz:a/b c.npz").size == 0
    assert dataset_slug("npz:a/b c.npz").startswith("npz-b-c.npz-")
    assert dataset_slug("hub:me/cats").startswith("hub-cats-")
    assert size_to_load("npz:a.npz", 8) is None
    assert size_to_load("npz:a.npz", 8, 8) is None
    with pytest.raises(UserError, match=r"--size 16: the synset has images of npz:a\.npz with 8 pixels"):
        size_to_load("npz:a.npz", 8, 16)
    assert size_to_load("hub:me/cats", 8) == 8
    with pytest.raises(
        UserError, match="--size 16: the synset has images of hub:me/cats with 8 pixels; leave --size out"
    ):
        size_to_load("hub:me/cats", 8, 16)
    with pytest.raises(UserError, match="--size PIXELS"):
        dataset_spec("hub:me/cats")
    for name in ("npz:", "hub:"):
        with pytest.raises(UserError, match=f"--dataset {name} names no"):
            dataset_spec(name, 32)


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (("train_images", "train_labels", "test_images", "test_labels"), IMAGES),
        (("x_train", "y_train", "x_test", "y_test"), COLOUR),
        (("train_images", "train_labels", "test_images", "test_labels"), COLOUR.transpose(0, 3, 1, 2)),
        (("x_train", "y_train", "x_test", "y_test"), np.asfortranarray(COLOUR)),
    ],
)
def test_arrays_with_a_test_set(tmp_path: Path, names: tuple[str, ...], images: np.ndarray):
    parts = (images, CLASSES[:, None], images[:10], CLASSES[:10])
    name = arrays(tmp_path, **dict(zip(names, parts, strict=True)))
    found = load_dataset(name, tmp_path / "data")
    channels = 1 if images.ndim == 3 else 3
    expected = IMAGES[:, None] if channels == 1 else COLOUR.transpose(0, 3, 1, 2)
    assert np.array_equal(found.train.images, expected)
    assert found.test.labels.tolist() == CLASSES[:10].tolist()
    assert found.spec.shape == (channels, 8, 8)
    assert found.spec.class_names == ("0", "1")
    np.testing.assert_allclose(found.spec.mean, (expected / 255).mean((0, 2, 3)), atol=1e-6)
    assert load_dataset(name, tmp_path / "data", size=8).fingerprint == found.fingerprint
    with pytest.raises(UserError, match=r"--size 16: the images of .* are 8 pixels"):
        load_dataset(name, tmp_path / "data", size=16)


def test_arrays_without_a_test_set(tmp_path: Path):
    name = arrays(tmp_path, images=IMAGES, labels=CLASSES, class_names=np.array(["cat", "dog"]))
    found, again = load_dataset(name, tmp_path), load_dataset(name, tmp_path)
    assert found.fingerprint == again.fingerprint
    assert torch.bincount(found.test.labels).tolist() == [2, 2]
    assert len(found.train) == 16
    assert found.spec.class_names == ("cat", "dog")
    assert "a fixed fifth" in found.spec.note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES.astype(np.float32)}, "images are float32; expected uint8"),
        ({"images": IMAGES[:, :6]}, "images of 6 x 8 pixels"),
        ({"images": IMAGES[:, :2, :2]}, "images of 2 x 2 pixels"),
        ({"images": IMAGES[0]}, r"images of shape \[8, 8\]"),
        ({"images": IMAGES[:0], "labels": CLASSES[:0]}, "images of shape"),
        ({"labels": np.eye(20)}, "several an image"),
        ({"labels": CLASSES.astype(float)}, "labels are float64"),
        ({"labels": CLASSES[1:]}, "20 images, but labels of shape"),
        ({"labels": CLASSES - 1}, "labels from -1 to 0"),
        ({"labels": CLASSES * 10**9}, "labels from 0 to 1000000000"),
        ({"labels": CLASSES * 0}, "labels of one class only"),
        ({"labels": CLASSES * 3}, "without a training image"),
        ({"images": np.array([object()] * 20, dtype=object)}, "plain numbers, which need no pickle"),
        ({"class_names": np.array(["cat", "cat"])}, "at least two that differ"),
        ({"class_names": np.array(["a", "b"], dtype=object)}, "which need no pickle"),
        ({"class_names": np.arange(2)}, "expected a list of texts"),
        (
            {"class_names": np.array(["cat", "d" * 200])},
            r"the name of class 1, 'd+'\.\.\., has 200 letters",
        ),
        ({"class_names": np.array(["cat", "\udcff"])}, r"the name of class 1, '\\udcff', is not UTF-8"),
        ({"labels": CLASSES + 1, "class_names": np.array(["cat", "dog"])}, "2 class_names, but labels up to 2"),
    ],
)
def test_arrays_that_are_refused(tmp_path: Path, change: dict[str, Any], message: str):
    parts = {"images": IMAGES, "labels": CLASSES, **change}
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:  # numpy would warn of objects
        for name, array in parts.items():
            with archive.open(f"{name}.npy", "w") as handle:
                np.lib.format.write_array(handle, array, allow_pickle=True)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(f"npz:{tmp_path / 'own.npz'}", tmp_path / "data")
    assert "\n" not in str(caught.value)


def npy(shape: tuple[int, ...], data: bytes, descr: str = "|u1", version: bytes = b"\x01\x00") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy((10**12, 8, 8), bytes(64)), "its header announces"),
        (npy((2, -8, 8), bytes(128)), "its header announces"),
        (npy((1, 8, 8), bytes(64), descr="|O"), "need no pickle"),
        (npy((1, 8, 8), bytes(64), version=b"\x03\x00"), "not a .npy of a plain array"),
        (npy((1, 8, 8), bytes(640)), "it holds more"),
        (npy((1, 8, 8), bytes(64))[:40], "not a .npy of a plain array"),
        (b"\x93NUMPY\1\0\x0d\0{'shape': (('", "not a .npy of a plain array"),
        (npy((1, 8, 8), b"", descr="<U0"), "not a whole npz file"),
        (b"", "not a .npy of a plain array"),
        (b"pickle" * 10, "not a .npy of a plain array"),
    ],
)
def test_headers_that_lie(tmp_path: Path, member: bytes, message: str):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", member)
        archive.writestr("labels.npy", npy((1,), b"\0"))
    with pytest.raises(UserError, match=message):
        load_dataset(f"npz:{path}", tmp_path)


def test_names_of_classes_that_are_no_text(tmp_path: Path):
    """Numbers beyond Unicode."""
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", npy((2, 8, 8), bytes(128)))
        archive.writestr("labels.npy", npy((2,), b"\0\1"))
        archive.writestr("class_names.npy", npy((2,), b"\xff" * 8, descr="<U1"))
    with pytest.raises(UserError, match="not a whole npz file"):
        load_dataset(f"npz:{path}", tmp_path)


def test_damaged_archives(tmp_path: Path):
    name = arrays(tmp_path, images=IMAGES, labels=CLASSES)
    whole = (tmp_path / "own.npz").read_bytes()
    for data in (whole[:100], b"", b"no zip", whole[:200] + bytes(50) + whole[250:]):
        (tmp_path / "own.npz").write_bytes(data)
        with pytest.raises(UserError, match="not a whole npz file"):
            load_dataset(name, tmp_path)
    with pytest.raises(UserError, match="no such npz file"):
        load_dataset("npz:nowhere.npz", tmp_path)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("train_images", "train_labels", "test_images"), "holds test_images, .*expected test_images and test_labels"),
        (("x_train", "y_train", "y_test"), "holds y_test, but no whole test set; expected x_test and y_test"),
        (("x_train", "y_train", "test_images", "test_labels"), "holds test_images and test_labels, .*expected x_test"),
        (("images", "labels", "x_test", "y_test"), "images and labels are to be named train_images and train_labels"),
    ],
)
def test_a_test_set_that_would_be_passed_over(tmp_path: Path, names: tuple[str, ...], told: str):
    parts = {name: CLASSES if name.startswith("y") or name.endswith("labels") else IMAGES for name in names}
    with pytest.raises(UserError, match=told):
        load_dataset(arrays(tmp_path, **parts), tmp_path / "data")


def test_arrays_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = arrays(tmp_path, images=IMAGES, labels=CLASSES)
    monkeypatch.setattr("ddbench.data.limits.available_memory", lambda: 100)
    with pytest.raises(UserError, match=r"needs 3\.8 KiB of memory"):
        load_dataset(name, tmp_path)


# Parquet.


@pytest.fixture
def pq() -> Any:
    return pytest.importorskip("pyarrow.parquet")


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def write(
    path: Path, images: Any = COLOUR, labels: Any = CLASSES, column: str = "label", names: Any = None, **more: Any
) -> None:
    """A file with a column of images and one of labels, as ``datasets`` writes them, but for what it says of them."""
    import pyarrow as pa
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": one if one is None or isinstance(one, bytes) else png(one), "path": None} for one in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(rows, kind), column: pa.array(list(labels)), **more})
    if names is not None:
        features = {column: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path)


def load(folder: Path, size: int = 8, **settings: Any) -> Any:
    return load_dataset(f"hub:{folder}", folder.parent / "data", size=size, **settings)


def test_what_datasets_writes(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    for part in ("train", "test"):
        rows = {"img": [Image.fromarray(one) for one in COLOUR], "label": CLASSES.tolist()}
        path = tmp_path / "set" / "data" / f"{part}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    found = load(tmp_path / "set")
    assert found.spec.class_names == ("cat", "dog")
    assert np.array_equal(found.train.images, COLOUR.transpose(0, 3, 1, 2))
    assert found.test.labels.tolist() == CLASSES.tolist()
    assert load(tmp_path / "set", size=4).test.images.shape == (20, 3, 4, 4)
    assert len(list((tmp_path / "data" / "hub").glob("*/index.json"))) == 1  # laid down once for every size


def test_grey_images_and_labels_as_texts(tmp_path: Path, pq: Any):
    write(tmp_path / "set" / "default" / "train" / "0000.parquet", IMAGES[:10], ["b", "a"] * 5)
    write(tmp_path / "set" / "default" / "train" / "0001.parquet", IMAGES[10:], ["b", "a"] * 5)
    write(tmp_path / "set" / "default" / "validation" / "0000.parquet", IMAGES[:4], ["a", "b"] * 2)
    found = load(tmp_path / "set")
    assert found.spec.class_names == ("a", "b")
    assert np.array_equal(found.train.images[:, 0], IMAGES)
    assert found.train.labels.tolist() == [1, 0] * 10
    assert found.spec.note == "scored on the validation images"


def test_equal_images_are_counted_as_they_are_laid_down(tmp_path: Path, pq: Any, monkeypatch: pytest.MonkeyPatch):
    """A file has equal bytes once, the disk for every row; what it unfolds to is in no number of the file."""
    many = [png(COLOUR[0]), *[png(COLOUR[1])] * 2000]
    write(tmp_path / "set" / "train.parquet", many, [0, *[1] * 2000])
    asked = []

    def nearly_full(folder: Path) -> int:
        asked.append(folder)
        return 100_000

    monkeypatch.setattr(limits, "free_disk", nearly_full)
    with pytest.raises(UserError, match=r"laying down 2,001 images needs .* KiB"):
        load(tmp_path / "set")
    assert len(asked) > 1, "asked again"
    assert not list((tmp_path / "data" / "hub").glob("*.part"))


def test_no_test_images(tmp_path: Path, pq: Any):
    write(tmp_path / "set" / "everything.parquet")
    found = load(tmp_path / "set")
    assert torch.bincount(found.test.labels).tolist() == [2, 2]
    assert found.spec.note == "no test images: a fixed fifth of each class is the test set"


def test_hidden_test_labels_are_no_test_set(tmp_path: Path, pq: Any):
    write(tmp_path / "set" / "train.parquet")
    write(tmp_path / "set" / "test.parquet", COLOUR[:4], [-1] * 4)
    write(tmp_path / "set" / "valid.parquet", COLOUR[:6], CLASSES[:6])
    assert len(load(tmp_path / "set").test) == 6


def test_a_part_of_a_dataset(tmp_path: Path, pq: Any):
    for name in ("small", "large"):
        write(tmp_path / "set" / name / "train-00000-of-00001.parquet", column="fine_label", coarse_label=CLASSES)
    with pytest.raises(UserError, match=r"several sets \(large, small\); name one"):
        load(tmp_path / "set")
    assert len(load(tmp_path / "set" / "small").train) == 16


def test_broken_images_are_named_or_left_out(tmp_path: Path, pq: Any):
    images = [png(one) for one in COLOUR]
    images[4] = images[4][:60]
    write(tmp_path / "set" / "train.parquet", images)
    write(tmp_path / "set" / "test.parquet")
    with pytest.raises(UserError, match=r"000000004: cannot decode this image.*--skip-broken"):
        load(tmp_path / "set")
    assert len(load(tmp_path / "set", skip_broken=True).train) == 19


def test_a_killed_laying_down_begins_again(tmp_path: Path, pq: Any, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "set" / "train.parquet")
    monkeypatch.setattr("ddbench.data.hub._numbered", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load(tmp_path / "set")
    monkeypatch.undo()
    assert len(load(tmp_path / "set").train) == 16
    assert not list((tmp_path / "data" / "hub").glob("*.part"))


def test_a_killed_download_is_no_whole_dataset(tmp_path: Path, pq: Any, monkeypatch: pytest.MonkeyPatch):
    """Of what was there a fifth was taken for the test set, since the file of test images was not fetched yet."""
    library = pytest.importorskip("huggingface_hub")
    cached = tmp_path / "cached"
    write(cached / "train.parquet")

    def fetch(_: Any, name: str, *, local_files_only: bool, **__: Any) -> str:
        if not local_files_only and not (cached / "test.parquet").exists():
            raise KeyboardInterrupt
        return str(cached)

    monkeypatch.setattr(library.HfApi, "snapshot_download", fetch)
    assert len(load_dataset("hub:me/own", tmp_path / "a", size=8).test) == 4, "somebody else's download"
    with pytest.raises(KeyboardInterrupt):
        load_dataset("hub:me/own", tmp_path / "b", size=8, download=True)
    with pytest.raises(UserError, match=r"hub:me/own: its download was begun and not finished; go on with --download"):
        load_dataset("hub:me/own", tmp_path / "b", size=8)
    write(cached / "test.parquet", COLOUR[:8], CLASSES[:8])
    for download in (True, False):
        assert len(load_dataset("hub:me/own", tmp_path / "b", size=8, download=download).test) == 8


def test_a_refused_download_begins_nothing(tmp_path: Path, pq: Any, monkeypatch: pytest.MonkeyPatch):
    """What is on the machine in whole is taken afterwards as before."""
    library = pytest.importorskip("huggingface_hub")
    cached = tmp_path / "cached"
    write(cached / "train.parquet")

    def fetch(_: Any, name: str, *, local_files_only: bool, **__: Any) -> str:
        if not local_files_only:
            raise ConnectionError("no network")
        return str(cached)

    monkeypatch.setattr(library.HfApi, "snapshot_download", fetch)
    with pytest.raises(UserError, match="no way to the hub"):
        load_dataset("hub:me/own", tmp_path, size=8, download=True)
    assert len(load_dataset("hub:me/own", tmp_path, size=8).test) == 4


def test_hidden_copies_are_left_aside(tmp_path: Path, pq: Any):
    write(tmp_path / "set" / "train.parquet")
    write(tmp_path / "set" / ".ipynb_checkpoints" / "train-checkpoint.parquet")
    write(tmp_path / "set" / ".test.parquet")
    assert len(load(tmp_path / "set").train) == 16


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (("train-00001-of-00002",), "train-00000-of-00002.parquet missing; get it"),
        (("train-00000-of-00001", "test-00001-of-00004"), "test-00000-of-00004.parquet and 2 more missing"),
        (("train-00000-of-00002-0123456789abcdef",), "train-00001-of-00002.parquet missing"),
        (("data-00000-of-00002",), "data-00001-of-00002.parquet missing"),
        (("train-00001-of-00002", "train-00002-of-00002"), ""),
        (("train-00000-of-00002-0123456789abcdef", "train-00001-of-00002-fedcba9876543210"), ""),
    ],
)
def test_every_file_of_a_split_is_there(tmp_path: Path, pq: Any, files: tuple[str, ...], missing: str):
    for name in files:
        write(tmp_path / "set" / f"{name}.parquet")
    if not missing:
        assert len(load(tmp_path / "set").train) == 32
        return
    with pytest.raises(UserError, match=missing):
        load(tmp_path / "set")
    assert not (tmp_path / "data").exists()


def test_numbers_that_mean_other_classes_in_another_file(tmp_path: Path, pq: Any):
    write(tmp_path / "set" / "train.parquet", names=["a", "b"])
    write(tmp_path / "set" / "valid.parquet")
    write(tmp_path / "set" / "test.parquet", names=["b", "a"])
    with pytest.raises(UserError, match=r"test\.parquet: class 0 of 'label' is 'b', in other files 'a'"):
        load(tmp_path / "set")
    assert not (tmp_path / "data").exists()
    write(tmp_path / "set" / "test.parquet", names=["a", "b"])
    assert load(tmp_path / "set").spec.class_names == ("a", "b")


@pytest.mark.parametrize("alike", [True, False])
def test_what_an_earlier_version_laid_down_is_compared(tmp_path: Path, pq: Any, monkeypatch: Any, alike: bool):
    """Its index is of when the names of the first file were taken for all."""
    write(tmp_path / "set" / "train.parquet", names=["a", "b"])
    write(tmp_path / "set" / "test.parquet", names=["a", "b"] if alike else ["b", "a"])
    opened = hub._opened
    with monkeypatch.context() as earlier:
        earlier.setattr(hub, "_class_names", lambda *_: ("a", "b"))
        first = load(tmp_path / "set")
    (index,) = (tmp_path / "data" / "hub").glob("*/index.json")
    index.write_text(
        json.dumps({name: one for name, one in json.loads(index.read_text()).items() if name != "compared"})
    )
    asked: list[int] = []
    monkeypatch.setattr(hub, "_opened", lambda parts: asked.append(1) or opened(parts))
    for _ in range(2):
        if alike:
            assert load(tmp_path / "set").fingerprint == first.fingerprint
        else:
            with pytest.raises(UserError, match="class 0 of 'label' is 'b'"):
                load(tmp_path / "set")
    assert len(asked) == (1 if alike else 2)


NESTED = [[0, 1]] * 20
BAD_PARQUET: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda root: root.mkdir(), "no parquet files in it"),
    "no training": (lambda root: write(root / "test.parquet"), "files of test, but none named train"),
    "no parquet": (
        lambda root: (root.mkdir(), (root / "train.parquet").write_bytes(b"PAR1 no")),
        "not a whole parquet",
    ),
    "empty": (lambda root: (root.mkdir(), (root / "train.parquet").touch()), "not a whole parquet"),
    "no labels": (lambda root: write(root / "train.parquet", column="caption"), "no column of labels"),
    "several labels": (lambda root: write(root / "train.parquet", labels=NESTED), "several labels an image"),
    "numbers": (lambda root: write(root / "train.parquet", labels=CLASSES / 2), "column 'label' is double"),
    "no image": (lambda root: write(root / "train.parquet", [None, *COLOUR[1:]]), "row 0: no image in it"),
    "one class": (lambda root: write(root / "train.parquet", labels=CLASSES * 0), "1 class"),
    "a class below": (lambda root: write(root / "train.parquet", labels=CLASSES - 2), "none of the"),
    "gap": (lambda root: write(root / "train.parquet", labels=CLASSES * 5), "without a training image: 1, 2, 3, 4"),
    "huge label": (lambda root: write(root / "train.parquet", labels=CLASSES * 10**12), "none of the 100001 classes"),
    "another class": (
        lambda root: (
            write(root / "train.parquet", labels=["a", "b"] * 10),
            write(root / "test.parquet", labels=["c"] * 20),
        ),
        "test label 'c' is none of the 2 classes",
    ),
    "texts and numbers": (
        lambda root: (write(root / "train.parquet", labels=["b", "a"] * 10), write(root / "test.parquet")),
        "column 'label' holds texts and, in another file, numbers",
    ),
    "other columns": (
        lambda root: (write(root / "train-0.parquet"), write(root / "train-1.parquet", column="labels")),
        "has no column 'label'",
    ),
}


@pytest.mark.parametrize("kind", BAD_PARQUET)
def test_parquet_that_is_refused(tmp_path: Path, pq: Any, kind: str):
    make, message = BAD_PARQUET[kind]
    make(tmp_path / "set")
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path / "set")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.part")), "nothing half made stays"


def test_damaged_in_the_middle(tmp_path: Path, pq: Any):
    path = tmp_path / "set" / "train.parquet"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(400) + whole[600:])
    with pytest.raises(UserError, match=r"not a whole parquet file|cannot (decode|be used)|no image in it"):
        load(tmp_path / "set")


def test_a_file_without_rows(tmp_path: Path, pq: Any):
    """Spark and others write a file for every part of their data, for an empty one too: it has no group of rows."""
    path = tmp_path / "set" / "train-00000-of-00002.parquet"
    write(path)
    empty = path.with_name("train-00001-of-00002.parquet")
    pq.ParquetWriter(empty, pq.read_schema(path)).close()
    assert pq.ParquetFile(empty).num_row_groups == 0
    assert len(load(tmp_path / "set").train) + len(load(tmp_path / "set").test) == 20


def test_fewer_rows_than_the_file_says(tmp_path: Path, pq: Any, monkeypatch: pytest.MonkeyPatch):
    """Its groups need not hold what its description says of the whole."""
    write(tmp_path / "set" / "train.parquet")
    read = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *given, **named: (one[:-1] for one in read(*given, **named))
    )
    with pytest.raises(UserError, match=r"train\.parquet: 19 rows in place of 20"):
        load(tmp_path / "set")


def test_synsets_are_no_real_images(tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "synset.json").write_text("{}")
    with pytest.raises(UserError, match="a synset, not real images; ddbench import"):
        load(tmp_path / "set")


@pytest.mark.parametrize("name", ["hub:no-folder", "hub:../../etc/passwd", "hub:a b/c", "hub:/nowhere/at/all"])
def test_neither_folder_nor_name(tmp_path: Path, name: str):
    with pytest.raises(UserError, match=r"neither a folder nor OWNER/NAME"):
        load_dataset(name, tmp_path, size=8)
