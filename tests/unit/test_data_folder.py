"""Image folders: layouts, decoding, the cache of decoded pixels."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from ddbench.data import cache as decoded
from ddbench.data.images import look_at, read_image, statistics
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.data.specs import canonical, dataset_slug
from ddbench.exchange.folders import image_size
from ddbench.runtime.errors import UserError

RNG = np.random.default_rng(0)


def save(path, mode="RGB", size=(10, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    image = Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8))
    image.save(path, format="PNG" if path.suffix == ".JPEG" else None)
    return path


def make_folder(root, splits=("train", "test"), classes=("cat", "dog"), count=5, mode="RGB"):
    for split in splits:
        for name in classes:
            for index in range(count):
                save(root / split / name / f"{index}.png", mode)
    return f"folder:{root}"


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def test_train_and_test(tmp_path, data):
    name = make_folder(tmp_path / "set")
    (tmp_path / "set" / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "set" / "train" / ".hidden").mkdir()
    dataset = load_dataset(name, data, size=8)
    assert dataset.spec.name == name
    assert dataset.spec.class_names == ("cat", "dog")
    assert dataset.spec.shape == (3, 8, 8)
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [0] * 5 + [1] * 5
    pixels = dataset.train.images.double() / 255
    np.testing.assert_allclose(dataset.spec.mean, pixels.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(dataset.spec.std, pixels.std((0, 2, 3), unbiased=False), atol=1e-6)
    assert fit_preprocess(dataset, "meanstd").apply(dataset.train.images).std().item() == pytest.approx(1, abs=0.01)


def test_a_slash_behind_a_folder_is_no_other_dataset(tmp_path, data):
    """Shells put one there: experts, teachers and rows of the two names did not find each other."""
    name = make_folder(tmp_path / "set")
    with_slash, without = (load_dataset(one, data, size=8) for one in (f"{name}/", name))
    assert with_slash.spec == without.spec
    assert with_slash.spec.name == name
    assert dataset_slug(f"{name}/") == dataset_slug(name)
    assert canonical("folder:/") == "folder:/"
    assert canonical("graphs:made/") == "graphs:made/", "a folder, not the set that is made"
    assert canonical("digits/") == "digits/"


def test_val_counts_as_test(tmp_path, data):
    dataset = load_dataset(make_folder(tmp_path / "set", ("train", "val")), data, size=8)
    assert len(dataset.test) == 10
    assert "val" in dataset.spec.note


def test_size_is_needed(tmp_path, data):
    with pytest.raises(UserError, match="--size"):
        load_dataset(make_folder(tmp_path / "set"), data)


@pytest.mark.parametrize("split", ["", "train"])
def test_single_folder_is_split(tmp_path, data, split):
    name = make_folder(tmp_path / "set", (split,), count=10)
    dataset = load_dataset(name, data, size=8)
    assert torch.bincount(dataset.train.labels).tolist() == [8, 8]
    assert torch.bincount(dataset.test.labels).tolist() == [2, 2]
    assert "fifth" in dataset.spec.note
    again = load_dataset(name, tmp_path / "other", size=8)
    assert again.fingerprint == dataset.fingerprint


def test_single_image_cannot_be_split(tmp_path, data):
    with pytest.raises(UserError, match="one image"):
        load_dataset(make_folder(tmp_path / "set", ("",), count=1), data, size=8)


def test_grey_and_mixed(tmp_path, data):
    grey = load_dataset(make_folder(tmp_path / "grey", mode="L"), data, size=8)
    assert grey.spec.shape == (1, 8, 8)
    name = make_folder(tmp_path / "mixed", mode="L")
    save(tmp_path / "mixed" / "train" / "dog" / "colour.png")
    assert load_dataset(name, data, size=8).spec.shape == (3, 8, 8)


def test_pixels_are_exact_where_nothing_is_resized(tmp_path):
    path = save(tmp_path / "a.png", size=(8, 8))
    np.testing.assert_array_equal(read_image(path, 3, 8), np.asarray(Image.open(path)).transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(20, 8), (7, 30), (9, 9), (5, 6)])
def test_resize_and_crop_as_torchvision(tmp_path, shape):
    from torchvision.transforms import v2

    path = save(tmp_path / "a.png", size=shape)
    expected = v2.Compose([v2.Resize(8), v2.CenterCrop(8)])(Image.open(path))
    np.testing.assert_array_equal(read_image(path, 3, 8), np.asarray(expected).transpose(2, 0, 1))


def test_of_a_strip_only_the_middle_is_resized(tmp_path, monkeypatch):
    """A file of some hundred bytes would ask for a gigabyte."""
    resize = Image.Image.resize

    def small(image, size, *rest, **more):
        assert size[0] * size[1] <= 2**20
        return resize(image, size, *rest, **more)

    values = np.arange(200_000, dtype=np.uint32).astype(np.uint8)
    monkeypatch.setattr(Image.Image, "resize", small)
    for name, pixels in (("high", values[:, None]), ("wide", values[None])):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        assert abs(read_image(tmp_path / f"{name}.png", 1, 32).mean() - pixels.flat[100_000]) < 1


@pytest.mark.parametrize("shape", [(7, 900), (900, 7), (3, 1001)])
def test_the_middle_of_a_strip_is_that_of_the_whole(tmp_path, monkeypatch, shape):
    path = save(tmp_path / "a.png", size=shape)
    whole = read_image(path, 3, 16).astype(int)
    monkeypatch.setattr("ddbench.data.images.MAX_PIXELS", 10_000)
    assert np.abs(read_image(path, 3, 16) - whole).max() <= 1


def test_odd_modes(tmp_path):
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(wide).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png", 1, 8)[0], wide >> 8)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=b"\x00\xff")
    assert read_image(tmp_path / "palette.png", 3, 8)[:, 0, 0].tolist() == [10, 20, 30]
    Image.new("LA", (8, 8), (7, 0)).save(tmp_path / "alpha.png")
    assert look_at(tmp_path / "alpha.png", whole=False).grey
    Image.new("F", (8, 8)).save(tmp_path / "real.tif")
    with pytest.raises(UserError, match="floating-point"):
        read_image(tmp_path / "real.tif", 1, 8)


def test_constant_channel_has_a_usable_deviation():
    assert statistics(torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)) == ((0.2,), (1.0,))


def test_a_file_is_read_as_an_image_only(tmp_path, monkeypatch):
    """Pillow would hand PostScript to a program, whatever the name of the file."""
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *said, **more: started.append(said))
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    for read in (lambda: read_image(path, 3, 8), lambda: look_at(path, whole=True), lambda: image_size(path)):
        with pytest.raises(UserError, match=r"a\.png: (cannot decode this|not a readable) image"):
            read()
    assert not started


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_broken_image_is_named(tmp_path, data, damage):
    name = make_folder(tmp_path / "set")
    path = tmp_path / "set" / "test" / "dog" / "3.png"
    path.write_bytes({"cut": path.read_bytes()[:100], "text": b"not an image", "empty": b""}[damage])
    with pytest.raises(UserError, match=r"dog/3\.png: cannot decode"):
        load_dataset(name, data, size=8)
    save(path)
    assert len(load_dataset(name, data, size=8).test) == 10


def test_broken_first_image_is_named(tmp_path, data):
    name = make_folder(tmp_path / "set")
    (tmp_path / "set" / "train" / "cat" / "0.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"cat/0\.png: cannot decode"):
        load_dataset(name, data, size=8)


def test_layout_errors(tmp_path, data):
    with pytest.raises(UserError, match="is no folder"):
        load_dataset(f"folder:{tmp_path}/none", data, size=8)
    name = make_folder(tmp_path / "set")
    (tmp_path / "set" / "train" / "eel").mkdir()
    with pytest.raises(UserError, match="eel: a class without images"):
        load_dataset(name, data, size=8)
    (tmp_path / "set" / "train" / "eel").rmdir()
    save(tmp_path / "set" / "test" / "dogs" / "0.png")
    with pytest.raises(UserError, match=r"does not have \(did you mean 'dog'\?\)"):
        load_dataset(name, data, size=8)
    with pytest.raises(UserError, match="1 class folder"):
        load_dataset(make_folder(tmp_path / "one", classes=("cat",)), data, size=8)


def test_links_are_followed(tmp_path, data):
    name = make_folder(tmp_path / "set")
    outside = save(tmp_path / "elsewhere.png")
    (tmp_path / "set" / "train" / "cat" / "link.png").symlink_to(outside)
    assert len(load_dataset(name, data, size=8).train) == 11
    outside.unlink()
    with pytest.raises(UserError, match=r"link\.png: cannot read"):
        load_dataset(name, data, size=8)


def test_decoded_once(tmp_path, data, monkeypatch):
    name = make_folder(tmp_path / "set")
    first = load_dataset(name, data, size=8)
    monkeypatch.setattr(decoded, "read_image", lambda *_: pytest.fail("decoded although it is kept"))
    again = load_dataset(name, data, size=8)
    assert again.fingerprint == first.fingerprint
    assert again.spec == first.spec
    assert torch.equal(again.train.images, first.train.images)
    again.train.images[0] = 0  # a private map: the kept pixels stay
    assert torch.equal(load_dataset(name, data, size=8).train.images, first.train.images)


def test_changed_file_is_seen(tmp_path, data):
    name = make_folder(tmp_path / "set")
    first = load_dataset(name, data, size=8)
    path = save(tmp_path / "set" / "train" / "cat" / "2.png")
    os.utime(path, ns=(1, 1))
    second = load_dataset(name, data, size=8)
    assert second.fingerprint != first.fingerprint
    np.testing.assert_array_equal(second.train.images[2].numpy(), read_image(path, 3, 8))


@pytest.mark.parametrize("damage", ["meta", "cut", "header", "absent"])
def test_damaged_cache_is_decoded_again(tmp_path, data, damage):
    name = make_folder(tmp_path / "set")
    first = load_dataset(name, data, size=8)
    (folder,) = [path for path in (data / "decoded").iterdir() if path.is_dir()]
    if damage == "meta":
        (folder / "meta.json").write_text("{")
    elif damage == "cut":
        (folder / "train.npy").write_bytes((folder / "train.npy").read_bytes()[:-5])
    elif damage == "header":
        (folder / "train.npy").write_bytes(b"\x93NUMPY\1\0\x0d\0{'shape': (('")
    else:
        (folder / "test.npy").unlink()
    assert load_dataset(name, data, size=8).fingerprint == first.fingerprint


def test_interrupted_decoding_goes_on(tmp_path, data, monkeypatch):
    name = make_folder(tmp_path / "set")
    whole = load_dataset(name, tmp_path / "reference", size=8)
    monkeypatch.setattr(decoded, "BLOCK_BYTES", 2 * 3 * 8 * 8)
    seen = []

    def count(path, *rest):
        seen.append(path)
        if len(seen) == 7:
            raise KeyboardInterrupt
        return read_image(path, *rest)

    monkeypatch.setattr(decoded, "read_image", count)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(name, data, size=8)
    (part,) = (data / "decoded").glob("*.part")
    assert json.loads((part / "progress.json").read_text()) == {"train": 6, "test": 0}
    seen.clear()
    monkeypatch.setattr(decoded, "read_image", lambda path, *rest: seen.append(path) or read_image(path, *rest))
    assert load_dataset(name, data, size=8).fingerprint == whole.fingerprint
    assert len(seen) == 14
    assert not part.exists()


def test_interrupted_decoding_with_lost_files_starts_again(tmp_path, data, monkeypatch):
    name = make_folder(tmp_path / "set")
    whole = load_dataset(name, data, size=8)
    (folder,) = [path for path in (data / "decoded").iterdir() if path.is_dir()]
    part = folder.rename(folder.with_name(folder.name + ".part"))
    (part / "train.npy").unlink()
    (part / "progress.json").write_text('{"train": 6, "test": 0}')
    assert load_dataset(name, data, size=8).fingerprint == whole.fingerprint


def test_disk_is_checked(tmp_path, data, monkeypatch):
    monkeypatch.setattr("ddbench.data.limits.free_disk", lambda _: 100)
    with pytest.raises(UserError, match=r"decoding 20 images needs 3.8 KiB in .*decoded, 100 bytes are free; .*--size"):
        load_dataset(make_folder(tmp_path / "set"), data, size=8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    folder = root / "tiny-imagenet-200"
    names = [f"n{index:08d}" for index in range(200)]
    source = save(root / "one.png", size=(6, 6)).read_bytes()
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for index, name in enumerate(names):
        images = folder / "train" / name / "images"
        images.mkdir(parents=True)
        (images / f"{name}_0.JPEG").write_bytes(source)
        (folder / "val" / "images" / f"val_{index}.JPEG").write_bytes(source)
        lines.append(f"val_{index}.JPEG\t{names[(index + 1) % 200]}\t0\t0\t5\t5\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def test_tiny_imagenet(tiny, tmp_path):
    dataset = load_dataset("tiny-imagenet", tiny)
    assert dataset.spec.shape == (3, 64, 64)
    assert dataset.spec.mean == (0.485, 0.456, 0.406)
    assert dataset.spec.class_names[7] == "n00000007"
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == list(range(200))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../../train/x.JPEG\tn00000001", "no plain file name"),
        ("/etc/passwd\tn00000001", "no plain file name"),
        ("..\tn00000001", "no plain file name"),
        ("a\\b.JPEG\tn00000001", "no plain file name"),
        ("val_0.JPEG\tn99999999", "none of the classes"),
        ("val_0.JPEG", "none of the classes"),
        ("gone.JPEG\tn00000001", "missing, but named"),
        ("", "names no image"),
    ],
)
def test_hostile_annotations(tiny, line, message):
    annotations = tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    before = annotations.read_text()
    annotations.write_text(line)
    try:
        with pytest.raises(UserError, match=message):
            load_dataset("tiny-imagenet", tiny)
    finally:
        annotations.write_text(before)


def test_imagenet_subset(tmp_path):
    names = [f"n{index:08d}" for index in range(1000)]
    chosen = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
    for split in ("train", "val"):
        for index, name in enumerate(names):
            if index in chosen:
                save(tmp_path / "imagenet" / split / name / "a.JPEG")
            else:
                (tmp_path / "imagenet" / split / name).mkdir(parents=True)
    dataset = load_dataset("imagenette", tmp_path, size=16)
    assert dataset.spec.class_names == tuple(names[index] for index in chosen)
    assert dataset.train.images.shape == (10, 3, 16, 16)
    with pytest.raises(UserError, match="n00000193: a class without images"):
        load_dataset("imagewoof", tmp_path, size=16)
    (tmp_path / "imagenet" / "train" / names[-1]).rmdir()
    with pytest.raises(UserError, match=r"999 class folders; all 1000 .*folder:PATH"):
        load_dataset("imagenette", tmp_path, size=16)


def test_skip_broken_after_a_refusal(tmp_path, data):
    """The header of a truncated file is whole, so that it is found when it is decoded; the next call looks again."""
    name = make_folder(tmp_path / "set")
    path = tmp_path / "set" / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"truncated.*--skip-broken"):
        load_dataset(name, data, size=8)
    assert len(load_dataset(name, data, size=8, skip_broken=True).train) == 9


def test_skip_broken_after_a_call_that_was_stopped(tmp_path, data, monkeypatch):
    """It knew the headers alone; the first call with the flag ended with the advice to give the flag."""
    name = make_folder(tmp_path / "set")
    path = tmp_path / "set" / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    with monkeypatch.context() as patch:
        patch.setattr("ddbench.data.cache._decode", stopped)
        with pytest.raises(KeyboardInterrupt):
            load_dataset(name, data, size=8)
    assert len(load_dataset(name, data, size=8, skip_broken=True).train) == 9


def stopped(*_):
    raise KeyboardInterrupt
