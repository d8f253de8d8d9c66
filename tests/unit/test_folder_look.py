"""Image folders as people have them: names of splits, deep grey, turned and broken files, classes of few images."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddbench.data import look
from ddbench.data.cache import Listing, _key, alone, load_listing
from ddbench.data.images import Facts, read_image
from ddbench.data.images import look_at as read_facts
from ddbench.data.load import load_dataset
from ddbench.data.look import Look, kept_look, look_over
from ddbench.data.specs import dataset_spec
from ddbench.methods.base import check_ipc, repeated
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console


def save(path: Path, pixels: np.ndarray, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


def colour(value: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.full((size[1], size[0], 3), value, dtype=np.uint8)


def fill(root: Path, *splits: str, count: int = 2) -> str:
    """Classes ``cat`` and ``dog`` with images of different colours, below each split."""
    for number, split in enumerate(splits):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                save(root / split / name / f"{index}.png", colour(100 * label + 10 * number + index))
    return f"folder:{root}"


def test_what_an_earlier_look_left_may_be_damaged(tmp_path: Path):
    """It is looked again then."""
    whole = {"modes": {"L": 1}, "channels": 1, "bits": 8, "smallest": [8, 8], "largest": [8, 8]}
    whole |= {"deep": 0, "turned": 0, "tiffs": 0, "alpha": 0, "skipped": {}}
    path = tmp_path / "look.json"
    path.write_text(json.dumps(whole))
    assert kept_look(path) is not None
    for name, value in {
        "smallest": {"width": 8},
        "largest": [8],
        "bits": "8",
        "modes": None,
        "skipped": {"a": 1},
    }.items():
        path.write_text(json.dumps({**whole, name: value}))
        assert kept_look(path) is None, name


# Names of splits


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("Train", "Test"), ("Training", "Testing"), ("train", "valid"), ("train", "validation")),
        *(("TRAIN", "Val"), ("train", "dev")),
    ],
)
def test_words_for_splits(tmp_path: Path, train: str, test: str):
    dataset = load_dataset(fill(tmp_path / "set", train, test), tmp_path / "data", size=8)
    assert dataset.spec.class_names == ("cat", "dog")
    assert dataset.train.images[:, 0, 0, 0].tolist() == [0, 1, 100, 101]
    assert dataset.test.images[:, 0, 0, 0].tolist() == [10, 11, 110, 111]
    assert f"{test}/" in dataset.spec.note


def test_with_a_test_set_the_validation_images_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name = fill(tmp_path / "set", "train", "valid", "test")
    dataset = load_dataset(name, tmp_path / "data", size=8, console=Console())
    assert dataset.test.images[:, 0, 0, 0].tolist() == [20, 21, 120, 121]
    assert "left out: valid/ (the test set is test/)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        (("train", "Training"), "both the train split"),
        (("train", "val", "valid"), "both the validation split"),
        (("Test", "extra"), "there is no train/ beside it"),
    ],
)
def test_splits_that_make_no_sense(tmp_path: Path, splits: tuple[str, ...], told: str):
    with pytest.raises(UserError, match=told):
        load_dataset(fill(tmp_path / "set", *splits), tmp_path / "data", size=8)
    assert not (tmp_path / "data").exists()


def test_test_images_without_labels(tmp_path: Path):
    name = fill(tmp_path / "set", "train")
    save(tmp_path / "set" / "test" / "0.png", colour(0))
    with pytest.raises(UserError, match="no class folders, so its images have no labels"):
        load_dataset(name, tmp_path / "data", size=8)


def test_hidden_folders_are_left_aside(tmp_path: Path):
    """Jupyter keeps copies of what was opened, which would be trained on and tested."""
    name = fill(tmp_path / "set", "", count=5)
    first = load_dataset(name, tmp_path / "data", size=8)
    save(tmp_path / "set" / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png", colour(0))
    assert load_dataset(name, tmp_path / "data", size=8).fingerprint == first.fingerprint
    save(tmp_path / "set" / "cat" / "more" / "0.png", colour(0))
    assert len(load_dataset(name, tmp_path / "data", size=8).train) == len(first.train) + 1


# Pixels


def deep_folder(root: Path, values: np.ndarray, ending: str) -> str:
    for split in ("train", "test"):
        for name in "ab":
            save(root / split / name / f"0.{ending}", values)
    return f"folder:{root}"


@pytest.mark.parametrize(
    ("highest", "kind", "ending", "shift"),
    [(4095, np.uint16, "png", 4), (255, np.uint16, "png", 0), (65535, np.uint16, "png", 8), (255, np.int32, "tif", 0)],
)
def test_deep_grey_is_scaled_by_what_the_set_holds(tmp_path: Path, highest: int, kind: type, ending: str, shift: int):
    values = np.linspace(0, highest, 64).astype(kind).reshape(8, 8)
    dataset = load_dataset(deep_folder(tmp_path / "set", values, ending), tmp_path / "data", size=8)
    assert dataset.spec.channels == 1
    np.testing.assert_array_equal(dataset.train.images[0, 0].numpy(), values >> shift)
    assert int(dataset.train.images.max()) == 255


def test_values_below_zero_and_floats_are_refused(tmp_path: Path):
    below = np.full((8, 8), -1000, dtype=np.int32)
    with pytest.raises(UserError, match=r"4 of 4 image files .* from -1000 to -1000, expected none below 0"):
        load_dataset(deep_folder(tmp_path / "hu", below, "tif"), tmp_path / "data", size=8)
    with pytest.raises(UserError, match="floating-point values"):
        load_dataset(deep_folder(tmp_path / "real", below.astype(np.float32), "tif"), tmp_path / "data", size=8)


def test_exif_orientation_is_applied(tmp_path: Path):
    name = fill(tmp_path / "set", "train", "test")
    exif = Image.Exif()
    exif[274] = 6  # the side that is up was on the right: turn clockwise
    pixels = colour(0)
    pixels[:, 4:] = 255
    save(tmp_path / "set" / "train" / "cat" / "0.png", pixels, exif=exif)
    shown = load_dataset(name, tmp_path / "data", size=8).train.images[0, 0]
    assert shown[:4].eq(0).all()
    assert shown[4:].eq(255).all()


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_tiff_is_turned_as_often_as_a_png(tmp_path: Path, orientation: int, kind: type):
    """Pillow turns a TIFF itself when it decodes one."""
    exif = Image.Exif()
    exif[274] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(kind)
    png, tiff = (read_image(save(tmp_path / f"a.{one}", pixels, exif=exif), 1, 8, 8, True) for one in ("png", "tif"))
    assert not np.array_equal(png[0], pixels)
    np.testing.assert_array_equal(tiff, png)


def test_only_arrays_of_turned_tiffs_are_decoded_again(tmp_path: Path):
    """Those that an earlier version left were turned twice; others stay where they are."""
    listing = Listing(tmp_path, ("a", "b"), [], [], upright=True)
    spec = dataset_spec(f"folder:{tmp_path}", 8)
    assert _key(spec, listing, Look(turned=2, tiffs=1)) != _key(spec, listing, Look(turned=2))
    assert _key(spec, listing, Look(tiffs=1)) == _key(spec, listing)
    assert look_over([turned_tiff(tmp_path / "a.tif")], [], skip_broken=False).tiffs == 1


@pytest.mark.parametrize("upright", [True, False])
def test_turned_images_are_told_where_they_are_turned(
    tmp_path: Path, upright: bool, capsys: pytest.CaptureFixture[str]
):
    files = [(turned_tiff(tmp_path / "set" / f"{label}.tif"), label) for label in range(2)]
    listing = Listing(tmp_path / "set", ("a", "b"), files, files, upright)
    load_listing(dataset_spec(f"folder:{tmp_path}", 8), listing, tmp_path / "data", Console())
    assert ("4 turned upright" in capsys.readouterr().err) == upright


def turned_tiff(path: Path) -> Path:
    exif = Image.Exif()
    exif[274] = 6
    return save(path, colour(0), exif=exif)


def test_one_colour_image_among_many_makes_three_channels(tmp_path: Path):
    for split in ("train", "test"):
        for name in "ab":
            for index in range(300):
                save(tmp_path / "set" / split / name / f"{index:03}.png", np.full((4, 4), 9, dtype=np.uint8))
    save(tmp_path / "set" / "train" / "b" / "151.png", colour(5, (4, 4)))  # no even sample of 256 saw it
    assert load_dataset(f"folder:{tmp_path / 'set'}", tmp_path / "data", size=4).spec.channels == 3


def test_the_report_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name = fill(tmp_path / "set", "train", "test")
    save(tmp_path / "set" / "train" / "cat" / "more.png", np.zeros((4, 6, 4), dtype=np.uint8))
    (tmp_path / "set" / "train" / "cat" / "list.csv").write_text("x")
    (tmp_path / "set" / "unlabelled").mkdir()
    load_dataset(name, tmp_path / "data", size=8, console=Console())
    told = capsys.readouterr().err
    for part in (
        "2 classes (cat, dog); 5 training images (2 to 3 a class), 4 test images (2 a class)",
        "8 RGB, 1 RGBA, read as colour; 6 x 4 to 8 x 8 px",
        "1 with transparency, which is dropped",
        "ignored beside train/: unlabelled/",
        "files with other endings (1 .csv)",
    ):
        assert part in told


# Broken files


def test_all_broken_files_are_named_at_once_and_can_be_left_out(tmp_path: Path):
    name, data = fill(tmp_path / "set", "train", "test", count=3), tmp_path / "data"
    folder = tmp_path / "set" / "train" / "cat"
    (folder / "0.png").write_bytes(b"text")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    cut = save(tmp_path / "set" / "test" / "dog" / "1.png", noise)
    cut.write_bytes(cut.read_bytes()[:2000])  # its header is whole
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(UserError, match="3 of 13 image files cannot be used") as caught:
        load_dataset(name, data, size=8)
    for part in ("cat/0.png: cannot decode", "dog/1.png: cannot decode", "pipe.png: cannot read", "--skip-broken"):
        assert part in str(caught.value)
    assert not data.exists()
    dataset = load_dataset(name, data, size=8, skip_broken=True)
    assert torch.bincount(dataset.train.labels).tolist() == [2, 3]
    assert torch.bincount(dataset.test.labels).tolist() == [3, 2]
    assert load_dataset(name, data, size=8).fingerprint == dataset.fingerprint, "remembered"


def test_files_left_out_stay_so_at_another_size(tmp_path: Path):
    name, data = fill(tmp_path / "set", "train", "test"), tmp_path / "data"
    (tmp_path / "set" / "train" / "cat" / "0.png").write_bytes(b"text")
    assert len(load_dataset(name, data, size=8, skip_broken=True).train) == 3
    assert len(load_dataset(name, data, size=16).train) == 3
    assert len(list((data / "decoded").glob("*.look.json"))) == 1


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("train/cat", r"leaves 1 class\(es\) without a training image: cat \(.*cat/0\.png: cannot decode"),
        ("test/*", r"leaves no test image \(.*cat/0\.png: cannot decode"),
    ],
)
def test_too_many_broken_files_are_told_before_work(tmp_path: Path, broken: str, told: str):
    name, data = fill(tmp_path / "set", "train", "test"), tmp_path / "data"
    for path in (tmp_path / "set").glob(f"{broken}/*.png"):
        path.write_bytes(b"text")
    with pytest.raises(UserError, match=told):
        load_dataset(name, data, size=8, skip_broken=True)
    assert not data.exists()


@pytest.mark.parametrize("failures", [1, 3])
def test_an_error_that_passes_leaves_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int):
    """A disk that cannot be reached for a moment: without --skip-broken a set is whole or refused."""
    name, data = fill(tmp_path / "set", "train", "test"), tmp_path / "data"
    asked: list[bool] = []

    def look_at(path: Path, *, whole: bool) -> Facts:
        if (path.parent.parent.name, path.parent.name, path.name) == ("train", "cat", "0.png"):
            asked.append(whole)
            if not whole and len(asked) <= failures:
                raise UserError(f"{path}: cannot read this image")
        return read_facts(path, whole=whole)

    monkeypatch.setattr(look, "look_at", look_at)
    if failures > 1:
        with pytest.raises(UserError, match=r"0\.png: cannot read .* could be read a moment ago"):
            load_dataset(name, data, size=8)
        assert not data.exists()
    else:
        assert len(load_dataset(name, data, size=8).train) == 4
    assert asked == [False, True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are texts")
@pytest.mark.parametrize("splits", [("",), ("train", "test")])
def test_file_names_that_are_no_utf_8(tmp_path: Path, splits: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    name, data = fill(tmp_path / "set", *splits, count=5), tmp_path / "data"
    odd = Path(os.fsdecode(b"\xff.png"))
    for split in splits:
        save(tmp_path / "set" / split / "cat" / odd, colour(7))
    found = load_dataset(name, data, size=8)
    assert len(found.train) + len(found.test) == 11 * len(splits)
    broken = tmp_path / "set" / splits[0] / "cat" / odd
    broken.write_bytes(b"text")
    with pytest.raises(UserError, match=r"cat/\\udcff\.png: cannot decode"):
        load_dataset(name, data, size=8)
    for skip in (True, False):
        left = load_dataset(name, data, size=8, skip_broken=skip, console=Console())
        assert len(left.train) + len(left.test) == 11 * len(splits) - 1
        assert r"cat/\udcff.png: cannot decode" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are texts")
@pytest.mark.parametrize("splits", [("",), ("train", "test")])
def test_class_names_that_are_no_utf_8(tmp_path: Path, splits: tuple[str, ...]):
    name = fill(tmp_path / "set", *splits)
    for split in splits:
        (tmp_path / "set" / split / "cat").rename(tmp_path / "set" / split / os.fsdecode(b"\xff"))
    with pytest.raises(UserError, match=r"the folder name '\\udcff' is not UTF-8"):
        load_dataset(name, tmp_path / "data", size=8)


def test_a_class_name_that_no_synset_may_have_is_refused_before_an_image_is_decoded(tmp_path: Path):
    name = fill(tmp_path / "set", "")
    (tmp_path / "set" / "cat").rename(tmp_path / "set" / ("c" * 200))
    with pytest.raises(UserError, match=r"the name of class 0, 'c+'.* has 200 letters, expected at most 199"):
        load_dataset(name, tmp_path / "data", size=8)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("verb", ["evaluate", "scores"])
def test_verbs_that_read_a_synset_leave_broken_files_out_too(verb: str, tmp_path: Path, ddb, refused):
    """On a machine that has not looked at the folder yet."""
    name = fill(tmp_path / "set", "train", "test", count=3)
    broken = tmp_path / "set" / "train" / "cat" / "0.png"
    broken.write_bytes(b"no image")
    shared = ("--threads", 1, "--compile", "off", "--quiet", "--data", tmp_path / "here", "--skip-broken")
    run = ("distill", "--method", "random", "--dataset", name, "--size", 8, "--ipc", 1, "--holdout", 0)
    assert ddb(*run, "--out", tmp_path / "run", *shared).code == 0
    say = {
        "evaluate": ("--students", "mlp-d1-w8", "--seeds", 1, "--epochs", 1),
        "scores": ("--student", "mlp-d1-w8", "--repeats", 2, "--epochs", 1),
    }
    elsewhere = (verb, tmp_path / "run", *say[verb], *shared[:5], "--data", tmp_path / "elsewhere", "--workers", 1)
    refused(elsewhere, "0.png", "--skip-broken")
    done = ddb(*elsewhere, "--skip-broken")
    assert (done.code, done.err) == (0, "")


def test_few_files_wait_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Files are looked at in portions, all of them, in their order; what is said of many is kept once."""
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        Image.new("RGB" if number == 3 else "L", (4, 4)).save(path)
    paths[5].write_bytes(b"no image")
    whole = look._facts(paths, whole=False)
    monkeypatch.setattr(look, "AT_ONCE", 2)
    asked: list[int] = []
    pool = look.ThreadPoolExecutor

    class Counted(pool):  # type: ignore[misc, valid-type]
        def map(self, function, some, *more):
            asked.append(len(some))
            return super().map(function, some, *more)

    monkeypatch.setattr(look, "ThreadPoolExecutor", Counted)
    seen = look._facts(paths, whole=False)
    assert seen == whole
    assert [isinstance(one, str) for one in seen] == [number == 5 for number in range(7)]
    assert asked == [2, 2, 2, 1]
    assert seen[0] is seen[6]


