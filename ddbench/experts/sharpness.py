"""Experts trained so that their trajectories can be matched: flat ones (``gsam``, FTD), smooth ones (``smooth``, AST).

``gsam``: Du, Jiang, Tan, Zhou, Li: *Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation*, CVPR
2023; GSAM of Zhuang et al., ICLR 2022, in the adaptive form of Kwon et al., ICML 2021. On one augmented batch::

    g  = grad L(w)
    e  = rho w^2 g / (| |w| g | + 1e-12)                  element by element; the norm is that of all weights
    g' = grad L(w + e)
    v  = g - cos(g, g') |g| g' / (|g'| + 1e-12)           the part of g that is orthogonal to g'
    w <- optimiser step with g' - alpha v

``smooth``: Shen, Yang, Lam: *AST: Effective Dataset Distillation through Alignment with Smooth and High-Quality Expert
Trajectories*, arXiv 2310.10541, as in its public code. In epoch e (from 0) the loss of a batch is
``c_e CE(f(A(x)), y) + lambda GP(x)``. ``c_e`` rises from ``clip`` to 1 over the first epochs, which keeps early steps
short. ``GP`` is the mean over images and pixels of ``(|q| - 1)^2``, with ``q`` the gradient of the sum of all logits by
the image *before* augmentation, and the norm taken over its channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench.data.policy import Policy
from ddbench.experts.recipe import ExpertRecipe
from ddbench.runtime import seeds
from ddbench.runtime.device import Compiler
from ddbench.training.loops import Epoch, Inputs, Loss, View, autocast, leaves_one_out, own_labels, own_loss, views
from ddbench.training.optimizers import OptimizerSettings, make_optimizer

TINY = 1e-12
"""Keeps the divisions by a norm finite, as in the public code."""


def ascent(weights: Tensor, gradient: Tensor, rho: float) -> Tensor:
    """The step e to sharper weights; all ``(P,)``."""
    scale: Tensor = rho / (torch.linalg.vector_norm(weights.abs() * gradient) + TINY)
    return weights.square() * gradient * scale


def descent(gradient: Tensor, sharp: Tensor, alpha: float) -> Tensor:
    """What the optimiser is given: ``g' - alpha v``.

    Args:
        gradient: g, at the weights ``(P,)``.
        sharp: g', at the weights after :func:`ascent` ``(P,)``.
    """
    length, sharp_length = torch.linalg.vector_norm(gradient), torch.linalg.vector_norm(sharp)
    cosine = (gradient @ sharp) / (length * sharp_length + TINY)
    across: Tensor = gradient - cosine * length * sharp / (sharp_length + TINY)
    return sharp - alpha * across


def clip_factor(epoch: int, clip: float, epochs: int) -> float:
    """``c_e``: ``clip`` in epoch 0, rising linearly to 1 in epoch ``epochs``, 1 from there on."""
    return clip + (1 - clip) * epoch / epochs if epoch < epochs else 1.0


def drop_factor(epoch: int, epochs: int, drop: float) -> float:
    """Learning-rate factor of ``smooth``: ``drop`` once epoch E // 2 + 1 (from 0) is over."""
    return drop if epoch > epochs // 2 + 1 else 1.0


