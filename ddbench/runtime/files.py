"""Files that are either whole or absent: atomic writes, canonical JSON, hashes, checked reads."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ddbench.runtime.errors import UserError
from ddbench.runtime.temporary import sweep, temporary

MAX_JSON_BYTES = 64 * 2**20
"""No JSON that ddbench reads is larger; a larger file is refused before it is parsed."""

MAX_ITEMS = 4_000_000
"""Values in one JSON file: each takes up to a hundred bytes of memory, whatever its length in the file."""

MAX_DIGITS = 300
"""Digits of an integer: as a float64 it is still finite."""

_TOO_LARGE = 10**MAX_DIGITS

ATTEMPTS = 10
"""A folder is made so often while other processes take it away."""

MAX_DEPTH = 64
"""Lists and tables inside each other in JSON and TOML from files."""


_UMASK = os.umask(0)
os.umask(_UMASK)


def refused(error: OSError, path: Path) -> UserError:
    """What a user is told of a disk that does not take a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"cannot write {path}: the disk is full; free some space and repeat the command, it goes on where it was"
        )
    return UserError(f"cannot write {path}: {error.strerror or error}; choose a folder you may write to")


def gone(path: Path) -> UserError:
    """What a user is told where the folder that is worked in was taken away."""
    return UserError(
        f"{path} is gone: its folder was removed or replaced during work, or its disk is away; nothing more is written "
        "there; repeat the command to begin again"
    )


def check_same(path: Path, sha256: str) -> None:
    """Refuse to go on with a file that was taken away or replaced during work.

    Raises:
        UserError: it is not there, or has other contents.
    """
    if not path.is_file():
        raise gone(path)
    if file_hash(path) != sha256:
        raise UserError(f"{path}: another file than when the command began; repeat it")


def listed(folder: Path, pattern: str) -> list[Path]:
    """What fits a pattern in a folder, sorted; nothing where there is no folder, or it goes while one looks."""
    try:
        return sorted(folder.glob(pattern))
    except FileNotFoundError:  # another process was the last one there, and removed it
        return []


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk and rename it into place.

    A reader sees the old file or the new one, never a part. On failure the temporary file is removed
    and what was at ``path`` stays.

    Raises:
        UserError: the folder cannot be written to or the disk is full.
    """
    own = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(own)
        own.chmod(0o666 & ~_UMASK)  # safetensors writes files that only their owner can read
        with open(own, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(own, path)
        _sync_folder(path.parent)
        sweep(path.parent, path.name)
    except OSError as error:
        raise refused(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # the parent is no folder: nothing was written
            own.unlink(missing_ok=True)


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
    write_atomic(path, lambda place: _dump(place, text.encode()))


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically."""
    write_atomic(path, lambda place: _dump(place, data))


