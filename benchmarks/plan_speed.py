"""CPU and wall time of cells of ``ddbench reproduce digits-cpu``, of an older build and of this one, and of the demo.

    git worktree add --detach ../old 9194343
    python benchmarks/plan_speed.py ../old --demo --write            # the cells below: 10 minutes, the demo another 5
    python benchmarks/plan_speed.py ../old --cells 'digits-ipc1-m*'

Both builds do the cells of the older one's plan, in turn, every cell by a command of its own in an empty folder, with
one thread; what its processes took is what the kernel counted of all of them (Linux). Rows are held against each other
number by number.
"""

from __future__ import annotations

import compileall
import ctypes
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

HERE = Path(__file__).resolve().parents[1]
CELLS = (
    "digits-ipc1-random-s0/hard-v1",
    "digits-ipc10-random-s0/hard-v1",
    "digits-full-full-s0/hard-v1",
    "digits-ipc1-dm-s0/hard-v1",
    "digits-ipc1-mtt-s0/hard-v1",
    "digits-ipc10-rded-s0/rded",
)
BOUND = 0.5

PR_SET_CHILD_SUBREAPER = 36
"""Processes whose parent has ended become children of this one (``prctl``)."""


def command(build: Path, folder: Path, *words: object) -> tuple[float, float]:
    """CPU and wall seconds of ``ddbench WORDS`` of a build, with all its processes.

    Raises:
        RuntimeError: it failed.
    """
    environment = {**os.environ, "PYTHONPATH": str(build), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    begin = time.perf_counter()
    with open(folder / "said", "ab") as said:
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "ddbench", *map(str, words)],  # not the ddbench of the folder that one is in
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, said.fileno(), 1), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)],
        )
        cpu, wall = 0.0, 0.0
        while True:  # the server that forks workers outlives the command by a moment, and counts what they took
            try:
                ended, status, used = os.wait4(-1, 0)
            except ChildProcessError:
                return cpu, wall
            cpu += used.ru_utime + used.ru_stime
            if ended == child:
                wall = time.perf_counter() - begin
                if status:
                    raise RuntimeError((folder / "said").read_text()[-2000:])


def numbers(board: Path) -> dict[Any, dict[str, float]]:
    """What a board's rows say of every student and seed of a synset under a protocol."""
    found = {}
    for path in sorted(board.glob("results/**/*.json")):
        row = json.loads(path.read_text())
        place = (
            path.parent.relative_to(board),
            row["synset"]["seed"],
            row["protocol"]["name"],
        )  # dataset, budget, method
        for run in row["runs"]:
            found[*place, run["student"], run["seed"]] = run["metrics"]
    return found


def same(old: dict[Any, dict[str, float]], new: dict[Any, dict[str, float]]) -> bool:
    """Whether the newer build gives every number that the older one gives."""
    return bool(old) and all(new.get(run, {}).get(name) == value for run in old for name, value in old[run].items())


def cell(builds: dict[str, Path], name: str, workers: int) -> str:
    """A line of the table: a cell by both builds."""
    taken, rows = {}, {}
    for label, build in builds.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            flags = ["--only", name, "--out", folder / "out", "--leaderboard", folder / "board", "--quiet"]
            plan = builds["old"] / "plans" / "digits-cpu.toml"
            taken[label] = command(build, folder, "reproduce", plan, *flags, "--threads", 1, "--workers", workers)
            rows[label] = numbers(folder / "board")
    return line(name, taken, "yes" if same(rows["old"], rows["new"]) else "NO")


def demo(builds: dict[str, Path]) -> str:
    """The same of the demo, on two workers."""
    taken, rows = {}, {}
    for label, build in builds.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            taken[label] = command(build, folder, "demo", "--out", folder / "demo", "--workers", 2, "--quiet")
            rows[label] = numbers(folder / "demo" / "leaderboard")
    return line("demo, two workers", taken, "yes" if same(rows["old"], rows["new"]) else "NO")


def line(name: str, taken: dict[str, tuple[float, float]], equal: str) -> str:
    """``| name | CPU s old, new, ratio | wall s old, new, ratio | equal |``."""
    parts = [
        f"{taken['old'][kind]:.1f} | {taken['new'][kind]:.1f} | {taken['new'][kind] / taken['old'][kind]:.2f}"
        for kind in (0, 1)
    ]
    made = f"| {name} | {' | '.join(parts)} | {equal} |"
    print(made, flush=True)
    return made


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("old", type=Path, help="worktree of the older build")
    parser.add_argument("--cells", nargs="*", default=CELLS, help="names or patterns, a command each")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--demo", action="store_true", help="the demo too")
    parser.add_argument("--note", default="nothing else ran", help="what else the machine did")
    args = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    builds = {"old": args.old.resolve(), "new": HERE}
    for build in builds.values():  # as it is installed
        compileall.compile_dir(build / "ddbench", quiet=1)
    head = "| cell | CPU s, old | new | ratio | wall s, old | new | ratio | numbers equal |"
    print(head)
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    lines += [cell(builds, name, args.workers) for name in args.cells]
    lines += [demo(builds)] if args.demo else []
    lines += ["", f"Bound: {BOUND}. Load: {args.note}. Workers of a cell: {args.workers}."]
    common.report(__file__, "Cells of a plan: an older build and this one", lines, " ".join(["python", *sys.argv]))


if __name__ == "__main__":
    sys.exit(main())
