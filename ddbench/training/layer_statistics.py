"""Statistics of what batch norms and convolutions of a frozen network are given, as G-VBSM and EDC match them.

Of every batch norm: variance and mean of each channel. Of every convolution these, and variance and mean of each
*patch*: the input is resized so that its sides are multiples of 4 and cut into patches of 4 x 4 pixels; a patch
position has one variance and one mean over batch, channels and pixels (Shao et al., "Generalized Large-Scale Data
Condensation via Various Backbone and Statistical Matching", CVPR 2024; "Elucidating the Design Space of Dataset
Condensation", NeurIPS 2024; as their public code has it). All variances are biased. Pure functions of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench.training.statistics_matching import batch_norms, input_statistics, look_at

Moments = tuple[Tensor, ...]
"""Variance and mean ``(C,)`` of the channels; of a convolution also variance and mean ``(P,)`` of the patches.

With a leading axis ``(N, ...)`` or ``(K, ...)``: of every image, of every class.
"""

SIDE = 4
"""Side of a patch in pixels."""

DENSE_SIDE, DENSE_TEMPERATURE = 32, 4.0
"""Largest side that :func:`densification` looks at, and the temperature of its target."""


def matched_layers(net: nn.Module, *, convolutions: bool) -> list[nn.Module]:
    """The layers whose inputs are matched, in the order of registration: batch norms that keep running statistics.

    Args:
        convolutions: two-dimensional convolutions too.
    """
    norms = set(batch_norms(net))
    return [one for one in net.modules() if one in norms or (convolutions and isinstance(one, nn.Conv2d))]


def patches(x: Tensor) -> Tensor:
    """The pixels of each patch of ``(N, C, H, W)``: ``(N, P, C * 16)``, patches in rows, differentiable.

    Sides that are no multiples of 4 are enlarged to the next one, bilinearly.
    """
    height, width = (-(-side // SIDE) * SIDE for side in x.shape[2:])
    if (height, width) != tuple(x.shape[2:]):
        x = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    return F.unfold(x, SIDE, stride=SIDE).transpose(1, 2)


def moments(layer: nn.Module, x: Tensor) -> Moments:
    """Statistics of a batch that a layer is given, ``(N, C, ...)``, differentiable."""
    channels = input_statistics(x)
    if isinstance(layer, _BatchNorm):
        return channels.variance, channels.mean
    return (channels.variance, channels.mean, *torch.var_mean(patches(x), [0, 2], correction=0))


def image_moments(layer: nn.Module, x: Tensor) -> Moments:
    """The same of every image by itself: tensors with a leading axis N."""
    channels = torch.var_mean(x.reshape(*x.shape[:2], -1), 2, correction=0)
    if isinstance(layer, _BatchNorm):
        return channels
    return (*channels, *torch.var_mean(patches(x), 2, correction=0))


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What is matched, one entry a layer.

    Attributes:
        whole: of all classes together.
        classes: of every class, the mean over its images of their own statistics, with a leading axis K; empty: not
            asked for.
    """

    whole: list[Moments]
    classes: list[Moments]


def remembered(layers: Sequence[nn.Module]) -> list[Moments | None]:
    """The running statistics of batch norms, copies; None for a convolution, which keeps none."""
    found: list[Moments | None] = []
    for layer in layers:
        if isinstance(layer, _BatchNorm):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            found.append((layer.running_var.detach().clone(), layer.running_mean.detach().clone()))
        else:
            found.append(None)
    return found


@torch.no_grad()
def collect(
    net: nn.Module, layers: Sequence[nn.Module], data: Iterable[tuple[Tensor, Tensor]], classes: int
) -> Targets:
    """The statistics of real images that a network meets: its own memory for batch norms, one pass for the rest.

    A convolution's are those of the batches, averaged with their sizes. Sums are taken in float64.

    Args:
        net: in evaluation mode.
        data: batches of network input ``(n, C, H, W)`` and labels int64 ``(n,)``, together at least one image.
        classes: K; 0: classes are not told apart.
    """
    whole, sums = _Sums(), _Sums()
    counts = torch.zeros(classes, dtype=torch.float64)
    seen = 0
    for x, labels in data:
        look: Callable[[nn.Module, Tensor], tuple[Moments, Moments]]
        if classes:
            look = lambda layer, inputs: (moments(layer, inputs), image_moments(layer, inputs))  # noqa: E731
        else:
            look = lambda layer, inputs: (moments(layer, inputs), ())  # noqa: E731
        _, found = look_at(net, x, layers, look)
        whole.add([tuple(part.double() * len(x) for part in batch) for batch, _ in found])
        seen += len(x)
        if classes:
            counts += torch.bincount(labels.cpu(), minlength=classes)
            sums.add([tuple(_by_class(part.double(), labels, classes) for part in images) for _, images in found])
    dtype = next(net.parameters()).dtype
    means = [tuple((part / seen).to(dtype) for part in layer) for layer in whole.total]
    known = [own or mean for own, mean in zip(remembered(layers), means, strict=True)]
    share = 1 / counts.clamp(min=1)
    per_class = [tuple((part * share.to(part.device).unsqueeze(1)).to(dtype) for part in layer) for layer in sums.total]
    return Targets(whole=known, classes=per_class)


