"""Whole numbers out of texts that people, file names and foreign files give."""

from __future__ import annotations

import re

MAX_DIGITS = 18
"""No count of ours has more; of thousands Python itself makes no number."""


def whole(text: str) -> int | None:
    """The number that a text of digits says; None: it is something else, or has more than :data:`MAX_DIGITS`."""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


def byte_count(text: str) -> int | None:
    """Bytes that a text such as ``8G``, ``500M`` or ``1.5G`` says, in powers of 1024; None: it is something else."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([KMGT])", text)
    return None if found is None else int(float(found[1]) * 1024 ** (1 + "KMGT".index(found[2])))


def process_exists(pid: int) -> bool:
    """Whether this machine runs a process of that number, of whatever size."""
    import psutil  # rarely needed, and ddbench --help should not wait for it

    return pid < 2**31 and psutil.pid_exists(pid)
