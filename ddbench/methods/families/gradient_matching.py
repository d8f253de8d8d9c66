"""Dataset condensation by gradient matching: what DC and DSA share.

Zhao, Mopuri, Bilen; ICLR 2021; arXiv 2006.05929 (DC). Zhao, Bilen; ICML 2021; arXiv 2102.08259 (DSA). Public code of
both: VICO-UoE/DatasetCondensation.

An outer iteration starts from a fresh network and does O times: for each class, the gradients that a batch of real
images gives in the network's parameters are compared with those of the class's synthetic images
(:func:`ddbench.training.gradient_matching.distance`); one SGD step on all images against the sum over classes; then,
but not after the last time, the network is trained for I epochs on the synset.

One of the runner's steps is one of these O: step i is number ``i % O`` of outer iteration ``i // O``. Between two steps
of an outer iteration the network is part of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench.config import Here, setting
from ddbench.data.augment import Strategy, apply, draw, parse_strategy
from ddbench.data.policy import Policy
from ddbench.data.specs import resolve_augmentation, resolve_strategy
from ddbench.methods.base import Context, Distilled, Method, NotFiniteError, State
from ddbench.methods.parts.batches import RealBatches
from ddbench.methods.parts.canvas import Canvas, first_images
from ddbench.methods.parts.masking import masked
from ddbench.methods.parts.sampling import SamplerConfig, check_sampler, make_sampler
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.training.flat import draws
from ddbench.training.gradient_matching import class_gradients, distance, matched, synthetic_gradients
from ddbench.training.loops import Inputs, train
from ddbench.training.optimizers import OptimizerSettings

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""IPC to (O, I), as in the public code of DC and DSA; it has no others."""

UNTRAINED = ("lr_student", "batch_student")
"""Settings of the network's training, which does not take place with one outer loop."""

NORM_IMAGES = 16
"""Real images of a class in the batch that gives batch norms their statistics."""

Metric = Literal["rows", "mse", "cos"]


@dataclass(frozen=True, kw_only=True)
class GradientMatchingConfig(SamplerConfig):
    """Settings that DC and DSA share."""

    iterations: int = setting(1001, at_least=1)
    """Outer iterations, each with a fresh network."""
    outer_loops: int = setting(0, at_least=0)
    """O: image steps in an outer iteration; 0: the published number for the IPC."""
    inner_epochs: int = setting(0, at_least=0)
    """I: epochs of the network on the synset between two image steps; 0: the published number for the IPC."""
    batch_real: int = setting(256, at_least=1)
    """Real images of a class in an image step; all where the class has fewer."""
    lr_images: float = setting(0.1, above=0)
    """Learning rate of the images (network-input units); the authors use 0.01 with an MLP."""
    momentum: float = setting(0.5, at_least=0, below=1)
    """Momentum of the images' SGD."""
    lr_student: float = setting(0.01, above=0, unless=("outer_loops", 1))
    """Learning rate of the network trained on the synset (plain SGD); it is not trained with O = 1."""
    batch_student: int = setting(256, at_least=1, unless=("outer_loops", 1))
    """Synthetic images in a step of that training."""
    init: Literal["noise", "real"] = "noise"
    """First images: standard normal noise, or random real ones of the class."""
    metric: Metric = "rows"
    """Distance of gradients: rows (DC: one cosine an output unit, no biases), mse, or cos (all parameters together)."""


def loops(
    config: GradientMatchingConfig, ipc: int, published: Mapping[int, tuple[int, int]] = LOOPS
) -> tuple[int, int]:
    """O and I: those of the config, or the published ones of this IPC.

    Args:
        published: IPC to (O, I), as the method's authors have it.

    Raises:
        UserError: none are published for this IPC, and the config leaves one open.
    """
    if config.outer_loops and (config.inner_epochs or config.outer_loops == 1):
        return config.outer_loops, config.inner_epochs
    if ipc not in published:
        near = published[min(published, key=lambda known: abs(known - ipc))]
        raise UserError(
            f"--ipc {ipc}: the authors give loops for IPC {', '.join(map(str, sorted(published)))} only; choose them "
            f"yourself, for example --outer-loops {near[0]} --inner-epochs {near[1]}"
        )
    outer, inner = published[ipc]
    return config.outer_loops or outer, config.inner_epochs or inner


M = TypeVar("M", bound=GradientMatchingConfig)


