"""Reading foreign ``.pt`` files: tensors, lists and numbers only; a pickle that would run code is refused."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import plain_file

MAX_BYTES = 4 * 2**30
"""A file that is read into memory as a whole is no larger, nor what it unfolds to."""

MAX_DEFLATED = 256 * 2**20
"""Bytes that packed members unfold to; torch stores them as they are."""


def load_pt(path: Path, mmap: bool = False, limit: int = MAX_BYTES) -> Any:
    """``torch.load`` with ``weights_only=True``: nothing in the file is executed, tensors come to the CPU.

    numpy scalars are let through, because DC's public result files hold accuracies as such.

    Args:
        mmap: map the tensors from the disk; files of torch before 1.6, which have no map, are read.
        limit: bytes of the file, and of what it unfolds to when it is read.

    Raises:
        UserError: missing, no plain file, too large, truncated, or holding anything but tensors and plain values.
    """
    plain_file(path, "file", limit)
    if not begins_as_torch(path):
        raise UserError(f"{path}: not a torch file: it is empty, or begins neither as a zip archive nor as a pickle")
    try:
        packed = zipfile.is_zipfile(path)
        if packed:
            _check_members(path, limit)
        # torch warns of odd pickles; whether it can be read is told below
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and packed)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, it is no plain file of tensors (a pickle can run code when it is opened; nothing was "
            f"run): {_refused(error)}"
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{path}: not a whole torch file, copy or make it again: {_reason(error)}") from None


def begins_as_torch(path: Path) -> bool:
    """Whether the first bytes are those of what ``torch.save`` writes: a zip archive or, before torch 1.6, a pickle."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def _check_members(path: Path, limit: int) -> None:
    """Refuse an archive that unfolds to much more than it is: torch itself packs nothing.

    Raises:
        UserError: names both sizes.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size = sum(member.file_size for member in members)
    if size > limit:
        raise UserError(f"{path}: unfolds to {size:,} bytes, too large (at most {limit:,})")
    deflated = sum(member.file_size for member in members if member.compress_type != zipfile.ZIP_STORED)
    if deflated > MAX_DEFLATED:
        raise UserError(
            f"{path}: unfolds from {path.stat().st_size:,} to {size:,} bytes, and torch packs nothing; save it again "
            "with torch.save"
        )


def _refused(error: Exception) -> str:
    """What a pickle holds beside tensors and plain values, which torch names behind its own advice."""
    found = re.search(r"Unsupported global: GLOBAL ([\w.]{1,100})", str(error))
    if found is None:
        return _reason(error)
    return f"it holds {found[1]}; save tensors, lists, dicts and numbers alone, with torch.save"


def _reason(error: Exception) -> str:
    """The first line of an error's text, or its name when it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _numpy_scalars() -> list[Any]:
    import numpy
    from numpy._core.multiarray import scalar  # the reconstruction function of numpy scalars

    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        numpy.dtype,
        type(numpy.dtype("float64")),
        type(numpy.dtype("float32")),
        type(numpy.dtype("int64")),
    ]
