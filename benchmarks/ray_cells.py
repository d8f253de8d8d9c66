"""Many made-up cells on a local Ray cluster: what a cell costs beside its work, and does the driver's memory grow?

A cell is a table of about one kilobyte, as a plan's is; doing it is joining it with what all cells share, so that all
time is the engine's. The same cells on local workers are beside it.

python benchmarks/ray_cells.py [--cells 10000] [--workers 2] [--write]
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

import common
import psutil

from ddbench.runtime import jobs
from ddbench.runtime.jobs import run_jobs

TARGET = "operator:or_"
SHARED = {"leaderboard": "leaderboard", "submission": {"submitter": "nobody"}}
MARKS = (0.01, 0.1, 0.5, 1.0)
"""Parts of the cells after which memory is looked at."""


def cells(count: int) -> list[dict[str, Any]]:
    """Made-up cells."""
    students = [f"convnet-d{depth}-w{width}-in" for depth in (2, 3) for width in (32, 64, 128)]
    return [
        {"name": f"digits-ipc{n % 50}-method{n % 25}-s{n}", "seed": n, "students": students, "note": f"{n:0700d}"}
        for n in range(count)
    ]


def run(engine: str, count: int, workers: int) -> dict[str, Any]:
    """Do the cells on one engine: seconds of start and of a cell, resident MB of the driver on the way."""
    driver, payloads, memory = psutil.Process(), cells(count), {}
    begin = time.perf_counter()
    with ExitStack() as stack:
        if engine == "ray":
            from ddbench.runtime.ray_jobs import cluster

            stack.enter_context(jobs.engine(stack.enter_context(cluster(None, workers=0, cpus=1, gpus=0))))
        # one cell a worker first: processes start, the function is loaded
        assert len(list(run_jobs(TARGET, SHARED, payloads[:workers], workers))) == workers
        started, done = time.perf_counter(), 0
        for _, value in run_jobs(TARGET, SHARED, payloads, workers):
            assert value["leaderboard"] == "leaderboard"
            done += 1
            if done in {max(1, round(part * count)) for part in MARKS}:
                memory[done] = driver.memory_info().rss / 2**20
        spent = time.perf_counter() - started
    assert done == count
    return {"start": started - begin, "cell": spent / count, "memory": memory}


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if args.one is not None:
        import json

        engine, count, workers = args.one
        print(json.dumps(run(engine, int(count), int(workers))))
        return
    found = {engine: common.measure(__file__, engine, args.cells, args.workers) for engine in ("local", "ray")}
    marks = list(found["ray"]["memory"])
    lines = [
        f"{args.cells} cells of about 1 kB, {args.workers} workers.",
        "",
        "| engine | start, s | ms a cell | " + " | ".join(f"driver after {mark}, MB" for mark in marks) + " |",
        "|---" * (3 + len(marks)) + "|",
    ]
    for engine, one in found.items():
        memory = " | ".join(f"{one['memory'][mark]:.0f}" for mark in marks)
        lines.append(f"| {engine} | {one['start']:.1f} | {1000 * one['cell']:.2f} | {memory} |")
    lines += ["", f"ray {version('ray')}."]
    common.report(__file__, "Cells on Ray", lines, "python benchmarks/ray_cells.py")


if __name__ == "__main__":
    sys.exit(main())
