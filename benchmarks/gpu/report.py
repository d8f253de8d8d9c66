"""Tables that are on the disk after every line, and parts that end in time."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

LATER = 0.05
"""Seconds after which the bell rings again, where it could not be answered."""


class OutOfTime(BaseException):
    """A part's time is up. No ``Exception``, so that nothing on the way takes it for a failure of its own."""


@dataclass
class Report:
    """One Markdown file, written anew after every line: a killed run keeps what it has.

    Attributes:
        path: of the file.
        title: its head.
        machine: device and versions, told under the head of every file.
    """

    path: Path
    title: str
    machine: str
    _blocks: list[list[str]] = field(default_factory=list)

    def table(self, title: str, heads: Sequence[str]) -> None:
        """Begin a table."""
        self._blocks.append(
            [f"## {title}", "", f"On {self.machine}.", "", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
        )
        self._write()

    def row(self, *entries: object) -> None:
        """Add a line to the table begun last."""
        words = [f"{entry:.4g}" if isinstance(entry, float) else str(entry).replace("|", "/") for entry in entries]
        self._blocks[-1].append(f"| {' | '.join(words)} |")
        print("  " + "  ".join(words), flush=True)
        self._write()

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self._blocks.append([text])
        print(f"  {text}", flush=True)
        self._write()

    def _write(self) -> None:
        text = "\n\n".join("\n".join(block) for block in [[f"# {self.title}"], *self._blocks]) + "\n"
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path)


def _imports(frame: FrameType | None) -> bool:
    """Whether an import is at work in a frame or in one that called it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def until(deadline: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` within the block when ``time.monotonic()`` reaches the deadline.

    The signal arrives between two operations of Python, so a kernel that runs is waited for; so is an import, of which
    a half would be left for the parts that follow.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        if _imports(frame):
            signal.setitimer(signal.ITIMER_REAL, LATER)
            return
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, deadline - time.monotonic()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def reason(error: BaseException) -> str:
    """An error in a few words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
