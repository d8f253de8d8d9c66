"""Errors in code of people outside this package (methods, tasks, decoders, networks) are told as a line of their file.

Whoever loads such code notes its module here. Where :data:`WHOLE` is set in the environment, errors keep their
traceback; so they do for callers in Python in any case.
"""

from __future__ import annotations

import linecache
import os
import traceback

from ddbench.runtime.errors import one_line

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
