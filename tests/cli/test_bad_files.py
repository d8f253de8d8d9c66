"""Damaged, foreign, newer and hostile files: one line, exit code 2, nothing run, nothing written."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, contents, distill_tiny, evaluate_tiny
from PIL import Image

from ddbench.runtime.errors import UserError
from ddbench.synset import read_synset

Refused = Callable[..., str]


def parts_of(path: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The safetensors header, ddbench's own header inside it, and the tensors' bytes of a file."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    outer = json.loads(raw[8 : 8 + length])
    return outer, json.loads(outer["__metadata__"]["ddbench"]), raw[8 + length :]


def write_parts(path: Path, outer: dict[str, Any], inner: Any, data: bytes) -> None:
    """The reverse of :func:`parts_of`, checking nothing."""
    outer = {**outer, "__metadata__": {"ddbench": inner if isinstance(inner, str) else json.dumps(inner)}}
    text = json.dumps(outer).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change ddbench's header in a file; ``change`` edits it in place or returns another one."""
    outer, inner, data = parts_of(path)
    made = change(inner)
    write_parts(path, outer, inner if made is None else made, data)


def replace_tensors(path: Path, **tensors: torch.Tensor | None) -> None:
    """Put other tensors into a synset file, with safetensors itself and the header as it is; None removes one."""
    from safetensors.torch import load_file, save_file

    _, inner, _ = parts_of(path)
    whole = {**load_file(path), **tensors}
    save_file({k: v for k, v in whole.items() if v is not None}, path, metadata={"ddbench": json.dumps(inner)})


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda header: header.pop(name) and None


