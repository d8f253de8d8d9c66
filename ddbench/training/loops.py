"""Plain training loops: a network, tensors, an optimiser of torch; nothing is differentiated through.

Every draw (order, augmentation) of epoch e comes from a generator named (seed, purpose, e): two synsets of the same
size see the same batch order under the same seed, and no generator state has to be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.data.dataset import Split
from ddbench.data.mapped import gather, was_read
from ddbench.data.policy import Mix, Policy, augment
from ddbench.data.preprocess import Preprocess
from ddbench.runtime import seeds
from ddbench.runtime.device import Compiler, sent
from ddbench.runtime.errors import UserError
from ddbench.training.flat import refuses_one
from ddbench.training.losses import cross_entropy, probability_cross_entropy
from ddbench.training.optimizers import Optimizer, OptimizerSettings, load_optimizer_state, make_optimizer
from ddbench.training.recorded import Gradients, of_ours, recordable

MATERIALISE_BYTES = 2 * 2**30
"""Inputs up to this size are preprocessed once and kept as float32; larger ones batch by batch, on the device, where
their pixels lie if they are no more than this."""

TEST_BATCH = 256


class Inputs:
    """Network inputs of a split, by index.

    Args:
        images: uint8 ``(N, C, H, W)`` with a preprocess, or float inputs with none.
        labels: ``(N,)`` int64, or ``(N, K)`` soft labels.
        space: the preprocess that float inputs were made with, for augmentation that works on pixels.
        classes: number of classes K; default: what the labels show.
        afresh: preprocess batch by batch whatever the size: rounding may depend on how many images are done at once.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        preprocess: Preprocess | None,
        device: torch.device,
        *,
        space: Preprocess | None = None,
        classes: int | None = None,
        afresh: bool = False,
    ) -> None:
        self.labels = labels.to(device)
        self.hard_labels = self.labels if labels.ndim == 1 else self.labels.argmax(1)
        self.classes = classes or (int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1])
        self.device = device
        self.preprocess = space or preprocess
        self._preprocess = preprocess
        if preprocess is not None and images.numel() <= MATERIALISE_BYTES:
            images = _placed(images, device)
        if preprocess is not None and images.numel() * 4 <= MATERIALISE_BYTES and not afresh:
            images, self._preprocess = preprocess.apply(images), None
        self._images = images if self._preprocess is not None else images.to(device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def stays(self) -> bool:
        """Whether the images are on the CPU and not on the device, for which they are too many."""
        return self._images.device.type != self.device.type

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, H, W)``."""
        return tuple(self._images.shape[1:])

    def batch(self, index: Tensor | slice) -> Tensor:
        """Float inputs ``(n, C, H, W)`` on the device."""
        if isinstance(index, Tensor):
            index = sent(index, self._images.device)  # images that are too many for the device stay where they are
        if self._preprocess is None:
            return gather(self._images, index)
        return self._preprocess.apply(sent(gather(self._images, index), self.device))

    def labelled(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Float inputs of positions that are on the CPU, and their labels, on the device."""
        placed = sent(index, self.device)
        return self.batch(index if self.stays else placed), self.labels[placed]


def _placed(images: Tensor, device: torch.device) -> Tensor:
    """Images on a device; those of a file that are copied there need not stay in memory."""
    placed = images.to(device)
    if placed is not images:
        was_read(images)
    return placed


def inputs_of(split: Split, preprocess: Preprocess, device: torch.device) -> Inputs:
    """Inputs of a split of a dataset."""
    return Inputs(split.images, split.labels, preprocess, device)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a precision: ``float32`` (nothing) or ``bfloat16`` (autocast)."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What :func:`train` yields after an epoch: number from 1, mean loss and accuracy over its augmented batches."""

    number: int
    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class View:
    """One augmented batch.

    Attributes:
        x: network input ``(n, C, H, W)``.
        index: int64 ``(n,)`` positions in the inputs.
        epoch: from 0.
        mix: what was mixed into each image, or None.
    """

    x: Tensor
    index: Tensor
    epoch: int
    mix: Mix | None


def views(inputs: Inputs, *, batch: int, policy: Policy | None, seed: int, epoch: int) -> Iterator[View]:
    """The augmented batches of one epoch, in order; the same for the same seed and number of images."""
    order = torch.randperm(len(inputs), generator=seeds.generator(seed, "order", epoch))
    randomness = seeds.generator(seed, "augment", epoch)
    placed = sent(order, inputs.device)  # at once: each copy to a GPU waits for all that it was given before
    where = order if inputs.stays else placed
    for index, own in zip(placed.split(batch), where.split(batch), strict=True):
        x, mix = inputs.batch(own), None
        if policy is not None:
            x, mix = augment(policy, x, randomness, inputs.preprocess)
        yield View(x=x, index=index, epoch=epoch, mix=mix)


