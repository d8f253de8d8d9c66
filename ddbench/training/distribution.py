"""Distribution matching: class statistics of synthetic images against those of real ones, as pure functions.

A *statistic* is a row of numbers that a network gives for an image; what is matched is its mean over the images of a
class: flattened features in DM (Zhao and Bilen, WACV 2023, section 3), and normalised spatial attention maps as well in
DataDAM (Sajedi et al., ICCV 2023, section 3). Classes are separate, and so are images in a network without batch norm;
there both sides go through it in pieces, with the same result in bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench.data.augment import Draw, apply

Measure = Callable[[Tensor], Sequence[Tensor]]
"""Statistics of images ``(n, C, H, W)``: each ``(n, D)``, D may differ."""

Objective = Callable[[Sequence[Tensor], Sequence[Tensor]], dict[str, Tensor]]
"""Terms of the loss by name, scalars, of synthetic and real class means ``(K, D)``; each a sum over classes."""


# Objectives


def class_means(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Mean row of each class, ``(K, D)``.

    Args:
        rows: ``(N, D)``, class after class.
        counts: images of each class, at least 1; their sum is N.
    """
    if len(set(counts)) == 1:
        return rows.view(len(counts), counts[0], -1).mean(1)
    return torch.stack([part.mean(0) for part in rows.split(list(counts))])


def mean_match(synthetic: Tensor, real: Tensor) -> Tensor:
    """``sum_c |real_c - synthetic_c|^2`` of class means ``(K, D)``, scalar: DM's loss, and DataDAM's L_MMD."""
    return (real - synthetic).square().sum()


def attention_map(activation: Tensor, power: int) -> Tensor:
    """Spatial attention ``a / |a|_2`` with ``a = sum over channels of |activation|^power`` (DataDAM, section 3).

    Args:
        activation: ``(N, C, H, W)``.

    Returns:
        ``(N, H * W)``, normalised image by image; 0 where an image activates nothing.
    """
    if power == 1:
        raised = activation.abs()
    elif power == 4:
        raised = activation.square().square()  # a third of the time of pow
    else:
        raised = activation.abs().pow(power)
    return F.normalize(raised.sum(1).flatten(1), eps=1e-12)


def attention_match(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """:func:`mean_match` summed over layers: DataDAM's L_SAM; class means ``(K, H * W)`` of attention maps.

    Raises:
        ValueError: no layers, or not as many on both sides.
    """
    if not synthetic:
        raise ValueError("no attention maps")
    return torch.stack([mean_match(ours, theirs) for ours, theirs in zip(synthetic, real, strict=True)]).sum()


# Gradients


@dataclass(frozen=True)
class Matched:
    """What :func:`match` gives.

    Attributes:
        terms: detached scalars by name; their sum is the loss.
        gradient: of the loss in the synthetic images, ``(N, C, H, W)``.
    """

    terms: dict[str, Tensor]
    gradient: Tensor


def mixes_images(net: nn.Module) -> bool:
    """Whether, in training mode, what a network says of an image depends on the others in its batch (batch norm)."""
    return any(isinstance(part, _BatchNorm) for part in net.modules())


@torch.no_grad()
def real_means(measure: Measure, batches: Iterable[Tensor], limit: int | None) -> list[Tensor]:
    """Class means of the statistics of real images, each ``(K, D)``; no gradient.

    Args:
        batches: the images of each class in turn, ``(n_c, C, H, W)``; an iterator makes them when they are needed.
        limit: images in one forward pass at most; None: all of them in one.
    """
    found = [_group_means(measure, group, limit) for group in _grouped(batches, limit)]
    return [torch.cat(groups) for groups in zip(*found, strict=True)]


def match(
    measure: Measure,
    objective: Objective,
    images: Tensor,
    real: Sequence[Tensor],
    draws: Sequence[Draw] | None,
    limit: int | None,
    mask: Tensor | None = None,
) -> Matched:
    """Loss and its gradient in the synthetic images.

    Args:
        images: ``(K * ipc, C, H, W)``, class-major.
        real: class means of the real images, from :func:`real_means`.
        draws: the siamese augmentation of each class, which its real images had too; None: none.
        limit: classes go through the network together as long as they have no more images than this; None: all.
        mask: factor of the augmented images, ``(K * ipc, 1, H, W)``; None: 1.
    """
    classes = len(real[0])
    terms: dict[str, Tensor] = {}
    gradients: list[Tensor] = []
    first = 0
    for group in _grouped(images.detach().split(len(images) // classes), limit):
        last = first + len(group)
        leaf = torch.cat(group).requires_grad_()
        parts = leaf.split(len(group[0]))
        if draws is not None:
            parts = tuple(apply(draw, part) for draw, part in zip(draws[first:last], parts, strict=True))
        if mask is not None:
            shown = mask.split(len(group[0]))[first:last]
            parts = tuple(part * own for part, own in zip(parts, shown, strict=True))
        counts = [len(part) for part in parts]
        synthetic = [class_means(rows, counts) for rows in measure(torch.cat(parts))]
        own = objective(synthetic, [means[first:last] for means in real])
        gradients += torch.autograd.grad(torch.stack(list(own.values())).sum(), leaf)
        for name, value in own.items():
            terms[name] = terms[name] + value.detach() if name in terms else value.detach()
        first = last
    return Matched(terms, torch.cat(gradients))


def _grouped(batches: Iterable[Tensor], limit: int | None) -> Iterator[list[Tensor]]:
    """Runs of successive batches with at most ``limit`` images together; a larger batch is alone."""
    group: list[Tensor] = []
    size = 0
    for batch in batches:
        if group and limit is not None and size + len(batch) > limit:
            yield group
            group, size = [], 0
        group.append(batch)
        size += len(batch)
    if group:
        yield group


def _group_means(measure: Measure, group: list[Tensor], limit: int | None) -> list[Tensor]:
    x, counts = torch.cat(group), [len(batch) for batch in group]
    if limit is None or len(x) <= limit:
        return [class_means(rows, counts) for rows in measure(x)]
    # one class with more images than fit into a pass
    pieces = [[rows.sum(0, keepdim=True) for rows in measure(piece)] for piece in x.split(limit)]
    return [torch.stack(sums).sum(0) / len(x) for sums in zip(*pieces, strict=True)]
