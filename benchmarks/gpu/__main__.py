"""``python -m benchmarks.gpu --minutes 9``: tests, smoke, speed and published figures on a GPU, in that order.

Every part has its own time and writes its tables line by line: a run that is killed or out of time keeps what it has.
It needs this checkout, torch, numpy and safetensors; ``--pack FOLDER`` collects the rest beforehand.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.gpu.report import OutOfTime, Report, reason, until

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
SHARES = {"tests": 0.12, "smoke": 0.34, "speed": 0.65, "figures": 1.0}
"""Part -> share of the time after start-up at which it ends at the latest; what one leaves, the next ones have."""
TITLES = {
    "tests": "GPU: the tests marked gpu",
    "smoke": "GPU: every method and verb for a moment",
    "speed": "GPU: speed beside plain eager loops",
    "figures": "GPU: published figures",
}


def main() -> None:
    """Run the parts, or pack."""
    args = arguments()
    if args.pack is not None:
        from benchmarks.gpu.pack import pack

        print(pack(args.pack, CHECKOUT, args.data))
        return
    begin = time.monotonic()
    data = args.data or (args.packed / "data" if (args.packed / "data").is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="ddbench-gpu-") as scratch, contextlib.ExitStack() as stack:
        find_packages(args.packed, Path(scratch))
        stack.enter_context(pretence(args.pretend))
        device = device_of(args)
        out = args.out or HERE / "results" / ("rehearsal" if args.rehearse else "last")
        out.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("DDBENCH_DATA", scratch)
        run(args, begin, out, data, Path(scratch), device)
    print(f"wrote {out}; {(time.monotonic() - begin) / 60:.1f} minutes")


def arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default: 9)")
    parser.add_argument("--rehearse", action="store_true", help="everything small, on any device")
    parser.add_argument("--pretend", action="store_true", help="with --rehearse: on a GPU that is not there")
    parser.add_argument("--parts", default=",".join(SHARES), help=f"with commas: {', '.join(SHARES)}")
    parser.add_argument("--device", default="", help="default: cuda; of a rehearsal cuda where there is one, else cpu")
    parser.add_argument("--out", type=Path, help="folder for the tables (default: benchmarks/gpu/results/last)")
    parser.add_argument("--data", type=Path, help="folder with the datasets (default: that of the pack)")
    parser.add_argument("--packed", type=Path, default=CHECKOUT / ".gpu", help="what --pack made (default: .gpu)")
    parser.add_argument("--pack", type=Path, help="collect wheels and data in this folder, and end")
    args = parser.parse_args()
    unknown = [part for part in args.parts.split(",") if part not in SHARES]
    if unknown:
        parser.error(f"--parts {args.parts}: unknown part {unknown[0]!r}; one or more of {', '.join(SHARES)}")
    if args.pretend and (args.device or not args.rehearse):
        parser.error("--pretend: goes with --rehearse, and is a device by itself")
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes:g}: expected more than 0")
    return args


def find_packages(packed: Path, scratch: Path) -> None:
    """Let imports find the pack and the stand-ins, behind what is installed; other processes find the checkout."""
    from benchmarks.gpu.pack import unpacked

    sys.path += [str(place) for place in (*unpacked(packed, scratch), HERE / "standins")]
    inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *inherited])


def pretence(wanted: bool) -> contextlib.AbstractContextManager[None]:
    """Within it there is a GPU, if that is wanted."""
    from benchmarks.gpu.pretended import pretended_cuda

    return pretended_cuda() if wanted else contextlib.nullcontext()


def device_of(args: argparse.Namespace) -> str:
    """The device to measure.

    Raises:
        SystemExit: there is none.
    """
    import torch

    if args.device:
        return str(args.device)
    if torch.cuda.is_available():
        return "cuda"
    if args.rehearse:
        return "cpu"
    raise SystemExit("no CUDA device here; --rehearse runs everything small on the CPU")


def run(args: argparse.Namespace, begin: float, out: Path, data: Path | None, scratch: Path, device: str) -> None:
    """All parts that are wanted, and ``parts.md``: how each ended, after how long."""
    from benchmarks.gpu import figures, smoke, speed
    from benchmarks.gpu.world import World, describe
    from ddbench.runtime.device import prepare

    threads = 1 if device == "cpu" else min(8, os.cpu_count() or 1)
    world = World(device=device, rehearse=args.rehearse, data=data, scratch=scratch)
    machine = describe(device) + (", a rehearsal" if args.rehearse else "")
    diary = Report(out / "parts.md", "GPU: the parts of the run", machine)
    diary.table(f"{args.minutes:g} minutes", ("part", "until, s", "took, s", "how it ended"))
    ready = time.monotonic()
    for part in args.parts.split(","):
        start, end = time.monotonic(), ready + (begin + 60 * args.minutes - ready) * SHARES[part]
        report = Report(out / f"{part}.md", TITLES[part], machine)
        todo: dict[str, Callable[[], None]] = {
            "tests": partial(tests, report, end),
            "smoke": partial(smoke.run, world, report),
            "speed": partial(speed.run, world, report),
            "figures": partial(figures.run, world, report, end),
        }
        print(f"{part}: {end - start:.0f} s", flush=True)
        prepare(1 if part == "smoke" else threads)  # its images are tiny; and verbs leave the threads of theirs
        ended = _part(todo[part], end)
        if ended != "done":
            report.say(f"This part ended early: {ended}.")
        diary.row(part, round(end - begin), round(time.monotonic() - start, 1), ended)


def _part(work: Callable[[], None], end: float) -> str:
    """Do a part until its time is up; how it ended."""
    if time.monotonic() >= end:
        return "no time left"
    try:
        with until(end):
            work()
    except OutOfTime:
        return "out of time"
    except Exception as error:
        return f"FAILED: {reason(error)}"
    return "done"


def tests(report: Report, end: float) -> None:
    """The tests marked ``gpu``, in a process of their own; a warning, as of a torch that is newer, fails none here."""
    report.table("Tests marked gpu", ("outcome", "words"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "-W",
        "default",
        "-o",
        "addopts=",
        "tests/gpu",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path])}
    left = max(1.0, end - time.monotonic() - 1)
    try:
        done = subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, timeout=left, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        report.row("out of time", f"{left:.0f} s")
        return
    lines = (done.stdout + done.stderr).strip().splitlines() or ["nothing was said"]
    outcome = {0: "passed", 5: "none collected"}.get(done.returncode, "FAILED")
    if "No module named pytest" in done.stderr:
        outcome = "left out: no pytest"
    report.row(outcome, lines[-1])
    for line in lines if outcome == "FAILED" else []:
        if line.startswith(("FAILED", "ERROR", "E ")):
            report.row("", line)


if __name__ == "__main__":
    main()
