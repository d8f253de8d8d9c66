"""Errors in code of people outside this package (methods, tasks, decoders, networks) are told as a line of their file.

Whoever loads such code notes its module here. Where :data:`WHOLE` is set in the environment, errors keep their
traceback; so they do for callers in Python in any case.
"""

from __future__ import annotations

import inspect
import linecache
import os
import traceback

from ddbench.runtime.errors import UserError, memory_words, one_line

WHOLE = "DDBENCH_TRACEBACK"
"""Environment variable that asks for whole tracebacks."""

LONGEST = 300
"""Characters of an error's own text, at most."""

_THEIRS: set[str] = set()
"""Top-level names of their modules."""


def note(module: str) -> None:
    """Remember whose code a module is."""
    top = module.partition(".")[0]
    if top != "ddbench":
        _THEIRS.add(top)


def place(error: BaseException) -> str:
    """``FILE, line N, in FUNCTION: 'CODE'``: the innermost line of theirs that an error passed; empty: none."""
    passed = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _THEIRS
    ]
    if not passed:
        return ""
    frame, line = passed[-1]
    code = linecache.getline(frame.f_code.co_filename, line).strip()
    return f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_qualname}: {code[:LONGEST]!r}"


def told(error: BaseException) -> str | None:
    """The line that tells an author of an error in code of theirs; None: it is none, or its traceback is asked for."""
    where = "" if os.environ.get(WHOLE) else place(error)
    if not where:
        return None
    return (
        f"{where}: {type(error).__name__}: {one_line(error)[:LONGEST]}; mend it ({WHOLE}=1 shows the whole traceback)"
    )


def memory(error: BaseException) -> str | None:
    """What is told of work that no memory holds, with the line of theirs that asked for it; None: it is not that."""
    words, where = memory_words(error), place(error)
    return words if words is None or not where else f"{words} at {where}"


def shipped(kind: type) -> bool:
    """Whether a class is one of this package."""
    return kind.__module__.partition(".")[0] == "ddbench"


class Said(str):
    """Words for what was found, in place of a value."""


def seen(value: object) -> str:
    """A value in a message: type and shape of a tensor, type and beginning of another."""
    if isinstance(value, Said):
        return str(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
    return "None" if value is None else f"{type(value).__name__} {value!r:.60}"


def mend(kind: type) -> str:
    """What is to be done, at the end of a message: with the file of a class that is not of this package."""
    if shipped(kind):
        return "mend it"
    try:
        return f"mend it ({inspect.getfile(kind)})"
    except (OSError, TypeError):  # written at a prompt
        return f"mend it ({kind.__module__})"


def wrong(kind: type, name: str, what: str, found: object, expected: str) -> UserError:
    """That somebody's code returns what it must not.

    Args:
        kind: the class whose code it is.
        name: of it, such as ``method Mine``.
        what: is wrong, such as ``state()``.
        found: the value that was returned.
    """
    return UserError(f"{name}: {what} is {seen(found)}, expected {expected}; {mend(kind)}")
