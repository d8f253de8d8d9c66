"""Whole numbers out of texts that people, file names and foreign files give."""

from __future__ import annotations

MAX_DIGITS = 18
"""No count of ours has more; of thousands Python itself makes no number."""


def whole(text: str) -> int | None:
    """The number that a text of digits says; None: it is something else, or has more than :data:`MAX_DIGITS`."""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


def process_exists(pid: int) -> bool:
    """Whether this machine runs a process of that number, of whatever size."""
    import psutil  # rarely needed, and ddbench --help should not wait for it

    return pid < 2**31 and psutil.pid_exists(pid)
