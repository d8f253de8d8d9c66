"""Peak memory of one outer iteration of each trajectory method, with 10, 40 and 80 student steps, in adjoint mode.

The methods themselves are run, on random images 3 x 28 x 28 and experts that the script makes (depth 3, width 32, four
epochs, of the kind that each method asks for), IPC 10, the whole synset in a step. Each number is a process of its own;
its last outer iteration is measured (of PDD: in its second stage, where the student sees the images of both).

What is counted is what torch's allocator has given out, above what it had given out before the iteration: the memory
that the computation needs, the same in every run. The process takes more, by how much differs from run to run with the
layout of the heap.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

STEPS = (10, 40, 80)
BOUND = 1.15
STUDENT, SIZE, CLASSES, IPC = "convnet-d3-w32-in", 28, 10, 10
METHODS: dict[str, dict[str, Any]] = {
    "mtt": {"inner": "adjoint"},
    "ftd": {"inner": "adjoint"},
    "tesla": {"gradient": "exact"},
    "datm": {"inner": "adjoint"},
    "ast": {"inner": "adjoint"},
    "pdd": {"base": "mtt", "stages": 2, "iterations": 2},
}
SHARED: dict[str, Any] = {
    "expert_epochs": 2,
    "max_start_epoch": 2,
    "iterations": 1,
    "lr_images": 1.0,
    "lr_lr": 0.0,
    "lr_student": 0.001,
}


def make_images(folder: Path, each: int) -> None:
    """Random pictures in one folder a class."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        place = folder / f"class{label}"
        place.mkdir(parents=True)
        for number in range(each):
            Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(place / f"{number}.png")


def experts(root: Path) -> None:
    """Two experts of each kind."""
    from ddbench.data.load import load_dataset
    from ddbench.experts.recipe import ExpertRecipe
    from ddbench.experts.record import record
    from ddbench.runtime.progress import Console

    dataset = load_dataset(f"folder:{root / 'images'}", root / "data", size=SIZE)
    for kind in ("sgd", "gsam", "smooth"):
        record(
            root=root / "experts",
            dataset=dataset,
            data=root / "data",
            student=STUDENT,
            recipe=ExpertRecipe(epochs=4, lr=0.02, batch=64, kind=kind),
            experts=2,
            workers=1,
            threads=1,
            device="cpu",
            compile="off",
            console=Console(quiet=True),
        )


def one(name: str, steps: int, root: Path) -> dict[str, float]:
    """Peak of the memory held by tensors in the last outer iteration, above what was held before it, bytes."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from ddbench.data.dataset import holdout_split
    from ddbench.data.load import load_dataset
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.experts.store import find_stores
    from ddbench.methods import METHODS as KINDS
    from ddbench.methods.base import Context
    from ddbench.runtime import device
    from ddbench.runtime.progress import Console

    device.prepare(1)
    kind = KINDS.get(name)
    config = kind.config_class(**{**SHARED, **METHODS[name], "student_steps": steps})
    dataset = load_dataset(f"folder:{root / 'images'}", root / "data", size=SIZE)
    train, held_out = holdout_split(dataset.train, 0.1, CLASSES)
    (need,) = kind.needs(config)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        context = Context(
            dataset=dataset,
            train=train,
            held_out=held_out,
            preprocess=fit_preprocess(dataset, "meanstd"),
            ipc=IPC,
            student=STUDENT,
            seed=0,
            device=torch.device("cpu"),
            folder=Path(folder),
            compile="off",
            console=Console(quiet=True),
        ).give(need, next(store for store in find_stores(root / "experts") if store.recipe.kind == need.kind))
        kind.check(config, context)
        method = kind(config, context)
        method.setup()
        for iteration in range(method.iterations - 1):
            method.step(iteration)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            loss = method.step(method.iterations - 1)["loss"]
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return {"memory": max(held), "loss": loss}


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--methods", default=",".join(METHODS), help="names with commas")
    parser.add_argument("--steps", default=",".join(map(str, STEPS)), help="student steps, with commas")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], int(args.one[1]), Path(args.one[2]))))
        return
    steps = [int(text) for text in args.steps.split(",")]
    lines = [
        f"{STUDENT}, {CLASSES * IPC} images 3 x {SIZE} x {SIZE}, one thread, float32; MB held by tensors at the peak.",
        "",
        f"| method | {' | '.join(f'{number} steps' for number in steps)} | largest / first | bound |",
        "|---" * (len(steps) + 3) + "|",
    ]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_images(root / "images", 30)
        experts(root)
        for method in args.methods.split(","):
            found = [common.measure(__file__, method, number, root)["memory"] for number in steps]
            row = " | ".join(f"{value / 1e6:.0f}" for value in found)
            lines.append(f"| {method} | {row} | {max(found) / found[0]:.3f} | {BOUND} |")
    command = "python benchmarks/trajectory_memory.py"
    common.report(__file__, "Memory of the trajectory methods against student steps", lines, command)


if __name__ == "__main__":
    sys.exit(main())
