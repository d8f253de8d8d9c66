"""Datasets in a ``.npz``: MedMNIST, and arrays of a user's own. No pickle is read, and no more than a header says."""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ddbench.data.dataset import Dataset, Split, make_dataset, stratified
from ddbench.data.images import statistics
from ddbench.data.limits import require_memory
from ddbench.data.places import own_place
from ddbench.data.spec import DatasetSpec
from ddbench.data.specs import FOLDER, NPZ, SIZES
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import plain_file
from ddbench.runtime.progress import Console

Array = np.ndarray[Any, Any]

TEST_FRACTION = 0.2
"""Of each class of an archive without a test set."""

FORMS: tuple[tuple[tuple[str, str], tuple[str, str] | None], ...] = (
    (("train_images", "train_labels"), ("test_images", "test_labels")),
    (("x_train", "y_train"), ("x_test", "y_test")),
    (("images", "labels"), None),
    (("x", "y"), None),
)
"""Names of images and labels: of the training and of the test set, as MedMNIST, Keras, and people call them."""

TEST = tuple(name for _, test in FORMS for name in test or ())
"""All names of arrays of a test set."""

NAMES = "class_names"
MAX_CLASSES = 100_000
SPLIT_NOTE = "no test set in the file: a fixed fifth of each class is the test set"


def load_medmnist(spec: DatasetSpec, root: Path, download: bool = False, console: Console | None = None) -> Dataset:
    """A flat set of MedMNIST with one label an image, from ``NAME.npz`` or ``NAME_SIZE.npz`` in ``root/medmnist``.

    Raises:
        UserError: no such file, or not the set that its name says.
    """
    file = f"{spec.name}.npz" if spec.size == 28 else f"{spec.name}_{spec.size}.npz"
    path = next((one for one in (root / "medmnist" / file, root / file) if one.exists()), root / "medmnist" / file)
    if not path.exists():
        raise UserError(f"{spec.name}: {path} is not there; get {file} from https://zenodo.org/records/10519652")
    splits, _ = _splits(path, FORMS[:1])
    if len(splits) < 2:
        raise UserError(f"{path}: holds no test_images and test_labels; get it again")
    return make_dataset(spec, *splits, root=root)


def load_npz(spec: DatasetSpec, root: Path | None, download: bool = False, console: Console | None = None) -> Dataset:
    """``npz:PATH``: uint8 images ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` and whole labels from 0.

    The arrays are called as one of :data:`FORMS` says; ``class_names`` may name the classes. Without a test set a fixed
    stratified fifth is split off.

    Raises:
        UserError: no such file, arrays that are missing (half a test set, or one named otherwise than the training
            set), damaged, too large, or of another kind, another size than
            ``--size`` says.
    """
    path = own_place(spec.name.removeprefix(NPZ), root)
    if path.is_dir():
        raise UserError(
            f"dataset {spec.name}: {path} is a folder, expected an npz file; a folder of images is {FOLDER}{path}"
        )
    splits, named = _splits(path, FORMS)
    note = "scored on the test images of the file"
    classes = 1 + max(int(split.labels.max()) for split in splits)
    names = named or tuple(map(str, range(classes)))
    if len(names) < 2:
        raise UserError(f"{path}: labels of one class only, expected at least two")
    if classes > len(names):
        raise UserError(f"{path}: {len(names)} class_names, but labels up to {classes - 1}")
    train, *others = splits
    if not others:
        held = stratified(train.labels, classes, TEST_FRACTION, "npz-test")
        others = [Split(train.images[held], train.labels[held])]
        train, note = Split(train.images[~held], train.labels[~held]), SPLIT_NOTE
    side = train.images.shape[-1]
    if spec.size not in (0, side):
        raise UserError(f"--size {spec.size}: the images of {path} are {side} pixels; leave --size out")
    mean, std = statistics(train.images)
    spec = replace(
        spec,
        channels=train.images.shape[1],
        size=side,
        classes=len(names),
        class_names=names,
        mean=mean,
        std=std,
        note=note,
    )
    return make_dataset(spec, train, others[0], root=root)