def write_derived(contents: Mapping[Path, str | bytes]) -> None:
    """Write many files that can be made again, each atomically for readers, without waiting for the disk.

    Args:
        contents: path -> bytes, or text for UTF-8.

    Raises:
        UserError: a folder cannot be written to or the disk is full.
    """
    for folder in {path.parent for path in contents}:
        sweep(folder)
    for path, content in contents.items():
        own = temporary(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _dump(own, content.encode() if isinstance(content, str) else content)
            os.replace(own, path)
        except OSError as error:
            raise refused(error, path) from error
        finally:
            with contextlib.suppress(OSError):
                own.unlink(missing_ok=True)


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


def plain_file(path: Path, what: str, limit: int | None = None) -> int:
    """Size in bytes of a regular file (links to one are followed), looked at without opening it.

    Every reader asks here first: opening a named pipe waits for a writer, and a device may never end.

    Args:
        what: what the file should be, for the error ("result file").
        limit: so many bytes at most; None: any size.

    Raises:
        UserError: missing, a folder, a pipe, a device or a socket, or too large.
    """
    size = _plain_size(path, what)
    if size is None:
        raise UserError(f"{path}: no such {what}")
    if limit is not None and size > limit:
        raise UserError(f"{path}: {size:,} bytes is too large for a {what} (at most {limit:,})")
    return size


def _plain_size(path: Path, what: str) -> int | None:
    """Size of a plain file; None: there is none, nor anything else. Looks once: others come and go."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a null character in a name
        raise UserError(f"{path}: cannot read this {what}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for check, name in _KINDS if check(found.st_mode)), "a special file")
        raise UserError(f"{path}: cannot read this {what}: it is {kind}, no plain file")
    return found.st_size


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def plain_or_absent(path: Path, what: str) -> bool:
    """Whether there is a plain file at ``path``, before something is appended to it; a link that leads nowhere is none.

    Raises:
        UserError: there is something else.
    """
    return _plain_size(path, what) is not None


def read_bytes(path: Path, what: str, limit: int) -> bytes:
    """A plain file of at most ``limit`` bytes.

    Raises:
        UserError: see :func:`plain_file`, or unreadable.
    """
    plain_file(path, what, limit)
    try:
        with open(path, "rb") as handle:
            data = handle.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot read this {what}: {error.strerror or error}") from error
    if len(data) > limit:  # it grew, or its size was not told
        raise UserError(f"{path}: too large for a {what} (at most {limit:,} bytes)")
    return data


def read_json(path: Path, what: str, limit: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file of at most ``limit`` bytes.

    Raises:
        UserError: see :func:`plain_file`, or not JSON as :func:`parse_json` takes it.
    """
    return json_of(read_bytes(path, what, limit), path, what)


def json_of(data: bytes, path: Path, what: str) -> Any:
    """The value of a JSON file that was read.

    Raises:
        UserError: not JSON as :func:`parse_json` takes it.
    """
    try:
        return parse_json(data.decode("utf-8"))
    except json.JSONDecodeError as error:
        reason = f"not JSON from line {error.lineno}, column {error.colno}" if data.strip() else "empty"
    except UnicodeDecodeError:
        reason = "not a text in UTF-8"
    except ValueError as error:
        reason = str(error)
    article = "an" if what[0] in "aeiou" else "a"
    raise UserError(f"{path}: not {article} {what}, or damaged ({reason}); copy it anew, or remove and make it again")


def read_toml(path: Path, what: str, limit: int) -> dict[str, Any]:
    """Read a TOML file of at most ``limit`` bytes.

    Raises:
        UserError: see :func:`plain_file`, not TOML, nested too deep, or with an integer that is out of range.
    """
    import tomllib

    if not path.exists():
        raise UserError(f"{path}: not a {what}: no such file")
    data = read_bytes(path, what, limit)
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except RecursionError:
        raise UserError(f"{path}: not a {what}: nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are such
        raise UserError(f"{path}: not a {what}: not TOML: {' '.join(str(error).split())}") from None
    try:
        _check_tree(table, finite=False)
    except ValueError as error:
        raise UserError(f"{path}: not a {what}: {error}") from None
    return table


def parse_json(text: str) -> Any:
    """The value of a JSON text from a foreign file, which :func:`canonical_json` can write again.

    Raises:
        ValueError: not JSON, NaN or a number out of range (``1e999``, an integer of more than :data:`MAX_DIGITS`
            digits), half a character, more than :data:`MAX_ITEMS` parts, or nested more than :data:`MAX_DEPTH` deep.
    """
    if text.count(",") + text.count("[") + text.count("{") > MAX_ITEMS:
        raise ValueError(f"more than {MAX_ITEMS:,} parts")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    _check_tree(value, finite=True)
    if "\\u" in text:
        try:
            canonical_json(value).encode()
        except UnicodeEncodeError:
            raise ValueError("half a character (a lone surrogate, such as \\ud800) is no text") from None
    return value


def _check_tree(value: Any, *, finite: bool) -> None:
    """Refuse what is nested too deep for functions that call themselves, and numbers that are no float64.

    Args:
        finite: refuse infinities and NaN too (TOML has words for them).

    Raises:
        ValueError: the first such thing.
    """
    level, depth = [value], 0
    while level:
        parts: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                parts.extend(one.values())
            elif isinstance(one, list):
                parts.extend(one)
            elif isinstance(one, int) and abs(one) >= _TOO_LARGE:
                raise ValueError(f"{_place(value, one)} a number of more than {MAX_DIGITS} digits is out of range")
            elif finite and isinstance(one, float) and not math.isfinite(one):
                name = "NaN" if one != one else "Infinity (or a number out of range)"
                raise ValueError(f"{_place(value, one)} {name} is not allowed, expected a finite number")
        level, depth = parts, depth + 1
        if depth > MAX_DEPTH + 1:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _place(value: Any, wanted: Any) -> str:
    """Where an object stands in a tree, for a message: ``protocol.settings.lr:``; empty for the tree itself."""
    left: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while left:
        keys, one = left.pop()
        if one is wanted and keys:
            return f"{'.'.join(keys)[:80]}:"
        parts = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        left += [((*keys, str(key)), part) for key, part in parts if len(keys) <= MAX_DEPTH]
    return ""


def text_hash(value: Any) -> str:
    """Hex sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Hex sha256 of a plain file's bytes.

    Raises:
        UserError: see :func:`plain_file`.
    """
    plain_file(path, "file")
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hashed(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Each file with its sha256; those that another process takes away meanwhile are passed over.

    Raises:
        UserError: one that is there cannot be read.
    """
    for path in paths:
        try:
            sha256 = file_hash(path)
        except UserError:
            if path.exists():
                raise
            continue
        yield sha256, path


def ensure_writable(folder: Path) -> None:
    """Create ``folder`` and prove that a file can be made in it, before long work starts.

    Raises:
        UserError: it cannot be created or written to.
    """
    probe = temporary(folder / "probe")
    for attempt in range(ATTEMPTS):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
            return
        except OSError as error:
            # another process that had made it took it away, empty, just now
            if not isinstance(error, FileNotFoundError) or attempt == ATTEMPTS - 1:
                raise refused(error, folder) from error


def check_writable(folder: Path) -> None:
    """See whether ``folder`` can be made and written to, touching nothing: before what is made for it elsewhere.

    Raises:
        UserError: it cannot.
    """
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise UserError(f"cannot write {folder}: {place} is no folder; choose a folder you may write to")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {folder}: {place} may not be written to; choose a folder you may write to")


def recorded_seconds(path: Path) -> dict[str, float] | None:
    """``wall_seconds`` and ``cpu_seconds`` of a cost record; None where there is none that can be read."""
    if not path.exists():
        return None
    try:
        cost = read_json(path, "cost record")
        return {name: round(float(cost[name]), 3) for name in ("wall_seconds", "cpu_seconds")}
    except (UserError, KeyError, TypeError, ValueError):
        return None
