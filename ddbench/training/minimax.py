"""The two criteria by which Minimax tunes a diffusion model; pure functions of tensors.

Gu, Vahidian, Kungurtsev, Wang, Jiang, You, Chen (CVPR 2024): of what the model makes of the items of a class, the one
least like some remembered real item is to become more like it (representativeness), and the one most like something
that the model made before is to become less like it (diversity). Only the extreme pair of a class has a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def cosines(made: Tensor, others: Tensor) -> Tensor:
    """Cosine of each of ``(n, ...)`` to each of ``(m, ...)``, float ``(n, m)``; a vector of zeros has cosine 0."""
    return F.cosine_similarity(made.flatten(1)[:, None], others.flatten(1)[None], dim=-1)


def criteria(
    made: Tensor, labels: Tensor, real: Mapping[int, Tensor], past: Mapping[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """Representativeness and diversity of a batch, scalars to be made small.

    Args:
        made: what the model made of the items, ``(n, ...)``.
        labels: their classes, int64 ``(n,)``.
        real, past: by class what is remembered of real items and of what was made before, ``(m, ...)``; a class that is
            not there has nothing yet and adds 0.

    Returns:
        Means over the classes of the batch of ``1 - min cos(made, real)``, 0 to 2, and of ``max cos(made, past)``, -1
        to 1.
    """
    unlike, alike = made.new_zeros(()), made.new_zeros(())
    classes = labels.unique().tolist()
    for label in classes:
        own = made[labels == label]
        if label in real:
            unlike = unlike + 1 - cosines(own, real[label]).min()
        if label in past:
            alike = alike + cosines(own, past[label]).max()
    return unlike / len(classes), alike / len(classes)


def remembered(memory: dict[int, Tensor], items: Tensor, labels: Tensor, size: int) -> None:
    """Add items ``(n, ...)`` to the memories of their classes, in order; each keeps the newest ``size``."""
    for label in labels.unique().tolist():
        new = items[labels == label]
        memory[label] = (torch.cat([memory[label], new]) if label in memory else new)[-size:]
