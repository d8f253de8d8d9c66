"""ZCA against kornia and against the formula in NumPy."""

import errno

import numpy as np
import pytest
import torch

from ddbench.data import zca
from ddbench.data.dataset import Dataset, Split, make_dataset
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.data.specs import DatasetSpec
from ddbench.runtime.errors import UserError
from ddbench.runtime.seeds import generator


def colour_set(count: int = 300, size: int = 4) -> Dataset:
    """Correlated colour noise in two classes."""
    randomness = generator(0, "colour")
    smooth = torch.nn.functional.avg_pool2d(torch.rand(count, 3, size + 2, size + 2, generator=randomness), 3, 1)
    images = (smooth * 255).to(torch.uint8)
    labels = torch.arange(count) % 2
    spec = DatasetSpec("noise", 3, size, 2, ("a", "b"), (0.5,) * 3, (0.1,) * 3, True, "made")
    return make_dataset(spec, Split(images, labels), Split(images[:10], labels[:10]))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_dataset("digits", tmp_path_factory.mktemp("data"))


def formula(images, eps=0.1):
    x = images.flatten(1).double().numpy() / 255
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    values = np.clip(values, 0, None)
    return mean, (vectors / np.sqrt(values + eps)) @ vectors.T, (vectors * np.sqrt(values + eps)) @ vectors.T


def test_against_numpy(digits):
    for dataset in (digits, colour_set()):
        found = zca.fit(dataset.train.images, 0.1)
        mean, whiten, inverse = formula(dataset.train.images)
        np.testing.assert_allclose(found.mean.numpy(), mean, rtol=0, atol=1e-13)
        np.testing.assert_allclose(found.whiten.numpy(), whiten, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.inverse.numpy(), inverse, rtol=0, atol=1e-6)


def test_against_kornia():
    from kornia.enhance import ZCAWhitening

    dataset = colour_set()
    pixels = dataset.train.images.float() / 255
    theirs = ZCAWhitening(eps=0.1, compute_inv=True).fit(pixels)
    ours = fit_preprocess(dataset, "zca")
    held = dataset.test.images
    torch.testing.assert_close(ours.apply(held), theirs(held.float() / 255), rtol=0, atol=2e-5)
    white = ours.apply(held)
    torch.testing.assert_close(ours.invert(white), theirs.inverse_transform(white), rtol=0, atol=2e-5)


def test_round_trip_and_gradient(digits):
    made = fit_preprocess(digits, "zca")
    white = made.apply(digits.test.images)
    assert white.dtype == torch.float32
    torch.testing.assert_close(made.invert(white), digits.test.images / 255, rtol=0, atol=5e-6)
    pixels = (digits.test.images[:2] / 255).requires_grad_()
    torch.testing.assert_close(made.apply(pixels), white[:2], rtol=0, atol=1e-6)
    made.apply(pixels).sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_pieces_give_the_same(digits, monkeypatch):
    whole = zca.fit(digits.train.images, 0.1)
    monkeypatch.setattr("ddbench.data.dataset.CHUNK_BYTES", 4 * 64 * 100)
    pieces = zca.fit(digits.train.images, 0.1)
    torch.testing.assert_close(pieces.whiten, whole.whiten, rtol=0, atol=1e-6)
    torch.testing.assert_close(pieces.mean, whole.mean, rtol=0, atol=1e-13)


def test_cache_is_read(tmp_path, monkeypatch):
    dataset = colour_set()
    made = fit_preprocess(dataset, "zca", tmp_path)
    (path,) = (tmp_path / "zca").iterdir()
    assert path.name == f"{dataset.fingerprint[:16]}-0.1.safetensors"
    first = path.read_bytes()
    monkeypatch.setattr(zca, "fit", lambda *_: pytest.fail("fitted although it is kept"))
    again = Preprocess.from_json(made.to_json(), dataset, tmp_path)
    assert again == made
    assert again.key == made.key
    assert torch.equal(again.apply(dataset.test.images), made.apply(dataset.test.images))
    assert path.read_bytes() == first


@pytest.mark.parametrize("damage", ["cut", "garbage", "other header", "nan"])
def test_damaged_cache_is_fitted_again(tmp_path, damage):
    from safetensors.torch import load_file, save_file

    dataset = colour_set()
    made = fit_preprocess(dataset, "zca", tmp_path)
    (path,) = (tmp_path / "zca").iterdir()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "garbage":
        path.write_bytes(b"nothing")
    elif damage == "other header":
        save_file(load_file(path), path, metadata={"ddbench": "{}"})
    else:
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        tensors["whiten"][0, 0] = torch.nan
        header = '{"eps":0.1,"fingerprint":"' + dataset.fingerprint + '","shape":[3,4,4]}'
        save_file(tensors, path, metadata={"ddbench": header})
    again = fit_preprocess(dataset, "zca", tmp_path)
    assert torch.equal(again.factors.whiten, made.factors.whiten)


def test_a_data_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    dataset = colour_set()
    (tmp_path / "zca").write_text("a file where the cache would be")
    made = zca.fit_cached(dataset, 0.1, tmp_path)
    assert torch.equal(made.whiten, zca.fit(dataset.train.images, 0.1).whiten)
    assert [path.name for path in tmp_path.iterdir()] == ["zca"]

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("ddbench.runtime.files.os.replace", read_only)
    again = zca.fit_cached(dataset, 0.1, tmp_path / "fresh")
    assert torch.equal(again.whiten, made.whiten)
    assert not [path for path in (tmp_path / "fresh").rglob("*") if path.is_file()]


def test_record_without_cache_fits_again():
    dataset = colour_set()
    made = fit_preprocess(dataset, "zca")
    again = Preprocess.from_json(made.to_json(), dataset)
    assert again == made
    assert again.to_json() == made.to_json()
    assert len(made.to_json()["probe"]) == zca.PROBES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": [1.0] * 8}, "probe differs"),
        ({"probe": [1.0] * 7}, "probe differs"),
        ({"probe": [float("nan")] * 8}, "finite"),
        ({"probe": []}, "list of numbers"),
        ({"eps": 0.3}, "probe differs"),
        ({"eps": 0.0}, "at least"),
        ({"eps": "0.1"}, "finite"),
        ({"dims": [3, 8, 8]}, "ZCA of images"),
        ({"dataset_fingerprint": "0" * 64}, "fingerprint"),
        ({"more": 1}, "fields"),
    ],
)
def test_records_that_are_refused(change, message):
    dataset = colour_set()
    record = {**fit_preprocess(dataset, "zca").to_json(), **change}
    with pytest.raises(UserError, match=message):
        Preprocess.from_json(record, dataset)


def test_slightly_other_matrix_is_accepted():
    dataset = colour_set()
    made = fit_preprocess(dataset, "zca")
    record = made.to_json()
    record["probe"] = [value * (1 + 1e-5) for value in record["probe"]]
    assert Preprocess.from_json(record, dataset) == made


def test_zca_needs_the_dataset():
    with pytest.raises(UserError, match="dataset at hand"):
        Preprocess.from_json(fit_preprocess(colour_set(), "zca").to_json(), None)


def test_memory_is_checked(monkeypatch):
    monkeypatch.setattr("ddbench.data.limits.available_memory", lambda: 1000)
    with pytest.raises(
        UserError, match=r"ZCA of 48 values an image needs .* of memory, 1000 bytes are available.*--size"
    ):
        zca.fit(colour_set().train.images, 0.1)


def test_wrong_shape_is_refused(digits):
    made = fit_preprocess(digits, "zca")
    with pytest.raises(UserError, match="fitted on"):
        made.apply(torch.zeros(1, 1, 9, 9))
