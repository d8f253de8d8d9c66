"""Students that an evaluation keeps (``--keep-weights``), so that a later measurement need not train them again.

They lie in the folder where students lie while probes are open; with a list of what is kept there it stays.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ddbench.measurements.trained import has_weights, weights_folder, weights_path
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash, hashed, listed, read_json, write_json

LIST = "kept.json"
KIND = "ddbench-kept-students"
LIMIT = 10**9
"""Bytes of all students that one evaluation keeps."""


@dataclass(frozen=True)
class Kept:
    """What came of keeping: files that are kept, their bytes, and files that were beyond the limit."""

    files: int
    bytes: int
    left_out: int


def is_kept(out: Path) -> bool:
    """Whether an evaluation keeps its students."""
    return (weights_folder(out) / LIST).exists()


def usable(folder: Path, student: str, seed: int, accuracy: float, identity: str) -> bool:
    """Whether this student is there, of this evaluation, and, where it was kept, with the bytes that were kept."""
    if not has_weights(folder, student, seed, accuracy, identity):
        return False
    if not (folder / LIST).exists():
        return True
    path = weights_path(folder, student, seed)
    try:
        listed = read_json(folder / LIST, "list of kept students")["files"]
        return path.name not in listed or bool(listed[path.name] == file_hash(path))
    except (UserError, OSError, KeyError, TypeError):  # it is trained again
        return False


def room(folder: Path, size: int) -> bool:
    """Whether one more file of so many bytes is within the limit."""
    return sum(_bytes(path) for path in listed(folder, "*.safetensors")) + size <= LIMIT


def _bytes(path: Path) -> int:
    """Size of a file; 0: another process has removed it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def clear(out: Path, keep: bool) -> Kept | None:
    """Remove the students of an evaluation, or list those that are kept and remove what is beyond the limit.

    Returns:
        What is kept; None: nothing was to be kept.
    """
    folder = weights_folder(out)
    if not keep and not is_kept(out):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    files: dict[str, str] = {}
    total = left_out = 0
    for path in listed(folder, "*.safetensors"):
        size = _bytes(path)
        if total + size > LIMIT:
            path.unlink(missing_ok=True)
            left_out += 1
            continue
        for sha256, _ in hashed([path]):  # none where another process has cleared as well
            files[path.name] = sha256
            total += size
    if files:
        wanted = {"kind": KIND, "schema": 1, "files": files}
        write_json(folder / LIST, wanted)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return Kept(len(files), total, left_out)
