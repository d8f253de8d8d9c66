"""Synsets drawn from a diffusion model: ``d3hr``, ``mgd3``, ``igd``, ``minimax``, ``unguided``. A step is a class.

A method says in :meth:`Generation.draw` with which latents the images of a class begin, and how they get down to clean
ones; the images that are done are the state. Nothing in sampling is random but these latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from ddbench.config import setting
from ddbench.diffusion.backends import Backend
from ddbench.diffusion.ddim import STEPS, Move, check_grid, travel
from ddbench.diffusion.latents import Inversion, Latents
from ddbench.diffusion.recipe import LATENT, TIMESTEPS
from ddbench.diffusion.store import check_guidance, class_map
from ddbench.methods.base import Context, Distilled, Method, State, joined
from ddbench.methods.needs import Need
from ddbench.methods.needs.diffusion import Diffusion, no_precision
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError

PUBLISHED_GUIDANCE = 4.0
"""Classifier-free guidance of all published runs with DiT-XL/2."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Settings that methods of this kind have in common."""

    steps: int = setting(STEPS, at_least=1, expected=f"a divisor of the model's {TIMESTEPS} timesteps")
    """Points of the grid of times: DDIM steps of a whole way."""
    guidance: float = setting(0.0, at_least=0, below=100, expected="0 (by the model) or a positive number below 100")
    """Classifier-free guidance; 0: as published, 4, for a pretrained model, 1 (the class alone) for one of pixels."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of a pretrained transformer (the published runs have float16)."""


G = TypeVar("G", bound=GenerationConfig)

Correction = Callable[[Tensor, Tensor, Move, Tensor], Tensor]
"""Changes predicted noise: (latents, noise, move, which images of the class these are, int64 ``(n,)``) to noise."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How the images of a class are made.

    Attributes:
        latents: their beginnings, float32 ``(ipc, *latent_shape)``.
        moves: the way down.
        correction: of the predicted noise; None: none.
        clip: clamp predicted images on the way (:func:`ddbench.diffusion.ddim.travel`).
        metrics: of the step.
        at_once: images that are made together, at most; None: as many as the model takes.
        finished: is told the clean latents of images that are done, in order; None: nobody.
    """

    latents: Tensor
    moves: Sequence[Move]
    correction: Correction | None = None
    clip: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    at_once: int | None = None
    finished: Callable[[Tensor], None] | None = None


class Generation(Method[G], Generic[G]):
    """Base of the methods that draw a synset from a diffusion model."""

    @classmethod
    def needs(cls, config: G) -> tuple[Need[Any], ...]:
        """A diffusion model."""
        return (Diffusion(config.precision),)

    @classmethod
    def check(cls, config: G, context: Context) -> None:
        super().check(config, context)
        check_grid(config.steps, None, TIMESTEPS)

    @property
    def learns_no_class(self) -> bool:
        """Whether the model is shown images without their class before it makes any."""
        return False

    @property
    def iterations(self) -> int:
        return self.context.classes

    def pieces(self) -> Sequence[range]:
        """Classes."""
        return [range(label, label + 1) for label in range(self.context.classes)]

    def merge(self, states: Sequence[State]) -> State:
        """The images of all classes."""
        return joined(states, "images")

    def setup(self) -> None:
        """Load the model.

        Raises:
            UserError: classes that do not fit, a grid or a guidance that it has not, or an arithmetic that a model of
                pixels has not.
        """
        context, config = self.context, self.config
        model = context.given(Diffusion).model
        self.guidance = config.guidance or (PUBLISHED_GUIDANCE if model.kind == LATENT else 1.0)
        if config.precision != "float32" and model.kind != LATENT:
            raise no_precision(config.precision, "this model")
        if not self.learns_no_class:
            check_guidance(model, self.guidance)
        self.backend: Backend = model.backend(context.device, getattr(torch, config.precision))
        if not getattr(config, "clip", True) and not self.backend.bounded:
            context.console.say("--no-clip: it has no effect with a pretrained model, whose latents are never clamped")
        self.labels = class_map(model, context.dataset)
        check_grid(config.steps, None, len(self.backend.alphas))
        self._images: list[Tensor] = []

    def latents(self, *, start: int | None, released: bool = False, images: int) -> Latents:
        """The cached latents of the training images (:class:`ddbench.diffusion.latents.Latents`)."""
        context, given = self.context, self.context.given(Diffusion)
        return Latents(
            given.latents,
            backend=self.backend,
            model=given.model.sha256,
            labels=self.labels,
            dataset=context.dataset,
            train=context.train,
            inversion=Inversion(
                steps=self.config.steps,
                start=start,
                guidance=1.0 if start is None else self.guidance,
                released=released,
                images=images,
            ),
            precision=self.config.precision,
        )

    def noise(self, label: int) -> Tensor:
        """Pure noise for the images of a class, float32 ``(ipc, *latent_shape)``; image j has the same for any IPC."""
        return torch.stack(
            [
                torch.randn(self.backend.latent_shape, generator=seeds.generator(self.context.seed, "noise", label, j))
                for j in range(self.context.ipc)
            ]
        )

    def draw(self, label: int) -> Draw:
        """How the images of class ``label`` are made."""
        raise NotImplementedError

    def step(self, iteration: int) -> dict[str, float]:
        """Make the images of class ``iteration``.

        Raises:
            UserError: they are not finite.
        """
        images, metrics = self.images_of(iteration)
        self._images.append(images)
        return metrics

    def images_of(self, label: int) -> tuple[Tensor, dict[str, float]]:
        """The images of class ``label``, uint8 ``(ipc, C, H, W)``, and the metrics of making them.

        Raises:
            UserError: they are not finite.
        """
        drawn = self.draw(label)
        backend, made = self.backend, []
        for part in torch.arange(len(drawn.latents)).split(drawn.at_once or backend.batch):
            classes = self.labels[label].to(backend.device).expand(len(part))

            def predict(x: Tensor, move: Move, part: Tensor = part, classes: Tensor = classes) -> Tensor:
                noise = backend.noise(x, move.time, classes, self.guidance)
                return noise if drawn.correction is None else drawn.correction(x, noise, move, part)

            begin = drawn.latents[part].to(backend.device)
            clean = travel(begin, drawn.moves, predict, clip=drawn.clip)
            if drawn.finished is not None:
                drawn.finished(clean)
            images = backend.decode(clean)
            if not bool(torch.isfinite(images).all()):
                name = self.context.dataset.spec.class_names[label]
                raise UserError(
                    f"sampled images of class {name!r} are not finite; lower --guidance (now {self.guidance:g})"
                )
            made.append(backend.pixels(images, self.context.dataset.spec.size))
        return torch.cat(made), drawn.metrics

    def distilled(self) -> Distilled:
        """The images of the classes that are done, uint8, hard labels, class-major."""
        return Distilled(
            images=torch.cat(self._images),
            labels=torch.arange(len(self._images)).repeat_interleave(self.context.ipc),
        )

    def state(self) -> State:
        """The images that are done."""
        return State(tensors={"images": torch.cat(self._images)} if self._images else {})

    def load_state(self, state: State) -> None:
        """Take the images over.

        Raises:
            ValueError: they are not those of whole classes of this run.
        """
        self._images = []
        if "images" not in state.tensors:
            return
        images, ipc = state.tensors["images"].cpu(), self.context.ipc
        if images.dtype != torch.uint8 or images.shape[1:] != self.context.dataset.spec.shape or len(images) % ipc:
            raise ValueError(f"images are {images.dtype} {list(images.shape)}")
        self._images = list(images.split(ipc))
