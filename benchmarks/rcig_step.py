"""A meta step of RCIG against the straightforward form: Hessian products by forward mode over the gradient.

Both sides take the same steps on the same network of the pool, with the same number of products in both solves, and
must give the same gradient. The straightforward side writes the inner loss and the loss on real images as functions of
the tangent (directional derivatives, a Gram matrix, a solve) and leaves the rest to autograd: gradients by reverse mode
over forward mode, ``H v`` by ``jvp`` of the inner gradient, the implicit term by a second reverse pass through it. Ours
takes Gauss-Newton products, which are exact here, from one push and one pull that share what they can, all images a
part at a time, and no second reverse pass.

One thread, CPU seconds of a step, median of the rounds after the first; what torch's allocator has given out at the
peak of a further step, above what it had given out before.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

STUDENT = "convnet-d3-w32x2-nn-softplus"
BOUND, MEMORY_BOUND = 0.35, 0.5


def straightforward() -> Any:
    """RCIG with its two solves and its implicit term left to autograd."""
    import torch
    from torch.func import grad, jvp

    from ddbench.methods.families.kernel import right_share
    from ddbench.methods.rcig import RCIG
    from ddbench.training.kernel import clip_to, convex_loss, platt_loss, ridge_solver
    from ddbench.training.solve import conjugate_gradients

    class Straightforward(RCIG):
        def _loss(self, theta: Any, images: Any, labels: Any) -> Any:
            def loss(delta: Any) -> Any:
                features, moved = self.net.push(theta, images, delta * self.net.mask)
                return convex_loss(labels - moved, delta, features, self.weight)

            return loss

        def _solve(self, loss: Any, right: Any) -> tuple[Any, int]:
            slope, zero = grad(loss), torch.zeros_like(right)
            return conjugate_gradients(lambda v: jvp(slope, (zero,), (v,))[1].detach(), right, self.config.solver_steps)

        def meta(self, member: int, x: Any, y: Any, iteration: int) -> tuple[dict[str, float], dict[str, Any]]:
            theta, solution, _ = self._inner(member)
            learned, delta = self.learned.leaves(), solution.detach().requires_grad_()
            images, labels = self.shown(learned.images, learned.labels)
            features, moved = self.net.push(theta, images, delta * self.net.mask)
            real, moved_real = self.net.push(theta, x, delta * self.net.mask)
            alpha = ridge_solver(features, self.weight)(labels - moved)
            predicted = moved_real + real @ (features.T @ alpha)
            loss = platt_loss(predicted, y, labels, learned.tau)
            *direct, slope = torch.autograd.grad(loss, [*learned.named().values(), delta])
            implicit, _ = self._implicit(theta, solution, slope, iteration)
            found = dict(zip(learned.named(), direct, strict=True))
            for name, part in implicit.items():
                found[name] = found[name] + clip_to(part, found[name])
            return {"loss": float(loss.detach()), "real_accuracy": right_share(predicted, y)}, found

        def _inner(self, member: int) -> tuple[Any, Any, int]:
            theta, learned = self.pool.weights[member].clone(), self.learned
            loss = self._loss(theta, *self.shown(learned.images, learned.labels))
            delta, products = self._solve(loss, -grad(loss)(torch.zeros_like(theta)).detach())
            return theta, delta, products

        def _implicit(self, theta: Any, delta: Any, slope: Any, iteration: int) -> tuple[dict[str, Any], int]:
            fresh = self.learned.leaves()
            images, labels = self.shown(fresh.images, fresh.labels)
            v, products = self._solve(self._loss(theta, images.detach(), labels.detach()), slope)
            leaf = delta.detach().requires_grad_()
            (inner,) = torch.autograd.grad(self._loss(theta, images, labels)(leaf), leaf, create_graph=True)
            found = torch.autograd.grad(-(v.detach() * inner).sum(), [fresh.images, fresh.labels])
            return dict(zip(("images", "labels"), found, strict=True)), products

    return Straightforward


def one(side: str, ipc: int, batch_real: int, products: int, rounds: int) -> dict[str, Any]:
    """Median CPU seconds of a step, peak memory in bytes, and the first gradient in the images."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from ddbench.data.dataset import Split, make_dataset
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.data.specs import DATASETS
    from ddbench.methods.base import Context
    from ddbench.methods.rcig import RCIG, RCIGConfig
    from ddbench.runtime import device
    from ddbench.runtime.progress import Console

    device.prepare(1)
    pixels, labels = torch.rand(2000, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(2000) % 10
    split = Split((255 * pixels).to(torch.uint8), labels)
    dataset = make_dataset(DATASETS["fashion-mnist"], split, split)
    kind = RCIG if side == "ddbench" else straightforward()
    with tempfile.TemporaryDirectory() as folder:
        context = Context(
            dataset=dataset,
            train=split,
            held_out=split,
            preprocess=fit_preprocess(dataset, "meanstd"),
            ipc=ipc,
            student=STUDENT,
            seed=0,
            device=torch.device("cpu"),
            folder=Path(folder),
            compile="off",
            console=Console(quiet=True),
        )
        method = kind(RCIGConfig(iterations=rounds, batch_real=batch_real, pool=1, solver_steps=products), context)
        method.setup()
        x, y = method.real_batch(0)
        seconds = []
        for _ in range(rounds):
            begin = time.process_time()
            _, gradients = method.meta(0, x, y, 0)
            seconds.append(time.process_time() - begin)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            method.meta(0, x, y, 0)
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return {"seconds": statistics.median(seconds[1:]), "memory": max(held), "gradient": gradients["images"].tolist()}


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--batch-real", type=int, default=256)
    parser.add_argument("--products", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    if args.one:
        side, *numbers = args.one
        print(json.dumps(one(side, *map(int, numbers))))
        return
    import torch

    lines = [
        f"{STUDENT}, 1 x 28 x 28, {args.batch_real} real images, {args.products} products in each solve, float32.",
        "",
        "| IPC | side | CPU s a step | / straightforward | bound | peak, MB | / straightforward | bound |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for ipc in (1, 10):
        told = {
            side: common.measure(__file__, side, ipc, args.batch_real, args.products, args.rounds)
            for side in ("straightforward", "ddbench")
        }
        base = told["straightforward"]
        for side, found in told.items():
            first, second = ("", "") if side == "straightforward" else (f"{BOUND}", f"{MEMORY_BOUND}")
            lines.append(
                f"| {ipc} | {side} | {found['seconds']:.2f} | {found['seconds'] / base['seconds']:.2f} | {first} "
                f"| {found['memory'] / 1e6:.0f} | {found['memory'] / base['memory']:.2f} | {second} |"
            )
        one_side, other = (torch.tensor(found.pop("gradient")) for found in told.values())
        apart = float((one_side - other).norm() / one_side.norm())
        lines.append(f"| {ipc} | gradients in the images differ by {apart:.1e} of their length | | | | | | |")
    command = f"python benchmarks/{' '.join(['rcig_step.py', *(a for a in sys.argv[1:] if a != '--write')])}"
    common.report(__file__, "RCIG: a meta step against the straightforward form", lines, command)


if __name__ == "__main__":
    sys.exit(main())
