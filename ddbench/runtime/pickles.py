"""Reading foreign ``.pt`` files: tensors, lists and numbers only; a pickle that would run code is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import plain_file

MAX_BYTES = 4 * 2**30
"""A file that is read into memory as a whole is no larger."""


def load_pt(path: Path, mmap: bool = False) -> Any:
    """``torch.load`` with ``weights_only=True``: nothing in the file is executed.

    Args:
        mmap: map the tensors from the disk; else the file has :data:`MAX_BYTES` at most.

    numpy scalars are let through, because DC's public result files hold accuracies as such.

    Raises:
        UserError: missing, no plain file, truncated, or holding anything but tensors and plain values.
    """
    plain_file(path, "file", None if mmap else MAX_BYTES)
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, it is no plain file of tensors (a pickle can run code when it is opened; nothing was "
            f"run): {_reason(error)}"
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{path}: not a whole torch file: {_reason(error)}") from None


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