class GradientMatching(Method[M]):
    """Base of DC and DSA."""

    second_order = True

    published_loops: ClassVar[Mapping[int, tuple[int, int]]] = LOOPS
    """IPC to (O, I) in the method's public code."""

    @classmethod
    def idle(cls, config: M, context: Context) -> Mapping[str, str]:
        """The network is trained between two image steps of an outer iteration: not where there is one, as at IPC 1."""
        if loops(config, context.ipc, cls.published_loops)[0] > 1:
            return {}
        names = (*UNTRAINED, *(["inner_epochs"] if config.inner_epochs > 1 else []))  # published recipes say 1
        return dict.fromkeys(names, Here("with one outer loop: the network is not trained"))

    @classmethod
    def check(cls, config: M, context: Context) -> None:
        """As every method's, and loops for this IPC."""
        super().check(config, context)
        check_sampler(config, config.batch_real)
        loops(config, context.ipc, cls.published_loops)

    @classmethod
    def terms_of_a_step(cls, config: M, context: Context) -> int:
        """Classes; dropout draws for one after the other."""
        return 1 if draws(context.network(0), context.dataset.spec.shape) else context.classes

    @property
    def iterations(self) -> int:
        """Image steps: outer iterations times O."""
        return self.config.iterations * loops(self.config, self.context.ipc, self.published_loops)[0]

    @property
    def strategy(self) -> Strategy | None:
        """What is done to the matched batches, to all their images alike, and to each image of the inner training."""
        return None

    def setup(self) -> None:
        """First images, their optimiser, the real images."""
        config, context = self.config, self.context
        self._loops, self._epochs = loops(config, context.ipc, self.published_loops)
        self.canvas = self.make_canvas(first_images(context, config.init, "matching-init").to(context.device))
        self._labels = context.hard_labels().to(context.device)
        self._real = RealBatches(context)
        self._sampler = make_sampler(config, context, self._real, config.batch_real)
        self._network: nn.Module | None = None

    def make_canvas(self, images: Tensor) -> Canvas:
        """What is learned, beginning at images ``(K * ipc, C, H, W)``."""
        return Canvas(images, lr=self.config.lr_images, momentum=self.config.momentum)

    def step(self, iteration: int) -> dict[str, float]:
        """One image step and the training after it; returns the matching loss and the norm of the images' gradient."""
        before = {name: tensor.clone() for name, tensor in self.state().tensors.items()}
        try:
            return self._image_step(*divmod(iteration, self._loops))
        except NotFiniteError:
            self.load_state(State(tensors=before))
            raise

    def _image_step(self, outer: int, loop: int) -> dict[str, float]:
        net = self._network
        if loop == 0 or net is None:
            net = self._fresh(outer)
            self._settle_norms(net, outer, loop)
        with seeds.isolated(self.context.seed, "matching-dropout", outer, loop):
            loss, gradient = self._match(net, outer, loop)
        found, norm = float(loss), float(gradient.norm())
        if not (abs(found) < float("inf") and norm < float("inf")):
            raise NotFiniteError(f"the matching loss is {found:g}; likely cause: {self._cause(net)}")
        self.canvas.step(gradient)
        self._network = None
        if loop + 1 < self._loops:
            self._train(net, outer, loop)
            self._settle_norms(net, outer, loop + 1)
            if not all(bool(torch.isfinite(tensor).all()) for tensor in net.state_dict().values()):
                raise NotFiniteError(f"training the network on the synset; likely cause: {self._cause(net)}")
            self._network = net
        return {"loss": found, "grad_norm_images": norm, "outer_iteration": float(outer)}

    def distilled(self) -> Distilled:
        """Images in network-input space, hard labels."""
        return Distilled(images=self.canvas.product.cpu().clone(), labels=self._labels.cpu())

    def state(self) -> State:
        """Images, their momentum and, in the middle of an outer iteration, the network."""
        network = {} if self._network is None else self._network.state_dict()
        return State(
            tensors={
                **self.canvas.state(),
                **{f"network.{name}": tensor for name, tensor in network.items()},
                **self._sampler.state(),
            }
        )

    def load_state(self, state: State) -> None:
        """Take over images, momentum and network."""
        tensors = state.tensors
        self.canvas.load_state(tensors)
        self._sampler.load_state(tensors)
        prefix = "network."
        network = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        self._network = None
        if network:
            self._network = self._fresh(0)
            self._network.load_state_dict(network)

    def _fresh(self, outer: int) -> nn.Module:
        seed = seeds.derive(self.context.seed, "matching-network", outer)
        return self.context.network(seed).to(self.context.device)

    @torch.no_grad()
    def _settle_norms(self, net: nn.Module, outer: int, loop: int) -> None:
        """Let one forward pass of real images of all classes move the running statistics of batch norms, if any.

        They are used as they are while gradients are matched: a synthetic batch, at IPC 1 one image, has none of use.
        """
        if not any(isinstance(module, _BatchNorm) for module in net.modules()):
            return
        randomness = seeds.generator(self.context.seed, "matching-norm", outer, loop)
        batches = [self._real.batch(label, NORM_IMAGES, randomness) for label in range(self.context.classes)]
        net.train()
        with seeds.isolated(self.context.seed, "matching-norm-dropout", outer, loop):
            net(torch.cat(batches))

    def _match(self, net: nn.Module, outer: int, loop: int) -> tuple[Tensor, Tensor]:
        """The loss, summed over classes, and its gradient in all images.

        Class by class: a class's loss depends on its own images only, and its graph is freed before the next is built.
        """
        seed, metric, ipc = self.context.seed, self.config.metric, self.context.ipc
        strategy, ranks = self.strategy, self.context.ranks
        ranks.alike(net.state_dict().values())
        net.train()
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        self._sampler.refresh(net, outer * self._loops + loop)
        parameters = matched(net.parameters(), metric)
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for label in range(self.context.classes)[ranks.share(self.context.classes)]:
            randomness = seeds.generator(seed, "matching", outer, loop, label)
            x = self._real.batch(label, self.config.batch_real, randomness)
            own = slice(label * ipc, (label + 1) * ipc)
            images, labels = self.canvas.images[own].clone().requires_grad_(), self._labels[own]
            shown = images
            if strategy is not None:
                change = draw(replace(strategy, siamese=True), ipc, images.shape[-1], randomness)
                x, shown = apply(change, x), apply(change, images)
            shown = masked(self.config, shown, seed, outer, loop, label)
            real = class_gradients(net, x, labels[:1].expand(len(x)), parameters)
            loss = distance(real, synthetic_gradients(net, shown, labels, parameters), metric)
            gradients += torch.autograd.grad(loss, images)
            losses.append(loss.detach())
        gradient = ranks.placed(torch.cat(gradients), self.context.classes, ipc)
        loss, gradient = ranks.sum(torch.stack(losses).sum(), gradient)
        return loss, gradient

    def _train(self, net: nn.Module, outer: int, loop: int) -> None:
        """I epochs on the synset. Batch norms see its batches, as in the public code."""
        config, context, strategy = self.config, self.context, self.strategy
        for _ in train(
            net,
            Inputs(self.canvas.images, self._labels, None, context.device, classes=context.classes),
            epochs=self._epochs,
            batch=config.batch_student,
            optimizer=OptimizerSettings(lr=config.lr_student),
            policy=None if strategy is None else Policy((strategy,)),
            seed=seeds.derive(context.seed, "matching-train", outer, loop),
        ):
            pass

    def _cause(self, net: nn.Module) -> str:
        config = self.config
        if not all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters()):
            return f"the network diverged on the synset: lower --lr-student {config.lr_student:g}"
        return f"--lr-images {config.lr_images:g} is too high for this synset: divide it by 10"


