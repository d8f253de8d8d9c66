"""Files that are either whole or absent: atomic writes, canonical JSON, hashes, checked reads."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddbench.runtime.errors import UserError

MAX_JSON_BYTES = 64 * 2**20
"""No JSON that ddbench reads is larger; a larger file is refused before it is parsed."""


_UMASK = os.umask(0)
os.umask(_UMASK)


def _explain(error: OSError, path: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"cannot write {path}: the disk is full; free some space and repeat the command, it goes on where it was"
        )
    return UserError(f"cannot write {path}: {error.strerror or error}; choose a folder you may write to")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether a file is the remainder of a write that was killed."""
    return re.fullmatch(r"\..*\.[0-9]+\.[0-9a-f]{8}\.tmp", path.name) is not None


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk and rename it into place.

    A reader sees the old file or the new one, never a part. On failure the temporary file is removed
    and what was at ``path`` stays.

    Raises:
        UserError: the folder cannot be written to or the disk is full.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.chmod(0o666 & ~_UMASK)  # safetensors writes files that only their owner can read
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
        _sweep(path)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # the parent is no folder: nothing was written
            temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove temporary files of ``path`` that processes of this machine left when they were killed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        import psutil  # rarely needed, and ddbench --help should not wait for it

        pid = left.name.removeprefix(f".{path.name}.").partition(".")[0]
        if pid.isdecimal() and int(pid) != os.getpid() and not psutil.pid_exists(int(pid)):
            left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable where the platform can sync a directory (Windows cannot)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda temporary: _dump(temporary, text.encode()))


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically."""
    write_atomic(path, lambda temporary: _dump(temporary, data))


def _dump(path: Path, data: bytes) -> None:
    with open(path, "wb") as handle:
        handle.write(data)


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN. Hashes are taken over this form.

    Raises:
        ValueError: the value holds NaN or infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys, atomically; the same value gives the same bytes."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str, limit: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file of at most ``limit`` bytes.

    Args:
        what: what the file should be, for the error ("result file").

    Raises:
        UserError: missing, unreadable, too large, or not JSON.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise UserError(f"{path}: {size:,} bytes is too large for a {what} (at most {limit:,})")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read this {what}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a {what}: {error}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")


def text_hash(value: Any) -> str:
    """Hex sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def ensure_writable(folder: Path) -> None:
    """Create ``folder`` and prove that a file can be made in it, before long work starts.

    Raises:
        UserError: it cannot be created or written to.
    """
    probe = _temporary(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _explain(error, folder) from error


def recorded_seconds(path: Path) -> dict[str, float] | None:
    """``wall_seconds`` and ``cpu_seconds`` of a cost record; None where there is none that can be read."""
    if not path.exists():
        return None
    try:
        cost = read_json(path, "cost record")
        return {name: round(float(cost[name]), 3) for name in ("wall_seconds", "cpu_seconds")}
    except (UserError, KeyError, TypeError, ValueError):
        return None
