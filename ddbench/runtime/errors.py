"""The one exception that reaches a user as a line of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

TOO_LARGE = (
    *("can't allocate memory", "out of memory", "Storage size calculation overflowed"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
"""What torch, and a GPU's libraries, say of tensors that no memory holds: such errors have no type in common."""

SENTENCES = 3
"""Of such an error: what was wanted of which GPU, and how much of it is free."""

LESS = "smaller numbers, fewer --workers"
"""What helps, where nobody knows better."""


class UserError(Exception):
    """Something the user can mend: printed as one line, exit code 2, no traceback.

    The message names the thing at fault, its value, what was expected and what to do.
    """


class OutOfMemory(UserError):
    """Work that no memory holds, of this machine or of its GPU.

    Attributes:
        words: what was wanted and was not there.
    """

    def __init__(self, words: str, less: str = LESS) -> None:
        super().__init__(f"{words}; give {less}")
        self.words = words


def memory_words(error: BaseException) -> str | None:
    """What is told of an error that says that memory was not enough; None: it says something else."""
    if not (isinstance(error, MemoryError) or any(words in str(error) for words in TOO_LARGE)):
        return None
    text = " ".join(str(error).split())
    return f"out of memory ({'. '.join(text.split('. ')[:SENTENCES]):.300})"


def read_each(places: Iterable[Path], read: Callable[[Path], T]) -> tuple[list[T], list[UserError]]:
    """What is read at places, and what is wrong where it cannot be: one damaged thing hides none of the others."""
    found, damaged = [], []
    for place in places:
        try:
            found.append(read(place))
        except UserError as error:
            damaged.append(error)
    return found, damaged


def damaged_words(damaged: Sequence[UserError], total: int, things: str) -> str:
    """What is wrong with those of some things that cannot be read."""
    words = "; ".join(map(str, damaged))
    return words if total == 1 else f"{len(damaged)} of {total} {things} cannot be read: {words}"


def tell_damaged(damaged: Sequence[UserError], total: int, things: str) -> None:
    """End a listing of things of which some cannot be read.

    Raises:
        UserError: with what is wrong with them, if there are any.
    """
    if damaged:
        raise UserError(damaged_words(damaged, total, things))


class Unfinished(Exception):
    """The part of a piece of work that this process was to do is done, other parts are not: there is no result yet.

    Nothing is wrong: the line is printed, exit code 0.

    Attributes:
        left: units of other parts that are open.
    """

    def __init__(self, message: str, left: int) -> None:
        super().__init__(message)
        self.left = left


def install_words(extra: str) -> str:
    """How the packages behind an extra are installed; ddbench is installed from its checkout."""
    return f'pip install ".[{extra}]" in the checkout of ddbench'


def visible(text: str) -> str:
    """A line in which all characters can be seen, and written in UTF-8: others are escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


MAX_LINE = 2000


def one_line(error: object) -> str:
    """The text of an error for a terminal: one line of at most 2000 characters, all of which can be seen.

    Messages quote what was found in foreign files; control and direction characters in it are escaped.
    """
    shown = visible(" ".join(str(error).split()))
    return shown if len(shown) <= MAX_LINE else f"{shown[: MAX_LINE - 4]} ..."
