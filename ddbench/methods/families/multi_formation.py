"""Gradient matching of multi-formed images: what IDC and DREAM share.

IDC (Kim, Kim, Oh, Yun, Song, Jeong, Ha, Song: "Dataset condensation via efficient synthetic-data parameterization",
ICML 2022; arXiv 2205.14959; code: snu-mllab/Efficient-Dataset-Condensation). A stored image of H x H pixels carries
f x f smaller ones, which are enlarged before use (:mod:`ddbench.data.formation`). For a network theta and each class c

    L_c = || grad CE(A(T_c); theta) - grad CE(A(decode(S_c)); theta) ||        (squared, or its l1 norm)

over the kernels of convolutions only, with one draw of the augmentation A for both batches; then one step on the
images, class by class. Between two sweeps over the classes the network is trained on *real* data. After
``inner_steps`` sweeps a fresh network is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ddbench.config import setting
from ddbench.data.augment import Draw, apply, draw
from ddbench.data.formation import LARGEST_FACTOR
from ddbench.data.policy import Policy, augment
from ddbench.data.specs import resolve_augmentation
from ddbench.decoders.multi_formation import formation
from ddbench.methods.base import Context, Distilled, Method, NotFiniteError, State
from ddbench.methods.parts.batches import RealBatches
from ddbench.methods.parts.canvas import Canvas
from ddbench.methods.parts.formation import (
    check_formation,
    check_single,
    first_formed,
    first_images,
    formation_strategies,
    formed_input,
)
from ddbench.methods.parts.masking import synthetic_mask
from ddbench.methods.parts.sampling import SamplerConfig, check_sampler, make_sampler
from ddbench.runtime import seeds
from ddbench.runtime.device import sent
from ddbench.runtime.errors import UserError
from ddbench.training.flat import draws as draws_at_random
from ddbench.training.flat import flatten_parameters, load_flat
from ddbench.training.gradient_matching import Distance, class_gradients, distance, matched, synthetic_gradients
from ddbench.training.loops import View, leaves_one_out, own_labels, own_loss
from ddbench.training.sgd import SGD


@dataclass(frozen=True, kw_only=True)
class MultiFormationConfig(SamplerConfig):
    """Settings of IDC and DREAM; the defaults are IDC's for CIFAR-10."""

    iterations: int = setting(2000, at_least=1)
    """Outer iterations, each with a fresh network."""
    inner_steps: int = setting(100, at_least=1)
    """Sweeps over the classes in one outer iteration; the network is trained on real data after each."""
    factor: int = setting(2, at_least=1, at_most=LARGEST_FACTOR, expected=f"1 to {LARGEST_FACTOR} tiles a side")
    """f: each stored image carries f x f smaller ones; 1 is IDC-I."""
    metric: Literal["mse", "l1"] = "mse"
    """Distance of gradients: sum of squared, or of absolute differences."""
    batch_real: int = setting(64, at_least=1)
    """Real images of a class in one step."""
    batch_syn: int = setting(128, at_least=1)
    """Most decoded images of a class in one step; others are left out at random."""
    lr_images: float = setting(0.0, at_least=0)
    """Learning rate of the images (pixels); 0: IDC's rule, 5e-3 (mse) or 1e-4 (l1) times ipc / 10 times (H / H0)^2."""
    momentum: float = setting(0.5, at_least=0, below=1, expected="at least 0 and less than 1")
    """Momentum of the images."""
    init: Literal["real", "mix", "dream"] = "mix"
    """First images: a real one each (real), f x f reduced real ones each (mix), or such chosen by DREAM (dream)."""
    augmentation: str = "color_crop_cutout"
    """Families joined by _, dsa for all, or none: flip, colour and cutout always, of crop, scale and rotate one."""
    net_images: int = setting(2000, at_least=0)
    """Real images that the network is trained on after each sweep; 0: it is not trained."""
    batch_net: int = setting(64, at_least=1, unless=("net_images", 0))
    """Real images in one step of the network."""
    lr_net: float = setting(0.01, at_least=0, unless=("net_images", 0))
    """Learning rate of the network."""
    momentum_net: float = setting(0.9, at_least=0, below=1, unless=("net_images", 0))
    """Momentum of the network."""
    weight_decay_net: float = setting(5e-4, at_least=0, unless=("net_images", 0))
    """Weight decay of the network."""
    cutmix: float = setting(0.5, at_least=0, at_most=1, expected="a probability, 0 to 1", unless=("net_images", 0))
    """How often a batch of the network is mixed (CutMix); 0: never."""


