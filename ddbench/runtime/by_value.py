"""Files that travel with a job, for machines that share no folder.

:func:`packed` puts the content of every file that a job names beside its path, :func:`unpacked` gives the path where
the same content lies there, and else a copy. Folders do not travel.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ddbench.runtime.files import file_hash, write_bytes

USER = getattr(os, "getuid", lambda: 0)()

LIMIT = 256 * 2**20
"""Bytes of the largest file that travels; a larger one must lie at the same path."""


@dataclass(frozen=True)
class Carried:
    """A file of another machine.

    Attributes:
        content: what ``load`` makes bytes of.
    """

    path: Path
    sha256: str
    content: Any


def packed(value: Any, put: Callable[[bytes], Any]) -> Any:
    """A value with its paths of files replaced: in dataclasses, tuples, lists and dicts.

    Args:
        put: makes of a file's bytes what is sent.
    """

    def carry(one: Any) -> Any:
        if not isinstance(one, Path) or not one.is_file() or one.stat().st_size > LIMIT:
            return one
        return Carried(one, file_hash(one), put(one.read_bytes()))

    return _mapped(value, carry)


def unpacked(value: Any, load: Callable[[Any], bytes]) -> Any:
    """The value that was packed, with paths of files that are there.

    Args:
        load: makes bytes of what was sent.
    """

    def place(one: Any) -> Any:
        if not isinstance(one, Carried):
            return one
        copied = Path(tempfile.gettempdir()) / f"ddbench-{USER}" / one.sha256[:20] / one.path.name
        for path in (one.path, copied):
            if _holds(path, one.sha256):
                return path
        copied.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(copied, load(one.content))
        return copied

    return _mapped(value, place)


def _holds(path: Path, sha256: str) -> bool:
    try:
        found = path.stat()
        return path.is_file() and _hash(path.absolute(), found.st_size, found.st_mtime_ns) == sha256
    except OSError:
        return False


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, modified: int) -> str:
    """The hash of a file as it was then."""
    return file_hash(path)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value with every leaf changed; parts in which nothing changes are the same objects."""
    if is_dataclass(value) and not isinstance(value, type | Carried):
        found = {item.name: getattr(value, item.name) for item in fields(value)}
        new = {name: _mapped(one, change) for name, one in found.items()}
        if all(new[name] is found[name] for name in found):
            return value
        made = copy.copy(value)
        for name, one in new.items():
            object.__setattr__(made, name, one)
        return made
    if isinstance(value, dict):
        mapped = {key: _mapped(one, change) for key, one in value.items()}
        return mapped if any(mapped[key] is not value[key] for key in value) else value
    if type(value) in (tuple, list):
        items = [_mapped(one, change) for one in value]
        return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return change(value)
