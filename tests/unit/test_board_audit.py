"""Hostile boards: every file under results/ is refused that is not what it should be; one line, nothing written."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import listing
from test_leaderboard import CONVNET, chunk, huge, make_run, png, safetensors, submit, synset_bytes

from ddbench.cli import leaderboard as verb
from ddbench.leaderboard.audit import check_board
from ddbench.leaderboard.images import clean_png
from ddbench.leaderboard.schema import read_result, result_id
from ddbench.runtime.errors import UserError


@pytest.fixture
def row(tmp_path: Path) -> Path:
    """A row on an otherwise empty board."""
    return submit(make_run(tmp_path / "run"), tmp_path / "board")


def board_of(row: Path) -> Path:
    return row.parents[4]


def refused(row: Path, *words: str) -> None:
    """``check`` and ``build`` say one line with these words and write nothing."""
    board = board_of(row)
    before = listing(board)
    for argv in (["check"], ["build"], ["build", "--check"]):
        with pytest.raises(UserError) as caught:
            verb.main([*argv, "--leaderboard", str(board)])
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 700
        for word in words:
            assert word in message, message
    assert listing(board) == before


def synset_of(row: Path) -> Path:
    return row.with_name(f"{row.stem}.synset.safetensors")


def replace_synset(row: Path, content: bytes, change: Callable[[dict[str, Any]], object] = lambda result: None) -> Path:
    """Put a synset and a row that names its hash in the place of a row; the row's new file."""
    result = read_result(row).to_json()
    for path in row.parent.glob(f"{row.stem}.*"):
        path.unlink()
    result["synset"]["sha256"] = hashlib.sha256(content).hexdigest()
    change(result)
    result["id"] = result_id(result)
    new = row.with_name(f"{result['id']}.json")
    new.write_text(json.dumps(result))
    synset_of(new).write_bytes(content)
    return new


def test_an_honest_board_passes(row: Path) -> None:
    assert check_board(board_of(row)) == {"rows": 1, "files": 2, "verified": 0}
    (row.parent / ".x.json.123.0a1b2c3d.tmp").touch()  # what a killed write leaves
    assert check_board(board_of(row))["rows"] == 1


