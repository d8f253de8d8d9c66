"""ddbench: the benchmark suite for dataset distillation, from Python.

``load`` a synset, ``distill`` one, ``evaluate`` it, do a ``task`` with it, ``submit`` it to a board, and
``register_...`` methods, datasets, students, protocols and tasks of your own (docs/api.md). Importing the package is
light: what a name needs is loaded when the name is first used, torch when something is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddbench.api import (
        distill,
        evaluate,
        load,
        register_dataset,
        register_method,
        register_protocol,
        register_student,
        register_task,
        submit,
        task,
    )
    from ddbench.data.specs import DatasetSpec
    from ddbench.evaluation.result import Evaluation
    from ddbench.loaded import LoadedSynset
    from ddbench.networks.names import StudentSpec
    from ddbench.protocols.protocol import Protocol
    from ddbench.runtime.errors import UserError
    from ddbench.tasks.result import TaskResult

__version__ = "0.1.0"

__all__ = [
    "DatasetSpec",
    "Evaluation",
    "LoadedSynset",
    "Protocol",
    "StudentSpec",
    "TaskResult",
    "UserError",
    "__version__",
    "distill",
    "evaluate",
    "load",
    "register_dataset",
    "register_method",
    "register_protocol",
    "register_student",
    "register_task",
    "submit",
    "task",
]

_ELSEWHERE = {
    "DatasetSpec": "ddbench.data.specs",
    "Evaluation": "ddbench.evaluation.result",
    "LoadedSynset": "ddbench.loaded",
    "Protocol": "ddbench.protocols.protocol",
    "StudentSpec": "ddbench.networks.names",
    "TaskResult": "ddbench.tasks.result",
    "UserError": "ddbench.runtime.errors",
}
"""Modules of the names that are not in :mod:`ddbench.api`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ddbench' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_ELSEWHERE.get(name, "ddbench.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
