"""Optimisers of torch without its compiler."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def light(kind: type[Kind]) -> type[Kind]:
    """An optimiser of ``torch.optim``, its arithmetic untouched, that leaves torch's compiler alone.

    Torch imports its compiler when an optimiser is made and at every step, only to keep itself out of compiled graphs;
    the import takes as many CPU seconds as that of torch, in every process. What is wrapped in that is taken as it is.
    """
    inner = inspect.unwrap(kind.step)

    def step(self: Kind, *arguments: Any, **named: Any) -> Any:
        with torch.no_grad():
            return inner(self, *arguments, **named)

    wrapped = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in wrapped}
    return type(kind.__name__, (kind,), {"step": step, **plain})