def setting(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: header.__setitem__(name, value)


# Synset files


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_synset(fraction: float, refused: Refused, mtt_run: Path):
    path = mtt_run / "synset.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(fraction * len(raw))])
    refused(evaluate_tiny(mtt_run), str(path), "not a whole safetensors file")
    refused(["export", mtt_run, "--format", "npz", "--out", mtt_run / "out"], str(path))


def test_synset_cut_anywhere_or_with_any_byte_changed(mtt_run: Path, tmp_path: Path):
    """Whatever is done to the bytes, reading gives a synset or a UserError: no other exception."""
    raw = (mtt_run / "synset.safetensors").read_bytes()
    path = tmp_path / "synset.safetensors"
    length = struct.unpack("<Q", raw[:8])[0]
    for cut in [*range(24), *range(24, len(raw), 97), len(raw) - 1]:
        path.write_bytes(raw[:cut])
        with pytest.raises(UserError, match=r"synset\.safetensors: "):
            read_synset(path)
    randomness = np.random.default_rng(0)
    refusals = 0
    for at in [*range(12), *randomness.integers(0, 8 + length, 300).tolist()]:
        spoiled = bytearray(raw)
        spoiled[at] ^= int(randomness.integers(1, 256))
        path.write_bytes(bytes(spoiled))
        try:
            read_synset(path)
        except UserError as error:
            refusals += str(path) in str(error)
    assert refusals > 150


def test_synset_longer_than_its_header_says(refused: Refused, mtt_run: Path):
    path = mtt_run / "synset.safetensors"
    path.write_bytes(path.read_bytes() + b"more")
    refused(evaluate_tiny(mtt_run), str(path), "not a whole safetensors file")


@pytest.mark.parametrize(
    ("shape", "dtype"), [([2**40, 1, 8, 8], "F32"), ([10, 1, 2**31, 2**31], "U8"), ([2**62, 2**62, 4, 4], "F32")]
)
def test_synset_that_claims_huge_images(shape: list[int], dtype: str, refused: Refused, mtt_run: Path):
    path = mtt_run / "synset.safetensors"
    outer, inner, data = parts_of(path)
    outer["images"] = {"dtype": dtype, "shape": shape, "data_offsets": outer["images"]["data_offsets"]}
    write_parts(path, outer, inner, data)
    refused(evaluate_tiny(mtt_run), str(path), "not a whole safetensors file")
    size = int(np.prod([float(side) for side in shape])) * (4 if dtype == "F32" else 1)
    if size < 2**63:  # consistent with itself, but the file is not that long
        outer["images"]["data_offsets"] = [0, size]
        write_parts(path, outer, inner, data)
        refused(evaluate_tiny(mtt_run), str(path), "not a whole safetensors file")


def test_synset_with_a_huge_header_length(refused: Refused, mtt_run: Path):
    path = mtt_run / "synset.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])
    refused(evaluate_tiny(mtt_run), str(path), "not a whole safetensors file")


def test_synset_images_out_of_bounds(refused: Refused, mtt_run: Path):
    path = mtt_run / "synset.safetensors"
    replace_tensors(path, images=torch.zeros(10, 1, 1, 2000))
    refused(evaluate_tiny(mtt_run), str(path), "[10, 1, 1, 2000]", "out of bounds")


HEADERS = {
    "kind": (setting("kind", "ddbench-expert"), "a ddbench-expert file, expected ddbench-synset"),
    "newer": (setting("schema", 2), "schema 2", "newer ddbench", "upgrade"),
    "schema": (setting("schema", "1"), "schema '1'"),
    "no-schema": (without("schema"), "schema None"),
    "list": (lambda header: [1, 2], "a list file"),
    "text": (lambda header: "{not json", "not JSON"),
    "deep": (lambda header: "[" * 100_000, "not JSON"),
    "label-kind": (setting("label_kind", "soft"), "labels is I64[10]", "F32"),
    "label-kind-type": (setting("label_kind", 3), "'label_kind'", "expected str"),
    "space": (setting("space", "pixels"), "space 'pixels'"),
    "budget-type": (setting("budget", "ipc 1"), "'budget'", "expected dict"),
    "budget-bool": (setting("budget", {"unit": "ipc", "value": True}), "'value'", "expected int"),
    "budget-value": (setting("budget", {"unit": "ipc", "value": 2}), "10 images for ipc 2", "expected 20"),
    "budget-unit": (setting("budget", {"unit": "bytes", "value": 10}), "'bytes'"),
    "classes": (setting("class_names", ["a"]), "class_names"),
    "class-type": (setting("class_names", list(range(10))), "class_names"),
    "other-classes": (setting("class_names", list("abcdefghij")), "class names", "digits"),
    "fewer-classes": (setting("class_names", ["0", "1"]), "labels from 0 to 9", "0 to 1"),
    "dataset": (setting("dataset", "digit"), "'digit'"),
    "other-dataset": (setting("dataset", "mnist"), "mnist"),
    "fingerprint": (setting("dataset_fingerprint", "f" * 64), "fingerprint ffffffffffff", "digits"),
    "modality": (setting("modality", "graph"), "'graph'"),
    "decoder": (setting("decoder", {"factor": 2}), "a decoder", "upgrade"),
    "preprocess": (setting("preprocess", {}), "preprocess record"),
    "preprocess-type": (setting("preprocess", "zca"), "'preprocess'", "expected dict"),
    "preprocess-std": (setting("preprocess", {"kind": "meanstd", "mean": [0.3], "std": [0.0]}), "std 0.0"),
    "preprocess-nan": (setting("preprocess", {"kind": "meanstd", "mean": [float("nan")], "std": [1.0]}), "finite"),
    "preprocess-channels": (
        setting("preprocess", {"kind": "meanstd", "mean": [0.3] * 3, "std": [1.0] * 3}),
        "3 channels",
    ),
    "seed": (setting("seed", 1.5), "'seed'", "expected int"),
    "no-method": (without("method"), "'method'", "expected str"),
}


@pytest.mark.parametrize("case", HEADERS.values(), ids=HEADERS)
def test_synset_header(case, refused: Refused, mtt_run: Path):
    change, *needles = case
    rewrite(mtt_run / "synset.safetensors", change)
    refused(evaluate_tiny(mtt_run), *needles)


IMAGES = torch.zeros(10, 1, 8, 8)
LABELS = torch.arange(10)
TENSORS = {
    "nan": ({"images": IMAGES.index_fill(0, torch.tensor([3]), float("nan"))}, "images holds 64 value(s)", "NaN"),
    "infinite": ({"images": IMAGES + float("inf")}, "640 value(s)", "infinite"),
    "label-high": ({"labels": LABELS + 1}, "labels from 1 to 10", "expected 0 to 9"),
    "label-low": ({"labels": LABELS - 1}, "labels from -1 to 8", "expected 0 to 9"),
    "label-count": ({"labels": LABELS[:9]}, "9 labels for 10 images"),
    "too-few": ({"images": IMAGES[:9], "labels": LABELS[:9]}, "9 images for ipc 1 and 10 classes", "expected 10"),
    "empty": ({"images": IMAGES[:0], "labels": LABELS[:0]}, "out of bounds"),
    "double": ({"images": IMAGES.double()}, "F64[10, 1, 8, 8]", "F32 or U8"),
    "half": ({"images": IMAGES.half()}, "F16", "F32 or U8"),
    "dimensions": ({"images": IMAGES[:, 0]}, "[10, 8, 8]", "4 dimensions"),
    "labels-int32": ({"labels": LABELS.int()}, "labels is I32[10]", "I64"),
    "labels-2d": ({"labels": LABELS[:, None]}, "labels is I64[10, 1]"),
    "no-images": ({"images": None}, "no tensor 'images'"),
    "no-labels": ({"labels": None}, "no tensor 'labels'"),
    "pixels-as-input": ({"images": IMAGES.byte()}, "space 'input'"),
    "other-size": ({"images": torch.zeros(10, 1, 16, 16)}, "[1, 16, 16]", "[1, 8, 8]"),
    "other-channels": ({"images": torch.zeros(10, 3, 8, 8)}, "[3, 8, 8]", "[1, 8, 8]"),
    "lr-nan": ({"lr": torch.tensor(float("nan"))}, "lr holds 1 value(s)"),
    "lr-integer": ({"lr": torch.tensor(1)}, "lr is I64, expected F32"),
    "lr-matrix": ({"lr": torch.ones(2, 2)}, "lr is not a finite number"),
    "lr-zero": ({"lr": torch.tensor(0.0)}, "learning rate is 0,", "--lr-parametrisation log", "dc-legacy"),
    "lr-negative": ({"lr": torch.tensor(-0.5)}, "learning rate is -0.5", "--lr-parametrisation log", "dc-legacy"),
    "stage-length": ({"stage": LABELS[:3]}, "stage column"),
    "stage-negative": ({"stage": LABELS - 1}, "stage column"),
    "stage-float": ({"stage": LABELS.float()}, "stage is F32"),
    "unknown": ({"teacher": IMAGES}, "holds teacher", "upgrade"),
}


@pytest.mark.parametrize("case", TENSORS.values(), ids=TENSORS)
def test_synset_tensors(case, refused: Refused, mtt_run: Path):
    tensors, *needles = case
    replace_tensors(mtt_run / "synset.safetensors", **tensors)
    refused(evaluate_tiny(mtt_run), *needles)


@pytest.mark.parametrize(
    ("labels", "needles"),
    [
        (torch.zeros(10, 9), ("soft labels of shape [10, 9]", "(10, 10)")),
        (torch.zeros(10, 11), ("soft labels of shape [10, 11]", "(10, 10)")),
        (torch.zeros(9, 10), ("9 labels for 10 images",)),
        (torch.full((10, 10), float("inf")), ("labels holds 100 value(s)",)),
    ],
    ids=["narrow", "wide", "short", "infinite"],
)
def test_soft_labels(labels: torch.Tensor, needles: tuple[str, ...], refused: Refused, mtt_run: Path):
    path = mtt_run / "synset.safetensors"
    rewrite(path, setting("label_kind", "soft"))
    replace_tensors(path, labels=labels)
    refused(evaluate_tiny(mtt_run), str(path), *needles)


def test_negative_learned_lr_can_be_scored_by_a_protocol_with_its_own(ddb: Callable, mtt_run: Path):
    replace_tensors(mtt_run / "synset.safetensors", lr=torch.tensor(-0.5))
    assert ddb(*evaluate_tiny(mtt_run, "--protocol", "dc-legacy")).code == 0


def test_foreign_safetensors_file(refused: Refused, tmp_path: Path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"images": IMAGES, "labels": LABELS}, path)
    refused(evaluate_tiny(path), str(path), "ddbench did not write", "ddbench import")
    (tmp_path / "text.safetensors").write_text("hello")
    refused(evaluate_tiny(tmp_path / "text.safetensors"), "text.safetensors", "not a whole safetensors file")


