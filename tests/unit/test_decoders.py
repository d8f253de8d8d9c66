"""Decoders: exact transforms, budgets by closed form, gradients, what a file may hold, and what is made of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from made_board import made_result
from scipy.fft import dctn
from torch import Tensor

import ddbench
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.decoders import DECODERS
from ddbench.decoders.base import Decoder, read_decoder
from ddbench.decoders.ddif import Ddif
from ddbench.decoders.fred import Fred, dct, inverse_dct, published_scale
from ddbench.leaderboard.attachments import SYNSET, check_part
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.schema import result_id
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash
from ddbench.runtime.tensors import write_tensors
from ddbench.synset import Budget, Synset, pixels, read_synset, write_synset

SHAPE, CLASSES = (1, 8, 8), 10
FRED = Fred(shape=SHAPE, kept=16)
DDIF = Ddif(shape=SHAPE, layers=2, width=3, omega_first=8.0, omega=4.0)
PREPROCESS = fit_preprocess(load_dataset("digits"), "meanstd")


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def parameters(decoder: Decoder, ipc: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random ones of digits."""
    items = CLASSES * decoder.per_class(ipc)
    if isinstance(decoder, Ddif):
        return {"fields": decoder.initial(items, torch.Generator().manual_seed(0)).to(dtype)}
    masks = torch.stack([torch.randperm(64, generator=torch.Generator().manual_seed(k))[:16] for k in range(CLASSES)])
    return {"coefficients": random(items, 1, 16, dtype=dtype), "masks": masks.sort(1).values.to(torch.int16)}


def made(decoder: Decoder, ipc: int = 1, **changes: Any) -> Synset:
    dataset = load_dataset("digits")
    values: dict[str, Any] = {
        "images": torch.empty(0, *SHAPE),
        "parameters": parameters(decoder, ipc),
        "decoder": decoder,
        "labels": torch.arange(CLASSES).repeat_interleave(decoder.per_class(ipc)),
        "preprocess": PREPROCESS.to_json(),
        "budget": Budget("ipc", ipc),
        "dataset": "digits",
        "fingerprint": dataset.fingerprint,
        "class_names": dataset.spec.class_names,
        "method": "random",
        "config": {},
        "seed": 0,
    }
    return Synset(**{**values, **changes})


BOTH = pytest.mark.parametrize("decoder", [FRED, DDIF], ids=["fred", "ddif"])

# Transforms


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (1, 4), (32, 32)])
def test_the_transform_is_orthonormal_and_its_inverse_exact(height: int, width: int):
    images = random(3, 2, height, width)
    coefficients = dct(images)
    assert np.allclose(coefficients, dctn(images.numpy(), axes=(2, 3), norm="ortho"), atol=1e-12)
    assert torch.allclose(inverse_dct(coefficients), images, atol=1e-12)
    assert math.isclose(float(coefficients.square().sum()), float(images.square().sum()), rel_tol=1e-12)
    published = dctn(images.numpy(), axes=(2, 3))
    assert np.allclose(coefficients * published_scale(height, width), published, atol=1e-10)


def test_a_rate_of_the_published_code_over_the_squared_scale_is_ours():
    """One descent in unnormalised coefficients is one in orthonormal ones with the rate divided, not multiplied."""
    images, scale = random(1, 1, 6, 6), published_scale(6, 6)
    gradient = dct(random(1, 1, 6, 6).sin())
    theirs = dct(images) * scale - 3.0 * gradient / scale
    assert torch.allclose(theirs / scale, dct(images) - 3.0 / scale**2 * gradient, atol=1e-12)