def _splits(path: Path, forms: tuple[Any, ...]) -> tuple[list[Split], tuple[str, ...]]:
    """Training and, where there is one, test set of an archive; and the names of the classes, where it has them."""
    plain_file(path, "npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            form = next((form for form in forms if set(form[0]) <= set(members)), None)
            if form is None:
                wanted = " or ".join(" and ".join(train) for train, _ in forms)
                raise UserError(f"{path}: holds {', '.join(members)[:120] or 'nothing'}; expected {wanted}")
            pairs = [pair for pair in form if pair is not None and set(pair) <= set(members)]
            odd = [name for name in TEST if name in members]
            if len(pairs) == 1 and odd:
                raise UserError(f"{path}: holds {' and '.join(odd)}, but no whole test set; {_expected(form)}")
            splits = [_split(path, *(_member(path, archive, members[name]) for name in pair)) for pair in pairs]
            named = _names(path, _member(path, archive, members[NAMES])) if NAMES in members else ()
    except UserError:
        raise
    except Exception as error:  # zipfile, what unpacks for it, and numpy raise many kinds for a damaged archive
        raise UserError(f"{path}: not a whole npz file: {error}; get it again") from error
    shapes = [tuple(split.images.shape[1:]) for split in splits]
    if len(set(shapes)) > 1:
        raise UserError(f"{path}: training images of {list(shapes[0])}, test images of {list(shapes[1])}")
    return splits, named


def _expected(form: tuple[tuple[str, str], tuple[str, str] | None]) -> str:
    """How to name a test set beside training images that are called so."""
    if form[1] is not None:
        return f"expected {' and '.join(form[1])} beside {form[0][0]}"
    return f"beside it {' and '.join(form[0])} are to be named {' and '.join(FORMS[0][0])}"


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> Array:
    """An array of the archive; its header, its length and the memory are asked before it is read."""
    size, where = archive.getinfo(name).file_size, f"{path}, {name}"
    with archive.open(name) as handle:
        shape, fortran, dtype = _header(where, handle)
        if dtype.hasobject or dtype.kind not in "uifbU":
            raise UserError(f"{where}: an array of {dtype}; expected plain numbers, which need no pickle")
        length = math.prod(shape) * dtype.itemsize
        if any(side < 0 for side in shape) or length > size:
            raise UserError(f"{where}: its header announces {list(shape)} of {dtype}, it holds {size:,} bytes")
        require_memory(3 * length, f"reading {where}", "use a machine with more")
        data = handle.read(length + 1)
    if len(data) != length:
        found = "more" if len(data) > length else f"{len(data):,}"
        raise UserError(f"{where}: its header announces {length:,} bytes, it holds {found}; get it again")
    array = np.frombuffer(data, dtype=dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _header(where: str, handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type of a ``.npy``."""
    start = io.BytesIO(handle.read(10))  # magic, version and, in version 1, the length of the header
    try:
        version = np.lib.format.read_magic(start)
        if version != (1, 0):
            raise ValueError(f"version {version}")
        start = io.BytesIO(start.getvalue()[8:] + handle.read(int.from_bytes(start.getvalue()[8:], "little")))
        return np.lib.format.read_array_header_1_0(start)
    except Exception as error:  # numpy reads it as Python
        raise UserError(f"{where}: not a .npy of a plain array: {error!s:.120}") from None


def _split(path: Path, images: Array, labels: Array) -> Split:
    return Split(_images(path, images), _labels(path, labels, len(images)))


def _images(path: Path, images: Array) -> Tensor:
    """uint8 ``(N, C, H, W)``, square.

    Raises:
        UserError: another type or shape.
    """
    if images.dtype != np.uint8:
        raise UserError(f"{path}: images are {images.dtype}; expected uint8, 0 to 255")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise UserError(
            f"{path}: images of shape {list(images.shape)}; expected [N, H, W], [N, H, W, C] or [N, C, H, W], C 1 or 3"
        )
    height, width = images.shape[2:]
    if height != width or height not in SIZES:
        raise UserError(
            f"{path}: images of {height} x {width} pixels; expected square ones of {SIZES.start} to {SIZES.stop - 1}"
        )
    return torch.from_numpy(np.array(images, order="C"))


def _labels(path: Path, labels: Array, count: int) -> Tensor:
    """int64 ``(N,)``.

    Raises:
        UserError: several labels an image, another number of them, or no whole numbers from 0.
    """
    if labels.ndim == 2 and labels.shape[1] != 1:
        raise UserError(f"{path}: labels of shape {list(labels.shape)}: several an image; expected one class an image")
    if labels.dtype.kind not in "ui":
        raise UserError(f"{path}: labels are {labels.dtype}; expected whole numbers from 0")
    if labels.size != count or labels.ndim not in (1, 2):
        raise UserError(f"{path}: {count:,} images, but labels of shape {list(labels.shape)}")
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < MAX_CLASSES:
        raise UserError(f"{path}: labels from {labels.min()} to {labels.max()}; expected whole numbers from 0")
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def _names(path: Path, names: Array) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind != "U":
        raise UserError(
            f"{path}: class_names is an array {list(names.shape)} of {names.dtype}; expected a list of texts"
        )
    found = tuple(str(name) for name in names)
    if not 2 <= len(found) <= MAX_CLASSES or len(set(found)) < len(found):
        raise UserError(f"{path}: {len(found)} class_names; expected at least two that differ")
    return found
