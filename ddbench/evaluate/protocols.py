"""Protocols: named, versioned ways to train a student on a synset. Data, not code; imports no torch."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ddbench.registry import unknown
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one student is trained and tested.

    Attributes:
        name: with its version; a protocol is never edited, a changed one gets a new version.
        epochs: passes over the synset.
        full_epochs: passes over the whole training set for the upper row (method ``full``).
        optimizer, lr, momentum, weight_decay, batch: as in ``torch.optim``.
        use_learned_lr: a synset that carries a learned scalar learning rate is trained with it instead of ``lr``.
        decay_after: the learning rate is multiplied by 0.1 once, after ``epochs // 2 + decay_after`` passes.
        rebuild: that drop builds a new optimiser, which loses the momentum.
        augmentation: ``dsa`` (six families; no flip on digits), a strategy of :mod:`ddbench.data.augment`, or ``none``.
    """

    name: str
    epochs: int = 1000
    full_epochs: int = 100
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 256
    use_learned_lr: bool = True
    decay_after: int = 1
    rebuild: bool = False
    augmentation: str = "dsa"

    @property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 of the settings; every result names it."""
        return text_hash(asdict(self))[:16]

    def settings(self) -> dict[str, Any]:
        """The settings as plain JSON, without the name."""
        data = asdict(self)
        del data["name"]
        return data


PROTOCOLS: dict[str, Protocol] = {
    # DC's and MTT's evaluation (specs 3.1, 3.3) with exactly E passes and momentum kept at the drop.
    "hard-v1": Protocol(name="hard-v1"),
    # Bit-faithful to DC's public loop: E+1 passes, drop after pass index E//2+1, a new optimiser there, lr fixed.
    "dc-legacy": Protocol(
        name="dc-legacy", epochs=1001, full_epochs=101, decay_after=2, rebuild=True, use_learned_lr=False
    ),
}

DESCRIPTIONS = {
    "hard-v1": "hard labels, SGD, 1000 epochs, DSA; the synset's learned lr if it has one, else 0.01",
    "dc-legacy": "as the public DC/DSA/DM code: 1001 epochs, lr 0.01, optimiser rebuilt at the drop, DSA",
}


def protocol(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        UserError: unknown name.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS, "--protocol")
    return PROTOCOLS[name]


def changed(base: Protocol, **settings: Any) -> tuple[Protocol, dict[str, Any]]:
    """A protocol with settings that a flag altered (``None``: not altered), and which ones differ from the standard.

    Raises:
        UserError: a value out of range.
    """
    wanted = {name: value for name, value in settings.items() if value is not None}
    known = {field.name for field in fields(Protocol)}
    for name, value in wanted.items():
        if name not in known:
            raise unknown("protocol setting", name, known)
        if name in ("epochs", "full_epochs", "batch") and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected at least 1")
        if name == "lr" and not 0 < value < float("inf"):
            raise UserError(f"--lr {value}: expected a positive number")
    made = replace(base, **wanted)
    return made, {name: value for name, value in made.settings().items() if value != base.settings()[name]}


def result_name(base: Protocol, difference: dict[str, Any]) -> str:
    """File name of an evaluation: the protocol's name, marked where it was altered."""
    if not difference:
        return base.name
    marks = "-".join(f"{name}={value}" for name, value in sorted(difference.items()))
    return re.sub(r"[^A-Za-z0-9=._-]+", "_", f"{base.name}-nonstandard-{marks}")
