"""Gradient attacks in pixel space: FGSM, PGD (Linf and L2, cross-entropy or margin loss), MIM.

A model takes pixels in [0, 1] and holds its own preprocess, so that ``eps`` is in pixels whatever the normalisation.
Every image is attacked by itself: the loss is a sum, norms are per image, the random start of an image is drawn for its
position in the test set. What an image suffers does not depend on which others share its batch.

Sources: FGSM, Goodfellow et al., ICLR 2015; PGD, Madry et al., ICLR 2018; MIM, Dong et al., CVPR 2018 (equation 6);
margin loss, Carlini and Wagner, S&P 2017 (f6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.runtime import seeds

Model = Callable[[Tensor], Tensor]
"""Pixels float32 in [0, 1] ``(n, C, H, W)`` -> logits ``(n, K)``."""

TOLERANCE = 1e-6
"""By how much rounding may exceed the bound on a perturbation."""

_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """Projected gradient ascent on the loss of the true class.

    Attributes:
        eps: bound on the perturbation, in pixels of [0, 1].
        steps, step: how many, and how far each goes (Linf: every pixel; L2: the norm).
        norm: ``linf`` or ``l2``.
        loss: ``cross-entropy``, or ``margin`` (largest wrong logit less the true one).
        momentum: decay of MIM's mean gradient; None: the plain gradient.
        random_start: begin at a point drawn from the ball, not at the image.
    """

    eps: float
    steps: int
    step: float
    norm: str = "linf"
    loss: str = "cross-entropy"
    momentum: float | None = None
    random_start: bool = False

    @staticmethod
    def fgsm(eps: float) -> Ascent:
        """One step of the sign of the gradient, as far as the bound."""
        return Ascent(eps=eps, steps=1, step=eps)


def ascend(
    model: Model, x: Tensor, y: Tensor, how: Ascent, start: Tensor | None = None, *, stop: bool = True
) -> Tensor:
    """Adversarial images ``(n, C, H, W)`` of images ``x`` with classes ``y``.

    Args:
        start: perturbations to begin with, within the bound.
        stop: an image that is misclassified on the way is left as it is then; else all steps are made.
    """
    adv = project(x, start, how) if start is not None else x.clone()
    alive = torch.arange(len(x), device=x.device)
    mean = torch.zeros_like(x)
    for _ in range(how.steps):
        if not len(alive):
            break
        point = adv[alive].requires_grad_()
        with torch.enable_grad():
            logits = model(point)
            (gradient,) = torch.autograd.grad(_loss(logits, y[alive], how.loss).sum(), point)
        if stop:
            right = logits.detach().argmax(1) == y[alive]
            alive, gradient = alive[right], gradient[right]
        if how.momentum is not None:
            size = gradient.abs().flatten(1).mean(1).clamp_min(_TINY)
            gradient = how.momentum * mean[alive] + gradient / size.view(-1, 1, 1, 1)
            mean[alive] = gradient
        adv[alive] = project(x[alive], adv[alive] - x[alive] + how.step * _direction(gradient, how.norm), how)
    return adv


def _loss(logits: Tensor, y: Tensor, name: str) -> Tensor:
    if name == "cross-entropy":
        return F.cross_entropy(logits, y, reduction="none")
    if name != "margin":
        raise ValueError(f"loss {name!r} is neither 'cross-entropy' nor 'margin'")
    return margin(logits, y)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest logit of a wrong class less that of the true one ``(n,)``: positive where the image is misclassified."""
    own = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1) - logits[own]


def _direction(gradient: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return gradient.sign()
    return gradient / lengths(gradient).clamp_min(_TINY).view(-1, 1, 1, 1)


def lengths(delta: Tensor, norm: str = "l2") -> Tensor:
    """Norm of each perturbation ``(n,)``."""
    flat = delta.flatten(1)
    return flat.norm(dim=1) if norm == "l2" else flat.abs().amax(1)


def project(x: Tensor, delta: Tensor, how: Ascent) -> Tensor:
    """The images ``x + delta`` with ``delta`` cut to the bound and the pixels to [0, 1]."""
    if how.norm == "linf":
        delta = delta.clamp(-how.eps, how.eps)
    else:
        delta = delta * (how.eps / lengths(delta).clamp_min(_TINY)).clamp_max(1).view(-1, 1, 1, 1)
    return (x + delta).clamp(0, 1)  # towards x, which is inside: the perturbation gets no longer


def random_start(index: Tensor, shape: tuple[int, ...], how: Ascent, seed: int, name: str) -> Tensor:
    """A perturbation ``(n, C, H, W)`` for each image, uniform in the Linf ball; in L2 a uniform direction and length.

    Args:
        index: positions of the images in the test set, which name the draws.
        shape: ``(C, H, W)``.
        name: of the attack.
    """
    made = torch.empty(len(index), *shape)
    for row, position in zip(made, index.tolist(), strict=True):
        randomness = seeds.generator(seed, "attack", name, position)
        if how.norm == "linf":
            row.uniform_(-how.eps, how.eps, generator=randomness)
        else:
            row.normal_(generator=randomness)
            row *= how.eps * torch.rand((), generator=randomness) / row.norm()
    return made


def check_pixels(name: str, x: Tensor) -> None:
    """Refuse images that are no pixels in [0, 1]: an attack on normalised images means nothing.

    Raises:
        ValueError: NaN or out of range.
    """
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(f"{name}: images from {float(x.min()):g} to {float(x.max()):g}, expected pixels in [0, 1]")


def check_perturbation(name: str, x: Tensor, adv: Tensor, norm: str, eps: float) -> None:
    """Refuse what an attack may not do.

    Raises:
        ValueError: a perturbation longer than ``eps`` or a pixel out of [0, 1], by more than :data:`TOLERANCE`.
    """
    check_pixels(name, adv)
    longest = float(lengths(adv - x, norm).max()) if len(x) else 0.0
    if not longest <= eps + TOLERANCE:
        raise ValueError(f"{name}: it changed an image by {longest:.8f} ({norm}), allowed is {eps:.8f}")
