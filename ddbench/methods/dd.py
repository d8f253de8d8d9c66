"""DD: dataset distillation.

Wang, Zhu, Torralba, Efros; 2018; arXiv 1811.10959; code: SsnL/dataset-distillation.

What is learned is a recipe: P batches of images and one learning rate for each of the E * P steps of plain gradient
descent that go through the batches in order, E times. Each outer iteration draws a network (or takes the one network
that the recipe is for), lets it make these steps, and descends in images and rates by the loss of its last weights on a
batch of real images (algorithm 1 of the paper). The gradient through all steps is that of the inner loop
(:mod:`ddbench.training.inner`), in the memory of one step. Rates are softplus of what is learned.

With ``--labels learned`` the labels are learned as well (Sucholutsky and Schonlau, IJCNN 2021; arXiv 1910.02551).

Deviations from the public code, all listed in ``methods/dd/README.md``: explicit seeds; the gradient in constant
memory; learned labels are logits of which a softmax is taken; a step that is not finite is not taken; two classes have
two outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.config import setting
from ddbench.methods.base import Context, Distilled, Method, NotFiniteError, State
from ddbench.methods.facts import Facts
from ddbench.networks.build import build_student
from ddbench.networks.initialise import initialise
from ddbench.runtime import device as devices
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.light import light
from ddbench.synset import Replay
from ddbench.training.flat import FlatNet, flatten_parameters
from ddbench.training.inner import WHOLE, InnerLoop
from ddbench.training.loops import Inputs, forward_flops
from ddbench.training.losses import cross_entropy
from ddbench.training.optimizers import load_optimizer_state, optimizer_state
from ddbench.training.problem import InnerProblem, InnerResult, OuterTerm
from ddbench.training.twice import check_steady

CONFIDENCE = 0.99
"""Probability of its class in the first soft label of an image."""

KEPT = 30
"""Steps whose weights are kept; of a longer recipe some are computed again, so that memory does not grow with it."""


@dataclass(frozen=True, kw_only=True)
class DDConfig:
    """Settings of DD; names of the public code's options in brackets."""

    iterations: int = setting(23600, at_least=1)
    """Outer iterations (400 epochs of 59 batches on MNIST)."""
    batches: int = setting(10, at_least=1)
    """P: batches of images, each with IPC / P images a class (distill_steps)."""
    epochs: int = setting(3, at_least=1)
    """E: passes over the batches (distill_epochs); each of the E x P steps has its own rate."""
    lr_student: float = setting(0.02, above=0)
    """First rate of every step (distill_lr)."""
    lr_images: float = setting(0.01, above=0)
    """Learning rate of Adam on images, rates and labels (lr)."""
    decay_every: int = setting(2360, at_least=1, unless=("decay", 1))
    """Outer iterations after which that rate is multiplied by --decay (decay_epochs: 40 epochs of MNIST)."""
    decay: float = setting(0.5, above=0, at_most=1)
    """Factor of the decay (decay_factor)."""
    batch_real: int = setting(1024, at_least=1)
    """Real images that a network is judged by in an iteration (batch_size)."""
    networks: int = setting(1, at_least=1)
    """Networks an iteration, whose gradients are averaged (n_nets)."""
    init_networks: Literal["random", "fixed"] = "random"
    """random: fresh networks in every iteration; fixed: one network, drawn once; the recipe is then for it alone."""
    scheme: Literal["default", "xavier", "lecun"] = "xavier"
    """Initialisation of the networks: xavier, lecun, or default (PyTorch's); part of the recipe (init)."""
    labels: Literal["hard", "learned"] = "hard"
    """hard: classes; learned: soft labels, as logits, by the same Adam."""
    inner: Literal["adjoint", "unroll", "higher"] = "adjoint"
    """How the gradient through the steps is taken: the numbers are the same, adjoint needs the memory of one step."""


