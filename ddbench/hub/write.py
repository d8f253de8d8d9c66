"""A run becomes a folder that ``datasets`` reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddbench.evaluation.result import Evaluation
from ddbench.exchange.read import MAX_FILE
from ddbench.exchange.write import ANOTHER
from ddbench.hub import CARD, DATA, INFO, KIND, LABELS, PREVIEW, SCHEMA, parquet, shard_name
from ddbench.hub.card import Place, Subject, card
from ddbench.hub.columns import Feature, arrays_of, features_of, fixed, lists, nested, schema, value
from ddbench.leaderboard.board import read_board
from ddbench.leaderboard.evaluated import checked_evaluation
from ddbench.methods import fitting_protocol
from ddbench.protocols import labels as stored
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, file_hash, read_json, write_atomic, write_json, write_text
from ddbench.runtime.temporary import is_temporary
from ddbench.runtime.tensors import open_tensors
from ddbench.synset import Synset, read_synset, synset_path

ROWS = 1000
"""Images of a row group: so many are encoded at a time."""

SHARD = 512 * 2**20
"""Bytes of logits in one file of stored labels."""


@dataclass(frozen=True)
class Exported:
    """Files that were written, and what to tell beside."""

    files: list[Path]
    notes: list[str]


def export_hub(place: Path, out: Path, board: Path | None = None) -> Exported:
    """Write a run, or a synset file, as a folder that ``datasets.load_dataset`` and ``ddbench import`` read.

    Needs no dataset. Stored labels of its views, where the run has them, become a second configuration.

    Args:
        board: folder of a leaderboard whose rows of this synset go into the card; None: ``leaderboard`` where it is.

    Raises:
        UserError: no synset, no pyarrow, one too large to be imported, something else in ``out`` or among the
            evaluations, a broken board, or the disk refuses.
    """
    parquet()
    path = synset_path(place)
    synset = read_synset(path)
    if synset.decoder is not None and synset.parameters:
        raise UserError(
            f"{path}: holds parameters of the decoder {synset.decoder.kind}, no images to put into columns; export it "
            "with --format npz (exact) or png (decoded)"
        )
    _check_size(path, synset.images.numel() * synset.images.element_size())
    info: dict[str, Any] = {
        "kind": KIND,
        "schema": SCHEMA,
        "synset": synset.header(),
        "shape": list(synset.images.shape),
        "lr": _rates(synset),
        "sha256": file_hash(path),
        "bytes": path.stat().st_size,
        "labels": None,
    }
    notes: list[str] = []
    labels = _labels(path, info, notes)
    subject = Subject(
        info=info,
        evaluations=_evaluations(path.parent, info["sha256"], notes),
        places=_places(board, info["sha256"]),
        preview=(path.parent / PREVIEW).is_file() and place.is_dir(),
        protocol=fitting_protocol(synset.method, {**synset.header(), "staged": synset.stage is not None}),
    )
    text = card(subject)
    _claim(out, info["sha256"])
    _withdraw(out, info)
    files = [_write(out / DATA / shard_name(0, 1), features_of(synset), _batches(synset), path)]
    if labels is not None:
        files += _write_labels(labels, out)
    if subject.preview:
        write_atomic(out / PREVIEW, lambda temporary: _copy(path.parent / PREVIEW, temporary))
        files.append(out / PREVIEW)
    _sweep(out, files)
    write_json(out / INFO, info)
    write_text(out / CARD, text)  # last: a card without the other file is somebody else's
    return Exported([*files, out / INFO, out / CARD], notes)


def _check_size(path: Path, size: int) -> None:
    """Refuse what :func:`ddbench.hub.read.read_content` would not take."""
    if size > MAX_FILE:
        raise UserError(
            f"{path}: {size:,} bytes in the form for hubs, and ddbench import takes at most {MAX_FILE:,}; hand over "
            "the file itself, which needs no import"
        )


def _rates(synset: Synset) -> dict[str, Any] | None:
    if synset.learned_lr is None:
        return None
    rates = synset.learned_lr.float()
    return {"shape": list(rates.shape), "values": rates.reshape(-1).tolist()}


def _labels(path: Path, info: dict[str, Any], notes: list[str]) -> stored.StoredLabels | None:
    """Stored labels that lie beside the synset and belong to it; ``info`` says what they are."""
    place = path.parent / "labels.safetensors"
    if not place.is_file():
        return None
    labels = stored.read_labels(place)
    if labels.synset_sha256 != info["sha256"]:
        notes.append(f"left out: {place}, which labels another synset")
        return None
    with open_tensors(place, stored.KIND, stored.SCHEMA) as (_, header):
        info["labels"] = {"header": header, "sha256": file_hash(place), "bytes": place.stat().st_size}
    return labels


def _evaluations(run: Path, sha256: str, notes: list[str]) -> list[Evaluation]:
    """Evaluations that lie beside the synset and belong to it.

    Raises:
        UserError: a file among them that is none.
    """
    found = []
    for path in sorted((run / "evaluations").glob("*.json")):
        if path.name.endswith(".cost.json"):
            continue
        said = read_json(path, "evaluation")
        synset = said.get("synset") if isinstance(said, dict) else None
        if isinstance(synset, dict) and synset.get("sha256") not in (None, sha256):
            notes.append(f"left out: {path}, which is of another synset")
        else:
            found.append(Evaluation(path, checked_evaluation(path, said)))
    return found


def _places(board: Path | None, sha256: str) -> list[Place]:
    """Where a synset stands on a board; a reference, which stands in several tables, once."""
    if board is None and not Path("leaderboard/results").is_dir():
        return []
    found: dict[str, Place] = {}
    for cell in read_board(board or Path("leaderboard")).cells:
        for row in cell.rows:
            for result in row.results:
                if result.synset.sha256 == sha256:
                    ranks = {student: cell.rank(row, student) for student in result.students}
                    place = Place(result=result, checked=row.verdicts.get(result.id), ranks=ranks)
                    found.setdefault(result.id, place)
    return list(found.values())


def _claim(out: Path, sha256: str) -> None:
    """Refuse a folder that holds anything but an export of this synset, whole or not.

    Raises:
        UserError: another export, or foreign files.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file, expected a folder")
    if not out.exists():
        return
    there = {entry.name for entry in out.iterdir() if not is_temporary(entry)}
    if INFO in there:
        found = read_json(out / INFO, "export")
        if isinstance(found, dict) and found.get("sha256") == sha256:
            return
        raise UserError(f"--out {out}: holds the export of another synset; {ANOTHER}")
    others = there - {DATA, LABELS, PREVIEW}  # a card without the other file too
    if others:
        raise UserError(f"--out {out}: holds {min(others)}, and this form wants a folder of its own; {ANOTHER}")


