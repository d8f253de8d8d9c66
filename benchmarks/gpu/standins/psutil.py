"""What ddbench asks ``psutil``, from /proc: for a machine without it (Linux). The real one is taken where it is."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace


def pid_exists(pid: int) -> bool:
    """Whether a process has this number."""
    return os.path.exists(f"/proc/{pid}")  # noqa: PTH110


def virtual_memory() -> SimpleNamespace:
    """``total`` and ``available`` memory in bytes."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    found = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1}
    return SimpleNamespace(total=found["MemTotal"], available=found["MemAvailable"])
