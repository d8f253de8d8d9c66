"""Gradient attacks in pixel space: FGSM, PGD (Linf and L2, cross-entropy or margin loss), MIM, VMI-FGSM, Jitter.

A model takes pixels in [0, 1] and holds its own preprocess, so that ``eps`` is in pixels whatever the normalisation.
Every image is attacked by itself: the loss is a sum, norms are per image, what is drawn for an image is drawn for its
position in the test set. What an image suffers does not depend on which others share its batch.

Sources: FGSM, Goodfellow et al., ICLR 2015; PGD, Madry et al., ICLR 2018; MIM, Dong et al., CVPR 2018 (equation 6);
margin loss, Carlini and Wagner, S&P 2017 (f6); VMI-FGSM, Wang and He, CVPR 2021 (algorithm 1); Jitter, Schwinn et al.,
2021 (arXiv 2105.10304).
"""

from __future__ import annotations

import functools
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

NEIGHBOURHOOD = 1.5
"""Half the side of the cube that VMI-FGSM draws neighbours from, in bounds: beta of its paper."""

SCALE, SPREAD = 10.0, 0.1
"""Jitter's scale of the logits, and the standard deviation of its noise on the probabilities."""

_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """Projected gradient ascent on the loss of the true class.

    Attributes:
        eps: bound on the perturbation, in pixels of [0, 1].
        steps, step: how many, and how far each goes (Linf: every pixel; L2: the norm).
        norm: ``linf`` or ``l2``.
        loss: ``cross-entropy``, ``margin`` (largest wrong logit less the true one) or ``jitter`` (:func:`jittered`).
        momentum: decay of MIM's mean gradient; None: the plain gradient.
        neighbours: VMI-FGSM: points about the image, as many a step, whose mean gradient corrects the next step's.
        random_start: begin at a point drawn from the ball, not at the image.
    """

    eps: float
    steps: int
    step: float
    norm: str = "linf"
    loss: str = "cross-entropy"
    momentum: float | None = None
    neighbours: int = 0
    random_start: bool = False

    @staticmethod
    def fgsm(eps: float) -> Ascent:
        """One step of the sign of the gradient, as far as the bound."""
        return Ascent(eps=eps, steps=1, step=eps)


class Draws:
    """Random numbers for images, each image's from a generator of its own.

    Args:
        index: positions of the images in the test set, which name the generators.
        name: of the attack.
    """

    def __init__(self, index: Tensor, seed: int, name: str) -> None:
        self._generators = [seeds.generator(seed, "attack", name, position, "steps") for position in index.tolist()]

    def uniform(self, rows: Tensor, shape: tuple[int, ...], bound: float) -> Tensor:
        """From -``bound`` to ``bound``: ``(len(rows), *shape)``."""
        made = torch.empty(len(rows), *shape)
        for one, row in zip(made, rows.tolist(), strict=True):
            one.uniform_(-bound, bound, generator=self._generators[row])
        return made.to(rows.device)

    def normal(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Standard normal: ``(len(rows), *shape)``."""
        made = torch.empty(len(rows), *shape)
        for one, row in zip(made, rows.tolist(), strict=True):
            one.normal_(generator=self._generators[row])
        return made.to(rows.device)


def ascend(
    model: Model,
    x: Tensor,
    y: Tensor,
    how: Ascent,
    start: Tensor | None = None,
    draws: Draws | None = None,
    *,
    stop: bool = True,
) -> Tensor:
    """Adversarial images ``(n, C, H, W)`` of images ``x`` with classes ``y``.

    Args:
        start: perturbations to begin with, within the bound.
        draws: of VMI-FGSM's neighbours and Jitter's noise.
        stop: an image that is misclassified on the way is left as it is then; else all steps are made.

    Raises:
        ValueError: an unknown loss; VMI-FGSM or Jitter without ``draws``, Jitter without ``stop``.
    """
    if how.loss == "jitter" and not stop:
        raise ValueError("Jitter goes on with a smaller perturbation once an image is broken; here it stops")
    if draws is None and how.neighbours:
        raise ValueError("VMI-FGSM draws neighbours; give it draws")
    adv = project(x, start, how) if start is not None else x.clone()
    alive = torch.arange(len(x), device=x.device)
    mean, variance = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(how.steps):
        if not len(alive):
            break
        logits, gradient = _gradient(model, adv[alive], y[alive], _loss(how.loss, draws, alive))
        if stop:
            right = logits.argmax(1) == y[alive]
            alive, gradient = alive[right], gradient[right]
        if draws is not None and how.neighbours:
            offsets = draws.uniform(alive, (how.neighbours, *x.shape[1:]), NEIGHBOURHOOD * how.eps)
            plain, gradient = gradient, gradient + variance[alive]
            variance[alive] = _about(model, adv[alive], y[alive], how, offsets) - plain
        if how.momentum is not None:
            size = gradient.abs().flatten(1).mean(1).clamp_min(_TINY)
            gradient = how.momentum * mean[alive] + gradient / size.view(-1, 1, 1, 1)
            mean[alive] = gradient
        adv[alive] = project(x[alive], adv[alive] - x[alive] + how.step * _direction(gradient, how.norm), how)
    return adv


Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits ``(n, K)`` and classes ``(n,)`` -> what is to grow, of each image ``(n,)``."""


def _gradient(model: Model, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of each image's own loss by its pixels."""
    point = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(point)
        (gradient,) = torch.autograd.grad(loss(logits, y).sum(), point)
    return logits.detach(), gradient


def _about(model: Model, x: Tensor, y: Tensor, how: Ascent, offsets: Tensor) -> Tensor:
    """Mean gradient at points about the images; they are not cut to [0, 1], as in VMI-FGSM's paper.

    Args:
        offsets: ``(n, N, C, H, W)``.
    """
    loss = _loss(how.loss)
    return torch.stack([_gradient(model, x + offset, y, loss)[1] for offset in offsets.unbind(1)]).mean(0)


def _loss(name: str, draws: Draws | None = None, rows: Tensor | None = None) -> Loss:
    if name == "cross-entropy":
        return functools.partial(F.cross_entropy, reduction="none")
    if name == "margin":
        return margin
    if name != "jitter" or draws is None or rows is None:
        raise ValueError(f"loss {name!r} is none of 'cross-entropy', 'margin' and, with draws, 'jitter'")
    return lambda logits, y: jittered(logits, y, draws.normal(rows, tuple(logits.shape[1:])))


def jittered(logits: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """Jitter's loss of images that are not broken yet ``(n,)``: the squared distance of the true class from the noisy
    probabilities of logits scaled to :data:`SCALE`, which no large logit can saturate.

    Args:
        noise: standard normal ``(n, K)``.
    """
    scaled = SCALE * logits / logits.abs().amax(1, keepdim=True).clamp_min(_TINY)
    noisy = scaled.softmax(1) + SPREAD * noise
    return (noisy - F.one_hot(y, logits.shape[1])).square().sum(1)


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
