"""Pictures that are written as PNG, and nothing else."""

from __future__ import annotations

import struct
import zlib
from typing import Any, BinaryIO

KINDS = {1: 0, 3: 2}
"""Channels -> type of colour."""


class Picture:
    """An array uint8 ``(H, W)`` or ``(H, W, 3)``."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def save(self, stream: BinaryIO, form: str, **_: Any) -> None:
        """Write it as PNG.

        Raises:
            ModuleNotFoundError: another form is asked for.
        """
        if form != "PNG":
            raise ModuleNotFoundError("No module named 'PIL'", name="PIL")
        height, width, *channels = self.array.shape
        kind = KINDS[channels[0] if channels else 1]
        rows = b"".join(b"\0" + row.tobytes() for row in self.array)
        stream.write(b"\x89PNG\r\n\x1a\n")
        for name, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        ):
            stream.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))


def fromarray(array: Any) -> Picture:
    """A picture of an array."""
    return Picture(array)
