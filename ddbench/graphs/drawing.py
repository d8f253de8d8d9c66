"""A picture of a distilled set: the most frequent sets of trees of each class, as SVG. Imports no torch."""

from __future__ import annotations

import numpy as np

from ddbench.graphs.graphset import Ints
from ddbench.graphs.mirage import TreePayload
from ddbench.graphs.trees import row_ranks

STEP = 14
"""Pixels from one leaf to the next, and a third of those from level to level."""
RADIUS = 5
TEXT = 16
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222222")
"""Of the different node labels in the set, in their order; more labels take them again (the number is a tooltip)."""
DASHES = ("", "4 2", "1 2", "6 2 1 2")
"""Of lines, by the labels of edges in their order, in the same way."""

MAX_WIDTH = 1600
"""Pixels of a row: trees that do not fit are left out, and said to be."""


def draw_trees(payload: TreePayload, per_class: int = 3) -> str:
    """The sets with the highest support of each class, a row each: class, support, and the trees of the set.

    Args:
        per_class: rows of a class, at most.

    Returns:
        The text of an SVG file; the same set gives the same text.
    """
    kinds = row_ranks(payload.trees.labels), row_ranks(payload.trees.edge_labels)
    rows, top, width = [], 0, 0
    for label in range(payload.classes):
        # supports fall within a class
        for item in np.flatnonzero(payload.labels == label)[:per_class].tolist():
            words = f"class {label}: {payload.support[item]} graphs"
            parts, left, height = [_text(0, top + TEXT - 4, words)], 0, 0
            members = payload.items[payload.item_ptr[item] : payload.item_ptr[item + 1]].tolist()
            for number, tree in enumerate(members):
                drawn, wide, high = _tree(payload, tree, kinds, left, top + TEXT)
                if left + wide > MAX_WIDTH:
                    parts.append(_text(left, top + TEXT + STEP, f"and {len(members) - number} more"))
                    left, height = left + 120, max(height, 2 * STEP)
                    break
                parts.append(drawn)
                left, height = left + wide + STEP, max(height, high)
            rows += parts
            top, width = top + TEXT + height + STEP, max(width, left, 8 * len(words))
    body = "\n".join(rows)
    size = f'width="{width}" height="{top}" viewBox="0 0 {width} {top}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">\n{body}\n</svg>\n'


def _tree(payload: TreePayload, tree: int, kinds: tuple[Ints, Ints], left: int, top: int) -> tuple[str, int, int]:
    """One tree, root above, at a place: (elements, width, height). A parent stands over the middle of its children."""
    begin, end = int(payload.trees.ptr[tree]), int(payload.trees.ptr[tree + 1])
    parent = payload.trees.parent[begin:end].tolist()
    size = end - begin
    within, wide, high = tree_places(parent)
    places = [(left + across, top + down) for across, down in within]
    lines = []
    for node in range(1, size):
        (x1, y1), (x2, y2) = places[parent[node]], places[node]
        dash = DASHES[int(kinds[1][begin + node]) % len(DASHES)]
        style = f'stroke="#888" stroke-dasharray="{dash}"' if dash else 'stroke="#888"'
        lines.append(f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" {style}/>')
    dots = []
    for node, (across, down) in enumerate(places):
        kind = int(kinds[0][begin + node])
        fill = COLOURS[kind % len(COLOURS)]
        dots.append(f'<circle cx="{across:g}" cy="{down:g}" r="{RADIUS}" fill="{fill}"><title>{kind}</title></circle>')
    return "\n".join([*lines, *dots]), wide, high


def tree_places(parent: list[int]) -> tuple[list[tuple[float, float]], int, int]:
    """Where the nodes of a tree stand, root above, in pixels from the corner; width and height of all.

    Args:
        parent: of each node; parents come first, the root's is itself.
    """
    size = len(parent)
    level = [0] * size
    children: list[list[int]] = [[] for _ in range(size)]
    for node in range(1, size):
        level[node] = level[parent[node]] + 1
        children[parent[node]].append(node)
    x, leaves, waiting = [0.0] * size, 0, [(0, False)]
    while waiting:
        node, ready = waiting.pop()
        if not children[node]:
            x[node], leaves = float(leaves), leaves + 1
        elif ready:
            x[node] = (x[children[node][0]] + x[children[node][-1]]) / 2
        else:
            waiting += [(node, True), *((child, False) for child in reversed(children[node]))]
    places = [(RADIUS + STEP * x[node], float(RADIUS + 2 * STEP * level[node])) for node in range(size)]
    return places, STEP * leaves, 2 * STEP * max(level) + 2 * RADIUS


def _text(x: int, y: int, words: str) -> str:
    return f'<text x="{x}" y="{y}">{words}</text>'
