"""Does a file or text of a stranger bring a reader down? A fuzzer that follows which lines of ddbench are reached.

A reader may take what it is given or raise a ``UserError`` (an ``OSError``, which the command line tells in one line
too). A finding is any other exception, a call of more than ten CPU seconds or two minutes, more than 1 GiB of memory on
top of what was there, or the end of the process. Every reader has a process and CPU time of its own; its valid files
are made first (a run, an evaluation, a row, a teacher, labels, experts, ...).

``FOLDER`` holds ``corpus/READER`` (inputs that reach new lines), ``READER.json`` (executions, CPU seconds and findings
of all calls so far) and ``findings/`` (an input each): a later call goes on from there. Before it does, the inputs of
findings are tried again; those that hold now are said to be mended.

Needs ``atheris`` (not in any extra of the package, never run by CI) and the extras ``parquet`` and ``diffusion``::

    python benchmarks/fuzz.py --out FOLDER                       # all readers, 10 minutes of CPU time each
    python benchmarks/fuzz.py --out FOLDER --more 60             # at most one minute more of each in this call
    python benchmarks/fuzz.py --out FOLDER --status              # what is done so far
    python benchmarks/fuzz.py --out FOLDER --readers plan,image --seconds 60
    python benchmarks/fuzz.py --out FOLDER --readers plan --again FOLDER/findings/plan-....bin   # one input, traceback
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

HANG = 10.0
"""CPU seconds of one call."""

WAIT = 120.0
"""Seconds of one call by the clock: what waits for something takes no CPU time."""

MEMORY = 2**20
"""KiB of one call, on top of what the process had."""


class Hang(BaseException):
    """A call that takes too long."""


def _stop(*_: Any) -> None:
    raise Hang


class Record:
    """What one process found: executions, CPU seconds, and one input for each place and kind of finding."""

    def __init__(self, out: Path, name: str, seconds: float) -> None:
        self.out, self.name, self.seconds = out, name, seconds
        self.path = out / f"{name}.json"
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.executions: int = known.get("executions", 0)
        self.before: float = known.get("cpu_seconds", 0.0)
        self.findings: dict[str, dict[str, Any]] = known.get("findings", {})
        self.start = time.process_time()
        self.peak = _peak()

    def cpu(self) -> float:
        """CPU seconds so far, of killed processes too."""
        return self.before + time.process_time() - self.start

    def again(self, reader: Any) -> None:
        """Try the inputs of findings once more, and mark those as mended that bring nothing down any longer."""
        for what, entry in list(self.findings.items()):
            path = self.out / "findings" / entry.get("input", "")
            if path.is_file() and not entry.get("mended"):
                data, before = path.read_bytes(), sum(one["count"] for one in self.findings.values())
                self.call(data, reader)
                if sum(one["count"] for one in self.findings.values()) == before:
                    self.findings[what]["mended"] = True
        self.write()

    def write(self) -> None:
        """Keep the figures."""
        found = {"executions": self.executions, "cpu_seconds": round(self.cpu(), 1), "findings": self.findings}
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(found, indent=1))
        temporary.replace(self.path)

    def found(self, what: str, data: bytes, text: str) -> None:
        """Keep a finding and the first input that shows it."""
        entry = self.findings.setdefault(what, {"count": 0, "text": text[:300]})
        if entry.pop("mended", False):
            entry["count"] = 0  # it came back: the input of today is kept
        entry["count"] += 1
        if entry["count"] == 1:
            place = self.out / "findings" / f"{self.name}-{hashlib.sha256(what.encode()).hexdigest()[:12]}.bin"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data)
            entry["input"] = place.name
            print(f"{self.name}: {what}: {text[:200]}", flush=True)
            self.write()

    def call(self, data: bytes, reader: Any) -> None:
        """Run the reader on an input."""
        from ddbench.runtime.errors import UserError

        begin, held = time.process_time(), _held()
        signal.setitimer(signal.ITIMER_PROF, HANG)
        signal.setitimer(signal.ITIMER_REAL, WAIT)
        try:
            reader(data)
        except (UserError, OSError):
            pass
        except (Exception, Hang) as error:
            self.found(_place(error), data, f"{type(error).__name__}: {error}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.executions += 1
        if time.process_time() - begin > HANG:
            self.found(f"{self.name}: over {HANG:g} s", data, f"{time.process_time() - begin:.0f} s")
        if (peak := _peak()) > self.peak:
            self.peak = peak
            if peak > held + MEMORY:
                self.found(f"{self.name}: over 1 GiB", data, f"{(peak - held) // 1024} MiB more")
        if self.executions % 200 == 0:
            self.write()
        if self.cpu() > self.seconds:
            self.write()
            sys.stdout.flush()
            os._exit(0)


def _held() -> int:
    """KiB that this process has in memory; the fuzzer's own grow with what it has seen."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def _peak() -> int:
    """The most KiB that it ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _place(error: BaseException) -> str:
    """Kind of an exception and the innermost line of ddbench that it went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/ddbench/" in frame.filename]
    where = f"{frames[-1].filename.rpartition('/ddbench/')[2]}:{frames[-1].lineno}" if frames else "outside"
    return f"{type(error).__name__} at {where}"


