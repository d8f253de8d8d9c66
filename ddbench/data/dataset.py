"""Images and labels in memory: a dataset, its splits, its fingerprint."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ddbench.data.limits import require_disk, require_memory
from ddbench.data.mapped import follow, gather, was_read
from ddbench.data.spec import DatasetSpec, check_class_names
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, ensure_writable
from ddbench.runtime.seeds import generator

CHUNK_BYTES = 16 * 2**20
"""Images are gone through in pieces of about this size, so that a memory-mapped set is never copied whole."""


@dataclass(frozen=True)
class Split:
    """Images of a split with their labels.

    Attributes:
        images: uint8 ``(N, C, H, W)``; may be a private memory map of a file.
        labels: int64 ``(N,)``.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A dataset in memory.

    Attributes:
        spec: complete: channels, classes, class names, mean and std are known.
        train, test: the splits; nothing is ever chosen on ``test``.
        fingerprint: hex sha256 of class names, counts, shape, images and labels (:func:`fingerprint`).
        root: the data folder it was read from; derived files (the ZCA matrix) are kept there. None: kept nowhere.
    """

    spec: DatasetSpec
    train: Split
    test: Split
    fingerprint: str
    root: Path | None = field(default=None, compare=False)

    def check(self) -> None:
        """Refuse a dataset that cannot be worked with: :func:`check_dataset`."""
        check_dataset(self)


def make_dataset(
    spec: DatasetSpec, train: Split, test: Split, *, root: Path | None = None, known_fingerprint: str | None = None
) -> Dataset:
    """Check the parts and put them together.

    Args:
        known_fingerprint: spares the hashing of a set whose fingerprint was kept beside its images.

    Raises:
        UserError: as :func:`check_dataset`.
    """
    made = Dataset(spec, train, test, known_fingerprint or "", root)
    check_dataset(made)
    if known_fingerprint is None:
        made = Dataset(spec, train, test, fingerprint(spec, train, test), root)
    return made


def check_dataset(dataset: Dataset) -> None:
    """Refuse a dataset that cannot be worked with.

    Raises:
        UserError: wrong dtype or shape, a label out of range, a class without a training image, an empty test set, a
            class name that is too long.
    """
    spec = dataset.spec
    if not isinstance(spec, DatasetSpec):
        raise UserError(f"dataset: spec is {repr(spec)[:80]}, expected a DatasetSpec")
    check_class_names(f"dataset {spec.name}", spec.class_names)
    for name, split in (("training", dataset.train), ("test", dataset.test)):
        where = f"dataset {spec.name}, {name} set"
        if not isinstance(split, Split):
            raise UserError(f"{where}: of type {type(split).__name__}, expected a Split(images, labels)")
        if not (isinstance(split.images, Tensor) and isinstance(split.labels, Tensor)):
            found = f"images are of type {type(split.images).__name__}, labels of type {type(split.labels).__name__}"
            raise UserError(f"{where}: {found}; expected torch tensors, such as torch.as_tensor makes of arrays")
        if split.images.dtype != torch.uint8 or split.labels.dtype != torch.int64:
            raise UserError(
                f"{where}: images are {split.images.dtype} and labels {split.labels.dtype}; "
                "expected torch.uint8 and torch.int64"
            )
        if tuple(split.images.shape[1:]) != spec.shape or split.images.ndim != 4:
            raise UserError(
                f"{where}: images have shape {list(split.images.shape)}, expected [N, C, H, W] with {list(spec.shape)}"
            )
        if split.labels.shape != (len(split.images),):
            raise UserError(f"{where}: {len(split.images)} images but labels of shape {list(split.labels.shape)}")
        if len(split) == 0:
            raise UserError(f"{where}: it is empty")
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= spec.classes:
            raise UserError(f"{where}: labels from {low} to {high}, expected 0 to {spec.classes - 1}")
    empty = (torch.bincount(dataset.train.labels, minlength=spec.classes) == 0).nonzero().flatten().tolist()
    if empty:
        names = [spec.class_names[label] if spec.class_names else str(label) for label in empty[:5]]
        raise UserError(f"dataset {spec.name}: {len(empty)} class(es) without a training image: {', '.join(names)}")


def fingerprint(spec: DatasetSpec, train: Split, test: Split) -> str:
    """Hex sha256 over the canonical JSON of (class names, counts per class, shape), then images and labels.

    It names the content in this order; where the files were, or how they were packed, plays no part.
    """
    counts = [torch.bincount(split.labels, minlength=spec.classes).tolist() for split in (train, test)]
    header = {"class_names": list(spec.class_names), "train": counts[0], "test": counts[1], "shape": list(spec.shape)}
    digest = hashlib.sha256(canonical_json(header).encode())
    for split in (train, test):
        for piece in chunks(split.images):
            digest.update(piece.contiguous().numpy().data)
        digest.update(split.labels.contiguous().numpy().data)
    return digest.hexdigest()


def chunks(images: Tensor) -> Iterator[Tensor]:
    """Successive pieces of ``images`` of about :data:`CHUNK_BYTES` (as float32), in order."""
    rows = max(1, CHUNK_BYTES // max(1, 4 * images[:1].numel()))
    for start in range(0, len(images), rows):
        piece = images[start : start + rows]
        yield piece
        was_read(piece)


def class_indices(labels: Tensor, classes: int) -> list[Tensor]:
    """For each class the positions of its images, int64, ascending; empty where there are none."""
    order = torch.argsort(labels, stable=True)
    return list(torch.split(order, torch.bincount(labels, minlength=classes).tolist()))


MAPPED_BYTES = 2**29
"""Copies of at least this size go to a nameless file where there is a folder for it, not into memory."""


def take(split: Split, index: Tensor, folder: Path | None = None) -> Split:
    """The images at some positions, copied: a large part into a mapped file that is gone when the process is.

    Args:
        folder: where that file may be; None: memory only.

    Raises:
        UserError: they do not fit into memory, or on the disk of ``folder`` (the split may be a memory map).
    """
    needed = len(index) * split.images[:1].numel()
    if folder is None or needed < MAPPED_BYTES:
        require_memory(needed, "copying a part of the images", "use a smaller --size")
        return Split(gather(split.images, index), split.labels[index])
    require_disk(needed, folder, "copying a part of the images", "use a smaller --size, or --holdout 0")
    ensure_writable(folder)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(needed)
        mapping = mmap.mmap(file.fileno(), needed)
    images = follow(torch.frombuffer(mapping, dtype=torch.uint8), mapping, private=False)
    images = images.reshape(len(index), *split.images.shape[1:])
    rows = max(1, CHUNK_BYTES // split.images[:1].numel())
    for start in range(0, len(index), rows):
        piece = images[start : start + rows]
        piece[:] = split.images[index[start : start + rows]]
        was_read(piece)
        was_read(split.images, piece.numel())
    return Split(images, split.labels[index])


def balanced(split: Split, count: int, classes: int) -> Split:
    """At most ``count`` images, as many of each class as possible, the first of each, in the order of the split."""
    if count >= len(split):
        return split
    rank = torch.empty(len(split), dtype=torch.int64)
    for index in class_indices(split.labels, classes):
        rank[index] = torch.arange(len(index))
    chosen = torch.argsort(rank * classes + split.labels)[:count]
    return take(split, chosen.sort().values)


def stratified(labels: Tensor, classes: int, fraction: float, *purpose: str | int, keep_single: bool = False) -> Tensor:
    """Mark a fraction of the images of each class: bool ``(N,)``.

    At least one image of each class that is present is marked and at least one is not. The choice depends on the
    labels and the purpose only.

    Args:
        keep_single: do not mark the image of a class that has no other, instead of refusing it.

    Raises:
        UserError: a class has a single image.
    """
    marked = torch.zeros(len(labels), dtype=torch.bool)
    randomness = generator(0, *purpose)
    for label, index in enumerate(class_indices(labels, classes)):
        if len(index) == 1 and not keep_single:
            raise UserError(f"class {label} has one image only, it cannot be split in two; add images or leave it out")
        if len(index) > 1:
            count = min(max(1, round(fraction * len(index))), len(index) - 1)
            marked[index[torch.randperm(len(index), generator=randomness)[:count]]] = True
    return marked


def holdout_split(
    split: Split,
    fraction: float,
    classes: int,
    folder: Path | None = None,
    *,
    names: Sequence[str] = (),
    keep_single: bool = False,
) -> tuple[Split, Split]:
    """Hold a stratified part of a training split out, for choosing settings without the test set.

    Args:
        fraction: of the images of each class, 0 to 0.9; 0 holds out nothing (the second split is empty).
        classes: number of classes.
        folder: where the parts of a set that is too large for memory may be mapped (:func:`take`).
        names: of the classes, for the error.
        keep_single: hold nothing out of a class of one image, instead of refusing it.

    Returns:
        What is left to train on and what is held out, each in the order of ``split``; the same for the same labels.

    Raises:
        UserError: a fraction out of range, or a class with a single image.
    """
    if not 0 <= fraction <= 0.9:
        raise UserError(f"hold-out fraction {fraction}: expected 0 to 0.9")
    if fraction == 0:
        return split, Split(split.images[:0], split.labels[:0])
    if not keep_single:
        check_holdout(split, fraction, names)
    held = stratified(split.labels, classes, fraction, "holdout", keep_single=keep_single)
    rest, kept = (~held).nonzero().flatten(), held.nonzero().flatten()
    return take(split, rest, folder), take(split, kept, folder)


def check_holdout(split: Split, fraction: float, names: Sequence[str] = ()) -> None:
    """Refuse to hold out of a class of one image.

    Args:
        names: of the classes, for the error.

    Raises:
        UserError: names the class.
    """
    single = (torch.bincount(split.labels) == 1).nonzero()[:, 0].tolist()
    if fraction and single:
        which = repr(names[single[0]]) if names else str(single[0])
        raise UserError(
            f"--holdout {fraction:g}: class {which} has one image only, so none can be held out: give --holdout 0, add "
            "images, or leave the class out"
        )


VALIDATION_IMAGES = 2000
"""Validation looks at no more held-out images than this, evenly spread: it should cost less than training."""


def validation_sample(held_out: Split) -> Split:
    """At most :data:`VALIDATION_IMAGES` images, evenly spaced in the split's order."""
    count = len(held_out.labels)
    if count <= VALIDATION_IMAGES:
        return held_out
    return take(held_out, torch.arange(VALIDATION_IMAGES) * count // VALIDATION_IMAGES)
