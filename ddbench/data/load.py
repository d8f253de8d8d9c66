"""Read a dataset by name."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from ddbench.data.dataset import Dataset
from ddbench.data.specs import FOLDER, dataset_spec
from ddbench.runtime.progress import Console


def data_root(root: Path | None) -> Path:
    """Where datasets are: ``root``, else ``$DDBENCH_DATA``, else ``ddbench`` in the user's cache folder.

    The cache folder is ``$XDG_CACHE_HOME`` or ``~/.cache``, on Windows ``%LOCALAPPDATA%``. Nothing is created.
    """
    if root is not None:
        return root.expanduser()
    named = os.environ.get("DDBENCH_DATA")
    if named:
        return Path(named).expanduser()
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    cache = os.environ.get(variable)
    return (Path(cache) if cache else Path.home() / ".cache") / "ddbench"


def load_dataset(
    name: str,
    root: Path | None = None,
    *,
    size: int | None = None,
    download: bool = False,
    console: Console | None = None,
) -> Dataset:
    """Read a dataset; image files are decoded once and mapped from the disk afterwards.

    Args:
        name: as in :data:`ddbench.data.specs.DATASETS`, or ``folder:PATH``.
        root: data folder, see :func:`data_root`.
        size: side in pixels, for resizable datasets.
        download: get missing files, where the dataset has a public address.
        console: where a long decoding shows its progress; default: standard error, for large sets only.

    Returns:
        A checked dataset with a complete spec.

    Raises:
        UserError: unknown name, wrong size, missing or damaged files (the folder that was looked in and the remedy are
            named), too little memory or disk.
    """
    spec = dataset_spec(name, size)
    place = data_root(root)
    if name == "digits":
        from ddbench.data.sources import load_digits_dataset

        return load_digits_dataset(spec, place)
    if name in ("mnist", "fashion-mnist"):
        from ddbench.data.sources import load_idx_dataset

        return load_idx_dataset(spec, place, download)
    if name == "svhn":
        from ddbench.data.sources import load_svhn

        return load_svhn(spec, place, download)
    if name in ("cifar10", "cifar100"):
        from ddbench.data.sources import load_cifar

        return load_cifar(spec, place, download)
    from ddbench.data import folder
    from ddbench.data.cache import load_listing

    if name.startswith(FOLDER):
        listing, note = folder.list_folder(spec)
        return load_listing(replace(spec, note=note), listing, place, console)
    if name == "tiny-imagenet":
        return load_listing(spec, folder.list_tiny_imagenet(spec, place), place, console)
    return load_listing(spec, folder.list_imagenet(spec, place), place, console)
