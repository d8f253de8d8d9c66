"""A folder of the form ``hub`` becomes a synset again, to the byte; nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddbench.data.limits import require_memory
from ddbench.exchange.read import MAX_FILE, Content
from ddbench.hub import CARD, DATA, INFO, KIND, LABELS, SCHEMA, parquet
from ddbench.hub.columns import numbers, pictures
from ddbench.protocols import labels as stored
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, file_hash, plain_file, read_json, write_atomic
from ddbench.runtime.hub_library import anew, whole_file
from ddbench.runtime.tensors import parse_header
from ddbench.synset import KIND as SYNSET
from ddbench.synset import MAX_CLASSES, MAX_IMAGES, MAX_SIDE
from ddbench.synset import SCHEMA as SYNSET_SCHEMA

BATCH_BYTES = 2**30
"""A batch of rows has no more, even where each of them is as large as its whole group."""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """What ``synset.json`` of a folder says.

    Attributes:
        header: of the synset.
        shape: N, C, H, W.
        lr: learned rates.
        sha256: of the synset's file.
        labels: header and sha256 of the stored labels, None where there are none.
    """

    path: Path
    header: dict[str, Any]
    shape: tuple[int, ...]
    lr: Tensor | None
    sha256: str
    labels: dict[str, Any] | None

    @property
    def dataset(self) -> str:
        """The dataset that the synset was distilled from."""
        return str(self.header.get("dataset"))


def open_hub(path: Path) -> Hub:
    """Read and check what ``synset.json`` says.

    Raises:
        UserError: damaged, foreign, or made by a newer ddbench.
    """
    where = path / INFO
    found = read_json(where, "synset's description")
    parse_header(where, canonical_json(found), KIND, SCHEMA)
    header = found.get("synset")
    if not isinstance(header, dict):
        raise UserError(f"{where}: 'synset' is {header!r:.60}, expected the synset's header")
    parse_header(where, canonical_json(header), SYNSET, SYNSET_SCHEMA)
    shape = found.get("shape")
    if (
        not _whole(shape)
        or len(shape) != 4
        or not (shape[0] <= MAX_IMAGES and shape[1] <= 16 and max(shape[2:]) <= MAX_SIDE)
    ):
        raise UserError(f"{where}: 'shape' is {shape!r:.60}, expected images, channels, height and width")
    if not isinstance(found.get("sha256"), str):
        raise UserError(f"{where}: 'sha256' is {found.get('sha256')!r:.60}, expected the hash of the synset")
    labels = found.get("labels")
    if labels is not None and not (isinstance(labels, dict) and isinstance(labels.get("header"), dict)):
        raise UserError(f"{where}: 'labels' is {labels!r:.60}, expected null, or header and sha256")
    return Hub(
        path=path,
        header=header,
        shape=tuple(shape),
        lr=_rates(where, found.get("lr")),
        sha256=found["sha256"],
        labels=labels,
    )


def _whole(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and one > 0 for one in value)


def _rates(where: Path, found: Any) -> Tensor | None:
    if found is None:
        return None
    values = found.get("values") if isinstance(found, dict) else None
    shape = found.get("shape") if isinstance(found, dict) else None
    plain = isinstance(values, list) and all(type(one) in (int, float) for one in values)
    if not plain or shape not in ([], [len(values or ())]) or (shape == [] and len(values or ()) != 1):
        raise UserError(f"{where}: 'lr' is {found!r:.60}, expected shape and values of the learned rates")
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


def read_content(hub: Hub) -> Content:
    """The images and labels of a folder.

    Raises:
        UserError: no pyarrow, files that are missing, damaged, too large, or not what ``synset.json`` says.
    """
    count, *shape = hub.shape
    pixels = hub.header.get("space") == "pixels"
    size = int(np.prod(hub.shape)) * (1 if pixels else 4)
    if size > MAX_FILE:
        raise UserError(f"{hub.path}: images of shape {list(hub.shape)} are too large for a synset")
    require_memory(size, f"{hub.path}: {count} images", "import it on a larger machine")
    files = _files(hub.path, DATA, MAX_FILE)
    image = "image" if pixels and shape[0] in (1, 3) else "tensor"
    label = "label" if hub.header.get("label_kind") == "hard" else "soft_label"
    _columns(files, count, (image, label))
    _check_counts(files, max(int(np.prod(shape)), 1 if label == "label" else _classes(hub)))
    images, labels, stages = [], [], []
    for path, batch in _batches(files, 1000):
        rows = batch.num_rows
        wide = (rows, *shape)
        column = batch.column(image)
        dtype = "uint8" if pixels else "float32"
        images.append(pictures(path, column, wide) if image == "image" else numbers(path, image, column, wide, dtype))
        if label == "label":
            labels.append(numbers(path, label, batch.column(label), (rows,), "int64"))
        else:
            labels.append(numbers(path, label, batch.column(label), (rows, _classes(hub)), "float32"))
        if "stage" in batch.schema.names:
            stages.append(numbers(path, "stage", batch.column("stage"), (rows,), "int64"))
    return Content(
        form="an export of ddbench for hubs",
        images=torch.cat(images),
        labels=torch.cat(labels),
        lr=hub.lr,
        stage=torch.cat(stages) if stages else None,
        header=hub.header,
    )


def _classes(hub: Hub) -> int:
    names = hub.header.get("class_names")
    if not isinstance(names, list) or not 2 <= len(names) <= MAX_CLASSES:
        raise UserError(f"{hub.path / INFO}: class_names is not a list of 2 to {MAX_CLASSES} names")
    return len(names)


def _files(path: Path, folder: str, limit: int) -> list[tuple[Path, Any]]:
    """The parquet files of a folder, opened.

    Raises:
        UserError: there are none, one is damaged, or together they are too large.
    """
    _, pq = parquet()
    found = []
    left = limit
    for one in sorted((path / folder).glob("train-*.parquet")):
        left -= plain_file(one, "parquet file", max(left, 0))
        with whole_file(one):
            opened = pq.ParquetFile(one)
        unfolded = sum(opened.metadata.row_group(n).total_byte_size for n in range(opened.num_row_groups))
        if unfolded > limit:
            raise UserError(f"{one}: unfolds to {unfolded:,} bytes, too large")
        found.append((one, opened))
    if not found:
        raise UserError(f"{path}: no {folder}/train-*.parquet in it; copy or pull it again")
    return found


def _columns(files: list[tuple[Path, Any]], count: int, names: tuple[str, ...]) -> None:
    """Refuse files without a column, or with another number of rows."""
    rows = sum(opened.metadata.num_rows for _, opened in files)
    if rows != count:
        raise UserError(f"{files[0][0].parent}: {rows} rows, but {INFO} says {count}; copy or pull it again")
    for path, opened in files:
        for name in names:
            if name not in opened.schema_arrow.names:
                raise UserError(f"{path}: has no column {name!r} (it has: {', '.join(opened.schema_arrow.names)[:80]})")


def _check_counts(files: list[tuple[Path, Any]], most: int) -> None:
    """Refuse lists that are too long before they are read: equal values are stored once, whatever their number.

    Args:
        most: values in a row of any column.
    """
    for path, opened in files:
        for number in range(opened.num_row_groups):
            with whole_file(path):  # no row is read: arrow refuses here what would end the process in column()
                next(opened.reader.iter_batches(0, [number]), None)
            group = opened.metadata.row_group(number)
            held = max((group.column(place).num_values for place in range(group.num_columns)), default=0)
            if held > most * group.num_rows:
                raise UserError(f"{path}: {held:,} values in {group.num_rows:,} rows, at most {most:,} in one are read")


def _batches(files: list[tuple[Path, Any]], rows: int) -> Iterator[tuple[Path, Any]]:
    for path, opened in files:
        sizes = (opened.metadata.row_group(number).total_byte_size for number in range(opened.num_row_groups))
        left = opened.metadata.num_rows
        with whole_file(path):
            for batch in opened.iter_batches(max(1, min(rows, BATCH_BYTES // max([1, *sizes])))):
                left -= batch.num_rows
                yield path, batch
        if left:
            raise UserError(f"{path}: {left:,} of {opened.metadata.num_rows:,} rows are missing; {anew(path)}")


def check_whole(path: Path) -> None:
    """Refuse a folder that lacks a part: the images are read, of stored labels the files are counted.

    Raises:
        UserError: as :func:`open_hub` and :func:`read_content`, no card, or files of labels that are missing.
    """
    hub = open_hub(path)
    read_content(hub)
    if not (path / CARD).is_file():  # it is written last
        raise UserError(f"{path}: no {CARD} in it: its export was not finished; export it again")
    if hub.labels is not None:
        _label_files(hub)


def _label_files(hub: Hub) -> tuple[tuple[int, int, int], list[tuple[Path, Any]]]:
    """Epochs, images and classes of the stored labels of a folder, and their files.

    Raises:
        UserError: a header that does not fit, or files that are missing or not of this shape.
    """
    assert hub.labels is not None
    header, where = hub.labels["header"], hub.path / INFO
    shape = tuple(header.get(name) for name in ("epochs", "images", "classes"))
    if not _whole(list(shape)) or stored.label_bytes(*shape) > stored.MAX_LABELS:
        raise UserError(f"{where}: stored labels of shape {list(shape)}, expected epochs, images and classes")
    epochs, images, classes = shape
    files = _files(hub.path, LABELS, stored.MAX_LABELS)
    _columns(files, epochs * images, ("epoch", "index", "logits"))
    _check_counts(files, classes)
    return (epochs, images, classes), files


def write_labels(hub: Hub, out: Path) -> None:
    """Write the stored labels of a folder as ``labels.safetensors``; one batch is in memory at a time.

    Raises:
        UserError: rows that are missing or not in order, a header that does not fit, or the disk refuses.
    """
    assert hub.labels is not None
    header = hub.labels["header"]
    (epochs, images, classes), files = _label_files(hub)

    def save(temporary: Path) -> None:
        start = 0
        with open(temporary, "wb") as handle:
            handle.write(stored.label_prefix(header, (epochs, images, classes)))
            for path, batch in _batches(files, 10_000):
                count = batch.num_rows
                place = numbers(path, "epoch", batch.column("epoch"), (count,), "int64") * images
                place += numbers(path, "index", batch.column("index"), (count,), "int64")
                if not torch.equal(place, torch.arange(start, start + count)):
                    raise UserError(f"{path}: its rows are not in the order of epochs and images; pull it again")
                rows = numbers(path, "logits", batch.column("logits"), (count, classes), "float16")
                handle.write(rows.numpy().astype("<f2", copy=False).tobytes())
                start += count

    write_atomic(out, save)
    try:
        stored.read_labels(out).verify()
    except UserError:
        out.unlink()
        raise


def same_bytes(written: Path, sha256: str) -> str:
    """In words, whether a file that was written is the one that was published."""
    found = file_hash(written)
    if found == sha256:
        return f"{written.name}: the published bytes, sha256 {sha256[:16]}"
    return (
        f"{written.name}: NOT the published bytes (sha256 {found[:16]}, published {sha256[:16]}): changed by a flag or "
        "since it was published, or published by another version"
    )
