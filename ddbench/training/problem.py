"""An inner problem: a student's training on learned images, as data; and its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ddbench.data.augment import Draw, apply
from ddbench.training.losses import cross_entropy, matching_loss

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class OuterTerm:
    """One term of the outer loss.

    Attributes:
        step: the weights after this many student steps are judged, 1 to N.
        value: weights ``(P,)`` -> scalar, weight included.
    """

    step: int
    value: Callable[[Tensor], Tensor]


def match_term(step: int, target: Tensor, start: Tensor, weight: float = 1.0) -> OuterTerm:
    """The trajectory-matching term ``weight * |theta - target|^2 / |start - target|^2``."""
    return OuterTerm(step, lambda theta: weight * matching_loss(theta, target, start))


@dataclass(frozen=True, kw_only=True)
class InnerProblem:
    """What one student does, and how it is judged.

    Attributes:
        start: ``theta_0`` ``(P,)``.
        images: ``(S, C, H, W)`` in network-input space.
        labels: int64 ``(S,)``, or soft labels as logits ``(S, K)``.
        lr: scalar tensor, or ``(N,)`` with one learning rate a step.
        batches: one int64 index tensor a step (``None``: the whole synset); its length is N.
        terms: the outer loss.
        draws: one augmentation draw a step for the images of that step's batch; ``None``: none.
        masks: one factor a step for the augmented images of its batch, broadcastable to them; ``None``: none.
        momentum: ``mu``.
        scales: factor of the student's loss, one for all steps or one a step.
        loss: ``(logits, labels) -> scalar``.
    """

    start: Tensor
    images: Tensor
    labels: Tensor
    lr: Tensor
    batches: Sequence[Tensor | None]
    terms: Sequence[OuterTerm]
    draws: Sequence[Draw | None] | None = None
    masks: Sequence[Tensor] | None = None
    momentum: float = 0.0
    scales: float | Sequence[float] = 1.0
    loss: Loss = cross_entropy

    def __post_init__(self) -> None:
        steps = len(self.batches)
        if not steps or not self.terms:
            raise ValueError("an inner problem needs at least one step and one outer term")
        if not all(1 <= term.step <= steps for term in self.terms):
            raise ValueError(f"an outer term judges a step outside 1..{steps}")
        if self.lr.shape not in ((), (steps,)):
            raise ValueError(f"lr has shape {tuple(self.lr.shape)}: expected () or ({steps},)")
        if self.draws is not None and len(self.draws) != steps:
            raise ValueError(f"{len(self.draws)} augmentation draws for {steps} steps")
        if self.masks is not None and len(self.masks) != steps:
            raise ValueError(f"{len(self.masks)} masks for {steps} steps")
        if not isinstance(self.scales, float | int) and len(self.scales) != steps:
            raise ValueError(f"{len(self.scales)} loss scales for {steps} steps")

    @property
    def soft(self) -> bool:
        """Whether the labels are logits, and so have a gradient."""
        return self.labels.is_floating_point()

    def lr_at(self, step: int) -> Tensor:
        """Learning rate of a step, counted from 0."""
        return self.lr if self.lr.ndim == 0 else self.lr[step]

    def scale_at(self, step: int) -> float:
        """Loss factor of a step, counted from 0."""
        return self.scales if isinstance(self.scales, float | int) else self.scales[step]

    def batch(self, step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The augmented images and the labels that the student sees at a step; differentiable in both."""
        index = self.batches[step]
        x, y = (images, labels) if index is None else (images[index], labels[index])
        return self.view(step, x), y

    def view(self, step: int, x: Tensor) -> Tensor:
        """A step's batch, augmented and masked; differentiable."""
        draw = None if self.draws is None else self.draws[step]
        x = x if draw is None else apply(draw, x)
        return x if self.masks is None else x * self.masks[step]


@dataclass(frozen=True)
class InnerResult:
    """Outer loss (scalar), its gradients, and the student's last weights ``(P,)``; all detached."""

    loss: Tensor
    images: Tensor
    labels: Tensor | None
    lr: Tensor
    start: Tensor
    final: Tensor


def leaf(tensor: Tensor) -> Tensor:
    """A detached view of a tensor that asks for a gradient."""
    return tensor.detach().requires_grad_()
