"""Recovering images from a trained network: what SRe2L, CDA, CUDD and GUARD share.

A frozen teacher with batch norm (the *squeeze* stage is ``ddbench teacher``) is turned round: starting from noise,
images are moved by Adam so that the teacher is sure of their class and its norms see the statistics that they saw in
training (SRe2L, section 3.2). A method says with :meth:`Recovery.crop_scale`, :meth:`Recovery.initial` and
:meth:`Recovery.objective` what is particular about it. *Relabel* is the evaluator's: a protocol with teacher labels, or
``ddbench relabel``.

The work is a list of stages one after the other, each so many steps long; here every stage is a batch of images with
one image a class (blocks of :data:`BLOCK` classes), IPC index by IPC index, as published. All draws are named by (seed,
purpose, batch, iteration), finished images are kept as the uint8 pixels that are delivered, so that the state is these,
the float images of the batch at hand and Adam's moments of them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.config import setting
from ddbench.data.augment import Strategy
from ddbench.data.limits import require_memory
from ddbench.data.policy import ALWAYS, Policy, augment
from ddbench.methods.base import Context, Distilled, Method, NotFiniteError, State, joined
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.networks.build import build_student
from ddbench.runtime import seeds
from ddbench.runtime.device import sent
from ddbench.runtime.errors import UserError
from ddbench.training.statistics_matching import batch_norms, observe, running_statistics, statistics_loss

BLOCK = 100
"""Classes of a batch: the batch size of the public code, which holds one image of each."""

BETAS = (0.5, 0.9)
EPSILON = 1e-8
"""Adam's settings in all published recipes."""

Schedule = Literal["none", "step", "linear", "cosine"]


SHARE = "a share above 0 and up to 1 (no crop)"
"""What is possible for the least share of an image in a view."""

MILESTONE = "a fraction of the iterations, 0 (no curriculum) to 1"
"""What is possible for the end of a curriculum (CDA, GUARD)."""


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """Settings that methods of this kind have in common; the defaults are SRe2L's on CIFAR."""

    iterations: int = setting(1000, at_least=1)
    """Steps of each batch of images; a run has one batch for every IPC index and every 100 classes."""
    lr_images: float = setting(0.25, above=0)
    """Learning rate of the images (network-input units); falls to 0 by a cosine."""
    bn_weight: float = setting(0.01, at_least=0, expected="0 or a positive number")
    """Weight of the batch-norm statistics beside the cross-entropy."""
    crop_scale: float = setting(1.0, above=0, at_most=1, expected=SHARE)
    """Least share of the image that a view shows (RandomResizedCrop); 1: no crop."""
    flip: bool = False
    """Mirror views at random; left out on digits."""
    jitter: int = setting(4, at_least=0)
    """Largest shift of a view in pixels, on each axis, round the border."""
    signed_jitter: bool = setting(False, unless=("jitter", 0))
    """Shifts from -jitter to jitter (as on Tiny-ImageNet) in place of 0 to jitter."""
    joint: bool = False
    """Make the images of all IPC indices and classes as one batch: another method than the published one."""


R = TypeVar("R", bound=RecoveryConfig)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the work, so many steps long."""

    steps: int


@dataclass(frozen=True, kw_only=True)
class Batch(Stage):
    """Images that are made together.

    Attributes:
        number: from 0 over the whole run; names the draws.
        phase: of a curriculum, from 0.
        positions: int64 ``(n,)`` rows of the synset, which is class-major.
        labels: int64 ``(n,)`` their classes.
    """

    number: int
    phase: int
    positions: Tensor
    labels: Tensor


@dataclass(kw_only=True)
class Iterate:
    """Images that are being made, in network-input space, and Adam's first and second moments; all ``(n, C, H, W)``."""

    x: Tensor
    first: Tensor
    second: Tensor


def crop_lower_bound(schedule: Schedule, iteration: int, iterations: int, milestone: float, least: float) -> float:
    """Least share of the image that a view shows in an iteration (CDA, section 3).

    From the whole image (1) to ``least``, which is reached at the milestone and kept from there on.

    Args:
        schedule: ``step`` (1 up to the milestone), ``linear``, ``cosine``, or ``none`` (``least`` throughout).
        iteration: from 0.
        milestone: fraction of the iterations, 0 to 1; 0: ``least`` throughout.
        least: in (0, 1].
    """
    end = milestone * iterations
    if schedule == "none" or iteration >= end:
        return least
    if schedule == "step":
        return 1.0
    if schedule == "linear":
        return least + (1 - least) * (1 - iteration / end)
    return least + (1 - least) * (1 + math.cos(math.pi * iteration / end)) / 2


