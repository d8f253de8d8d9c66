"""Safetensors files with one JSON header: written atomically, same content same bytes, checked when opened.

The library writes its metadata map in random order, so everything goes under one key.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, parse_json, plain_file, write_atomic
from ddbench.runtime.temporary import own_folder

KEY = "ddbench"
MAX_HEADER = 16 * 2**20


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors (moved to the CPU, made contiguous) and a JSON header atomically.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_foreign(path, whole, {KEY: canonical_json(dict(header))})


def write_foreign(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically, with this metadata.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """

    def save(temporary: Path) -> None:
        # The library writes to a file of a random name beside the one it is given, which nobody would remove.
        with own_folder(path) as folder:
            try:
                save_file(tensors, folder / path.name, metadata=metadata)
            except SafetensorError as error:  # the library wraps the operating system's error in text
                raise OSError(28 if "os error 28" in str(error) else 5, str(error)) from error
            os.replace(folder / path.name, temporary)

    write_atomic(path, save)


@contextmanager
def open_tensors(path: Path, kind: str, schema: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a file written by :func:`write_tensors`; yields the lazy safetensors handle and the header.

    Args:
        kind: the header's ``kind``.
        schema: newest header ``schema`` that this version understands.

    Raises:
        UserError: missing, truncated or foreign file, wrong kind, or made by a newer ddbench.
    """
    plain_file(path, f"file (expected a {kind} file)")
    try:
        _check_length(path)
        handle = safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error!s:.200}); copy or make it again") from None
    with handle:
        yield handle, _header(path, handle.metadata(), kind, schema)


def _check_length(path: Path) -> None:
    """Refuse a table of tensors that is too long before the library parses it.

    Raises:
        ValueError: longer than the file, or than :data:`MAX_HEADER`.
    """
    with open(path, "rb") as handle:
        start = handle.read(8)
    if len(start) < 8 or struct.unpack("<Q", start)[0] > MAX_HEADER:
        raise ValueError("the length of its header is out of range")


def _header(path: Path, metadata: Any, kind: str, schema: int) -> dict[str, Any]:
    text = (metadata or {}).get(KEY)
    if text is None:
        raise UserError(
            f"{path}: a safetensors file that ddbench did not write (no {KEY!r} header); see ddbench import"
        )
    if len(text) > MAX_HEADER:
        raise UserError(f"{path}: a header of {len(text):,} bytes is too large (at most {MAX_HEADER:,})")
    try:
        header = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: its header is not JSON ({error!s:.80}); the file is damaged") from None
    if not isinstance(header, dict) or header.get("kind") != kind:
        found = header.get("kind") if isinstance(header, dict) else type(header).__name__
        raise UserError(f"{path}: a {found!s:.60} file, expected {kind}")
    version = header.get("schema")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"{path}: schema {version!r:.60} is no version number; the file is damaged")
    if version > schema:
        raise UserError(
            f"{path}: schema {version} was made by a newer ddbench (this one reads up to {schema}): upgrade"
        )
    return header


def check_tensor(path: Path, handle: Any, name: str, dtypes: tuple[str, ...], dims: int) -> tuple[int, ...]:
    """Shape of a tensor of an open file, checked before a byte of it is read.

    Args:
        dtypes: accepted safetensors dtypes (``F32``, ``U8``, ``I64``, ...).
        dims: number of dimensions.

    Raises:
        UserError: absent, of another dtype or number of dimensions.
    """
    if name not in handle.keys():  # noqa: SIM118 (not a dict)
        raise UserError(f"{path}: has no tensor {name!r}")
    part = handle.get_slice(name)
    shape, dtype = tuple(part.get_shape()), part.get_dtype()
    if dtype not in dtypes or len(shape) != dims:
        raise UserError(f"{path}: {name} is {dtype}{list(shape)}, expected {' or '.join(dtypes)} of {dims} dimensions")
    return shape


def not_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds NaN or infinity."""
    return tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())


def finite_tensors(handle: Any) -> dict[str, Tensor]:
    """All tensors of an open file.

    Raises:
        ValueError: names one that holds NaN or infinity.
    """
    found: dict[str, Tensor] = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    for name, tensor in found.items():
        if not_finite(tensor):
            raise ValueError(f"{name} holds {'NaN' if bool(tensor.isnan().any()) else 'infinity'}")
    return found


def read_finite(path: Path, handle: Any, name: str) -> Tensor:
    """A tensor of an open file, refused when it holds NaN or infinity.

    Raises:
        UserError: an entry is not finite.
    """
    tensor: Tensor = handle.get_tensor(name)
    if not_finite(tensor):
        bad = int((~torch.isfinite(tensor)).sum())
        raise UserError(f"{path}: {name} holds {bad} value(s) that are NaN or infinite")
    return tensor


def parse_header(path: Path, text: str, kind: str, schema: int) -> dict[str, Any]:
    """The header of a file of ours that is no safetensors file, from its JSON.

    Raises:
        UserError: too long, not JSON, of another kind, or made by a newer ddbench.
    """
    return _header(path, {KEY: text}, kind, schema)
