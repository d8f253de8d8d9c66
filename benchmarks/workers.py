"""Evaluation seeds on two cores against one process on one core, wall time: two workers, two shards, Ray.

Whole ``ddbench evaluate`` commands are timed, imports and process starts included; every process has one thread. The
start-up of Ray is the time of one short seed on it less that of one short seed on a local worker.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import common

SEEDS, EPOCHS = 24, 1000
SHORT_SEEDS, SHORT_EPOCHS = 10, 300
STUDENT = "convnet-d2-w64-in"


def evaluate(run: Path, out: str, seeds: int, epochs: int, *parts: tuple[object, ...]) -> float:
    """Wall seconds of scoring a synset by one command, or by several at once, into one file."""
    begin = time.perf_counter()
    common_flags = ["--seeds", seeds, "--epochs", epochs, "--students", STUDENT, "--threads", 1, "--quiet"]
    running = [
        subprocess.Popen(
            list(
                map(str, [sys.executable, "-m", "ddbench", "evaluate", run, *common_flags, *part, "--out", run / out])
            ),
            stdout=subprocess.DEVNULL,
        )
        for part in parts
    ]
    if any(process.wait() for process in running):
        raise RuntimeError(f"an evaluation failed: {parts}")
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    common.parser(str(__doc__)).parse_args()
    one, two, ray = ("--workers", 1), ("--workers", 2), ("--workers", 2, "--engine", "ray")
    lines = ["| seeds | epochs | how | wall s | of one process |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        flags = ["--method", "random", "--dataset", "digits", "--ipc", "10", "--quiet", "--out", str(run)]
        subprocess.run([sys.executable, "-m", "ddbench", "distill", *flags], check=True, capture_output=True)
        same = True
        for seeds, epochs, hows in (
            (
                SEEDS,
                EPOCHS,
                {
                    "one process": (one,),
                    "two workers": (two,),
                    "two shards": tuple((*one, "--shard", f"{index}/2") for index in (0, 1)),
                    **({"Ray, two workers": (ray,)} if find_spec("ray") else {}),
                },
            ),
            (SHORT_SEEDS, SHORT_EPOCHS, {"one process": (one,), "two workers": (two,)}),
        ):
            base, first = 0.0, b""
            for how, parts in hows.items():
                out = f"{seeds}-{how.replace(' ', '-')}.json"
                wall = evaluate(run, out, seeds, epochs, *parts)
                base, first = base or wall, first or (run / out).read_bytes()
                same = same and (run / out).read_bytes() == first
                lines.append(f"| {seeds} | {epochs} | {how} | {wall:.1f} | {wall / base:.3f} |")
                print(lines[-1], flush=True)
        lines += ["", f"Result files equal to the byte: {'yes' if same else 'NO'}."]
        if find_spec("ray"):
            start = evaluate(run, "ray-start.json", 1, 1, ray) - evaluate(run, "local-start.json", 1, 1, two)
            lines.append(f"Start-up of Ray, in its time above: {start:.1f} s.")
    title = f"digits, ipc 10, {STUDENT}. Bounds: two workers 0.53 for {SEEDS} seeds, 0.58 for {SHORT_SEEDS} short ones."
    common.report(__file__, "Seeds in parallel", [title, "", *lines], "python benchmarks/workers.py")


if __name__ == "__main__":
    sys.exit(main())