def test_a_file_whose_header_alone_is_whole_leaves_no_part_behind(tmp_path: Path):
    name, data = fill(tmp_path / "set", "train", "test"), tmp_path / "data"
    path = tmp_path / "set" / "train" / "cat" / "0.png"
    save(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cat/0\.png: cannot decode .* --skip-broken"):
        load_dataset(name, data, size=8)
    assert not list(data.rglob("*.part"))


def test_more_pixels_than_memory_has(tmp_path: Path):
    name = fill(tmp_path / "set", "train", "test")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "set" / "train" / "cat" / "0.png")
    with pytest.raises(UserError, match=r"cat/0\.png: cannot decode"):
        load_dataset(name, tmp_path / "data", size=8)


# Classes of few images


def test_positions_are_repeated():
    assert repeated(torch.tensor([7, 3]), 5).tolist() == [7, 3, 7, 3, 7]
    assert repeated(torch.tensor([7, 3]), 1).tolist() == [7]


def test_an_ipc_above_a_class_is_for_methods_that_repeat(tmp_path: Path):
    from ddbench.methods import METHODS

    dataset = load_dataset(fill(tmp_path / "set", "train", "test"), tmp_path / "data", size=8)
    for name in ("random", "herding", "kcenter", "kmeans", "mgd3"):
        assert METHODS.get(name).distinct, name
    for name in ("dm", "dc", "mtt", "sre2l", "dream", "ast"):
        assert not METHODS.get(name).distinct, name
    check_ipc(3, dataset.train, 2, ("cat", "dog"), distinct=False)
    with pytest.raises(UserError, match="class 'cat' has only 2 training images"):
        check_ipc(3, dataset.train, 2, ("cat", "dog"), distinct=True)


