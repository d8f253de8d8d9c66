"""Progress for people: a bar on a terminal, a plain line now and then elsewhere, nothing with ``--quiet``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

PLAIN_SECONDS = 15.0
"""Time between two plain lines when standard error is no terminal."""

HEARD_SECONDS = 0.5
"""Time between two words to who listens."""

_LISTENER: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


@contextmanager
def heard(listener: Callable[[str], None]) -> Iterator[None]:
    """Tell a listener how far the bars of the block are, quiet ones too: it shows them elsewhere."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def under(words: str) -> Iterator[None]:
    """Tell who listens (:func:`heard`) these words, and before all that the bars of the block say."""
    listener = _LISTENER.get()
    if listener is None:
        yield
        return
    listener(words)
    with heard(lambda more: listener(f"{words}: {more}")):
        yield


_ALOUD: ContextVar[Callable[[str], None] | None] = ContextVar("aloud", default=None)


@contextmanager
def aloud(say: Callable[[str], None]) -> Iterator[None]:
    """Let this say what the user must know at once, for the verbs of the block: their own lines go to a log."""
    token = _ALOUD.set(say)
    try:
        yield
    finally:
        _ALOUD.reset(token)


class Console:
    """Where a verb talks: messages to standard error, results to standard output.

    Args:
        quiet: only results and errors are printed.
        name: of one of several jobs that talk at once: it stands before each of its lines, and no bar is drawn.
    """

    def __init__(self, quiet: bool = False, name: str = "") -> None:
        self.quiet = quiet
        self._before = f"{name}: " if name else ""
        self.terminal = not name and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """One line about what is being done."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """One line that is also told with ``--quiet``: what comes out is not what was asked for."""
        print(f"{self._before}{text}", file=sys.stderr, flush=True)

    def alert(self) -> Callable[[str], None]:
        """What says a line that the user must know at once (:func:`aloud`), from any thread."""
        return _ALOUD.get() or self.say

    def bar(self, title: str, total: int, done: int = 0) -> Bar:
        """A progress display of ``total`` units of which ``done`` were done by an earlier try."""
        return Bar(self, title, total, done)


class Bar:
    """A context manager with :meth:`advance`; shows rate, remaining time and the number that matters."""

    def __init__(self, console: Console, title: str, total: int, done: int) -> None:
        self.console, self.title, self.total = console, title, total
        self.done = self.start_done = done
        self._start = self._last = time.monotonic()
        self._rich: Any = None
        self._task: Any = None
        self._listener, self._told = _LISTENER.get(), float("-inf")

    def __enter__(self) -> Bar:
        if self.console.terminal and not self.console.quiet:
            from rich import progress
            from rich.console import Console as RichConsole

            self._rich = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[note]}"),
                console=RichConsole(file=sys.stderr),  # that of now: what runs below it may send its own to a log
                transient=True,
            )
            self._rich.start()
            self._task = self._rich.add_task(self.title, total=self.total, completed=self.done, note="")
        self._tell()
        return self

    def note(self, text: str) -> None:
        """Show on a terminal what is going on, between two units."""
        if self._rich is not None:
            self._rich.update(self._task, note=text)

    def _tell(self) -> None:
        now = time.monotonic()
        if self._listener is not None and now - self._told >= HEARD_SECONDS:
            self._told = now
            self._listener(f"{self.done}/{self.total} {self.title}")  # the end of a line is cut off

    def advance(self, note: str = "", units: int = 1) -> None:
        """Count ``units`` as done; ``note`` is the number that matters (loss, accuracy)."""
        self.done += units
        self._tell()
        if self._rich is not None:
            self._rich.update(self._task, completed=self.done, note=note)
            return
        now = time.monotonic()
        if now - self._last >= PLAIN_SECONDS and self.done < self.total:
            self._last = now
            rate = (self.done - self.start_done) / (now - self._start)
            left = (self.total - self.done) / rate if rate > 0 else float("inf")
            self.console.say(
                f"{self.title}: {self.done}/{self.total}, {rate:.2g}/s, {_span(left)} left {note}".rstrip()
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
        if kind is None:
            self.console.say(f"{self.title}: {self.done}/{self.total} in {_span(time.monotonic() - self._start)}")


def _span(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
