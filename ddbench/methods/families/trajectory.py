"""What all methods share that distil by matching expert trajectories (MTT, FTD, TESLA, DATM, AST, PDD).

One outer iteration: draw a segment of an expert's trajectory (expert, start epoch t, one or more target epochs, the
student's batches and augmentation draws); let a student start from the expert's weights theta*_t and make N steps of
SGD on the synset with the learned rate beta; the loss is the distance of its weights to the targets, each divided by
the expert's own move (MTT, equation 2); descend in the images and in beta.

A method of the family is a config and the hooks of :class:`TrajectoryMethod` that it changes. Every draw is named by
(seed, purpose, iteration) with the *same* purposes for the whole family: two of its methods with one seed start from
the same images and, with the same settings, follow the same segments.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from ddbench.config import setting
from ddbench.data.augment import parse_strategy
from ddbench.data.mapped import gather
from ddbench.data.specs import resolve_augmentation, resolve_strategy
from ddbench.experts.store import TrajectoryStore
from ddbench.methods.base import Context, Distilled, Method, NotFiniteError, State
from ddbench.methods.needs.experts import Experts
from ddbench.methods.parts.canvas import Canvas, first_images
from ddbench.methods.parts.judges import Judges
from ddbench.methods.parts.masking import MaskConfig
from ddbench.methods.parts.rate import LearnedRate
from ddbench.methods.parts.segments import Segment, Segments
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.numbers import byte_count
from ddbench.training.distribution import mixes_images
from ddbench.training.flat import FlatNet
from ddbench.training.inner import WHOLE, InnerLoop, usual_memory
from ddbench.training.loops import forward_flops
from ddbench.training.problem import InnerProblem, InnerResult, OuterTerm, match_term
from ddbench.training.twice import check_batches, check_steady


@dataclass(frozen=True, kw_only=True)
class TrajectoryConfig(MaskConfig):
    """Settings that the whole family has; symbols as in MTT's section 3 and tables."""

    iterations: int = setting(5000, at_least=1)
    """Outer iterations."""
    student_steps: int = setting(20, at_least=1)
    """N: SGD steps of the student on the synset in one outer iteration."""
    expert_epochs: int = setting(2, at_least=1)
    """M: epochs of the expert between start and target."""
    max_start_epoch: int = setting(20, at_least=1)
    """T+: start epochs are drawn from 0 to T+ - 1; needs T+ - 1 + M <= epochs of the experts."""
    min_start_epoch: int = setting(0, at_least=0)
    """First start epoch that is drawn (0 in MTT)."""
    batch_syn: int = setting(0, at_least=0)
    """Synthetic images in one student step; 0: the whole synset."""
    lr_images: float = setting(100.0, at_least=0)
    """Learning rate of the images (network-input units)."""
    lr_lr: float = setting(1e-5, at_least=0)
    """Learning rate of the student's learning rate beta (of log beta with --lr-parametrisation log)."""
    lr_student: float = setting(
        0.01, above=0, expected="a number above 0: a student that does not move cannot match anything"
    )
    """beta_0: the student's learning rate at the start."""
    momentum: float = setting(0.5, at_least=0, below=1)
    """Momentum of both outer optimisers."""
    lr_parametrisation: Literal["raw", "log"] = "raw"
    """How beta is learned: raw as in the paper (it can turn negative), or log (always positive)."""
    init: Literal["real", "noise", "dream"] = "real"
    """First images: random real ones of the class, standard normal noise, or real ones chosen by DREAM."""
    augmentation: str = "dsa"
    """DSA families joined by _, dsa for all, or none (no flip on digits); on the student's batches."""
    expert_order: Literal["uniform", "cycle"] = "uniform"
    """Which expert an iteration uses: any (as --load_all of the public code), or each once a round."""


@dataclass(frozen=True, kw_only=True)
class InnerConfig(TrajectoryConfig):
    """The family's settings, for methods that leave the mode of the inner loop open."""

    inner: Literal["adjoint", "unroll", "auto", "truncated", "higher"] = "adjoint"
    """How the outer gradient is computed: adjoint equals unroll, in the memory of one step; auto equals both, faster by
    --memory; truncated as in TESLA."""
    memory: str | None = setting(None, omit_default=True)
    """What --inner auto keeps graphs of the student's last steps in, such as 8G or 500M; where none is given 2G, on a
    GPU a quarter of its memory, at most half of what is free."""


