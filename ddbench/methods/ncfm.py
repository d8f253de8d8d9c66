"""NCFM: neural characteristic function matching.

Wang, Yang, Liu, Sun, Hu, He, Zhang; CVPR 2025; arXiv 2502.20653; code: gszfwsb/NCFM.

Each iteration: one of the experts, its weights a random mixture of its start and its end; for every class in turn the
features of a real batch and of the class's decoded synthetic images, under one augmentation; the loss is the distance
of their characteristic functions (:mod:`ddbench.training.characteristic`) at random frequencies, and one step on the
images follows. Then, class by class, one step on the expert's own cross-entropy on them. Stored images carry factor x
factor smaller ones, as IDC's. With ``--frequencies learned`` a sampler moves the frequencies to where the two differ:
the images lower the loss, the sampler raises it.

Deviations from the public code, all listed in ``methods/ncfm/README.md``: explicit seeds; the sampler learns (in the
published code its two gradients cancel), and its frequencies are all different; networks and their starts come from the
trajectory store; the product is clamped to [0, 1]; a step whose loss or gradient is not finite is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.config import setting
from ddbench.data.augment import apply, draw
from ddbench.data.dataset import class_indices
from ddbench.data.formation import LARGEST_FACTOR
from ddbench.data.limits import require_memory
from ddbench.data.specs import resolve_augmentation
from ddbench.decoders.multi_formation import formation
from ddbench.methods.base import Context, Distilled, Method, NotFiniteError, State
from ddbench.methods.facts import Facts
from ddbench.methods.families.distribution import PIXELS_AT_ONCE
from ddbench.methods.needs.experts import Experts
from ddbench.methods.parts.batches import RealBatches
from ddbench.methods.parts.formation import (
    check_formation,
    check_single,
    first_formed,
    first_images,
    formation_strategies,
    formed_input,
)
from ddbench.methods.parts.frequencies import Frequencies, make_frequencies
from ddbench.networks.base import Student
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.ranks import ALONE
from ddbench.training.characteristic import Characteristic, characteristic, discrepancy, unit_rows
from ddbench.training.distribution import mixes_images
from ddbench.training.flat import FlatNet, draws, load_flat
from ddbench.training.optimizers import OptimizerSettings, load_optimizer_state, make_optimizer, optimizer_state
from ddbench.training.plateau import Plateau

SCALE = 300.0
"""Factor of the matching loss, as published; it weighs the loss against that of the fine-tuning steps."""


@dataclass(frozen=True, kw_only=True)
class NCFMConfig:
    """Settings of NCFM; the defaults are those of the public code."""

    iterations: int = setting(20000, at_least=1)
    """Outer iterations, each with one expert and two steps a class."""
    batch_real: int = setting(1024, at_least=1)
    """Real images of a class in one step, all different (all there are in a smaller class)."""
    factor: int = setting(2, at_least=1, at_most=LARGEST_FACTOR, expected=f"1 to {LARGEST_FACTOR} tiles a side")
    """Each stored image carries factor x factor smaller ones."""
    frequencies: Literal["gauss", "learned"] = "gauss"
    """Frequencies of the characteristic functions: standard normal, or of a sampler that raises the loss."""
    frequency_count: int = setting(4096, at_least=2)
    """Frequencies in one step."""
    lr_frequencies: float = setting(1e-3, above=0, of=("frequencies", "learned"))
    """Learning rate of the sampler's Adam (learned)."""
    alpha: float = setting(0.5, at_least=0, at_most=1)
    """Weight of the amplitudes' difference: how far features scatter."""
    beta: float = setting(0.5, at_least=0, at_most=1)
    """Weight of the phases' difference: where they lie."""
    finetune_steps: int = setting(1, at_least=0)
    """Sweeps over the classes in an iteration that lower the trained expert's cross-entropy; 0: none."""
    finetune_weight: float = setting(1.0, at_least=0, unless=("finetune_steps", 0))
    """Weight of that cross-entropy."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimiser of the images."""
    lr_images: float = setting(1e-3, above=0)
    """Learning rate of the images (pixels)."""
    momentum: float = setting(0.5, at_least=0, below=1, of=("optimizer", "sgd"))
    """Momentum of sgd."""
    weight_decay: float = setting(5e-4, at_least=0, of=("optimizer", "adamw"))
    """Weight decay of adamw: it pulls pixels towards black."""
    patience: int = setting(500, at_least=0)
    """The rate of the images is halved where the loss has not fallen for more iterations than this; 0: never."""
    init: Literal["real", "mix", "dream"] = "mix"
    """First images: a real one each (real), factor x factor reduced ones (mix), or such chosen by DREAM (dream)."""
    augmentation: str = "color_crop_cutout"
    """Families joined by _, dsa for all, or none: flip, colour and cutout always, of crop, scale and rotate one."""


