"""The differentiable inner loop: train a student on a synset, and differentiate an outer loss through it.

One engine for every method that needs it (DD, MTT, FTD, TESLA, DATM, AST, PDD). A student starts at ``theta_0`` and
makes N steps of SGD with momentum ``mu``::

    g_s = grad_theta scale_s * loss(net(theta_s, A_s(X[i_s])), y[i_s])
    b_s = mu * b_{s-1} + g_s
    theta_{s+1} = theta_s - lr_s * b_s

The outer loss is a sum of terms, each a function of the weights after some step; its gradient is taken with respect
to the images X, the labels y (when they are soft), the learning rate(s) and ``theta_0``.

Modes:
    ``unroll``: autograd through all N steps; memory grows with N.
    ``adjoint``: the same gradient by the discrete adjoint recursion; keeps the weights of every step, or of some of
        them, and the graph of one step only.
    ``truncated``: the adjoint recursion without the Hessian product, that is, the gradient with the weights detached
        at the input of every step (TESLA, Cui et al. 2023, section 3).
    ``higher``: autograd through all steps by the package ``higher``, as an oracle and for code written against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddbench.registry import unknown
from ddbench.runtime.device import Compiler
from ddbench.runtime.ranks import ALONE, Ranks
from ddbench.training.flat import FlatNet
from ddbench.training.problem import InnerProblem, InnerResult, Loss, leaf

MODES = ("unroll", "adjoint", "truncated", "higher")


class InnerLoop:
    """Solves :class:`InnerProblem` for one network.

    Args:
        net: the student.
        mode: one of :data:`MODES`.
        compiler: wraps the one-step functions of ``adjoint`` and ``truncated`` (``torch.compile``); ``None``: eager.
        ranks: share out the images of each batch in these two modes; the loss must be a mean over images.
        kept: steps whose weights these two modes keep at most, for a problem of more steps about twice its root
            and one more gradient a step, with the same numbers; ``None``: all.

    Raises:
        UserError: unknown mode.
    """

    def __init__(
        self,
        net: FlatNet,
        mode: str = "adjoint",
        compiler: Compiler | None = None,
        ranks: Ranks = ALONE,
        kept: int | None = None,
    ) -> None:
        if mode not in MODES:
            raise unknown("inner-loop mode", mode, MODES, "--inner")
        self.net = net
        self.mode = mode
        self.compiler = compiler
        self.ranks = ranks
        self.kept = kept
        self._compiled: dict[tuple[Loss, bool, bool], tuple[Callable[..., Any], Callable[..., Any]]] = {}

    def __call__(self, problem: InnerProblem) -> InnerResult:
        """Outer loss and gradients of one problem."""
        if self.mode == "unroll":
            return self._unroll(problem)
        if self.mode == "higher":
            from ddbench.training.higher_backend import solve

            return solve(self.net, problem)
        return self._adjoint(problem, exact=self.mode == "adjoint")

    def _unroll(self, problem: InnerProblem) -> InnerResult:
        start, images, lr = (leaf(t) for t in (problem.start, problem.images, problem.lr))
        labels = leaf(problem.labels) if problem.soft else problem.labels
        stepwise = lr.ndim == 1
        theta, velocity = start, None
        outer = torch.zeros((), dtype=start.dtype, device=start.device)
        for step in range(len(problem.batches)):
            x, y = problem.batch(step, images, labels)
            value = problem.scale_at(step) * problem.loss(self.net(theta, x), y)
            (gradient,) = torch.autograd.grad(value, theta, create_graph=True)
            velocity = gradient if velocity is None else problem.momentum * velocity + gradient
            theta = theta - (lr[step] if stepwise else lr) * velocity
            for term in problem.terms:
                if term.step == step + 1:
                    outer = outer + term.value(theta)
        wanted = [images, lr, start] + ([labels] if problem.soft else [])
        found = torch.autograd.grad(outer, wanted, allow_unused=True)
        grads = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]
        return InnerResult(
            outer.detach(), grads[0], grads[3] if problem.soft else None, grads[1], grads[2], theta.detach()
        )

    def _adjoint(self, problem: InnerProblem, exact: bool) -> InnerResult:
        """Sweep forward keeping weights only, then backward with the adjoint ``lam = dL/dtheta_s``."""
        forward, reverse = self._steps(problem, exact)
        steps = len(problem.batches)
        images, labels = problem.images.detach(), problem.labels.detach()
        path = _Path(problem, lambda theta, step: self._gradient(forward, problem, theta, step), self.kept)
        final = path.final
        outer = torch.zeros((), dtype=final.dtype, device=final.device)
        lam, eta = torch.zeros_like(final), torch.zeros_like(final)
        grad_images = torch.zeros_like(images)
        grad_labels = torch.zeros_like(labels) if problem.soft else None
        grad_lr = torch.zeros_like(problem.lr)
        after = final
        for step in range(steps - 1, -1, -1):
            theta, velocity = path.before(step)
            for term in problem.terms:
                if term.step == step + 1:
                    at = leaf(after)
                    value = term.value(at)
                    lam = lam + torch.autograd.grad(value, at)[0]
                    outer = outer + value.detach()
            eta = problem.momentum * eta - problem.lr_at(step) * lam
            x_raw, y_raw = _select(problem.batches[step], images, labels)
            x_raw = leaf(x_raw)
            x = problem.view(step, x_raw)
            gradient, (pull_x, pull_y, pull_theta) = reverse(theta, x.detach(), y_raw, self._scale(problem, step), eta)
            descent = gradient if velocity is None else velocity
            slope = -(lam @ descent)
            if grad_lr.ndim:
                grad_lr[step] = slope
            else:
                grad_lr += slope
            if x is not x_raw:
                (pull_x,) = torch.autograd.grad((x * pull_x).sum(), x_raw)
            _scatter(grad_images, problem.batches[step], pull_x)
            if grad_labels is not None:
                _scatter(grad_labels, problem.batches[step], pull_y)
            if pull_theta is not None:
                lam = lam + pull_theta
            after = theta
        grad_images, *soft = self.ranks.sum(grad_images, *([] if grad_labels is None else [grad_labels]))
        return InnerResult(outer, grad_images, soft[0] if soft else None, grad_lr, lam, final)

    def _gradient(self, forward: Callable[..., Any], problem: InnerProblem, theta: Tensor, step: int) -> Tensor:
        """Of the student's loss on the batch of a step."""
        with torch.no_grad():
            x, y = problem.batch(step, problem.images.detach(), problem.labels.detach())
        gradient: Tensor = forward(theta, x, y, self._scale(problem, step))
        return gradient

    def _scale(self, problem: InnerProblem, step: int) -> float | Tensor:
        """Loss factor of a step; compiled, every other number would be compiled for again, a tensor is not."""
        scale = problem.scale_at(step)
        return scale if self.compiler is None or scale == 1 else problem.start.new_tensor(scale)

    def _steps(self, problem: InnerProblem, exact: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """``forward(theta, x, y, scale) -> g`` and ``reverse(theta, x, y, scale, eta) -> g, vjp of g with eta``."""
        key = (problem.loss, problem.soft, exact)
        if key not in self._compiled:
            if self.compiler is None:
                self._compiled[key] = _eager_steps(self.net, *key)
            else:
                forward, reverse = _functional_steps(self.net, *key)
                self._compiled[key] = (self.compiler(forward), self.compiler(reverse))
        return _shared(*self._compiled[key], self.ranks) if self.ranks.world > 1 else self._compiled[key]


class _Path:
    """The weights of a student on its way, asked for backwards.

    Args:
        gradient: of the student's loss, at weights before a step.
        kept: as in :class:`InnerLoop`.

    Attributes:
        final: weights after the last step.
    """

    def __init__(
        self, problem: InnerProblem, gradient: Callable[[Tensor, int], Tensor], kept: int | None = None
    ) -> None:
        self._problem, self._gradient = problem, gradient
        steps = len(problem.batches)
        self._part = steps if kept is None or steps <= kept else math.isqrt(steps - 1) + 1
        self._starts: list[tuple[Tensor, Tensor | None]] = []
        self.final: Tensor = problem.start.detach()
        self._here: list[tuple[Tensor, Tensor | None]] = []
        velocity: Tensor | None = None
        for first in range(0, steps, self._part):
            self._starts.append((self.final, velocity))
            self.final, velocity = self._walk(first)

    def _walk(self, first: int) -> tuple[Tensor, Tensor | None]:
        """Keep weights and velocity of each step of a part; returns the weights after it, and the velocity."""
        self._here = []
        theta, velocity = self._starts[first // self._part]
        for step in range(first, min(first + self._part, len(self._problem.batches))):
            descent = self._gradient(theta, step)
            if self._problem.momentum:
                descent = descent if velocity is None else self._problem.momentum * velocity + descent
                velocity = descent
            self._here.append((theta, velocity))
            theta = theta - self._problem.lr_at(step) * descent
        return theta, velocity

    def before(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Weights before a step, and its velocity if there is momentum; steps in falling order, each once."""
        if not self._here:
            self._starts.pop()
            self._walk(step // self._part * self._part)
        return self._here.pop()


def _shared(
    forward: Callable[..., Any], reverse: Callable[..., Any], ranks: Ranks
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The functions of a step where each rank has its share of the batch; images and labels pull at its rows only."""

    def own(x: Tensor, y: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor, float | Tensor]:
        share = ranks.share(len(x))
        return x[share], y[share], scale * ((share.stop - share.start) / len(x))

    def shared_forward(theta: Tensor, x: Tensor, y: Tensor, scale: float | Tensor) -> Tensor:
        return ranks.sum(forward(theta, *own(x, y, scale)))[0]

    def shared_reverse(
        theta: Tensor, x: Tensor, y: Tensor, scale: float | Tensor, eta: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        gradient, (pull_x, pull_y, pull_theta) = reverse(theta, *own(x, y, scale), eta)
        gradient, *exact = ranks.sum(gradient, *([] if pull_theta is None else [pull_theta]))
        pull_y = None if pull_y is None else ranks.placed(pull_y, len(x))
        return gradient, (ranks.placed(pull_x, len(x)), pull_y, exact[0] if exact else None)

    return shared_forward, shared_reverse


def _select(index: Tensor | None, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return (images, labels) if index is None else (images[index], labels[index])


def _scatter(total: Tensor, index: Tensor | None, part: Tensor) -> None:
    if index is None:
        total += part
    else:
        total.index_add_(0, index, part)


def _eager_steps(net: FlatNet, loss: Loss, soft: bool, exact: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def forward(theta: Tensor, x: Tensor, y: Tensor, scale: float) -> Tensor:
        theta = leaf(theta)
        return torch.autograd.grad(scale * loss(net(theta, x), y), theta)[0]

    def reverse(theta: Tensor, x: Tensor, y: Tensor, scale: float, eta: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        theta, x = leaf(theta), leaf(x)
        y = leaf(y) if soft else y
        gradient = torch.autograd.grad(scale * loss(net(theta, x), y), theta, create_graph=True)[0]
        wanted = [x] + ([y] if soft else []) + ([theta] if exact else [])
        # The vjp as the gradient of a scalar: given grad_outputs, torch imports sympy (3 CPU seconds).
        pulls = list(torch.autograd.grad(gradient @ eta, wanted))
        pull_x = pulls.pop(0)
        pull_y = pulls.pop(0) if soft else None
        return gradient.detach(), (pull_x, pull_y, pulls.pop(0) if exact else None)

    return forward, reverse


def _functional_steps(
    net: FlatNet, loss: Loss, soft: bool, exact: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The same two functions written with ``torch.func``, the form that ``torch.compile`` can take whole."""

    def value(theta: Tensor, x: Tensor, y: Tensor, scale: float | Tensor) -> Tensor:
        return scale * loss(net(theta, x), y)

    gradient = torch.func.grad(value)

    def reverse(
        theta: Tensor, x: Tensor, y: Tensor, scale: float | Tensor, eta: Tensor
    ) -> tuple[Tensor, tuple[Any, ...]]:
        if soft:
            g, pull, *_ = torch.func.vjp(lambda t, a, b: gradient(t, a, b, scale), theta, x, y)
            pull_theta, pull_x, pull_y = pull(eta)
        else:
            g, pull, *_ = torch.func.vjp(lambda t, a: gradient(t, a, y, scale), theta, x)
            (pull_theta, pull_x), pull_y = pull(eta), None
        return g, (pull_x, pull_y, pull_theta if exact else None)

    return gradient, reverse
