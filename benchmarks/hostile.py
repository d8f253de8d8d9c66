"""Files and commands that no honest user has: is every one of them taken or refused in one line?

Every case damages one file of a valid run, store, board, data set or plan in one way and runs the command that reads
it, in a process of its own that is forked from one with torch and ddbench loaded. Counted are tracebacks, more than
10 s (of CPU, or ten times that by the clock), more than 1 GB on top of what the process had, ends by a signal, refusals
of more or less than one line, and files that a refused command changed. Nothing is drawn at random. Where the damage is
such that a reader does not look at it, the command is done: those cases are counted as taken.

    python benchmarks/hostile.py                           # all readers
    python benchmarks/hostile.py --only synset,plan        # some
    python benchmarks/hostile.py --only plan --show        # and what each case says
    python benchmarks/hostile.py --kept FILE               # one that was killed goes on: a line a case lies in FILE
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import json
import os
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import common

SECONDS, MEMORY = 10, 10**9
FAULTS = ("traceback", "over 10 s", "over 1 GB", "killed", "not one line", "changed")
LATE = ("pandas", "PIL.Image", "psutil", "pyarrow.parquet", "rich.progress", "scipy.ndimage", "scipy.stats")
LATE += ("sklearn.cluster", "sklearn.datasets")
"""What ddbench loads when it is needed: seconds of each case that have nothing to do with it."""
REFUSED = "THE VALID FILE IS REFUSED"


@dataclass(frozen=True)
class Case:
    """A reader's name, what is done, how, and the command that then runs in the folder."""

    reader: str
    name: str
    prepare: Callable[[Path], object]
    command: tuple[str, ...]


