"""The trajectory store with 20 experts x 51 epochs x 320,010 parameters: segment reads and private memory."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import common

EXPERTS, EPOCHS = 20, 50


def make(folder: Path) -> None:
    """Write a store of random walks."""
    import torch

    from ddbench.experts.recipe import ExpertRecipe
    from ddbench.experts.store import TrajectoryStore
    from ddbench.networks.build import build_student

    net = build_student("convnet-d3-w128-in", channels=3, size=32, classes=10, seed=0)
    header = {
        "dataset": "cifar10",
        "dataset_fingerprint": "0" * 64,
        "size": 32,
        "student": "convnet-d3-w128-in",
        "preprocess": {},
        "parameters": [[name, list(p.shape)] for name, p in net.named_parameters()],
        "versions": {},
    }
    store = TrajectoryStore(folder=folder, recipe=ExpertRecipe(epochs=EPOCHS), header=header)
    curves = {"seed": 0, "loss": [], "train_accuracy": [], "holdout_accuracy": [], "test_accuracy": None}
    for index in range(EXPERTS):
        walk = torch.randn(EPOCHS + 1, store.size, generator=torch.Generator().manual_seed(index)).mul_(0.01).cumsum(0)
        store.write_expert(index, walk, torch.zeros(0), curves)
        store.scan(index)
    store.write_manifest()


def one(folder: str, experts: str) -> dict[str, float]:
    """Median milliseconds of a segment read (two rows), and anonymous memory added, bytes."""
    import torch

    from ddbench.experts.store import read_store
    from ddbench.runtime import device

    def private() -> int:
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no Anonymous line")

    device.prepare(1)  # as every verb does: freed blocks are kept
    store = read_store(Path(folder))
    before, times = private(), []
    g = torch.Generator().manual_seed(0)
    for turn in range(240):
        expert = int(torch.randint(int(experts), (), generator=g))
        epoch = int(torch.randint(EPOCHS - 1, (), generator=g))
        begin = time.perf_counter()
        store.rows(expert, epoch, epoch + 2)
        if turn >= 40:
            times.append(time.perf_counter() - begin)
    return {"ms": 1e3 * statistics.median(times), "private": private() - before}


def main() -> None:
    """Measure and print."""
    args = common.parser(str(__doc__)).parse_args()
    if args.one:
        print(json.dumps(one(*args.one)))
        return
    lines = ["| experts read | segment read, warm, ms (bound 1) | private memory added, MB |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        common.measure(__file__, name, EXPERTS)  # warms the page cache
        for experts in (1, 5, EXPERTS):
            own = common.measure(__file__, name, experts)
            lines.append(f"| {experts} | {own['ms']:.3f} | {own['private'] / 1e6:.1f} |")
    common.report(__file__, "The trajectory store", lines, "python benchmarks/store.py")


if __name__ == "__main__":
    sys.exit(main())
