"""Bits per class of a row, as stored and after zstd, and what of it a board's files decide."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from made_board import made_result, put

from ddbench.cli import leaderboard as verb
from ddbench.leaderboard import kept, rates
from ddbench.leaderboard.attachments import SYNSET, beside
from ddbench.leaderboard.board import read_board
from ddbench.leaderboard.pages.export import csv_text
from ddbench.leaderboard.pages.view import bits_text
from ddbench.leaderboard.rates import compressed
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.rows import Row
from ddbench.leaderboard.schema import check_result, result_id

NOISE = b"".join(hashlib.sha256(bytes([place])).digest() for place in range(20))
"""640 bytes that nothing compresses: ten images of 8 x 8."""
FLAT = bytes(640)
LABELS = b"".join(struct.pack("<q", label) for label in range(10))


def tensor_file(images: bytes, labels: bytes = LABELS, dtype: str = "I64", shape: tuple[int, ...] = (10,)) -> bytes:
    """A synset's file, as safetensors has it."""
    end = len(images)
    table = {
        "__metadata__": {"ddbench": json.dumps({"kind": "ddbench-synset"})},
        "images": {"dtype": "U8", "shape": [10, 1, 8, 8], "data_offsets": [0, end]},
        "labels": {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(labels)]},
    }
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + images + labels


def row_of(root: Path, content: bytes, method: str = "mtt", **said: Any) -> Result:
    """A row on the board with its synset beside it."""
    made = made_result(method, **{"rich": False, **said}).to_json()
    made["synset"]["sha256"] = hashlib.sha256(content).hexdigest()
    made["id"] = result_id(made)
    result = check_result(made, method)
    beside(put(root, result), SYNSET).write_bytes(content)
    return result


def only_row(root: Path) -> Row:
    (cell,) = read_board(root).cells
    return next(row for row in cell.rows if row.reference != "full")


def test_what_is_stored_counts_and_zstd_shortens_the_arrays_of_the_synset(tmp_path: Path) -> None:
    result = row_of(tmp_path, tensor_file(FLAT))
    row = only_row(tmp_path)
    assert result.synset.bytes.total == 640 + 10 + 4
    assert row.bits == 8 * 654 / 10
    packed = len(compressed(FLAT)) + 10 + 4  # ten classes of a byte each: not shorter after zstd
    assert row.packed == packed < 50
    assert row.packed_bits == float(f"{8 * packed / 10:.3g}")


def test_what_zstd_would_lengthen_stays_as_it_is(tmp_path: Path) -> None:
    row_of(tmp_path, tensor_file(NOISE))
    row = only_row(tmp_path)
    assert len(compressed(NOISE)) > len(NOISE)
    assert row.packed == row.stored


def test_soft_labels_are_an_array_like_any(tmp_path: Path) -> None:
    soft = struct.pack("<100f", *([1.0] * 100))
    row_of(tmp_path, tensor_file(NOISE, soft, "F32", (10, 10)), labels="soft")
    assert only_row(tmp_path).packed == 640 + len(compressed(soft)) + 4


def test_labels_that_a_protocol_replaces_count_as_they_are(tmp_path: Path) -> None:
    soft = struct.pack("<100f", *([1.0] * 100))
    content = tensor_file(FLAT, soft, "F32", (10, 10))
    made = made_result("mtt", rich=False, labels="soft").to_json()
    made["synset"]["sha256"] = hashlib.sha256(content).hexdigest()
    made["protocol"]["settings"] |= {"labels": "once"}
    assert rates._packed(content, Result.from_json(made)) == len(compressed(FLAT)) + 400 + 4