def test_a_mask_puts_each_coefficient_at_its_place():
    arrays = parameters(FRED, 1, torch.float64)
    found = dct(FRED.decode(arrays, PREPROCESS)).flatten(2)
    assert found.shape == (40, 1, 64)
    for row, image in enumerate(found):
        mask = arrays["masks"][row // 4].long()
        assert torch.allclose(image[0, mask], arrays["coefficients"][row, 0], atol=1e-12)
        rest = torch.ones(64, dtype=torch.bool)
        rest[mask] = False
        assert float(image[0, rest].abs().max()) < 1e-12


def test_all_coefficients_are_the_image_itself():
    whole = Fred(shape=(3, 6, 4), kept=24)
    images = random(10, 3, 6, 4)
    masks = torch.arange(24, dtype=torch.int16).expand(5, -1)
    arrays = {"coefficients": dct(images).flatten(2), "masks": masks}
    assert torch.allclose(whole.decode(arrays, PREPROCESS), images, atol=1e-12)


def test_fields_against_a_loop_over_pixels():
    decoder = Ddif(shape=(3, 4, 5), layers=2, width=6, omega_first=30.0, omega=10.0)
    fields = decoder.initial(2, torch.Generator().manual_seed(1)).double()
    found = decoder.decode({"fields": fields}, PREPROCESS)
    for n, field in enumerate(fields):
        parts = list(field.split([12, 6, 36, 6, 18, 3]))
        for r in range(4):
            for c in range(5):
                h = torch.tensor([2 * r / 3 - 1, 2 * c / 4 - 1], dtype=torch.float64)
                h = torch.sin(30 * (parts[0].view(6, 2) @ h + parts[1]))
                h = torch.sin(10 * (parts[2].view(6, 6) @ h + parts[3]))
                assert torch.allclose(found[n, :, r, c], parts[4].view(3, 6) @ h + parts[5], atol=1e-12)


def test_fields_begin_as_published():
    """Weights and biases within one bound a layer: 1 / inputs, then sqrt(6 / inputs) / frequency."""
    decoder = Ddif(shape=(3, 4, 5), layers=2, width=6, omega_first=30.0, omega=10.0)
    fields = decoder.initial(2000, torch.Generator().manual_seed(1)).double().numpy()
    bounds = np.repeat([1 / 2, 1 / 2, 0.1, 0.1, 0.1, 0.1], [12, 6, 36, 6, 18, 3])
    assert (np.abs(fields) <= bounds).all()
    assert np.allclose(fields.std(0), bounds / math.sqrt(3), rtol=0.1)


def test_a_large_set_is_decoded_in_pieces(monkeypatch: pytest.MonkeyPatch):
    fields = DDIF.initial(7, torch.Generator().manual_seed(1)).double()
    whole = DDIF.decode({"fields": fields}, PREPROCESS)
    monkeypatch.setattr("ddbench.decoders.ddif.AT_ONCE", 30)
    assert torch.allclose(DDIF.decode({"fields": fields}, PREPROCESS), whole, atol=1e-12)


def test_gradients_against_central_differences():
    masks = torch.tensor([[0, 3, 11], [1, 2, 5]], dtype=torch.int16)
    small = Fred(shape=(1, 3, 4), kept=3)
    field = Ddif(shape=(2, 2, 3), layers=2, width=2, omega_first=8.0, omega=4.0)
    for decoder, name, value, rest in (
        (small, "coefficients", random(4, 1, 3), {"masks": masks}),
        (field, "fields", field.initial(2, torch.Generator().manual_seed(0)).double(), {}),
    ):
        weights = random(4 if rest else 2, *decoder.shape)

        def loss(at: Tensor, decoder=decoder, name=name, rest=rest, weights=weights) -> Tensor:  # type: ignore[no-untyped-def]
            return (decoder.decode({name: at, **rest}, PREPROCESS).sin() * weights).sum()

        value.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(value), value)
        for place in range(value.numel()):
            move = torch.zeros(value.numel(), dtype=torch.float64)
            move[place] = 1e-6
            move = move.view_as(value)
            slope = (loss(value.detach() + move) - loss(value.detach() - move)) / 2e-6
            assert math.isclose(float(slope), float(gradient.flatten()[place]), rel_tol=1e-5, abs_tol=1e-7)


# Budgets


@pytest.mark.parametrize(
    ("ipc", "kept", "count"), [(1, 64, 16), (10, 64, 160), (1, 1024, 1), (1, 1000, 1), (3, 700, 4)]
)
def test_images_of_a_budget_of_fred(ipc: int, kept: int, count: int):
    """The paper's: 64 of 1,024 coefficients are 16 images an image."""
    assert Fred(shape=(3, 32, 32), kept=kept).per_class(ipc) == count


