"""An outer iteration of FreD over DM against a plain eager PyTorch loop with the default allocator.

Both sides do the same work: a fresh ConvNet, for each of ten classes a real batch and the decoded images under one draw
of DSA, the loss over class means, one step on the coefficients. The plain side is written as public code has it: all
coefficients under a mask, plain modules, a class at a time through decoder and network, autograd over everything,
``torch.optim``. One thread, CPU seconds of an iteration, median of the rounds after the first.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import common

CLASSES = 10
SIDE = 28
KEPT = 49
"""A sixteenth of the coefficients, as published: sixteen images in the place of one."""
IMAGES_OF_A_CLASS = 1000


def plain_iterations(images: Any, labels: Any, ipc: int, width: int, batch_real: int, rounds: int) -> list[float]:
    """CPU seconds of the rounds, the straightforward way."""
    import torch

    from ddbench.data.augment import apply, draw, parse_strategy
    from ddbench.decoders.fred import dct, inverse_dct
    from ddbench.runtime.seeds import generator

    strategy = parse_strategy("color_crop_cutout_flip_scale_rotate", siamese=True, align_corners=False)
    assert strategy is not None
    each = ipc * SIDE**2 // KEPT
    index = [(labels == label).nonzero().flatten() for label in range(CLASSES)]
    coefficients = torch.cat([dct(images[own[:each]]) for own in index])
    spread = torch.stack([part.mean(1).flatten(1).var(0) for part in coefficients.chunk(CLASSES)])
    mask = torch.zeros_like(spread).scatter(1, spread.topk(KEPT).indices, 1.0).view(CLASSES, 1, 1, SIDE, SIDE)
    coefficients.requires_grad_()
    optimizer = torch.optim.SGD([coefficients], lr=1.0, momentum=0.5)
    randomness = generator(0, "plain")

    def iteration(_: int) -> None:
        net = common.plain_features(width)
        for parameter in net.parameters():
            parameter.requires_grad = False
        loss = torch.tensor(0.0)
        for label in range(CLASSES):
            chosen = index[label][torch.randperm(len(index[label]), generator=randomness)[:batch_real]]
            made = draw(strategy, 1, SIDE, randomness)
            real = apply(made, images[chosen])
            own = apply(made, inverse_dct(mask[label] * coefficients[label * each : (label + 1) * each]))
            loss = loss + ((net(real).detach().mean(0) - net(own).mean(0)) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return common.timed(iteration, rounds)


def our_iterations(pixels: Any, labels: Any, ipc: int, width: int, batch_real: int, rounds: int) -> list[float]:
    """CPU seconds of the rounds as ``ddbench distill`` does them."""
    settings = {"batch_real": batch_real, "coefficients": KEPT, "lr_images": 1.0}
    student = f"convnet-d3-w{width}-in"
    method = common.made_method("fred-dm", settings, pixels, labels, ipc=ipc, student=student)
    return common.timed(method.step, rounds)


def one(side: str, ipc: int, width: int, batch_real: int, rounds: int) -> dict[str, float]:
    """Median CPU seconds of an iteration, and the process's peak memory in bytes."""
    import torch

    torch.set_num_threads(1)
    pixels, labels = common.random_pixels(IMAGES_OF_A_CLASS)
    if side == "plain":
        images = common.plain_input(pixels)
        seconds = plain_iterations(images, labels, ipc, width, batch_real, rounds)
    else:
        seconds = our_iterations(pixels, labels, ipc, width, batch_real, rounds)
    return {"seconds": statistics.median(seconds[1:]), "memory": float(common.peak())}


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-real", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    if args.one:
        side, *numbers = args.one
        print(json.dumps(one(side, *map(int, numbers))))
        return
    settings = (args.ipc, args.width, args.batch_real, args.rounds)
    base = common.measure(__file__, "plain", *settings)
    own = common.measure(__file__, "ddbench", *settings)
    lines = [
        "| IPC | images of a class | side | CPU s an iteration | / plain | target | peak, MB | / plain | target |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for side, found, time_bound, memory_bound in (("plain", base, "", ""), ("ddbench", own, "0.5", "1.1")):
        lines.append(
            f"| {args.ipc} | {args.ipc * SIDE**2 // KEPT} | {side} | {found['seconds']:.3f} "
            f"| {found['seconds'] / base['seconds']:.2f} | {time_bound} | {found['memory'] / 1e6:.0f} "
            f"| {found['memory'] / base['memory']:.2f} | {memory_bound} |"
        )
    title = f"FreD over DM: an outer iteration, {CLASSES} classes, 28 px, width {args.width}"
    common.report(__file__, title, lines, common.command(__file__))


if __name__ == "__main__":
    sys.exit(main())
