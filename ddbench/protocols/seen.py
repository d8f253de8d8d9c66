"""The views of a synset, kept in memory for the next student: with one seed all students see the same ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ddbench.data.policy import Policy
from ddbench.protocols.plan import Plan
from ddbench.training.loops import Inputs, View, views

LIMIT = 2**27
"""Bytes of the views that are kept. What comes later is made each time, as are those of a longer training."""


class SeenViews:
    """:func:`ddbench.training.loops.views` of the inputs of one plan, each epoch made once a seed.

    A network that writes into its input must not be given them.
    """

    def __init__(self) -> None:
        self._made: dict[Any, list[View]] = {}
        self._left = LIMIT

    def __call__(self, inputs: Inputs, *, batch: int, policy: Policy | None, seed: int, epoch: int) -> Sequence[View]:
        """The views of one epoch, in order."""
        key = batch, policy, seed, epoch
        found = self._made.get(key)
        if found is None:
            found = list(views(inputs, batch=batch, policy=policy, seed=seed, epoch=epoch))
            size = sum(view.x.numel() * view.x.element_size() for view in found)
            if size <= self._left:
                self._left -= size
                self._made[key] = found
        return found


_last: list[tuple[tuple[Any, ...], SeenViews]] = []


def seen_views(plan: Plan, inputs: Inputs) -> SeenViews | None:
    """Those of the last plan of this process if that is the same synset under the same protocol, else new ones; None:
    those of one student's training are more than :data:`LIMIT` already.
    """
    if plan.epochs * len(inputs) * math.prod(inputs.shape) * 4 > LIMIT:
        return None
    own = plan.synset, plan.preprocess, plan.protocol, plan.flip, inputs.device
    if not _last or _last[0][0][0] is not own[0] or _last[0][0][1:] != own[1:]:
        _last[:] = [(own, SeenViews())]
    return _last[0][1]
