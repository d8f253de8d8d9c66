"""An outer iteration of DM and of DataDAM against a plain eager PyTorch loop with the default allocator.

Both sides do the same work: a fresh ConvNet, for each of ten classes a real batch and the synthetic images under one
draw of DSA, the loss over class means, one step on the images. The plain side is written as public code has it: plain
modules, a class at a time through the network (with batch norm all at once), autograd over everything, ``torch.optim``.
One thread, CPU seconds of an iteration, median of the rounds after the first.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import common

IPC = 10
CLASSES = 10
CASES = {
    # name: (norm, real images of each class)
    "dm": ("in", 256),
    "datadam": ("bn", 64),
}
IMAGES_OF_A_CLASS = 1000


def plain_answers(net: Any, x: Any, maps: bool) -> list[Any]:
    """Features, after the normalised attention maps of the first two blocks where they are wanted."""
    import torch.nn.functional as F
    from torch import nn

    found = []
    for layer in net:
        x = layer(x)
        if maps and isinstance(layer, nn.ReLU) and len(found) < 2:
            found.append(F.normalize((x.abs() ** 1).sum(1).flatten(1)))
    return [*found, x]


def plain_iterations(case: str, images: Any, labels: Any, width: int, batch_real: int, rounds: int) -> list[float]:
    """CPU seconds of the rounds, the straightforward way."""
    import torch

    from ddbench.data.augment import apply, draw, parse_strategy
    from ddbench.runtime.seeds import generator

    norm, maps = CASES[case][0], case == "datadam"
    strategy = parse_strategy("color_crop_cutout_flip_scale_rotate", siamese=True, align_corners=False)
    assert strategy is not None
    index = [(labels == label).nonzero().flatten() for label in range(CLASSES)]
    synthetic = torch.cat([images[own[:IPC]] for own in index]).requires_grad_()
    optimizer = torch.optim.SGD([synthetic], lr=1.0, momentum=0.5)
    randomness = generator(0, "plain")

    def distance(real: Any, own: Any, classes: int) -> Any:
        total = 0
        for position, (a, b) in enumerate(zip(real, own, strict=True)):
            a = a.detach().reshape(classes, batch_real, -1).mean(1)
            weight = 100.0 if maps and position < 2 else 1.0
            total = total + weight * ((a - b.reshape(classes, IPC, -1).mean(1)) ** 2).sum()
        return total

    def iteration(_: int) -> None:
        net = common.plain_features(width, norm)
        for parameter in net.parameters():
            parameter.requires_grad = False
        loss, all_real, all_synthetic = torch.tensor(0.0), [], []
        for label in range(CLASSES):
            chosen = index[label][torch.randperm(len(index[label]), generator=randomness)[:batch_real]]
            made = draw(strategy, 1, images.shape[-1], randomness)
            real = apply(made, images[chosen])
            own = apply(made, synthetic[label * IPC : (label + 1) * IPC])
            if norm == "in":
                loss = loss + distance(plain_answers(net, real, maps), plain_answers(net, own, maps), 1)
            else:
                all_real.append(real)
                all_synthetic.append(own)
        if all_real:
            real, own = torch.cat(all_real), torch.cat(all_synthetic)
            loss = loss + distance(plain_answers(net, real, maps), plain_answers(net, own, maps), CLASSES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return common.timed(iteration, rounds)


def our_iterations(case: str, pixels: Any, labels: Any, width: int, batch_real: int, rounds: int) -> list[float]:
    """CPU seconds of the rounds as ``ddbench distill`` does them."""
    student = f"convnet-d3-w{width}-{CASES[case][0]}"
    method = common.made_method(case, {"batch_real": batch_real}, pixels, labels, ipc=IPC, student=student)
    return common.timed(method.step, rounds)


def one(side: str, case: str, width: int, batch_real: int, rounds: int) -> dict[str, float]:
    """Median CPU seconds of an iteration, and the process's peak memory in bytes."""
    import torch

    torch.set_num_threads(1)
    pixels, labels = common.random_pixels(IMAGES_OF_A_CLASS)
    if side == "plain":
        images = common.plain_input(pixels)
        seconds = plain_iterations(case, images, labels, width, batch_real, rounds)
    else:
        seconds = our_iterations(case, pixels, labels, width, batch_real, rounds)
    return {"seconds": statistics.median(seconds[1:]), "memory": float(common.peak())}


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-real", type=int, default=0, help="0: as published")
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    if args.one:
        side, case, *numbers = args.one
        print(json.dumps(one(side, case, *map(int, numbers))))
        return
    lines = [
        "| method | network | real batch | side | CPU s an iteration | / plain | bound | peak memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, (norm, published) in CASES.items():
        batch_real = args.batch_real or published
        base = common.measure(__file__, "plain", case, args.width, batch_real, args.rounds)
        own = common.measure(__file__, "ddbench", case, args.width, batch_real, args.rounds)
        for side, found, bound in (("plain", base, ""), ("ddbench", own, "0.8")):
            lines.append(
                f"| {case} | convnet-d3-w{args.width}-{norm} | {batch_real} | {side} | {found['seconds']:.3f} "
                f"| {found['seconds'] / base['seconds']:.2f} | {bound} | {found['memory'] / 1e6:.0f} |"
            )
    title = f"Distribution matching: an outer iteration, IPC {IPC}, {CLASSES} classes, 28 px"
    common.report(__file__, title, lines, common.command(__file__))


if __name__ == "__main__":
    sys.exit(main())
