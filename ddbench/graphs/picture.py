"""A picture of what is kept of graphs, as PNG: the most frequent sets of trees, the first graphs, or words."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from ddbench.graphs.drawing import COLOURS, RADIUS, STEP, TEXT, tree_places
from ddbench.graphs.graphset import GraphSet
from ddbench.graphs.mirage import TreePayload
from ddbench.graphs.store import Payload
from ddbench.graphs.trees import row_ranks

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

ROWS, WIDTH = 12, 900
"""Rows at most, and pixels of each; what does not fit is left out."""
CIRCLE = 32
"""Radius in pixels of the ring on which a graph's nodes stand, in their order."""

Cell = tuple[int, int, list[tuple[float, float]], list[tuple[int, int]], list[int]]
"""Width and height in pixels, places of nodes, lines between them, kinds of nodes."""


def picture(payload: Payload) -> bytes:
    """Rows of one class each: words, then trees or graphs; the same payload gives the same bytes."""
    if isinstance(payload, TreePayload):
        rows = _of_trees(payload)
    elif isinstance(payload, GraphSet):
        rows = _of_graphs(payload)
    else:
        rows = [(f"{payload.how}: no graph is kept", [])]
    return _drawn(rows[:ROWS])


def _of_trees(payload: TreePayload) -> list[tuple[str, list[Cell]]]:
    kinds, rows = row_ranks(payload.trees.labels), []
    for label in range(payload.classes):
        for item in np.flatnonzero(payload.labels == label)[: max(1, ROWS // payload.classes)].tolist():
            cells: list[Cell] = []
            for tree in payload.items[payload.item_ptr[item] : payload.item_ptr[item + 1]].tolist():
                begin, end = int(payload.trees.ptr[tree]), int(payload.trees.ptr[tree + 1])
                if end - begin > WIDTH:
                    continue
                parent = payload.trees.parent[begin:end].tolist()
                places, wide, high = tree_places(parent)
                lines = [(parent[node], node) for node in range(1, len(parent))]
                cells.append((wide, high, places, lines, kinds[begin:end].tolist()))
            rows.append((f"class {label}: in {payload.support[item]} graphs", cells))
    return rows


def _of_graphs(graphs: GraphSet) -> list[tuple[str, list[Cell]]]:
    kinds, rows, side = row_ranks(graphs.node_labels), [], 2 * (CIRCLE + RADIUS)
    for label in range(graphs.classes):
        cells: list[Cell] = []
        for graph in np.flatnonzero(graphs.labels == label)[: WIDTH // side].tolist():
            begin, end = int(graphs.node_ptr[graph]), int(graphs.node_ptr[graph + 1])
            turn = 2 * np.pi * np.arange(end - begin) / (end - begin)
            middle = CIRCLE + RADIUS
            places = np.column_stack([middle + CIRCLE * np.sin(turn), middle - CIRCLE * np.cos(turn)]).tolist()
            lines = graphs.edges[graphs.edge_ptr[graph] : graphs.edge_ptr[graph + 1]].tolist()
            cells.append(
                (side, side, [(x, y) for x, y in places], [(a, b) for a, b in lines], kinds[begin:end].tolist())
            )
        rows.append((f"class {label}", cells))
    return rows


def _drawn(rows: list[tuple[str, list[Cell]]]) -> bytes:
    from PIL import Image, ImageDraw

    heights = [TEXT + max((cell[1] for cell in cells), default=0) + STEP for _, cells in rows]
    canvas = Image.new("RGB", (WIDTH, sum(heights)), "white")
    draw, top = ImageDraw.Draw(canvas), 0
    for (words, cells), height in zip(rows, heights, strict=True):
        draw.text((2, top + 2), words, fill="black")
        left = 2
        for number, cell in enumerate(cells):
            if left + cell[0] > WIDTH:
                draw.text((left, top + TEXT), f"and {len(cells) - number} more", fill="black")
                break
            _cell(draw, cell, left, top + TEXT)
            left += cell[0] + STEP
        top += height
    stream = io.BytesIO()
    canvas.quantize(32).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _cell(draw: ImageDraw, cell: Cell, left: int, top: int) -> None:
    _, _, places, lines, kinds = cell
    moved = [(left + x, top + y) for x, y in places]
    for one, other in lines:
        draw.line([moved[one], moved[other]], fill="#888888")
    for (x, y), kind in zip(moved, kinds, strict=True):
        draw.ellipse([x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS], fill=COLOURS[kind % len(COLOURS)])
