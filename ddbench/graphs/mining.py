"""Frequent itemsets, exactly: Eclat (Zaki, IEEE TKDE 2000) on sets of transactions kept as bits. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ddbench.runtime.errors import UserError

Itemset = tuple[tuple[int, ...], int]
"""Items, ascending, and the number of transactions that hold all of them."""


def frequent_itemsets(transactions: Sequence[Iterable[int]], support: int, cap: int, what: str = "") -> list[Itemset]:
    """All non-empty sets of items that at least ``support`` transactions hold, most frequent first, then by items.

    Args:
        transactions: items of each; an item given twice counts once.
        support: at least 1.
        cap: so many sets at most: their number can double with every item that is frequent together with others.
        what: what is mined, for messages.

    Raises:
        UserError: support below 1, or more sets than ``cap``; nothing more is then looked for.
    """
    if support < 1:
        raise UserError(f"{what}: support {support}, expected at least 1 transaction")
    holds: dict[int, int] = {}
    for number, items in enumerate(transactions):
        for item in {int(item) for item in items}:
            holds[item] = holds.get(item, 0) | 1 << number
    level: list[Itemset] = [((item,), bits) for item, bits in sorted(holds.items()) if bits.bit_count() >= support]
    found = list(level)
    waiting = [level]
    while waiting:
        # Sets of one level share all items but the last, so that two of them together have one item more.
        level = waiting.pop()
        if len(found) > cap:
            raise UserError(
                f"{what}: more than {cap:,} itemsets are in at least {support} of {len(transactions)} graphs; "
                "take a higher support, or allow more by max_itemsets"
            )
        for at, (items, bits) in enumerate(level):
            longer = [
                ((*items, other[-1]), both)
                for other, others in level[at + 1 :]
                if (both := bits & others).bit_count() >= support
            ]
            if longer:
                found += longer
                waiting.append(longer)
            if len(found) > cap:
                break
    sets = [(items, bits.bit_count()) for items, bits in found]
    return sorted(sets, key=lambda one: (-one[1], one[0]))
