"""Whole numbers out of texts that people, file names and foreign files give; numbers as texts that give them again."""

from __future__ import annotations

import re

from ddbench.runtime.errors import UserError

MAX_DIGITS = 18
"""No count of ours has more; of thousands Python itself makes no number."""

MAX_UNITS = 100_000
"""Seeds, experts or repeats of one command; each is listed before work."""


def whole(text: str) -> int | None:
    """The number that a text of digits says; None: it is something else, or has more than :data:`MAX_DIGITS`."""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


def check_count(flag: str, count: int, least: int = 1) -> None:
    """Refuse a number of units of work that is too small, or that nobody can mean.

    Raises:
        UserError: names the flag.
    """
    if count < least:
        raise UserError(f"{flag} {_said(count)}: expected at least {least}")
    if count > MAX_UNITS:
        raise UserError(f"{flag} {_said(count)}: expected at most {MAX_UNITS:,}")


def _said(count: int) -> str:
    return str(count) if abs(count) < 10**MAX_DIGITS else f"{str(count)[:MAX_DIGITS]}..."


def byte_count(text: str) -> int | None:
    """Bytes that a text such as ``8G``, ``500M`` or ``1.5G`` says, in powers of 1024; None: it is something else."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([KMGT])", text)
    return None if found is None else int(float(found[1]) * 1024 ** (1 + "KMGT".index(found[2])))


def exact(value: float) -> str:
    """A number in as few digits as give it again: what a command that repeats something has to say."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def process_exists(pid: int) -> bool:
    """Whether this machine runs a process of that number, of whatever size."""
    import psutil  # rarely needed, and ddbench --help should not wait for it

    return pid < 2**31 and psutil.pid_exists(pid)
