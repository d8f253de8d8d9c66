"""What DM and DataDAM share: class means of what a fresh network says of real and of synthetic images are matched.

A method says with :meth:`DistributionMatching.measure` what a network is asked, and with
:meth:`DistributionMatching.objective` how class means are compared; the rest is here.

Every iteration has its own network, real batches and augmentation, all named by (seed, purpose, iteration), so that the
state is the images and their momentum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from ddbench.config import setting
from ddbench.data.augment import Draw, Strategy, apply, draw, parse_strategy
from ddbench.data.dataset import class_indices
from ddbench.data.limits import require_memory
from ddbench.data.specs import resolve_augmentation, resolve_strategy
from ddbench.methods.base import Context, Distilled, Method, NotFiniteError, State
from ddbench.methods.parts.batches import RealBatches
from ddbench.methods.parts.canvas import Canvas, first_images
from ddbench.methods.parts.masking import synthetic_mask
from ddbench.methods.parts.sampling import SamplerConfig, check_sampler, make_sampler
from ddbench.networks.base import Student
from ddbench.runtime import seeds
from ddbench.training.distribution import match, mean_match, mixes_images, real_means
from ddbench.training.flat import draws

PIXELS_AT_ONCE = {"cpu": 2**18, "cuda": 2**21}
"""Pixels in one forward pass through a network that takes images one by one: 256 images of 32 x 32 on a CPU, where more
are no faster and take more memory; 2,048 on a GPU."""

JOINT_COPIES = 3
"""Times the largest layer output that a forward pass without gradient holds at its peak."""


@dataclass(frozen=True, kw_only=True)
class DistributionConfig(SamplerConfig):
    """Settings that methods of this kind have in common."""

    iterations: int = setting(20000, at_least=1)
    """Outer iterations, each with a fresh network and one step of the images."""
    batch_real: int = setting(256, at_least=1)
    """Real images of each class in an iteration, all different (all there are in a smaller class)."""
    lr_images: float = setting(1.0, above=0)
    """Learning rate of the images (network-input units)."""
    momentum: float = setting(0.5, at_least=0, below=1, expected="at least 0 and less than 1")
    """Momentum of the images' SGD."""
    init: Literal["real", "noise"] = "real"
    """First images: random real ones of the class, or standard normal noise."""
    augmentation: str = "dsa"
    """DSA families joined by _, dsa for all, or none (no flip on digits); one draw a class for real and synthetic."""


D = TypeVar("D", bound=DistributionConfig)