@pytest.mark.parametrize(
    ("side", "layers", "width", "number", "counts"),
    [
        (32, 2, 6, 81, {1: 37, 10: 379}),
        (32, 2, 20, 543, {50: 282}),
        (32, 2, 10, 173, {1: 17}),
        (32, 2, 15, 333, {10: 92}),
        (32, 2, 30, 1113, {50: 138}),
        (128, 3, 20, 963, {1: 51, 10: 510}),
        (128, 3, 40, 3523, {50: 697}),
    ],
)
def test_images_of_a_budget_of_ddif(side: int, layers: int, width: int, number: int, counts: dict[int, int]):
    decoder = Ddif(shape=(3, side, side), layers=layers, width=width, omega_first=30.0, omega=10.0)
    assert decoder.parameters == number
    assert {ipc: decoder.per_class(ipc) for ipc in counts} == counts


def test_bytes_count_masks_and_labels():
    fred, ddif = made(FRED, 2), made(DDIF, 2)
    assert fred.image_bytes == 80 * 16 * 4 + 10 * 16 * 2
    assert fred.stored_bytes == fred.image_bytes + 80
    assert ddif.image_bytes == 50 * 25 * 4
    assert ddif.bits_per_class == 8 * (5 * 25 * 4 + 5)
    assert (fred.decoded_images, ddif.decoded_images, len(fred.images)) == (80, 50, 0)


# Files


@BOTH
def test_round_trip_and_what_a_student_sees(decoder: Decoder, tmp_path: Path):
    synset, path = made(decoder, 2), tmp_path / "synset.safetensors"
    write_synset(path, synset)
    raw, back = path.read_bytes(), read_synset(path)
    write_synset(path, back)
    assert path.read_bytes() == raw
    assert back.header() == synset.header()
    wanted = decoder.decode(synset.parameters, PREPROCESS)
    plan = Plan(synset=back, protocol=PROTOCOLS["hard-v1"], preprocess=PREPROCESS, flip=False)
    inputs = plan.inputs(torch.device("cpu"))
    assert torch.allclose(inputs.batch(slice(None)), wanted, atol=1e-6)
    assert torch.equal(inputs.labels, synset.labels)
    assert pixels(back, PREPROCESS).shape == (len(synset.labels), *SHAPE)
    loaded = ddbench.load(path)
    assert len(loaded) == len(synset.labels)
    assert torch.equal(loaded.images, inputs.batch(slice(None)))


def test_every_decoder_is_found_and_reads_its_own_header():
    assert list(DECODERS) == ["ddif", "fred", "multi-formation"]
    for decoder in (FRED, DDIF, DECODERS.get("multi-formation")(factor=3)):
        assert read_decoder(Path("x"), decoder.to_json()) == decoder


def write(path: Path, synset: Synset, decoder: dict[str, Any] | None = None, **arrays: Tensor) -> Path:
    """A file that nobody checked."""
    tensors = {**synset.parameters, "labels": synset.labels, **arrays}
    header = synset.header()
    header["decoder"] = {**header["decoder"], **(decoder or {})}
    write_tensors(path, {name: tensor for name, tensor in tensors.items() if tensor.numel()}, header)
    return path


