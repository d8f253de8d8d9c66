"""Average pooling on a CPU: ddbench's sums of slices against ``F.avg_pool2d``, forward and backward.

One thread, CPU time, median of the rounds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import common

ROUNDS = 100


def main() -> None:
    """Measure and print."""
    import torch
    import torch.nn.functional as F

    from ddbench.networks.pooling import average_pool
    from ddbench.runtime import device

    common.parser(str(__doc__)).parse_args()
    device.prepare(1)

    def seconds(pools: list[Callable[[torch.Tensor], torch.Tensor]], shape: tuple[int, ...]) -> list[float]:
        """Medians, one after the other in every round: other work of the machine slows all of them."""
        x = torch.randn(shape, requires_grad=True)
        out = torch.randn(shape[0], shape[1], shape[2] // 2, shape[3] // 2)
        rounds: list[list[float]] = [[] for _ in pools]
        for _ in range(ROUNDS):
            for pool, found in zip(pools, rounds, strict=True):
                begin = time.process_time()
                pool(x).backward(out)
                x.grad = None
                found.append(time.process_time() - begin)
        return [statistics.median(found) for found in rounds]

    lines = ["| input | F.avg_pool2d, ms | average_pool, ms | ratio |", "|---|---|---|---|"]
    for shape in ((100, 32, 8, 8), (100, 32, 32, 32), (100, 128, 16, 16), (100, 128, 32, 32)):
        library, ours = (1e3 * one for one in seconds([lambda x: F.avg_pool2d(x, 2), average_pool], shape))
        lines.append(f"| {list(shape)} | {library:.2f} | {ours:.2f} | {ours / library:.2f} |")
    common.report(__file__, "Average pooling on a CPU", lines, "python benchmarks/pooling.py")


if __name__ == "__main__":
    sys.exit(main())
