"""Pictures of a synset: a grid with one row a class."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import torch
from torch import Tensor

from ddbench.data.preprocess import Preprocess
from ddbench.synset import Synset, pixels

MAX_COLUMNS = 10
MAX_ROWS = 20
CELL = 48
"""Small images are enlarged by whole factors to about this many pixels."""


def grid(images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Lay out uint8 images ``(N, C, H, W)`` as ``(3, rows, columns)``: a row a class, 2 px apart on white.

    Shows the first :data:`MAX_COLUMNS` images of the first :data:`MAX_ROWS` classes.
    """
    rows = [images[labels == label][:MAX_COLUMNS] for label in range(min(classes, MAX_ROWS))]
    if max(map(len, rows)) == 1:  # one image a class: five a row reads better than a column
        flat = torch.cat(rows)
        rows = list(flat.split(max(1, math.ceil(math.sqrt(len(flat) * 2)))))
    _, channels, height, width = images.shape
    factor = max(1, round(CELL / max(height, width)))
    height, width = height * factor, width * factor
    columns = max(1, *map(len, rows))  # soft labels may have their largest entries at other classes
    canvas = torch.full((channels, len(rows) * (height + 2) - 2, columns * (width + 2) - 2), 255, dtype=torch.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            large = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
            canvas[:, r * (height + 2) :, c * (width + 2) :][:, :height, :width] = large
    return canvas.expand(3, -1, -1) if channels == 1 else canvas[:3]


def png(canvas: Tensor) -> bytes:
    """Encode ``(1, H, W)`` or ``(3, H, W)`` uint8 as PNG."""
    from PIL import Image

    stream = io.BytesIO()
    array = canvas[0] if len(canvas) == 1 else canvas.permute(1, 2, 0)
    Image.fromarray(array.contiguous().numpy()).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def preview_png(synset: Synset, preprocess: Preprocess) -> bytes:
    """The preview grid of a synset as PNG bytes."""
    labels = synset.hard_labels()
    if synset.budget.unit == "all" and not synset.parameters:  # only what is shown is taken through the preprocess
        shown = torch.cat([(labels == k).nonzero()[:MAX_COLUMNS, 0] for k in range(min(synset.classes, MAX_ROWS))])
        synset, labels = replace(synset, images=synset.images[shown]), labels[shown]
    return png(grid(pixels(synset, preprocess), labels, synset.classes))
