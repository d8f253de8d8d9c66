"""Synsets for other programs: folders of pictures, one picture, plain arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ddbench.data.preprocess import Preprocess
from ddbench.preview import png, preview_png
from ddbench.runtime.files import write_atomic, write_bytes
from ddbench.synset import Synset, pixels


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
        **{name: array.numpy() for name, array in (synset.parameters or {"images": synset.images}).items()},
        "labels": synset.labels.numpy(),
        "pixels": pixels(synset, preprocess).numpy(),
        "header": np.array(json.dumps(synset.header(), sort_keys=True)),
    }
    if synset.learned_lr is not None:
        arrays["lr"] = synset.learned_lr.numpy()
    if synset.stage is not None:
        arrays["stage"] = synset.stage.numpy()

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
            picture) or ``npz`` (``images`` or parameters, and ``labels`` exactly as stored, ``pixels`` uint8, ``lr``,
            ``stage``, ``header``: ``ddbench import`` makes the same synset of it).

    Raises:
        UserError: unknown format, or the folder cannot be written to.
    """
    if format not in FORMATS:
        from ddbench.registry import unknown

        raise unknown("format", format, FORMATS, "--format")
    return FORMATS[format](synset, preprocess, out)
