"""Flags that every computing verb has, and what they mean. Imports no torch at module level."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ddbench.runtime.device import own_threads as own_threads
from ddbench.runtime.device import worker_count as worker_count

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Common:
    """Flags of every computing verb."""

    data: Path | None = None
    """Folder with the datasets; default: $DDBENCH_DATA, else the user's cache folder."""
    download: bool = False
    """Download the dataset when it is not there."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<i>."""
    threads: int = 0
    """Threads of each process; 0: the cores shared out over the workers (one alone: 1 for images up to 16 px)."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: auto uses it where the work repays it; off is easier to debug."""
    quiet: bool = False
    """Print results and errors only."""


def open_dataset(name: str, size: int | None, common: Common) -> Dataset:
    """Load the dataset that the flags name."""
    from ddbench.data.load import load_dataset

    return load_dataset(name, common.data, size=size, download=common.download)


def student_for(name: str | None, dataset: Dataset) -> str:
    """The canonical name of the student that the flags ask for, by default the dataset's."""
    from ddbench.networks.names import default_student, parse_student

    return str(parse_student(name)) if name else default_student(dataset.spec.size)
