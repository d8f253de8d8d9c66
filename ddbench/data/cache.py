"""Image files decoded once: uint8 arrays beside the data, memory-mapped afterwards."""

from __future__ import annotations

import hashlib
import io
import math
import mmap
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ddbench.data.dataset import Dataset, Split, fingerprint, make_dataset
from ddbench.data.images import DEEPEST, Pixels, read_image, statistics
from ddbench.data.limits import require_disk
from ddbench.data.look import Look, keep_look, kept_look, look_over, refuse_broken, report, shown
from ddbench.data.mapped import follow
from ddbench.data.spec import DatasetSpec, check_class_names
from ddbench.runtime.device import cores
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable, plain_file, plain_or_absent, read_json, write_json
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
        upright: turn images as their EXIF orientation says.
        notes: what the layout's reader has to tell a person.
    """

    folder: Path
    class_names: tuple[str, ...]
    train: Sequence[tuple[Path, int]]
    test: Sequence[tuple[Path, int]]
    upright: bool = False
    notes: tuple[str, ...] = ()


def load_listing(spec: DatasetSpec, listing: Listing, root: Path, console: Console | None = None) -> Dataset:
    """Decode the files of a listing, or map what an earlier call decoded.

    The arrays are kept in ``root/decoded/<hash>``, where the hash names the files with their sizes and times, so a
    changed file is seen. An interrupted call goes on where it was; of two calls at a time the second waits.

    Args:
        spec: with ``size``; channels, statistics and class names that it lacks are found out. ``skip_broken``: later
            calls leave out the same files while all stay as they are.
        console: where to tell what the files are.

    Raises:
        UserError: broken image files, a class name that is not UTF-8 or too long, or no room on the disk of ``root``.
    """
    for name in (spec.name, *listing.class_names):
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(
                f"{listing.folder}: the folder name {name!a} is not UTF-8 (unzipped on another system?); rename it"
            )
    check_class_names(str(listing.folder), listing.class_names)
    skip_broken = spec.skip_broken
    spec = replace(spec, classes=len(listing.class_names), class_names=listing.class_names, skip_broken=False)
    place = root / "decoded"
    with unless_refused(place):
        seen = place / f"{_key(replace(spec, size=0), listing)}.look.json"  # what files are holds for every size
        listing, look = _looked(seen, listing, skip_broken)
        if console is not None:
            counts = [
                torch.bincount(_labels(getattr(listing, name)), minlength=spec.classes).tolist() for name in SPLITS
            ]
            told = look if listing.upright else replace(look, turned=0)
            console.say(report(told, counts, spec.name, listing.class_names, listing.notes))
        final = place / _key(spec, listing, look)
        spec = replace(spec, channels=spec.channels or look.channels)
        found = _open(final, spec, listing, root)
        if found is None:
            with alone(final.parent / "lock"):
                found = _open(final, spec, listing, root)  # another process may have just finished it
                if found is None:
                    try:
                        _decode(final, spec, listing, look, console)
                    except UserError:
                        seen.unlink(missing_ok=True)  # --skip-broken has to look again, at whole files
                        raise
                    found = _open(final, spec, listing, root)
    if found is None:
        raise UserError(f"{final}: what was decoded cannot be read back; check that disk, or use another --data folder")
    return found


def _looked(path: Path, listing: Listing, skip_broken: bool) -> tuple[Listing, Look]:
    """The listing without the files that are left out, and what the others are: as ``path`` says, or looked at now."""
    look = kept_look(path)
    if look is not None and skip_broken and not (look.whole or look.skipped):
        look = None  # it was of headers alone, and its call was stopped before all files were decoded
    fresh = look is None
    if look is None:
        parts = ([file for file, _ in getattr(listing, name)] for name in SPLITS)
        look = look_over(*parts, skip_broken=skip_broken)
    if look.skipped:
        listing = _without(look.skipped, listing)
    if fresh:
        keep_look(path, look)
    return listing, look


def _without(skipped: Mapping[str, str], listing: Listing) -> Listing:
    """The listing without files that are broken.

    Raises:
        UserError: a class without a training image, or no test image, is what remains.
    """
    train, test = ([one for one in part if shown(one[0]) not in skipped] for part in (listing.train, listing.test))
    gone = sorted({label for _, label in listing.train} - {label for _, label in train})
    if gone:
        names = ", ".join(listing.class_names[label] for label in gone[:5]) + (", ..." if len(gone) > 5 else "")
        first = next(path for path, label in listing.train if label == gone[0])
        raise UserError(
            f"{listing.folder}: --skip-broken leaves {len(gone)} class(es) without a training image: {names} "
            f"({skipped[shown(first)]}); mend the files, or remove the class"
        )
    if listing.test and not test:
        reason = skipped[shown(listing.test[0][0])]
        raise UserError(f"{listing.folder}: --skip-broken leaves no test image ({reason}); mend the files")
    return replace(listing, train=train, test=test)


def _key(spec: DatasetSpec, listing: Listing, look: Look | None = None) -> str:
    """Names the files; and, when they were looked at, how they are decoded where that is not plain."""
    head: tuple[object, ...] = (VERSION, str(listing.folder), spec.size, spec.channels, spec.class_names)
    if look is not None and look.bits != DEEPEST:
        head += (("bits", look.bits),)
    if look is not None and look.turned and listing.upright:
        head += ("upright",)
        if look.tiffs:
            head += ("TIFFs turned once",)  # without this: arrays of when they were turned twice
    digest = hashlib.sha256(repr(head).encode())
    for name in SPLITS:
        for path, label in getattr(listing, name):
            try:
                stat = path.stat()
                state = f"{stat.st_size}\0{stat.st_mtime_ns}"
            except OSError:  # told with all other broken files when they are looked at
                state = "none"
            line = f"{name}\0{path}\0{label}\0{state}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:20]


def _open(folder: Path, spec: DatasetSpec, listing: Listing, root: Path) -> Dataset | None:
    """The decoded dataset, or None when there is none or it is not whole."""
    if not (folder / "meta.json").is_file():
        return None
    try:
        meta = read_json(folder / "meta.json", "description of decoded images")
        if meta["channels"] != spec.channels:
            return None
        spec = replace(spec, mean=tuple(meta["mean"]), std=tuple(meta["std"]))
        splits = []
        for name in SPLITS:
            files = getattr(listing, name)
            # "c": pages are private, so the tensor is writable and the file is never changed through it.
            plain_file(folder / f"{name}.npy", "decoded images")
            try:
                images = np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
            except Exception:  # numpy raises many kinds for a damaged header
                return None
            if images.shape != (len(files), *spec.shape) or images.dtype != np.uint8:
                return None
            splits.append(Split(_mapped(images), _labels(files)))
        known = meta["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    return make_dataset(spec, *splits, root=root, known_fingerprint=known)


def _mapped(images: np.memmap[Any, Any]) -> Tensor:
    """A tensor over a private map whose pages are given back."""
    made = torch.from_numpy(images)
    file = getattr(images, "_mmap", None)  # numpy has no public name for it
    return follow(made, file, private=True) if isinstance(file, mmap.mmap) else made


def _labels(files: Sequence[tuple[Path, int]]) -> Tensor:
    return torch.tensor([label for _, label in files], dtype=torch.int64)


def _decode(final: Path, spec: DatasetSpec, listing: Listing, look: Look, console: Console | None) -> None:
    """Fill ``<final>.part`` from where an earlier try left it and rename it; what is of no use later is removed."""
    channels = spec.channels
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

    def decode(path: Path) -> Pixels:
        return read_image(path, channels, spec.size, look.bits, listing.upright)

    quiet = total < SHOW_FROM or (console is not None and console.quiet)
    with (
        Console(quiet=quiet).bar("decode images", total, sum(progress.values())) as bar,
        ThreadPoolExecutor(cores()) as pool,  # PIL decodes outside the interpreter's lock
    ):
        for name in SPLITS:
            files, target = getattr(listing, name), targets[name]
            for start in range(progress[name], len(files), target.block):
                paths = [path for path, _ in files[start : start + target.block]]
                target.write(start, _decoded(pool, decode, paths, part, listing))
                progress[name] = start + len(paths)
                write_json(part / "progress.json", progress)
                bar.advance(units=len(paths))
    _describe(part, spec, listing)
    if final.exists():  # it was there but not whole
        shutil.rmtree(final)
    part.rename(final)


def _decoded(
    pool: ThreadPoolExecutor, decode: Callable[[Path], Pixels], paths: list[Path], part: Path, listing: Listing
) -> list[Pixels]:
    """Some decoded images.

    Raises:
        UserError: a broken file, then all that are broken are named; the part of use to nobody is removed.
    """
    try:
        return list(pool.map(decode, paths))
    except UserError:
        shutil.rmtree(part, ignore_errors=True)
        refuse_broken([path for name in SPLITS for path, _ in getattr(listing, name)])
        raise


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
        plain_or_absent(self.path, "decoded images")
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
        found = read_json(part / "progress.json", "progress record")
        return {name: found[name] if target.holds(found[name]) else 0 for name, target in targets.items()}
    except (UserError, KeyError, TypeError):
        return dict.fromkeys(targets, 0)


def _describe(part: Path, spec: DatasetSpec, listing: Listing) -> None:
    """Write what a later call need not compute again. It is the last file: with it the folder is whole."""
    arrays = [np.load(part / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in SPLITS]
    train = Split(_mapped(arrays[0]), _labels(listing.train))
    test = Split(_mapped(arrays[1]), _labels(listing.test))
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
def unless_refused(folder: Path) -> Iterator[None]:
    """Where the block ends in a refusal, folders on the way to ``folder`` that it made and left empty go again."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        yield
    except UserError:
        with suppress(OSError):  # others may have put theirs there
            for one in made:
                one.rmdir()
        raise


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the system frees it when a process dies.

    Its folder is made. Where the block ends in a refusal, a lock file that was not there before goes again.

    Raises:
        UserError: the folder cannot be written to.
    """
    plain_or_absent(path, "lock file")
    fresh = not path.exists()
    ensure_writable(path.parent)
    with _locked(path):
        try:
            yield
        except UserError:
            if fresh:
                with suppress(OSError):  # Windows removes no open file
                    path.unlink()
            raise


def _locked(path: Path) -> IO[str]:
    """The lock file, open and locked; who held it before may have taken it away meanwhile."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a")  # noqa: SIM115 (the caller closes it)
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)
            return handle
        import fcntl

        with suppress(OSError):  # some network disks know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                return handle
        handle.close()
