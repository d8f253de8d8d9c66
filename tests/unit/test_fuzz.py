"""Mutated submissions: whatever is done to a valid file, its reader takes it or says one line, and never crashes.

The same examples every time; a crash that was found is added below as an example of its own.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_leaderboard import ACCURACIES, make_run, png, submit

from ddbench.data.preprocess import Preprocess
from ddbench.decoders.multi_formation import MultiFormation
from ddbench.leaderboard.attachments import read_header
from ddbench.leaderboard.images import clean_png, published_png
from ddbench.leaderboard.result import Result, Run
from ddbench.leaderboard.schema import check_result, load_results, read_result, result_id
from ddbench.leaderboard.verification import check_verification, make_verification
from ddbench.networks.build import build_student
from ddbench.protocols.labels import read_labels
from ddbench.runtime.errors import UserError
from ddbench.runtime.tensors import write_tensors
from ddbench.synset import Budget, Synset, read_synset, write_synset
from ddbench.teachers.store import read_teacher

FUZZ = settings(
    max_examples=80,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, 10**400, -1, 2**53 + 1, 2**63, 0]),
    st.floats(),
    st.text(st.characters(codec=None), max_size=20),
    st.sampled_from(["", "../../etc", "\x1b[2J", "\u202e", "\ud800", "x" * 5000, "<script>", "nan", "I64", "F8_E4M3"]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path to every part of a JSON value but itself."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from places(part, (*path, key))


Step = tuple[int, str, Any]
STEPS = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=10**6), st.sampled_from(["set", "set", "drop", "add", "swap", "again"]), JSON
    ),
    min_size=1,
    max_size=3,
)


def mutated(value: Any, steps: list[Step]) -> Any:
    """A copy of a JSON value, changed step by step at places that the numbers choose."""
    value = copy.deepcopy(value)
    for number, act, new in steps:
        found = list(places(value))
        if not found:
            return new
        *parents, key = found[number % len(found)]
        holder = value
        for parent in parents:
            holder = holder[parent]
        if act == "drop":
            del holder[key]
        elif act == "add" and isinstance(holder, dict):
            holder[f"{key}x"] = new
        elif act == "again" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif act == "swap":
            other = found[(number // 7) % len(found)]
            at = value
            for part in other:
                at = at[part]
            holder[key] = copy.deepcopy(at)
        else:
            holder[key] = new
    return value


def flipped(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Bytes with some replaced and the end cut off."""
    out = bytearray(data)
    for place, value in changes:
        out[place % len(out)] = value
    return bytes(out[: len(out) - cut % len(out)]) if cut % 3 == 0 else bytes(out)


FLIPS = st.lists(
    st.tuples(st.integers(min_value=0, max_value=10**6), st.integers(min_value=0, max_value=255)), max_size=8
)
CUT = st.integers(min_value=0, max_value=10**6)