class _Sums:
    """A sum of lists of tensors, entry by entry."""

    def __init__(self) -> None:
        self.total: list[Moments] = []

    def add(self, found: list[Moments]) -> None:
        if not self.total:
            self.total = found
            return
        pairs = zip(self.total, found, strict=True)
        self.total = [tuple(a + b for a, b in zip(one, two, strict=True)) for one, two in pairs]


def _by_class(rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Sums of rows ``(n, D)`` with the same label, ``(K, D)``."""
    return torch.zeros(classes, rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(
        0, labels.to(rows.device), rows
    )


def of_labels(classes: Sequence[Moments], labels: Tensor) -> list[Moments]:
    """The mean over a batch's labels int64 ``(n,)`` of the statistics of their classes, one entry a layer."""
    return [tuple(part[labels.to(part.device)].mean(0) for part in layer) for layer in classes]


def running_form(
    average: Moments | None, seen: Moments, decay: float, *, legacy: bool = False
) -> tuple[Moments, Moments]:
    """A running average of statistics, and the form of them that has its value and the gradient of what is seen now.

    Args:
        average: ``m`` of the steps before, without gradient; None: this is the first one.
        seen: ``s``.
        decay: b; ``m <- b m + (1 - b) s``. With 0 the form is ``s``.
        legacy: the first average is ``(1 - b) s``, as if it had begun at 0 (the public code's slip); else ``s``.

    Returns:
        The new ``m``, and ``m + s - stop(s)``.
    """
    now = tuple(part.detach() for part in seen)
    if average is None:
        new = tuple((1 - decay) * part for part in now) if legacy else now
    else:
        new = tuple(decay * old + (1 - decay) * part for old, part in zip(average, now, strict=True))
    if decay == 0:
        return new, seen
    return new, tuple((old + part) - part.detach() for old, part in zip(new, seen, strict=True))


def distance(ours: Moments, theirs: Moments) -> Tensor:
    """The sum of the Euclidean distances (not squared) of each kind of statistics, a scalar."""
    first, *others = [torch.linalg.vector_norm(one - two) for one, two in zip(ours, theirs, strict=True)]
    total: Tensor = first
    for other in others:
        total = total + other
    return total


def weighted(distances: Sequence[Tensor], first_weight: float) -> Tensor:
    """``first_weight r_1 + r_2 + ...``, a scalar.

    Raises:
        ValueError: none at all.
    """
    if not distances:
        raise ValueError("the network has no layer whose statistics are matched")
    first, *others = distances
    total: Tensor = first_weight * first
    return total + torch.stack(others).sum() if others else total


def densification(x: Tensor, labels: Tensor, temperature: float = DENSE_TEMPERATURE) -> Tensor:
    """G-VBSM's term that spreads the images of a class over more directions, a scalar; 0 for one image a class.

    Of each class: D are its images, flattened; l the eigenvalues of ``D D^T``;
    ``KL(stop(softmax(l / temperature)) || softmax(l))``, summed over classes. Images of more than 32 px are averaged
    down to 32 first.

    Args:
        x: network input ``(n, C, H, W)``.
        labels: int64 ``(n,)``.
    """
    if x.shape[-1] > DENSE_SIDE:
        x = F.adaptive_avg_pool2d(x, DENSE_SIDE)
    rows, labels = x.flatten(1), labels.to(x.device)
    total = rows.sum() * 0
    for label in labels.unique().tolist():
        own = rows[labels == label]
        spectrum = torch.linalg.eigvalsh(own @ own.T)
        target = (spectrum / temperature).softmax(0).detach()
        total = total + F.kl_div(spectrum.log_softmax(0), target, reduction="sum")
    return total
