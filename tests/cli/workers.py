"""Jobs for the worker processes of ``test_kill.py``; imports nothing heavy, because every worker imports it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ddbench.runtime.errors import UserError

FOR_EVER = 900.0
"""Seconds: longer than any test waits (``conftest.PATIENCE``)."""


def job(shared: Path, payload: tuple[str, int | Path]) -> tuple[int | str | None, int]:
    """Do what the payload says; returns its value and the number of the process."""
    what, value = payload
    if what == "read":
        return value.read_text(), os.getpid()
    if what == "environment":
        return os.environ.get("DDBENCH_TEST_VALUE"), os.getpid()
    if what == "die-once" and not (shared / f"died-{value}").exists():
        (shared / f"died-{value}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "die":
        with open(shared / "tries", "a") as handle:
            handle.write(f"{value}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        raise ZeroDivisionError(f"job {value}")
    if what == "user-error":
        raise UserError(f"value {value} cannot be")
    if what == "hang-until-killed" and not (shared / "killed").exists():
        (shared / "pid").write_text(f"{os.getpid()}\n")
        time.sleep(FOR_EVER)
    return value, os.getpid()
