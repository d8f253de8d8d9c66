"""What was found about a board, kept in the user's cache so that it need not be found again.

Everything is kept by content: its key is the hash of every byte that it follows from, and of the code that found it.
No size and no time of a file is trusted, so a file that was changed, damaged, exchanged or restored is never taken for
what it was. There are two kinds: marks, the contents that passed their check, and products, texts that follow from a
whole board. Whoever reads the cache checks it first: what is damaged, cut off or of other code is as if it were not
there. Writers need no lock, since each file is written whole and a lost one is only made again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import write_derived
from ddbench.runtime.folders import expanded, user_cache

VARIABLE = "DDBENCH_BOARD_CACHE"
"""Names the folder; empty: nothing is kept."""
MAX_BOARDS = 32
MAX_PRODUCTS = 64
MAX_BYTES = 64_000_000
"""Bound on the products of one board, and on one file of marks; a product of more than a quarter is not kept."""
MAX_FILE = 64_000_000
"""A board with a larger file is read anew each time."""
DIGEST = 32
ENDS = (".json", ".j2", ".js", ".css")
"""Ends of the names of what the board's code reads, beside code."""
TOLD_BY = (".json", ".synset.safetensors")
"""Ends of the names of what tables follow from."""
LIBRARIES = ("jinja2", "jsonschema", "markupsafe", "pillow", "rich", "scipy", "zstandard")
"""What else than ddbench decides what is found."""


