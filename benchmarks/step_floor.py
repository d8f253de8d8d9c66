"""What a student's step on 8 x 8 images is made of: calls, and the operations of torch that give its bits.

``plain`` is forward, loss and backward by autograd; ``repeated`` the same operations written down and done again, as
training does it; ``operations`` the sum of what each of them takes by itself: no way of calling them takes less and
gives the same bits. One thread, CPU time where it is long enough to be measured, else the least wall time of many.

    taskset -c 0 python benchmarks/step_floor.py --write
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import common

STUDENTS = ("convnet-d2-w32-in", "convnet-d1-w32-nn", "mlp-d3-w128")
IMAGES = (10, 100)
ROUNDS, CALLS = 15, 30


def least(call: Callable[[], Any]) -> float:
    """Least CPU microseconds of a call over the rounds."""
    for _ in range(20):
        call()
    found = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(CALLS):
            call()
        found = min(found, (time.process_time() - begin) / CALLS)
    return 1e6 * found


def operations(made: Any, inputs: tuple[Any, ...]) -> dict[str, float]:
    """Least wall microseconds of each operation of a recording in its place, summed by name."""
    import torch

    totals: dict[int, float] = {}
    with torch.no_grad():
        for _ in range(ROUNDS * CALLS):
            values = made._values.copy()
            values[: made._count] = inputs
            for number, (operation, taken, named, given, many, over) in enumerate(made._calls):
                arguments = [values[place] for place in taken]
                begin = time.perf_counter()
                result = operation(*arguments, **named)
                spent = time.perf_counter() - begin
                totals[number] = min(totals.get(number, spent), spent)
                for place, one in zip(given, result if many else (result,), strict=True):
                    values[place] = one
                for place in over:
                    values[place] = None
                del arguments, result
    found: dict[str, float] = {}
    for number, (operation, *_) in enumerate(made._calls):
        name = str(operation).removeprefix("aten.").rpartition(".")[0] or "list"
        found[name] = found.get(name, 0.0) + 1e6 * totals[number]
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main() -> None:
    """Measure and print."""
    import torch
    import torch.nn.functional as F

    from ddbench.networks.build import build_student
    from ddbench.runtime import device
    from ddbench.training.recorded import BEFORE, Gradients

    parser = common.parser(str(__doc__))
    parser.add_argument("--note", default="nothing else ran", help="what else the machine did")
    args = parser.parse_args()
    device.prepare(1)
    lines = ["| student | images | plain, us | repeated | operations | of these |", "|---|---|---|---|---|---|"]
    for student in STUDENTS:
        for count in IMAGES:
            x, y = torch.randn(count, 1, 8, 8), torch.arange(count) % 10
            net = build_student(student, channels=1, size=8, classes=10, seed=0)

            def objective(x: Any, y: Any, net: Any = net) -> Any:
                logits = net(x)
                return F.cross_entropy(logits, y), logits.detach()

            plain, repeated = (Gradients(net, objective, repeat) for repeat in (False, True))
            for _ in range(BEFORE + 2):
                repeated(x, y)
            assert repeated._repeated is not None
            (made,) = repeated._repeated._made.values()
            parts = operations(made, (x, y))
            largest = ", ".join(f"{name} {spent:.0f}" for name, spent in list(parts.items())[:3])
            numbers = [least(partial(plain, x, y)), least(partial(repeated, x, y)), sum(parts.values())]
            lines.append(f"| {student} | {count} | {' | '.join(f'{one:.0f}' for one in numbers)} | {largest} |")
            print(lines[-1], flush=True)
    lines += ["", f"Load: {args.note}."]
    common.report(__file__, "A small step, and its floor", lines, " ".join(["python", *sys.argv]))


if __name__ == "__main__":
    sys.exit(main())
