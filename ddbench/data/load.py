"""Read a dataset by name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ddbench.data.dataset import Dataset
from ddbench.data.places import FILES, packaged
from ddbench.data.specs import GRAPHS, MADE, NPZ, dataset_spec
from ddbench.registry import resolve
from ddbench.runtime.errors import UserError
from ddbench.runtime.folders import expanded, user_cache
from ddbench.runtime.progress import Console

WITHOUT_FILES = {MADE, *(name for name, files in FILES.items() if not files)}
"""Datasets that need no data folder."""


def data_root(root: Path | None) -> Path:
    """Where datasets are: ``root``, else ``$DDBENCH_DATA``, else ``ddbench`` in the user's cache folder.

    The cache folder is ``$XDG_CACHE_HOME`` or ``~/.cache``, on Windows ``%LOCALAPPDATA%``. Nothing is created.

    Raises:
        UserError: none of these is said, and the user has no home.
    """
    if root is not None:
        return expanded(root)
    named = os.environ.get("DDBENCH_DATA")
    if named:
        return expanded(named)
    return user_cache()


def kept_root(root: Path | None) -> Path | None:
    """As :func:`data_root`; None where there is no such folder: then nothing is kept that could be made again."""
    try:
        return data_root(root)
    except UserError:
        return None


def _needs_folder(name: str) -> bool:
    """Whether a dataset is read out of the data folder, or kept there: not what is one file that lies where it says."""
    if name in WITHOUT_FILES or packaged(name):
        return False
    place = expanded(name.partition(":")[2])
    return not (name.startswith((NPZ, GRAPHS)) and (place.is_absolute() or place.exists()))


def data_changed(name: str) -> UserError:
    """What a user is told of data that are others than those that the command began with."""
    return UserError(f"dataset {name}: its images changed since the command began; repeat it")


def load_dataset(
    name: str,
    root: Path | None = None,
    *,
    size: int | None = None,
    download: bool = False,
    console: Console | None = None,
    skip_broken: bool = False,
    modality: str | None = "image",
) -> Dataset:
    """Read a dataset; image files are decoded once and mapped from the disk afterwards.

    Args:
        name: as in :data:`ddbench.data.specs.DATASETS`, or ``folder:PATH``.
        root: data folder, see :func:`data_root`.
        size: side in pixels, for resizable datasets.
        download: get missing files, where the dataset has a public address.
        console: where it is told what the image files are, before they are decoded; None: nowhere.
        skip_broken: leave broken image files out, now and later, while the files stay as they are.
        modality: what the caller works on; None: it asks the dataset.

    Returns:
        A checked dataset with a complete spec.

    Raises:
        UserError: unknown name, another modality, wrong size, missing or damaged files (the folder that was looked in
            and the remedy are named), too little memory or disk.
    """
    spec = replace(dataset_spec(name, size), skip_broken=skip_broken)
    if modality not in (None, spec.modality):
        raise UserError(f"--dataset {name}: a set of {spec.modality}s, but this works on {modality}s only")
    read = resolve(spec.reader, f"dataset {name}")
    made = read(spec, data_root(root) if _needs_folder(spec.name) else kept_root(root), download, console)
    if not isinstance(made, Dataset) or made.spec.name != spec.name:
        raise UserError(f"dataset {name}: its reader gave {type(made).__name__}, expected a Dataset of that name")
    made.check()
    return made