def test_tail_class(tmp_path: Path, ddb, data_root: Path):
    name = fill(tmp_path / "set", "train", "test")
    (tmp_path / "set" / "train" / "dog" / "1.png").unlink()
    run = ("--dataset", name, "--size", 8, "--iterations", 1, "--compile", "off", "--threads", 1)
    for init in ("noise", "real"):
        result = ddb(
            *("distill", "--method", "dm", "--init", init, "--ipc", 3, "--holdout", 0, "--out", tmp_path / init), *run
        )
        assert result.code == 0, result.err
        assert "2 class(es) have fewer training images than --ipc 3" in result.err
    result = ddb(*("distill", "--method", "dm", "--ipc", 1, "--out", tmp_path / "held", "--quiet"), *run)
    assert result.code == 2
    assert "--holdout 0.1: class 'dog' has one image only, so none can be held out: give --holdout 0" in result.err
    assert not (tmp_path / "held").exists()


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_a_tag_of_another_type_is_told(depth: str, tmp_path: Path):
    """Where the pixels lie as bytes in place of a number: Pillow ends in a TypeError when they are decoded."""
    path = save(tmp_path / "0.tif", np.random.default_rng(0).integers(0, 256, (8, 8)).astype(depth))
    content, long = path.read_bytes(), struct.pack("<HHI", 273, 4, 1)
    place = content.index(long)
    path.write_bytes(content[:place] + struct.pack("<HHI", 273, 7, 4) + content[place + len(long) :])
    with pytest.raises(UserError, match=r"0.tif: cannot decode this image: .*bytes"):
        read_facts(path, whole=True)
    with pytest.raises(UserError, match=r"0.tif: cannot decode this image: .*bytes"):
        read_image(path, 1, 8)


def test_a_refused_folder_leaves_nothing_in_the_data_folder(tmp_path: Path):
    """No lock, no folders; what others left there stays."""
    name, used = fill(tmp_path / "set", "train", "test"), tmp_path / "used"
    path = tmp_path / "set" / "train" / "cat" / "0.png"
    save(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="truncated"):
        load_dataset(name, tmp_path / "deep" / "data", size=8)
    assert not (tmp_path / "deep").exists()
    (used / "decoded").mkdir(parents=True)
    (used / "decoded" / "lock").touch()
    with pytest.raises(UserError, match="truncated"):
        load_dataset(name, used, size=8)
    assert [one.name for one in (used / "decoded").iterdir()] == ["lock"]


def test_a_lock_that_was_taken_away_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who waited holds a file that nobody else can see any longer."""
    fcntl = pytest.importorskip("fcntl")
    real, calls = fcntl.flock, []

    def flock(handle, how):
        calls.append(how)
        real(handle, how)
        if len(calls) == 1:
            (tmp_path / "lock").unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
    assert len(calls) == 2