def cases(valid: Path) -> Iterator[Case]:
    """All of them, in order."""
    from hostile_commands import commands
    from hostile_inputs import BYTES, NO_FILES
    from hostile_targets import Target, targets

    def place(target: Target, folder: Path) -> Path:
        for name in target.small:
            source = valid / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        return sorted(folder.glob(target.file))[0]

    def valid_one(target: Target) -> Callable[[Path], object]:
        return lambda folder: place(target, folder)

    def none(target: Target, change: Callable[[Path], None]) -> Callable[[Path], object]:
        return lambda folder: change(place(target, folder))

    def content(target: Target, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
        def call(folder: Path) -> None:
            path = place(target, folder)
            path.write_bytes(change(path.read_bytes()))

        return call

    for reader, target in targets(valid).items():
        yield Case(reader, "valid", valid_one(target), target.command)
        for name, put in NO_FILES.items():
            yield Case(reader, name, none(target, put), target.command)
        for name, change in {**BYTES, **target.changes}.items():
            yield Case(reader, name, content(target, change), target.command)
        for name, data in target.odd:
            yield Case(reader, name, content(target, lambda _, data=data: data), target.command)  # type: ignore[misc]
    for name, argv in commands():
        flags = Target("run/config.json", argv, small=("run", "plan.toml", "graphs", "graphs.npz", "board", "experts"))
        yield Case("commands", name, valid_one(flags), argv)


def state(folder: Path) -> dict[str, tuple[object, ...]]:
    """What is in a folder: kinds, sizes and contents."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        kind = about.st_mode >> 12
        small = kind == 8 and about.st_size < 2**26
        found[str(path.relative_to(folder))] = (
            kind,
            about.st_size if kind == 8 else 0,
            hashlib.sha256(path.read_bytes()).hexdigest() if small else "",
        )
    return found


def command(argv: tuple[str, ...], folder: Path) -> int:
    """Exit code of a command in this process."""
    from ddbench.cli.main import run
    from ddbench.runtime.errors import UserError

    os.chdir(folder)
    os.environ["DDBENCH_DATA"] = str(folder / "data")
    try:
        if argv[0] != "call":
            run(argv)
            return 0
        try:
            getattr(importlib.import_module(f"ddbench.{argv[1]}"), argv[2])(
                *(Path(word) if os.path.lexists(word) else word for word in argv[3:])
            )
        except (UserError, OSError) as error:
            print(f"ddbench: error: {error}", file=sys.stderr)
            return 2
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def in_child(argv: tuple[str, ...], folder: Path, out: Path) -> None:
    """Run it and end this process; more than 10 CPU seconds end it by a signal."""
    with open(out, "w") as log, open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(log.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + SECONDS + 1,) * 2)
    code = 99
    try:
        code = command(argv, folder)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code & 0xFF)


def judge(case: Case, scratch: Path) -> tuple[str, str, list[str]]:
    """What came of it ("taken", "refused"), what it said, and its faults."""
    folder, out = scratch / "case", scratch / "said"
    folder.mkdir()
    case.prepare(folder)
    before = state(folder)
    base = common.rss()
    sys.stdout.flush()
    pid, begin = os.fork(), time.monotonic()
    if not pid:
        os.setsid()
        in_child(case.command, folder, out)
    while not (ended := os.wait4(pid, os.WNOHANG))[0]:
        if time.monotonic() - begin > 10 * SECONDS:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # workers that are on their way out
    code, used = os.waitstatus_to_exitcode(ended[1]), ended[2]
    said = out.read_text(errors="replace")
    faults = []
    if "Traceback" in said:
        faults.append("traceback")
    if used.ru_utime + used.ru_stime > SECONDS or time.monotonic() - begin > 10 * SECONDS:
        faults.append("over 10 s")
    elif code < 0:
        faults.append("killed")
    if used.ru_maxrss * 1024 > base + MEMORY:
        faults.append("over 1 GB")
    errors = [line for line in said.splitlines() if line.startswith("ddbench: error: ")]
    if code == 2 and "traceback" not in faults and len(errors) != 1:
        faults.append("not one line")
    after = state(folder) if code else before
    if after != before:
        faults.append("changed")
        said += f"\nchanged: {', '.join(sorted({name for name, _ in set(before.items()) ^ set(after.items())}))}"
    for path in folder.rglob("*"):
        if path.is_fifo():
            path.unlink()
    shutil.rmtree(folder)
    return "refused" if code else "taken", said, faults


def warm() -> None:
    """Load all of ddbench and what it loads when needed, so that each case begins with its own work."""
    import ddbench

    found = [module.name for module in pkgutil.walk_packages(ddbench.__path__, "ddbench.")]
    for name in (*found, *LATE):
        if not name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()


def make_valid_files(valid: Path) -> None:
    """Make them in a process of their own: this one stays small, and cases are held against its memory."""
    from hostile_targets import make_all

    pid = os.fork()
    if not pid:
        try:
            make_all(valid, command)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        sys.exit("the valid files could not be made")


@dataclass(frozen=True)
class Outcome:
    """What came of a case: "taken" or "refused", its faults, and the end of what it said."""

    reader: str
    name: str
    happened: str
    faults: list[str]
    last: str


def outcomes(valid: Path, scratch: Path, chosen: Callable[[Case], bool], kept: Path | None) -> Iterator[Outcome]:
    """Of the chosen cases in order; those in ``kept`` are not run again, the others are added to it."""
    known: dict[tuple[str, str], Outcome] = {}
    if kept and kept.exists():
        for line in kept.read_text().splitlines():
            with contextlib.suppress(ValueError):  # half a line of a killed call
                found = Outcome(**json.loads(line))
                known[found.reader, found.name] = found
    for case in filter(chosen, cases(valid)):
        done = known.get((case.reader, case.name))
        if done is None:
            happened, said, faults = judge(case, scratch)
            if case.name == "valid" and happened != "taken":
                faults = [*faults, REFUSED]
            done = Outcome(case.reader, case.name, happened, faults, (said.strip().splitlines() or [""])[-1][:300])
            if kept:
                with kept.open("a") as handle:
                    handle.write(json.dumps(asdict(done)) + "\n")
        yield done


def main() -> None:
    """Run all and print the table."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--valid", type=Path, help="where the valid files are, or are made and stay")
    parser.add_argument("--only", default="", help="readers, with commas")
    parser.add_argument("--case", default="", help="cases whose name holds this text")
    parser.add_argument("--controls", action="store_true", help="the valid files only, which must all be taken")
    parser.add_argument("--kept", type=Path, help="what is judged lies there, a line a case, and is not run again")
    parser.add_argument("--show", action="store_true", help="print what each case says")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    warm()
    only = set(filter(None, args.only.split(",")))

    def chosen(case: Case) -> bool:
        wanted = not only or case.reader in only
        return wanted and args.case in case.name and (not args.controls or case.name == "valid")

    counts: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        valid = (args.valid or Path(name) / "valid").absolute()
        make_valid_files(valid)
        for found in outcomes(valid, Path(name), chosen, args.kept and args.kept.absolute()):
            if REFUSED in found.faults:
                wrong.append(found.reader)
            if found.name != "valid":
                counts.setdefault(found.reader, Counter()).update(["cases", found.happened, *found.faults])
            if args.show or found.faults:
                words = " ".join([found.happened, *found.faults])
                print(f"{found.reader} | {found.name} | {words} | {found.last}", flush=True)
    columns = ("cases", "refused", "taken", *FAULTS)
    lines = ["| reader | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    counts["**all**"] = sum(counts.values(), Counter())
    for reader, count in counts.items():
        lines.append(f"| {reader} | " + " | ".join(str(count[column]) for column in columns) + " |")
    if wrong:
        sys.exit(f"valid files that are refused, so that nothing is said by the rest: {', '.join(wrong)}")
    common.report(__file__, "Hostile files and commands", lines, "python benchmarks/hostile.py")


if __name__ == "__main__":
    main()