GONE = torch.empty(0)
HOSTILE: dict[str, tuple[Decoder, dict[str, Any], dict[str, Tensor], str]] = {
    "unknown": (FRED, {"kind": "x"}, {}, "does not know: upgrade"),
    "setting too many": (FRED, {"more": 1}, {}, "does not know: upgrade"),
    "setting of another type": (FRED, {"kept": 16.5}, {}, "'kept' is 16.5, expected int"),
    "mask larger than the image": (
        FRED,
        {"kept": 65},
        {},
        "keeps 65 coefficients of images of 8 x 8, expected 1 to 64",
    ),
    "endless mask": (FRED, {"kept": 2**62}, {}, "expected 1 to 64"),
    "huge images": (FRED, {"shape": [1, 2**20, 2**20]}, {}, "up to 16 channels and sides up to 1024"),
    "no image": (FRED, {"shape": [1, 0, 8]}, {}, "up to 16 channels"),
    "two axes": (FRED, {"shape": [8, 8]}, {}, "up to 16 channels"),
    "other shape": (FRED, {"shape": [3, 8, 8]}, {}, r"coefficients is F32\[40, 1, 16\], .* reads F32\[40, 3, 16\]"),
    "mask of another size": (FRED, {}, {"masks": torch.zeros(10, 8, dtype=torch.int16)}, r"masks is I16\[10, 8\]"),
    "mask of another type": (FRED, {}, {"masks": torch.zeros(10, 16)}, r"masks is F32\[10, 16\]"),
    "mask that is missing": (FRED, {}, {"masks": GONE}, "has no tensor 'masks'"),
    "position outside": (FRED, {}, {"masks": torch.arange(49, 65).short().expand(10, 16)}, "positions from 49 to 64"),
    "position below 0": (FRED, {}, {"masks": torch.arange(-1, 15).short().expand(10, 16)}, "positions from -1"),
    "position twice": (FRED, {}, {"masks": torch.zeros(10, 16, dtype=torch.int16)}, "expected ascending"),
    "NaN": (FRED, {}, {"coefficients": torch.full((40, 1, 16), math.nan)}, "NaN or infinite"),
    "foreign array": (FRED, {}, {"images": torch.zeros(40, 1, 8, 8)}, "holds images, which its decoder fred does not"),
    "fewer labels": (FRED, {}, {"labels": torch.arange(10)}, r"F32\[40, 1, 16\]"),
    "labels of no whole classes": (FRED, {}, {"labels": torch.zeros(7, dtype=torch.int64)}, "7 labels do not divide"),
    "no labels": (FRED, {}, {"labels": torch.zeros(0, dtype=torch.int64)}, "has no tensor 'labels'"),
    "fields of another size": (DDIF, {"width": 4}, {}, r"fields is F32\[20, 25\], .* reads F32\[20, 37\]"),
    "endless width": (DDIF, {"width": 2**40}, {}, "expected 1 to 16 of 1 to 1024"),
    "no layer": (DDIF, {"layers": 0}, {}, "expected 1 to 16"),
    "endless layers": (DDIF, {"layers": 2**40}, {}, "expected 1 to 16"),
    "frequency 0": (DDIF, {"omega": 0.0}, {}, "frequencies 8.0 and 0.0"),
    "small file, large memory": (DDIF, {"shape": [1, 1024, 1024]}, {}, "2,000 bytes of parameters would become"),
}


