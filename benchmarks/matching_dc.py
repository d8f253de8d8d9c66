"""An outer iteration of DC (IPC 1, images as Fashion-MNIST's, width 128) against a plain eager loop.

``plain`` is the loop as public code has it: a network of torch's own modules, gradients of all parameters, the graphs
of all classes kept until one backward pass, the default allocator. ``ddbench`` is the method as ``ddbench distill``
runs it. Both draw a fresh network and 256 real images of each class in every iteration. One thread, CPU seconds without
imports and set-up (median of the rounds after a first one), peak memory above what the process had before; each line is
a process of its own.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import common

WIDTH = 128
BATCH = 256
ROUNDS = 3
PER_CLASS = 300
"""Real images of a class; time does not depend on how many there are to draw from."""

BOUND = 0.8


def plain(width: int, batch: int) -> Callable[[int], float]:
    """The public form of the loop; returns a function that does one outer iteration and gives its loss."""
    import torch
    import torch.nn.functional as F

    pixels, labels = common.random_pixels(PER_CLASS)
    real = common.plain_input(pixels)
    index = [(labels == label).nonzero().flatten() for label in range(10)]
    images = torch.randn(10, 1, 28, 28, requires_grad=True)
    optimizer = torch.optim.SGD([images], lr=0.1, momentum=0.5)

    def match(one: Any, two: Any) -> Any:
        total = torch.tensor(0.0)
        for a, b in zip(one, two, strict=True):
            if a.dim() == 1:
                continue
            a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
            total += torch.sum(1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + 1e-6))
        return total

    def iteration(_: int) -> float:
        net = common.plain_network(width)
        parameters = list(net.parameters())
        loss = torch.tensor(0.0)
        for label in range(10):
            x = real[index[label][torch.randperm(PER_CLASS)[:batch]]]
            y = torch.full((len(x),), label)
            target = [one.detach().clone() for one in torch.autograd.grad(F.cross_entropy(net(x), y), parameters)]
            own = F.cross_entropy(net(images[label : label + 1]), torch.tensor([label]))
            loss += match(torch.autograd.grad(own, parameters, create_graph=True), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    return iteration


def ours(width: int, batch: int) -> Callable[[int], float]:
    """The method after its set-up; returns a function that does one outer iteration and gives its loss."""
    method = common.made_method(
        "dc",
        {"batch_real": batch},
        *common.random_pixels(PER_CLASS),
        ipc=1,
        student=f"convnet-d3-w{width}-in",
        compile="auto",
    )
    return lambda number: method.step(number)["loss"]


def one(side: str, width: str, batch: str) -> dict[str, float]:
    """CPU seconds of an outer iteration, peak memory above the baseline in bytes, and the first loss."""
    import torch

    torch.set_num_threads(1)
    iteration = {"plain": plain, "ddbench": ours}[side](int(width), int(batch))
    before = common.rss()
    common.reset_peak()
    first = iteration(0)
    seconds = common.timed(lambda number: iteration(number + 1), ROUNDS)
    return {"seconds": statistics.median(seconds), "bytes": common.peak() - before, "loss": first}


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--width", type=int, default=WIDTH, help="of the network")
    parser.add_argument("--batch", type=int, default=BATCH, help="real images of a class")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(*args.one)))
        return
    found = {side: common.measure(__file__, side, args.width, args.batch) for side in ("plain", "ddbench")}
    base = found["plain"]["seconds"]
    lines = [
        f"One outer iteration of DC, IPC 1, 10 x {args.batch} real images of 28 px, `convnet-d3-w{args.width}-in`.",
        "",
        "| side | CPU s | / plain | bound | peak memory, MiB | first loss |",
        "|---|---|---|---|---|---|",
    ]
    for side, got in found.items():
        lines.append(
            f"| {side} | {got['seconds']:.2f} | {got['seconds'] / base:.2f} | {BOUND if side == 'ddbench' else ''} "
            f"| {got['bytes'] / 2**20:.0f} | {got['loss']:.0f} |"
        )
    common.report(__file__, "DC: one outer iteration", lines, common.command(__file__))


if __name__ == "__main__":
    sys.exit(main())