def _withdraw(out: Path, info: dict[str, Any]) -> None:
    """Take the description of an older export away where it is another one: until the end there is none, so that nobody
    reads the new files by it, whenever this is killed.
    """
    place = out / INFO
    if place.exists() and canonical_json(read_json(place, "export")) != canonical_json(info):
        (out / CARD).unlink(missing_ok=True)  # first: a card alone is somebody else's
        place.unlink()


def _batches(synset: Synset) -> Iterator[list[Any]]:
    for start in range(0, len(synset.images), ROWS):
        yield arrays_of(synset, start, start + ROWS)


def _write(path: Path, features: dict[str, Feature], batches: Iterator[list[Any]], source: Path | None = None) -> Path:
    """One parquet file, a row group a batch.

    Args:
        source: the synset's file, where what is written is all of it: how large that is only shows then.
    """
    pa, pq = parquet()
    first = next(batches)
    made = schema(features, first)

    def save(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, made, compression="zstd") as writer:
            writer.write_table(pa.Table.from_arrays(first, schema=made))
            for arrays in batches:
                writer.write_table(pa.Table.from_arrays(arrays, schema=made))
        if source is not None:
            groups = pq.read_metadata(temporary)
            unfolded = sum(groups.row_group(number).total_byte_size for number in range(groups.num_row_groups))
            _check_size(source, max(unfolded, temporary.stat().st_size))

    write_atomic(path, save)
    return path


def _write_labels(labels: stored.StoredLabels, out: Path) -> list[Path]:
    """A row a view in the order of epochs and images; whole epochs a file."""
    each = max(1, SHARD // stored.label_bytes(1, labels.images, labels.classes))
    starts = range(0, labels.epochs, each)
    features = {"epoch": value("int64"), "index": value("int64"), "logits": lists("float16", 1, labels.classes)}

    def epochs(start: int) -> Iterator[list[Any]]:
        index = torch.arange(labels.images)
        for epoch in range(start, min(start + each, labels.epochs)):
            rows = labels.rows(epoch)
            yield [nested(torch.full_like(index, epoch).numpy()), nested(index.numpy()), fixed(rows.numpy())]

    return [
        _write(out / LABELS / shard_name(number, len(starts)), features, epochs(start))
        for number, start in enumerate(starts)
    ]


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _sweep(out: Path, files: list[Path]) -> None:
    """Remove parquet files of an earlier export of this synset, which had more of them."""
    for folder in (DATA, LABELS):
        for path in (out / folder).glob("train-*.parquet"):
            if path not in files:
                path.unlink()
