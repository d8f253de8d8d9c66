"""Synsets in the formats of others: what the field published comes in, pictures and arrays go out."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import DatasetSpec
from ddbench.preview import png, preview_png
from ddbench.runtime.device import versions
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash, plain_file, write_atomic, write_bytes
from ddbench.runtime.pickles import load_pt
from ddbench.synset import Budget, Synset, pixels

MAX_FILE = 4 * 2**30
MAX_IMAGE = 64 * 2**20


def import_synset(
    path: Path,
    *,
    dataset: Dataset,
    preprocess: Preprocess,
    labels: Path | None,
    lr: str | None,
    index: int,
    method: str,
    student: str | None,
    augmentation: str,
) -> Synset:
    """Read a published synset.

    Args:
        path: ``images_best.pt`` (a tensor; with ``labels``), DC's ``res_*.pt``, an ``.npz`` of images and labels, or a
            folder ``CLASS/*.png``.
        preprocess: what the images went through; pixels (uint8, or a folder) went through nothing.
        labels: ``labels_best.pt``; without it class-major hard labels are assumed.
        lr: the learned learning rate: a number, or a ``.pt`` file that holds one.
        index: which of the sets of a ``res_*.pt`` (negative: from the end).

    Raises:
        UserError: a file that is none of these, or whose contents do not fit the dataset.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not path.is_dir():
        plain_file(path, "synset", MAX_FILE)
    images: Tensor
    found: Tensor | None
    if path.is_dir():
        images, found = _from_folder(path, dataset)
    elif path.suffix == ".npz":
        images, found = _from_npz(path)
    else:
        images, found = _from_pt(path, index)
    if labels is not None:
        found = _tensor(load_pt(labels), labels, "labels")
    spec = dataset.spec
    labelled = _labelled(path, images, found, spec)
    return Synset(
        images=images if images.dtype == torch.uint8 else images.float(),
        labels=labelled,
        preprocess=preprocess.to_json(),
        budget=Budget("ipc", len(images) // spec.classes),
        dataset=spec.name,
        fingerprint=dataset.fingerprint,
        class_names=spec.class_names,
        method=method,
        config={"imported_from": path.name},
        seed=0,
        student=student,
        augmentation=augmentation,
        learned_lr=None if lr is None else _learned_lr(lr),
        versions=versions(),
        parents={"imported_sha256": file_hash(path)} if path.is_file() else {},
    )


def _labelled(path: Path, images: Tensor, labels: Tensor | None, spec: DatasetSpec) -> Tensor:
    """The labels of images that fit a dataset, int64 ``(N,)`` or float32 ``(N, K)``; class-major where there are none.

    Raises:
        UserError: the images do not fit the dataset, or the labels not the images.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != (spec.channels, spec.size, spec.size):
        raise UserError(
            f"{path}: images of shape {list(images.shape)}, expected (N, {spec.channels}, {spec.size}, {spec.size})"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"{path}: images are {images.dtype}, expected uint8 pixels or floating-point network input")
    if len(images) % spec.classes:
        raise UserError(f"{path}: {len(images)} images do not divide into the {spec.classes} classes of {spec.name}")
    if labels is None:
        labels = torch.arange(spec.classes).repeat_interleave(len(images) // spec.classes)
    labels = labels.float() if labels.is_floating_point() else labels.long()
    if labels.ndim not in (1, 2) or len(labels) != len(images):
        raise UserError(f"{path}: labels of shape {list(labels.shape)} for {len(images)} images")
    return labels


def _tensor(value: Any, path: Path, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise UserError(f"{path}: expected a tensor of {what}, found {type(value).__name__}")
    return value.detach().contiguous()


def _from_pt(path: Path, index: int) -> tuple[Tensor, Tensor | None]:
    content = load_pt(path)
    if isinstance(content, dict) and "data" in content:  # DC, DSA, DM: {"data": [[images, labels], ...], ...}
        sets = content["data"]
        if not isinstance(sets, list) or not sets or not -len(sets) <= index < len(sets):
            raise UserError(f"{path}: --index {index}: holds {len(sets) if isinstance(sets, list) else 0} set(s)")
        if not isinstance(sets[index], list | tuple) or len(sets[index]) != 2:
            raise UserError(f"{path}: set {index} is not a pair of images and labels")
        return _tensor(sets[index][0], path, "images"), _tensor(sets[index][1], path, "labels")
    return _tensor(content, path, "images"), None


def _from_npz(path: Path) -> tuple[Tensor, Tensor | None]:
    plain_file(path, "synset", MAX_FILE)
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(member.file_size for member in archive.infolist())
        if unfolded > MAX_FILE:
            raise UserError(f"{path}: unfolds to {unfolded:,} bytes, too large for a synset")
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            if "images" not in file.files:
                raise UserError(f"{path}: has no array 'images' (it has: {', '.join(file.files)})")
            images = torch.from_numpy(file["images"].copy())
            labels = torch.from_numpy(file["labels"].copy()) if "labels" in file.files else None
    except UserError:
        raise
    except Exception as error:  # numpy raises many kinds for a damaged archive
        raise UserError(f"{path}: not a whole .npz of plain arrays: {error}") from None
    return images, labels


def _from_folder(path: Path, dataset: Dataset) -> tuple[Tensor, Tensor]:
    from PIL import Image, UnidentifiedImageError

    spec = dataset.spec
    images, labels = [], []
    for label, name in enumerate(spec.class_names):
        folder = path / folder_name(label, name)
        if not folder.is_dir():
            folder = path / name
        files = sorted(folder.glob("*.png")) if folder.is_dir() else []
        if not files:
            raise UserError(
                f"{path}: no PNG images of class {name!r} (looked for {folder_name(label, name)}/ and {name}/)"
            )
        for file in files:
            plain_file(file, "PNG image", MAX_IMAGE)
            try:
                with Image.open(file) as picture:
                    array = np.array(picture.convert("L" if spec.channels == 1 else "RGB"))
            except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
                raise UserError(f"{file}: not a readable image: {error}") from None
            if array.shape[:2] != (spec.size, spec.size):
                raise UserError(
                    f"{file}: {array.shape[1]} x {array.shape[0]} pixels, {spec.name} has {spec.size} x {spec.size}"
                )
            images.append(torch.from_numpy(array).reshape(spec.size, spec.size, spec.channels).permute(2, 0, 1))
            labels.append(label)
    return torch.stack(images).contiguous(), torch.tensor(labels)


def _learned_lr(text: str) -> Tensor:
    try:
        value = torch.tensor(float(text))
    except ValueError:
        content = load_pt(Path(text))
        if not (isinstance(content, float) or (isinstance(content, Tensor) and content.numel() == 1)):
            raise UserError(f"--lr {text}: expected a number, or a .pt file that holds one") from None
        value = torch.as_tensor(float(content))
    if not 0 < float(value) < float("inf"):
        raise UserError(f"--lr {text}: the learned learning rate is {float(value):g}, expected a positive number")
    return value


def folder_name(label: int, name: str) -> str:
    """Folder of a class in an exported set: its number, and what of its name is safe in a path."""
    safe = "".join(c if c.isalnum() else "_" for c in name)[:40]
    return f"{label:04d}_{safe}" if safe else f"{label:04d}"


def _export_png(synset: Synset, preprocess: Preprocess, out: Path) -> list[Path]:
    labels = synset.hard_labels().tolist()
    counts: dict[int, int] = {}
    paths = []
    for image, label in zip(pixels(synset, preprocess), labels, strict=True):
        counts[label] = counts.get(label, -1) + 1
        path = out / folder_name(label, synset.class_names[label]) / f"{counts[label]:05d}.png"
        write_bytes(path, png(image))
        paths.append(path)
    return paths


def _export_grid(synset: Synset, preprocess: Preprocess, out: Path) -> list[Path]:
    path = out / "grid.png"
    write_bytes(path, preview_png(synset, preprocess))
    return [path]


def _export_npz(synset: Synset, preprocess: Preprocess, out: Path) -> list[Path]:
    path = out / "synset.npz"
    arrays = {
        "images": synset.images.numpy(),
        "labels": synset.labels.numpy(),
        "pixels": pixels(synset, preprocess).numpy(),
        "header": np.array(json.dumps(synset.header(), sort_keys=True)),
    }
    if synset.learned_lr is not None:
        arrays["lr"] = synset.learned_lr.numpy()

    def save(temporary: Path) -> None:
        with open(temporary, "wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]

    write_atomic(path, save)
    return [path]


FORMATS: dict[str, Callable[[Synset, Preprocess, Path], list[Path]]] = {
    "png": _export_png,
    "grid": _export_grid,
    "npz": _export_npz,
}


def export_synset(synset: Synset, preprocess: Preprocess, format: str, out: Path) -> list[Path]:
    """Write a synset for other programs; returns the files.

    Args:
        format: ``png`` (a folder a class; 8 bits, for looking at: what a student sees is in npz), ``grid`` (one
            picture) or ``npz`` (``images`` and ``labels`` exactly as stored, ``pixels`` uint8, ``lr``, ``header``).

    Raises:
        UserError: unknown format, or the folder cannot be written to.
    """
    if format not in FORMATS:
        from ddbench.registry import unknown

        raise unknown("format", format, FORMATS, "--format")
    return FORMATS[format](synset, preprocess, out)