def test_a_row_without_its_synset_has_no_rate_after_zstd(tmp_path: Path) -> None:
    result = row_of(tmp_path, tensor_file(FLAT))
    path = next(tmp_path.rglob("*.synset.safetensors"))
    path.write_bytes(tensor_file(NOISE))  # another one than the row names
    assert only_row(tmp_path).packed is None
    path.unlink()
    assert only_row(tmp_path).packed_bits is None
    assert only_row(tmp_path).bits == 8 * result.synset.bytes.total / 10


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\xff" * 8 + data[8:], lambda data: b""])
def test_a_file_that_is_no_synset_is_not_read(tmp_path: Path, damage: Any) -> None:
    row_of(tmp_path, damage(tensor_file(FLAT)))
    assert only_row(tmp_path).packed is None


def test_labels_without_a_shape_are_told_by_their_bytes(tmp_path: Path) -> None:
    """A file that somebody made so; looking through the board refuses it, drawing it goes on."""
    row_of(tmp_path, tensor_file(FLAT, LABELS[:8], shape=()))
    assert only_row(tmp_path).packed == len(compressed(FLAT)) + 10 + 4


def test_what_another_row_says_of_the_same_file_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "cache"))
    content = tensor_file(NOISE, bytes(8000), shape=(1000,))
    honest = row_of(tmp_path / "board", content).to_json()
    honest["synset"]["bytes"] |= {"labels": 1000, "total": 1644}
    claimed = json.loads(json.dumps(honest))
    claimed["synset"]["classes"] = 257  # its labels would be of two bytes each, more than it says
    (more,) = rates.packed_bytes(tmp_path / "board", [Result.from_json(claimed)]).values()
    (less,) = rates.packed_bytes(tmp_path / "board", [Result.from_json(honest)]).values()
    assert (more, less) == (1644, 644 + len(compressed(bytes(8000))))


def test_random_subsets_have_the_mean_of_theirs(tmp_path: Path) -> None:
    for seed, images in enumerate((FLAT, NOISE)):
        row_of(tmp_path, tensor_file(images), "random", seed=seed)
    row = only_row(tmp_path)
    assert row.packed == (len(compressed(FLAT)) + 640) / 2 + 14
    next(tmp_path.rglob("*.synset.safetensors")).unlink()
    assert only_row(tmp_path).packed is None, "one subset does not speak for all"


def test_it_is_found_once_and_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "cache"))
    board = tmp_path / "board"
    row_of(board, tensor_file(FLAT))
    before = {path: path.read_bytes() for path in board.rglob("*") if path.is_file()}
    packed = only_row(board).packed
    monkeypatch.setattr(rates, "compressed", lambda data: pytest.fail("compressed again"))
    assert only_row(board).packed == packed
    assert {path: path.read_bytes() for path in board.rglob("*") if path.is_file()} == before
    row_of(board, tensor_file(NOISE), "dm")
    with pytest.raises(pytest.fail.Exception, match="compressed again"):
        read_board(board)


def test_tables_exports_and_show_have_it_and_follow_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row_of(tmp_path, tensor_file(FLAT))
    verb.main(["show", "--leaderboard", str(tmp_path)])
    text = capsys.readouterr().out
    row = only_row(tmp_path)
    assert "bits/class" in text
    assert bits_text(row.bits) == "523 bit"
    assert bits_text(row.bits) in text
    assert bits_text(row.packed_bits or 0) in text
    (first, *_) = csv.DictReader(io.StringIO(csv_text(read_board(tmp_path).cells)))
    assert float(first["bits_per_class"]) == row.bits
    assert float(first["zstd_bits_per_class"]) == row.packed_bits
    next(tmp_path.rglob("*.synset.safetensors")).unlink()
    verb.main(["show", "--leaderboard", str(tmp_path)])
    assert "after zstd" not in capsys.readouterr().out, "what was printed before is not printed again"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0.4, "0.4 bit"),
        (848, "848 bit"),
        (999.4, "999 bit"),
        (999.6, "1 kbit"),
        (20560, "20.6 kbit"),
    ],
)
def test_bits_as_text(count: float, text: str) -> None:
    assert bits_text(count) == text