def fuzz(args: argparse.Namespace, name: str) -> None:
    """One reader, in this process, until its CPU time is used up."""
    import atheris
    import torch
    from fuzz_readers import check_reader, make_reader

    # Those of the process that made the valid files are not in this one, and would be waited for.
    torch.set_num_threads(1)
    reader, seeds = make_reader(name, args.out / "valid")
    check_reader(name, reader, seeds[0])
    corpus = args.out / "corpus" / name
    if not corpus.exists():
        corpus.mkdir(parents=True)
        for number, seed in enumerate(seeds):
            (corpus / f"seed{number}").write_bytes(seed)
    record = Record(args.out, name, min(args.seconds, args.until[name]))
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, _stop)
    # where nothing else ends a call, the kernel does
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + record.seconds - record.before) + 120,) * 2)
    record.again(reader)
    flags = ["-rss_limit_mb=0", "-malloc_limit_mb=0", "-timeout=100000", "-detect_leaks=0", "-verbosity=0"]
    flags += [f"-artifact_prefix={args.out}/findings/{name}-end-", f"-max_len={args.longest}"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], lambda data: record.call(data, reader))
    atheris.Fuzz()


def apart(args: argparse.Namespace, name: str) -> int:
    """:func:`fuzz` in a process of its own, which spares the imports; its exit code."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch, open(args.out / f"{name}.log", "a") as log:
        child = os.fork()
        if not child:
            code = 3
            try:
                os.chdir(scratch)
                tempfile.tempdir = scratch
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                fuzz(args, name)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)


def import_all() -> None:
    """Every module of ddbench, so that the fuzzer sees which lines are reached."""
    import atheris

    quiet = contextlib.redirect_stderr(io.StringIO())  # a line a module
    with quiet, atheris.instrument_imports(include=["ddbench"], enable_loader_override=False):
        import ddbench

        for module in pkgutil.walk_packages(ddbench.__path__, "ddbench."):
            if not module.name.endswith("__main__"):
                with contextlib.suppress(ImportError):
                    importlib.import_module(module.name)


def figures(out: Path, name: str) -> dict[str, Any]:
    """What is known of a reader."""
    path = out / f"{name}.json"
    nothing = {"executions": 0, "cpu_seconds": 0.0, "findings": {}}
    return dict(json.loads(path.read_text())) if path.exists() else nothing


def status(args: argparse.Namespace, readers: tuple[str, ...]) -> str:
    """The table of what is done."""
    lines = ["| reader | executions | CPU s | findings | mended | inputs kept |", "|" + " --- |" * 6]
    seconds = []
    for name in readers:
        known = figures(args.out, name)
        seconds.append(known["cpu_seconds"])
        mended = sum(bool(entry.get("mended")) for entry in known["findings"].values())
        kept = len(list((args.out / "corpus" / name).glob("*")))
        lines.append(
            f"| {name} | {known['executions']:,} | {seconds[-1]:.1f} | {len(known['findings'])} | {mended} | {kept:,} |"
        )
    enough = sum(one >= args.seconds for one in seconds)
    done = f"{enough} of {len(readers)} readers have {args.seconds:g} CPU seconds; {sum(seconds):,.0f} in all."
    return "\n".join([*lines, "", done])


def main() -> None:
    """All readers, one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="valid files, corpora, figures, inputs of findings")
    parser.add_argument("--readers", default="", help="names, with commas; default: all")
    parser.add_argument("--seconds", type=float, default=600, help="CPU seconds a reader, of all calls together")
    parser.add_argument("--more", type=float, default=float("inf"), help="at most so many of them in this call")
    parser.add_argument("--status", action="store_true", help="print what is done, run nothing")
    parser.add_argument("--longest", type=int, default=8192, help="bytes of an input")
    parser.add_argument("--again", type=Path, help="run one input of the one reader that is named")
    args = parser.parse_args()
    args.out = args.out.absolute()
    if not args.again and not args.status:
        import_all()
    from fuzz_readers import READERS, make_reader
    from fuzz_valid import make_valid

    readers = tuple(args.readers.split(",")) if args.readers else READERS
    if unknown := set(readers) - set(READERS):
        parser.error(f"--readers {', '.join(sorted(unknown))}: expected some of {', '.join(READERS)}")
    if args.status:
        print(status(args, readers))
        return

    (args.out / "findings").mkdir(parents=True, exist_ok=True)
    make_valid(args.out / "valid")
    if args.again:
        make_reader(args.readers, args.out / "valid")[0](args.again.read_bytes())
        return
    print("reader                executions  CPU s  findings", flush=True)
    args.until = {name: figures(args.out, name)["cpu_seconds"] + args.more for name in readers}
    for name in readers:
        for _ in range(5):  # the end of a process is a finding; the fuzzer goes on
            done = figures(args.out, name)["cpu_seconds"]
            if done >= min(args.seconds, args.until[name]) or (code := apart(args, name)) == 0:
                break
            print(f"{name}: the process ended with {code}: see {args.out / name}.log", flush=True)
        found = figures(args.out, name)
        print(f"{name:20} {found['executions']:11,} {found['cpu_seconds']:6.0f} {len(found['findings']):9}", flush=True)
        for what, entry in found["findings"].items():
            mended = ", mended" if entry.get("mended") else ""
            print(f"    {what}: {entry['text']} ({entry['count']} times, {entry['input']}{mended})", flush=True)


if __name__ == "__main__":
    main()