def test_expert_file_as_synset(refused: Refused, store_folder: Path):
    refused(evaluate_tiny(store_folder / "expert_00000.safetensors"), "a ddbench-expert file, expected ddbench-synset")


# Manifests, expert files, checkpoints, evaluations


MANIFESTS = {
    "newer": (setting("schema", 2), "schema 2", "newer ddbench"),
    "kind": (setting("kind", "x"), "not a trajectory manifest"),
    "list": (lambda data: [1], "not a trajectory manifest"),
    "no-dataset": (without("dataset"), "'dataset'"),
    "no-experts": (without("experts"), "experts"),
    "experts": (setting("experts", [1]), "experts"),
    "expert-field": (lambda data: data["experts"]["00000"].__setitem__("color", 1), "experts", "color"),
    "expert-type": (lambda data: data["experts"]["00000"].__setitem__("test_accuracy", "high"), "test_accuracy"),
    "expert-curve": (lambda data: data["experts"]["00000"].__setitem__("train_accuracy", "rising"), "train_accuracy"),
    "expert-bytes": (lambda data: data["experts"]["00000"].__setitem__("bytes", "many"), "bytes"),
    "expert-index": (lambda data: data["experts"].__setitem__("first", data["experts"]["00000"]), "experts"),
    "recipe": (setting("recipe", "mtt"), "recipe"),
    "recipe-key": (lambda data: data["recipe"].__setitem__("colour", 1), "'colour'", "newer ddbench"),
    "recipe-type": (lambda data: data["recipe"].__setitem__("epochs", "many"), "'epochs'", "'many'"),
    "recipe-options": (lambda data: data["recipe"].__setitem__("options", {"eps": "x"}), "'options'"),
    "parameters": (setting("parameters", [["w", "3x3"]]), "'parameters'"),
    "parameters-huge": (setting("parameters", [["w", [2**40]]]), "'parameters'"),
    "text": (lambda data: "hello", "manifest"),
}


