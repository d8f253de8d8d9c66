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
    ``auto``: ``adjoint`` that spends ``memory`` on the graphs of the last steps, which are then not made again on the
        way back; with room for all steps it takes the time of ``unroll``.
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

MODES = ("unroll", "adjoint", "auto", "truncated", "higher")

WHOLE = ("unroll", "higher")
"""Those that record all steps in one graph, of which nothing is compiled."""

MEMORY = 2 * 2**30
"""Bytes that ``auto`` spends on graphs on a CPU."""


def usual_memory(device: torch.device) -> int:
    """Bytes that ``auto`` spends on graphs where nothing is said: on a GPU a quarter of it, at most half of the rest.

    The rest is what neither others nor this process hold.
    """
    if device.type != "cuda":
        return MEMORY
    free, whole = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(min(whole // 4, (free + own) // 2))


class InnerLoop:
    """Solves :class:`InnerProblem` for one network.

    Args:
        net: the student.
        mode: one of :data:`MODES`.
        compiler: wraps the one-step functions of ``adjoint`` and ``truncated`` (``torch.compile``); ``None``: eager.
        ranks: share out the images of each batch in these two modes; the loss must be a mean over images.
        kept: steps whose weights these two modes keep at most, for a problem of more steps about twice its root
            and one more gradient a step, with the same numbers; ``None``: all.
        memory: bytes that ``auto`` may keep graphs in; one that is compiled, or shared out, keeps none.

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
        memory: int = MEMORY,
    ) -> None:
        if mode not in MODES:
            raise unknown("inner-loop mode", mode, MODES, "--inner")
        self.net = net
        self.mode = mode
        self.compiler = compiler
        self.ranks = ranks
        self.kept = kept
        self.memory = memory if mode == "auto" and compiler is None and ranks.world == 1 else 0
        self._bytes: dict[tuple[torch.Size, bool], int] = {}
        self._compiled: dict[tuple[Loss, bool, bool], tuple[Callable[..., Any], Callable[..., Any]]] = {}

    def __call__(self, problem: InnerProblem) -> InnerResult:
        """Outer loss and gradients of one problem."""
        if self.mode == "unroll":
            return self._unroll(problem)
        if self.mode == "higher":
            from ddbench.training.higher_backend import solve

            return solve(self.net, problem)
        return self._adjoint(problem, exact=self.mode != "truncated")

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
        graphs: dict[int, tuple[Tensor, Pull]] = {}
        first_kept = self._first_kept(problem) if self.memory else steps

        def descent(theta: Tensor, step: int) -> Tensor:
            if step < first_kept:
                return self._gradient(forward, problem, theta, step)
            if step not in graphs:
                x, y = problem.batch(step, images, labels)
                graphs[step] = _graph(self.net, problem.loss, problem.soft, exact)(theta, x, y, problem.scale_at(step))
            return graphs[step][0].detach()

        path = _Path(problem, descent, self.kept)
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
            if step in graphs:
                gradient, pull = graphs.pop(step)
                gradient, (pull_x, pull_y, pull_theta) = gradient.detach(), pull(eta)
                del pull
            else:
                scale = self._scale(problem, step)
                gradient, (pull_x, pull_y, pull_theta) = reverse(theta, x.detach(), y_raw, scale, eta)
            slope = -(lam @ (gradient if velocity is None else velocity))
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

    def _first_kept(self, problem: InnerProblem) -> int:
        """The first of the last steps whose graphs fit into the memory; as many as there are steps: none does."""
        left, step = self.memory, len(problem.batches)
        while step:
            index = problem.batches[step - 1]
            shape = (problem.images if index is None else index).shape[:1]
            if (shape, problem.soft) not in self._bytes:
                x, y = problem.batch(step - 1, problem.images.detach(), problem.labels.detach())
                build = _graph(self.net, problem.loss, problem.soft, True)
                self._bytes[shape, problem.soft] = _graph_bytes(lambda: build(problem.start, x, y, 1.0))  # noqa: B023
            left -= self._bytes[shape, problem.soft]
            if left < 0:
                break
            step -= 1
        return step

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


Pull = Callable[[Tensor], tuple[Any, ...]]
"""A vector as long as the weights -> its product with the derivatives of a gradient by images, labels and weights."""


def _graph(net: FlatNet, loss: Loss, soft: bool, exact: bool) -> Callable[..., tuple[Tensor, Pull]]:
    """``(theta, x, y, scale) -> g, pull``: the gradient of a step's loss with its graph, which holds memory."""

    def build(theta: Tensor, x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Pull]:
        theta, x = leaf(theta), leaf(x)
        y = leaf(y) if soft else y
        gradient = torch.autograd.grad(scale * loss(net(theta, x), y), theta, create_graph=True)[0]
        wanted = [x] + ([y] if soft else []) + ([theta] if exact else [])

        def pull(eta: Tensor) -> tuple[Any, ...]:
            # The vjp as the gradient of a scalar: given grad_outputs, torch imports sympy (3 CPU seconds).
            pulls = list(torch.autograd.grad(gradient @ eta, wanted))
            pull_x = pulls.pop(0)
            pull_y = pulls.pop(0) if soft else None
            return pull_x, pull_y, pulls.pop(0) if exact else None

        return gradient, pull

    return build


def _graph_bytes(build: Callable[[], object]) -> int:
    """Bytes of the storages that autograd keeps for what is built; it is built once for that."""
    kept: dict[int, tuple[Tensor, int]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (tensor.detach(), storage.nbytes())  # alive, so that no address comes twice
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        build()
    return sum(size for _, size in kept.values())


def _eager_steps(net: FlatNet, loss: Loss, soft: bool, exact: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def forward(theta: Tensor, x: Tensor, y: Tensor, scale: float) -> Tensor:
        theta = leaf(theta)
        return torch.autograd.grad(scale * loss(net(theta, x), y), theta)[0]

    build = _graph(net, loss, soft, exact)

    def reverse(theta: Tensor, x: Tensor, y: Tensor, scale: float, eta: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        gradient, pull = build(theta, x, y, scale)
        return gradient.detach(), pull(eta)

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