@dataclass(frozen=True, kw_only=True)
class AugmentedConfig(GradientMatchingConfig):
    """Settings of DSA: DC's, real first images, and the augmentation."""

    init: Literal["noise", "real"] = "real"
    """First images: random real ones of the class, or standard normal noise."""
    augmentation: str = "dsa"
    """DSA families joined by _, or dsa for all (no flip on digits)."""


A = TypeVar("A", bound=AugmentedConfig)


class AugmentedMatching(GradientMatching[A]):
    """Base of methods that match gradients of augmented images, as DSA."""

    @classmethod
    def check(cls, config: A, context: Context) -> None:
        """As DC, and an augmentation there must be."""
        super().check(config, context)
        if _strategy(config, context) is None:
            raise UserError(f"--augmentation {config.augmentation}: nothing is left to augment; that is --method dc")

    @property
    def augmentation(self) -> str:
        """The resolved strategy."""
        return resolve_strategy(self.config.augmentation, self.context.dataset.spec.flip)

    @property
    def strategy(self) -> Strategy | None:
        """The resolved strategy."""
        return _strategy(self.config, self.context)


def _strategy(config: AugmentedConfig, context: Context) -> Strategy | None:
    flip = context.dataset.spec.flip
    return parse_strategy(resolve_augmentation(config.augmentation, flip), flip=flip, align_corners=False)
