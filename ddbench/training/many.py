"""Many networks of one architecture trained at once on one device, each on views of its own.

Small networks keep a GPU waiting: a step is hundreds of tiny kernels, and launching them takes longer than their work.
Here the weights of M networks are stacked, ``torch.func.vmap`` runs one forward pass of all of them, and one optimiser
updates the stacks. Networks do not see each other: the gradient of the sum of their losses by a stack is the stack of
their gradients, and the optimisers used here go element by element. So each network ends where
:func:`ddbench.training.loops.train` would have led it alone with its seed, up to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ddbench.data.augment import Draw, Strategy, apply, draw
from ddbench.data.policy import ALWAYS, Mix, Policy, augment
from ddbench.runtime import seeds as randomness
from ddbench.runtime.device import Compiler, sent
from ddbench.training.averaging import Averaging
from ddbench.training.flat import drawing_modules, draws
from ddbench.training.loops import (
    TEST_BATCH,
    Epoch,
    Inputs,
    Labels,
    Loss,
    View,
    autocast,
    leaves_one_out,
    own_labels,
    own_loss,
)
from ddbench.training.optimizers import Optimizer, OptimizerSettings, make_optimizer

ELEMENTWISE = ("sgd", "adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "adagrad", "adadelta", "rprop", "asgd")
"""Optimisers of ``torch.optim`` whose update of a number depends on that number's own gradients only."""


def draws_in_training(net: nn.Module, shape: tuple[int, ...] | None = None) -> bool:
    """Whether a network has dropout, or drops paths: then it cannot be trained at once with others.

    Args:
        shape: ``(C, H, W)`` of its images: it is called too, and so found out where no module shows it.
    """
    if next(drawing_modules(net), None) is not None:
        return True
    return shape is not None and draws(net, shape)