def taken_or_told(read: Callable[[], object], name: str) -> None:
    """The reader gives something, or a line that names the file."""
    try:
        read()
    except UserError as error:
        message = str(error)
        assert name in message
        assert "\n" not in message
        assert len(message) < 1500


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A valid row."""
    root = tmp_path_factory.mktemp("fuzz")
    run = make_run(root / "run")
    (run / "config.json").write_text(json.dumps({"experts": {"count": 3}}))
    submit(run, root / "board")
    (row,) = load_results(root / "board")
    found = row.to_json()
    found["submission"]["claims"] = [
        {"student": run["student"], "metric": "accuracy", "value": 0.5, "source": "t"} for run in found["runs"][:1]
    ]
    found["submission"] |= {"links": ["https://example.org/"], "synset_url": "https://example.org/x"}
    found["id"] = result_id(found)
    return check_result(found, "x").to_json()


@FUZZ
@given(steps=STEPS, own_id=st.booleans())
def test_result_schema(result: dict[str, Any], steps: list[Step], own_id: bool) -> None:
    changed = mutated(result, steps)
    if own_id and isinstance(changed, dict):
        try:
            changed["id"] = result_id(changed)
        except (ValueError, TypeError):  # what canonical JSON cannot carry
            changed["id"] = "0" * 16
    taken_or_told(lambda: check_result(changed, "row.json"), "row.json")


@FUZZ
@given(changes=FLIPS, cut=CUT)
def test_result_bytes(result: dict[str, Any], tmp_path: Path, changes: list[tuple[int, int]], cut: int) -> None:
    path = tmp_path / "row.json"
    path.write_bytes(flipped(json.dumps(result).encode(), changes, cut))
    taken_or_told(lambda: read_result(path), "row.json")


@FUZZ
@given(steps=STEPS)
def test_verification(result: dict[str, Any], steps: list[Step]) -> None:
    runs = [
        Run(student=student, seed=seed, metrics={"accuracy": value})
        for student, values in ACCURACIES.items()
        for seed, value in enumerate(values)
    ]
    row = Result.from_json(result)
    made = make_verification(row, runs, device="cpu", threads=1, at_once=1, versions={"torch": "2"})
    taken_or_told(lambda: check_verification(mutated(made.to_json(), steps), row, "x.verified.json"), "x.verified.json")


def packed(header: Any, tensors: dict[str, Any], data: bytes) -> bytes:
    """A safetensors file with any header and any table of tensors, true or not."""
    table = {"__metadata__": {"ddbench": json.dumps(header)}, **tensors}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def unpacked(content: bytes) -> tuple[Any, dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    table = json.loads(content[8 : 8 + length])
    return json.loads(table.pop("__metadata__")["ddbench"]), table, content[8 + length :]


def make_synset(path: Path) -> None:
    """A synset with everything that one can have: soft labels, learned rates, stages, a teacher."""
    write_synset(
        path,
        Synset(
            images=torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
            labels=torch.eye(2).repeat(2, 1),
            preprocess={"kind": "meanstd", "mean": [0.3], "std": [0.4]},
            budget=Budget("ipc", 2),
            dataset="digits",
            fingerprint="0" * 64,
            class_names=("a", "b"),
            method="pdd",
            config={"iterations": 5},
            seed=0,
            learned_lr=torch.tensor([0.1, 0.2]),
            stage=torch.tensor([0, 0, 1, 1]),
            decoder=MultiFormation(factor=2),
            teacher={"sha256": "1" * 64},
        ),
    )


def make_teacher(path: Path) -> None:
    net = build_student("convnet-d1-w4-bn", channels=1, size=8, classes=2, seed=0)
    header = {
        "kind": "ddbench-teacher",
        "schema": 1,
        "dataset": "digits",
        "dataset_fingerprint": "0" * 64,
        "class_names": ["a", "b"],
        "student": "convnet-d1-w4-bn",
        "shape": [1, 8, 8],
        "preprocess": {"kind": "meanstd", "mean": [0.3], "std": [0.4]},
        "recipe": {"holdout": 0.1},
        "seed": 0,
        "curves": {"holdout_accuracy": [0.5]},
        "test_accuracy": 0.5,
        "versions": {},
    }
    write_tensors(path, net.state_dict(), header)


def make_labels(path: Path) -> None:
    header = {
        "kind": "ddbench-labels",
        "schema": 1,
        "synset_sha256": "0" * 64,
        "teacher": {"sha256": "1" * 64},
        "views": {"batch": 4},
        "seed": 0,
        "epochs": 2,
        "images": 4,
        "classes": 3,
        "precision": "float32",
        "probe": {"index": [0], "share": 1.0, "means": [0.5]},
        "versions": {},
    }
    write_tensors(path, {"logits": torch.zeros(2, 4, 3, dtype=torch.float16)}, header)


def read_whole_synset(path: Path) -> None:
    synset = read_synset(path)
    Preprocess.from_json(synset.preprocess, None)
    assert synset.decoded_images >= len(synset.images)
    synset.hard_labels()


READERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "synset": (make_synset, read_whole_synset),
    "teacher": (make_teacher, read_teacher),
    "labels": (make_labels, lambda path: read_labels(path).verify()),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A valid file of each kind."""
    root = tmp_path_factory.mktemp("originals")
    for kind, (make, read) in READERS.items():
        make(root / kind)
        read(root / kind)
    return {kind: (root / kind).read_bytes() for kind in READERS}


