"""Methods whose images are decoded: a mix-in that stands before a family that matches (DM's, DC's, MTT's).

The family works with as many images of a class as the budget allows decoded ones, on a canvas that steps through the
decoder; the product is the decoder with its arrays, and its budget is still IPC.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from ddbench.config import refuse_idle, setting
from ddbench.data.limits import require_memory
from ddbench.decoders.base import Arrays, Decoder, too_much
from ddbench.methods.base import Context, Distilled, Method
from ddbench.methods.families.gradient_matching import LOOPS, UNTRAINED, AugmentedConfig, AugmentedMatching, loops
from ddbench.methods.families.trajectory import InnerConfig, TrajectoryMethod
from ddbench.methods.parts.canvas import Canvas
from ddbench.methods.parts.decoded import DecodedCanvas
from ddbench.methods.parts.segments import Segment
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget
from ddbench.training.problem import InnerResult

C = TypeVar("C")

COPIES = 3
"""How often all images are in memory, in float32: the first ones, the decoded ones and their gradient."""


class Decoded(Method[C]):
    """The mix-in; its config has ``lr_images`` and ``momentum``, which here are those of the learned array."""

    learned: str
    """Name of the array that is learned."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """What it is learned by."""
    sizes: str
    """Flags that say how many numbers an image is, for messages."""

    canvas: Canvas

    def __init__(self, config: C, context: Context) -> None:
        super().__init__(self.settled(config, context), self.widened(config, context))
        self._budget = Budget("ipc", context.ipc)

    @classmethod
    @abstractmethod
    def decoder(cls, config: C, context: Context) -> Decoder:
        """What makes the images, by the settings.

        Raises:
            UserError: names the flag, its value and what is possible.
        """

    @abstractmethod
    def arrays(self, images: Tensor) -> Arrays:
        """What the decoder reads, so that it makes these images ``(K n, C, H, W)``, as nearly as it can."""

    def beginning(self, images: Tensor) -> Callable[[Tensor], Tensor] | None:
        """What long work makes of the learned array of :meth:`arrays`, towards these images; None: nothing.

        It is not done where a run goes on from a state.
        """
        return None

    @classmethod
    def settled(cls, config: C, context: Context) -> C:
        """The settings with what is left open and depends on the IPC filled in."""
        return config

    @classmethod
    def widened(cls, config: C, context: Context) -> Context:
        """The context with as many images a class as the budget allows decoded ones.

        Raises:
            UserError: none, or settings that are out of range.
        """
        decoder = cls.decoder(config, context)
        each = decoder.per_class(context.ipc)
        if each < 1:
            stored = sum(one.bytes for one in decoder.declared(1, 1).values()) // 4
            room = context.ipc * math.prod(context.train.images.shape[1:])
            raise UserError(
                f"--ipc {context.ipc}: an image of {cls.title} is {stored} numbers and a class has room for {room}; "
                f"use a larger --ipc, or a smaller decoder ({cls.sizes})"
            )
        return replace(context, ipc=each)

    @classmethod
    def check(cls, config: C, context: Context) -> None:
        """As the family's, for the decoded images; and that a file and the memory may hold them.

        Raises:
            UserError: names the flag, its value and what is possible.
        """
        widened = cls.widened(config, context)
        count = widened.ipc * context.classes
        if reason := too_much(cls.decoder(config, context), count, context.classes):
            raise UserError(f"{cls.title} at --ipc {context.ipc}: {reason}; use a larger decoder ({cls.sizes})")
        require_memory(
            COPIES * 4 * count * math.prod(context.dataset.spec.shape),
            f"{cls.title} at --ipc {context.ipc}: keeping {count:,} decoded images",
            f"use a smaller --ipc or a larger decoder ({cls.sizes})",
        )
        super().check(cls.settled(config, context), widened)

    @classmethod
    def terms_of_a_step(cls, config: C, context: Context) -> int:
        """As the family's, for the decoded images."""
        return super().terms_of_a_step(cls.settled(config, context), cls.widened(config, context))

    @classmethod
    def begins_with(cls, config: C, context: Context) -> int:
        """As many as the budget allows decoded ones."""
        return cls.widened(config, context).ipc

    @property
    def budget(self) -> Budget:
        """What was asked for, not how many images are decoded."""
        return self._budget

    def make_canvas(self, images: Tensor) -> Canvas:
        """The learned array, beginning at images."""
        config: Any = self.config
        return DecodedCanvas(
            self.decoder(self.config, self.context),
            {name: array.to(self.context.device) for name, array in self.arrays(images).items()},
            self.learned,
            lr=config.lr_images,
            momentum=config.momentum,
            optimizer=self.optimizer,
            preprocess=self.context.preprocess,
            classes=self.context.classes,
            beginning=self.beginning(images),
        )

    def distilled(self) -> Distilled:
        """The arrays and the decoder in place of the family's images."""
        assert isinstance(self.canvas, DecodedCanvas)
        parameters = {name: array.cpu().clone() for name, array in self.canvas.arrays.items()}
        product = super().distilled()
        none = torch.empty(0, *product.images.shape[1:])
        return replace(product, images=none, decoder=self.canvas.decoder, parameters=parameters)


A = TypeVar("A", bound=AugmentedConfig)


class DecodedMatching(Decoded[A], AugmentedMatching[A]):
    """The mix-in before DC with DSA's augmentation."""

    published_loops: ClassVar[Mapping[int, tuple[int, int]]] = {**LOOPS, 2: (1, 1), 11: (10, 50), 51: (50, 10)}
    """DC's, and three that the public codes of FreD and DDiF have besides."""

    @classmethod
    def settled(cls, config: A, context: Context) -> A:
        """With the published loops of the IPC, not of the decoded images; where there is one, without what trains."""
        outer, inner = loops(config, context.ipc, cls.published_loops)
        idle = UNTRAINED if outer == 1 and not config.outer_loops else ()
        defaults: dict[str, Any] = {item.name: item.default for item in fields(config) if item.name in idle}
        return replace(config, outer_loops=outer, inner_epochs=inner if outer > 1 else 1, **defaults)

    @classmethod
    def check(cls, config: A, context: Context) -> None:
        """As the family's; what has no effect is told of the settings as they were given."""
        for told in refuse_idle(config, cls.idle(config, context)):
            context.console.say(told)
        super().check(config, context)


@dataclass(frozen=True, kw_only=True)
class DecodedTrajectoryConfig(InnerConfig):
    """MTT's settings, and how low the learned rate may be."""

    least_lr: float = setting(1e-3, at_least=0)
    """The learned rate beta is kept at or above this."""


T = TypeVar("T", bound=DecodedTrajectoryConfig)


class DecodedTrajectory(Decoded[T], TrajectoryMethod[T]):
    """The mix-in before MTT."""

    def after_step(self, iteration: int, segment: Segment, result: InnerResult) -> dict[str, float]:
        """Keep the learned rate where it trains something."""
        least = self.config.least_lr
        if least:
            self.rate.value.clamp_(min=math.log(least) if self.rate.log else least)
        return super().after_step(iteration, segment, result)
