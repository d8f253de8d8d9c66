"""Signs of life: small files by which processes, on any number of machines that share a folder, know of each other.

A sign is there as long as its process is at something; the process touches it now and then. Nothing is locked (locks
hold on one machine only on many file systems): who is killed leaves a sign that grows old, and is known to be dead by
its silence, on its own machine at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import (
    ATTEMPTS,
    canonical_json,
    ensure_writable,
    listed,
    parse_json,
    plain_or_absent,
    read_bytes,
    refused,
)
from ddbench.runtime.numbers import process_exists, whole
from ddbench.runtime.resources import Meter
from ddbench.runtime.temporary import machine, temporary

HEARTBEAT = 20.0
"""Seconds between two signs of life of a process."""
SILENCE = 600.0
"""Seconds without a sign of life after which a process is taken for dead."""
POLL = 0.5
"""Seconds between two looks of a process that waits for another one."""
TURN = ".turn"
"""Ending of the sign of who has its turn."""

LIMIT = 2**20
"""No sign has more bytes."""

_OWN: set[Path] = set()
"""Signs of this process, which one thread touches."""
_heart: threading.Thread | None = None


def _beat() -> None:
    pause = threading.Event()
    while not pause.wait(HEARTBEAT):
        for path in tuple(_OWN):
            with contextlib.suppress(OSError):
                os.utime(path)


def _live(path: Path) -> None:
    """Touch a sign from now on."""
    global _heart
    _OWN.add(path)
    if _heart is None or not _heart.is_alive():  # none yet, or another process's, of which this one was forked
        _heart = threading.Thread(target=_beat, daemon=True)
        _heart.start()


class Sign:
    """A file that says that this process is at something.

    Attributes:
        path: ``FOLDER/<host>.<pid>.<random><suffix>``.
    """

    def __init__(self, folder: Path, suffix: str, content: dict[str, Any] | None = None) -> None:
        self.path = folder / f"{machine()}.{os.getpid()}.{secrets.token_hex(4)}{suffix}"
        self._text = canonical_json({"since": round(time.time(), 3), "sign": self.path.name, **(content or {})})

    def enter(self) -> None:
        """Put the sign up; its folder is made.

        Raises:
            UserError: the folder cannot be written to.
        """
        for _ in range(ATTEMPTS):
            if self._put(self.path, self._text, "w"):
                return
        raise UserError(f"cannot write {self.path}: other processes remove its folder")

    def take(self, path: Path) -> bool:
        """Put the sign up at ``path``; whether that worked, since nobody else's is there.

        Raises:
            UserError: the folder cannot be written to.
        """
        if not self._put(path, f"{self.path.name}\n{self._text}", "x"):
            return False
        self.path = path
        return True

    def _put(self, path: Path, text: str, mode: str) -> bool:
        """Make the file, and touch it from now on; False: there is one, or who left just now has removed the folder.

        Raises:
            UserError: the folder cannot be written to.
        """
        made = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, mode) as file:
                made = True
                file.write(text)
        except (FileExistsError, FileNotFoundError):
            return False
        except BaseException as error:
            if made:  # an empty sign would say of nobody, for ten minutes, that he is at work
                path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise refused(error, path) from error
            raise
        _live(path)
        return True

    def leave(self) -> None:
        """Take the sign away, if it is this one's still."""
        _OWN.discard(self.path)
        with contextlib.suppress(OSError):
            if self.path.read_text().endswith(self._text):
                self.path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A sign that was found.

    Attributes:
        host, pid: of its process.
        silent: seconds since its last sign of life.
        dead: the process is no more, or silent for too long.
        content: what it said, with ``since``, seconds of its machine's clock; empty where that cannot be read.
    """

    path: Path
    host: str
    pid: int
    silent: float
    dead: bool
    content: dict[str, Any]


def signs(folder: Path, suffix: str) -> list[Seen]:
    """The signs with this ending in a folder, of dead processes too."""
    paths = listed(folder, f"*{suffix}")
    now = _now(folder) if paths else 0.0
    return [seen for path in paths if (seen := _seen(path, path.name.removesuffix(suffix), now)) is not None]


def _seen(path: Path, name: str, now: float, text: str | None = None) -> Seen | None:
    """A sign as it is now; None: it is gone."""
    host, _, pid = name.rpartition(".")[0].rpartition(".")
    try:
        silent = now - path.stat().st_mtime
        text = read_bytes(path, "sign of life", LIMIT).decode(errors="replace") if text is None else text
    except (OSError, UserError):
        return None
    try:
        content = parse_json(text)
    except ValueError:  # it is just being written
        content = {}
    number = whole(pid) or 0
    dead = silent > SILENCE or _is_gone(path, host, number)
    return Seen(
        path=path,
        host=host,
        pid=number,
        silent=max(0.0, silent),
        dead=dead,
        content=content if isinstance(content, dict) else {},
    )


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which may be another machine's.

    The file that is made for it also lets a network file system look into the folder afresh.
    """
    probe = temporary(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _is_gone(path: Path, host: str, pid: int) -> bool:
    """Whether a process was one of this machine's, and is no more."""
    if host != machine():
        return False
    if pid == os.getpid():
        return path not in _OWN  # an earlier process had this number
    return not process_exists(pid)


@contextmanager
def turn(
    path: Path, what: str, say: Callable[[str], None] = lambda line: None, meter: Meter | None = None
) -> Iterator[None]:
    """Be the only process at something for the block, waiting until no other one is.

    A process that is killed loses its turn, at once on this machine, after :data:`SILENCE` seconds on another one. What
    is done in a turn must be harmless if two processes do it at once all the same (a machine that slept, say). Folders
    that were made for the sign go with it.

    Args:
        path: names it; the sign lies beside it.
        what: it is, for people ("run").
        say: told once if there is another process to be waited for.
        meter: of the work; it does not run while others are waited for, whose seconds are in what they leave.

    Raises:
        UserError: the folder cannot be written to, or there is something else in the sign's place.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    ensure_writable(path.parent)
    place = path.with_name(f"{path.name}{TURN}")
    plain_or_absent(place, "sign of life")
    sign = Sign(path.parent, TURN)
    try:
        with nullcontext() if meter is None else meter.paused():
            _take_turn(sign, place, what, say)
        yield
    finally:
        sign.leave()
        with contextlib.suppress(OSError):  # something was made in it
            for folder in made:
                folder.rmdir()


def _take_turn(sign: Sign, place: Path, what: str, say: Callable[[str], None]) -> None:
    """Put the sign up once no living process has its own there."""
    told = False
    while not sign.take(place):
        holder = _holder(place)
        if holder is None:  # it left just now
            _check_readable(place)
            continue
        if holder.dead and _bury(place, holder):
            continue
        if not told:
            say(f"process {holder.pid} on {holder.host} is at work on this {what}; waiting for it ({place})")
            told = True
        time.sleep(POLL)


def _check_readable(place: Path) -> None:
    """Refuse what is in a sign's place and will never say whose it is.

    Raises:
        UserError: a link that leads nowhere, or a file that may not be read.
    """
    if place.is_symlink() and not place.exists():
        raise UserError(f"{place}: a link that leads nowhere, in the place of a sign of life; remove it")
    if place.exists() and not os.access(place, os.R_OK):
        raise UserError(f"{place}: this sign of another process's life may not be read; let its user make it readable")


def holder(path: Path) -> Seen | None:
    """Who has, or died in, the :func:`turn` of this path; None: nobody."""
    return _holder(path.with_name(f"{path.name}{TURN}"))


def _holder(place: Path) -> Seen | None:
    try:
        name, _, text = read_bytes(place, "sign of life", LIMIT).decode(errors="replace").partition("\n")
    except UserError:
        return None
    return _seen(place, name.removesuffix(TURN), _now(place.parent), text)


def end_turns(folder: Path) -> None:
    """Take away what dead processes left that had turns there."""
    for place in listed(folder, f"*{TURN}"):
        _end_turn(place)


def end_turn(path: Path) -> None:
    """Take away what a dead process left that had the :func:`turn` of this path, where nothing is left to be done."""
    _end_turn(path.with_name(f"{path.name}{TURN}"))


def _end_turn(place: Path) -> None:
    found = _holder(place)
    if found is not None and found.dead:
        _bury(place, found)


def _bury(place: Path, holder: Seen) -> bool:
    """Take a dead process's sign away, and only that one: who looked at it may have ended in peace since.

    One process at a time does so. Nobody else takes that sign away, so the place is another's only after it.

    Returns:
        Whether something was taken away; if not, another process is at it, or the folder cannot be written to.
    """
    name = hashlib.sha256(canonical_json(holder.content).encode()).hexdigest()[:8]
    grave = place.with_name(f".{place.name}.0.{name}.tmp")  # the same for all, and seen as temporary
    sign, own = Sign(place.parent, TURN), False
    with contextlib.suppress(UserError):
        own = sign.take(grave)
    if not own:
        other = _holder(grave)
        if other is not None and other.dead:  # it was killed here
            grave.unlink(missing_ok=True)
            return True
        return False
    try:
        found = _holder(place)
        if found is not None and found.dead and found.content == holder.content:
            with contextlib.suppress(OSError):
                place.unlink(missing_ok=True)
    finally:
        sign.leave()
    return True