class DistributionMatching(Method[D]):
    """Base of methods that match class means under networks that are not trained."""

    @classmethod
    def check(cls, config: D, context: Context) -> None:
        """A known augmentation, and memory for a joint pass.

        Raises:
            UserError: names the flag, its value and what is possible.
        """
        super().check(config, context)
        check_sampler(config, config.batch_real)
        parse_strategy(resolve_augmentation(config.augmentation, context.dataset.spec.flip))
        net = context.network(0)
        if mixes_images(net) and context.device.type == "cpu":
            counts = [len(index) for index in class_indices(context.train.labels, context.classes)]
            images = max(sum(min(config.batch_real, count) for count in counts), context.classes * context.ipc)
            require_memory(
                JOINT_COPIES * 4 * images * _largest_output(net, context.dataset.spec.shape),
                f"--student {context.student}: one pass over {images} images of all classes (batch norm sees them "
                "together)",
                "use a smaller --batch-real or --ipc, a narrower student, or one with instance norm",
            )

    @classmethod
    def terms_of_a_step(cls, config: D, context: Context) -> int:
        """Classes; a network with batch norm sees them together, dropout draws for one after the other."""
        net = context.network(0)
        return 1 if mixes_images(net) or draws(net, context.dataset.spec.shape) else context.classes

    @property
    def iterations(self) -> int:
        """Outer iterations."""
        return self.config.iterations

    @property
    def augmentation(self) -> str:
        """The resolved strategy."""
        return resolve_strategy(self.config.augmentation, self.context.dataset.spec.flip)

    def measure(self, net: Student, x: Tensor) -> list[Tensor]:
        """What the network says of images ``(n, C, H, W)``: statistics, each ``(n, D)``."""
        raise NotImplementedError

    def objective(self, synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> dict[str, Tensor]:
        """Terms of the loss by name, from the class means ``(K, D)`` of the statistics."""
        raise NotImplementedError

    def setup(self) -> None:
        """First images and their optimiser."""
        config, context = self.config, self.context
        self.canvas = self.make_canvas(first_images(context, config.init, "init").to(context.device))
        # grids as in the code of DC, DSA and DM; MTT's differ
        self._strategy: Strategy | None = parse_strategy(self.augmentation, siamese=True, align_corners=False)
        self._batches = RealBatches(context)
        self._sampler = make_sampler(config, context, self._batches, config.batch_real)
        self._limit = max(1, PIXELS_AT_ONCE[context.device.type] // context.dataset.spec.size**2)

    def make_canvas(self, images: Tensor) -> Canvas:
        """What is learned, beginning at images ``(K * ipc, C, H, W)``."""
        # the momentum's name is that of checkpoints from before the canvas
        return Canvas(images, lr=self.config.lr_images, momentum=self.config.momentum, velocity="momentum")

    def step(self, iteration: int) -> dict[str, float]:
        """One outer iteration; returns the loss, its terms where there are several, and the gradient's norm."""
        context, images, ranks = self.context, self.canvas.images, self.context.ranks
        net = self._network(iteration)
        limit = None if mixes_images(net) else self._limit
        draws = self._draws(iteration)

        def measure(x: Tensor) -> list[Tensor]:
            return self.measure(net, x)

        # students with dropout draw from the global generator
        with seeds.isolated(context.seed, "layers", iteration):
            self._sampler.refresh(net, iteration)
            real = real_means(measure, self._real(iteration, draws), limit)
            mask = synthetic_mask(self.config, images, context.seed, iteration)
            rows, own = ranks.share(context.classes, context.ipc), ranks.share(context.classes)
            matched = match(
                measure,
                self.objective,
                images[rows],
                real,
                None if draws is None else draws[own],
                limit,
                None if mask is None else mask[rows],
            )
        gradient = ranks.placed(matched.gradient, context.classes, context.ipc)
        gradient, *values = ranks.sum(gradient, *matched.terms.values())
        # one transfer from the device a step
        *terms, norm = torch.stack([*values, gradient.norm()]).tolist()
        loss = sum(terms)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFiniteError(
                f"the matching loss is {loss:g}; likely cause: --lr-images {self.config.lr_images:g} is too high for "
                "this synset: divide it by 10"
            )
        self.canvas.step(gradient)
        named = dict(zip(matched.terms, terms, strict=True)) if len(terms) > 1 else {}
        return {"loss": loss, **named, "grad_norm_images": norm}

    def real_batch(self, label: int, generator: torch.Generator) -> Tensor:
        """The real images that a class is matched with in one iteration, network input ``(n, C, H, W)``."""
        return self._batches.batch(label, self.config.batch_real, generator)

    def _network(self, iteration: int) -> Student:
        """The network of an iteration: random weights, training mode."""
        net = self.context.network(seeds.derive(self.context.seed, "network", iteration))
        return cast(Student, net.to(self.context.device).requires_grad_(False).train())

    def _draws(self, iteration: int) -> list[Draw] | None:
        """One draw a class."""
        if self._strategy is None:
            return None
        generator = seeds.generator(self.context.seed, "augment", iteration)
        size = self.context.dataset.spec.size
        return [draw(self._strategy, 1, size, generator) for _ in range(self.context.classes)]

    def _real(self, iteration: int, draws: list[Draw] | None) -> Iterator[Tensor]:
        """The augmented real images of each class in turn; those of other ranks are drawn, no more."""
        generator = seeds.generator(self.context.seed, "real", iteration)
        own_classes = range(self.context.classes)[self.context.ranks.share(self.context.classes)]
        for label in range(own_classes.stop):
            if label not in own_classes:
                self._batches.draw(label, self.config.batch_real, generator)
                continue
            images = self.real_batch(label, generator)
            yield images if draws is None else apply(draws[label], images)

    def distilled(self) -> Distilled:
        """Images in network-input space, hard labels."""
        return Distilled(images=self.canvas.product.cpu().clone(), labels=self.context.hard_labels())

    def state(self) -> State:
        """Images and momentum, and the sampler's choice."""
        return State(tensors={**self.canvas.state(), **self._sampler.state()})

    def load_state(self, state: State) -> None:
        """Take over images and momentum."""
        self.canvas.load_state(state.tensors)
        self._sampler.load_state(state.tensors)


class MeanMatching(DistributionMatching[D]):
    """Base of methods that match mean features, as DM."""

    def measure(self, net: Student, x: Tensor) -> list[Tensor]:
        """The flattened features, input of the last linear layer."""
        return [net.features(x)]

    def objective(self, synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> dict[str, Tensor]:
        """Squared distance of mean features."""
        return {"loss": mean_match(synthetic[0], real[0])}


@torch.no_grad()
def _largest_output(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """Numbers that the widest layer of a network gives for one image."""
    sizes = [math.prod(shape)]

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        sizes.append(output.numel())

    for part in net.modules():
        if not list(part.children()):
            part.register_forward_hook(note)
    net.eval()(torch.zeros(1, *shape))
    return max(sizes)
