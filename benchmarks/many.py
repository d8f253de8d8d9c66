"""Several networks trained and tested at once on one device against one after another, wall time.

Random images of CIFAR's shape, 10 a class, DSA, momentum: a step is one small batch of 100 images, as in scoring a
synset. Every side has run before it is timed. What pays depends on the device: small networks on a GPU wait for their
kernels to be launched, a CPU has enough to do with one.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from typing import Any

import common

STUDENTS = ("convnet-d3-w128-in", "convnet-d3-w128-bn", "convnet-d3-w32-in", "mlp-d3-w128")
TEST_IMAGES = 10_000


def measure(student: str, many: int, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of training and of testing on both sides, and how far the trained weights are apart."""
    import torch

    from ddbench.data.policy import parse_policy
    from ddbench.networks.build import build_student
    from ddbench.runtime.device import resolve_device
    from ddbench.training.flat import flatten_parameters
    from ddbench.training.loops import Inputs, predict, train
    from ddbench.training.many import predict_many, train_many
    from ddbench.training.optimizers import OptimizerSettings

    device = resolve_device(args.device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100 + args.tests, 3, 32, 32, generator=generator)
    y = torch.arange(len(x)) % 10
    inputs, tests = Inputs(x[:100], y[:100], None, device), Inputs(x[100:], y[100:], None, device)
    settings: dict[str, Any] = {
        "batch": 256,
        "optimizer": OptimizerSettings(lr=0.01, momentum=0.9, weight_decay=5e-4),
        "policy": parse_policy("dsa"),
    }
    # Compiled functions are kept, so that the warm-up and the timed run share them.
    kept: dict[str, Any] = {}

    def compiler(function: Any) -> Any:
        name = function.__qualname__
        if name not in kept:
            kept[name] = torch.compile(function, dynamic=False)
        return kept[name]

    how: dict[str, Any] = {"compiler": compiler if args.compile else None}

    def timed(work: Any) -> tuple[float, Any]:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin, result

    def fresh() -> list[Any]:
        made = functools.partial(build_student, student, channels=3, size=32, classes=10)
        return [made(seed=seed).to(device) for seed in range(many)]

    alone, together = fresh(), fresh()

    def train_alone() -> None:
        for seed, net in enumerate(alone):
            for _ in train(net, inputs, epochs=args.epochs, seed=seed, **settings, **how):
                pass

    def train_together() -> None:
        for _ in train_many(together, inputs, epochs=args.epochs, seeds=range(many), **settings, **how):
            pass

    one, _ = timed(train_alone)
    all_, _ = timed(train_together)
    apart = max(
        float((flatten_parameters(a) - flatten_parameters(b)).abs().max()) for a, b in zip(alone, together, strict=True)
    )
    test_one, _ = timed(lambda: [predict(net, tests, **how) for net in alone])
    test_all, _ = timed(lambda: predict_many(together, tests, **how))
    return {"one": one, "all": all_, "apart": apart, "test_one": test_one, "test_all": test_all}


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    parser.add_argument("--students", default=",".join(STUDENTS), help="names with commas")
    parser.add_argument("--many", default="1,5,20", help="numbers of networks, with commas")
    parser.add_argument("--epochs", type=int, default=100, help="steps, as a batch is the whole set")
    parser.add_argument("--tests", type=int, default=TEST_IMAGES, help="test images")
    parser.add_argument("--compile", action="store_true", help="compile both sides")
    args = parser.parse_args()

    from ddbench.runtime.device import describe, resolve_device

    lines = [
        f"{describe(resolve_device(args.device))}; {args.epochs} steps of 100 images 3 x 32 x 32, "
        f"{args.tests} test images, {'compiled' if args.compile else 'eager'}, float32.",
        "",
        "| student | networks | training one by one, s | at once, s | times faster "
        "| testing one by one, s | at once, s | times faster | weights apart |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for student in args.students.split(","):
        for many in map(int, args.many.split(",")):
            own = measure(student, many, args)
            lines.append(
                f"| {student} | {many} | {own['one']:.2f} | {own['all']:.2f} | {own['one'] / own['all']:.2f} "
                f"| {own['test_one']:.2f} | {own['test_all']:.2f} | {own['test_one'] / own['test_all']:.2f} "
                f"| {own['apart']:.1e} |"
            )
    flags = f"--device {args.device}{' --compile' if args.compile else ''}"
    common.report(__file__, "Networks at once", lines, f"python benchmarks/many.py {flags}")


if __name__ == "__main__":
    sys.exit(main())