Labels = Callable[[View], Tensor]
"""Gives the targets of a view."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Scalar loss of logits ``(n, K)`` and targets."""

Penalty = Callable[[Tensor, Tensor], Tensor]
"""Network inputs and targets of a view -> a scalar that is added to its loss."""


def own_labels(inputs: Inputs) -> Labels:
    """The inputs' labels for :func:`own_loss`; those of mixed images are mixed, as probabilities ``(n, K)``."""

    def labels(view: View) -> Tensor:
        own = inputs.labels[view.index]
        if view.mix is None:
            return own
        shares = F.one_hot(own, inputs.classes).float() if own.ndim == 1 else own.softmax(1)
        return view.mix.blend(shares)

    return labels


def own_loss(mixed: bool) -> Loss:
    """Cross-entropy with the targets of :func:`own_labels`."""
    return probability_cross_entropy if mixed else cross_entropy


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Where a killed training goes on: epochs done, and the optimiser's state (:func:`optimizer_state`)."""

    epochs: int
    optimizer: dict[str, Tensor]


def _begun(net: nn.Module, optimizer: OptimizerSettings, rate: float, resume: Resume | None) -> Optimizer:
    """The optimiser at a factor of its learning rate, with what it had gathered where training goes on."""
    stepper = make_optimizer(net.parameters(), replace(optimizer, lr=optimizer.lr * rate))
    if resume:
        load_optimizer_state(stepper, "optimizer", resume.optimizer)
        _set_rate(stepper, optimizer.lr * rate)
    return stepper


def train(
    net: nn.Module,
    inputs: Inputs,
    *,
    epochs: int,
    batch: int,
    optimizer: OptimizerSettings,
    policy: Policy | None,
    seed: int,
    factor: Callable[[int], float] | None = None,
    rebuild: bool = False,
    labels: Labels | None = None,
    loss: Loss | None = None,
    penalty: Penalty | None = None,
    after_step: Callable[[], None] = lambda: None,
    view_seed: int | None = None,
    seen: Callable[..., Iterable[View]] | None = None,
    precision: str = "float32",
    compiler: Compiler | None = None,
    resume: Resume | None = None,
    checkpoint: Callable[[int, Optimizer], None] | None = None,
) -> Iterator[Epoch]:
    """Train ``net`` in place, yielding after every epoch; nothing runs between the yields that the caller did not ask.

    Args:
        batch: at most this many images a step; the last, smaller batch of an epoch is kept, unless it is one image and
            the network cannot be trained on one (:func:`leaves_one_out`).
        policy: augmentation, or ``None``.
        seed: names the order, the augmentation and the dropout of every epoch.
        factor: learning-rate factor of each epoch (from 0); ``None``: 1 throughout.
        rebuild: where the factor changes, build a new optimiser, losing its momentum, as public DC and MTT code does.
        labels, loss: what is learned; default: the inputs' own labels by cross-entropy.
        penalty: added to the loss of every view.
        after_step: called after every step, as an average of the weights needs it.
        view_seed: names order and augmentation in place of ``seed``, where stored labels belong to certain views.
        seen: gives what :func:`views` gives, as where it was kept; default: that function.
        compiler: ``torch.compile`` or ``None``.
        resume: go on after so many epochs; ``net`` holds the weights of that time.
        checkpoint: called after every epoch with the number of epochs done and the optimiser.

    Raises: as :func:`leaves_one_out`.
    """
    device, labels = inputs.device, labels or own_labels(inputs)
    first, count, hard = resume.epochs if resume else 0, len(inputs), inputs.hard_labels
    rate = factor(max(0, first - 1)) if factor else 1.0
    stepper = _begun(net, optimizer, rate, resume)
    loss = loss or own_loss(policy is not None and policy.mix != "none")
    whole, plain = _gradients(net, loss, penalty, precision, device, compiler)
    without = leaves_one_out(net, inputs, batch)
    trained, named = count - without, seed if view_seed is None else view_seed
    for epoch in range(first, epochs):
        wanted = factor(epoch) if factor else 1.0
        if wanted != rate:
            rate = wanted
            stepper = _begun(net, optimizer, rate, None) if rebuild else stepper
            _set_rate(stepper, optimizer.lr * rate)
        loss_sum, right = torch.zeros((), device=device), torch.zeros((), device=device)
        net.train()
        with seeds.isolated(seed, "dropout", epoch):
            for view in (seen or views)(inputs, batch=batch, policy=policy, seed=named, epoch=epoch):
                if without and len(view.x) == 1:
                    continue
                value, logits = (whole if len(view.x) == min(batch, count) else plain)(view.x, labels(view))
                stepper.step()
                after_step()
                loss_sum += value * len(view.x)
                right += (logits.argmax(1) == hard[view.index]).sum()
        if checkpoint is not None:
            checkpoint(epoch + 1, stepper)
        yield Epoch(number=epoch + 1, loss=float(loss_sum) / trained, accuracy=float(right) / trained)


