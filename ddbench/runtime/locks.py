"""A lock between processes of one machine, given back by the system when its holder dies."""

from __future__ import annotations

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
