"""Images that are decoded from what is learned: a canvas whose step goes through the decoder.

A method that matches gives the gradient of its loss in the images; what a step needs is the gradient in the arrays that
the decoder reads, which is the product with its Jacobian. So a family of methods does not know whether its images are
learned themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from ddbench.data.preprocess import Preprocess
from ddbench.decoders.base import Arrays, Decoder, by_class, decode_all
from ddbench.methods.parts.canvas import Canvas
from ddbench.training.optimizers import OptimizerSettings, load_optimizer_state, make_optimizer, optimizer_state


class DecodedCanvas(Canvas):
    """A synset's images as a decoder makes them, class by class, of an array that is learned and others that are not.

    Args:
        decoder: of parameters.
        arrays: all that it reads, by name, on the run's device.
        learned: name of the array that is learned, also in a checkpoint.
        lr: its learning rate.
        momentum: of SGD, 0 to below 1.
        optimizer: ``sgd``, or ``adam``, which has no use for the momentum.
        preprocess: what the decoder is given.
        classes: K.
        beginning: what the learned array becomes before it is looked at, unless a state is loaded first; None: itself.
    """

    def __init__(
        self,
        decoder: Decoder,
        arrays: Arrays,
        learned: str,
        *,
        lr: float,
        momentum: float,
        optimizer: Literal["sgd", "adam"],
        preprocess: Preprocess,
        classes: int,
        beginning: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(arrays[learned].clone(), lr=lr, momentum=momentum)
        self.decoder = decoder
        self._name = learned  # in a checkpoint too
        self._fixed = {name: array for name, array in arrays.items() if name != learned}
        self._preprocess, self._classes = preprocess, classes
        self._adam = (
            make_optimizer([self.value], OptimizerSettings(name="adam", lr=lr)) if optimizer == "adam" else None
        )
        self._images: Tensor | None = None
        self._beginning = beginning

    def _begin(self) -> None:
        beginning, self._beginning = self._beginning, None
        if beginning is not None:
            self.value.copy_(beginning(self.value))

    @property
    def arrays(self) -> dict[str, Tensor]:
        """All that the decoder reads, as it is now; no copies."""
        self._begin()
        return {self._name: self.value, **self._fixed}

    @property
    def images(self) -> Tensor:
        """The decoded images ``(K n, C, H, W)``, without a gradient; the same ones until the next step."""
        if self._images is None:
            self._images = decode_all(self.decoder, self.arrays, self._preprocess, self._classes)
        return self._images

    @property
    def product(self) -> Tensor:
        """The decoded images."""
        return self.images

    def pull(self, gradient: Tensor) -> Tensor:
        """The gradient in what is learned, of a gradient in the images; one class's graph is in memory at a time."""
        found: list[Tensor] = []
        for own, part in zip(by_class(self.arrays, self._classes), gradient.chunk(self._classes), strict=True):
            leaf = own[self._name].detach().requires_grad_()
            images = self.decoder.decode({**own, self._name: leaf}, self._preprocess)
            found += torch.autograd.grad((images * part).sum(), leaf)
        return torch.cat(found)

    def step(self, gradient: Tensor) -> None:
        """Descend by a gradient in the images, which must be finite."""
        pulled = self.pull(gradient)
        if self._adam is None:
            super().step(pulled)
        else:
            self.value.grad = pulled
            self._adam.step()
            self.value.grad = None
        self._images = None

    def state(self) -> dict[str, Tensor]:
        """What is learned, and its momenta."""
        self._begin()
        return super().state() | ({} if self._adam is None else optimizer_state(self._adam, "adam"))

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        self._beginning = None
        super().load_state(tensors)
        if self._adam is not None:
            load_optimizer_state(self._adam, "adam", dict(tensors))
        self._images = None