def read_both(kind: str, content: bytes, folder: Path) -> None:
    """With the reader of the kind, and with the one that needs no torch."""
    path = folder / "file.safetensors"
    path.write_bytes(content)
    taken_or_told(lambda: READERS[kind][1](path), "file.safetensors" if kind != "synset" else "")
    taken_or_told(lambda: read_header(path, f"ddbench-{kind}"), "file.safetensors")


@pytest.mark.parametrize("kind", READERS)
@FUZZ
@given(steps=STEPS)
def test_headers(originals: dict[str, bytes], tmp_path: Path, kind: str, steps: list[Step]) -> None:
    header, table, data = unpacked(originals[kind])
    read_both(kind, packed(mutated(header, steps), table, data), tmp_path)


@pytest.mark.parametrize("kind", READERS)
@FUZZ
@given(steps=STEPS)
def test_tables_of_tensors(originals: dict[str, bytes], tmp_path: Path, kind: str, steps: list[Step]) -> None:
    header, table, data = unpacked(originals[kind])
    changed = mutated(table, steps)
    read_both(kind, packed(header, changed if isinstance(changed, dict) else {}, data), tmp_path)


@pytest.mark.parametrize("kind", READERS)
@FUZZ
@given(changes=FLIPS, cut=CUT)
def test_bytes(
    originals: dict[str, bytes], tmp_path: Path, kind: str, changes: list[tuple[int, int]], cut: int
) -> None:
    read_both(kind, flipped(originals[kind], changes, cut), tmp_path)


DTYPES = ["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "F32", "I64", "U64", "F64"]


@pytest.mark.parametrize("kind", READERS)
@FUZZ
@given(
    types=st.dictionaries(
        st.sampled_from(["images", "labels", "lr", "stage", "logits", "extra"]),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(min_value=0, max_value=4), max_size=5)),
        max_size=4,
    ),
    fill=st.integers(min_value=0, max_value=255),
)
@example(types={"lr": ("F8_E4M3", [1])}, fill=0)
@example(types={"stage": ("I64", [0])}, fill=0)
@example(types={"images": ("F32", [4, 1, 8, 8]), "labels": ("F32", [4, 0])}, fill=0)
def test_true_tables_of_odd_tensors(
    originals: dict[str, bytes], tmp_path: Path, kind: str, types: dict[str, tuple[str, list[int]]], fill: int
) -> None:
    """Well-formed files whose tensors are of any type and shape."""
    header, table, data = unpacked(originals[kind])
    made = {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in table.items()
    }
    width = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
    for name, (dtype, shape) in types.items():
        count = width.get(dtype, 4 if dtype.endswith("32") else 8)
        for side in shape:
            count *= side
        made[name] = (dtype, shape, bytes([fill if dtype != "BOOL" else fill % 2]) * count)
    entries, content = {}, b""
    for name, (dtype, shape, values) in made.items():
        offsets = [len(content), len(content) + len(values)]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        content += values
    read_both(kind, packed(header, entries, content), tmp_path)


@FUZZ
@given(changes=FLIPS, cut=CUT)
def test_previews(tmp_path: Path, changes: list[tuple[int, int]], cut: int) -> None:
    data = flipped(png(), changes, cut)
    path = tmp_path / "x.png"
    path.write_bytes(data)
    taken_or_told(lambda: clean_png(data, "x.png"), "x.png")
    taken_or_told(lambda: published_png(path), "x.png")