class DD(Method[DDConfig]):
    """A learned recipe.

    Attributes:
        images: leaf float32 ``(S, C, H, W)``, class-major.
        raw: leaf float32 ``(E * P,)``; its softplus are the rates.
        logits: leaf float32 ``(S, K)``, or None for hard labels.
    """

    config_class = DDConfig
    facts = Facts(
        title="DD",
        line="a learned recipe: batches of images and a rate for each step, by unrolled training",
        family="bi-level",
        protocol="dd-recipe",
        paper="Dataset Distillation",
        authors=("Tongzhou Wang", "Jun-Yan Zhu", "Antonio Torralba", "Alexei A. Efros"),
        year=2018,
        arxiv="1811.10959",
        code="https://github.com/SsnL/dataset-distillation",
    )

    second_order = True

    images: Tensor
    raw: Tensor
    logits: Tensor | None

    @classmethod
    def check(cls, config: DDConfig, context: Context) -> None:
        """As every method's, and an IPC that the batches divide.

        Raises:
            UserError: names the flag, its value and what is possible.
        """
        super().check(config, context)
        check_steady(context.network(0), context.dataset.spec.shape, context.student)
        if context.ipc % config.batches:
            divisors = [str(n) for n in range(1, context.ipc + 1) if context.ipc % n == 0]
            raise UserError(
                f"--batches {config.batches} with --ipc {context.ipc}: every batch has the same number of images of "
                f"each class; choose one of {', '.join(divisors)}"
            )
        if config.init_networks == "fixed" and context.seed < 0:
            raise UserError(
                f"--seed {context.seed} with --init-networks fixed: it names the network, expected 0 or more"
            )
        if config.init_networks == "fixed" and config.networks != 1:
            raise UserError(f"--networks {config.networks} with --init-networks fixed: there is one network")

    @classmethod
    def compiles(cls, config: DDConfig) -> bool:
        """The network's steps, where the inner loop goes step by step."""
        return config.inner not in WHOLE

    @property
    def iterations(self) -> int:
        """Outer iterations."""
        return self.config.iterations

    @property
    def steps(self) -> int:
        """Steps of a network: E * P."""
        return self.config.epochs * self.config.batches

    def setup(self) -> None:
        """Images from noise, rates at their first value, labels, Adam."""
        config, context = self.config, self.context
        shape = (context.classes * context.ipc, *context.dataset.spec.shape)
        noise = torch.randn(shape, generator=seeds.generator(context.seed, "init"))
        self.images = noise.to(context.device).requires_grad_()
        first = config.lr_student + math.log(-math.expm1(-config.lr_student))  # softplus undone, for any size
        self.raw = torch.full((self.steps,), first, device=context.device).requires_grad_()
        self._hard = context.hard_labels().to(context.device)
        self.logits = None
        if config.labels == "learned":
            gap = math.log(CONFIDENCE / (1 - CONFIDENCE) * (context.classes - 1))
            self.logits = (gap * F.one_hot(self._hard, context.classes).float()).requires_grad_()
        train = context.train
        self._real = Inputs(train.images, train.labels, context.preprocess, context.device, afresh=True)
        learned = [self.images, self.raw, *([] if self.logits is None else [self.logits])]
        self._adam = light(torch.optim.Adam)(learned, lr=config.lr_images, betas=(0.5, 0.999))
        size = context.ipc // config.batches
        self._stage = torch.arange(context.ipc).div(size, rounding_mode="floor").repeat(context.classes)
        self._batches = [(self._stage == one).nonzero().squeeze(1).to(context.device) for one in range(config.batches)]
        net = self._network(0)
        flops = forward_flops(net, shape[1:]) * 9 * config.epochs * len(self.images) * config.iterations
        mode = context.compile if self.compiles(config) else "off"
        compiler = devices.choose_compiler(mode, flops, context.device, context.console.say)
        self._inner = InnerLoop(FlatNet(net).to(context.device), config.inner, compiler, kept=KEPT)

    def _network(self, seed: int) -> torch.nn.Module:
        spec = self.context.dataset.spec
        net = build_student(
            self.context.student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=seed
        )
        return initialise(net, self.config.scheme, seed)

    def _seed(self, iteration: int, number: int) -> int:
        """Of a network: the run's own seed for the fixed one, as the synset says it."""
        if self.config.init_networks == "fixed":
            return self.context.seed
        return seeds.derive(self.context.seed, "network", iteration, number)

    def real_batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """The real images of an iteration, network input ``(B, C, H, W)``, and their classes; pass by pass."""
        train = self.context.train
        size = min(self.config.batch_real, len(train))
        each = math.ceil(len(train) / size)
        generator = seeds.generator(self.context.seed, "real", iteration // each)
        order = torch.randperm(len(train), generator=generator)
        index = order[(iteration % each) * size :][:size]
        return self._real.labelled(index)

    def problem(self, start: Tensor, x: Tensor, y: Tensor) -> InnerProblem:
        """One network's steps from weights ``(P,)``, judged by its loss on real images."""
        net = self._inner.net
        return InnerProblem(
            start=start,
            images=self.images.detach(),
            labels=self._hard if self.logits is None else self.logits.detach(),
            lr=F.softplus(self.raw.detach()),
            batches=[self._batches[step % self.config.batches] for step in range(self.steps)],
            terms=[OuterTerm(self.steps, lambda theta: cross_entropy(net(theta, x), y))],
        )

    def step(self, iteration: int) -> dict[str, float]:
        """One outer iteration; returns the loss on real images and the mean rate."""
        config = self.config
        x, y = self.real_batch(iteration)
        results: list[InnerResult] = []
        for number in range(config.networks):
            start = flatten_parameters(self._network(self._seed(iteration, number))).to(self.context.device)
            results.append(self._inner(self.problem(start, x, y)))
        loss = sum(float(result.loss) for result in results) / len(results)
        images = torch.stack([result.images for result in results]).mean(0)
        rates = torch.stack([result.lr for result in results]).mean(0) * self.raw.detach().sigmoid()
        if not (math.isfinite(loss) and bool(torch.isfinite(images).all()) and bool(torch.isfinite(rates).all())):
            raise NotFiniteError(
                f"the loss on real images is {loss:g}; likely cause: the rates grew to "
                f"{float(F.softplus(self.raw.detach()).max()):g}: use a smaller --lr-images or --lr-student"
            )
        self.images.grad, self.raw.grad = images, rates
        if self.logits is not None:
            self.logits.grad = torch.stack([result.labels for result in results if result.labels is not None]).mean(0)
        for group in self._adam.param_groups:
            # The public code counts the first epoch as one already done.
            group["lr"] = config.lr_images * config.decay ** ((iteration + self._early) // config.decay_every)
        self._adam.step()
        return {"loss": loss, "lr_mean": float(F.softplus(self.raw.detach()).mean())}

    @property
    def _early(self) -> int:
        """Iterations of one pass over the real images: the decay comes that much earlier, as in the public code."""
        return math.ceil(len(self.context.train) / min(self.config.batch_real, len(self.context.train)))

    def distilled(self) -> Distilled:
        """Images in network-input space, classes or logits, the rates, and the recipe."""
        fixed = self.context.seed if self.config.init_networks == "fixed" else None
        labels = self._hard if self.logits is None else self.logits.detach()
        return Distilled(
            images=self.images.detach().cpu().clone(),
            labels=labels.cpu().clone(),
            learned_lr=F.softplus(self.raw.detach()).cpu(),
            stage=self._stage,
            schedule=Replay(epochs=self.config.epochs, init=self.config.scheme, fixed=fixed),
        )

    def state(self) -> State:
        """Images, rates, labels, and Adam's moments."""
        tensors = {"images": self.images.detach(), "raw": self.raw.detach(), **optimizer_state(self._adam, "adam")}
        return State(tensors=tensors if self.logits is None else {**tensors, "logits": self.logits.detach()})

    def load_state(self, state: State) -> None:
        """Take them over."""
        with torch.no_grad():
            for name, tensor in (("images", self.images), ("raw", self.raw), ("logits", self.logits)):
                if tensor is not None:
                    tensor.copy_(state.tensors[name])
        load_optimizer_state(self._adam, "adam", state.tensors)
