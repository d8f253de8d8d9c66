"""A checked reader of IDX files, the format of MNIST and Fashion-MNIST, plain or gzipped."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from ddbench.data.limits import require_memory
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import plain_file

UBYTE = 8
"""Type code of unsigned bytes, the only one these datasets use."""


def read_idx(path: Path, ndim: int) -> Tensor:
    """The uint8 array of an IDX file.

    Args:
        path: opened as gzip when its name ends in ``.gz``.
        ndim: number of dimensions it must have (1: labels, 3: images).

    Raises:
        UserError: unreadable, another magic number or type, fewer or more bytes than its header announces, or too
            large for the memory.
    """
    plain_file(path, "IDX file")
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as handle:
            return _read(handle, path, ndim)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot read this IDX file: {error}; get it again") from error


def _read(handle: io.BufferedIOBase, path: Path, ndim: int) -> Tensor:
    header = handle.read(4 + 4 * ndim)
    if len(header) < 4 + 4 * ndim:
        raise UserError(
            f"{path}: {len(header)} bytes are too short for an IDX file of {ndim} dimension(s); get it again"
        )
    if header[:4] != bytes((0, 0, UBYTE, ndim)):
        raise UserError(
            f"{path}: magic number {header[:4].hex()}, expected {bytes((0, 0, UBYTE, ndim)).hex()} "
            f"(unsigned bytes, {ndim} dimension(s)); this is another file"
        )
    shape = struct.unpack(f">{ndim}I", header[4:])
    expected = math.prod(shape)
    require_memory(2 * expected, f"{path}", "its header may be damaged: get the file again")
    data = bytearray(handle.read(expected + 1))  # never more, whatever a gzip stream would expand to
    if len(data) != expected:
        found = "more" if len(data) > expected else f"{len(data):,}"
        raise UserError(
            f"{path}: its header announces {expected:,} bytes {list(shape)}, it holds {found}; get it again"
        )
    if not data:
        raise UserError(f"{path}: it holds no data {list(shape)}; get it again")
    return torch.frombuffer(data, dtype=torch.uint8).view(shape)
