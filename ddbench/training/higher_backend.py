"""The inner loop by the package ``higher``: an independent form of ``unroll``."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ddbench.runtime.errors import UserError
from ddbench.training.flat import FlatNet, load_flat
from ddbench.training.problem import InnerProblem, InnerResult, leaf


def solve(net: FlatNet, problem: InnerProblem) -> InnerResult:
    """As ``unroll``; the gradient with respect to ``theta_0`` included.

    Raises:
        UserError: the package is not installed.
    """
    try:
        with warnings.catch_warnings():  # the package, frozen in 2020, warns when it is compiled
            warnings.simplefilter("ignore")
            import higher
    except ImportError:
        raise UserError("--inner higher needs the package 'higher': pip install higher==0.2.1") from None
    images, lr = leaf(problem.images), leaf(problem.lr)
    labels = leaf(problem.labels) if problem.soft else problem.labels
    module = net.module
    load_flat(module, problem.start)
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0, momentum=problem.momentum)
    by_step: dict[int, Tensor] = {}
    with higher.innerloop_ctx(module, optimiser, copy_initial_weights=True) as (student, steps):
        initial = list(student.parameters())
        for step in range(len(problem.batches)):
            x, y = problem.batch(step, images, labels)
            rate = lr if lr.ndim == 0 else lr[step]
            steps.step(problem.scale_at(step) * problem.loss(student(x), y), override={"lr": [rate]})
            by_step[step + 1] = torch.cat([parameter.reshape(-1) for parameter in student.parameters()])
        outer = torch.stack([term.value(by_step[term.step]) for term in problem.terms]).sum()
        wanted = [images, lr, *([labels] if problem.soft else []), *initial]
        found = torch.autograd.grad(outer, wanted, allow_unused=True)
        grads = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]
        label_grad = grads[2] if problem.soft else None
        start = torch.cat([grad.reshape(-1) for grad in grads[3 if problem.soft else 2 :]])
    return InnerResult(outer.detach(), grads[0], label_grad, grads[1], start, by_step[len(by_step)].detach())
