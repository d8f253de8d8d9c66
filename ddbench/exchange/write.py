"""Synsets for other programs: folders of pictures, one picture, plain arrays."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import DATASETS, preprocess_kind
from ddbench.exchange import read
from ddbench.preview import png, preview_png
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash, write_bytes
from ddbench.synset import Synset, pixels

Files = dict[Path, Callable[[], bytes]]
"""What an export writes: where, and what makes its bytes."""

ONE_FILE = {"grid": "grid.png", "npz": "synset.npz"}
"""Formats of a single file, which may lie beside the class folders of the same set: no import takes it for an image."""

HEAD = 1024
"""Bytes that an array in an archive has beside its numbers, at most; noise does not pack, and has a thousandth more."""


def folder_name(label: int, name: str) -> str:
    """Folder of a class in an exported set: its number, and what of its name is safe in a path."""
    safe = "".join(c if c.isalnum() else "_" for c in name)[:40]
    return f"{label:04d}_{safe}" if safe else f"{label:04d}"


def _png_files(synset: Synset, preprocess: Preprocess, out: Path) -> Files:
    labels = synset.hard_labels().tolist()
    counts: dict[int, int] = {}
    files: Files = {}
    for image, label in zip(pixels(synset, preprocess), labels, strict=True):
        counts[label] = counts.get(label, -1) + 1
        path = out / folder_name(label, synset.class_names[label]) / f"{counts[label]:05d}.png"
        files[path] = partial(png, image)
    return files


def lost_in_pixels(synset: Synset) -> str:
    """What pictures of a synset do not say of it, in words; empty where they are all of it."""
    parts = {
        "what of the images lies between or beyond them": synset.space != "pixels" or bool(synset.parameters),
        f"that each is cut at use (--decode-factor {synset.decode_factor})": synset.decode_factor > 1,
        "the soft labels": synset.label_kind != "hard",
        "the learned rate": synset.learned_lr is not None,
        "the stages": synset.stage is not None,
        "how many patches they are stitched of": synset.patches > 1,
        "the teacher": synset.teacher is not None,
        "the preprocess that a student sees them through": not _usual_preprocess(synset),
    }
    return ", ".join(words for words, lost in parts.items() if lost)


def _usual_preprocess(synset: Synset) -> bool:
    """Whether an import takes the same one where none is said; of images of a user's own where nothing speaks against
    it, as their statistics are not at hand.
    """
    if synset.dataset not in DATASETS:
        return preprocess_kind(synset.preprocess, ((), ())) is None
    own = DATASETS[synset.dataset]
    return preprocess_kind(synset.preprocess, (own.mean, own.std)) == "meanstd"


def _grid_files(synset: Synset, preprocess: Preprocess, out: Path) -> Files:
    return {out / ONE_FILE["grid"]: partial(preview_png, synset, preprocess)}


def _npz_files(synset: Synset, preprocess: Preprocess, out: Path) -> Files:
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
    path = out / ONE_FILE["npz"]
    size = sum(array.nbytes + array.nbytes // 1000 + HEAD for array in arrays.values())
    if size > read.MAX_FILE:
        raise UserError(
            f"{path}: would have {size:,} bytes, and ddbench import takes at most {read.MAX_FILE:,}; hand over the "
            "synset's own file, which needs no import"
        )

    def made() -> bytes:
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        return stream.getvalue()

    return {path: made}


FORMATS: dict[str, Callable[[Synset, Preprocess, Path], Files]] = {
    "png": _png_files,
    "grid": _grid_files,
    "npz": _npz_files,
}


def export_synset(synset: Synset, preprocess: Preprocess, format: str, out: Path) -> list[Path]:
    """Write a synset for other programs; returns the files. Those that are there already stay.

    Args:
        format: ``png`` (a folder a class; 8 bits, for looking at: what a student sees is in npz), ``grid`` (one
            picture) or ``npz`` (``images`` or parameters, and ``labels`` exactly as stored, ``pixels`` uint8, ``lr``,
            ``stage``, ``header``: ``ddbench import`` makes the same synset of it).

    Raises:
        UserError: unknown format, another export or (png) anything else in the folder but this set's other forms, an
            archive too large to be imported, or the folder cannot be written to.
    """
    if format not in FORMATS:
        from ddbench.registry import unknown

        raise unknown("format", format, FORMATS, "--format")
    files = FORMATS[format](synset, preprocess, out)
    beside: Files = {}
    for other, name in ONE_FILE.items():
        if format == "png" and (out / name).is_file():
            beside |= FORMATS[other](synset, preprocess, out)
    there = _claim(out, files, beside if format == "png" else None)
    for path, made in files.items():
        if path not in there:
            write_bytes(path, made())
    return [*files]


ANOTHER = "if that is an older export of this run, remove its files first, else choose another folder"
"""What to do where a folder holds another export: whose it is, only the user knows."""


def _claim(out: Path, files: Files, beside: Files | None) -> set[Path]:
    """The files that are there, to the byte; two sets in one folder would be read as one.

    Args:
        beside: what else may be in the folder, to the byte, and nothing but hidden files beyond; None: anything.

    Raises:
        UserError: one of them has other contents, or there is something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file, expected a folder")
    if beside is not None and out.is_dir():
        for path in out.rglob("*"):
            if path in files or path.is_dir() or path.name.startswith("."):
                continue
            if path not in beside or not _is_there(path, beside):
                raise UserError(f"--out {out}: holds {path.relative_to(out)}, not of this export; {ANOTHER}")
    there = {path for path in files if path.exists()}
    for path in there:
        if not _is_there(path, files):
            raise UserError(
                f"--out {out}: {path.relative_to(out)} is there with other contents, of another export; {ANOTHER}"
            )
    return there


def _is_there(path: Path, files: Files) -> bool:
    return file_hash(path) == hashlib.sha256(files[path]()).hexdigest()
