"""Records of an evaluation that is not finished, for any number of processes on any number of machines.

They lie in a folder beside the result, a file a record, named by what it is: a run, a learning rate, a probe. Each is
written atomically and none is changed by another process, so nothing needs a lock (locks hold on one machine only).

Who writes has a file there that says so. A result is put together from the records and the result that is there, in
this order of reading, by each process that ends; records are removed only by one that finds nobody else at work and
everything in the result. So a result that an unlucky process wrote over a better one is always mended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, listed, read_json, text_hash, write_text
from ddbench.runtime.shards import Units
from ddbench.runtime.signs import SILENCE as SILENCE
from ddbench.runtime.signs import Sign, signs
from ddbench.runtime.temporary import sweep, temporary

HEAD = "head.json"
RECORD = ".part"
WRITER = ".writer"


def parts_folder(out: Path) -> Path:
    """Where an evaluation keeps its records until it is finished."""
    return out.with_name(f"{out.stem}.parts")


def units_of(out: Path) -> Units:
    """Who is at which units of an evaluation."""
    return Units(parts_folder(out) / "units")


def part_name(record: dict[str, Any]) -> str:
    """Name of a record's file: the same for the same unit of work, whoever did it."""
    if "measured" in record:
        unit = [record["measured"]]
        kind = "measured"
    elif "searched_lr" in record:
        unit, kind = [record["student"], record["searched_lr"]], "rate"
    elif "probe" in record:
        unit, kind = [record["student"], record["seed"], record["kind"], record["probe"]], "probe"
    else:
        unit, kind = [record["student"], record["seed"]], "run"
    return f"{kind}-{text_hash(unit)[:20]}{RECORD}"


def run_unit(student: str, seed: int) -> str:
    """What the run of a student is called among the units of an evaluation."""
    return f"{student} seed {seed}"


def rate_unit(student: str, rate: float) -> str:
    """What the try of a learning rate is called."""
    return f"{student} lr {rate:g}"


def probe_unit(student: str, seed: int, kind: str, probe: str) -> str:
    """What a probe of a run is called."""
    return f"{run_unit(student, seed)} {kind} {probe}"


def read_parts(folder: Path, check: Callable[[dict[str, Any]], None]) -> list[tuple[Path, dict[str, Any]]]:
    """The records that are there, settings of measurements first; files that are no records are passed over.

    Args:
        check: raises KeyError, TypeError, ValueError or AttributeError for a record that is malformed.
    """
    found = []
    for path in listed(folder, f"*{RECORD}"):
        try:
            record = read_json(path, "record of an evaluation")
            check(record)
        except (UserError, KeyError, TypeError, ValueError, AttributeError):  # damaged, or taken into the result now
            continue
        found.append((path, record))
    return sorted(found, key=lambda entry: "measured" not in entry[1])


def read_head(folder: Path) -> dict[str, Any] | None:
    """The evaluation that the records belong to; None where there are none."""
    path = folder / HEAD
    try:
        head = read_json(path, "head of an evaluation")
    except UserError:
        return None
    return head if isinstance(head, dict) else None


class Writer:
    """A process that writes records; its sign in the folder is there as long as it does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sign = Sign(folder, WRITER)

    def enter(self) -> None:
        """Say that this process writes.

        Raises:
            UserError: the folder cannot be written to.
        """
        self._sign.enter()

    def leave(self) -> None:
        """Say that this process writes no more; the folder is removed if there is nothing in it."""
        self._sign.leave()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def others(self) -> bool:
        """Whether another process writes here; signs of dead ones are removed."""
        return bool(writers(self.folder, self._sign.path.name))

    def append(self, record: dict[str, Any]) -> None:
        """Keep a record on disk at once.

        Raises:
            UserError: the disk refuses.
        """
        write_text(self.folder / part_name(record), canonical_json(record) + "\n")

    def claim(self, name: str, value: dict[str, Any]) -> dict[str, Any]:
        """What the file of this name holds: the first value that any process claimed for it.

        Raises:
            UserError: the disk refuses.
        """
        path = self.folder / name
        text = canonical_json(value) + "\n"
        while not _first(path, text):
            try:
                found = read_json(path, "record of an evaluation")
            except UserError:
                if path.exists():
                    raise
                continue  # it was removed just now, with all that was claimed
            return found if isinstance(found, dict) else {}
        return value


def _first(path: Path, text: str) -> bool:
    """Write a file that is not there; False: another process was first."""
    own = temporary(path)
    write_text(own, text)
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        write_text(path, text)
    finally:
        own.unlink(missing_ok=True)
    return True


@contextmanager
def writing(folder: Path) -> Iterator[Writer]:
    """Be known as a writer of the folder for the block."""
    writer = Writer(folder)
    writer.enter()
    try:
        yield writer
    finally:
        writer.leave()


def writers(folder: Path, besides: str = "") -> list[str]:
    """Processes that write there, as ``host.pid``; the signs of dead ones are removed."""
    found = [sign for sign in signs(folder, WRITER) if sign.path.name != besides]
    for sign in found:
        if sign.dead:
            sign.path.unlink(missing_ok=True)
    return [f"{sign.host}.{sign.pid}" for sign in found if not sign.dead]


def remove_parts(paths: list[Path], folder: Path) -> None:
    """Remove records that are in the result, and what dead processes left of their writes.

    What all records share stays where another process has come to write.
    """
    for path in paths:
        path.unlink(missing_ok=True)
    if listed(folder, f"*{RECORD}"):
        return
    Units(folder / "units").clear()
    sweep(folder)
    if any(sign.pid != os.getpid() and not sign.dead for sign in signs(folder, WRITER)):
        return
    for path in listed(folder, "*.json"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody has just begun to write
        folder.rmdir()
