"""Temporary files and folders: their names say whose they are, so that what a killed process left can be removed.

Processes of other machines, or of other containers of this one, may write beside this one, and their numbers mean
nothing here: what is theirs goes only when it is old.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ddbench.runtime.numbers import process_exists, whole

FOREIGN = 86_400.0
"""Seconds after which what another machine's process left may be removed; no single file is written for so long."""

_NAME = re.compile(r"\..*\.[0-9]+\.[0-9a-f]{8}\.tmp")
_FIRST_NAMESPACE = 0xEFFFFFFC
"""Of process numbers, on Linux: the one outside of all containers."""


def machine() -> str:
    """What process numbers belong to: the host, and in a container with numbers of its own also which one."""
    host = socket.gethostname()
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # not Linux
        return host
    return host if namespace == _FIRST_NAMESPACE else f"{host}+{namespace}"


def _owner() -> str:
    return hashlib.sha256(machine().encode("utf-8", "surrogateescape")).hexdigest()[:8]


def temporary(path: Path) -> Path:
    """A name beside ``path`` for what becomes it: ``.<name>.<machine>.<pid>.<random>.tmp``."""
    return path.with_name(f".{path.name}.{_owner()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether a file is the remainder of a write that was killed."""
    return _NAME.fullmatch(path.name) is not None


@contextlib.contextmanager
def own_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, for a library that makes temporary files with names of its own there.

    If the process is killed meanwhile, it goes, with what is in it, when ``path`` is written again.
    """
    sweep(path.parent, path.name)
    folder = temporary(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path, name: str = "") -> None:
    """Remove temporary files and folders that processes left when they were killed: this machine's at once.

    Args:
        name: of the file that they were for; default: any of the folder.
    """
    own = _owner()
    with contextlib.suppress(FileNotFoundError):  # another process was the last one there, and removed the folder
        for left in sorted(folder.glob(f".{glob.escape(name) or '*'}.*.tmp")):
            if _is_left(left, own):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)


def _is_left(path: Path, own: str) -> bool:
    """Whether nobody can be writing it any more."""
    *_, owner, number, _, _ = ("", "", *path.name.split("."))
    pid = whole(number)
    if pid is None:
        return False
    if owner == own:
        return pid != os.getpid() and not process_exists(pid)
    try:
        return time.time() - path.stat().st_mtime > FOREIGN
    except OSError:
        return False