def test_no_board(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such leaderboard folder"):
        check_board(tmp_path / "nowhere")


NAMES = {
    "page": "results/digits/ipc1/mtt/index.html",
    "svg": "results/digits/ipc1/mtt/0123456789abcdef.svg",
    "code": "results/digits/ipc1/mtt/setup.py",
    "hidden": "results/digits/ipc1/mtt/.htaccess",
    "too high": "results/0123456789abcdef.json",
    "too deep": "results/digits/ipc1/mtt/more/0123456789abcdef.json",
    "folder": "results/digits/ipc1/M T T/0123456789abcdef.json",
    "control": "results/digits/ipc1/mtt/\x1b[2J.json",
    "direction": "results/digits/ipc1/mtt/\u202egnp.json",
    "longer id": "results/digits/ipc1/mtt/0123456789abcdef0.json",
    "capitals": "results/digits/ipc1/mtt/0123456789ABCDEF.json",
}


@pytest.mark.parametrize("name", NAMES)
def test_files_that_no_board_has(row: Path, name: str) -> None:
    path = board_of(row) / NAMES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    with pytest.raises(UserError) as caught:
        check_board(board_of(row))
    assert "of a board" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_file_without_its_row(row: Path) -> None:
    row.with_name("0123456789abcdef.png").write_bytes(png())
    refused(row, "0123456789abcdef", "not there")


@pytest.mark.parametrize("suffix", [".json", ".png", ".synset.safetensors"])
def test_links_are_not_followed(row: Path, tmp_path: Path, suffix: str) -> None:
    path = row.with_name(row.stem + suffix)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    refused(row, path.name, "link")


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_linked_folders_are_not_followed(row: Path, tmp_path: Path, level: int) -> None:
    folder = row.parents[level - 1]
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    refused(row, "link")


def test_a_pipe_is_not_opened(row: Path) -> None:
    path = row.with_name("0123456789abcdef.json")
    os.mkfifo(path)
    with pytest.raises(UserError, match="neither file nor folder"):
        check_board(board_of(row))


def test_large_files_are_refused_unread(row: Path) -> None:
    path = synset_of(row)
    with open(path, "r+b") as handle:
        handle.truncate(10 * 2**30)  # sparse
    with pytest.raises(UserError, match="too large"):
        check_board(board_of(row))


def test_a_synset_with_another_hash(row: Path) -> None:
    content = bytearray(synset_of(row).read_bytes())
    content[-1] ^= 1
    synset_of(row).write_bytes(content)
    refused(row, synset_of(row).name, "sha256", row.stem)


class Payload:
    """What a pickle would do to whoever opens it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (3,))


def archive(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


BAD_SYNSETS: dict[str, tuple[bytes, str]] = {
    "pickle": (pickle.dumps(Payload()), "not a safetensors file"),
    "empty": (b"", "not a safetensors file"),
    "header of 10 GB": (struct.pack("<Q", 10 * 2**30) + b"{}", "not a safetensors file"),
    "header is no JSON": (archive(b"(" * 100), "not a whole safetensors"),
    "header is a list": (archive(b"[1, 2]"), "not a whole safetensors"),
    "deep header": (archive(b"[" * 100_000), "not a whole safetensors"),
    "10 GB declared": (
        safetensors({"images": ("U8", [10 * 2**30], b"")}, {"kind": "ddbench-synset"}),
        "declares tensors that are not in it",
    ),
    "negative shape": (
        safetensors({"images": ("U8", [-1, -1], b"x")}, {"kind": "ddbench-synset"}),
        "declares tensors that are not in it",
    ),
    "huge side": (
        safetensors({"images": ("F32", [10**400, 0], b"")}, {"kind": "ddbench-synset"}),
        "its images is not",
    ),
    "unknown dtype": (safetensors({"images": ("X9", [1], b"x")}, {"kind": "ddbench-synset"}), "not a whole"),
    "other kind": (safetensors({}, {"kind": "ddbench-labels"}), "not a ddbench-synset file"),
    "nobody's": (safetensors({}, 5), "not a ddbench-synset file"),
    "no images": (safetensors({}, {"kind": "ddbench-synset"}), "its images is not"),
    "bytes after the end": (safetensors({}, {"kind": "ddbench-synset"}) + b"tail", "declares"),
    "escape codes": (safetensors({}, {"kind": "ddbench-synset", "note": "\x1b[2J"}), "x1b"),
}


@pytest.mark.parametrize("name", BAD_SYNSETS)
def test_synsets_that_are_none(row: Path, name: str) -> None:
    content, word = BAD_SYNSETS[name]
    refused(replace_synset(row, content), word)


LIES = {
    "method": {"method": "random"},
    "dataset": {"dataset": "mnist"},
    "fingerprint": {"dataset_fingerprint": "0" * 64},
    "budget": {"budget": {"unit": "ipc", "value": 50}},
    "config": {"config": {"iterations": 1}},
    "student": {"student": "resnet18-bn"},
    "seed": {"seed": 7},
    "preprocess": {"preprocess": {"kind": "zca"}},
    "classes": {"class_names": ["a", "b"]},
}


@pytest.mark.parametrize("name", LIES)
def test_a_row_that_says_other_things_than_its_synset(row: Path, name: str) -> None:
    said = read_result(row).synset.to_json()
    refused(replace_synset(row, synset_bytes(said, **LIES[name])), "is not what row")


def test_a_row_that_counts_fewer_images_or_bytes(row: Path) -> None:
    said = read_result(row).synset.to_json()

    def fewer(result: dict[str, Any]) -> None:
        result["synset"]["images"] = 5

    def smaller(result: dict[str, Any]) -> None:
        stored = result["synset"]["bytes"]
        stored.update(images=1, total=stored["total"] - stored["images"] + 1)

    whole = row.read_bytes()
    new = replace_synset(row, synset_bytes(said), fewer)
    refused(new, "its images is not")
    new.unlink()
    synset_of(new).unlink()
    row.write_bytes(whole)
    refused(replace_synset(row, synset_bytes(said), smaller), "bytes.images")


UNTOLD: dict[str, Callable[[dict[str, Any]], object]] = {
    "label_kind": lambda said: said.update(label_kind="soft"),
    "decoded_images": lambda said: said.update(decoded_images=90),
    "bytes.labels": lambda said: said["bytes"].update(labels=0, total=said["bytes"]["total"] - 10),
    "bytes.other": lambda said: said["bytes"].update(other=0, total=said["bytes"]["total"] - 4),
    "bytes.augmentation": lambda said: said["bytes"].update(augmentation=8, total=said["bytes"]["total"] + 8),
    "bytes.teacher": lambda said: said["bytes"].update(teacher=8, total=said["bytes"]["total"] + 8),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_what_follows_from_a_synset_and_the_protocol_is_not_the_rows_to_say(row: Path, name: str) -> None:
    content = synset_of(row).read_bytes()
    refused(replace_synset(row, content, lambda result: UNTOLD[name](result["synset"])), f"its {name} is not what row")


def test_a_learned_rate_that_the_synset_does_not_have(row: Path) -> None:
    said = read_result(row).synset.to_json()

    def without_bytes(result: dict[str, Any]) -> None:
        result["synset"]["bytes"].update(other=0, total=650)

    content = synset_bytes({**said, "learned_lr": None})
    refused(replace_synset(row, content, without_bytes), "its learned_lr is not what row")


def test_rows_of_the_same_data_say_one_size_of_it(row: Path, tmp_path: Path) -> None:
    """By which compression is told."""
    board = board_of(row)
    submit(make_run(tmp_path / "other", seed=5), board)
    submit(make_run(tmp_path / "mnist", dataset="mnist"), board)
    assert check_board(board)["rows"] == 3

    def huge_set(result: dict[str, Any]) -> None:
        result["synset"]["bytes"]["real"] = 10**15

    refused(replace_synset(row, synset_of(row).read_bytes(), huge_set), "one of the two rows is wrong", f"{10**15:,}")


def test_a_teacher_that_the_row_does_not_have(row: Path) -> None:
    row.with_name(f"{row.stem}.teacher.safetensors").write_bytes(b"x")
    refused(row, "trained without teacher")


def bomb() -> bytes:
    """A small PNG whose text chunk unfolds to 64 MB."""
    packed = zlib.compressobj(9)
    text = b"".join(packed.compress(bytes(2**20)) for _ in range(64)) + packed.flush()
    data = png()
    return data[:33] + chunk(b"zTXt", b"x\0\0" + text) + data[33:]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (huge(100_000, 100_000), "4096 a side"),
        (huge(4000, 4000), "not a whole PNG"),
        (b"<svg onload=alert(1)>" + bytes(40), "not a PNG"),
        (png() + b"<script>", "after the end"),
        (png()[:60], "not a whole PNG"),
    ],
)
def test_previews(row: Path, data: bytes, word: str) -> None:
    row.with_suffix(".png").write_bytes(data)
    refused(row, f"{row.stem}.png", word)


def test_a_decompression_bomb_is_not_unfolded() -> None:
    data = bomb()
    assert len(data) < 10**6
    with pytest.raises(UserError, match=r"x\.png: not a whole PNG"):
        clean_png(data, "x.png")


def test_a_row_takes_no_others_place(row: Path, tmp_path: Path) -> None:
    """A hand-made row that supersedes one with more runs, or of another synset."""
    board = board_of(row)
    for run in (make_run(tmp_path / "less", {CONVNET: [0.99]}), make_run(tmp_path / "other", seed=5)):
        other = submit(run, tmp_path / "elsewhere")
        result = read_result(other).to_json()
        result["supersedes"] = row.stem
        result["id"] = result_id(result)
        new = board / other.relative_to(tmp_path / "elsewhere").with_name(f"{result['id']}.json")
        new.write_text(json.dumps(result))
        refused(row, "supersedes")
        new.unlink()


def test_a_copied_row_is_refused(row: Path) -> None:
    """The same id twice: only one place fits a row."""
    copy = board_of(row) / "results/digits/ipc1/random" / row.name
    copy.parent.mkdir()
    copy.write_bytes(row.read_bytes())
    refused(row, "belongs at")


OTHERS = {
    "settings of another": (lambda p: p["settings"].update(epochs=1), "hash"),
    "hash fits, name does not": (lambda p: (p["settings"].update(epochs=1), p.update(hash="1")), "epochs"),
    "alteration not told": (lambda p: p.update(standard=False), "standard"),
    "alteration told wrong": (lambda p: p.update(standard=False, changed={"epochs": 7}), "epochs"),
    "unknown setting": (lambda p: p["settings"].update(epoch=5), "epoch"),
    "unknown setting of nothing": (lambda p: p["settings"].update(epoch=None), "epoch 'None' is no value"),
    "setting of another kind": (lambda p: p["settings"].update(lr_students=5), "lr"),
    "huge setting": (lambda p: p["settings"].update(lr=10**400), "lr"),
    "nothing": (lambda p: p["settings"].update(epochs=None), "epochs"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_result_of_another_protocol(row: Path, name: str) -> None:
    from ddbench.protocols.protocol import PROTOCOLS, changed

    change, word = OTHERS[name]
    result = read_result(row).to_json()
    change(result["protocol"])
    if result["protocol"]["hash"] == "1":
        result["protocol"]["hash"] = changed(PROTOCOLS["hard-v1"], epochs=1)[0].hash
    result["id"] = result_id(result)
    new = row.with_name(f"{result['id']}.json")
    for path in row.parent.iterdir():
        path.unlink()
    new.write_text(json.dumps(result))
    refused(new, "protocol", word)