@pytest.mark.parametrize("case", MANIFESTS.values(), ids=MANIFESTS)
def test_manifest(case, refused: Refused, buffers: Path, store_folder: Path, tmp_path: Path):
    change, *needles = case
    manifest = store_folder / "manifest.json"
    data = json.loads(manifest.read_text())
    made = change(data)
    manifest.write_text(made if isinstance(made, str) else json.dumps(data if made is None else made))
    refused(distill_tiny(buffers, tmp_path / "out"), str(manifest), *needles)
    refused(["buffer", "info", buffers], str(manifest), *needles)
    refused(["buffer", "verify", buffers], str(manifest), *needles)


def test_manifest_of_another_network(refused: Refused, buffers: Path, store_folder: Path, tmp_path: Path):
    """Parameter shapes that are not the student's are seen before anything is written."""
    manifest = store_folder / "manifest.json"
    data = json.loads(manifest.read_text())
    data["parameters"][0][1][0] += 1
    manifest.write_text(json.dumps(data))
    refused(distill_tiny(buffers, tmp_path / "out"), str(store_folder), "parameters")


def test_too_large_manifest(refused: Refused, buffers: Path, store_folder: Path):
    with open(store_folder / "manifest.json", "r+b") as handle:
        handle.truncate(65 * 2**20)  # a sparse file
    refused(["buffer", "info", buffers], "manifest.json", "too large")


