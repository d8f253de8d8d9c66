"""A learned recipe of a synset (DD): its batches in turn, each step with a learning rate of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ddbench.networks.initialise import SCHEMES
from ddbench.provenance import field_of
from ddbench.runtime.errors import UserError

REPLAY = "replay"
MAX_EPOCHS = 10_000


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A learned recipe (DD): the batches of the synset's stages in turn, so many times, each step with its own rate.

    Attributes:
        epochs: E, passes over the P stages; the synset's learned rates are ``(E * P,)``, pass by pass.
        init: how the student is initialised (:data:`ddbench.networks.initialise.SCHEMES`).
        fixed: seed of the one network that it was learned for; ``None``: for fresh networks.
    """

    epochs: int
    init: str
    fixed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As in the header of a file."""
        return {"kind": REPLAY, "epochs": self.epochs, "init": self.init, "fixed": self.fixed}


def read_schedule(path: Path, found: Any) -> Replay | None:
    """The recipe that a header names; None: none.

    Raises:
        UserError: an unknown one, or a field of another type.
    """
    if found is None:
        return None
    if not isinstance(found, dict) or set(found) != {"kind", "epochs", "init", "fixed"} or found["kind"] != REPLAY:
        raise UserError(f"{path}: holds a schedule which this version does not know: upgrade ddbench")
    fixed = None if found["fixed"] is None else field_of(path, found, "fixed", int)
    return Replay(epochs=field_of(path, found, "epochs", int), init=field_of(path, found, "init", str), fixed=fixed)


def check_schedule(path: Path, schedule: Replay, stages: int, lr: Tensor | None) -> None:
    """Refuse a recipe that is out of range, or whose rates are not one a step.

    Raises:
        UserError: names the value and what was expected.
    """
    if not 1 <= schedule.epochs <= MAX_EPOCHS:
        raise UserError(f"{path}: its learned recipe has {schedule.epochs} epochs, expected 1 to {MAX_EPOCHS}")
    if schedule.init not in SCHEMES:
        raise UserError(f"{path}: its learned recipe has init {schedule.init!r:.40}, expected {', '.join(SCHEMES)}")
    if schedule.fixed is not None and schedule.fixed < 0:
        raise UserError(f"{path}: its learned recipe has the fixed network {schedule.fixed}, expected a seed")
    shape = None if lr is None else list(lr.shape)
    if shape != [schedule.epochs * stages]:
        raise UserError(
            f"{path}: lr has shape {shape}, expected [{schedule.epochs * stages}]: {schedule.epochs} passes over "
            f"{stages} batches"
        )