def bytes_of(config: TrajectoryConfig, device: torch.device) -> int:
    """Bytes of ``--memory``; 0 where the inner loop keeps no graphs.

    Args:
        device: where the student is trained, whose memory decides where nothing is said.

    Raises:
        UserError: it is no size, or given where no graphs are kept.
    """
    if not isinstance(config, InnerConfig) or (config.inner != "auto" and config.memory is None):
        return 0
    if config.memory is None:
        return usual_memory(device)
    found = byte_count(config.memory)
    if found is None:
        raise UserError(f"--memory {config.memory:.40}: expected a size such as 8G or 500M")
    if config.inner != "auto":
        raise UserError(
            f"--memory {config.memory} has no meaning with --inner {config.inner}, which keeps no graphs: give --inner "
            "auto, or leave --memory out"
        )
    return found


def _shorter(config: TrajectoryConfig, epochs: int) -> str:
    """Which settings fit experts of so many epochs, as the first half of a choice; empty: none."""
    latest, farthest = epochs + 1 - config.expert_epochs, epochs + 1 - config.max_start_epoch
    if latest > config.min_start_epoch:
        return f"lower --max-start-epoch to {latest}, or "
    if farthest >= 1:
        return f"lower --expert-epochs to {farthest}, or "
    least = config.min_start_epoch + 1
    if epochs >= least:
        return f"lower --expert-epochs to {epochs + 1 - least} and --max-start-epoch to {least}, or "
    return ""


C = TypeVar("C", bound=TrajectoryConfig)

BATCH = 256
"""Images that an expert judges at once."""


