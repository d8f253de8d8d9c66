"""A run's method, run again on other data: a step's classes, half of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.config import apply_config
from ddbench.data.dataset import Dataset
from ddbench.distillation.runner import RunSettings, distill
from ddbench.methods import METHODS
from ddbench.methods.needs.flags import TeacherFlags
from ddbench.networks.names import default_student
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.synset import Synset
from ddbench.tasks.base import Job


@dataclass(frozen=True, kw_only=True)
class Source:
    """A method with its settings.

    Attributes:
        label: names it in results.
        config: the method's own settings; the others have their defaults.
        student: the network that it matches.
    """

    label: str
    method: str
    config: Mapping[str, Any]
    student: str
    seed: int


def source_of(label: str, synset: Synset) -> Source:
    """What made a synset."""
    return Source(
        label=label,
        method=synset.method,
        config={name: value for name, value in synset.config.items() if name != "holdout"},
        student=synset.student or default_student(synset.images.shape[-1]),
        seed=synset.seed,
    )


def default_source(name: str, size: int) -> Source:
    """A method with its defaults.

    Args:
        size: side of the images in px.
    """
    return Source(label=name, method=name, config={}, student=default_student(size), seed=0)


def check_source(source: Source, remedy: str) -> None:
    """Refuse a method that cannot be run on other data than it was recorded for.

    Args:
        remedy: what to do instead, for the message.

    Raises:
        UserError: an unknown method, one with other settings, or one that needs what is not made on the way.
    """
    if source.method not in METHODS:
        raise UserError(f"{source.label}: no method {source.method!r} is known, so it cannot be run again; {remedy}")
    kind = METHODS.get(source.method)
    needs = kind.needs(apply_config(kind.config_class, dict(source.config), source.label))
    early = [need.key for need in needs if need.early]
    if early:
        raise UserError(
            f"{source.label}: {source.method} needs {', '.join(early)} of the very images that it is run on, and those "
            f"are recorded for whole datasets only; {remedy}"
        )


def again(source: Source, dataset: Dataset, job: Job, *, ipc: int, holdout: float, out: Path, teachers: Path) -> Path:
    """Run a method on a dataset that may be a part of the job's; returns the synset's file. A killed run goes on.

    Args:
        ipc: images a class.
        out: run folder.
        teachers: where a teacher of these images is kept, if one is needed.
    """
    kind, settings = METHODS.get(source.method), job.settings
    return distill(
        source.method,
        kind,
        apply_config(kind.config_class, dict(source.config), source.label),
        dataset=dataset,
        data=job.data,
        settings=RunSettings(
            ipc=ipc,
            student=source.student,
            seed=source.seed,
            preprocess="meanstd",
            holdout=holdout,
            validate_every=0,
            validate_epochs=1,
            track="jsonl",
            checkpoint_every=0,
            device=settings.device,
            threads=settings.threads,
            compile=settings.compile,
            flags=(TeacherFlags(teachers=teachers),),
        ),
        out=out,
        console=Console(quiet=True),
    )
