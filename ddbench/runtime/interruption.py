"""Ctrl-C and SIGTERM that wait for the next point at which the work can be kept.

Between two such points the state is none that could be gone on from. The wait is bounded: a second signal ends the work
at once, and so does the end of :data:`GRACE`. Who is told of the end finds in the exception's notes what is kept.

Of what a library does with threads of its own nothing is waited for (:func:`leaving`, :func:`end`).
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from ddbench.runtime.progress import Console

GRACE = 20.0
"""Seconds from the signal to the end of a step; a longer step is lost."""

KEPT = "the same command goes on: what was finished is kept, what was in work begins again"
"""What is true of every interrupted verb."""

AFTER = "the same command goes on after "

SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")

_LEFT = threading.Event()


def leaving(work: Callable[[], T]) -> T:
    """The result of what a library does with threads of its own, as downloads: a signal leaves them behind.

    They cannot be stopped, and an interpreter that ends waits for them, which may be for minutes: :func:`end` does not.
    From Python they go on until the program ends.
    """
    made: list[T] = []
    failed: list[BaseException] = []
    done = threading.Event()

    def do() -> None:
        try:
            made.append(work())
        except BaseException as error:
            failed.append(error)
        done.set()

    threading.Thread(target=do, daemon=True).start()
    try:
        done.wait()
    except KeyboardInterrupt:
        _LEFT.set()
        raise
    if failed:
        raise failed[0]
    return made[0]


def end(code: str | int | None) -> None:
    """End the process, told and unwound, where a library's threads were left behind; else do nothing."""
    if _LEFT.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def what_is_kept(stop: BaseException) -> str:
    """What an interrupted command left, in words for its user."""
    return "; ".join(getattr(stop, "__notes__", ())) or KEPT


@contextmanager
def part(name: str) -> Iterator[None]:
    """Around a part of a command: what is told of a count of its own names it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.__notes__ = [note if note == KEPT else f"{note} of {name}" for note in getattr(stop, "__notes__", ())]
        raise


class Interruption:
    """What was asked of work that ends at its next kept step.

    Attributes:
        asked: whether a signal came: the step that is done is to be kept, then :meth:`kept` called.
        others: what is kept of what other processes did for this one, in their words.
    """

    def __init__(self, console: Console, unit: str, total: int, done: int, first: int) -> None:
        self.asked = False
        self.others: list[str] = []
        self._say, self._unit, self._total, self._kept, self._first = console.alert(), unit, total, done, first
        self._before: dict[int, Any] = {}
        self._signal: tuple[int, FrameType | None] = (signal.SIGINT, None)
        self._ended = threading.Event()

    def kept(self, done: int) -> None:
        """Say that the work is kept after ``done`` units; ends it where that was asked.

        Raises:
            KeyboardInterrupt: a signal came.
        """
        self._kept = done
        self.end()

    def end(self) -> None:
        """Nothing more will be kept.

        Raises:
            KeyboardInterrupt: a signal came after the last :meth:`kept`.
        """
        if self.asked:
            self._raise(*self._signal)

    def words(self) -> str:
        """What is kept."""
        others = dict.fromkeys(words for words in self.others if words != KEPT)
        if others:
            return AFTER + " and ".join(words.removeprefix(AFTER) for words in others)
        if self._kept == self._first:
            return KEPT
        return f"{AFTER}{self._unit} {self._kept} of {self._total}"

    def hold(self) -> None:
        """Take the signals, where their handlers would raise and are ours to replace."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            before = signal.getsignal(number)
            if callable(before) and not isinstance(getattr(before, "__self__", None), Interruption):
                self._before[number] = before
                signal.signal(number, self._handle)

    def release(self) -> None:
        """Give the signals back."""
        self._ended.set()
        for number in list(self._before):
            if signal.getsignal(number) == self._handle:
                signal.signal(number, self._before[number])

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self._raise(number, frame)
            return
        self.asked, self._signal = True, (number, frame)
        threading.Thread(target=self._watch, args=(number,), daemon=True).start()

    def _watch(self, number: int) -> None:
        """Tell that the work will end (a handler may not print), and end it when the time is up."""
        self._say(f"ends after this {self._unit}, at the latest in {GRACE:g} s; Ctrl-C again: at once")
        if not self._ended.wait(GRACE):
            _thread.interrupt_main(signal.Signals(number))

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.release()
        self.asked = False  # a caller's handler may choose not to raise: then the work goes on
        self._before[number](number, frame)


@contextmanager
def interruptible(
    console: Console, unit: str, total: int, done: int, *, first: int = 0, alone: bool = True
) -> Iterator[Interruption]:
    """Around a loop that keeps its work: signals wait for :meth:`Interruption.kept`, and tell what is kept.

    Args:
        unit: what the loop counts, such as ``iteration``.
        total: how many there are.
        done: how many an earlier try kept.
        first: how many others do before.
        alone: False where other processes share each step: none may wait for a step that the others have left.
    """
    interruption = Interruption(console, unit, total, done, first)
    if alone:
        interruption.hold()
    try:
        yield interruption
        interruption.end()
    except KeyboardInterrupt as stop:
        stop.add_note(interruption.words())
        raise
    finally:
        interruption.release()
