"""``ddbench`` that stands still for ever at a place in its work, so that a test can look, and kill it, in its own time.

``halting.py before|after MODULE:NAME COUNT [MODULE:CONSTANT=NUMBER ...] -- ARGV...``: NAME is a function, or
CLASS.METHOD; its COUNT-th call does not begin, or has ended.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def command(when: str, place: str, count: int, argv: Sequence[object], *constants: str) -> list[str]:
    """The command line of a ``ddbench ARGV`` that stands still."""
    return [sys.executable, str(Path(__file__)), when, place, str(count), *constants, "--", *map(str, argv)]


def started(halting: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """It, in a process of its own."""
    return subprocess.Popen(halting, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def seen(folder: Path, pattern: str) -> list[Path]:
    """What a process has written below a folder: nothing in its temporary folders, which may go meanwhile."""
    while True:
        try:
            return [one for one in folder.rglob(pattern) if ".tmp" not in {part.suffix for part in (one, *one.parents)}]
        except FileNotFoundError:
            continue


def found(place: str) -> tuple[Any, str]:
    """What holds the thing that ``MODULE:NAME`` says, and its name there."""
    module, _, name = place.partition(":")
    holder = importlib.import_module(module)
    *parents, last = name.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
    return holder, last


def halting(act: Callable[..., Any], when: str, count: int) -> Callable[..., Any]:
    """The function, which stands still at one of its calls."""
    calls = 0

    def stand_still(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        mine = calls == count
        while mine and when == "before":
            time.sleep(1)
        result = act(*args, **kwargs)
        while mine:
            time.sleep(1)
        return result

    return stand_still


def main(when: str, place: str, count: str, *rest: str) -> None:
    """Run the command."""
    from ddbench.cli.main import run

    for constant in rest[: rest.index("--")]:
        name, _, value = constant.partition("=")
        setattr(*found(name), float(value))
    holder, name = found(place)
    setattr(holder, name, halting(getattr(holder, name), when, int(count)))
    run(rest[rest.index("--") + 1 :])


if __name__ == "__main__":
    main(*sys.argv[1:])
