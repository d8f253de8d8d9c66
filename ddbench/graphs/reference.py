"""Rows that hold no graph: the number of nodes alone, and a network without a step. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddbench.graphs.graphset import GraphSet, Ints, pack, packed_bytes

SIZE, UNTRAINED = "size", "untrained"
REFERENCES: Mapping[str, tuple[str, ...]] = {SIZE: ("sign", "centre", "spread"), UNTRAINED: ()}
"""How a reference scores a graph, and the numbers of each class that it takes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A rule in place of graphs: one item a class, which no student is trained on.

    Attributes:
        how: a key of :data:`REFERENCES`.
        numbers: those numbers, float64 ``(classes,)`` each: a class's score of a graph of n nodes is ``sign * (n -
            centre) / spread``.
        name, classes, node_sizes, edge_sizes: as of the graphs.
    """

    how: str
    numbers: Mapping[str, NDArray[np.float64]]
    name: str
    classes: int
    node_sizes: tuple[int, ...]
    edge_sizes: tuple[int, ...]

    def __len__(self) -> int:
        return self.classes

    @property
    def labels(self) -> Ints:
        """The class of each item ``(classes,)``."""
        return np.arange(self.classes)

    def packed(self) -> dict[str, NDArray[Any]]:
        """The stored arrays."""
        return {**self.numbers, **pack({"labels": self.labels})}

    @property
    def bytes(self) -> int:
        """Bytes of :meth:`packed`."""
        return packed_bytes(self.packed())


def reference(how: str, train: GraphSet) -> Reference:
    """The reference of a kind for some training graphs, on which the sign of each class is chosen.

    Args:
        how: a key of :data:`REFERENCES`.
    """
    numbers: dict[str, NDArray[np.float64]] = {}
    if how == SIZE:
        nodes = train.nodes_per_graph.astype(np.float64)
        own = [(nodes[train.labels == label], nodes[train.labels != label]) for label in range(train.classes)]
        numbers["sign"] = np.array([1.0 if inside.mean() >= outside.mean() else -1.0 for inside, outside in own])
        numbers["centre"] = np.full(train.classes, nodes.mean())
        numbers["spread"] = np.full(train.classes, nodes.std() or 1.0)
    return Reference(
        how=how,
        numbers=numbers,
        name=train.name,
        classes=train.classes,
        node_sizes=train.node_sizes,
        edge_sizes=train.edge_sizes,
    )