def leaves_one_out(net: nn.Module, inputs: Inputs, batch: int) -> bool:
    """Whether every epoch goes without one image: its last batch is one, and the network cannot be trained on one.

    That is so where batch norm follows the global pooling. The order being another in every epoch, so is that image.

    Raises:
        UserError: all batches are single images.
    """
    size = min(batch, len(inputs))
    if (size > 1 and len(inputs) % batch != 1) or not refuses_one(net, inputs.shape):
        return False
    if size == 1:
        raise UserError(
            "batches of 1 image: this student has a norm over the batch behind its pooling, which needs 2 or more; use "
            "a larger --batch or another student"
        )
    return True


def _gradients(
    net: nn.Module,
    loss: Loss,
    penalty: Penalty | None,
    precision: str,
    device: torch.device,
    compiler: Compiler | None,
) -> tuple[Gradients, Gradients]:
    """What descends on a whole batch, compiled where there is a compiler, and on a smaller one."""
    objective = _objective(net, loss, penalty, precision, device)
    repeat = of_ours(loss) and compiler is None and penalty is None and precision == "float32"
    plain = Gradients(net, objective, repeat and recordable(net, device))
    return Gradients(net, compiler(objective), False) if compiler is not None else plain, plain


def _objective(
    net: nn.Module, loss: Loss, penalty: Penalty | None, precision: str, device: torch.device
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Loss (with the penalty) and detached logits ``(n, K)`` of network inputs and targets."""

    def objective(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(precision, device):
            logits = net(x)
        logits = logits.float() if precision != "float32" else logits
        value = loss(logits, y)
        return value if penalty is None else value + penalty(x, y), logits.detach()

    return objective


def _set_rate(stepper: Optimizer, rate: float) -> None:
    for group in stepper.param_groups:
        group["lr"] = rate


def drop_after(epochs: int | None, factor: float = 0.1) -> Callable[[int], float] | None:
    """Learning-rate factor of a single drop after so many epochs; ``None`` for none."""
    if epochs is None:
        return None
    return lambda epoch: factor if epoch >= epochs else 1.0


@torch.no_grad()
def predict(
    net: nn.Module,
    inputs: Inputs,
    *,
    precision: str = "float32",
    compiler: Compiler | None = None,
) -> Tensor:
    """Logits ``(N, K)`` float32 on the CPU, in evaluation mode, batches of :data:`TEST_BATCH`."""
    net.eval()

    def forward(x: Tensor) -> Tensor:
        with autocast(precision, inputs.device):
            result: Tensor = net(x)
        return result.float()

    compiled = compiler(forward) if compiler is not None else forward
    parts = []
    for first in range(0, len(inputs), TEST_BATCH):
        x = inputs.batch(slice(first, first + TEST_BATCH))
        parts.append((compiled if len(x) == TEST_BATCH else forward)(x))
    return torch.cat(parts).cpu()  # together: each copy from a GPU waits for it


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of ``(N, K)`` logits whose largest entry is the class ``(N,)``."""
    return int((logits.argmax(1) == labels.cpu()).sum()) / len(labels)


def forward_flops(net: nn.Module, shape: tuple[int, ...]) -> float:
    """Floating-point operations of one forward pass of one image ``(C, H, W)``, in convolutions and linear layers.

    An estimate for deciding whether compiling pays; torch's own counter would import the compiler to find that out.
    """
    total = 0.0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += 2 * output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += 2 * output.numel() * module.in_features

    hooks = [module.register_forward_hook(count) for module in net.modules()]
    training = net.training
    net.eval()
    with torch.no_grad():
        net(torch.zeros(1, *shape, device=next(net.parameters()).device))
    net.train(training)
    for hook in hooks:
        hook.remove()
    return total
