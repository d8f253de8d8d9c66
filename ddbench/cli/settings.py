"""Flags that every computing verb has, and what they mean. Imports no torch at module level."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ddbench.runtime.device import cores
from ddbench.runtime.errors import UserError

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


def worker_count(workers: int, threads: int) -> tuple[int, int]:
    """``(workers, threads of each)``: by default one worker a core.

    Raises:
        UserError: a negative number.
    """
    if workers < 0 or threads < 0:
        raise UserError(f"--workers {workers} --threads {threads}: expected at least 0 (0: use every core)")
    workers = workers or max(1, cores() // (threads or 1))
    return workers, threads or max(1, cores() // workers)


SMALL_SIDE = 16
"""Images up to this side, in px, are computed with one thread: several would mostly wait for each other."""


def own_threads(threads: int, size: int) -> int:
    """Threads of a verb that works in one process: as asked, else one for small images and every core for others.

    Args:
        size: side of the images in px. What a run computes depends on the number of threads in its last bits, so small
            images give the same bytes on machines of any number of cores.

    Raises:
        UserError: a negative number.
    """
    if threads == 0 and size <= SMALL_SIDE:
        return 1
    return worker_count(1, threads)[1]


def open_dataset(name: str, size: int | None, common: Common) -> Dataset:
    """Load the dataset that the flags name."""
    from ddbench.data.load import load_dataset

    return load_dataset(name, common.data, size=size, download=common.download)


def student_for(name: str | None, dataset: Dataset) -> str:
    """The canonical name of the student that the flags ask for, by default the dataset's."""
    from ddbench.networks.names import default_student, parse_student

    return str(parse_student(name)) if name else default_student(dataset.spec.size)
