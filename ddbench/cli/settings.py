"""Flags that every verb has that reads data or computes, and what they mean. Imports no torch at module level."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.runtime.common import Common as Common
from ddbench.runtime.common import Loading as Loading
from ddbench.runtime.device import own_threads as own_threads
from ddbench.runtime.device import worker_count as worker_count

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset


def open_dataset(name: str, size: int | None, loading: Loading) -> Dataset:
    """Load the dataset that the flags name."""
    from ddbench.data.load import load_dataset
    from ddbench.runtime.progress import Console

    return load_dataset(
        name,
        loading.data,
        size=size,
        download=loading.download,
        console=Console(loading.quiet),
        skip_broken=loading.skip_broken,
    )


def data_flag(data: Path | None) -> str:
    """What a command that goes on must say of a folder of datasets that was given by hand."""
    return "" if data is None else f" --data {shlex.quote(str(data))}"


def student_for(name: str | None, dataset: Dataset) -> str:
    """The canonical name of the student that the flags ask for, by default the dataset's."""
    from ddbench.networks.names import default_student, parse_student

    return str(parse_student(name)) if name else default_student(dataset.spec.size)
