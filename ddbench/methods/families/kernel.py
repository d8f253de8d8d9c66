"""What FRePo and RCIG share: learned images and regression targets, a pool of networks, a last layer in closed form.

A method says with :meth:`KernelMethod.meta` what the loss on real images and its gradients are under one network of the
pool; the rest is here: first images and labels, real batches, the training of the pool, the temperature, the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.config import setting
from ddbench.methods.base import Context, Distilled, Method, NotFiniteError, State
from ddbench.methods.parts.pool import Pool
from ddbench.networks.build import build_student
from ddbench.networks.initialise import initialise
from ddbench.networks.names import parse_student
from ddbench.runtime import seeds
from ddbench.runtime.device import sent
from ddbench.runtime.errors import UserError
from ddbench.training.flat import flatten_parameters
from ddbench.training.kernel import centred_one_hot
from ddbench.training.linearised import Linearised
from ddbench.training.loops import Inputs
from ddbench.training.losses import half_squared_error

PART = 64
"""Images that go through a network together: what is kept for them is the peak of a step's memory."""

Rows = Callable[[Tensor], tuple[Tensor, ...]]

NOISE = 0.3
"""Standard deviation of first images of noise, as in RCIG's code."""


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    """Settings that methods of this kind have in common."""

    iterations: int = setting(10000, at_least=1)
    """Meta steps."""
    batch_real: int = setting(1024, at_least=1)
    """Real images that a meta step predicts."""
    pool: int = setting(30, at_least=1, at_most=1000)
    """Networks in the pool."""
    oldest: int = setting(100, at_least=1)
    """Steps of its training after which a network is replaced by a fresh one."""
    lr_pool: float = setting(5e-5, at_least=0)
    """Learning rate of the Adam that trains the networks of the pool on the learned set."""
    init: Literal["real", "noise"] = "real"
    """First images: random real ones of the class, or noise of standard deviation 0.3."""
    flip: bool = False
    """Let every image stand beside its mirror image in all forward passes (colour images)."""
    images_at_once: int = setting(0, at_least=0)
    """Learned images, drawn anew each step, that the gradient goes through; 0: all."""


K = TypeVar("K", bound=KernelConfig)


@dataclass(frozen=True)
class Learned:
    """What a meta step descends in: images ``(n, C, H, W)``, targets ``(n, K)``, log-temperature (scalar)."""

    images: Tensor
    labels: Tensor
    tau: Tensor

    def named(self) -> dict[str, Tensor]:
        """By name."""
        return {"images": self.images, "labels": self.labels, "tau": self.tau}

    def leaves(self) -> Learned:
        """Detached, asking for gradients."""
        return Learned(*(part.detach().clone().requires_grad_() for part in self.named().values()))