def digest(*parts: str | bytes) -> bytes:
    """Sha256 of some parts, each with its length: ``("a", "bc")`` is not ``("ab", "c")``."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "big"))
        found.update(data)
    return found.digest()


class Kept:
    """What is kept of one board. Nothing here raises: where the cache cannot be used, nothing is known."""

    def __init__(self, root: Path) -> None:
        base = _base()
        self.folder = None if base is None else base / digest(str(root.absolute())).hex()[:16]

    def marks(self, kind: str) -> Marks:
        """The contents of a kind that passed their check."""
        return Marks(None if self.folder is None else self.folder / f"{kind}.marks")

    def product(self, name: str, key: bytes) -> str | None:
        """A text that was kept under this key."""
        data = _read(self._place(name, key), digest(name, key, code()))
        try:
            return None if data is None else data.decode("utf-8")
        except UnicodeDecodeError:
            return None

    def keep(self, name: str, key: bytes, text: str) -> None:
        """Keep a text, and drop what was not used for longest where it is too much."""
        place = self._place(name, key)
        if place is not None and len(text) <= MAX_BYTES // 4:
            _write(place, digest(name, key, code()), text.encode("utf-8", "surrogateescape"))
            _prune(place.parent)

    def _place(self, name: str, key: bytes) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}-{digest(name, key).hex()[:32]}.text"


def _base() -> Path | None:
    """The folder of all boards; None: nothing is to be kept, or this user has no home."""
    named = os.environ.get(VARIABLE)
    try:
        return user_cache() / "boards" if named is None else expanded(named) if named else None
    except UserError:
        return None


class Marks:
    """Contents of one kind that passed their check.

    Attributes:
        known: keys that were kept.
        met: keys that were asked for and known, or added.
    """

    def __init__(self, path: Path | None) -> None:
        data = _read(path, code()) or b""
        self.path = path
        self.known = {data[place : place + DIGEST] for place in range(0, len(data), DIGEST)}
        self.met: set[bytes] = set()

    def __contains__(self, key: bytes) -> bool:
        if key in self.known:
            self.met.add(key)
        return key in self.met

    def add(self, key: bytes) -> None:
        """Say that a content passed its check."""
        self.met.add(key)

    def keep(self) -> None:
        """Keep what was met; what was known and not met goes once it is the greater part."""
        found = self.met if len(self.known) > 2 * len(self.met) else self.met | self.known
        if self.path is not None and found != self.known and len(found) * DIGEST <= MAX_BYTES:
            _write(self.path, code(), b"".join(sorted(found)))


def made_once(root: Path, name: str, said: str, make: Callable[[], str]) -> str:
    """A text that follows from the results, verifications and synsets of a board: kept, or made now and kept.

    Args:
        said: what else it follows from.

    Raises:
        UserError: what ``make`` raises.
    """
    kept, folder = Kept(root), root / "results"
    before = board_digest(folder, TOLD_BY)  # None as well where there is no board, which is refused
    key = None if before is None else digest(before, said)
    text = None if key is None else kept.product(name, key)
    if text is None:
        text = make()
        if key is not None and board_digest(folder, TOLD_BY) == before:  # nobody wrote meanwhile
            kept.keep(name, key, text)
    return text


def board_digest(folder: Path, suffix: str | tuple[str, ...] = "") -> bytes | None:
    """Digest of the names and every byte of all files below a folder; None where something keeps it from being told.

    That is a link, a special file, more than 64 MB or what cannot be read: such a board is looked at anew.

    Args:
        suffix: only files whose name ends so, or in one of these ways.
    """
    found = hashlib.sha256()
    try:
        for path in _files(str(folder), suffix):
            with open(path, "rb") as handle:
                data = handle.read(MAX_FILE + 1)
            if len(data) > MAX_FILE:
                return None
            found.update(digest(path[len(str(folder)) :].replace(os.sep, "/"), data))
    except (OSError, ValueError):
        return None
    return found.digest()


def _files(folder: str, suffix: str | tuple[str, ...]) -> Iterator[str]:
    """Plain files below a folder in order.

    Raises:
        ValueError: a link or a special file.
    """
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _files(entry.path, suffix)
        elif not stat.S_ISREG(mode):
            raise ValueError(entry.path)
        elif entry.name.endswith(suffix):
            yield entry.path


@functools.cache
def code() -> bytes:
    """Digest of the code that finds: all files of ddbench and what ships with it, Python, and the libraries."""
    from ddbench.protocols.protocol import PROTOCOLS

    parts = [sys.version, *(_version(name) for name in LIBRARIES)]
    parts += [f"{name} {PROTOCOLS[name].hash}" for name in sorted(PROTOCOLS)]  # those from outside as well
    package = Path(__file__).resolve().parents[1]
    found = [board_digest(package, ".py"), *(board_digest(package / "leaderboard", end) for end in ENDS)]
    content = package / "_content" if (package / "_content").is_dir() else package.parent
    found += [board_digest(content / name, ".toml") for name in ("methods", "plans") if (content / name).is_dir()]
    return digest(*parts, *(one or os.urandom(DIGEST) for one in found))  # what cannot be read: nothing is known


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


def _read(path: Path | None, seal: bytes) -> bytes | None:
    """The content of a file of the cache; None: it is not there, damaged, or under another seal."""
    if path is None:
        return None
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES + DIGEST:  # larger than any that was written
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return data[DIGEST:] if data[:DIGEST] == digest(seal, data[DIGEST:]) else None


def _write(path: Path, seal: bytes, data: bytes) -> None:
    """Write a file of the cache where that is possible."""
    with contextlib.suppress(UserError, OSError):
        fresh = not path.parent.is_dir()
        write_derived({path: digest(seal, data) + data})
        if fresh:
            _forget(path.parent.parent)


def _forget(base: Path) -> None:
    """Drop the boards that were looked at longest ago; only folders that look like ours."""
    boards = [one for one in base.iterdir() if len(one.name) == 16 and one.is_dir() and not one.is_symlink()]
    boards.sort(key=lambda one: one.stat().st_mtime_ns, reverse=True)
    for board in boards[MAX_BOARDS:]:
        shutil.rmtree(board, ignore_errors=True)


def _prune(folder: Path) -> None:
    """Drop the oldest products of a board."""
    with contextlib.suppress(OSError):
        products = [(one, one.stat()) for one in folder.glob("*.text")]
        products.sort(key=lambda one: one[1].st_mtime_ns, reverse=True)
        room = MAX_BYTES
        for place, (path, found) in enumerate(products):
            room -= found.st_size
            if place >= MAX_PRODUCTS or room < 0:
                path.unlink(missing_ok=True)