def run_until_stopped(ddb: Callable, argv: list[object]) -> None:
    """Leave a run with a checkpoint of its third iteration."""
    from ddbench.methods.mtt import MTT

    step = MTT.step

    def stop(self: MTT, iteration: int) -> dict[str, float]:
        if iteration == 3:
            raise KeyboardInterrupt
        return step(self, iteration)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MTT, "step", stop)
        assert ddb(*argv).code == 130


def test_interrupted_run_says_that_it_goes_on(ddb: Callable, buffers: Path, tmp_path: Path):
    argv = distill_tiny(buffers, tmp_path / "out", "--checkpoint-every", 1)
    run_until_stopped(ddb, argv)
    result = ddb(*[part for part in argv if part != "--quiet"])
    assert result.code == 0
    assert "going on at iteration 3 of 4" in result.err


CHECKPOINTS = {
    "newer": (setting("schema", 2), "schema 2", "newer ddbench"),
    "kind": (setting("kind", "ddbench-synset"), "expected ddbench-checkpoint"),
    "no-done": (without("done"), "checkpoint"),
    "done": (setting("done", "three"), "checkpoint"),
    "done-beyond": (setting("done", 99), "checkpoint"),
    "no-values": (without("values"), "checkpoint"),
}


@pytest.mark.parametrize("case", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoint(case, ddb: Callable, refused: Refused, buffers: Path, tmp_path: Path):
    change, *needles = case
    argv = distill_tiny(buffers, tmp_path / "out", "--checkpoint-every", 1)
    run_until_stopped(ddb, argv)
    rewrite(tmp_path / "out" / "checkpoint.safetensors", change)
    before = contents(tmp_path)
    result = ddb(*argv)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    for needle in (*needles, str(tmp_path / "out" / "checkpoint.safetensors")):
        assert needle in result.err
    assert contents(tmp_path) == before


def test_damaged_checkpoint(ddb: Callable, buffers: Path, tmp_path: Path):
    argv = distill_tiny(buffers, tmp_path / "out", "--checkpoint-every", 1)
    run_until_stopped(ddb, argv)
    path = tmp_path / "out" / "checkpoint.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    result = ddb(*argv)
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert str(path) in result.err
    path.write_bytes(whole)
    replace_tensors(path, images=torch.zeros(3, 1, 8, 8))
    result = ddb(*argv)
    assert (result.code, len(result.err.splitlines())) == (2, 1), result.err
    assert str(path) in result.err


EVALUATIONS = {
    "newer": (setting("schema", 2), "schema 2", "newer ddbench"),
    "kind": (setting("kind", "ddbench-result"), "not an evaluation"),
    "list": (lambda data: [data], "not an evaluation"),
    "synset": (lambda data: data["synset"].__setitem__("sha256", "0" * 64), "synset.sha256"),
    "synset-type": (setting("synset", "mine"), "(synset differs)"),
    "no-runs": (without("runs"), "runs"),
    "runs": (setting("runs", {"a": 1}), "runs"),
    "run-metrics": (lambda data: data["runs"][0].__setitem__("metrics", {}), "runs"),
    "run-value": (lambda data: data["runs"][0]["metrics"].__setitem__("accuracy", "high"), "runs"),
}


@pytest.mark.parametrize("case", EVALUATIONS.values(), ids=EVALUATIONS)
def test_evaluation(case, refused: Refused, random_run: Path):
    change, *needles = case
    path = next(path for path in (random_run / "evaluations").glob("*.json") if "cost" not in path.name)
    data = json.loads(path.read_text())
    made = change(data)
    path.write_text(json.dumps(data if made is None else made))
    refused(evaluate_tiny(random_run), str(path), *needles)


# Pickles and archives of others


class Payload:
    """Unpickled by a careless reader it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (_touch, (str(self.path),))


def _touch(path: str) -> torch.Tensor:
    Path(path).write_text("code of the file was run")
    return torch.zeros(10, 1, 8, 8)


def hostile(path: Path, form: str, marker: Path) -> None:
    """A .pt file whose opening would create ``marker``."""
    if form == "raw":
        path.write_bytes(pickle.dumps([Payload(marker)], protocol=2))
    elif form == "os-system":
        path.write_bytes(f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode())
    else:
        content: Any = {"data": [[IMAGES, LABELS]], "more": Payload(marker)}
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["zip", "legacy", "raw", "os-system"])
@pytest.mark.parametrize("verb", ["import", "buffer import", "labels", "lr"])
def test_pickle_that_would_run_code(form: str, verb: str, refused: Refused, tmp_path: Path, tmp_path_factory):
    marker = tmp_path_factory.mktemp("elsewhere") / "ran"
    path = tmp_path / "hostile.pt"
    hostile(path, form, marker)
    plain = tmp_path / "images.pt"
    torch.save(IMAGES, plain)
    argv = {
        "import": ["import", path, "--dataset", "digits", "--out", tmp_path / "out"],
        "labels": ["import", plain, "--labels", path, "--dataset", "digits", "--out", tmp_path / "out"],
        "lr": ["import", plain, "--lr", path, "--dataset", "digits", "--out", tmp_path / "out"],
        "buffer import": [
            *("buffer", "import", path, "--dataset", "digits", "--student", TINY, "--buffers", tmp_path / "out")
        ],
    }[verb]
    refused(argv, str(path))
    assert not marker.exists(), "the file's code was run"
    # the payload is live: a careless reader does run it
    if form in ("raw", "os-system"):
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


def test_import_cut_anywhere(tmp_path: Path):
    from ddbench.runtime.pickles import load_pt

    whole = tmp_path / "whole.pt"
    for legacy in (False, True):
        torch.save({"data": [[IMAGES, LABELS]]}, whole, _use_new_zipfile_serialization=not legacy)
        raw = whole.read_bytes()
        path = tmp_path / "cut.pt"
        for cut in [*range(60), *range(60, len(raw) - 4, max(1, len(raw) // 60))]:
            path.write_bytes(raw[:cut])
            with pytest.raises(UserError, match=r"cut\.pt: "):
                load_pt(path)


IMPORTS = {
    "shape": (torch.zeros(10, 3, 8, 8), "[10, 3, 8, 8]", "(N, 1, 8, 8)"),
    "side": (torch.zeros(10, 1, 28, 28), "[10, 1, 28, 28]", "(N, 1, 8, 8)"),
    "flat": (torch.zeros(10, 64), "[10, 64]", "(N, 1, 8, 8)"),
    "count": (torch.zeros(13, 1, 8, 8), "13 images", "10 classes"),
    "empty": (torch.zeros(0, 1, 8, 8), "0 images"),
    "nan": (IMAGES + float("nan"), "NaN"),
    "list": ([IMAGES], "expected a tensor of images", "a list of 1"),
    "text": ("hello", "expected a tensor of images", "str"),
    "empty-res": ({"data": []}, "0 set(s)"),
    "res-shape": ({"data": [IMAGES]}, "not a pair"),
    "res-labels": ({"data": [[IMAGES, LABELS + 3]]}, "labels from 3 to 12", "0 to 9"),
    "res-label-count": ({"data": [[IMAGES, LABELS[:4]]]}, "labels of shape [4]", "10 images"),
    "res-soft": ({"data": [[IMAGES, torch.zeros(10, 7)]]}, "soft labels of shape [10, 7]", "(10, 10)"),
    "complex": (IMAGES.to(torch.complex64), "complex64"),
    "integers": (IMAGES.long(), "int64"),
}


@pytest.mark.parametrize("case", IMPORTS.values(), ids=IMPORTS)
def test_import_of_wrong_contents(case, refused: Refused, tmp_path: Path):
    content, *needles = case
    path = tmp_path / "images_best.pt"
    torch.save(content, path)
    refused(["import", path, "--dataset", "digits", "--out", tmp_path / "out"], str(tmp_path), *needles)


def test_import_of_another_kind_of_file(refused: Refused, tmp_path: Path):
    path = tmp_path / "settings.toml"
    for text in ("a = 1", ""):
        path.write_text(text)
        said = refused(
            ["import", path, "--inspect"], f"{path}: nothing that import reads", "torch files (.pt), .npz, .npy"
        )
        assert "pop" not in said.replace(str(path), ""), "torch's words about an empty stack of its own"


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    with open(path, "wb") as handle:
        np.savez(handle, allow_pickle=True, **arrays)


ARCHIVES = {
    "objects": ({"images": np.array([{}, 1], dtype=object)}, "plain arrays"),
    "text": ({"images": np.array(["a", "b"])}, "plain arrays"),
    "no-images": ({"pictures": IMAGES.numpy()}, "no array 'images'", "pictures"),
    "labels": ({"images": IMAGES.numpy(), "labels": np.full(10, 10)}, "labels from 10 to 10"),
    "shape": ({"images": IMAGES.numpy()[0]}, "[1, 8, 8]"),
}


@pytest.mark.parametrize("case", ARCHIVES.values(), ids=ARCHIVES)
def test_npz_of_wrong_contents(case, refused: Refused, tmp_path: Path):
    arrays, *needles = case
    write_npz(tmp_path / "set.npz", **arrays)
    refused(["import", tmp_path / "set.npz", "--dataset", "digits", "--out", tmp_path / "out"], *needles)


def test_npz_that_would_run_code(refused: Refused, tmp_path: Path, tmp_path_factory):
    marker = tmp_path_factory.mktemp("elsewhere") / "ran"
    write_npz(tmp_path / "set.npz", images=np.array([Payload(marker)], dtype=object))
    refused(["import", tmp_path / "set.npz", "--dataset", "digits", "--out", tmp_path / "out"], "set.npz")
    assert not marker.exists()
    np.load(tmp_path / "set.npz", allow_pickle=True)["images"]
    assert marker.exists()


def test_npz_that_is_none(refused: Refused, tmp_path: Path):
    argv = ["import", tmp_path / "set.npz", "--dataset", "digits", "--out", tmp_path / "out"]
    (tmp_path / "set.npz").write_bytes(b"hello")
    refused(argv, "set.npz", "not a whole .npz")
    write_npz(tmp_path / "whole.npz", images=IMAGES.numpy())
    raw = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(raw[: len(raw) // 2])
    refused(argv, "set.npz", "not a whole .npz")


def test_npz_that_unfolds_to_too_much(refused: Refused, tmp_path: Path, monkeypatch):
    """The limit holds for what an archive unfolds to, not for its own size."""
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=IMAGES.numpy())
    monkeypatch.setattr("ddbench.exchange.read.MAX_FILE", path.stat().st_size)
    refused(["import", path, "--dataset", "digits", "--out", tmp_path / "out"], "set.npz", "too large for a synset")


def test_image_folders(refused: Refused, tmp_path: Path):
    folder = tmp_path / "png"
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / str(label) / "0.png")
    argv = ["import", folder, "--dataset", "digits", "--out", tmp_path / "out"]
    Image.new("L", (8, 9)).save(folder / "3" / "0.png")
    refused(argv, "3/0.png", "8 x 9 pixels", "8 x 8")
    (folder / "3" / "0.png").write_bytes(b"hello")
    refused(argv, "3/0.png", "not a readable image")
    (folder / "3" / "0.png").unlink()
    refused(argv, "class '3'")
    Image.new("L", (8, 8)).save(folder / "3" / "0.png")
    Image.new("L", (8, 8)).save(folder / "3" / "1.png")
    refused(argv, "11 images")
