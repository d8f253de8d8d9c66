"""Flags that every computing verb has, and what they mean. Imports no torch at module level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.runtime.common import Common as Common
from ddbench.runtime.device import own_threads as own_threads
from ddbench.runtime.device import worker_count as worker_count

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset


def open_dataset(name: str, size: int | None, common: Common) -> Dataset:
    """Load the dataset that the flags name."""
    from ddbench.data.load import load_dataset
    from ddbench.runtime.progress import Console

    return load_dataset(
        name,
        common.data,
        size=size,
        download=common.download,
        console=Console(common.quiet),
        skip_broken=common.skip_broken,
    )


def student_for(name: str | None, dataset: Dataset) -> str:
    """The canonical name of the student that the flags ask for, by default the dataset's."""
    from ddbench.networks.names import default_student, parse_student

    return str(parse_student(name)) if name else default_student(dataset.spec.size)
