"""What lies beside a row: synset, teacher and stored labels as safetensors. Read here without torch, nothing trusted.

Only headers are looked at, after the file's hash was compared with the one that the row names; numbers are read by
:mod:`ddbench.synset` and its like when a row is verified.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.leaderboard.consistency import protocol_of
from ddbench.leaderboard.result import Result, plain
from ddbench.leaderboard.schema import check_text
from ddbench.modalities import modality
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash, parse_json, plain_file

MAX_BYTES = 2 * 10**6
"""Larger files lie elsewhere: the row names an address and a hash."""
MAX_HEADER = 2**20
BYTES = {
    "U8": 1,
    "I8": 1,
    "BOOL": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "I64": 8,
    "F64": 8,
}
IMPORTED = "imported"
"""Method that ``ddbench import`` writes where none is named; the submission then names it."""


@dataclass(frozen=True)
class Part:
    """A kind of file that a row needs to be trained again.

    Attributes:
        name: what it is.
        suffix: end of its name, after the row's id.
        kind: of its header.
        flag: that gives ``submit`` or ``leaderboard verify`` the file.
    """

    name: str
    suffix: str
    kind: str
    flag: str


SYNSET = Part("synset", ".synset.safetensors", "ddbench-synset", "--synset")
TEACHER = Part("teacher", ".teacher.safetensors", "ddbench-teacher", "--teacher")
LABELS = Part("stored labels", ".labels.safetensors", "ddbench-labels", "--labels")
PARTS = (SYNSET, TEACHER, LABELS)
LABEL_FACTS = ("synset_sha256", "seed", "epochs", "precision", "views", "teacher")
"""What a file of stored labels and an evaluation with them both say: all that decides them."""


def beside(path: Path, part: Part) -> Path:
    """Where a part lies beside a row's file."""
    return path.with_name(path.stem + part.suffix)


def needed(result: Result) -> dict[Part, str | None]:
    """The parts that a row's training needs, with their sha256; None: the row names none.

    The row of all of the real set needs none: they are the dataset.
    """
    parts: dict[Part, str | None] = {}
    if result.synset.budget.unit != "all":
        parts[SYNSET] = result.synset.sha256
    if result.teacher is not None:
        parts[TEACHER] = result.teacher["sha256"]
    if result.labels is not None:
        parts[LABELS] = result.submission.labels_sha256
    return parts


def address(result: Result, part: Part) -> str | None:
    """Where a part can be fetched that is not beside the row."""
    said = result.submission
    return {SYNSET: said.synset_url, TEACHER: said.teacher_url, LABELS: said.labels_url}[part]


