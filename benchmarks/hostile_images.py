"""Files of images that ``hostile.py`` gives: pictures, IDX files and parquet files that cannot be."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any


def pictures() -> Iterator[tuple[str, bytes]]:
    """Picture files, each of which says something that cannot be or that nobody expects."""
    from PIL import Image, PngImagePlugin

    def saved(image: Image.Image, kind: str, **more: Any) -> bytes:
        made = io.BytesIO()
        image.save(made, kind, **more)
        return made.getvalue()

    def png(*parts: tuple[bytes, bytes]) -> bytes:
        found = b"\x89PNG\r\n\x1a\n"
        for name, content in parts:
            found += struct.pack(">I", len(content)) + name + content
            found += struct.pack(">I", zlib.crc32(name + content))
        return found

    def head(width: int, height: int, bits: int = 8, colour: int = 0) -> tuple[bytes, bytes]:
        return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)

    plain = Image.effect_noise((12, 10), 60)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("x", "y" * 2**22, zip=True)
    yield "100,000 px a side", png(head(100_000, 100_000), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    yield "no pixels", png(head(0, 0), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    yield "a palette that is missing", png(head(4, 4, 8, 3), (b"IDAT", zlib.compress(bytes(20))), (b"IEND", b""))
    yield "pixels that end early", png(head(64, 64), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    yield "3 bits", png(head(4, 4, 3), (b"IDAT", zlib.compress(bytes(20))), (b"IEND", b""))
    yield (
        "pixels of 200 MB packed small",
        png(head(20_000, 10_000), (b"IDAT", zlib.compress(bytes(20_001 * 10_000), 9)), (b"IEND", b"")),
    )
    yield "one pixel", saved(Image.new("L", (1, 1)), "PNG")
    yield "one row", saved(Image.new("L", (20_000, 1)), "PNG")
    yield "4 MB of text", saved(plain, "PNG", pnginfo=notes)
    yield "CMYK", saved(plain.convert("CMYK"), "JPEG")
    yield "floats", saved(plain.convert("F"), "TIFF")
    yield "a hundred frames", saved(plain.convert("P"), "GIF", save_all=True, append_images=[plain.convert("P")] * 99)
    yield (
        "a turn that is none",
        saved(plain, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0"),
    )
    yield "an SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'


def idx(data: bytes) -> Iterator[tuple[str, bytes]]:
    """IDX files of images whose heads say something else."""
    for name, sides in {
        "2^32 - 1 images": (2**32 - 1, 28, 28),
        "one image more": (struct.unpack(">I", data[4:8])[0] + 1, 28, 28),
        "no images": (0, 28, 28),
        "sides of 0": (2, 0, 0),
        "sides of 2^31": (2, 2**31, 2**31),
        "other sides": (1, 56, 28),
    }.items():
        yield name, data[:4] + struct.pack(">III", *sides) + data[16:]
    yield "floats", data[:2] + b"\x0d" + data[3:]
    yield "seven dimensions", data[:3] + b"\7" + data[4:]


def table(**columns: object) -> bytes:
    """A parquet file of some columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = io.BytesIO()
    pq.write_table(pa.table(columns), found)
    return found.getvalue()


def picture(*contents: bytes | None) -> object:
    """A column of image files."""
    import pyarrow as pa

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": content, "path": None} for content in contents], kind)


def parquets() -> list[tuple[str, bytes]]:
    """Parquet files of other columns than a dataset of pictures has."""
    import pyarrow as pa

    labels = pa.array([0, 1, 0, 1])
    some, none = picture(*[b"x"] * 4), picture(*[None] * 4)
    deep: list[object] = [1]
    for _ in range(60):
        deep = [deep]
    return [
        ("no columns", table()),
        ("no rows", table(image=picture(), label=labels[:0])),
        ("images of numbers", table(image=labels, label=labels)),
        ("images that are empty", table(image=picture(*[b""] * 4), label=labels)),
        ("images that are missing", table(image=none, label=labels)),
        ("images that are text", table(image=picture(*[b"<svg/>"] * 4), label=labels)),
        ("paths for images", table(image=pa.array(["/etc/passwd"] * 4), label=labels)),
        ("labels of text", table(image=some, label=pa.array(["a", "b", "\x1b[2J", "\u202e"]))),
        ("labels that are missing", table(image=some, label=pa.array([None] * 4, pa.int64()))),
        ("labels beyond 64 bits", table(image=some, label=pa.array([2**64 - 1] * 4, pa.uint64()))),
        ("labels of floats", table(image=some, label=pa.array([0.5, float("nan"), 1e300, -1.0]))),
        ("negative labels", table(image=some, label=pa.array([-1, -(2**62), 0, 1]))),
        ("labels in lists", table(image=some, label=pa.array([[0, 1]] * 4))),
        ("lists 60 deep", table(image=pa.array([deep]), label=labels[:1])),
    ]
