"""Mirage (Gupta et al., ICLR 2024, arXiv:2310.09486): trees that often occur together in a graph, kept as the product.

A message-passing network of L layers sees a graph as the trees of depth L at its nodes. For each class, every training
graph becomes the set of its trees; the sets of trees that many graphs of the class hold are kept with that number,
their support. There are no gradients, and no student is needed: only the depth must be that of the students.

Deviations from the released code: trees are compared by Weisfeiler-Leman colours (exact); the miner is exact (the
library that the code uses loses sets); the degree that a node has in its graph is stored with it, which a network that
divides by degrees needs; bytes are those of the stored arrays. Imports no torch.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ddbench.config import check_config, setting
from ddbench.graphs.graphset import GraphSet, Ints, offsets, pack, packed_bytes
from ddbench.graphs.mining import Itemset, frequent_itemsets
from ddbench.graphs.trees import Colours, Trees, colours, transactions, unroll
from ddbench.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MirageConfig:
    """Settings of the distillation."""

    depth: int = setting(2, at_least=0, at_most=8)
    """levels of the trees below the root: the number of layers of the students"""
    support: tuple[float, ...] = setting((0.5,), above=0)
    """least number of graphs of a class that hold a set; below 1: that share of the class's graphs; one for all classes
    or one each"""
    exclusive: bool = False
    """leave out sets that are frequent in more than one class"""
    degree_labels: bool = False
    """trees that differ in the degrees of their nodes are different trees: GCN is then exact too, and trees are more"""
    max_itemsets: int = setting(20_000, at_least=1)
    """more sets than these in a class are refused"""
    max_bytes: int = setting(0, at_least=0)
    """above 0: the lowest share of graphs, in thousandths and the same for all classes, whose product has at most so
    many bytes, in place of support"""


@dataclass(frozen=True, eq=False)
class TreePayload:
    """What a student learns from in place of graphs: sets of trees with a class and a support each.

    Attributes:
        trees: the different trees.
        item_ptr, items: the trees of set i are ``items[item_ptr[i] : item_ptr[i + 1]]``.
        support: ``(I,)``, how many training graphs of its class hold the set.
        labels: ``(I,)``, the class.
        classes, node_sizes, edge_sizes: as of the graphs.
        depth: levels of the trees below the root.
        degree_labels: whether the degrees of the last level are exact.
        thresholds: the least support in each class.
        name: of the graphs.
    """

    trees: Trees
    item_ptr: Ints
    items: Ints
    support: Ints
    labels: Ints
    classes: int
    node_sizes: tuple[int, ...]
    edge_sizes: tuple[int, ...]
    depth: int
    degree_labels: bool
    thresholds: tuple[int, ...]
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def packed(self) -> dict[str, npt.NDArray[Any]]:
        """The stored arrays, each in the smallest integers that hold it."""
        return pack(
            {
                "tree_sizes": np.diff(self.trees.ptr),
                "tree_labels": self.trees.labels,
                "tree_parents": self.trees.parent,
                "tree_edge_labels": self.trees.edge_labels,
                "tree_degrees": self.trees.degree,
                "item_sizes": np.diff(self.item_ptr),
                "items": self.items,
                "support": self.support,
                "labels": self.labels,
            }
        )

    @property
    def bytes(self) -> int:
        """Bytes of :meth:`packed`."""
        return packed_bytes(self.packed())

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the stored arrays, their names, types and shapes."""
        digest = hashlib.sha256()
        for name, values in self.packed().items():
            digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()


