"""Where ddbench keeps what it can make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ddbench.runtime.errors import UserError


def expanded(place: str | Path) -> Path:
    """A path with ``~`` or ``~NAME`` in front as the home of that user; as it stands where there is no such home."""
    try:
        return Path(place).expanduser()
    except (RuntimeError, ValueError):  # ValueError: a user's name with a null byte, out of a file
        return Path(place)


def user_cache() -> Path:
    """``ddbench`` in the user's cache folder: ``$XDG_CACHE_HOME`` or ``~/.cache``, on Windows ``%LOCALAPPDATA%``.

    Nothing is created.

    Raises:
        UserError: neither the variable is set nor has the user a home (as in containers).
    """
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    cache = os.environ.get(variable)
    if cache:
        return Path(cache) / "ddbench"
    try:
        return Path.home() / ".cache" / "ddbench"
    except RuntimeError:
        remedy = f"give --data FOLDER, or set DDBENCH_DATA or {variable}"
        raise UserError(f"this user has no home folder, where data would be looked for; {remedy}") from None