def check_part(path: Path, part: Part, result: Result, *, limit: int | None = MAX_BYTES) -> None:
    """Refuse a file that is not the one that a row names, or that does not say of itself what the row says of it.

    Args:
        limit: largest size in bytes; None: any.

    Raises:
        UserError: missing, too large, another hash, no safetensors file, or a header that does not fit the row.
    """
    expected = needed(result).get(part)
    if expected is None:
        what = "does not name its sha256" if part in needed(result) else f"was trained without {part.name}"
        raise UserError(f"{path}: row {result.id} {what}; remove this file")
    try:
        size = path.stat().st_size
        if limit is not None and size > limit:
            raise UserError(f"{path}: {size:,} bytes; at most {limit:,} lie beside a row, larger files by address")
        found = file_hash(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read it: {error.strerror or error}") from None
    if found != expected:
        raise UserError(f"{path}: sha256 {found[:12]}, row {result.id} is of {part.name} {expected[:12]}")
    tensors, header = read_header(path, part.kind)
    if part is SYNSET:
        _check_synset(path, tensors, header, result)
    elif part is TEACHER:
        _check_teacher(path, tensors, result)
    elif part is LABELS:
        _check_labels(path, tensors, header, result)


def read_header(path: Path, kind: str) -> tuple[dict[str, tuple[str, list[int]]], dict[str, Any]]:
    """Tensors (name -> dtype, shape) and ddbench's header of a safetensors file, without reading a number.

    Raises:
        UserError: not such a file, a header of more than 1 MiB, tensors that are larger or smaller than the file, or
            another kind.
    """
    size = plain_file(path, "safetensors file")
    with open(path, "rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise UserError(f"{path}: not a safetensors file; make it with ddbench")
        text = handle.read(length)
    try:
        table = json.loads(text)
        header = parse_json(table.pop("__metadata__")["ddbench"])
        tensors = {name: (entry["dtype"], entry["shape"], entry["data_offsets"]) for name, entry in table.items()}
        sizes = [BYTES[dtype] * math.prod(shape) for dtype, shape, _ in tensors.values()]
        spans = sorted(tuple(offsets) for _, _, offsets in tensors.values())
        whole = all(type(side) is int and side >= 0 for _, shape, _ in tensors.values() for side in shape)
        whole = whole and sorted(end - begin for begin, end in spans) == sorted(sizes)
        ends = [0, *(end for _, end in spans)]
        whole = whole and [begin for begin, _ in spans] == ends[:-1] and ends[-1] == size - 8 - length
        named = isinstance(header, dict) and header.get("kind") == kind
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: not a whole safetensors file with a header of ddbench; make it again") from None
    if not whole:
        raise UserError(f"{path}: declares tensors that are not in it; copy or make it again")
    if not named:
        raise UserError(f"{path}: not a {kind} file")
    check_text(header, str(path))
    return {name: (dtype, list(shape)) for name, (dtype, shape, _) in tensors.items()}, header


def _check_synset(path: Path, tensors: dict[str, Any], header: dict[str, Any], result: Result) -> None:
    """A row repeats what its synset's file says of itself, and what follows from that under its protocol."""
    said = result.synset
    names = header.get("class_names")
    kind = modality(said.modality)
    protocol = protocol_of(result.protocol, f"row {result.id}", kind.name)
    sized = {name: (dtype, shape, BYTES[dtype] * math.prod(shape)) for name, (dtype, shape) in tensors.items()}
    own = {
        **kind.stored(sized, header, protocol),
        "dataset": header.get("dataset"),
        "dataset_fingerprint": header.get("dataset_fingerprint"),
        "modality": header.get("modality"),
        "budget": header.get("budget"),
        "classes": len(names) if isinstance(names, list) else None,
        "student": header.get("student"),
        "seed": header.get("seed"),
        "config": header.get("config"),
    }
    if header.get("method") != IMPORTED:
        own["method"] = header.get("method")
    if result.labels is not None and "bytes.labels" in own:
        own["bytes.labels"] += _label_bytes(result)
    told = {**plain(said), **{f"bytes.{name}": size for name, size in plain(said.bytes).items()}}
    wrong = next((name for name, value in own.items() if told.get(name) != value), None)
    if wrong is None and "bytes.teacher" not in own and not said.bytes.teacher:
        wrong = "bytes.teacher"  # whose weights are needed, whatever they are
    if wrong is not None:
        raise UserError(f"{path}: its {wrong} is not what row {result.id} says; evaluate and submit the file again")


def _label_bytes(result: Result) -> int:
    """Bytes of the stored labels, as the row says."""
    size = (result.labels or {}).get("bytes")
    return size if type(size) is int else 0


def _check_teacher(path: Path, tensors: dict[str, Any], result: Result) -> None:
    """A teacher costs its weights as float32; one that is asked once and left none."""
    size = 4 * sum(math.prod(shape) for dtype, shape in tensors.values() if "F" in dtype)
    if result.synset.bytes.teacher not in (0, size):
        raise UserError(f"{path}: bytes.teacher is {size:,}, row {result.id} says otherwise; submit it again")


def _check_labels(path: Path, tensors: dict[str, Any], header: dict[str, Any], result: Result) -> None:
    """Stored labels are those that the row tells of, and as many bytes as it says."""
    if header.get("synset_sha256") != result.synset.sha256:
        raise UserError(f"{path}: labels of another synset than that of row {result.id}")
    size = sum(BYTES[dtype] * math.prod(shape) for dtype, shape in tensors.values())
    if _label_bytes(result) != size:
        raise UserError(f"{path}: {size:,} bytes of labels, row {result.id} says otherwise; submit it again")
    _same_labels(path, header, plain(result.labels) or {}, f"the labels of row {result.id}")


def check_own_labels(path: Path, result: Result) -> None:
    """Refuse a file of stored labels that are not those which an evaluation used: it may have been made anew since, or
    the students were given another one.

    Args:
        result: of the evaluation, whose ``labels`` tell everything that decides them.

    Raises:
        UserError: other labels, or no such file.
    """
    _, header = read_header(path, LABELS.kind)
    _same_labels(path, header, plain(result.labels) or {}, "the labels that were evaluated")


def _same_labels(path: Path, header: dict[str, Any], said: dict[str, Any], whose: str) -> None:
    for name in LABEL_FACTS:
        if header.get(name) != said.get(name):
            found, wanted = (str(one.get(name))[:60] for one in (header, said))
            raise UserError(f"{path}: its {name} is {found}, that of {whose} is {wanted}; give --labels FILE")