class KernelMethod(Method[K]):
    """Base of the kernel family.

    Attributes:
        learned: images, targets, log-temperature; changed in place.
        pool: the networks.
        net: the architecture, linearised.
    """

    learned: Learned
    pool: Pool
    net: Linearised

    @classmethod
    def check(cls, config: K, context: Context) -> None:
        """As every method's, and a student whose last layer can be solved for: no norm, no dropout.

        Raises:
            UserError: names the flag, its value and what is possible.
        """
        super().check(config, context)
        student = parse_student(context.student)
        if student.family not in ("convnet", "mlp"):
            raise UserError(
                f"--student {context.student}: {cls.__name__} takes ConvNets and MLPs; use e.g. {cls.example(context)}"
            )
        if student.norm not in (None, "nn"):
            raise UserError(
                f"--student {context.student}: {cls.__name__} needs a network without a norm; use e.g. "
                f"{cls.example(context)}"
            )
        if config.batch_real > len(context.train):
            count = len(context.train)
            raise UserError(
                f"--batch-real {config.batch_real}: there are {count} training images; use {count} or fewer"
            )
        shown = context.classes * context.ipc * (2 if config.flip else 1)
        if config.images_at_once > shown:
            raise UserError(f"--images-at-once {config.images_at_once}: the set has {shown} images; leave it 0 for all")

    @classmethod
    def example(cls, context: Context) -> str:
        """A student that works, for messages."""
        depth = max(1, min(3, context.dataset.spec.size.bit_length() - 2))
        return f"convnet-d{depth}-w32x2-nn"

    @property
    def iterations(self) -> int:
        """Meta steps."""
        return self.config.iterations

    # What a method says

    def first_labels(self) -> Tensor:
        """First targets ``(n, K)``."""
        return centred_one_hot(self.context.hard_labels(), self.context.classes)

    def first_ages(self) -> list[int]:
        """Ages that the pool begins with."""
        return [0] * self.config.pool

    def steps_of_pool(self, iteration: int) -> int:
        """Steps that the network of an iteration is trained for."""
        raise NotImplementedError

    def pool_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What the networks are trained by."""
        return half_squared_error(outputs, labels)

    def meta(self, member: int, x: Tensor, y: Tensor, iteration: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Loss on real images ``(m, C, H, W)`` of classes ``(m,)``; gradients by the names of ``learned``."""
        raise NotImplementedError

    def descend(self, gradients: dict[str, Tensor], iteration: int) -> None:
        """Take the outer step."""
        raise NotImplementedError

    def optimiser_state(self) -> dict[str, Tensor]:
        """What the outer optimisers have gathered."""
        raise NotImplementedError

    def load_optimiser_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what :meth:`optimiser_state` gave."""
        raise NotImplementedError

    def delivered(self) -> Learned:
        """What is handed over."""
        return self.learned

    # What they share

    def setup(self) -> None:
        """First images, targets and temperature; the pool."""
        config, context = self.config, self.context
        device, spec = context.device, context.dataset.spec
        if config.init == "real":
            images = context.preprocess.apply(context.random_images("init"))
        else:
            shape = (context.classes * context.ipc, *spec.shape)
            images = NOISE * torch.randn(shape, generator=seeds.generator(context.seed, "init"))
        self.learned = Learned(images.to(device), self.first_labels().to(device), torch.zeros((), device=device))
        train = context.train
        self._real = Inputs(train.images, train.labels, context.preprocess, device, afresh=True)
        self.net = self.linearised().to(device)
        self.pool = Pool(self.fresh, context.seed, self.first_ages(), config.lr_pool, config.oldest)

    def linearised(self) -> Linearised:
        """The architecture."""
        return Linearised(self._network(0))

    def _network(self, seed: int) -> Any:
        spec = self.context.dataset.spec
        net = build_student(
            self.context.student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=seed
        )
        return initialise(net, "lecun", seed)

    def fresh(self, seed: int) -> Tensor:
        """Weights ``(P,)`` of a fresh network."""
        return flatten_parameters(self._network(seed)).to(self.context.device)

    def shown(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images and targets as networks see them: with mirror images where asked for."""
        if not self.config.flip:
            return images, labels
        return torch.cat([images, images.flip(-1)]), torch.cat([labels, labels])

    def through(
        self, rows: Rows, learned: Learned, head: Callable[[list[Tensor], Tensor], Tensor], iteration: int
    ) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """A loss of what networks say about the learned images, and its gradients.

        The images go through ``rows`` a part at a time: first without a graph; then, with the gradient of ``head`` in
        what came out, once more for the gradient in the images, in the memory of one part.

        Args:
            rows: shown images ``(k, C, H, W)`` to tensors whose first dimension is k, image by image.
            learned: leaves.
            head: those tensors for all shown images, and the shown targets, to a scalar; its graph may reach further
                leaves.

        Returns:
            The scalar; gradients by the names of ``learned`` (0 where it does not matter); gradients in the tensors.
        """
        images, labels = self.shown(learned.images, learned.labels)
        fixed = images.detach()
        with torch.no_grad():
            told = zip(*(rows(part) for part in fixed.split(PART)), strict=True)
        outputs = [torch.cat(parts).requires_grad_() for parts in told]
        loss = head(outputs, labels)
        wanted = [learned.labels, learned.tau, *outputs]
        found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        over = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]
        slope = torch.zeros_like(fixed)
        for index in sent(self._moved_rows(len(fixed), iteration), fixed.device).split(PART):
            part = fixed[index].requires_grad_()
            pairs = zip(rows(part), over[2:], strict=True)
            value = torch.stack([(output * cotangent[index]).sum() for output, cotangent in pairs]).sum()
            slope[index] = torch.autograd.grad(value, part)[0]
        (over_images,) = torch.autograd.grad(images, learned.images, slope, retain_graph=True)
        return loss, {"images": over_images, "labels": over[0], "tau": over[1]}, over[2:]

    def _moved_rows(self, count: int, iteration: int) -> Tensor:
        """Which of the shown images the gradient goes through."""
        some = self.config.images_at_once
        if not some or some == count:
            return torch.arange(count)
        generator = seeds.generator(self.context.seed, "images-at-once", iteration)
        return torch.randperm(count, generator=generator)[:some]

    def real_batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Different real images of an iteration, network input, and their classes."""
        generator = seeds.generator(self.context.seed, "real", iteration)
        return self._real.labelled(torch.randperm(len(self._real), generator=generator)[: self.config.batch_real])

    def step(self, iteration: int) -> dict[str, float]:
        """One meta step, and the training of the network that it used."""
        x, y = self.real_batch(iteration)
        member = self.pool.draw(iteration)
        cause = (
            f"likely cause: the rates of images and labels, or --lr-pool {self.config.lr_pool:g}, are too high: divide "
            "them by 10"
        )
        try:
            metrics, gradients = self.meta(member, x, y, iteration)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of features that are NaN, or all 0
            raise NotFiniteError(f"a network's features have no regression; {cause}") from None
        finite = all(bool(torch.isfinite(part).all()) for part in gradients.values())
        if not (finite and math.isfinite(metrics["loss"])):
            raise NotFiniteError(f"the meta loss is {metrics['loss']:g}; {cause}")
        before = {name: part.clone() for name, part in {**self.learned.named(), **self.optimiser_state()}.items()}
        self.descend(gradients, iteration)
        if not self._train_member(member, iteration):
            self.load_state(State(tensors={**before, **self.pool.state()}))
            raise NotFiniteError(f"a network of the pool diverged; {cause}")
        return metrics

    def _train_member(self, member: int, iteration: int) -> bool:
        images, labels = self.shown(self.learned.images, self.learned.labels)

        def gradient(theta: Tensor, step: int) -> Tensor:
            index = self.pool_batch(len(images), iteration, step)
            x, y = (images, labels) if index is None else (images[index], labels[index])
            weights = theta.detach().clone().requires_grad_()
            return torch.autograd.grad(self.pool_loss(self.net.both(weights, x)[1], y), weights)[0]

        return self.pool.train(member, self.steps_of_pool(iteration), gradient)

    def pool_batch(self, count: int, iteration: int, step: int) -> Tensor | None:
        """Indices of the images that a network is trained on in a step; None: all."""
        return None

    def distilled(self) -> Distilled:
        """Images in network-input space, targets, and the factor that makes logits of them."""
        learned = self.delivered()
        return Distilled(
            images=learned.images.cpu().clone(),
            labels=learned.labels.cpu().clone(),
            label_scale=float(learned.tau.exp()),
        )

    def state(self) -> State:
        """Images, targets, temperature, moments, the pool."""
        return State(tensors={**self.learned.named(), **self.optimiser_state(), **self.pool.state()})

    def load_state(self, state: State) -> None:
        """Take them over."""
        for name, part in self.learned.named().items():
            part.copy_(state.tensors[name])
        self.load_optimiser_state(state.tensors)
        self.pool.load_state(state.tensors)


def right_share(predicted: Tensor, classes: Tensor) -> float:
    """Accuracy of predictions ``(m, K)`` of classes ``(m,)``."""
    return float((predicted.argmax(1) == classes).float().mean())


def temperature_slope(predicted: Tensor, classes: Tensor, tau: Tensor) -> Tensor:
    """Gradient in the log-temperature of the cross-entropy of ``exp(tau) p``, where no loss has it; scalar."""
    leaf = tau.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(leaf.exp() * predicted.detach(), classes), leaf)[0]
