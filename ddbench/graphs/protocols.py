"""How a student learns graphs or a distilled set of them, as data. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from ddbench.registry import unknown
from ddbench.runtime.files import text_hash


@dataclass(frozen=True, kw_only=True)
class GraphProtocol:
    """How a student is trained: cross-entropy, Adam at a constant rate, a fixed number of updates.

    Attributes:
        name: in tables.
        updates, batch: updates, and items of each.
        lr, weight_decay: of Adam.
        dropout: of the pooled embedding.
        draw: ``balanced``: a class, all alike, then an item of it in proportion to its weight; ``weighted``: an item in
            proportion to its weight; ``each``: every item once, in an order drawn anew, over and over.
        choice: which weights are tested: the ``last`` ones, or those best on the ``validation`` part (ROC-AUC, the
            earliest of several).
        every: updates between two looks at the validation part.
    """

    name: str
    updates: int = 300
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.0
    dropout: float = 0.0
    draw: Literal["balanced", "weighted", "each"] = "balanced"
    choice: Literal["last", "validation"] = "last"
    every: int = 10

    labels: ClassVar[str] = "own"
    lr_source: ClassVar[str] = "protocol"
    lr_grid: ClassVar[tuple[float, ...]] = ()

    @property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 of the settings that are not the default; every result names it."""
        usual = GraphProtocol(name="").settings()
        return text_hash({key: value for key, value in self.settings().items() if value != usual[key]})[:16]

    def settings(self) -> dict[str, Any]:
        """The settings as plain JSON, without the name."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


PROTOCOLS = {
    made.name: made
    for made in (
        GraphProtocol(name="graph-v1"),
        GraphProtocol(name="mirage", weight_decay=1e-3, dropout=0.3, draw="weighted", choice="validation"),
        GraphProtocol(name="mirage-code", weight_decay=1e-3, dropout=0.3, draw="each", choice="validation"),
    )
}
"""``graph-v1`` is ours. ``mirage`` draws as the paper says and chooses on the validation part, as it does; the released
code overwrites its weighted draw by every itemset once an epoch: ``mirage-code``."""

DESCRIPTIONS = {
    "graph-v1": "graphs: Adam, 300 updates of 32 items, classes alike, items by support, last weights",
    "mirage": "graphs, as Mirage's paper: items by support, weights chosen on the validation part",
    "mirage-code": "graphs, as Mirage's code: every item once an epoch, weights chosen on the validation part",
}


def graph_protocol(name: str) -> GraphProtocol:
    """A protocol by name.

    Raises:
        UserError: no such one.
    """
    if name not in PROTOCOLS:
        raise unknown("graph protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