class Stack:
    """The weights and buffers of M networks of one architecture, stacked; the networks keep theirs until ``write``.

    Args:
        nets: on one device. What differs without showing in a name or shape (an activation) must be the same.

    Raises:
        ValueError: no network, or networks whose weights or buffers differ in name, shape or type.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        if not nets:
            raise ValueError("no network to train")
        self.nets = list(nets)
        forms = [_form(net) for net in nets]
        for position, form in enumerate(forms):
            if form != forms[0]:
                raise ValueError(f"network {position} is of another architecture, type or device than network 0")
        self.parameters = _stacked([dict(net.named_parameters()) for net in nets])
        self.buffers = _stacked([dict(net.named_buffers()) for net in nets])
        for name, parameter in nets[0].named_parameters():
            self.parameters[name].requires_grad_(parameter.requires_grad)

    def __len__(self) -> int:
        return len(self.nets)

    def train(self, mode: bool = True) -> None:
        """Put all networks in training or evaluation mode."""
        for net in self.nets:
            net.train(mode)

    def call(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        """Logits ``(n, K)`` of one network on ``(n, C, H, W)``, to be mapped over the stacks."""
        logits: Tensor = functional_call(self.nets[0], (parameters, buffers), (x,))
        return logits

    @torch.no_grad()
    def write(self) -> None:
        """Copy weights and buffers back into the networks, in place."""
        for position, net in enumerate(self.nets):
            for name, parameter in net.named_parameters():
                parameter.copy_(self.parameters[name][position])
            for name, buffer in net.named_buffers():
                buffer.copy_(self.buffers[name][position])


def _form(net: nn.Module) -> tuple[object, ...]:
    tensors = [*net.named_parameters(), *net.named_buffers()]
    return type(net), [(name, one.shape, one.dtype, one.device, one.requires_grad) for name, one in tensors]


def _stacked(tables: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([table[name].detach() for table in tables]) for name in tables[0]}


@dataclass(frozen=True, kw_only=True)
class Views:
    """One augmented batch of each of M networks.

    Attributes:
        x: network input ``(M, n, C, H, W)``.
        index: int64 ``(M, n)`` positions in the inputs.
        epoch: from 0.
        mixes: of each network what was mixed into each image, or None.
    """

    x: Tensor
    index: Tensor
    epoch: int
    mixes: tuple[Mix | None, ...]

    def of(self, position: int) -> View:
        """The batch of one network."""
        return View(x=self.x[position], index=self.index[position], epoch=self.epoch, mix=self.mixes[position])


def many_views(
    inputs: Inputs, *, batch: int, policy: Policy | None, seeds: Sequence[int], epoch: int
) -> Iterator[Views]:
    """The batches that :func:`ddbench.training.loops.views` gives for each seed, stacked.

    Images are gathered, and DSA's families applied, for all networks in one go.
    """
    orders = [torch.randperm(len(inputs), generator=randomness.generator(seed, "order", epoch)) for seed in seeds]
    generators = [randomness.generator(seed, "augment", epoch) for seed in seeds]
    order = torch.stack(orders)
    placed = sent(order, inputs.device)
    where = order if inputs.stays else placed
    for index, own in zip(placed.split(batch, dim=1), where.split(batch, dim=1), strict=True):
        x = inputs.batch(own.flatten())
        mixes: tuple[Mix | None, ...] = (None,) * len(seeds)
        if policy is not None:
            x, mixes = _augment(policy, x, generators, inputs)
        yield Views(x=x.unflatten(0, (len(seeds), -1)), index=index, epoch=epoch, mixes=mixes)


def _augment(
    policy: Policy, x: Tensor, generators: list[torch.Generator], inputs: Inputs
) -> tuple[Tensor, tuple[Mix | None, ...]]:
    """Augment ``(M n, C, H, W)``, the part of each network from its own generator.

    The leading parts of the policy that are strategies of DSA are done to all at once, what follows network by network.
    """
    many = len(generators)
    count = len(x) // many
    parts = list(policy.parts)
    while parts:
        strategy = parts[0] if isinstance(parts[0], Strategy) else ALWAYS.get(parts[0])
        if strategy is None or strategy.siamese:
            break
        x = apply(_joined([draw(strategy, count, x.shape[-1], generator) for generator in generators]), x)
        del parts[0]
    if not parts and policy.mix == "none":
        return x, (None,) * many
    rest = replace(policy, parts=tuple(parts))
    pairs = [
        augment(rest, part, generator, inputs.preprocess)
        for part, generator in zip(x.split(count), generators, strict=True)
    ]
    return torch.cat([part for part, _ in pairs]), tuple(mix for _, mix in pairs)


def _joined(draws: list[Draw]) -> Draw:
    """One draw for the images of several, one after the other; none is siamese."""
    first = draws[0]
    if first.families is not None:
        families = torch.cat([one.families for one in draws if one.families is not None])
        values = {name: torch.cat([one.values[name] for one in draws]) for name in first.values}
        return replace(first, families=families, values=values)
    # Each has one family: a row of zeros stands where an image has another one, and is never read.
    ops = first.strategy.ops
    counts = [len(next(iter(one.values.values()))) for one in draws]
    families = torch.tensor([ops.index(str(one.family)) for one in draws]).repeat_interleave(torch.tensor(counts))
    values = {}
    for name, like in {name: rows for one in draws for name, rows in one.values.items()}.items():
        rows = [one.values.get(name, like.new_zeros(n, like.shape[1])) for n, one in zip(counts, draws, strict=True)]
        values[name] = torch.cat(rows)
    return Draw(first.strategy, first.size, None, families, values)


def train_many(
    nets: Sequence[nn.Module],
    inputs: Inputs,
    *,
    epochs: int,
    batch: int,
    optimizer: OptimizerSettings,
    policy: Policy | None,
    seeds: Sequence[int],
    factor: Callable[[int], float] | None = None,
    rebuild: bool = False,
    labels: Labels | None = None,
    loss: Loss | None = None,
    average: Averaging | None = None,
    view_seed: int | None = None,
    precision: str = "float32",
    compiler: Compiler | None = None,
    write: bool = False,
) -> Iterator[tuple[Epoch, ...]]:
    """Train M networks in place, yielding after every epoch what :func:`~ddbench.training.loops.train` yields for each.

    The networks hold their new weights and statistics when the iterator is exhausted or closed, and between epochs with
    ``write`` only.

    Args:
        nets: M networks of one architecture on the device of the inputs, without dropout.
        seeds: M seeds: each names the order and the augmentation of a network's epochs.
        labels: called for every network's view by itself; default: the inputs' own.
        loss: of one network's logits and targets, mapped over the networks: it must not look at numbers, and operations
            that ``vmap`` has no rule for (``F.kl_div``) go network by network, with a warning.
        average: in the end the networks hold this average of their weights over the steps.
        write: copy weights and statistics into the networks after every epoch.

    The other arguments are those of :func:`~ddbench.training.loops.train`, for all networks.

    Raises:
        ValueError: networks with dropout (their draws could not be those of a network alone), of different
            architectures, as many seeds as there are not networks, or an optimiser that is not element by element.
    """
    # Another function yields, so that what is wrong is told now and not at the first epoch.
    if len(seeds) != len(nets):
        raise ValueError(f"{len(nets)} networks and {len(seeds)} seeds")
    if any(draws_in_training(net) for net in nets):
        raise ValueError("networks with dropout draw at random in training: train them one by one")
    if optimizer.name not in ELEMENTWISE:
        raise ValueError(f"optimiser {optimizer.name!r} is not element by element: train the networks one by one")
    without = leaves_one_out(nets[0], inputs, batch) if nets else False
    stack = Stack(nets)
    loss = loss or own_loss(policy is not None and policy.mix != "none")
    step = _objective(stack, loss, precision, inputs.device)
    named = list(seeds) if view_seed is None else [view_seed] * len(nets)
    seen = functools.partial(many_views, inputs, batch=batch, policy=policy, seeds=named)
    whole = compiler(step) if compiler is not None else step
    steps = _Steps(inputs, labels, min(batch, len(inputs)), step, whole, without)
    return _run(stack, steps, epochs, optimizer, factor, rebuild, seen, average, write)


@dataclass(frozen=True)
class _Steps:
    """What a step computes: compiled for batches of ``size`` images, plain for the last, smaller one.

    With ``without``, a last batch of one image is left out.
    """

    inputs: Inputs
    labels: Labels | None
    size: int
    plain: Objective
    compiled: Objective
    without: bool

    def __call__(self, stack: Stack, seen: Views) -> tuple[Tensor, Tensor]:
        """Losses ``(M,)`` and logits ``(M, n, K)`` of views."""
        objective = self.compiled if seen.index.shape[1] == self.size else self.plain
        return objective(stack.parameters, stack.buffers, seen.x, _targets(self.inputs, self.labels, seen))


def _run(
    stack: Stack,
    losses: _Steps,
    epochs: int,
    optimizer: OptimizerSettings,
    factor: Callable[[int], float] | None,
    rebuild: bool,
    views: Callable[..., Iterator[Views]],
    averaging: Averaging | None,
    write: bool,
) -> Iterator[tuple[Epoch, ...]]:
    """The epochs of :func:`train_many`."""
    inputs, many = losses.inputs, len(stack.nets)
    count = len(inputs) - losses.without
    rate = factor(0) if factor else 1.0
    steppers = _make_optimizers(stack, replace(optimizer, lr=optimizer.lr * rate))
    average = averaging.of(stack.parameters.values(), stack.buffers.values()) if averaging else None
    try:
        for epoch in range(epochs):
            wanted = factor(epoch) if factor else 1.0
            if wanted != rate:
                rate = wanted
                if rebuild:
                    steppers = _make_optimizers(stack, replace(optimizer, lr=optimizer.lr * rate))
                for stepper in steppers:
                    for group in stepper.param_groups:
                        group["lr"] = optimizer.lr * rate
            stack.train()
            loss_sum = torch.zeros(many, device=inputs.device)
            right = torch.zeros(many, device=inputs.device)
            for seen in views(epoch=epoch):
                if losses.without and seen.index.shape[1] == 1:
                    continue
                values, logits = losses(stack, seen)
                for stepper in steppers:
                    stepper.zero_grad(set_to_none=True)
                values.sum().backward()
                for stepper in steppers:
                    stepper.step()
                if average is not None:
                    average.update()
                loss_sum += values.detach() * seen.index.shape[1]
                right += (logits.argmax(2) == inputs.hard_labels[seen.index]).sum(1)
            if write:
                stack.write()
            pairs = zip(loss_sum.tolist(), right.tolist(), strict=True)
            yield tuple(Epoch(number=epoch + 1, loss=a / count, accuracy=b / count) for a, b in pairs)
    finally:
        if average is not None:
            average.put()
        stack.write()


Objective = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]


def _objective(stack: Stack, loss: Loss, precision: str, device: torch.device) -> Objective:
    """Losses ``(M,)`` and logits ``(M, n, K)`` of stacked weights, buffers (updated in place), inputs and targets."""

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(precision, device):
            logits = stack.call(parameters, buffers, x)
        logits = logits.float() if precision != "float32" else logits
        return loss(logits, y), logits.detach()

    mapped: Objective = vmap(one)
    return mapped


def _targets(inputs: Inputs, labels: Labels | None, seen: Views) -> Tensor:
    if labels is None and all(mix is None for mix in seen.mixes):
        return inputs.labels[seen.index]
    labels = labels or own_labels(inputs)
    return torch.stack([labels(seen.of(position)) for position in range(len(seen.mixes))])


def _make_optimizers(stack: Stack, settings: OptimizerSettings) -> list[Optimizer]:
    """One optimiser of the stacks, or two where vectors do not decay: a stack of vectors is a matrix itself."""
    tensors = list(stack.parameters.values())
    if not settings.weight_decay or settings.decay_vectors:
        return [make_optimizer(tensors, settings)]
    whole = replace(settings, decay_vectors=True)
    groups = [
        ([one for one in tensors if one.ndim > 2], whole),
        ([one for one in tensors if one.ndim <= 2], replace(whole, weight_decay=0.0)),
    ]
    return [make_optimizer(members, own) for members, own in groups if members]


@torch.no_grad()
def predict_many(
    nets: Sequence[nn.Module],
    inputs: Inputs,
    *,
    precision: str = "float32",
    compiler: Compiler | None = None,
) -> Tensor:
    """Logits ``(M, N, K)`` float32 on the CPU, in evaluation mode, batches of :data:`TEST_BATCH`.

    Raises:
        ValueError: networks of different architectures.
    """
    stack = Stack(nets)
    stack.train(False)

    def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        with autocast(precision, inputs.device):
            logits = stack.call(parameters, buffers, x)
        return logits.float()

    mapped = vmap(forward, in_dims=(0, 0, None))
    compiled = compiler(mapped) if compiler is not None else mapped
    parts = []
    for first in range(0, len(inputs), TEST_BATCH):
        x = inputs.batch(slice(first, first + TEST_BATCH))
        parts.append((compiled if len(x) == TEST_BATCH else mapped)(stack.parameters, stack.buffers, x))
    return torch.cat(parts, 1).cpu()
