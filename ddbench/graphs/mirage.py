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

SHARES = range(1, 1001)
"""Shares of a class's graphs that a limit of bytes chooses from, in thousandths."""


@dataclass(frozen=True, kw_only=True)
class MirageConfig:
    """Settings of the distillation."""

    depth: int = setting(2, at_least=0, at_most=8)
    """levels of the trees below the root: the number of layers of the students"""
    support: tuple[float, ...] = setting((0.5,), above=0)
    """least number of graphs of a class that hold a set; below 1: that share of the class's graphs; one for all classes
    or one each"""
    exclusive: bool = False
    """leave out sets that are frequent in more than one class; with max_bytes up to 1,000 shares are then looked at one
    by one, not the ten or so of a bisection: such a limit takes longer"""
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
        least = thresholds(config, sizes)
        return _payload(found, _mined(found, by_class, config, least), config, least, sizes)
    best = (_alone_within if config.exclusive else _within)(found, by_class, config, sizes)
    if best is None:
        what, rest = ("a set of its own", ", or leave exclusive out") if config.exclusive else ("a set", "")
        raise UserError(
            f"{graphs.name}: no support gives every class {what} within {config.max_bytes} bytes; allow more by "
            f"max_bytes{rest}"
        )
    return best


def _within(found: Colours, by_class: list[list[Ints]], config: MirageConfig, sizes: list[int]) -> TreePayload | None:
    """The product at the lowest share that fits: with a higher one there are fewer sets and bytes."""

    def made(share: int) -> TreePayload:
        least = _shares(share, sizes)
        return _payload(found, _mined(found, by_class, config, least), config, least, sizes)

    def fits(share: int) -> bool:
        try:
            return made(share).bytes <= config.max_bytes
        except _EmptyError:
            return True  # nothing is small enough, too
        except UserError:
            return False  # more sets than are allowed

    lowest = bisect.bisect_left(SHARES, True, key=fits)
    with contextlib.suppress(_EmptyError):
        if lowest < len(SHARES):
            return made(SHARES[lowest])
    return None


def _alone_within(
    found: Colours, by_class: list[list[Ints]], config: MirageConfig, sizes: list[int]
) -> TreePayload | None:
    """As :func:`_within` of exclusive sets. A set that is frequent in several classes at a low share can be in one
    alone at a higher one, so that nothing falls with the share: all are looked at, from the lowest."""

    def mined(share: int) -> list[list[Itemset]] | None:
        try:
            return _mined(found, by_class, config, _shares(share, sizes))
        except UserError:
            return None  # more sets than are allowed

    lowest = bisect.bisect_left(SHARES, True, key=lambda share: mined(share) is not None)
    every = mined(SHARES[lowest]) if lowest < len(SHARES) else None
    if every is None:
        return None
    for least in dict.fromkeys(_shares(share, sizes) for share in SHARES[lowest:]):
        left = [[one for one in own if one[1] >= support] for own, support in zip(every, least, strict=True)]
        if sum(len(sets) + 3 for own in _exclusive(left) for sets, _ in own) > config.max_bytes:
            continue  # no number takes less than a byte
        with contextlib.suppress(UserError):  # a class without any, or trees too large
            made = _payload(found, left, config, least, sizes)
            if made.bytes <= config.max_bytes:
                return made
    return None


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


def _mined(
    found: Colours, by_class: list[list[Ints]], config: MirageConfig, least: tuple[int, ...]
) -> list[list[Itemset]]:
    """The frequent sets of each class, those of several classes too."""
    return [
        frequent_itemsets(
            [basket.tolist() for basket in baskets], support, config.max_itemsets, f"{found.graphs.name}, class {label}"
        )
        for label, (baskets, support) in enumerate(zip(by_class, least, strict=True))
    ]


def _payload(
    found: Colours, mined: list[list[Itemset]], config: MirageConfig, least: tuple[int, ...], sizes: list[int]
) -> TreePayload:
    """The product of frequent sets, of classes of so many graphs."""
    graphs = found.graphs
    if config.exclusive:
        mined = _exclusive(mined)
    for label, sets in enumerate(mined):
        if not sets:
            alone = " of this class alone" if config.exclusive else ""
            raise _EmptyError(
                f"{graphs.name}, class {label}: no set of trees{alone} is in at least {least[label]} of "
                f"{sizes[label]} graphs; take a lower support"
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
