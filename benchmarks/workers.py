"""Several evaluation seeds on two cores (two processes of one thread) against one process on one core, wall time.

The whole ``ddbench evaluate`` is timed, imports and process starts included.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

SEEDS = 24
EPOCHS = 1000


def evaluate(run: Path, workers: int) -> float:
    """Wall seconds of scoring a synset with a number of workers."""
    begin = time.perf_counter()
    out = run / f"workers{workers}.json"
    flags = ["--seeds", SEEDS, "--students", "convnet-d2-w64-in", "--workers", workers, "--threads", 1, "--out", out]
    command = [sys.executable, "-m", "ddbench", "evaluate", run, *flags, "--quiet"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    common.parser(str(__doc__)).parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        flags = ["--method", "random", "--dataset", "digits", "--ipc", "10", "--quiet", "--out", str(run)]
        subprocess.run([sys.executable, "-m", "ddbench", "distill", *flags], check=True, capture_output=True)
        alone, both = evaluate(run, 1), evaluate(run, 2)
        same = (run / "workers1.json").read_bytes() == (run / "workers2.json").read_bytes()
    lines = [
        f"{SEEDS} seeds, digits, ipc 10, convnet-d2-w64-in, {EPOCHS} epochs.",
        "",
        "| workers | wall s |",
        "|---|---|",
        f"| 1 | {alone:.1f} |",
        f"| 2 | {both:.1f} |",
        "",
        f"{alone / both:.2f} x faster (bound 1.8); result files equal to the byte: {'yes' if same else 'NO'}.",
    ]
    common.report(__file__, "Seeds in parallel", lines, "python benchmarks/workers.py")


if __name__ == "__main__":
    sys.exit(main())
