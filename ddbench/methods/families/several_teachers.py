"""Recovery from several teachers in turn that matches more statistics: what G-VBSM and EDC share.

SRe2L's recovery (:mod:`ddbench.methods.families.recovery`) with these changes, each a setting: step i of a batch asks
teacher i mod K; statistics of convolutions' inputs are matched beside those of batch norms; a running average of a
batch's statistics has the value, this step's the gradient; half of the distance is to the statistics of the batch's own
classes; images begin as real ones; the images of a class are spread over more directions; the logits stay near those of
an average of the images (:mod:`ddbench.training.layer_statistics` holds the objectives).

With one teacher and all of it off this is SRe2L, to the byte. The averages begin anew with every batch of images, so
that a batch needs nothing of the others; the public code carries them on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.config import Here, setting
from ddbench.data.dataset import class_indices
from ddbench.data.mapped import gather
from ddbench.data.policy import ALWAYS, Policy
from ddbench.methods.base import Context, State, repeated
from ddbench.methods.families.recovery import Batch, Recovery, RecoveryConfig, check_teacher_norm, shared_view
from ddbench.methods.needs.teacher import TrainedTeacher, TrainedTeachers
from ddbench.networks.build import build_student
from ddbench.runtime import seeds
from ddbench.runtime.device import sent
from ddbench.runtime.errors import UserError
from ddbench.teachers.together import JOIN, Together
from ddbench.training.layer_statistics import (
    Moments,
    Targets,
    collect,
    densification,
    distance,
    matched_layers,
    moments,
    of_labels,
    remembered,
    running_form,
    weighted,
)
from ddbench.training.loops import inputs_of, views
from ddbench.training.losses import soft_target_kl
from ddbench.training.statistics_matching import FIRST_WEIGHT, look_at

REAL_BATCH = 64
"""Images of a batch of the pass over the training set."""

FLAT_TEMPERATURE = 4.0
"""Temperature of the flatness term."""

AVERAGE = "average"
"""First part of the names of running averages in a state."""


@dataclass(frozen=True, kw_only=True)
class SeveralTeachersConfig(RecoveryConfig):
    """Settings of methods of this kind; defaults that say nothing are those of EDC on CIFAR-10."""

    convolutions: bool = True
    """Match the statistics of what convolutions are given too: of channels, and of patches of 4 x 4 pixels."""
    average: float = setting(0.8, at_least=0, below=1)
    """Share of the earlier steps in the running average of a batch's statistics; 0: no average."""
    legacy_average: bool = setting(False, unless=("average", 0))
    """The averages begin at 0, as in the public code, whose test for the first step never holds."""
    category: Literal["none", "class", "local"] = "class"
    """Half of the distance is to the statistics of the batch's classes over all their training images (class), or to
    those of real images drawn for the batch (local); none: all of it is to those of the whole training set."""
    local_images: int = setting(50, at_least=1, of=("category", "local"))
    """With --category local: real images drawn for each image of a batch."""
    first_weight: float = setting(FIRST_WEIGHT, at_least=0)
    """Weight of the first layer; the others have 1."""
    drop: float = setting(0.0, at_least=0, below=1, unless=("convolutions", False))
    """How often a convolution is left out of a step, at random."""
    densify: float = setting(0.0, at_least=0)
    """Weight of the term that spreads the images of a class; needs several of a class in a batch (--order class)."""
    order: Literal["index", "class"] = setting("index", unless=("joint", True))
    """What a batch holds: one image of each class (of up to 100), or class after class, --batch images."""
    batch: int = setting(100, at_least=1, of=("order", "class"), unless=("joint", True))
    """Images of a batch with --order class."""
    start: Literal["noise", "real"] = "real"
    """What images begin as."""
    pad: bool = False
    """Views are first shifted by a window of the zero-padded image (4 px at 32)."""
    flatness: float = setting(0.0, at_least=0)
    """Weight of the distance to the logits of an average of the images over the steps; 0 in all published runs."""
    flatness_decay: float = setting(0.9, at_least=0, below=1, unless=("flatness", 0))
    """Share of the earlier steps in that average."""


R = TypeVar("R", bound=SeveralTeachersConfig)


@dataclass(kw_only=True)
class Taught:
    """A teacher, the layers of it that are matched, and what they are matched with."""

    net: nn.Module
    layers: list[nn.Module]
    targets: Targets
    local: dict[int, list[Moments]] = field(default_factory=dict)


