"""Evaluation seeds by a Slurm array of two tasks against two local workers: wall time, and are the files equal?

A Slurm of one node and two cores is started for it, of Debian's packages (``apt-get install slurm-wlm munge``), and
stopped. Whole commands are timed, imports and process starts included, for Slurm from the submission until it says that
both tasks have ended; every process has one thread. The start-up of an array is the time of two short seeds in one less
that of two short seeds on local workers.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from slurm_cluster import DAEMONS, Cluster, running  # noqa: E402

STUDENT = "convnet-d2-w64-in"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


def ddbench(*argv: object) -> str:
    """Output of a command."""
    command = [sys.executable, "-m", "ddbench", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def evaluation(run: Path, out: str, seeds: int, epochs: int, workers: int) -> list[object]:
    """The command that scores a synset into a file."""
    flags = ["--seeds", seeds, "--epochs", epochs, "--students", STUDENT, "--threads", 1, "--workers", workers]
    return ["evaluate", run, *flags, "--quiet", "--out", run / out]


def local(run: Path, out: str, seeds: int, epochs: int) -> float:
    """Wall seconds of two workers."""
    begin = time.perf_counter()
    ddbench(*evaluation(run, out, seeds, epochs, 2))
    return time.perf_counter() - begin


def array(cluster: Cluster, run: Path, out: str, seeds: int, epochs: int) -> float:
    """Wall seconds of an array of two tasks, a worker each."""
    begin = time.perf_counter()
    flags = ["--submit", "--array", 2, "--cpus", 1, "--logs", run]
    said = ddbench("slurm", *flags, *evaluation(run, out, seeds, epochs, 1))
    job = said.split()[2].rstrip(",")
    while not set(states := cluster.states(job)) <= ENDED:
        time.sleep(0.2)
    if set(states) != {"COMPLETED"} or len(states) != 2:
        logs = "\n".join(path.read_text() for path in run.glob("ddbench-*.log"))
        raise RuntimeError(f"the tasks ended as {states}:\n{logs}")
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=1000)
    args = parser.parse_args()
    if not all(DAEMONS.values()):
        parser.error("no Slurm here: apt-get install slurm-wlm munge")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        run = Path(name) / "run"
        ddbench("distill", "--method", "random", "--dataset", "digits", "--ipc", 10, "--quiet", "--out", run)
        begin = time.perf_counter()
        cluster = stack.enter_context(running(Path(name) / "slurm"))
        os.environ["SLURM_CONF"] = str(cluster.config)
        up = time.perf_counter() - begin
        short = array(cluster, run, "short-slurm.json", 2, 1) - local(run, "short-local.json", 2, 1)
        here = local(run, "local.json", args.seeds, args.epochs)
        print(f"two workers: {here:.1f} s", flush=True)
        there = array(cluster, run, "slurm.json", args.seeds, args.epochs)
        pairs = [("local.json", "slurm.json"), ("short-local.json", "short-slurm.json")]
        same = all((run / one).read_bytes() == (run / other).read_bytes() for one, other in pairs)
        version = cluster.call("sinfo", "--version")
    lines = [
        f"digits, ipc 10, {STUDENT}, {args.seeds} seeds of {args.epochs} epochs. {version}, one node of two cores.",
        "",
        "| how | wall s | of two workers | without start-up |",
        "|---|---|---|---|",
        f"| two workers | {here:.1f} | 1.000 | 1.000 |",
        f"| Slurm array of two tasks | {there:.1f} | {there / here:.3f} | {(there - short) / here:.3f} |",
        "",
        f"Start-up of an array, in its time above: {short:.1f} s (two seeds of one epoch there, less two here). The "
        f"cluster itself took {up:.1f} s to come up, which is in no time above.",
        "",
        f"Result files equal to the byte: {'yes' if same else 'NO'}.",
    ]
    common.report(__file__, "Seeds in a Slurm array", lines, "python benchmarks/slurm.py")
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
