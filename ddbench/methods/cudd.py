"""CUDD: curriculum dataset distillation, images made in phases, each against a guide trained on the earlier ones.

Ma, Cao, Yang, Gong, Wei: "Curriculum Dataset Distillation"; arXiv 2405.09150; code: MIV-XJTU/CUDD. Where paper and code
differ, or only the code is public, this follows the code.

SRe2L's recovery, but the images start as real ones and stay near them, and after each phase a student (the *guide*) is
trained on all images so far with the teacher's labels. In the next phase, real images are taken that the teacher knows
and the guide does not, and the images are pushed to where the guide is wrong while the teacher is still right.

Deviations from the public code, all listed in ``methods/cudd/README.md``: images start in the space that the teacher
knows; teacher-wrong images are told by their own class; explicit seeds; pixels are stored, not JPEG.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.config import Here, setting
from ddbench.data.dataset import class_indices
from ddbench.data.mapped import gather
from ddbench.methods.base import Context, State, check_ipc
from ddbench.methods.facts import Facts
from ddbench.methods.families.recovery import SHARE, Batch, Recovery, RecoveryConfig, Stage
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS, Protocol, changed
from ddbench.protocols.targets import targets
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.numbers import whole
from ddbench.synset import Budget, Synset
from ddbench.training.loops import Epoch, Resume, train
from ddbench.training.optimizers import (
    Optimizer,
    OptimizerSettings,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)

GUIDE_PROTOCOL = "fkd"
"""What trains the guide, with the labels made on line: AdamW, cosine, temperature 20, crop, flip, CutMix."""

CHUNK = 256
"""Real images that a network judges at once."""

SURE = 1e-12
"""Keeps the logarithm finite where the guide is sure."""


@dataclass(frozen=True, kw_only=True)
class CUDDConfig(RecoveryConfig):
    """Settings of CUDD; those of its public code are for ImageNet-1K, these are for small images."""

    crop_scale: float = setting(0.4, above=0, at_most=1, expected=SHARE)
    """Least share of the image that a view shows (RandomResizedCrop); 1: no crop."""
    flip: bool = True
    """Mirror views at random; left out on digits."""
    phases: str = "auto"
    """IPC that is reached by the end of each phase, joined by commas (10,20,50); auto: half, then all."""
    anchor_weight: float = setting(1.0, at_least=0)
    """Weight of the squared distance between a view and the same view of the real image that it began as."""
    adversarial_weight: float = setting(1.0, at_least=0)
    """Weight of the term that makes the guide wrong, from the second phase on."""
    init_space: Literal["normalised", "unit"] = "normalised"
    """Where images start: as network input, or as pixels in [0, 1] taken for it (the public code's slip)."""
    guide_epochs: int = setting(150, at_least=1)
    """Passes over all images so far that train the guide (--student) after each phase but the last."""
    guide_lr: float = setting(1e-3, above=0)
    """Its learning rate in the first training."""
    guide_lr_again: float = setting(5e-4, above=0)
    """Its learning rate in later trainings, which go on from the earlier weights (three phases or more)."""
    guide_batch: int = setting(128, at_least=2)
    """Images a step of its training."""
    guide_crop_scale: float = setting(0.08, above=0, at_most=1, expected="a share above 0 and up to 1")
    """Least share of the image in its views."""


@dataclass(frozen=True, kw_only=True)
class GuideTraining(Stage):
    """The guide is trained on the images of the phases up to ``phase``; a step is an epoch.

    Attributes:
        ipc: images of each class that there are by then.
    """

    phase: int
    ipc: int


def parse_phases(text: str, ipc: int) -> tuple[int, ...]:
    """The IPC that is reached by the end of each phase, ascending, the last one ``ipc``.

    Raises:
        UserError: no ascending numbers, or another end.
    """
    if text == "auto":
        return (ipc // 2, ipc) if ipc > 1 else (ipc,)
    parts = text.split(",")
    ends = tuple(end for part in parts if (end := whole(part.strip())) is not None)
    if len(ends) != len(parts) or not ends or list(ends) != sorted(set(ends)) or ends[0] < 1 or ends[-1] != ipc:
        raise UserError(
            f"--phases {text}: expected ascending numbers of images per class joined by commas that end with --ipc "
            f"{ipc}, e.g. {max(1, ipc // 2)},{ipc}, or auto"
        )
    return ends


def adversarial_loss(guide: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """``mean_b -log(1 - softmax(q_b s_b)_y + 1e-12)`` with ``q_b = 1`` where the teacher is right, else 0; a scalar.

    Where the teacher is wrong the term is the constant ``-log(1 - 1/K)`` and has no gradient, but counts in the mean.

    Args:
        guide: logits s ``(n, K)`` of the guide.
        teacher: logits ``(n, K)`` of the teacher, of the same views.
        labels: int64 ``(n,)``.
    """
    right = (teacher.argmax(1) == labels).to(guide.dtype)
    sure = (guide * right.unsqueeze(1)).softmax(1).gather(1, labels.unsqueeze(1))
    return -(1 - sure + SURE).log().mean()


def choose(order: Tensor, teacher_right: Tensor, guide_right: Tensor | None, count: int) -> Tensor:
    """Which of the real images of a class a phase begins with: ``count`` positions, int64.

    First those that the teacher knows and the guide does not; then those that neither knows; then any. Without a guide,
    first those that the teacher knows.

    Args:
        order: int64 positions that are still free, shuffled; equals are taken in this order.
        teacher_right, guide_right: bool, by position.

    Raises:
        ValueError: fewer are free than are wanted.
    """
    if len(order) < count:
        raise ValueError(f"{len(order)} images are left, {count} are wanted")
    known = teacher_right[order]
    if guide_right is None:
        rank = (~known).long()
    else:
        rank = torch.where(guide_right[order], 2, (~known).long())
    return order[torch.argsort(rank, stable=True)[:count]]


class CUDD(Recovery[CUDDConfig]):
    """Images recovered in phases, from real ones, against a guide trained on the earlier phases."""

    config_class = CUDDConfig
    facts = Facts(
        title="CUDD",
        line="recovered in phases, each against a student of the earlier ones",
        family="recovery from a teacher",
        protocol="kd-v1",
        paper="Curriculum Dataset Distillation",
        authors=("Zhiheng Ma", "Anjia Cao", "Funing Yang", "Yihong Gong", "Xing Wei"),
        venue="TIP",
        journal=True,
        year=2025,
        arxiv="2405.09150",
        code="https://github.com/MIV-XJTU/CUDD",
        licence="none stated",
    )

    @classmethod
    def idle(cls, config: CUDDConfig, context: Context) -> Mapping[str, str]:
        """What is of phases that there are not; at IPC 1 there can only be one, and recipes may be those of others."""
        phases = len(parse_phases(config.phases, context.ipc))
        why = Here if config.phases == "auto" else str
        if phases == 1 < context.ipc:
            of_guide = ("guide_epochs", "guide_lr", "guide_lr_again", "guide_batch", "guide_crop_scale")
            return dict.fromkeys(("adversarial_weight", *of_guide), why("with one phase: there is no guide"))
        return {"guide_lr_again": why("with two phases: the guide is trained once")} if phases == 2 else {}

    @classmethod
    def check(cls, config: CUDDConfig, context: Context) -> None:
        """As for every recovery; phases, enough real images.

        Raises:
            UserError: names the flag, its value and what is possible.
        """
        parse_phases(config.phases, context.ipc)
        check_ipc(context.ipc, context.train, context.classes, context.dataset.spec.class_names)
        super().check(config, context)

    def stages(self) -> list[Stage]:
        """Phase by phase its batches, then the training of the guide; after the last phase none."""
        found: list[Stage] = []
        start = number = 0
        ends = parse_phases(self.config.phases, self.context.ipc)
        for phase, end in enumerate(ends):
            batches = self.batches(start, end, phase=phase, number=number)
            found += batches
            if end < self.context.ipc:
                found.append(GuideTraining(steps=self.config.guide_epochs, phase=phase, ipc=end))
            start, number = end, number + len(batches)
        return found

    def pieces(self) -> Sequence[range]:
        """One: a phase needs the images and the guide of the phases before it."""
        return ()

    def setup(self) -> None:
        """As for every recovery; no real image is chosen yet, no guide is there."""
        super().setup()
        self._chosen = torch.full((len(self._images),), -1, dtype=torch.int64)
        self._anchor = torch.empty(0)
        self._anchor_batch = -1
        self._guide: nn.Module | None = None
        self._training: Iterator[Epoch] | None = None
        self._guide_optimizer: dict[str, Tensor] = {}

    # Recovery

    def stage_step(self, stage: Stage, step: int) -> dict[str, float]:
        """A step of the images, or an epoch of the guide."""
        if isinstance(stage, GuideTraining):
            return self._train_guide(stage, step)
        assert isinstance(stage, Batch)
        if step == 0:
            self._choose(stage.phase)
        return self.recover(stage, step)

    def initial(self, batch: Batch) -> Tensor:
        """The real images that were chosen for the batch; noise for those of a phase that has not begun."""
        index = self._chosen[batch.positions]
        if bool((index < 0).any()):
            return super().initial(batch)
        images = gather(self.context.train.images, index)
        return self.context.preprocess.apply(images) if self.config.init_space == "normalised" else images.float() / 255

    def objective(self, batch: Batch, step: int, x: Tensor) -> dict[str, Tensor]:
        """SRe2L's terms, the distance to the real images, and from the second phase on the guide's."""
        if self._anchor_batch != batch.number:
            self._anchor, self._anchor_batch = self.initial(batch).to(x.device), batch.number
        # One view of both: stacked as channels, they share box, coin and shift.
        view, anchor = self.view(batch, step, torch.cat([x, self._anchor], 1)).chunk(2, 1)
        logits, terms = self.teacher_terms(batch, view)
        terms["anchor"] = self.config.anchor_weight * F.mse_loss(view, anchor)
        if batch.phase:
            assert self._guide is not None
            labels = batch.labels.to(x.device)
            terms["adversarial"] = self.config.adversarial_weight * adversarial_loss(self._guide(view), logits, labels)
        return terms

    # Real images

    def _choose(self, phase: int) -> None:
        """Choose the real images of a phase, if that has not been done."""
        context = self.context
        ends = parse_phases(self.config.phases, context.ipc)
        start, end = (0, *ends)[phase], ends[phase]
        table = self._chosen.view(context.classes, context.ipc)
        if bool((table[:, start:end] >= 0).all()):
            return
        for label, index in enumerate(class_indices(context.train.labels, context.classes)):
            generator = seeds.generator(context.seed, "pool", label)
            shuffled = torch.randperm(len(index), generator=generator)
            used = torch.isin(index[shuffled], table[label, :start])
            known = self._right(self.teacher, index, label)
            learned = self._right(self._guide, index, label) if self._guide is not None else None
            table[label, start:end] = index[choose(shuffled[~used], known, learned, end - start)]

    @torch.no_grad()
    def _right(self, net: nn.Module, index: Tensor, label: int) -> Tensor:
        """Whether a network in evaluation mode gives training images their class, bool ``(n,)``."""
        context = self.context
        found = []
        for part in index.split(CHUNK):
            x = context.preprocess.apply(gather(context.train.images, part).to(context.device))
            found.append((net(x).argmax(1) == label).cpu())
        return torch.cat(found)

    # The guide

    def _train_guide(self, stage: GuideTraining, step: int) -> dict[str, float]:
        """An epoch of the guide's training.

        Raises:
            UserError: it diverged.
        """
        if step == 0:
            self._guide_optimizer = {}
            if self._guide is None:
                self._guide = self._fresh_guide()
        if self._training is None or step == 0:
            self._training = self._begin_training(stage, step)
        assert self._guide is not None
        epoch = next(self._training)
        if not math.isfinite(epoch.loss):
            raise UserError(
                f"the guide {self.context.student} diverged in epoch {epoch.number} of phase {stage.phase + 1}; lower "
                f"--guide-lr ({self.config.guide_lr:g}) or --guide-lr-again ({self.config.guide_lr_again:g})"
            )
        if step + 1 == stage.steps:
            self._training, self._guide_optimizer = None, {}
            self._guide.requires_grad_(False).eval()
        return {"guide_loss": epoch.loss, "guide_accuracy": epoch.accuracy}

    def _fresh_guide(self) -> nn.Module:
        return self.context.network(seeds.derive(self.context.seed, "guide")).to(self.context.device)

    def _begin_training(self, stage: GuideTraining, done: int) -> Iterator[Epoch]:
        """The guide's training on the images so far, after ``done`` epochs of it."""
        assert self._guide is not None
        protocol, plan = self._guide_plan(stage)
        inputs = plan.inputs(self.context.device)
        labels, loss = targets(plan, inputs, self.context.device, "float32")

        def hold(_: int, stepper: Optimizer) -> None:
            self._guide_optimizer = optimizer_state(stepper, "optimizer")

        return train(
            self._guide.requires_grad_(),
            inputs,
            epochs=stage.steps,
            batch=plan.batch,
            optimizer=_optimizer(protocol),
            policy=plan.policy,
            seed=seeds.derive(self.context.seed, "guide", stage.phase),
            factor=functools.partial(protocol.factor, epochs=stage.steps),
            labels=labels,
            loss=loss,
            resume=Resume(epochs=done, optimizer=self._guide_optimizer) if done else None,
            checkpoint=hold,
        )

    def _guide_plan(self, stage: GuideTraining) -> tuple[Protocol, Plan]:
        """How the guide is trained, with the teacher's labels of every view."""
        config, context, spec = self.config, self.context, self.context.dataset.spec
        protocol, _ = changed(
            PROTOCOLS[GUIDE_PROTOCOL],
            labels="teacher",
            epochs=stage.steps,
            lr=config.guide_lr_again if stage.phase else config.guide_lr,
            batch=config.guide_batch,
            crop_scale=config.guide_crop_scale,
        )
        rows = self._images.view(context.classes, context.ipc, *spec.shape)[:, : stage.ipc]
        synset = Synset(
            images=rows.flatten(0, 1),
            labels=torch.arange(context.classes).repeat_interleave(stage.ipc),
            preprocess=context.preprocess.to_json(),
            budget=Budget("ipc", stage.ipc),
            dataset=spec.name,
            fingerprint=context.dataset.fingerprint,
            class_names=spec.class_names,
            method="cudd",
            config={},
            seed=context.seed,
        )
        plan = Plan(
            synset=synset,
            protocol=protocol,
            preprocess=context.preprocess,
            flip=spec.flip,
            teacher=context.given(TrainedTeacher),
        )
        return protocol, plan

    # Resuming

    def state(self) -> State:
        """As for every recovery; the real images that were chosen, the guide and its optimiser."""
        state = super().state()
        tensors = {**state.tensors, "chosen": self._chosen.clone()}
        if self._guide is not None:
            tensors.update({f"guide.{name}": tensor.clone() for name, tensor in self._guide.state_dict().items()})
        tensors.update({f"guide_{name}": tensor.clone() for name, tensor in self._guide_optimizer.items()})
        return State(tensors=tensors, values=state.values)

    def load_state(self, state: State) -> None:
        """Take over images, choices, guide and optimiser.

        Raises:
            ValueError, RuntimeError: not the state of such a run.
        """
        super().load_state(state)
        self._chosen.copy_(state.tensors["chosen"])
        weights = {name.removeprefix("guide."): t for name, t in state.tensors.items() if name.startswith("guide.")}
        if weights:
            self._guide = self._fresh_guide().requires_grad_(False).eval()
            self._guide.load_state_dict(weights)
        self._guide_optimizer = {
            name.removeprefix("guide_"): tensor.clone()
            for name, tensor in state.tensors.items()
            if name.startswith("guide_optimizer.")
        }
        if self._guide_optimizer:
            if self._guide is None:
                raise ValueError("an optimiser's state without its network")
            stepper = make_optimizer(self._guide.parameters(), _optimizer(PROTOCOLS[GUIDE_PROTOCOL]))
            load_optimizer_state(stepper, "optimizer", self._guide_optimizer)


def _optimizer(protocol: Protocol) -> OptimizerSettings:
    """The optimiser of a protocol; its order of parameters is that of what it gathered."""
    return OptimizerSettings(
        name=protocol.optimizer,
        lr=protocol.lr,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
        decay_vectors=protocol.decay_vectors,
    )
