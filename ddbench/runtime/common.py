"""What verbs ask: where the data are; and those that compute: how this machine does it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Flags of every verb that reads a dataset."""

    data: Path | None = None
    """Folder with the datasets; default: $DDBENCH_DATA, else the user's cache folder."""
    download: bool = False
    """Download the dataset when it is not there."""
    skip_broken: bool = False
    """Leave image files that cannot be read out, now and later (else they are named and nothing is done)."""
    quiet: bool = False
    """Print results and errors only."""


@dataclass(frozen=True, kw_only=True)
class Common(Loading):
    """Flags of every computing verb."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:<i>."""
    threads: int = 0
    """Threads of each process; 0: those that were begun with, else the cores shared out over the workers (one alone: 1
    for images up to 16 px)."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: auto uses it where the work repays it; off is easier to debug."""