@pytest.mark.parametrize(("decoder", "header", "arrays", "said"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_before_they_are_decoded(
    decoder: Decoder, header: dict[str, Any], arrays: dict[str, Tensor], said: str, tmp_path: Path, monkeypatch: Any
):
    monkeypatch.setattr(type(decoder), "decode", lambda *_: pytest.fail("decoded"))
    path = write(tmp_path / "synset.safetensors", made(decoder), header, **arrays)
    with pytest.raises(UserError, match=said) as caught:
        read_synset(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [5, "ab", None, {"a": 1}, [1, 8, 9]], ids=str)
def test_a_file_beside_a_row_whose_decoder_is_odd_is_refused_in_a_line(shape: Any, tmp_path: Path):
    """The board reads headers only: what a decoder's settings are is not checked before."""
    path = write(tmp_path / "synset.safetensors", made(FRED), {"shape": shape})
    row = made_result().to_json()
    row["synset"] |= {"sha256": file_hash(path), "images": 40, "shape": [1, 8, 8]}
    row["id"] = result_id(row)
    with pytest.raises(UserError, match=r"its shape is not what row .* says"):
        check_part(path, SYNSET, Result.from_json(row))


@BOTH
def test_more_images_than_the_budget_are_refused(decoder: Decoder, tmp_path: Path):
    with pytest.raises(UserError, match=r"images for ipc 1 and 10 classes, expected"):
        write_synset(tmp_path / "x", replace(made(decoder, 3), budget=Budget("ipc", 1)))


def test_a_decoder_of_another_dataset_is_refused(ddb: Callable, tmp_path: Path):
    path = tmp_path / "synset.safetensors"
    wide = replace(DDIF, shape=(1, 8, 16))
    write_synset(path, made(wide, images=torch.empty(0, 1, 8, 16)))
    found = ddb("evaluate", path)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "images of shape [1, 8, 16], digits has [1, 8, 8]" in found.err


# Out and in again


@BOTH
def test_exports(decoder: Decoder, ddb: Callable, tmp_path: Path):
    path = tmp_path / "synset.safetensors"
    synset = made(decoder)
    write_synset(path, synset)
    assert ddb("export", path, "--format", "png", "--out", tmp_path / "png").code == 0
    assert len(list((tmp_path / "png").rglob("*.png"))) == len(synset.labels)
    assert ddb("export", path, "--format", "npz", "--out", tmp_path / "npz").code == 0
    archive = tmp_path / "npz" / "synset.npz"
    assert ddb("import", archive, "--dataset", "digits", "--out", tmp_path / "back").code == 0
    assert (tmp_path / "back" / "synset.safetensors").read_bytes() == path.read_bytes()
    inspected = ddb("import", archive, "--inspect")
    assert f"[{len(synset.labels)}, 1, 8, 8]" in inspected.out
    refused = ddb("import", archive, "--dataset", "digits", "--out", tmp_path / "no", "--decode-factor", 2)
    assert refused.code == 2
    assert f"made by its decoder {decoder.kind}; leave --decode-factor out" in refused.err
    hub = ddb("export", path, "--format", "hub", "--out", tmp_path / "hub")
    assert (hub.code, hub.err.count("\n"), (tmp_path / "hub").exists()) == (2, 1, False)


@dataclass(frozen=True, kw_only=True)
class Brighter(Decoder):
    """Another package's decoder of stored images."""

    kind: ClassVar[str] = "brighter"
    described = "brighter images"
    by: float

    def decode(self, arrays: Mapping[str, Tensor], preprocess: Preprocess) -> Tensor:
        return arrays["images"] + self.by


def test_a_decoder_of_parameters_makes_one_image_of_each_label(tmp_path: Path):
    class Twice(Fred):
        copies = 2

    decoder = Twice(shape=SHAPE, kept=16)
    with pytest.raises(UserError, match="its decoder fred makes 2 images of each label, expected 1"):
        write_synset(tmp_path / "synset.safetensors", made(decoder))


@pytest.mark.parametrize("format", ["npz", "hub"])
def test_another_packages_decoder_of_stored_images_comes_back(
    format: str, ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if format == "hub":
        pytest.importorskip("pyarrow")
    assert DECODERS.origin("fred")  # the table is read
    monkeypatch.setitem(DECODERS._table, "brighter", "elsewhere:Brighter")
    monkeypatch.setitem(DECODERS._objects, "brighter", Brighter)
    monkeypatch.chdir(tmp_path)  # away from the board of the checkout
    path = tmp_path / "run" / "synset.safetensors"
    write_synset(path, made(Brighter(by=0.5), images=random(CLASSES, *SHAPE, dtype=torch.float32), parameters={}))
    assert ddb("export", path, "--format", format, "--out", "out").code == 0
    exported = Path("out") if format == "hub" else Path("out/synset.npz")
    done = ddb("import", exported, "--dataset", "digits", "--out", "back")
    assert done.code == 0, done.err
    assert Path("back/synset.safetensors").read_bytes() == path.read_bytes()
    refused = ddb("import", exported, "--dataset", "digits", "--out", "no", "--decode-factor", 1)
    assert (refused.code, "made by its decoder brighter; leave --decode-factor out" in refused.err) == (2, True)


def test_an_export_that_does_not_fit_its_header(ddb: Callable, tmp_path: Path):
    path = tmp_path / "synset.safetensors"
    write_synset(path, made(FRED))
    assert ddb("export", path, "--format", "npz", "--out", tmp_path).code == 0
    with np.load(tmp_path / "synset.npz") as file:
        arrays = dict(file)
    arrays["masks"] = arrays["masks"][:, :8]
    np.savez(tmp_path / "less.npz", **arrays)
    for more in (["--dataset", "digits", "--out", tmp_path / "out"], ["--inspect"]):
        found = ddb("import", tmp_path / "less.npz", *more)
        assert (found.code, found.err.count("\n")) == (2, 1)
        assert "masks is I16[10, 8]" in found.err


def test_an_evaluation_counts_its_bytes(ddb: Callable, tmp_path: Path):
    path = tmp_path / "synset.safetensors"
    write_synset(path, made(FRED))
    assert re.search(r"^  decoder +fred, kept 16, shape", ddb("info", path).out, re.MULTILINE)
    more = ("--students", "convnet-d1-w4-in", "--seeds", 1, "--epochs", 1, "--workers", 1, "--device", "cpu")
    done = ddb("evaluate", path, *more)
    assert done.code == 0, done.err
    assert "of the images; a student sees 40\n" in done.out
    (record,) = (one for one in (tmp_path / "evaluations").glob("*.json") if not one.name.endswith(".cost.json"))
    said = json.loads(record.read_text())["synset"]
    assert (said["images"], said["decoded_images"], said["shape"]) == (40, 40, [1, 8, 8])
    assert said["bytes"]["images"] == 40 * 16 * 4 + 10 * 16 * 2
