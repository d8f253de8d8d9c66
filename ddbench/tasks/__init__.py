"""Tasks: what a synset is for, beside test accuracy. One file a task. Imports no torch.

A task of another package is an entry point in the group ``ddbench.tasks``: a subclass of
:class:`ddbench.tasks.base.Task`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddbench.config import check_config_class
from ddbench.registry import Registry
from ddbench.runtime.errors import UserError

LINES = {
    "continual": "class-incremental learning with a memory of distilled images: accuracy after each step, forgetting",
    "membership": "which images a synset was made from: LiRA with shadow distillations; distance to real images",
    "nas": "architecture search: rankings of ConvNets by a synset against those by real images; regret",
    "transfer": "features for another dataset: linear probe and fine-tuning; how redundant the images are",
}
"""The tasks of this package, each in one line."""

_CLASSES = {"continual": "Continual", "membership": "Membership", "nas": "Nas", "transfer": "Transfer"}

TASKS = Registry("task", "ddbench.tasks", {name: f"{__name__}.{name}:{kind}" for name, kind in _CLASSES.items()})


def task_class(name: str) -> Any:
    """The class of a task.

    Raises:
        UserError: unknown name, code that cannot be loaded, or no such class.
    """
    from ddbench.tasks.base import Task

    found = TASKS.get(name)
    if not isinstance(found, type) or not issubclass(found, Task):
        raise UserError(f"task {name!r} ({TASKS.origin(name)}) is {found!r:.60}, expected a subclass of Task; mend it")
    check_config_class(getattr(found, "config_class", None), f"task {name!r} ({TASKS.origin(name)})", defaults=True)
    if not isinstance(getattr(found, "schema", None), Mapping):
        raise UserError(f"task {name!r} ({TASKS.origin(name)}) has no JSON Schema of its results: give it `schema`")
    return found


def description(name: str) -> str:
    """A task in one line; of another package's, where its code is."""
    return LINES.get(name) or TASKS.origin(name)