class NCFM(Method[NCFMConfig]):
    """Characteristic functions of features, under networks between the start and the end of experts."""

    config_class = NCFMConfig
    facts = Facts(
        title="NCFM",
        line="characteristic functions of features, at frequencies where they differ",
        family="distribution matching",
        protocol="ncfm",
        paper="Dataset Distillation with Neural Characteristic Function: A Minmax Perspective",
        authors=(
            "Shaobo Wang",
            "Yicun Yang",
            "Zhiyuan Liu",
            "Chenghao Sun",
            "Xuming Hu",
            "Conghui He",
            "Linfeng Zhang",
        ),
        venue="CVPR",
        year=2025,
        arxiv="2502.20653",
        code="https://github.com/gszfwsb/NCFM",
    )

    @classmethod
    def needs(cls, config: NCFMConfig) -> tuple[Experts]:
        """Experts trained by the optimiser alone: their starts and their ends."""
        return (Experts(),)

    @classmethod
    def check(cls, config: NCFMConfig, context: Context) -> None:
        """Tiles that fit the images, a known augmentation, and something to match.

        Raises:
            UserError: names the flag, its value and what is possible.
        """
        super().check(config, context)
        check_formation(context, config.factor, config.augmentation)
        check_single(context, context.network(0), context.ipc * config.factor**2, config.batch_real)
        if not config.alpha and not config.beta:
            raise UserError("--alpha 0 with --beta 0: nothing is matched; give one of them a number up to 1")
        images = min(config.batch_real, len(context.train))  # each with a product, cosine and sine at every frequency
        count = config.frequency_count
        require_memory(12 * count * images, f"--frequency-count {count}", "give fewer, or a smaller --batch-real")

    @classmethod
    def begins_with(cls, config: NCFMConfig, context: Context) -> int:
        """Those of all tiles."""
        return first_images(context.ipc, config.init, config.factor)

    @classmethod
    def terms_of_a_step(cls, config: NCFMConfig, context: Context) -> int:
        """Classes; with a sampler, which learns from class to class, a class's real images and frequencies."""
        net = FlatNet(context.network(0)).module
        if draws(net, context.dataset.spec.shape):
            return 1
        if config.frequencies == "gauss":
            return context.classes
        smallest = min(len(index) for index in class_indices(context.train.labels, context.classes))
        images = config.frequency_count if mixes_images(net) else min(config.batch_real, smallest)
        return min(config.frequency_count, images)

    @property
    def iterations(self) -> int:
        """Outer iterations."""
        return self.config.iterations

    @property
    def augmentation(self) -> str:
        """The resolved families."""
        return resolve_augmentation(self.config.augmentation, self.context.dataset.spec.flip)

    def setup(self) -> None:
        """First images and their optimiser, real batches, networks, frequencies."""
        config, context = self.config, self.context
        self.images = first_formed(context, config.init, config.factor, "ncfm-init")
        self.optimizer = make_optimizer([self.images], self._optimizer_settings())
        self.plateau = Plateau(config.lr_images, config.patience)
        self._batches = RealBatches(context)
        self._strategies = formation_strategies(config.augmentation, context.dataset.spec.flip, siamese=True)
        # batch norms use the statistics of the batch and keep none, dropout is off
        self.between = self._network()
        self.trained = self._network()
        with torch.no_grad():
            width = self.between.features(torch.zeros(2, *context.dataset.spec.shape, device=context.device)).shape[1]
        self.frequencies = make_frequencies(
            config.frequencies, config.frequency_count, width, context.seed, context.device, config.lr_frequencies
        )
        limit = max(1, PIXELS_AT_ONCE[context.device.type] // context.dataset.spec.size**2)
        self._limit = None if mixes_images(self.between) else limit
        self._own_classes = range(context.classes)[context.ranks.share(context.classes)]
        # Frequencies that learn go from class to class: then the processes share the terms of each class.
        learned = bool(self.frequencies.parameters)
        self._within, self._matched = (context.ranks, range(context.classes)) if learned else (ALONE, self._own_classes)

    def _optimizer_settings(self) -> OptimizerSettings:
        config = self.config
        if config.optimizer == "sgd":
            return OptimizerSettings(lr=config.lr_images, momentum=config.momentum)
        return OptimizerSettings(name="adamw", lr=config.lr_images, weight_decay=config.weight_decay)

    def _network(self) -> Student:
        net = FlatNet(self.context.network(0)).to(self.context.device).module
        return cast(Student, net.requires_grad_(False))

    def step(self, iteration: int) -> dict[str, float]:
        """One iteration; returns the mean losses of a class, the gradients' norm and the images' learning rate."""
        before = {name: tensor.clone() for name, tensor in self.state().tensors.items()}
        try:
            with seeds.isolated(self.context.seed, "ncfm-layers", iteration):  # for students that draw themselves
                return self._iterate(iteration)
        except NotFiniteError:
            self.load_state(State(tensors=before))
            raise

    def _iterate(self, iteration: int) -> dict[str, float]:
        config, classes, ranks = self.config, self.context.classes, self.context.ranks
        self._take_expert(iteration)
        self.images.clamp_(0, 1)
        ranks.alike(self.frequencies.state().values())

        def match(stored: Tensor, label: int) -> Tensor:
            return self._match(stored, iteration, label)

        with ranks.together(NotFiniteError):
            matching, squares = self._sweep(self._matched, match, (0.0, 0.0), self.frequencies)
            tuning = 0.0
            for sweep in range(config.finetune_steps):

                def finetune(stored: Tensor, label: int, sweep: int = sweep) -> Tensor:
                    return self._finetune(stored, iteration, label, sweep)

                tuning, squares = self._sweep(self._own_classes, finetune, (tuning, squares))
        self._merge()
        sums = ranks.sum(torch.tensor([matching, squares, tuning], dtype=torch.float64))[0].tolist()
        matching, squares, tuning = sums
        for group in self.optimizer.param_groups:
            group["lr"] = self.plateau.after((matching + tuning) / classes)
        metrics = {"loss": matching / classes, "grad_norm_images": math.sqrt(squares)}
        if config.finetune_steps:
            metrics["finetune_loss"] = tuning / (classes * config.finetune_steps)
        return {**metrics, "lr_images": self.plateau.rate}

    def _sweep(
        self,
        classes: range,
        loss: Callable[[Tensor, int], Tensor],
        sums: tuple[float, float],
        frequencies: Frequencies | None = None,
    ) -> tuple[float, float]:
        """A step on the images of each class in turn, for which only those of ``classes`` have a gradient.

        Args:
            loss: of the stored images of a class.
            sums: losses and squared norms of gradients so far.
            frequencies: that the loss is taken at.

        Returns:
            The sums with those of this rank's own classes.
        """
        total, squares = sums
        for label in range(self.context.classes):
            if label not in classes:
                self._step(label, None)
                continue
            stored = self._stored(label)
            value, norm = self._descend(label, stored, loss(stored, label), frequencies)
            if label in self._own_classes:
                total, squares = total + value, squares + norm**2
        return total, squares

    @torch.no_grad()
    def _merge(self) -> None:
        """Take over images and moments of each rank's own classes."""
        ranks, classes, rows = self.context.ranks, self.context.classes, self.context.ipc
        moments = optimizer_state(self.optimizer, "").values()
        whole = [self.images, *(one for one in moments if one.shape == self.images.shape)]
        own = [ranks.placed(one[ranks.share(classes, rows)], classes, rows) for one in whole]
        for tensor, merged in zip(whole, ranks.sum(*own), strict=True):
            tensor.copy_(merged)

    def _take_expert(self, iteration: int) -> None:
        """Load the networks of an iteration: an expert's end, and a point between its start and its end."""
        store, generator = self.context.given(Experts), seeds.generator(self.context.seed, "ncfm-expert", iteration)
        expert = store.indices[int(torch.randint(len(store.indices), (), generator=generator))]
        share = float(torch.rand((), generator=generator))
        start, end = store.rows(expert, 0, store.recipe.epochs)
        load_flat(self.trained, end)
        load_flat(self.between, torch.lerp(end, start, share))

    def _stored(self, label: int) -> Tensor:
        """The stored images ``(ipc, C, H, W)`` of a class as a leaf."""
        rows = slice(label * self.context.ipc, (label + 1) * self.context.ipc)
        return self.images[rows].requires_grad_()

    def _descend(
        self, label: int, stored: Tensor, loss: Tensor, frequencies: Frequencies | None = None
    ) -> tuple[float, float]:
        """One step on the images by the loss of a class; frequencies that learn make theirs, upwards.

        Returns:
            The loss, and the norm of its gradient in the stored images.
        """
        learned = frequencies.parameters if frequencies else ()
        own, *others = torch.autograd.grad(loss, [stored, *learned])
        value = loss.detach()
        if learned:
            value, own, *others = self._within.sum(value, own, *others)
        values = torch.stack([value, *(part.norm() for part in (own, *others))]).tolist()  # one transfer
        if not all(map(math.isfinite, values)):
            raise NotFiniteError(
                f"the loss of class {label} is {values[0]:g}; likely cause: --lr-images {self.config.lr_images:g} is "
                "too high for this synset: divide it by 10"
            )
        self._step(label, own)
        if frequencies:
            frequencies.ascend(others)
        return values[0], values[1]

    def _step(self, label: int, own: Tensor | None) -> None:
        """A step on the images by the gradient of a class's; None: of a class that another rank sees to.

        The images are one tensor with one optimiser, as in the public code: a step of one class also moves the others,
        by what their moments still hold.
        """
        self.images.grad = torch.zeros_like(self.images)
        if own is not None:
            self.images.grad[label * self.context.ipc : (label + 1) * self.context.ipc] = own
        self.optimizer.step()
        self.images.grad = None

    def _match(self, stored: Tensor, iteration: int, label: int) -> Tensor:
        """The matching loss of a class's stored images ``(ipc, C, H, W)``, with everything drawn."""
        config, context = self.config, self.context
        generator = seeds.generator(context.seed, "ncfm-match", iteration, label)
        real = self._batches.batch(label, config.batch_real, generator)
        synthetic = formed_input(stored, config.factor, None, context.preprocess)
        for strategy in self._strategies:
            one = draw(strategy, 1, context.dataset.spec.size, generator)
            real, synthetic = apply(one, real), apply(one, synthetic)
        # this rank's part of the mean over frequencies
        frequencies = self.frequencies.draw(iteration, label)[self._within.share(config.frequency_count)]
        theirs = self._real(real, frequencies)
        ours = characteristic(unit_rows(self.between.features(synthetic)), frequencies)
        weight = SCALE * len(frequencies) / config.frequency_count
        return weight * discrepancy(ours, theirs, config.alpha, config.beta)

    def _real(self, x: Tensor, frequencies: Tensor) -> Characteristic:
        """The characteristic function of real images; no gradient in their features, which are taken in pieces."""
        with torch.no_grad():
            if self._limit is None:
                features = self.between.features(x)
            else:
                own = x[self._within.share(len(x))]
                part = torch.cat([self.between.features(piece) for piece in own.split(self._limit)])
                (features,) = self._within.sum(self._within.placed(part, len(x)))
        return characteristic(unit_rows(features), frequencies)

    def _finetune(self, stored: Tensor, iteration: int, label: int, sweep: int) -> Tensor:
        """The trained expert's weighted cross-entropy on a class's decoded images."""
        config, context = self.config, self.context
        generator = seeds.generator(context.seed, "ncfm-finetune", iteration, sweep, label)
        x = formed_input(stored, config.factor, None, context.preprocess)
        for strategy in self._strategies:
            x = apply(draw(strategy, 1, context.dataset.spec.size, generator), x)
        labels = torch.full((len(x),), label, device=x.device)
        return config.finetune_weight * F.cross_entropy(self.trained(x), labels)

    def distilled(self) -> Distilled:
        """Stored images as network input, hard labels, and the factor that the evaluator decodes with."""
        images = self.context.preprocess.apply(self.images.clamp(0, 1)).cpu()
        return Distilled(images=images, labels=self.context.hard_labels(), decoder=formation(self.config.factor))

    def state(self) -> State:
        """Images and their moments, the schedule of the rate, the sampler."""
        moments = optimizer_state(self.optimizer, "image_moments")
        own: dict[str, Any] = {"images": self.images, **moments, **self.plateau.state(), **self.frequencies.state()}
        return State(tensors=own)

    def load_state(self, state: State) -> None:
        """Take over what :meth:`state` gave."""
        self.images.copy_(state.tensors["images"])
        self.plateau.load_state(state.tensors)
        self.optimizer = make_optimizer([self.images], replace(self._optimizer_settings(), lr=self.plateau.rate))
        load_optimizer_state(self.optimizer, "image_moments", state.tensors)
        self.frequencies.load_state(state.tensors)
