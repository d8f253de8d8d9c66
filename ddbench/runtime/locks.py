"""A lock between processes of one machine, given back by the system when its holder dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddbench.runtime.files import ensure_writable, plain_or_absent


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, waiting until no other process does. Without ``flock`` (Windows) it does nothing.

    Raises:
        UserError: its folder cannot be written to.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    ensure_writable(path.parent)
    plain_or_absent(path, "lock file")
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold a folder that is there, for the short time of reading and writing a file in it; no lock file is left.

    Between machines it may not hold (many file systems that they share lock on each machine only).
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
