"""Images that are learned: what they begin as, their optimiser, their momentum in a checkpoint, their moving average.

For every method that descends in a synset by SGD with momentum: ``setup`` makes a :class:`Canvas` of
:func:`first_images` (or of others), ``step`` gives it a gradient, ``state`` and ``load_state`` take in what it has to
keep, and ``distilled`` asks for :attr:`Canvas.product`. What is learned beside the images (labels, rates) is a
:class:`Learned` too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ddbench.data.mapped import gather
from ddbench.methods.base import Context
from ddbench.methods.parts.sampling import initial_positions
from ddbench.registry import unknown
from ddbench.runtime import seeds
from ddbench.runtime.ranks import Ranks
from ddbench.training.sgd import SGD

FIRST = ("real", "noise", "dream")
"""Kinds of :func:`first_images`."""


class Learned:
    """A tensor that is learned by SGD with momentum.

    Args:
        value: what it begins as, a float tensor on its device; it is changed in place.
        lr: learning rate.
        momentum: of the SGD, 0 to below 1.
        name: its name in a checkpoint.
        velocity: name of its momentum there, which ``.0`` is added to.
    """

    def __init__(self, value: Tensor, *, lr: float, momentum: float, name: str, velocity: str) -> None:
        self.value = value.detach()
        self.optimizer = SGD([self.value], lr=lr, momentum=momentum)
        self._name, self._velocity = name, velocity

    @property
    def lr(self) -> float:
        """The learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, gradient: Tensor) -> None:
        """Descend by a gradient of the value's shape, which must be finite."""
        self.value.grad = gradient
        self.optimizer.step()
        self.value.grad = None

    def merge(self, ranks: Ranks, terms: int) -> None:
        """Take over value and momentum of each rank's own rows, where each descended in the rows of its share.

        Args:
            terms: what is shared out; each has as many rows of the value as the others.
        """
        state = self.state()
        rows = len(self.value) // terms
        own = [ranks.placed(tensor[ranks.share(terms, rows)], terms, rows) for tensor in state.values()]
        self.load_state(dict(zip(state, ranks.sum(*own), strict=True)))

    def state(self) -> dict[str, Tensor]:
        """Value and momentum by name, for a checkpoint; no copies."""
        return {self._name: self.value, **self.optimizer.state(self._velocity)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave; other names are left alone.

        Raises:
            KeyError: the value is not among them.
            RuntimeError: it has another shape.
        """
        self.value.copy_(tensors[self._name])
        self.optimizer.load_state(self._velocity, dict(tensors))


class Canvas(Learned):
    """The images of a synset while they are learned.

    Args:
        images: float32 ``(S, C, H, W)``, on the run's device; network input, or pixels where a method learns those.
        lr: learning rate, in their units.
        momentum: 0 to below 1.
        velocity: name of the momentum in a checkpoint.

    Attributes:
        average: the moving average that :meth:`keep_average` began; None: there is none.
    """

    def __init__(self, images: Tensor, *, lr: float, momentum: float, velocity: str = "image_momentum") -> None:
        super().__init__(images, lr=lr, momentum=momentum, name="images", velocity=velocity)
        self.average: Tensor | None = None
        self._decay = 0.0

    @property
    def images(self) -> Tensor:
        """The images as they are now, ``(S, C, H, W)``, without a gradient; the next step changes them in place."""
        return self.value

    @property
    def product(self) -> Tensor:
        """What a synset gets: the moving average where one is kept, else the images; no copy."""
        return self.value if self.average is None else self.average

    def keep_average(self, decay: float) -> None:
        """Begin an exponential moving average at the images of now.

        Args:
            decay: share of the old average that is kept at a step, 0 to below 1.
        """
        self.average, self._decay = self.value.clone(), decay

    def step(self, gradient: Tensor) -> None:
        """Descend; the average, if any, follows."""
        super().step(gradient)
        if self.average is not None:
            self.average = moving_average(self.average, self.value, self._decay)

    def state(self) -> dict[str, Tensor]:
        """Images, momentum, average."""
        return super().state() | ({} if self.average is None else {"average": self.average})

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave, the average where one is kept."""
        super().load_state(tensors)
        if self.average is not None:
            self.average = tensors["average"].to(self.value, copy=True)


def moving_average(average: Tensor, images: Tensor, decay: float) -> Tensor:
    """``d average + (1 - d) images``, a new tensor."""
    return torch.lerp(images, average, decay)


def first_images(context: Context, kind: str, *purpose: str | int) -> Tensor:
    """``ipc`` images of each class to begin with, class-major, float32 ``(K * ipc, C, H, W)`` in network-input space.

    Args:
        kind: ``real``: different random real ones of the class; ``noise``: standard normal; ``dream``: real ones,
            representatives of the class (:func:`ddbench.methods.parts.sampling.initial_positions`).
        purpose: names the draws.

    Raises:
        UserError: another kind, or features of ``dream`` that do not fit into memory.
    """
    if kind == "real":
        return context.preprocess.apply(context.random_images(*purpose))
    if kind == "dream":
        chosen = initial_positions(context, "dream", context.ipc, *purpose).flatten()
        return context.preprocess.apply(gather(context.train.images, chosen))
    if kind != "noise":
        raise unknown("kind of first images", kind, FIRST, "--init")
    shape = (context.classes * context.ipc, *context.dataset.spec.shape)
    return torch.randn(shape, generator=seeds.generator(context.seed, *purpose))
