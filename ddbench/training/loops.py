"""Plain training loops: a network, tensors, an optimiser of torch; nothing is differentiated through.

Every draw (order, augmentation) of epoch e comes from a generator named (seed, purpose, e): two synsets of the same
size see the same batch order under the same seed, and no generator state has to be stored.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.data.augment import Strategy, apply, draw
from ddbench.data.dataset import Split
from ddbench.data.preprocess import Preprocess
from ddbench.registry import unknown
from ddbench.runtime import seeds
from ddbench.runtime.device import Compiler
from ddbench.runtime.errors import UserError
from ddbench.training.losses import cross_entropy
from ddbench.training.sgd import SGD

MATERIALISE_BYTES = 2 * 2**30
"""Inputs up to this size are preprocessed once and kept as float32; larger ones batch by batch."""

TEST_BATCH = 256


class Inputs:
    """Network inputs of a split, by index.

    Args:
        images: uint8 ``(N, C, H, W)`` with a preprocess, or float inputs with none.
        labels: ``(N,)`` int64, or ``(N, K)`` soft labels.
    """

    def __init__(self, images: Tensor, labels: Tensor, preprocess: Preprocess | None, device: torch.device) -> None:
        self.labels = labels.to(device)
        self.device = device
        self._preprocess = preprocess
        if preprocess is not None and images.numel() * 4 <= MATERIALISE_BYTES:
            images, self._preprocess = preprocess.apply(images), None
        self._images = images if self._preprocess is not None else images.to(device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, H, W)``."""
        return tuple(self._images.shape[1:])

    def batch(self, index: Tensor | slice) -> Tensor:
        """Float inputs ``(n, C, H, W)`` on the device."""
        if self._preprocess is None:
            return self._images[index]
        return self._preprocess.apply(self._images[index]).to(self.device)


def inputs_of(split: Split, preprocess: Preprocess, device: torch.device) -> Inputs:
    """Inputs of a split of a dataset."""
    return Inputs(split.images, split.labels, preprocess, device)


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """An optimiser of ``torch.optim`` by its lower-case name."""

    name: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    options: tuple[tuple[str, float], ...] = ()


def make_optimizer(parameters: Any, settings: OptimizerSettings) -> torch.optim.Optimizer | SGD:
    """Build the optimiser: our SGD where that is all that is asked for, else torch's.

    Raises:
        UserError: no such optimiser in torch, or one that does not take an option.
    """
    if settings.name == "sgd" and not settings.options:
        return SGD(parameters, settings.lr, settings.momentum, settings.weight_decay)
    known = {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and name != "Optimizer"
    }
    if settings.name not in known:
        raise unknown("optimiser", settings.name, known, "--optimizer")
    kind = known[settings.name]
    accepted = inspect.signature(kind).parameters
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.momentum:
        options["momentum"] = settings.momentum
    options.update(settings.options)
    for name in options:
        if name not in accepted:
            raise UserError(f"--optimizer {settings.name} has no option {name!r}; it takes: {', '.join(accepted)}")
    if settings.name in ("sgd", "adam", "adamw"):
        options["fused"] = True  # one kernel a tensor; the same arithmetic
    return kind(parameters, **options)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a precision: ``float32`` (nothing) or ``bfloat16`` (autocast)."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What :func:`train` yields after an epoch: number from 1, mean loss and accuracy over its augmented batches."""

    number: int
    loss: float
    accuracy: float


def train(
    net: nn.Module,
    inputs: Inputs,
    *,
    epochs: int,
    batch: int,
    optimizer: OptimizerSettings,
    strategy: Strategy | None,
    seed: int,
    decay_after: int | None = None,
    decay: float = 0.1,
    rebuild: bool = False,
    precision: str = "float32",
    compiler: Compiler | None = None,
) -> Iterator[Epoch]:
    """Train ``net`` in place, yielding after every epoch; nothing runs between the yields that the caller did not ask.

    Args:
        batch: at most this many images a step; the last, smaller batch of an epoch is kept.
        strategy: DSA augmentation, or ``None``.
        seed: names the order, the augmentation and the dropout of every epoch.
        decay_after: after this many epochs the learning rate is multiplied by ``decay`` once.
        rebuild: build a new optimiser at that point, losing its momentum, as the public DC and MTT code does.
        compiler: ``torch.compile`` or ``None``.
    """
    device = inputs.device
    stepper = make_optimizer(net.parameters(), optimizer)

    def objective(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(precision, device):
            logits = net(x)
        logits = logits.float() if precision != "float32" else logits
        return cross_entropy(logits, y), logits.detach()

    compiled = compiler(objective) if compiler is not None else objective
    count = len(inputs)
    size = inputs.shape[-1]
    hard = inputs.labels if inputs.labels.ndim == 1 else inputs.labels.argmax(1)
    for epoch in range(epochs):
        if decay_after is not None and epoch == decay_after:
            if rebuild:
                stepper = make_optimizer(net.parameters(), replace(optimizer, lr=optimizer.lr * decay))
            else:
                for group in stepper.param_groups:
                    group["lr"] *= decay
        order = torch.randperm(count, generator=seeds.generator(seed, "order", epoch))
        randomness = seeds.generator(seed, "augment", epoch)
        loss_sum = torch.zeros((), device=device)
        right = torch.zeros((), device=device)
        net.train()
        with seeds.isolated(seed, "dropout", epoch):
            for index in order.split(batch):
                index = index.to(device)
                x = inputs.batch(index)
                if strategy is not None:
                    x = apply(draw(strategy, len(x), size, randomness), x)
                run = compiled if len(index) == min(batch, count) else objective
                loss, logits = run(x, inputs.labels[index])
                stepper.zero_grad(set_to_none=True)
                loss.backward()
                stepper.step()
                loss_sum += loss.detach() * len(x)
                right += (logits.argmax(1) == hard[index]).sum()
        yield Epoch(number=epoch + 1, loss=float(loss_sum) / count, accuracy=float(right) / count)


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
        parts.append((compiled if len(x) == TEST_BATCH else forward)(x).cpu())
    return torch.cat(parts)


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