def gradient_penalty(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``GP`` of images ``(n, C, H, W)``: a scalar that has a gradient in the network's weights."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).float().sum(), x, create_graph=True)
    length: Tensor = torch.linalg.vector_norm(slope, dim=1)
    return (length - 1).square().mean()


Gradients = Callable[[View, Tensor, int], tuple[Tensor, Tensor, list[Tensor]]]
"""``(view, labels, epoch)`` -> loss, logits, and the direction of each parameter."""


def _gradients(
    net: nn.Module, inputs: Inputs, recipe: ExpertRecipe, loss: Loss, compiler: Compiler | None
) -> Gradients:
    """What an expert of the recipe's kind descends by."""
    parameters: list[Tensor] = list(net.parameters())

    def logits_of(x: Tensor) -> Tensor:
        with autocast(recipe.precision, inputs.device):
            logits: Tensor = net(x)
        return logits.float() if recipe.precision != "float32" else logits

    def objective(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(x)
        return loss(logits, y), logits.detach()

    compiled = compiler(objective) if compiler is not None else objective

    def gsam(view: View, y: Tensor, epoch: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        run = compiled if len(view.x) == min(recipe.batch, len(inputs)) else objective
        value, logits = run(view.x, y)
        plain = torch.autograd.grad(value, parameters)
        weights = [parameter.detach().clone() for parameter in parameters]
        flat = _flat(plain)
        with torch.no_grad(), _statistics_kept(net):
            torch._foreach_add_(parameters, _like(ascent(_flat(weights), flat, recipe.rho), parameters))
            with torch.enable_grad():
                sharp = torch.autograd.grad(run(view.x, y)[0], parameters)
            torch._foreach_copy_(parameters, weights)
        return value, logits, _like(descent(flat, _flat(sharp), recipe.alpha), parameters)

    def smooth(view: View, y: Tensor, epoch: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        value, logits = objective(view.x, y)
        value = clip_factor(epoch, recipe.clip, recipe.clip_epochs) * value
        if recipe.penalty:
            with _statistics_kept(net):  # the penalty's images are those of the step, seen once more
                value = value + recipe.penalty * gradient_penalty(logits_of, inputs.batch(view.index))
        return value, logits, list(torch.autograd.grad(value, parameters))

    kinds: dict[str, Gradients] = {"gsam": gsam, "smooth": smooth}
    return kinds[recipe.kind]


def train_expert(
    net: nn.Module,
    inputs: Inputs,
    recipe: ExpertRecipe,
    optimizer: OptimizerSettings,
    policy: Policy | None,
    *,
    seed: int,
    factor: Callable[[int], float] | None = None,
    compiler: Compiler | None = None,
) -> Iterator[Epoch]:
    """Train ``net`` in place as ``recipe.kind`` (``gsam`` or ``smooth``) says, yielding after every epoch.

    Order and augmentation of every epoch are those that :func:`ddbench.training.loops.train` has under this seed.

    Args:
        factor: learning-rate factor of each epoch (from 0); ``None``: 1 throughout. Where it changes, a new optimiser
            is built, losing its momentum, as public code does.
        compiler: ``torch.compile`` or ``None``; the gradient penalty is differentiated twice and never compiled.
    """
    device, count, hard = inputs.device, len(inputs), inputs.hard_labels
    labels, parameters = own_labels(inputs), list(net.parameters())
    gradients = _gradients(net, inputs, recipe, own_loss(policy is not None and policy.mix != "none"), compiler)
    without = leaves_one_out(net, inputs, recipe.batch)
    trained = count - without
    rate = factor(0) if factor else 1.0
    stepper = make_optimizer(parameters, replace(optimizer, lr=optimizer.lr * rate))
    for epoch in range(recipe.epochs):
        wanted = factor(epoch) if factor else 1.0
        if wanted != rate:
            rate = wanted
            stepper = make_optimizer(parameters, replace(optimizer, lr=optimizer.lr * rate))
        loss_sum = torch.zeros((), device=device)
        right = torch.zeros((), device=device)
        net.train()
        with seeds.isolated(seed, "dropout", epoch):
            for view in views(inputs, batch=recipe.batch, policy=policy, seed=seed, epoch=epoch):
                if without and len(view.x) == 1:
                    continue
                value, logits, found = gradients(view, labels(view), epoch)
                for parameter, gradient in zip(parameters, found, strict=True):
                    parameter.grad = gradient
                stepper.step()
                loss_sum += value.detach() * len(view.x)
                right += (logits.argmax(1) == hard[view.index]).sum()
        yield Epoch(number=epoch + 1, loss=float(loss_sum) / trained, accuracy=float(right) / trained)


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def _like(vector: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    """A vector ``(P,)`` cut into the shapes of ``parts``."""
    sizes = [part.numel() for part in parts]
    return [piece.view(part.shape) for piece, part in zip(vector.split(sizes), parts, strict=True)]


@contextmanager
def _statistics_kept(net: nn.Module) -> Iterator[None]:
    """Running statistics of batch norms do not follow what the network sees inside."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    momenta = [module.momentum for module in norms]
    try:
        for module in norms:
            module.momentum = 0.0
        yield
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
