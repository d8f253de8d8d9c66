"""Jobs for worker processes (fixture ``light_workers``); imports nothing heavy, because every worker imports it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ddbench.runtime.errors import UserError
from ddbench.runtime.interruption import interruptible
from ddbench.runtime.progress import Console

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
    if what == "compute":
        (shared / "pid").write_text(f"{os.getpid()}\n")
        limit = time.monotonic() + FOR_EVER
        while time.monotonic() < limit:
            sum(range(10_000))
    if what == "wait":
        (shared / str(value)).touch()
        while True:
            time.sleep(0.01)
    if what in ("steps", "endless-step"):
        steps(shared / str(value), FOR_EVER if what == "endless-step" else 0.01)
    return value, os.getpid()


def steps(place: Path, seconds: float) -> None:
    """Steps of so many seconds, of which the last one's number is kept in a file when an interruption is asked for."""
    with interruptible(Console(quiet=True), "step", 9, 0) as interruption:
        while True:
            place.touch()
            limit = time.monotonic() + seconds
            while time.monotonic() < limit:
                time.sleep(0.01)
            if interruption.asked:
                place.write_text("kept")
                interruption.kept(int(place.name))
