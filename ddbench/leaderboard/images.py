"""Preview pictures that came from elsewhere: checked and re-encoded before they are published."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from ddbench.leaderboard.kept import Marks, digest
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_bytes

MAX_PNG_BYTES = 10**6
MAX_SIDE = 4096
SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def png_size(data: bytes, where: str) -> tuple[int, int]:
    """Width and height from the header of a PNG.

    Raises:
        UserError: not a PNG, or more than 4096 pixels a side.
    """
    if len(data) < 33 or data[:8] != SIGNATURE or data[12:16] != b"IHDR":
        raise UserError(f"{where}: not a PNG file")
    width, height = struct.unpack(">II", data[16:24])
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise UserError(f"{where}: {width} x {height} pixels; a preview has at most {MAX_SIDE} a side")
    return width, height


def is_too_wide(data: bytes) -> bool:
    """Whether what looks like a PNG has more pixels a side than a preview may have, as that of large images has."""
    return len(data) >= 33 and data[:8] == SIGNATURE and max(struct.unpack(">II", data[16:24])) > MAX_SIDE


def clean_png(data: bytes, where: str) -> bytes:
    """Decode a PNG in full and encode its pixels anew, so that text, profiles and foreign chunks vanish.

    Raises:
        UserError: not a whole PNG, too many pixels, or more than 1 MB.
    """
    from PIL import Image

    mode, size, pixels = _decode(data, where)
    stream = io.BytesIO()
    Image.frombytes(mode, size, pixels).save(stream, "PNG", optimize=True)
    cleaned = stream.getvalue()
    _check_length(cleaned, where)
    return cleaned


def _decode(data: bytes, where: str) -> tuple[str, tuple[int, int], bytes]:
    """Mode, size and pixels of a PNG; nothing else of the file is kept."""
    from PIL import Image

    _check_length(data, where)
    png_size(data, where)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            mode = "L" if opened.mode in ("1", "L") else "RGB"
            return mode, opened.size, opened.convert(mode).tobytes()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise UserError(f"{where}: not a whole PNG file: {error}") from None


def published_png(path: Path, marks: Marks | None = None) -> bytes:
    """The preview beside a result, as :func:`clean_png` wrote it.

    Args:
        marks: contents that need no second look; this one is added.

    Raises:
        UserError: it is not: foreign chunks, broken, or too large.
    """
    data = read_bytes(path, "preview", MAX_PNG_BYTES)
    key = digest(data)
    if marks is not None and key in marks:
        return data
    _decode(data, str(path))
    place = len(SIGNATURE)
    while place < len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8].ljust(8, b"\0"))
        if name not in CHUNKS:
            raise UserError(f"{path}: PNG chunk {name!r} does not belong in a preview; submit the run again")
        place += length + 12
        if name == b"IEND":
            break
    if place != len(data):
        raise UserError(f"{path}: bytes after the end of the PNG; submit the run again")
    if marks is not None:
        marks.add(key)
    return data


def published_size(path: Path, marks: Marks | None = None) -> tuple[int, int]:
    """Width and height of the preview beside a result.

    Raises:
        UserError: as :func:`published_png`.
    """
    return png_size(published_png(path, marks), str(path))


def _check_length(data: bytes, where: str) -> None:
    if len(data) > MAX_PNG_BYTES:
        raise UserError(f"{where}: more than {MAX_PNG_BYTES:,} bytes; a preview is smaller")