def distil(graphs: GraphSet, config: MirageConfig) -> TreePayload:
    """The frequent sets of trees of training graphs. The same bytes however nodes and graphs are numbered.

    Args:
        graphs: training graphs only; every class has one.

    Raises:
        UserError: settings out of range, as many supports as there are no classes, a class without a graph or without
            a frequent set, more sets than ``max_itemsets``, trees too large.
    """
    check_config(config)
    counts = np.bincount(graphs.labels, minlength=graphs.classes)
    if (counts == 0).any():
        raise UserError(f"{graphs.name}: class {int((counts == 0).argmax())} has no training graph")
    found = colours(graphs, config.depth, config.degree_labels)
    baskets = transactions(found)
    by_class = [[baskets[graph] for graph in np.flatnonzero(graphs.labels == label)] for label in range(graphs.classes)]
    sizes = [len(own) for own in by_class]
    if not config.max_bytes:
        return _payload(found, by_class, config, thresholds(config, sizes))

    def fits(share: int) -> bool:
        try:
            return _payload(found, by_class, config, _shares(share, sizes)).bytes <= config.max_bytes
        except _EmptyError:
            return True  # nothing is small enough, too
        except UserError:
            return False  # more sets than are allowed

    lowest = bisect.bisect_left(range(1, 1001), True, key=fits) + 1
    with contextlib.suppress(_EmptyError):
        if lowest <= 1000:
            return _payload(found, by_class, config, _shares(lowest, sizes))
    raise UserError(
        f"{graphs.name}: no support gives every class a set within {config.max_bytes} bytes; allow more by max_bytes"
    )


def thresholds(config: MirageConfig, counts: list[int]) -> tuple[int, ...]:
    """The least support in each class, a number of graphs.

    Args:
        counts: graphs of each class.

    Raises:
        UserError: neither one support nor one for each class; one that is no whole number from 1 on.
    """
    given = config.support if len(config.support) > 1 else config.support * len(counts)
    if len(given) != len(counts):
        raise UserError(f"support: {len(given)} values for {len(counts)} classes; give one, or one for each class")
    for value in given:
        if value >= 1 and value != int(value):
            raise UserError(f"support {value}: expected a whole number of graphs, or a share below 1")
    # rounded first: 0.07 of 100 graphs is 7, whatever binary fractions make of it
    return tuple(
        int(value) if value >= 1 else max(1, math.ceil(round(value * count, 6)))
        for value, count in zip(given, counts, strict=True)
    )


def _shares(thousandths: int, sizes: list[int]) -> tuple[int, ...]:
    return tuple(-(-thousandths * size // 1000) for size in sizes)


class _EmptyError(UserError):
    """A class has no frequent set."""


def _payload(found: Colours, by_class: list[list[Ints]], config: MirageConfig, least: tuple[int, ...]) -> TreePayload:
    graphs = found.graphs
    names = [f"{graphs.name}, class {label}" for label in range(graphs.classes)]
    mined = [
        frequent_itemsets([basket.tolist() for basket in baskets], support, config.max_itemsets, name)
        for baskets, support, name in zip(by_class, least, names, strict=True)
    ]
    if config.exclusive:
        mined = _exclusive(mined)
    for label, sets in enumerate(mined):
        if not sets:
            alone = " of this class alone" if config.exclusive else ""
            raise _EmptyError(
                f"{names[label]}: no set of trees{alone} is in at least {least[label]} of "
                f"{len(by_class[label])} graphs; take a lower support"
            )
    kept, items = np.unique(np.concatenate([sets for own in mined for sets, _ in own]), return_inverse=True)
    return TreePayload(
        trees=unroll(found, kept),
        item_ptr=offsets([len(sets) for own in mined for sets, _ in own]),
        items=items.reshape(-1).astype(np.int64),
        support=np.array([count for own in mined for _, count in own], dtype=np.int64),
        labels=np.repeat(np.arange(graphs.classes), [len(own) for own in mined]),
        classes=graphs.classes,
        node_sizes=graphs.node_sizes,
        edge_sizes=graphs.edge_sizes,
        depth=config.depth,
        degree_labels=config.degree_labels,
        thresholds=least,
        name=graphs.name,
    )


def _exclusive(mined: list[list[Itemset]]) -> list[list[Itemset]]:
    """Only the sets that are frequent in one class."""
    times: dict[tuple[int, ...], int] = {}
    for own in mined:
        for items, _ in own:
            times[items] = times.get(items, 0) + 1
    return [[one for one in own if times[one[0]] == 1] for own in mined]
