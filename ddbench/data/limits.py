"""Refuse work that does not fit into memory or on the disk, before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from ddbench.runtime.errors import UserError


def available_memory() -> int:
    """Bytes of memory that a process can still take without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def free_disk(folder: Path) -> int:
    """Free bytes on the disk of ``folder`` (or of its nearest existing parent)."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raise a UserError that names both numbers when ``needed`` bytes are not available."""
    available = available_memory()
    if needed > available:
        raise UserError(f"{what} needs {readable(needed)} of memory, {readable(available)} are available; {remedy}")


def require_disk(needed: int, folder: Path, what: str, remedy: str) -> None:
    """Raise a UserError that names both numbers when the disk of ``folder`` has less than ``needed`` bytes free."""
    free = free_disk(folder)
    if needed > free:
        raise UserError(f"{what} needs {readable(needed)} in {folder}, {readable(free)} are free; {remedy}")


def readable(count: int) -> str:
    """Bytes for people: ``1.5 GiB``."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