def idle_curriculum(crop_scale: float, milestone: float) -> dict[str, str]:
    """Settings of a curriculum without effect, as :meth:`ddbench.methods.base.Method.idle` says them."""
    if crop_scale == 1:
        return dict.fromkeys(("curriculum", "milestone"), "with --crop-scale 1: views are not cropped")
    return {} if milestone else {"curriculum": "with --milestone 0"}


def shared_view(
    x: Tensor,
    *,
    crop_scale: float,
    flip: bool,
    jitter: int,
    signed: bool,
    generator: torch.Generator,
    pad: bool = False,
) -> Tensor:
    """One crop box, one coin for mirroring and one shift for the whole batch ``(n, C, H, W)``, differentiable.

    Args:
        pad: first a window of the image padded with zeros by an eighth of its side (4 px at 32).
        crop_scale: least share of the area that the crop keeps; at 1 nothing is cut.
        jitter: shifts of rows and of columns are uniform in 0 to ``jitter``, or -``jitter`` to ``jitter`` with
            ``signed``; what leaves at one border comes in at the other.
    """
    parts: list[Strategy | str] = [ALWAYS["crop"]] if pad else []
    parts += [*(["rrc"] if crop_scale < 1 else []), *(["flip"] if flip else [])]
    if parts:
        # The draws of a policy are one an image: here the batch is one image of many channels.
        whole, _ = augment(Policy(tuple(parts), crop_scale=crop_scale), x.flatten(0, 1).unsqueeze(0), generator, None)
        x = whole.squeeze(0).unflatten(0, x.shape[:2])
    shifts = torch.randint(-jitter if signed else 0, jitter + 1, (2,), generator=generator).tolist()
    return torch.roll(x, shifts, (2, 3))


@torch.no_grad()
def adam_step(iterate: Iterate, gradient: Tensor, step: int, lr: float) -> Iterate:
    """The images and moments after one step of Adam (Kingma and Ba, 2015, algorithm 1), as new tensors.

    Args:
        step: from 0.
    """
    one, two = BETAS
    first = torch.lerp(iterate.first, gradient, 1 - one)
    second = two * iterate.second + (1 - two) * gradient.square()
    spread = (second / (1 - two ** (step + 1))).sqrt() + EPSILON
    return Iterate(x=iterate.x - lr / (1 - one ** (step + 1)) * first / spread, first=first, second=second)


