"""Datasets with a layout of their own: USPS (libsvm text) and STL-10 (raw bytes)."""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ddbench.data.dataset import Dataset, Split, make_dataset
from ddbench.data.limits import require_memory
from ddbench.data.sources import archive, read_or_fetch
from ddbench.data.spec import DatasetSpec
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import plain_file, read_bytes
from ddbench.runtime.progress import Console

MAX_LINE = 2**14
"""Bytes of a line of USPS, which has 256 numbers of a few digits each."""

MAX_LINES = 100_000
"""Images of a split of USPS, which has 7,291."""

MAX_PACKED = 2**28
"""Bytes of a file of USPS, which has 7 MB."""


def load_usps(spec: DatasetSpec, root: Path, download: bool = False, console: Console | None = None) -> Dataset:
    """USPS from libsvm's ``usps.bz2`` and ``usps.t.bz2`` in ``root/USPS`` (or in ``root``).

    A line is ``LABEL INDEX:VALUE ...``: label 1 is the digit 0, indices are 1 to 256 in rows, values from -1 to 1
    become 0 to 255, rounded down as torchvision does.

    Raises:
        UserError: no files and no ``download``, a failed download, or a damaged file.
    """
    folder = next((one for one in (root / "USPS", root) if (one / "usps.bz2").exists()), root / "USPS")
    paths = [folder / "usps.bz2", folder / "usps.t.bz2"]

    def read() -> list[Split]:
        for path in paths:
            if not path.exists():
                raise UserError(f"usps: {path} is not there; get it with --download, or give its folder with --data")
        return [_usps(path, spec) for path in paths]

    def fetch() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for train in (True, False):
            archive(spec, "USPS", folder, download=True, train=train)

    return make_dataset(spec, *read_or_fetch(read, fetch, download), root=root)


def _usps(path: Path, spec: DatasetSpec) -> Split:
    plain_file(path, "libsvm file", MAX_PACKED)
    images, labels = [], []
    try:
        with bz2.open(path, "rb") as handle:
            for number, line in enumerate(_lines(handle, path), 1):
                label, *entries = line.split()
                pairs = np.array([entry.split(b":") for entry in entries], dtype=np.float32).reshape(-1, 2)
                index, values = pairs[:, 0], pairs[:, 1]
                if not (np.isin(index, np.arange(1, 257)).all() and len(np.unique(index)) == len(index)):
                    raise UserError(f"{path}, line {number}: expected different indices from 1 to {spec.size**2}")
                if not (np.abs(values) <= 1).all():
                    raise UserError(f"{path}, line {number}: expected values from -1 to 1")
                row = np.zeros(spec.size**2, dtype=np.float32)  # libsvm leaves zeros out
                row[index.astype(np.int64) - 1] = values
                images.append(((row + 1) / 2 * 255).astype(np.uint8))
                labels.append(np.int64(int(label) - 1))
    except (OSError, EOFError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not a whole libsvm file of 16 x 16 images: {error}; get it again") from error
    if not labels:
        raise UserError(f"{path}: it holds no images; get it again")
    pixels = torch.from_numpy(np.stack(images)).reshape(-1, *spec.shape)
    return Split(pixels, torch.tensor(labels, dtype=torch.int64))


def _lines(handle: bz2.BZ2File, path: Path) -> Iterator[bytes]:
    """The lines of a packed file; it may unfold to anything."""
    for number in range(1, MAX_LINES + 2):
        line = handle.readline(MAX_LINE)
        if not line:
            return
        if len(line) == MAX_LINE or number > MAX_LINES:
            raise UserError(f"{path}, line {number}: too long, or too many lines, for USPS; get it again")
        yield line


def load_stl10(spec: DatasetSpec, root: Path, download: bool = False, console: Console | None = None) -> Dataset:
    """STL-10 from the binary version in ``root/stl10_binary``: the labelled images.

    ``{train,test}_X.bin`` hold bytes (image, channel, column, row), ``{train,test}_y.bin`` a label from 1 for each.

    Raises:
        UserError: no files and no ``download``, a failed download, or a damaged file.
    """
    folder = root / "stl10_binary"
    names = [f"{part}_{kind}.bin" for part in ("train", "test") for kind in "Xy"]

    def read() -> list[Split]:
        for name in names:
            if not (folder / name).exists():
                raise UserError(
                    f"stl10: {folder / name} is not there; get it with --download, or give the folder of stl10_binary "
                    "with --data"
                )
        return [_stl10(folder, part, spec) for part in ("train", "test")]

    def fetch() -> None:
        archive(spec, "STL10", root, download=True)

    return make_dataset(spec, *read_or_fetch(read, fetch, download), root=root)


def _stl10(folder: Path, part: str, spec: DatasetSpec) -> Split:
    path, item = folder / f"{part}_X.bin", spec.channels * spec.size**2
    length = plain_file(path, "STL-10 file of images")
    if not length or length % item:
        raise UserError(f"{path}: {length:,} bytes are no whole number of images of {item:,} bytes; get it again")
    labels = np.frombuffer(read_bytes(folder / f"{part}_y.bin", "STL-10 file of labels", length), dtype=np.uint8)
    if len(labels) != length // item:
        raise UserError(
            f"{path}: {length // item:,} images, but {len(labels):,} labels in {part}_y.bin; get them again"
        )
    if labels.min() < 1:
        raise UserError(f"{folder / f'{part}_y.bin'}: a label of 0, expected 1 to {spec.classes}; get it again")
    require_memory(2 * length, f"reading {path}", "close other programs")
    try:
        stored = np.fromfile(path, dtype=np.uint8, count=length).reshape(-1, *spec.shape)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot read it: {error}; get it again") from error
    images = torch.from_numpy(stored).transpose(2, 3).contiguous()
    return Split(images, torch.from_numpy(labels.astype(np.int64) - 1))
