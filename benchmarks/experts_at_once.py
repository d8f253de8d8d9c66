"""Experts trained at once on one device, weights stacked, against one by one (``ddbench buffer --at-once N``).

Plain SGD, DSA, every epoch's weights kept: the training of ``ddbench buffer``, without reading data and writing files.
CPU seconds on a CPU (one thread), wall seconds on a GPU; one expert or block is trained as a warm-up. Random pixels:
times do not depend on what the images show. What pays depends on the device: small networks on a GPU wait for their
kernels to be launched; a CPU has enough to do with one, and stacked weights need more cache. With ``--write`` the table
of a GPU goes to ``experts_at_once_cuda.md``.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common


@dataclass(frozen=True)
class Case:
    """A network and the images that it is trained on."""

    student: str
    size: int
    channels: int
    images: int
    epochs: int


CASES = {
    "digits": Case("convnet-d2-w32-in", 8, 1, 1293, 8),
    "28px": Case("convnet-d3-w32-in", 28, 1, 2048, 2),
    "32px": Case("convnet-d3-w128-in", 32, 3, 2048, 2),
}
AT_ONCE = "1,2,4,8"


def seconds(case: Case, at_once: int, experts: int, args: argparse.Namespace) -> tuple[float, list[Any]]:
    """Seconds of training so many experts, and their trajectories."""
    import torch

    from ddbench.experts.recipe import ExpertRecipe
    from ddbench.experts.train import trajectories
    from ddbench.networks.build import build_student
    from ddbench.runtime.device import resolve_device
    from ddbench.runtime.seeds import generator
    from ddbench.training.loops import Inputs

    device = resolve_device(args.device)
    x = torch.randn(case.images, case.channels, case.size, case.size, generator=generator(0, "benchmark"))
    inputs = Inputs(x, torch.arange(case.images) % 10, None, device)
    recipe = ExpertRecipe(epochs=case.epochs, augmentation="color_crop_cutout_flip_scale_rotate")

    def block(first: int, recipe: ExpertRecipe) -> list[Any]:
        named = range(first, first + at_once)
        nets = [
            build_student(case.student, channels=case.channels, size=case.size, classes=10, seed=seed).to(device)
            for seed in named
        ]
        return trajectories(nets, inputs, None, recipe, named, None)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            return time.perf_counter()
        return time.process_time()

    block(0, replace(recipe, epochs=1))
    begin = now()
    made = [one for first in range(0, experts, at_once) for one in block(first, recipe)]
    return now() - begin, made


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<number>")
    parser.add_argument("--cases", default="digits,28px", help=f"with commas: {', '.join(CASES)}")
    parser.add_argument("--at-once", default=AT_ONCE, help="numbers of experts, with commas; the first is the base")
    parser.add_argument("--images", type=int, default=0, help="training images instead of the case's")
    parser.add_argument("--rounds", type=int, default=3, help="each number is the best of so many")
    args = parser.parse_args()

    from ddbench.runtime import device

    device.prepare(1)
    numbers = [int(text) for text in args.at_once.split(",")]
    experts = max(numbers)
    place = device.resolve_device(args.device)
    clock = "wall" if place.type == "cuda" else "CPU"
    lines = [
        f"{device.describe(place)}; {experts} experts, batch 256, DSA, eager, float32; best of {args.rounds} rounds.",
        "",
        f"| network | images | epochs | at once | {clock} s | experts a {clock} s | times faster | weights apart |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in args.cases.split(","):
        case = replace(CASES[name], images=args.images or CASES[name].images)
        base = 0.0
        reference: list[Any] = []
        for number in numbers:
            found = [seconds(case, number, experts, args) for _ in range(args.rounds)]
            spent, made = min(taken for taken, _ in found), found[0][1]
            if not reference:
                base, reference = spent, made
            apart = max(float((a.weights - b.weights).abs().max()) for a, b in zip(made, reference, strict=True))
            lines.append(
                f"| {case.student} | {case.images} x {case.channels} x {case.size} x {case.size} | {case.epochs} "
                f"| {number} | {spent:.2f} | {experts / spent:.3f} | {base / spent:.2f} | {apart:.1e} |"
            )
    flags = f" --device {args.device}" if args.device != "cpu" else ""
    flags += f" --cases {args.cases}" if args.cases != "digits,28px" else ""
    flags += f" --at-once {args.at_once}" if args.at_once != AT_ONCE else ""
    own = Path(__file__).with_name("experts_at_once_cuda.py") if place.type == "cuda" else Path(__file__)
    common.report(str(own), "Experts at once", lines, f"python benchmarks/experts_at_once.py{flags}")


if __name__ == "__main__":
    sys.exit(main())