class Recovery(Method[R], Generic[R]):
    """Base of the methods that recover images from a teacher's weights and batch-norm statistics."""

    _iterate: Iterate | None

    @classmethod
    def needs(cls, config: R) -> tuple[TrainedTeacher]:
        """A teacher."""
        return (TrainedTeacher(),)

    @classmethod
    def check(cls, config: R, context: Context) -> None:
        """Shifts less than the side, a teacher with batch norm, memory for the images.

        Raises:
            UserError: names the flag, its value and what is possible.
        """
        super().check(config, context)
        spec = context.dataset.spec
        if config.jitter >= spec.size:
            raise UserError(f"--jitter {config.jitter}: expected 0 to {spec.size - 1}, less than the side of an image")
        cls.check_network(config, context)
        count = context.classes * context.ipc
        require_memory(
            count * math.prod(spec.shape), f"keeping {count:,} images of {spec.name}", "use a smaller --ipc or --size"
        )

    # What a method may say otherwise

    @classmethod
    def check_network(cls, config: R, context: Context) -> None:
        """Refuse a teacher's architecture that keeps no statistics.

        Raises:
            UserError: names it.
        """
        check_teacher_norm(context)

    def take_teacher(self) -> None:
        """Load the teacher, and what its norms remember."""
        teacher = self.context.given(TrainedTeacher)
        self.teacher = teacher.network(self.context.device)
        if not batch_norms(self.teacher):
            raise _no_batch_norm(teacher.student)
        self._running = running_statistics(self.teacher)

    def crop_scale(self, step: int) -> float:
        """Least share of the image that a view shows in a step of a batch."""
        return self.config.crop_scale

    def initial(self, batch: Batch) -> Tensor:
        """First images of a batch in network-input space: standard normal noise."""
        generator = seeds.generator(self.context.seed, "init", batch.number)
        return torch.randn((len(batch.positions), *self.context.dataset.spec.shape), generator=generator)

    def objective(self, batch: Batch, step: int, x: Tensor) -> dict[str, Tensor]:
        """Terms of the loss by name, of images ``(n, C, H, W)``; their sum is descended."""
        return self.teacher_terms(batch, self.view(batch, step, x))[1]

    def stages(self) -> list[Stage]:
        """The whole work."""
        return list(self.batches(0, self.context.ipc))

    def stage_step(self, stage: Stage, step: int) -> dict[str, float]:
        """Do one step of a stage and return its metrics."""
        assert isinstance(stage, Batch)
        return self.recover(stage, step)

    # Parts for them

    def batches(self, start: int, end: int, *, phase: int = 0, number: int = 0) -> list[Batch]:
        """The batches of the IPC indices ``start`` to ``end - 1``, one index after the other.

        Args:
            number: of the first batch.
        """
        ipc, classes = self.context.ipc, self.context.classes
        if self.config.joint:
            labels = torch.arange(classes).repeat_interleave(end - start)
            groups = [(labels, torch.arange(start, end).repeat(classes))]
        else:
            blocks = torch.arange(classes).split(BLOCK)
            groups = [(block, torch.tensor(index)) for index in range(start, end) for block in blocks]
        return [
            Batch(steps=self.config.iterations, number=number + k, phase=phase, positions=ipc * y + index, labels=y)
            for k, (y, index) in enumerate(groups)
        ]

    def view(self, batch: Batch, step: int, x: Tensor) -> Tensor:
        """The view of a batch in a step; the same for any images of that size that are stacked along the batch."""
        config = self.config
        return shared_view(
            x,
            crop_scale=self.crop_scale(step),
            flip=config.flip and self.context.dataset.spec.flip,
            jitter=config.jitter,
            signed=config.signed_jitter,
            generator=seeds.generator(self.context.seed, "view", batch.number, step),
        )

    def teacher_terms(self, batch: Batch, view: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's logits of a view, and the terms of SRe2L: cross-entropy and batch-norm statistics."""
        logits, seen = observe(self.teacher, view)
        return logits, {
            "cross_entropy": F.cross_entropy(logits, sent(batch.labels, logits.device)),
            "statistics": self.config.bn_weight * statistics_loss(seen, self._running),
        }

    def recover(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of Adam on a batch; after the last one its images are delivered.

        Raises:
            NotFiniteError: loss or gradient is not finite; nothing was changed.
        """
        device = self.context.device
        if step == 0:
            start = self.initial(batch).to(device)
            self._iterate = Iterate(x=start, first=torch.zeros_like(start), second=torch.zeros_like(start))
        assert self._iterate is not None
        x = self._iterate.x.detach().requires_grad_()
        terms = self.objective(batch, step, x)
        loss = torch.stack(list(terms.values())).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        # one transfer from the device a step
        *values, norm = torch.stack([*(term.detach() for term in terms.values()), gradient.norm()]).tolist()
        if not (math.isfinite(sum(values)) and math.isfinite(norm)):
            raise NotFiniteError(
                f"the loss is {sum(values):g} (gradient {norm:g}); likely cause: --lr-images {self.config.lr_images:g} "
                f"or --bn-weight {self.config.bn_weight:g} is too high, or the teacher's weights are extreme"
            )
        rate = self.config.lr_images * (1 + math.cos(math.pi * step / batch.steps)) / 2
        moved = adam_step(self._iterate, gradient, step, rate)
        moved.x = self._valid(moved.x)
        self._iterate = moved
        if step + 1 == batch.steps:
            self._images[batch.positions] = self._pixels(moved.x)
            self._iterate = None
        return {"loss": sum(values), **dict(zip(terms, values, strict=True)), "grad_norm_images": norm}

    # For the runner

    @cached_property
    def _stages(self) -> list[Stage]:
        return self.stages()

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(stage.steps for stage in self._stages))

    @property
    def iterations(self) -> int:
        """Steps of all stages together."""
        return self._ends[-1]

    def pieces(self) -> Sequence[range]:
        """Stages: a batch of images knows nothing of the others."""
        return [range(end - stage.steps, end) for stage, end in zip(self._stages, self._ends, strict=True)]

    def merge(self, states: Sequence[State]) -> State:
        """All images finished."""
        return replace(joined(states, "finished"), values={"stages": len(self._stages)})

    def setup(self) -> None:
        """The teacher and what its norms remember; no images yet."""
        context = self.context
        self.take_teacher()
        shape = (context.classes * context.ipc, *context.dataset.spec.shape)
        self._images = torch.zeros(shape, dtype=torch.uint8)
        self._iterate = None
        self._begun = self._done = 0

    def step(self, iteration: int) -> dict[str, float]:
        """One step of the stage that the iteration belongs to."""
        position = bisect_right(self._ends, iteration)
        stage = self._stages[position]
        if position > self._done:  # the stages before are another process's
            self._begun = position
        metrics = self.stage_step(stage, iteration - self._ends[position] + stage.steps)
        self._done = position + (iteration + 1 == self._ends[position])
        return metrics

    def distilled(self) -> Distilled:
        """uint8 pixels, hard labels, and the teacher that labels their views.

        Before the end, images that are not begun are as they will begin.
        """
        context = self.context
        images = self._images.clone()
        for position, stage in enumerate(self._stages[self._done :]):
            if isinstance(stage, Batch):
                at_hand = self._iterate if position == 0 else None
                images[stage.positions] = self._pixels(at_hand.x if at_hand is not None else self.initial(stage))
        return Distilled(images=images, labels=context.hard_labels(), teacher=context.given(TrainedTeacher).reference())

    def state(self) -> State:
        """Finished images as pixels; images and moments of the batch at hand; which stages are done."""
        tensors = {"finished": self._images[self._finished(self._begun, self._done)]}
        if self._iterate is not None:
            tensors.update(x=self._iterate.x, first=self._iterate.first, second=self._iterate.second)
        return State(tensors=tensors, values={"stages": self._done} | ({"begun": self._begun} if self._begun else {}))

    def load_state(self, state: State) -> None:
        """Take over images, moments and the number of stages.

        Raises:
            ValueError: not the state of such a run.
        """
        self._begun, self._done = int(state.values.get("begun", 0)), int(state.values["stages"])
        if not 0 <= self._begun <= self._done <= len(self._stages):
            raise ValueError(f"stages {self._begun} to {self._done} of {len(self._stages)} done")
        self._images[self._finished(self._begun, self._done)] = state.tensors["finished"].cpu()
        self._iterate = None
        if "x" in state.tensors:
            self._iterate = Iterate(**{name: state.tensors[name].clone() for name in ("x", "first", "second")})

    def _finished(self, begin: int, end: int) -> Tensor:
        """Rows of the synset that some stages made, int64."""
        made = [stage.positions for stage in self._stages[begin:end] if isinstance(stage, Batch)]
        return torch.cat(made) if made else torch.zeros(0, dtype=torch.int64)

    def _valid(self, x: Tensor) -> Tensor:
        """The nearest images whose pixels lie in [0, 1], channel by channel; of ZCA, those of the clamped pixels."""
        preprocess = self.context.preprocess
        if preprocess.kind != "meanstd":
            return preprocess.apply(preprocess.invert(x).clamp(0, 1))
        black = torch.zeros((1, x.shape[1], 1, 1), device=x.device)
        return x.clamp(preprocess.apply(black), preprocess.apply(black + 1))

    def _pixels(self, x: Tensor) -> Tensor:
        pixels = self.context.preprocess.invert(x.detach()).clamp(0, 1) * 255
        return pixels.round().to("cpu", torch.uint8)


def check_teacher_norm(context: Context) -> None:
    """Refuse an architecture without batch norm before a teacher of it is trained.

    Raises:
        UserError: names it.
    """
    spec, name = context.dataset.spec, context.architecture(TrainedTeacher)
    if name is None:  # a context made by hand: setup looks at the teacher itself
        return
    net = build_student(name, channels=spec.channels, size=spec.size, classes=spec.classes, seed=0)
    if not batch_norms(net):
        raise _no_batch_norm(name)


def _no_batch_norm(student: str) -> UserError:
    return UserError(
        f"--teacher-student {student}: a teacher without batch norm keeps no statistics to recover images from; use "
        "one whose name has -bn, e.g. convnet-d3-w128-bn or resnet18-bn"
    )
