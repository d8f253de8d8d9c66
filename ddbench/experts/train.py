"""Training experts and keeping what they are after every epoch: one network alone, or several at once."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.data.policy import parse_policy
from ddbench.experts.recipe import ExpertRecipe
from ddbench.experts.sharpness import drop_factor, train_expert
from ddbench.runtime.device import Compiler
from ddbench.training.flat import flatten_buffers, flatten_parameters
from ddbench.training.loops import Epoch, Inputs, accuracy, drop_after, forward_flops, predict, train
from ddbench.training.optimizers import OptimizerSettings
from ddbench.training.twice import attention_of

PASSES = {"sgd": 1, "gsam": 2, "smooth": 3}
"""About how many forward and backward passes a step of each kind makes."""


class Snapshots:
    """What a network is before and after each epoch of its training.

    Attributes:
        weights: ``(E+1, P)`` on the CPU.
        buffers: running statistics ``(E+1, B)``; B may be 0.
        curves: seed, loss, accuracies: the record of an expert (without a test accuracy).
        diverged: the epoch after which the weights were no longer finite; later ones are not kept.
    """

    def __init__(self, net: nn.Module, epochs: int, seed: int) -> None:
        first, statistics = flatten_parameters(net).cpu(), flatten_buffers(net).cpu()
        self.weights = first.new_zeros(epochs + 1, len(first))
        self.buffers = statistics.new_zeros(epochs + 1, len(statistics))
        self.weights[0], self.buffers[0] = first, statistics
        self.curves: dict[str, Any] = {"seed": seed, "loss": [], "train_accuracy": [], "holdout_accuracy": []}
        self.diverged: int | None = None

    def take(self, net: nn.Module, epoch: Epoch) -> None:
        """Keep what the network is now, after an epoch."""
        self.weights[epoch.number] = flatten_parameters(net).cpu()
        self.buffers[epoch.number] = flatten_buffers(net).cpu()
        if not bool(torch.isfinite(self.weights[epoch.number]).all()):
            self.diverged = epoch.number
        self.curves["loss"].append(round(epoch.loss, 6))
        self.curves["train_accuracy"].append(round(epoch.accuracy, 6))

    def failure(self, name: str, recipe: ExpertRecipe) -> str | None:
        """Why there is no trajectory of the network called ``name``, for people; None where there is one."""
        if self.diverged is None:
            return None
        return f"{name}: its weights are not finite after epoch {self.diverged}; lower --lr (now {recipe.lr:g})"


def optimizer_settings(recipe: ExpertRecipe) -> OptimizerSettings:
    """The optimiser of a recipe."""
    return OptimizerSettings(
        name=recipe.optimizer,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        options=recipe.options,
    )


def attention_for(
    recipe: ExpertRecipe, net: nn.Module, shape: tuple[int, ...], classes: int, student: str
) -> AbstractContextManager[None]:
    """The form of attention that experts of a recipe are trained under: a gradient penalty is differentiated.

    Args:
        net: a student on the device of the training.
        shape: of its images, ``(C, H, W)``.

    Raises:
        UserError: it has no second derivative; names the student and the layer.
    """
    if recipe.kind == "smooth" and recipe.penalty:
        return attention_of(net, shape, classes, student, "the gradient penalty of --kind smooth")
    return nullcontext()


def training_flops(net: nn.Module, inputs: Inputs, recipe: ExpertRecipe) -> float:
    """About how many floating-point operations an expert's training takes."""
    return 3 * PASSES[recipe.kind] * forward_flops(net, inputs.shape) * len(inputs) * recipe.epochs


def trajectories(
    nets: Sequence[nn.Module],
    inputs: Inputs,
    held_out: Inputs | None,
    recipe: ExpertRecipe,
    seeds: Sequence[int],
    compiler: Compiler | None,
) -> list[Snapshots]:
    """Train networks in place as a recipe says, and keep what they were before and after each epoch.

    Several are trained at once, their weights stacked (:mod:`ddbench.training.many`); one that diverges does not
    disturb the others.

    Args:
        nets: of one architecture, on the device of the inputs.
        held_out: real images that are judged after each epoch; ``None``: none.
        seeds: one a network; names order, augmentation and dropout of its epochs.

    Returns:
        One a network; those that diverged say so.
    """
    kept = [Snapshots(net, recipe.epochs, seed) for net, seed in zip(nets, seeds, strict=True)]
    for epochs in _training(nets, inputs, recipe, seeds, compiler):
        running = [one for one in zip(kept, nets, epochs, strict=True) if one[0].diverged is None]
        for one, net, epoch in running:
            one.take(net, epoch)
        if held_out is not None:
            judged = dict(zip(map(id, kept), predict_all(nets, held_out), strict=True))
            for one, _, _ in running:
                one.curves["holdout_accuracy"].append(round(accuracy(judged[id(one)], held_out.labels), 6))
        if all(one.diverged is not None for one in kept):
            break
    return kept


def predict_all(nets: Sequence[nn.Module], inputs: Inputs) -> list[Tensor]:
    """Logits ``(N, K)`` of each network, on the CPU."""
    if len(nets) == 1:
        return [predict(nets[0], inputs)]
    from ddbench.training.many import predict_many  # torch.func is slow to import

    return list(predict_many(nets, inputs))


def _training(
    nets: Sequence[nn.Module], inputs: Inputs, recipe: ExpertRecipe, seeds: Sequence[int], compiler: Compiler | None
) -> Iterator[tuple[Epoch, ...]]:
    """Train experts in place as their recipe says; yields what :func:`ddbench.training.loops.train` yields, of each."""
    policy = parse_policy(recipe.augmentation)
    factor = drop_after(recipe.epochs // 2 + 1 if recipe.decay else None)
    optimizer = optimizer_settings(recipe)
    if recipe.kind != "sgd":
        if recipe.kind == "smooth":
            factor = functools.partial(drop_factor, epochs=recipe.epochs, drop=recipe.drop)
        (net,), (seed,) = nets, seeds
        alone = train_expert(net, inputs, recipe, optimizer, policy, seed=seed, factor=factor, compiler=compiler)
        return ((epoch,) for epoch in alone)
    how: dict[str, Any] = {
        "epochs": recipe.epochs,
        "batch": recipe.batch,
        "optimizer": optimizer,
        "policy": policy,
        "factor": factor,
        "rebuild": True,
        "precision": recipe.precision,
        "compiler": compiler,
    }
    if len(nets) == 1:
        return ((epoch,) for epoch in train(nets[0], inputs, seed=seeds[0], **how))
    from ddbench.training.many import train_many  # torch.func is slow to import

    return train_many(nets, inputs, seeds=seeds, write=True, **how)