class SeveralTeachers(Recovery[R], Generic[R]):
    """Base of the methods that recover images from several teachers."""

    @classmethod
    def needs(cls, config: R) -> tuple[TrainedTeacher]:
        """One teacher or several."""
        return (TrainedTeachers(),)

    @classmethod
    def idle(cls, config: R, context: Context) -> Mapping[str, str]:
        """The spread of a class that has one image in a batch."""
        found = dict(super().idle(config, context))
        if context.ipc == 1:
            found["densify"] = Here("with --ipc 1: a batch has one image of a class")
        elif config.order == "index" and not config.joint:
            found["densify"] = "with --order index: a batch has one image of a class"
        return found

    @classmethod
    def check_network(cls, config: R, context: Context) -> None:
        """Refuse networks of which nothing is matched; without convolutions these are those without batch norm.

        Raises:
            UserError: names it.
        """
        spec = context.dataset.spec
        for name in (context.architecture(TrainedTeacher) or "").split(JOIN):
            if not name:  # a context made by hand: the teacher is looked at when it is taken
                continue
            if not config.convolutions:
                check_teacher_norm(replace(context, architectures={TrainedTeacher.key: name}))
                continue
            net = build_student(name, channels=spec.channels, size=spec.size, classes=spec.classes, seed=0)
            if not matched_layers(net, convolutions=True):
                raise _nothing_to_match(name)

    def take_teacher(self) -> None:
        """Load the teachers, and collect what their layers are matched with."""
        context, config = self.context, self.config
        found = context.given(TrainedTeacher)
        net = found.network(context.device)
        nets = list(net.members) if isinstance(net, Together) else [net]
        self._taught = []
        for one, name in zip(nets, found.student.split(JOIN), strict=True):
            layers = matched_layers(one, convolutions=config.convolutions)
            if not layers:
                raise _nothing_to_match(name)
            self._taught.append(Taught(net=one, layers=layers, targets=self._targets(one, layers)))
        self._averages: dict[tuple[int, int], Moments] = {}
        self._seen: dict[tuple[int, int], Moments] = {}
        self._smooth: Tensor | None = None
        self._before = torch.empty(0)

    def _targets(self, net: nn.Module, layers: list[nn.Module]) -> Targets:
        """The statistics that a teacher's layers are matched with; one pass over the training images where needed."""
        known = [one for one in remembered(layers) if one is not None]
        by_class = self.config.category == "class"
        if len(known) == len(layers) and not by_class:
            return Targets(whole=known, classes=[])
        return collect(net, layers, self._real_views(), self.context.classes if by_class else 0)

    def _real_views(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the training images in random order, shifted and mirrored, and their labels."""
        context = self.context
        inputs = inputs_of(context.train, context.preprocess, context.device)
        flip = context.dataset.spec.flip
        policy = Policy((ALWAYS["crop"], *(("flip",) if flip else ())))
        seed = seeds.derive(context.seed, "statistics")
        for view in views(inputs, batch=REAL_BATCH, policy=policy, seed=seed, epoch=0):
            yield view.x, inputs.labels[view.index]

    # What Recovery asks

    def batches(self, start: int, end: int, *, phase: int = 0, number: int = 0) -> list[Batch]:
        """One index after the other, or class after class."""
        if self.config.order == "index" or self.config.joint:
            return super().batches(start, end, phase=phase, number=number)
        ipc = self.context.ipc
        rows = torch.cat([ipc * label + torch.arange(start, end) for label in range(self.context.classes)])
        return [
            Batch(
                steps=self.config.iterations,
                number=number + k,
                phase=phase,
                positions=part,
                labels=part.div(ipc).long(),
            )
            for k, part in enumerate(rows.split(self.config.batch))
        ]

    def initial(self, batch: Batch) -> Tensor:
        """Real images of the classes, or noise."""
        if self.config.start == "noise":
            return super().initial(batch)
        context = self.context
        index = context.random_positions("init")[batch.positions]
        return context.preprocess.apply(gather(context.train.images, index))

    def view(self, batch: Batch, step: int, x: Tensor) -> Tensor:
        """As for every recovery, after a window of the padded image where that is asked for."""
        config = self.config
        return shared_view(
            x,
            crop_scale=self.crop_scale(step),
            flip=config.flip and self.context.dataset.spec.flip,
            jitter=config.jitter,
            signed=config.signed_jitter,
            generator=seeds.generator(self.context.seed, "view", batch.number, step),
            pad=config.pad,
        )

    def objective(self, batch: Batch, step: int, x: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and statistics of this step's teacher, and the further terms that have a weight."""
        config, number = self.config, step % len(self._taught)
        taught, smooth = self._taught[number], None
        labels = sent(batch.labels, x.device)
        if config.flatness:
            # One view of both: stacked as channels, they share box, coin and shift.
            self._before = x.detach()
            near = self._before if self._smooth is None else self._smooth
            view, smooth = self.view(batch, step, torch.cat([x, near], 1)).chunk(2, 1)
        else:
            view = self.view(batch, step, x)
        logits, seen = look_at(taught.net, view, taught.layers, moments)
        terms = {
            "cross_entropy": F.cross_entropy(logits, labels),
            "statistics": config.bn_weight * self._statistics(batch, step, number, seen),
        }
        if config.densify:
            terms["density"] = config.densify * densification(view, labels)
        if smooth is not None:
            with torch.no_grad():
                steady = taught.net(smooth)
            terms["flatness"] = config.flatness * soft_target_kl(logits, steady, FLAT_TEMPERATURE)
        return terms

    def recover(self, batch: Batch, step: int) -> dict[str, float]:
        """As for every recovery; the averages follow when the step was taken."""
        if step == 0:
            self._averages, self._smooth = {}, None
        metrics = super().recover(batch, step)
        self._averages.update(self._seen)
        if self.config.flatness:
            smooth, x = self._smooth, self._before
            self._smooth = x if smooth is None else torch.lerp(x, smooth, self.config.flatness_decay)
        if self._iterate is None:
            self._averages, self._smooth = {}, None
        return metrics

    def _statistics(self, batch: Batch, step: int, number: int, seen: list[Moments]) -> Tensor:
        """The weighted distances of a teacher's layers; the new averages are kept aside until the step is taken."""
        config, taught = self.config, self._taught[number]
        draws = torch.ones(len(seen))
        if config.drop:
            draws = torch.rand(len(seen), generator=seeds.generator(self.context.seed, "drop", batch.number, step))
        own = self._own(batch, number)
        distances, self._seen = [], {}
        for k, (now, whole) in enumerate(zip(seen, taught.targets.whole, strict=True)):
            if isinstance(taught.layers[k], nn.Conv2d) and float(draws[k]) < config.drop:
                distances.append(now[0].sum() * 0)
                continue
            place = (number, k)
            average, form = running_form(self._averages.get(place), now, config.average, legacy=config.legacy_average)
            if config.average:
                self._seen[place] = average
            far = distance(form, whole)
            distances.append(0.5 * far + 0.5 * distance(form, own[k]) if own else far)
        return weighted(distances, config.first_weight)

    def _own(self, batch: Batch, number: int) -> list[Moments]:
        """The statistics of a batch's classes for a teacher, one entry a layer; empty: not asked for."""
        taught = self._taught[number]
        if self.config.category == "class":
            return of_labels(taught.targets.classes, batch.labels)
        if self.config.category == "none":
            return []
        if batch.number not in taught.local:
            context = self.context
            real = gather(context.train.images, self._local_images(batch))
            inputs = context.preprocess.apply(real.to(context.device))
            with torch.no_grad():
                taught.local = {batch.number: look_at(taught.net, inputs, taught.layers, moments)[1]}
        return taught.local[batch.number]

    def _local_images(self, batch: Batch) -> Tensor:
        """Positions of real training images for a batch, int64; of each image's class so many, drawn anew."""
        context, count = self.context, self.config.local_images
        of_class = class_indices(context.train.labels, context.classes)
        generator = seeds.generator(context.seed, "local", batch.number)
        found = []
        for label in batch.labels.tolist():
            index = of_class[label]
            found.append(repeated(index[torch.randperm(len(index), generator=generator)], count))
        return torch.cat(found)

    # Resuming

    def state(self) -> State:
        """As for every recovery; the running averages of the batch at hand."""
        state = super().state()
        tensors = dict(state.tensors)
        for (number, layer), average in self._averages.items():
            tensors |= {f"{AVERAGE}.{number}.{layer}.{kind}": part for kind, part in enumerate(average)}
        if self._smooth is not None:
            tensors["smooth"] = self._smooth
        return State(tensors=tensors, values=state.values)

    def load_state(self, state: State) -> None:
        """Take over images, moments and averages.

        Raises:
            ValueError: not the state of such a run.
        """
        super().load_state(state)
        found: dict[tuple[int, int], dict[int, Tensor]] = {}
        for name, tensor in state.tensors.items():
            if name.startswith(f"{AVERAGE}."):
                number, layer, kind = (int(part) for part in name.split(".")[1:])
                found.setdefault((number, layer), {})[kind] = tensor.clone()
        self._averages = {place: tuple(parts[kind] for kind in sorted(parts)) for place, parts in found.items()}
        smooth = state.tensors.get("smooth")
        self._smooth = None if smooth is None else smooth.clone()


def _nothing_to_match(student: str) -> UserError:
    return UserError(
        f"--teacher-student {student}: a teacher without batch norm or convolutions has no statistics to recover "
        "images from; use e.g. convnet-d3-w128-bn or resnet18-bn"
    )
