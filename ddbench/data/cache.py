"""Image files decoded once: uint8 arrays beside the data, memory-mapped afterwards."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddbench.data.dataset import Dataset, Split, fingerprint, make_dataset
from ddbench.data.images import Pixels, count_channels, read_image, statistics
from ddbench.data.limits import require_disk
from ddbench.data.specs import DatasetSpec
from ddbench.runtime.device import cores
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable, write_json
from ddbench.runtime.progress import Console

VERSION = 1
"""Raised when the same files would decode to other pixels."""

BLOCK_BYTES = 64 * 2**20
"""At most so much is decoded between two notes of how far the work has come."""

SPLITS = ("train", "test")

SHOW_FROM = 5000
"""So many images to decode are worth a progress bar."""


@dataclass(frozen=True)
class Listing:
    """The image files of a dataset.

    Attributes:
        folder: absolute path of the folder that holds them.
        class_names: in label order.
        train, test: paths with their labels, in a fixed order.
    """

    folder: Path
    class_names: tuple[str, ...]
    train: Sequence[tuple[Path, int]]
    test: Sequence[tuple[Path, int]]


def load_listing(spec: DatasetSpec, listing: Listing, root: Path, console: Console | None = None) -> Dataset:
    """Decode the files of a listing, or map what an earlier call decoded.

    The arrays are kept in ``root/decoded/<hash>``, where the hash names the files with their sizes and times, so a
    changed file is seen. An interrupted call goes on where it was; of two calls at a time the second waits.

    Args:
        spec: with ``size``; channels, statistics and class names that it lacks are found out.

    Raises:
        UserError: a broken image file, or no room on the disk of ``root``.
    """
    spec = replace(spec, classes=len(listing.class_names), class_names=listing.class_names)
    final = root / "decoded" / _key(spec, listing)
    found = _open(final, spec, listing, root)
    if found is None:
        ensure_writable(final.parent)
        with _alone(final.parent / "lock"):
            found = _open(final, spec, listing, root)  # another process may have just finished it
            if found is None:
                _decode(final, spec, listing, console)
                found = _open(final, spec, listing, root)
    if found is None:
        raise UserError(f"{final}: what was decoded cannot be read back; check that disk, or use another --data folder")
    return found


def _key(spec: DatasetSpec, listing: Listing) -> str:
    head = (VERSION, str(listing.folder), spec.size, spec.channels, spec.class_names)
    digest = hashlib.sha256(repr(head).encode())
    for name in SPLITS:
        for path, label in getattr(listing, name):
            try:
                stat = path.stat()
            except OSError as error:
                raise UserError(f"{path}: cannot read this image: {error.strerror or error}") from error
            line = f"{name}\0{path}\0{label}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:20]


def _open(folder: Path, spec: DatasetSpec, listing: Listing, root: Path) -> Dataset | None:
    """The decoded dataset, or None when there is none or it is not whole."""
    if not (folder / "meta.json").is_file():
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        spec = replace(spec, channels=meta["channels"], mean=tuple(meta["mean"]), std=tuple(meta["std"]))
        splits = []
        for name in SPLITS:
            files = getattr(listing, name)
            # "c": pages are private, so the tensor is writable and the file is never changed through it.
            images = np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
            if images.shape != (len(files), *spec.shape) or images.dtype != np.uint8:
                return None
            splits.append(Split(torch.from_numpy(images), _labels(files)))
        return make_dataset(spec, *splits, root=root, known_fingerprint=meta["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _labels(files: Sequence[tuple[Path, int]]) -> Tensor:
    return torch.tensor([label for _, label in files], dtype=torch.int64)


def _decode(final: Path, spec: DatasetSpec, listing: Listing, console: Console | None) -> None:
    """Fill ``<final>.part`` from where an earlier try left it and rename it."""
    channels = spec.channels or count_channels([path for path, _ in listing.train])
    spec = replace(spec, channels=channels)
    total = len(listing.train) + len(listing.test)
    part = final.with_name(final.name + ".part")
    targets = {name: _Array(part / f"{name}.npy", (len(getattr(listing, name)), *spec.shape)) for name in SPLITS}
    progress = _progress(part, targets)
    require_disk(
        (total - sum(progress.values())) * channels * spec.size**2,
        final.parent,
        f"decoding {total:,} images",
        "use a smaller --size, or a --data folder on another disk",
    )
    part.mkdir(exist_ok=True)
    with (
        (console or Console(quiet=total < SHOW_FROM)).bar("decode images", total, sum(progress.values())) as bar,
        ThreadPoolExecutor(cores()) as pool,  # PIL decodes outside the interpreter's lock
    ):
        for name in SPLITS:
            files, target = getattr(listing, name), targets[name]
            for start in range(progress[name], len(files), target.block):
                paths = [path for path, _ in files[start : start + target.block]]
                target.write(start, list(pool.map(read_image, paths, repeat(channels), repeat(spec.size))))
                progress[name] = start + len(paths)
                write_json(part / "progress.json", progress)
                bar.advance(units=len(paths))
    _describe(part, spec, listing)
    if final.exists():  # it was there but not whole
        shutil.rmtree(final)
    part.rename(final)


class _Array:
    """A ``.npy`` file that is filled in pieces by plain writes: a full disk is an error there, in a map a crash."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        self.path, self._header, self._item = path, header.getvalue(), math.prod(shape[1:])
        self.block = max(1, min(512, BLOCK_BYTES // self._item))

    def holds(self, count: int) -> bool:
        """Whether the file is long enough for so many images."""
        return self.path.is_file() and self.path.stat().st_size >= len(self._header) + count * self._item

    def write(self, start: int, images: Sequence[Pixels]) -> None:
        try:
            with open(self.path, "r+b" if start else "wb") as handle:
                handle.write(self._header)
                handle.seek(len(self._header) + start * self._item)
                handle.writelines(image.tobytes() for image in images)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror or error}; the same command goes on where it was"
            ) from error


def _progress(part: Path, targets: dict[str, _Array]) -> dict[str, int]:
    """Images of each split that an earlier try finished."""
    try:
        found = json.loads((part / "progress.json").read_text(encoding="utf-8"))
        return {name: found[name] if target.holds(found[name]) else 0 for name, target in targets.items()}
    except (OSError, KeyError, TypeError, ValueError):
        return dict.fromkeys(targets, 0)


def _describe(part: Path, spec: DatasetSpec, listing: Listing) -> None:
    """Write what a later call need not compute again. It is the last file: with it the folder is whole."""
    arrays = [np.load(part / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in SPLITS]
    train = Split(torch.from_numpy(arrays[0]), _labels(listing.train))
    test = Split(torch.from_numpy(arrays[1]), _labels(listing.test))
    mean, std = (spec.mean, spec.std) if spec.mean else statistics(train.images)
    write_json(
        part / "meta.json",
        {
            "channels": spec.channels,
            "mean": list(mean),
            "std": list(std),
            "fingerprint": fingerprint(spec, train, test),
        },
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the system frees it when a process dies."""
    with open(path, "a") as handle:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            with suppress(OSError):  # some network disks know no locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
