"""Peak memory of an outer iteration of DD against its student steps, by both ways to its gradient.

LeNet, P batches of ten images 28 x 28, E = 3 passes, 1,024 real images. Each number is a process of its own. What is
counted is what torch's allocator has given out above what it had given out before the iteration.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

EPOCHS = 3
STEPS = (30, 90)
BOUND = 1.15


def one(inner: str, steps: int) -> dict[str, float]:
    """Peak of the memory held by tensors in the last of two outer iterations, bytes; and its loss."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from ddbench.data.dataset import Split, make_dataset
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.data.specs import DATASETS
    from ddbench.methods.base import Context
    from ddbench.methods.dd import DD, DDConfig
    from ddbench.runtime import device
    from ddbench.runtime.progress import Console

    device.prepare(1)
    pixels = torch.rand(2048, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    split = Split((255 * pixels).to(torch.uint8), torch.arange(2048) % 10)
    dataset = make_dataset(DATASETS["mnist"], split, split)
    config: Any = DDConfig(iterations=2, batches=steps // EPOCHS, epochs=EPOCHS, inner=inner)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(
            dataset=dataset,
            train=split,
            held_out=split,
            preprocess=fit_preprocess(dataset, "meanstd"),
            ipc=steps // EPOCHS,
            student="lenet",
            seed=0,
            device=torch.device("cpu"),
            folder=Path(folder),
            compile="off",
            console=Console(quiet=True),
        )
        method = DD(config, context)
        method.setup()
        method.step(0)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            loss = method.step(1)["loss"]
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return {"memory": max(held), "loss": loss}


def main() -> None:
    """Measure and print."""
    args = common.parser(str(__doc__)).parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], int(args.one[1]))))
        return
    lines = [
        f"| gradient | {' | '.join(f'{steps} steps, MB' for steps in STEPS)} | largest / first | bound | loss |",
        "|---|---|---|---|---|---|",
    ]
    for inner in ("adjoint", "unroll"):
        found = [common.measure(__file__, inner, steps) for steps in STEPS]
        memory = [value["memory"] for value in found]
        row = " | ".join(f"{value / 1e6:.0f}" for value in memory)
        bound = str(BOUND) if inner == "adjoint" else ""
        loss = ", ".join(f"{value['loss']:.6f}" for value in found)
        lines.append(f"| {inner} | {row} | {memory[-1] / memory[0]:.3f} | {bound} | {loss} |")
    common.report(__file__, "DD: memory against student steps", lines, "python benchmarks/dd_memory.py")


if __name__ == "__main__":
    sys.exit(main())
