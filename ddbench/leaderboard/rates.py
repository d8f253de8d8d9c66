"""Bits per class of a row: of everything that its training needs, as stored and with its synset's arrays after zstd.

The first follows from the row. The second is found from the synset's file beside the row, its arrays one by one, and is
kept by the hash of the file; a row without that file, or beside another one, has none. What a training needs beside
these arrays (a teacher, labels of every view) counts as it is. Imports no torch.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from ddbench.leaderboard.attachments import MAX_BYTES, SYNSET, beside, read_header
from ddbench.leaderboard.kept import Kept
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.schema import result_path
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json

LEVEL = 19
"""Level of zstd; the highest that needs no more memory to unpack than the lower ones."""
NAME, KEY = "zstd", b"by sha256 of the synset"


def packed_bytes(root: Path, results: Sequence[Result]) -> dict[str, int]:
    """Id -> bytes that a row stores when the arrays of its synset are compressed; only rows whose file is there.

    Args:
        root: of the board. A file with another hash than its row names is not taken.
    """
    kept = Kept(root)
    known: dict[str, int] = json.loads(kept.product(NAME, KEY) or "{}")
    met: dict[str, int] = {}
    found = {}
    for result in results:
        content = _content(beside(root / result_path(result), SYNSET), result)
        if content is None:
            continue
        said = [result.synset.bytes.to_json(), result.synset.classes, _labels(result)]
        name = f"{result.synset.sha256} {canonical_json(said)}"
        met[name] = known[name] if name in known else _packed(content, result)
        found[result.id] = met[name]
    if met != known:
        kept.keep(NAME, KEY, canonical_json(met))
    return found


def _content(path: Path, result: Result) -> bytes | None:
    """The synset's file, checked; None: missing, too large, not that of the row, or no whole file."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        content = path.read_bytes()
        if sha256(content).hexdigest() != result.synset.sha256:
            return None
        read_header(path, SYNSET.kind)
    except (OSError, UserError):
        return None
    return content


def _packed(content: bytes, result: Result) -> int:
    """Stored bytes of a row with every array of its synset at its size after zstd, where that is smaller."""
    (length,) = struct.unpack("<Q", content[:8])
    table, total = json.loads(content[8 : 8 + length]), result.synset.bytes.total
    for name, entry in table.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        counted = end - begin
        if name == "labels":
            counted = _label_bytes(entry["dtype"], math.prod(entry["shape"][:1]), counted, result)
        total -= max(0, counted - len(compressed(content[begin:end])))
    return total


def _labels(result: Result) -> str:
    """Whose labels a training takes, as its protocol says; empty: the modality has no choice."""
    return str(result.protocol.settings.get("labels", ""))


def _label_bytes(dtype: str, count: int, size: int, result: Result) -> int:
    """What the labels of the file are counted as; 0: the row's protocol has others in their place."""
    if dtype == "I64":
        size = count * max(1, math.ceil(math.log2(max(2, result.synset.classes)) / 8))
    return size if _labels(result) != "once" and size <= result.synset.bytes.labels else 0


def compressed(data: bytes) -> bytes:
    """Bytes after zstd at :data:`LEVEL`."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.compress(data, level=LEVEL)
    import zstandard

    return zstandard.ZstdCompressor(level=LEVEL).compress(data)
