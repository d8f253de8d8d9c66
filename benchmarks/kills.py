"""Workers killed in the middle of each verb's units, many times: what is lost, and are the files those of a quiet run?

Every verb runs twice with two workers, once in peace. The second time a worker that is known to be at a unit is killed
(SIGKILL) after a time that is drawn, ``--kills`` times in all; where the verb gives up (a unit whose worker died three
times), the same command is typed again. Lost is what the killed worker had spent in its unit, by the clock. The files
that both left must have the same bytes (costs and logs apart). Not a timing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import common
import psutil

TINY, NORMED = "convnet-d1-w4-in", "convnet-d1-w4-bn"
HOW = ("--threads", 1, "--compile", "off", "--quiet")
OWN = 'name = "quick-1"\nbase = "hard-v1"\nepochs = 60\n'
PLAN = """
title = "small"
[submission]
author = "A. Author"
licence = "MIT"
[defaults]
dataset = "digits"
ipc = 1
seeds = 4
protocols = ["quick.toml"]
students = ["mlp-d1-w8"]
[[cells]]
method = "random"
run_seeds = [0, 1, 2, 3]
minutes = 1
"""
LONGEST = 0.6
"""Seconds that a worker has at most in a unit before it is killed."""


@dataclass
class Found:
    """What became of a verb: commands typed, and the seconds that each killed worker had spent in its unit."""

    typed: int = 0
    lost: list[float] = field(default_factory=list)


def distilled(out: Path, *more: object) -> list[object]:
    """A distillation of digits."""
    return ["distill", "--dataset", "digits", "--student", TINY, "--out", out, *HOW, *more]


def buffer(folder: Path) -> list[object]:
    """Eight experts."""
    flags = ("--dataset", "digits", "--student", TINY, "--experts", 8, "--epochs", 6)
    return ["buffer", *flags, "--buffers", folder / "store", *HOW]


def distill(folder: Path) -> list[object]:
    """Eight batches of SRe2L."""
    do("teacher", "--dataset", "digits", "--student", NORMED, "--epochs", 2, "--teachers", folder / "teachers", *HOW)
    flags = ("--method", "sre2l", "--ipc", 8, "--iterations", 120, "--recipe", "none", "--teacher-student", NORMED)
    return distilled(folder / "run", *flags, "--teachers", folder / "teachers")


def evaluate(folder: Path) -> list[object]:
    """Twelve seeds."""
    do(*distilled(folder / "run", "--method", "random", "--ipc", 1))
    return ["evaluate", folder / "run", "--students", TINY, "--seeds", 12, "--epochs", 200, *HOW]


def scores(folder: Path) -> list[object]:
    """Two repeats."""
    do(*distilled(folder / "run", "--method", "random", "--ipc", 1))
    flags = ("--student", TINY, "--repeats", 2, "--epochs", 30, "--cache", folder / "cache")
    return ["scores", folder / "run", *flags, "--out", folder / "scores.json", *HOW]


def reproduce(folder: Path) -> list[object]:
    """Four cells."""
    (folder / "quick.toml").write_text(OWN)
    (folder / "small.toml").write_text(PLAN.replace("quick.toml", str(folder / "quick.toml")))
    return ["reproduce", folder / "small.toml", "--out", folder / "work", "--leaderboard", folder / "board", *HOW]


def verify(folder: Path) -> list[object]:
    """Four rows, which the plan made."""
    do(*reproduce(folder), "--workers", 2)
    return ["leaderboard", "verify", "--leaderboard", folder / "board", "--work", folder / "again", *HOW]


VERBS: dict[str, tuple[str, Callable[[Path], list[object]]]] = {
    "buffer": ("an expert", buffer),
    "distill": ("a batch of images", distill),
    "evaluate": ("a student's run", evaluate),
    "scores": ("a training", scores),
    "reproduce": ("a cell", reproduce),
    "leaderboard verify": ("a row", verify),
}


def started(*argv: object) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "ddbench", *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def do(*argv: object) -> None:
    """Run a command that must end well."""
    process = started(*argv)
    _, err = process.communicate()
    if process.returncode:
        raise RuntimeError(err)


def claims(root: Path, driver: int) -> Iterator[tuple[int, float]]:
    """Workers of a command that are at a unit, and since when."""
    for path in root.rglob("*.claim"):
        try:
            since = float(json.loads(path.read_text())["since"])
            worker = psutil.Process(int(path.name.split(".")[-3]))
            if any(parent.pid == driver for parent in worker.parents()):
                yield worker.pid, since
        except (OSError, ValueError, KeyError, psutil.Error):  # it ended just now
            continue


def disturbed(argv: list[object], root: Path, kills: int, draw: random.Random) -> Found:
    """Run a command until it ends well, and kill its workers meanwhile."""
    found = Found()
    while True:
        found.typed += 1
        process = started(*argv)
        known: set[int] = set()
        while process.poll() is None:
            time.sleep(0.005)
            for worker, since in claims(root, process.pid) if len(found.lost) < kills else ():
                if worker in known or len(found.lost) >= kills:
                    continue
                known.add(worker)
                time.sleep(draw.uniform(0, LONGEST))
                if any(pid == worker and begin == since for pid, begin in claims(root, process.pid)):
                    found.lost.append(time.time() - since)
                    os.kill(worker, signal.SIGKILL)
        assert process.stderr is not None
        said = process.stderr.read()
        if not process.returncode:
            return found
        if "died 3 times" not in said:
            raise RuntimeError(said)


def left(folder: Path) -> dict[str, bytes]:
    """What a verb left, but costs, which rows of a board hold too, logs and pages."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name.endswith(("cost.json", ".log", "small.toml")):
            continue
        if not name.startswith("board/"):
            found[name] = path.read_bytes()
        elif path.suffix == ".json" and "results" in path.parts:
            found[name] = json.dumps({**json.loads(path.read_text()), "cost": None}).encode()
    return found


def main() -> None:
    """Try all verbs."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--kills", type=int, default=6, help="of each verb")
    parser.add_argument("--only", default="", help="some verbs, joined by commas")
    args = parser.parse_args()
    lines = ["| verb | a unit | kills | typed | s lost: median | most | same bytes |", "|---|---|---|---|---|---|---|"]
    total = tried = equal = 0
    for verb, (unit, prepared) in VERBS.items():
        if args.only and verb not in args.only.split(","):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folders = [Path(scratch) / name for name in ("quiet", "killed")]
            for folder in folders:
                folder.mkdir()
            do(*prepared(folders[0]), "--workers", 2)
            argv = [*prepared(folders[1]), "--workers", 2]
            found = disturbed(argv, folders[1], args.kills, random.Random(0))
            quiet, killed = map(left, folders)
        lost = sorted(found.lost) or [0.0]
        total, tried, equal = total + len(found.lost), tried + 1, equal + (quiet == killed)
        other = sorted(name for name in {**quiet, **killed} if quiet.get(name) != killed.get(name))
        same = f"no: {', '.join(other[:3])}" if other else "yes"
        numbers = f"{len(found.lost)} | {found.typed} | {lost[len(lost) // 2]:.2f} | {lost[-1]:.2f}"
        lines.append(f"| `{verb}` | {unit} | {numbers} | {same} |")
        print(lines[-1], file=sys.stderr)
    lines += ["", f"{total} workers killed; {equal} of {tried} verbs left the bytes of the quiet run."]
    common.report(__file__, "Killed workers", lines, f"python benchmarks/kills.py --kills {args.kills}")


if __name__ == "__main__":
    main()
