"""Datasets that come as archives of arrays: digits, SVHN, CIFAR, and those of IDX files (MNIST and its kin)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddbench.data.dataset import Dataset, Split, class_indices, make_dataset
from ddbench.data.idx import read_idx
from ddbench.data.limits import require_memory
from ddbench.data.places import DEBIAN
from ddbench.data.specs import DatasetSpec
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.runtime.seeds import generator

DIGITS_TEST = 50
"""Test images of each class of digits."""


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's table of 64 pixels (0 to 16) and the class; read without importing the package (3 CPU seconds)."""
    found = importlib.util.find_spec("sklearn")
    places = list(found.submodule_search_locations or []) if found else []
    path = Path(places[0], "datasets", "data", "digits.csv.gz") if places else Path()
    if path.is_file():
        table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
        values, labels = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        values, labels = torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target)
    images = values.reshape(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
    return images, labels.to(torch.int64)


def load_digits_dataset(
    spec: DatasetSpec, root: Path | None, download: bool = False, console: Console | None = None
) -> Dataset:
    """scikit-learn's 1,797 grey 8x8 digits: 50 images of each class are the test set, 1,297 remain."""
    images, labels = _digits()
    randomness = generator(0, "digits-test")
    test = torch.zeros(len(labels), dtype=torch.bool)
    for index in class_indices(labels, spec.classes):
        test[index[torch.randperm(len(index), generator=randomness)[:DIGITS_TEST]]] = True
    return make_dataset(spec, Split(images[~test], labels[~test]), Split(images[test], labels[test]), root=root)


IDX_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
"""Datasets of IDX files -> torchvision's class, which is the folder's name too; EMNIST's are all in one."""


def load_idx_dataset(
    spec: DatasetSpec, root: Path | None, download: bool = False, console: Console | None = None
) -> Dataset:
    """MNIST, Fashion-MNIST, KMNIST or a split of EMNIST from IDX files, plain or gzipped.

    Looked for in ``root/MNIST/raw`` and so on (torchvision's layout), then where Debian's package has them, which needs
    no ``root``. EMNIST's images lie on their side in the files and are turned upright; its letters are counted from 1
    there.

    Raises:
        UserError: no files and no ``download``, a failed download, or a damaged file.
    """
    emnist = spec.name.partition("emnist-")[2]
    name = "EMNIST" if emnist else IDX_FOLDERS[spec.name]
    parts = (f"emnist-{emnist}-train", f"emnist-{emnist}-test") if emnist else ("train", "t10k")
    folders = [] if root is None else [root / name / "raw"]
    kind = f"emnist-{emnist}-*-ubyte" if emnist else "*-ubyte"
    where = folders[0] if folders else f"DATA/{name}/raw"
    remedy = f"get them with --download, or put the four {kind} or {kind}.gz files into {where}"
    if spec.name in DEBIAN:
        package, place = DEBIAN[spec.name]
        folders.append(place)
        remedy += f", or install the Debian package {package}"

    def read() -> list[Split]:
        whole = (one for one in folders if all(None not in _pair(one, part) for part in parts))
        begun = (one for one in folders if _idx(one, f"{parts[0]}-images-idx3-ubyte") is not None)
        folder = next(whole, None) or next(begun, None)
        if folder is None:
            raise UserError(f"{spec.name}: no IDX files in {' or '.join(map(str, folders))}; {remedy}")
        splits = []
        for part in parts:
            images, labels = _pair(folder, part)
            if images is None or labels is None:
                raise UserError(f"{spec.name}: {folder} lacks {part}-images-idx3-ubyte or its labels; {remedy}")
            pixels, classes = read_idx(images, 3).unsqueeze(1), read_idx(labels, 1).to(torch.int64)
            if emnist:
                pixels = pixels.transpose(2, 3).contiguous()
            splits.append(Split(pixels, classes - 1 if emnist == "letters" else classes))
        return splits

    def fetch() -> None:
        assert root is not None
        for train in (True, False):  # of EMNIST it looks for those of one part only
            archive(spec, name, root, download=True, train=train, **({"split": emnist} if emnist else {}))

    return make_dataset(spec, *read_or_fetch(read, fetch, download and root is not None), root=root)


def read_or_fetch(read: Callable[[], list[Split]], fetch: Callable[[], None], download: bool) -> list[Split]:
    """What is read; with ``download`` it is fetched where it cannot be read: one that was killed leaves some of the
    files, or a part of one.

    Raises:
        UserError: as ``read`` and ``fetch``.
    """
    try:
        return read()
    except UserError:
        if not download:
            raise
    fetch()
    return read()


def _pair(folder: Path, part: str) -> tuple[Path | None, Path | None]:
    """The files of a part's images and labels."""
    return _idx(folder, f"{part}-images-idx3-ubyte"), _idx(folder, f"{part}-labels-idx1-ubyte")


def _idx(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def load_svhn(spec: DatasetSpec, root: Path, download: bool = False, console: Console | None = None) -> Dataset:
    """SVHN's cropped digits from ``{train,test}_32x32.mat`` in ``root/SVHN`` (or in ``root``).

    Raises:
        UserError: as :func:`load_cifar`.
    """
    file = "train_32x32.mat"
    folder = next((one for one in (root / "SVHN", root) if (one / file).is_file()), root / "SVHN")
    found = [_archive(spec, "SVHN", folder, folder / file, download, split=split) for split in ("train", "test")]
    splits = [
        Split(torch.from_numpy(one.data).contiguous(), torch.as_tensor(one.labels, dtype=torch.int64)) for one in found
    ]
    return make_dataset(spec, *splits, root=root)


def load_cifar(spec: DatasetSpec, root: Path, download: bool = False, console: Console | None = None) -> Dataset:
    """CIFAR-10 or CIFAR-100 from the official "python version".

    Those archives are pickles; torchvision compares their md5 with the official one before it opens them.

    Raises:
        UserError: missing or altered files and no ``download``, a failed download, too little memory.
    """
    name, folder = ("CIFAR10", "cifar-10-batches-py") if spec.name == "cifar10" else ("CIFAR100", "cifar-100-python")
    found = [_archive(spec, name, root, root / folder, download, train=train) for train in (True, False)]
    splits = [
        Split(torch.from_numpy(one.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(one.targets, dtype=torch.int64))
        for one in found
    ]
    names = spec.class_names or tuple(found[0].classes)
    return make_dataset(replace(spec, class_names=names), *splits, root=root)


def _archive(spec: DatasetSpec, name: str, root: Path, expected: Path, download: bool, **split: Any) -> Any:
    # About 100,000 images; torchvision holds them three times while it reads.
    require_memory(3 * 100_000 * spec.channels * spec.size**2, f"reading {spec.name}", "close other programs")
    if not download and not expected.exists():
        raise UserError(f"{spec.name}: {expected} is not there; get it with --download, or give its folder with --data")
    return archive(spec, name, root, download=download, **split)


def archive(spec: DatasetSpec, name: str, root: Path, *, download: bool, **split: Any) -> Any:
    """A dataset of torchvision, read or fetched; a failure is told in one line.

    Raises:
        UserError: files that are missing or altered, or a failed download.
    """
    import torchvision

    try:
        return getattr(torchvision.datasets, name)(str(root), download=download, **split)
    except (OSError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())
        if download:
            raise UserError(
                f"{spec.name}: the download into {root} failed: {reason}; try again, or put the files there"
            ) from error
        raise UserError(
            f"{spec.name}: the files in {root} are incomplete or altered; repeat with --download ({reason})"
        ) from error
