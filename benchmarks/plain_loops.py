"""An expert epoch, and scoring a synset, against a plain eager PyTorch loop with the default allocator.

Both sides train the same network with DSA by the same public recipe; the plain side uses a ``torch.nn`` network
(GroupNorm, AvgPool2d), ``torch.optim.SGD`` and no ddbench training code. One thread, CPU seconds of the work itself:
imports and the compiler's run are left out on both sides, and the compiler's time is printed apart. Medians of rounds
in which every side has its turn, so that other work of the machine slows all of them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import common

WIDTH = 128
EXPERT_IMAGES = 1024
ROUNDS = 3
SCORE_EPOCHS = 20
TEST_IMAGES = 1000
"""Scoring at full length is 1000 epochs and 10,000 test images; here 20 and 1000 (both
shortened; the share of testing is a little larger than in a real run)."""


Run = Callable[[int, bool], float]
"""Passes, and whether to test afterwards -> accuracy on the test images, 0 without a test."""


def one(side: str, job: str, precision: str) -> dict[str, float]:
    """CPU seconds of a job on one side: ``expert`` (one epoch, batch 256) or ``score`` (100 images, then testing)."""
    import torch

    from ddbench.data.augment import parse_strategy

    torch.set_num_threads(1)
    count, epochs = (EXPERT_IMAGES, 1) if job == "expert" else (100, SCORE_EPOCHS)
    images, labels = common.fashion_like(count if job == "expert" else count + TEST_IMAGES)
    rates = {"lr": 0.01} | ({} if job == "expert" else {"momentum": 0.9, "weight_decay": 5e-4})
    strategy = parse_strategy("color_crop_cutout_flip_scale_rotate")
    assert strategy is not None
    sets = (images[:count], labels[:count]), (images[count:], labels[count:])
    run = _plain(strategy, *sets, rates) if side == "plain" else _ours(side, strategy, *sets, rates, precision)

    warm = time.process_time()
    run(1, job == "score")
    warm = time.process_time() - warm
    begin = time.process_time()
    score = run(epochs, job == "score")
    return {"seconds": time.process_time() - begin, "warm": warm, "accuracy": score}


def _plain(strategy: Any, training: tuple[Any, Any], testing: tuple[Any, Any], rates: dict[str, float]) -> Run:
    """The loop that anybody would write."""
    import torch
    import torch.nn.functional as F

    from ddbench.data.augment import apply, draw
    from ddbench.runtime.seeds import generator

    net = common.plain_network(WIDTH)
    optimizer = torch.optim.SGD(net.parameters(), **rates)
    g = generator(0, "plain")
    (images, labels), (x_test, y_test) = training, testing

    def run(passes: int, test: bool) -> float:
        net.train()
        for _ in range(passes):
            for index in torch.randperm(len(labels), generator=g).split(256):
                x = apply(draw(strategy, len(index), 28, g), images[index])
                optimizer.zero_grad()
                F.cross_entropy(net(x), labels[index]).backward()
                optimizer.step()
        net.eval()
        right = 0
        with torch.no_grad():
            for first in range(0, len(y_test) if test else 0, 256):
                right += int((net(x_test[first : first + 256]).argmax(1) == y_test[first : first + 256]).sum())
        return right / max(1, len(y_test))

    return run


def _ours(
    side: str,
    strategy: Any,
    training: tuple[Any, Any],
    testing: tuple[Any, Any],
    rates: dict[str, float],
    precision: str,
) -> Run:
    """ddbench's, compiled or not."""
    import torch

    from ddbench.data.policy import Policy
    from ddbench.networks.build import build_student
    from ddbench.runtime import device
    from ddbench.training.loops import Inputs, accuracy, predict, train
    from ddbench.training.optimizers import OptimizerSettings

    device.prepare(1)
    cpu = torch.device("cpu")
    module = build_student(f"convnet-d3-w{WIDTH}-in", channels=1, size=28, classes=10, seed=0)
    compiler = device.choose_compiler("on" if side == "ddbench" else "off", 0, cpu, print)
    cached: dict[object, object] = {}
    if compiler is not None:
        once = compiler

        def compiler(function):  # the warm-up and the timed run share what is compiled
            key = function.__qualname__
            if key not in cached:
                cached[key] = once(function)
            return cached[key]

    inputs = Inputs(*training, None, cpu)
    test_inputs = Inputs(*testing, None, cpu) if len(testing[1]) else None
    settings = OptimizerSettings(**{"momentum": 0.0, "weight_decay": 0.0, **rates})

    def run(passes: int, test: bool) -> float:
        for _ in train(
            module,
            inputs,
            epochs=passes,
            batch=256,
            optimizer=settings,
            policy=Policy((strategy,)),
            seed=0,
            precision=precision,
            compiler=compiler,
        ):
            pass
        if not test or test_inputs is None:
            return 0.0
        return accuracy(predict(module, test_inputs, precision=precision, compiler=compiler), testing[1])

    return run


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def main() -> None:
    """Measure and print."""
    args = common.parser(str(__doc__)).parse_args()
    if args.one:
        print(json.dumps(one(*args.one)))
        return
    lines = [
        "| job | side | precision | CPU s | / plain | bound | first pass, compiling included, CPU s | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for job, bound, bound16 in (("expert", "0.65", ""), ("score", "0.6", "0.45")):
        limits = {
            ("plain", "float32"): "",
            ("ddbench eager", "float32"): "",
            ("ddbench", "float32"): bound,
            ("ddbench", "bfloat16"): bound16,
        }
        rounds = [{case: common.measure(__file__, case[0], job, case[1]) for case in limits} for _ in range(ROUNDS)]
        found = {case: _medians([one[case] for one in rounds]) for case in limits}
        base = found["plain", "float32"]
        for (side, precision), limit in limits.items():
            own = found[side, precision]
            score = f"{100 * own['accuracy']:.1f} %" if job == "score" else ""
            lines.append(
                f"| {job} | {side} | {precision} | {own['seconds']:.2f} | {own['seconds'] / base['seconds']:.2f} "
                f"| {limit} | {own['warm']:.1f} | {score} |"
            )
    common.report(__file__, "Plain loops: experts and scores", lines, "python benchmarks/plain_loops.py")


if __name__ == "__main__":
    sys.exit(main())