class TrajectoryMethod(Method[C]):
    """Base of the family; it is MTT with the gradient mode left open.

    A subclass may change: :attr:`inner_mode`; :meth:`first_images`, :meth:`first_labels`; :attr:`store`;
    :meth:`start_range`, :meth:`target_epochs`, :meth:`draw_segment`; :attr:`inner_momentum`, :meth:`labels`,
    :meth:`scales`, :meth:`terms`, :meth:`problem`; :meth:`descend`, :meth:`after_step`; :meth:`delivered_images`,
    :meth:`delivered_labels`; and :meth:`state` with :meth:`load_state` for what it adds. :meth:`expert_network` and
    :meth:`expert_logits` ask an expert.

    Attributes:
        canvas: the synset's images, in network-input space.
        hard_labels: int64 ``(S,)``.
        rate: beta.
        segments: what the iterations follow.
        inner: the inner-loop engine.
        kept: images and labels of earlier stages (:mod:`ddbench.methods.pdd`), put in before ``setup``: they come
            before the method's own ones, the student sees them too, and they do not move.
    """

    inner_momentum: ClassVar[float] = 0.0
    """Momentum of the student's SGD."""

    second_order = True

    canvas: Canvas
    hard_labels: Tensor
    rate: LearnedRate
    segments: Segments
    inner: InnerLoop
    kept: Distilled | None = None

    @classmethod
    def needs(cls, config: C) -> tuple[Experts]:
        """Experts trained by the optimiser alone."""
        return (Experts(),)

    @classmethod
    def check(cls, config: C, context: Context) -> None:
        """As every method's, and T+ - 1 + M <= E."""
        super().check(config, context)
        if config.max_start_epoch <= config.min_start_epoch:
            raise UserError(
                f"--max-start-epoch {config.max_start_epoch}: expected more than --min-start-epoch "
                f"{config.min_start_epoch}"
            )
        bytes_of(config, context.device)
        parse_strategy(resolve_augmentation(config.augmentation, context.dataset.spec.flip))
        net = context.network(0)
        check_steady(net, context.dataset.spec.shape, context.student)
        check_batches(config.batch_syn, context.classes * context.ipc, net, context.dataset.spec.shape, context.student)
        store = context.given(Experts)
        needed = config.max_start_epoch - 1 + config.expert_epochs
        if needed > store.recipe.epochs:
            spec, (need,) = context.dataset.spec, cls.needs(config)
            longer = store.command(needed, kind=need.kind, size=spec.size if spec.resizable else None)
            raise UserError(
                f"--max-start-epoch {config.max_start_epoch} with --expert-epochs {config.expert_epochs} needs experts "
                f"of at least {needed} epochs (T+ - 1 + M), those in {store.folder} have {store.recipe.epochs}: "
                f"{_shorter(config, store.recipe.epochs)}record longer experts with: {longer}"
            )

    @classmethod
    def terms_of_a_step(cls, config: C, context: Context) -> int:
        """Images in the smallest batch of the student, unless network or inner loop take them together."""
        together = mixes_images(context.network(0)) or getattr(config, "inner", "adjoint") in WHOLE
        images = context.classes * context.ipc
        batch = min(config.batch_syn or images, images)
        return 1 if together else images % batch or batch

    @classmethod
    def compiles(cls, config: C) -> bool:
        """The student's steps, where the inner loop goes step by step."""
        return getattr(config, "inner", "adjoint") not in WHOLE

    @property
    def iterations(self) -> int:
        """Outer iterations."""
        return self.config.iterations

    @property
    def augmentation(self) -> str:
        """The resolved strategy."""
        return resolve_strategy(self.config.augmentation, self.context.dataset.spec.flip)

    @property
    def inner_mode(self) -> str:
        """How the outer gradient is computed: one of :data:`ddbench.training.inner.MODES`."""
        config: TrajectoryConfig = self.config
        return config.inner if isinstance(config, InnerConfig) else "adjoint"

    @property
    def store(self) -> TrajectoryStore:
        """The experts that are followed."""
        return self.context.given(Experts)

    @property
    def learned_lr(self) -> Tensor:
        """beta as it is now, a scalar."""
        return self.rate.beta

    @property
    def images(self) -> Tensor:
        """The synset's images as they are now, float32 ``(S, C, H, W)`` in network-input space."""
        return self.canvas.images

    # Before the first step

    def setup(self) -> None:
        """First images, learned rate, segments, student network."""
        config, context = self.config, self.context
        images, labels = self.first_images(), self.first_labels()
        if self.kept is not None:
            known = self.kept.labels
            images = torch.cat([self.kept.images, images])
            labels = torch.cat([known.argmax(1) if known.is_floating_point() else known, labels])
        self.canvas = self.make_canvas(images.to(context.device))
        self.hard_labels = labels.to(context.device)
        log = config.lr_parametrisation == "log"
        self.rate = LearnedRate(
            config.lr_student, lr=config.lr_lr, momentum=config.momentum, log=log, device=context.device
        )
        self.segments = Segments(
            store=self.store,
            seed=context.seed,
            order=config.expert_order,
            batch=config.batch_syn,
            steps=config.student_steps,
            strategy=parse_strategy(self.augmentation),
            mask=config,
        )
        module = context.network(0).to(context.device)
        batch = min(config.batch_syn or len(images), len(images))
        # an adjoint step costs about 12 forward passes (forward and backward twice, and the backward of both)
        shape = tuple(images.shape[1:])
        flops = 12 * forward_flops(module, shape) * batch * config.student_steps * config.iterations
        mode = context.compile if self.compiles(config) else "off"
        compiler = devices.choose_compiler(mode, flops, context.device, context.console.say)
        self.inner = InnerLoop(FlatNet(module).to(context.device), self.inner_mode, compiler, context.ranks)
        if self.inner_mode == "auto" and not self.inner.memory:
            context.console.say(
                "--inner auto keeps no graphs where steps are compiled or shared out: as --inner adjoint"
            )
        self.inner.memory = self.inner.memory and bytes_of(config, context.device)

    def make_canvas(self, images: Tensor) -> Canvas:
        """What is learned, beginning at images ``(S, C, H, W)``."""
        return Canvas(images, lr=self.config.lr_images, momentum=self.config.momentum)

    def first_images(self) -> Tensor:
        """Images to start from, float32 ``(S, C, H, W)`` in network-input space, class-major."""
        return first_images(self.context, self.config.init, "mtt-init")

    def first_labels(self) -> Tensor:
        """Classes of the first images, int64 ``(S,)``."""
        return self.context.hard_labels()

    @functools.cached_property
    def _judges(self) -> Judges:
        return Judges(self.context, self.store)

    def expert_network(self, expert: int, epoch: int) -> nn.Module:
        """An expert as it was at an epoch, in evaluation mode (:class:`ddbench.methods.parts.judges.Judges`)."""
        return self._judges.network(expert, epoch)

    @torch.no_grad()
    def expert_logits(self, expert: int, images: Tensor) -> Tensor:
        """What an expert says at its last epoch; float32 ``(n, K)`` on the CPU.

        Args:
            images: network input ``(n, C, H, W)``, or int64 ``(n,)``: positions in the training images.
        """
        context, net = self.context, self.expert_network(expert, self.store.recipe.epochs)
        parts = []
        for part in images.split(BATCH):
            given = part.is_floating_point()
            x = part if given else context.preprocess.apply(gather(context.train.images, part))
            parts.append(net(x.to(context.device)).cpu())
        return torch.cat(parts)

    # One outer iteration

    def step(self, iteration: int) -> dict[str, float]:
        """One outer iteration; returns the matching loss, beta, the start epoch and the image gradient's norm."""
        segment = self.draw_segment(iteration)
        result = self.inner(self.problem(segment))
        if self.kept is not None:
            result.images[: len(self.kept.images)] = 0
            if result.labels is not None:
                result.labels[: len(self.kept.images)] = 0
        self.guard(segment, result)
        found = self.descend(segment, result)
        found |= self.after_step(iteration, segment, result)
        return {
            "loss": float(result.loss),
            "learned_lr": float(self.learned_lr),
            "start_epoch": float(segment.start_epoch),
            "grad_norm_images": float(result.images.norm()),
            **found,
        }

    def start_range(self, iteration: int) -> tuple[int, int]:
        """Start epochs of an iteration: drawn from the first to the second, the second excluded."""
        return self.config.min_start_epoch, self.config.max_start_epoch

    def target_epochs(self) -> tuple[int, ...]:
        """Epochs after the start whose weights the iteration needs, ascending; the last one is M."""
        return (self.config.expert_epochs,)

    def draw_segment(self, iteration: int) -> Segment:
        """The segment of an iteration: depends on the seed and the iteration only.

        Raises:
            UserError: an expert that does not move between start and target.
        """
        return self.segments.draw(iteration, self.start_range(iteration), self.target_epochs(), self.images)

    def labels(self, segment: Segment) -> Tensor:
        """What the student learns: int64 classes ``(S,)``, or logits ``(S, K)``, which then have a gradient too."""
        return self.hard_labels

    def scales(self, segment: Segment) -> float:
        """Factor of the student's loss."""
        return 1.0

    def terms(self, segment: Segment) -> list[OuterTerm]:
        """The outer loss: here the distance to the last target."""
        return [match_term(len(segment.batches), segment.target, segment.start)]

    def problem(self, segment: Segment) -> InnerProblem:
        """What the student does, and how it is judged."""
        return InnerProblem(
            start=segment.start,
            images=self.images.detach(),
            labels=self.labels(segment),
            lr=self.learned_lr,
            batches=segment.batches,
            draws=segment.draws,
            masks=segment.masks,
            terms=self.terms(segment),
            momentum=self.inner_momentum,
            scales=self.scales(segment),
        )

    def guard(self, segment: Segment, result: InnerResult) -> None:
        """Refuse a step whose loss or gradient is not finite.

        Raises:
            NotFiniteError: says the likely cause.
        """
        loss = float(result.loss)
        parts = [result.images, result.lr, *([] if result.labels is None else [result.labels])]
        if all(bool(torch.isfinite(part).all()) for part in parts) and abs(loss) < float("inf"):
            return
        config, beta = self.config, float(self.learned_lr)
        if beta <= 0:
            cause = f"the learned lr is {beta:g}: use --lr-parametrisation log or a smaller --lr-lr"
        elif beta > 10 * config.lr_student:
            cause = f"the learned lr grew from {config.lr_student:g} to {beta:g}: use a smaller --lr-lr"
        elif segment.start_epoch > config.max_start_epoch // 2:
            cause = f"a late start epoch ({segment.start_epoch}): lower --max-start-epoch or --lr-images"
        else:
            cause = f"--lr-images {config.lr_images:g} is too high for this synset: divide it by 10"
        raise NotFiniteError(f"the matching loss is {loss:g}; likely cause: {cause}")

    def descend(self, segment: Segment, result: InnerResult) -> dict[str, float]:
        """Take the outer step; returns further metrics."""
        self.canvas.step(result.images)
        self.rate.step(result.lr)
        return {}

    def after_step(self, iteration: int, segment: Segment, result: InnerResult) -> dict[str, float]:
        """What follows an outer step; returns further metrics."""
        return {}

    # The product

    def delivered_images(self) -> Tensor:
        """Images of the product, in network-input space."""
        return self.canvas.product

    def delivered_labels(self) -> Tensor:
        """Labels of the product: classes, or logits."""
        return self.hard_labels

    def distilled(self) -> Distilled:
        """Images in network-input space, labels, beta."""
        return Distilled(
            images=self.delivered_images().detach().cpu().clone(),
            labels=self.delivered_labels().detach().cpu().clone(),
            learned_lr=self.learned_lr.cpu(),
        )

    def state(self) -> State:
        """Images, learned rate, momenta."""
        return State(tensors={**self.canvas.state(), **self.rate.state()})

    def load_state(self, state: State) -> None:
        """Take over images, learned rate and momenta."""
        self.canvas.load_state(state.tensors)
        self.rate.load_state(state.tensors)
