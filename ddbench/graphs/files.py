"""Whole numbers out of foreign text files, checked before they are used. Imports no torch."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ddbench.graphs.graphset import Ints
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import plain_file, read_bytes

MAX_TEXT = 2**28
"""Bytes of text in one file, unpacked: a larger one is refused before it is parsed."""

MAX_NUMBERS = 2**25
"""Numbers in one file: each takes 8 bytes, however few it has in the file or how well that is packed."""

MAX_LINE = 2**16
"""Bytes of a line: the parser makes room for a whole one."""

CHUNK = 2**14
"""Packed bytes that are unpacked at once: what is left of them behind a member is copied."""


def read_text(path: Path, what: str) -> bytes:
    """The bytes of a text file; of a packed one (``.gz``), unpacked, at most :data:`MAX_TEXT`.

    Raises:
        UserError: missing, no plain file, too large, no gzip file, or cut.
    """
    size = plain_file(path, what, MAX_TEXT)  # the limit of the read: a read makes room for as much as it may be
    if path.suffix != ".gz":
        return read_bytes(path, what, size)
    data = b"".join(_unpacked(path, read_bytes(path, what, size), MAX_TEXT + 1))
    if len(data) > MAX_TEXT:
        raise UserError(f"{path}: unpacked, more than {MAX_TEXT:,} bytes are too large for a {what}")
    return data


def _unpacked(path: Path, packed: bytes, limit: int) -> Iterator[bytes]:
    """The text of all members of a gzip file, ``limit`` bytes at most; zeros may stand behind a member.

    Raises:
        UserError: no gzip file, or cut.
    """
    member, begin, at = zlib.decompressobj(wbits=31), 0, 0
    while at < len(packed) and limit:
        chunk = packed[at : at + CHUNK]
        if member.eof:
            padding = len(chunk) - len(chunk.lstrip(b"\0"))
            at += padding
            if padding:
                continue
            member, begin = zlib.decompressobj(wbits=31), at
        try:
            part = member.decompress(chunk, limit)
        except zlib.error as error:
            where = f"from byte {begin:,} on " if begin else ""
            raise UserError(f"{path}: {where}not a gzip file ({error}); copy it again") from None
        at += len(chunk) - len(member.unused_data) - len(member.unconsumed_tail)
        limit -= len(part)
        yield part
    if limit and not member.eof:
        raise UserError(f"{path}: the gzip file is cut; copy it again")


def numbers(where: object, data: bytes, columns: int | None = None) -> Ints:
    """A table of whole numbers, int64 ``(rows, columns)``.

    Args:
        where: the file, for messages.
        columns: how many there must be; None: as many as in the first row.

    Raises:
        UserError: empty, something that is no whole number of 64 bits, rows of different lengths, more than
            :data:`MAX_NUMBERS`, a line longer than :data:`MAX_LINE`.
    """
    if not data.strip():
        raise UserError(f"{where}: it is empty, expected whole numbers")
    count, longest = data.count(b"\n") + data.count(b","), max(map(len, io.BytesIO(data)))
    if count > MAX_NUMBERS:
        raise UserError(f"{where}: {count:,} numbers, expected at most {MAX_NUMBERS:,}")
    if longest > MAX_LINE:
        raise UserError(
            f"{where}: a line of {longest:,} bytes, expected whole numbers in lines of at most {MAX_LINE:,}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table: Ints = np.loadtxt(
                io.BytesIO(data), dtype=np.int64, delimiter=",", ndmin=2, comments=None, encoding="latin1"
            )
    except (ValueError, OverflowError, Warning) as error:
        found, _, _ = str(error).partition("; use `usecols`")  # advice for who calls the parser
        raise UserError(f"{where}: expected whole numbers of 64 bits: {found:.200}") from None
    if columns is not None and table.shape[1] != columns:
        raise UserError(f"{where}: {table.shape[1]} column(s), expected {columns}")
    return table


def column(where: object, data: bytes, what: str) -> Ints:
    """One number a line ``(rows,)``.

    Raises:
        UserError: as :func:`numbers`; several columns.
    """
    table = numbers(where, data)
    if table.shape[1] != 1:
        raise UserError(f"{where}: {table.shape[1]} columns of {what}, expected one")
    return table[:, 0]
