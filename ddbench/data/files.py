"""Datasets that come as image files: folders of one's own, Tiny-ImageNet, ImageNet, Imagenette."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ddbench.data.cache import load_listing
from ddbench.data.dataset import Dataset
from ddbench.data.folder import list_archive, list_folder, list_imagenet, list_tiny_imagenet
from ddbench.data.specs import DatasetSpec
from ddbench.runtime.progress import Console


def load_folder(spec: DatasetSpec, root: Path, download: bool = False, console: Console | None = None) -> Dataset:
    """``folder:PATH``; see :func:`ddbench.data.folder.list_folder`."""
    listing, note = list_folder(spec, root)
    return load_listing(replace(spec, note=note), listing, root, console)


def load_tiny_imagenet(
    spec: DatasetSpec, root: Path, download: bool = False, console: Console | None = None
) -> Dataset:
    """The official archive, unpacked; see :func:`ddbench.data.folder.list_tiny_imagenet`."""
    return load_listing(spec, list_tiny_imagenet(spec, root), root, console)


def load_imagenet(spec: DatasetSpec, root: Path, download: bool = False, console: Console | None = None) -> Dataset:
    """ImageNet-1k or a subset of it; see :func:`ddbench.data.folder.list_imagenet`."""
    return load_listing(spec, list_imagenet(spec, root), root, console)


def load_archive(spec: DatasetSpec, root: Path, download: bool = False, console: Console | None = None) -> Dataset:
    """Imagenette's or Imagewoof's own archive; see :func:`ddbench.data.folder.list_archive`."""
    return load_listing(spec, list_archive(spec, root), root, console)