KINDS: dict[str, Distance] = {"mse": "conv-mse", "l1": "conv-l1"}
"""Distances by the name of a metric; both look at the kernels of convolutions only."""

Config = TypeVar("Config", bound=MultiFormationConfig)


@dataclass(frozen=True)
class Trained:
    """The network of an outer iteration, in training mode, and its optimiser."""

    net: nn.Module
    optimizer: SGD


class MultiFormation(Method[Config]):
    """Base of IDC and DREAM. A step is one sweep over the classes and the network's training after it."""

    second_order = True

    @classmethod
    def check(cls, config: Config, context: Context) -> None:
        """Tiles that fit the images, and a network that has convolutions."""
        super().check(config, context)
        check_formation(context, config.factor, config.augmentation)
        check_sampler(config, config.batch_real)
        net = context.network(0)
        check_single(context, net, min(config.batch_syn, context.ipc * config.factor**2), config.batch_real)
        if not matched(net.parameters(), KINDS[config.metric]):
            raise UserError(
                f"--student {context.student}: {cls.title} compares gradients of convolution kernels and this network "
                "has none; choose a convnet"
            )

    @classmethod
    def begins_with(cls, config: Config, context: Context) -> int:
        """Those of all tiles."""
        return first_images(context.ipc, config.init, config.factor)

    @classmethod
    def terms_of_a_step(cls, config: Config, context: Context) -> int:
        """Classes; dropout draws for one after the other."""
        return 1 if draws_at_random(context.network(0), context.dataset.spec.shape) else context.classes

    @property
    def iterations(self) -> int:
        """Sweeps over the classes, of all outer iterations."""
        return self.config.iterations * self.config.inner_steps

    @property
    def augmentation(self) -> str:
        """The resolved families."""
        return resolve_augmentation(self.config.augmentation, self.context.dataset.spec.flip)

    def setup(self) -> None:
        """First images, their optimiser, real batches, sampler; the network comes with the first step."""
        config, context = self.config, self.context
        images = first_formed(context, config.init, config.factor, "formation-init")
        self._labels = context.hard_labels()
        rate = config.lr_images or image_rate(
            config.metric, context.ipc, context.dataset.spec.size, base_size(context.dataset.spec.name)
        )
        self.canvas = Canvas(images, lr=rate, momentum=config.momentum)
        self._batches = RealBatches(context)
        self._sampler = make_sampler(config, context, self._batches, config.batch_real)
        flip = context.dataset.spec.flip
        self._strategies = formation_strategies(config.augmentation, flip, siamese=True)
        self._policy = network_policy(config.augmentation, flip, config.cutmix)
        self._trained: Trained | None = None

    def step(self, iteration: int) -> dict[str, float]:
        """One sweep; returns the mean matching loss of a class, the network's loss and the image gradients' norm."""
        before = {name: tensor.clone() for name, tensor in self.state().tensors.items()}
        try:
            with seeds.isolated(self.context.seed, "formation-dropout", iteration):
                return self._sweep(*divmod(iteration, self.config.inner_steps))
        except NotFiniteError:
            self.load_state(State(tensors=before))
            raise

    def _sweep(self, outer: int, inner: int) -> dict[str, float]:
        config, context = self.config, self.context
        if inner == 0:
            self._trained = self._network(seeds.derive(context.seed, "formation-network", outer))
            self.canvas.images.clamp_(0, 1)
        trained, ranks = self._trained, context.ranks
        assert trained is not None
        ranks.alike([*trained.net.state_dict().values(), *trained.optimizer.state("").values()])
        self._sampler.refresh(trained.net, inner, network=outer)
        with ranks.together(NotFiniteError):
            loss, squares = self._match(trained.net, outer, inner)
        self.canvas.merge(ranks, context.classes)
        sums = ranks.sum(torch.tensor([loss, squares], dtype=torch.float64))[0].tolist()
        metrics = {"loss": sums[0] / context.classes, "grad_norm_images": math.sqrt(sums[1])}
        if config.net_images:
            metrics["network_loss"] = self._train(trained, outer, inner)
        return metrics

    def _match(self, net: nn.Module, outer: int, inner: int) -> tuple[float, float]:
        """Descend class by class; returns the sums of the losses and of the squared norms of their gradients.

        What a class's images become does not depend on the others' gradients: each rank takes its own classes.
        """
        config, context = self.config, self.context
        own_classes = range(context.classes)[context.ranks.share(context.classes)]
        losses, squares = [], 0.0
        gradient = torch.zeros_like(self.canvas.images)
        for label in range(context.classes):
            if label not in own_classes:
                self.canvas.step(gradient)
                continue
            randomness = seeds.generator(context.seed, "formation", outer, inner, label)
            rows = slice(label * context.ipc, (label + 1) * context.ipc)
            stored = self.canvas.images[rows].requires_grad_()
            loss = self._class_loss(net, stored, label, randomness, (outer, inner))
            (own,) = torch.autograd.grad(loss, [stored])
            value, norm = torch.stack([loss.detach(), own.norm()]).tolist()  # one transfer from the device
            if not (math.isfinite(value) and math.isfinite(norm)):
                raise NotFiniteError(
                    f"the matching loss of class {label} is {value:g}; likely cause: --lr-images {self.canvas.lr:g} is "
                    f"too high, or --lr-net {config.lr_net:g}"
                )
            # The images are one tensor with one momentum, as in the public code: a step of one class also moves the
            # others, by what is left of their velocity.
            gradient[rows] = own
            self.canvas.step(gradient)
            gradient[rows] = 0
            losses.append(value)
            squares += norm**2
        return sum(losses), squares

    def _class_loss(
        self, net: nn.Module, stored: Tensor, label: int, randomness: torch.Generator, sweep: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """L_c of the stored images ``(ipc, C, H, W)`` of a class, with everything drawn; ``sweep`` names the mask."""
        config, size = self.config, self.context.dataset.spec.size
        real = self._batches.batch(label, config.batch_real, randomness)
        count = len(stored) * config.factor**2
        keep = torch.randperm(count, generator=randomness)[: config.batch_syn] if count > config.batch_syn else None
        draws = [draw(strategy, 1, size, randomness) for strategy in self._strategies]
        synthetic = formed_input(stored, config.factor, keep, self.context.preprocess)
        mask = synthetic_mask(config, synthetic, self.context.seed, *sweep, label)
        return formation_loss(net, real, synthetic, label, draws, KINDS[config.metric], mask)

    def _network(self, seed: int) -> Trained:
        config = self.config
        net = self.context.network(seed).to(self.context.device).train()
        return Trained(net, SGD(net.parameters(), config.lr_net, config.momentum_net, config.weight_decay_net))

    def _train(self, trained: Trained, outer: int, inner: int) -> float:
        """Train on the next ``net_images`` real images, going round the training set; returns the mean loss."""
        config, context, inputs = self.config, self.context, self._batches.inputs
        labels, loss = own_labels(inputs), own_loss(self._policy is not None and self._policy.mix != "none")
        batches = math.ceil(min(config.net_images, len(inputs)) / config.batch_net)
        rounds = math.ceil(len(inputs) / config.batch_net)
        without = leaves_one_out(trained.net, inputs, config.batch_net)
        total, steps = 0.0, 0
        for number in range(inner * batches, (inner + 1) * batches):
            order = torch.randperm(
                len(inputs), generator=seeds.generator(context.seed, "formation-order", outer, number // rounds)
            )
            index = sent(order.split(config.batch_net)[number % rounds], inputs.device)
            if without and len(index) == 1:
                continue
            x, mix = inputs.batch(index), None
            if self._policy is not None:
                randomness = seeds.generator(context.seed, "formation-augment", outer, number)
                x, mix = augment(self._policy, x, randomness, context.preprocess)
            value = loss(trained.net(x), labels(View(x=x, index=index, epoch=number // rounds, mix=mix)))
            trained.optimizer.zero_grad()
            value.backward()
            trained.optimizer.step()
            total, steps = total + float(value.detach()), steps + 1
        mean = total / max(1, steps)
        if not math.isfinite(mean) or not bool(torch.isfinite(flatten_parameters(trained.net)).all()):
            raise NotFiniteError(
                f"the network's loss on real images is {mean:g}; likely cause: --lr-net {config.lr_net:g} is too high"
            )
        return mean

    def distilled(self) -> Distilled:
        """Stored images as network input, hard labels, and what the evaluator decodes with."""
        images = self.context.preprocess.apply(self.canvas.product.clamp(0, 1)).cpu()
        return Distilled(images=images, labels=self._labels, decoder=formation(self.config.factor))

    def state(self) -> State:
        """Images, network, momenta, and the real images in use.

        Running statistics of batch norms are left out: the network is always in training mode and never reads them.
        """
        tensors = self.canvas.state()
        if self._trained is not None:
            tensors["network"] = flatten_parameters(self._trained.net)
            tensors.update(self._trained.optimizer.state("network_momentum"))
        return State(tensors={**tensors, **self._sampler.state()})

    def load_state(self, state: State) -> None:
        """Take over what :meth:`state` gave."""
        self.canvas.load_state(state.tensors)
        self._sampler.load_state(state.tensors)
        self._trained = None
        if "network" in state.tensors:
            self._trained = self._network(0)
            load_flat(self._trained.net, state.tensors["network"])
            self._trained.optimizer.load_state("network_momentum", state.tensors)


def formation_loss(
    net: nn.Module,
    real: Tensor,
    synthetic: Tensor,
    label: int,
    draws: list[Draw],
    kind: Distance,
    mask: Tensor | None = None,
) -> Tensor:
    """L_c: distance of the gradients of two batches of one class, under the same augmentation; differentiable.

    Args:
        net: the network theta.
        real, synthetic: network input ``(n, C, H, W)`` and ``(m, C, H, W)``.
        label: their class.
        draws: siamese draws, done in order to both batches.
        kind: ``conv-mse`` or ``conv-l1``.
        mask: factor of the augmented synthetic batch; None: 1.
    """
    both = torch.cat([real, synthetic])
    for one in draws:
        both = apply(one, both)
    real, synthetic = both[: len(real)], both[len(real) :]
    synthetic = synthetic if mask is None else synthetic * mask
    labels = torch.full((len(both),), label, device=both.device)
    parameters = matched(net.parameters(), kind)
    target = class_gradients(net, real.detach(), labels[: len(real)], parameters)
    own = synthetic_gradients(net, synthetic, labels[len(real) :], parameters)
    return distance(target, own, kind)


def image_rate(metric: str, ipc: int, size: int, base: int) -> float:
    """IDC's learning rate of the images: 5e-3 (mse) or 1e-4 (l1), times ``ipc / 10``, times ``(size / base)^2``."""
    return (5e-3 if metric == "mse" else 1e-4) * ipc / 10 * (size / base) ** 2


def base_size(dataset: str) -> int:
    """H0 of IDC's rule: 28 for MNIST, 224 for ImageNet and its subsets, else 32."""
    if dataset == "mnist":
        return 28
    return 224 if dataset.startswith("image") else 32


def network_policy(text: str, flip: bool, cutmix: float) -> Policy | None:
    """How the network's own batches are augmented: as the matched ones without cutout, but image by image; CutMix.

    Without CutMix cutout stays, as in the public code.
    """
    parts = tuple(formation_strategies(text, flip, siamese=False, cutout=not cutmix))
    if not parts and not cutmix:
        return None
    return Policy(parts, "cutmix" if cutmix else "none", mix_probability=cutmix)
