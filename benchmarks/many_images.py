"""Memory with many images: a folder of 200,000 small JPEG files in 1,000 classes, and what each verb takes of it.

The folder is made first (``--keep FOLDER`` keeps it for the next run): 32 px, 200 files a class to train on, 5 to test;
``--classes`` and ``--side`` make another one.
Each row is a process of its own that runs one command with one worker: the first opening (look at every file, decode,
hash), ``random``, a teacher (one epoch), RDED with that teacher, and an evaluation (few epochs). Epochs are cut, since
memory does not grow with them.

Two numbers, above that of a process that has torch and ddbench loaded: *private* memory, the largest seen in samples of
``RssAnon`` every 20 ms, which is what the machine must have; and the peak of all resident memory, in which pages of the
decoded file count that the system may take back at any time. The bound is for both.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common

EACH, TESTS = 200, 5
POOL = 4000
"""Different pictures; files with the same bytes are different files."""
STUDENT = "convnet-d2-w8-bn"
BOUND = 1024
"""MB above the process."""


def make_folder(folder: Path, classes: int, side: int) -> None:
    """One folder a class, in ``train`` and ``test``; made already where it is whole."""
    import numpy as np
    from PIL import Image

    if (folder / "whole").exists():
        return
    rng = np.random.default_rng(0)
    pool = []
    for _ in range(POOL):
        colours = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(colours).resize((side, side), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=75)
        pool.append(buffer.getvalue())
    for split, count in (("train", EACH), ("test", TESTS)):
        for label in range(classes):
            place = folder / split / f"class_{label:04d}"
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                (place / f"{number:04d}.jpg").write_bytes(pool[(label * 31 + number * (1 + label % 7)) % POOL])
    (folder / "whole").touch()


def commands(images: Path, work: Path, side: int) -> dict[str, list[object]]:
    """The rows, in the order in which they can be done."""
    data = ["--dataset", f"folder:{images}", "--size", side, "--data", work / "data"]
    how = ["--device", "cpu", "--threads", 1, "--compile", "off", "--quiet"]
    teachers = ["--teachers", work / "teachers"]
    made = ["distill", *data, "--ipc", 1, "--student", STUDENT, *how]
    return {
        "first opening": [*made, "--method", "full", "--out", work / "full", "--status"],
        "random": [*made, "--method", "random", "--out", work / "random"],
        "teacher": ["teacher", *data, "--student", STUDENT, "--epochs", 1, *teachers, *how],
        "rded": [
            *(*made, "--method", "rded", "--mipc", 20, "--num-crop", 2, "--teacher-student", STUDENT),
            *(*teachers, "--out", work / "rded"),
        ],
        "evaluate": [
            *("evaluate", work / "random", "--students", STUDENT, "--seeds", 1, "--epochs", 2, "--workers", 1),
            *("--data", work / "data", "--size", side, *how),
        ],
    }


def anonymous() -> int:
    """Private resident memory now, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon")


@contextmanager
def sampled() -> Iterator[list[int]]:
    """The largest private memory during the block, in a list that is filled at its end."""
    highest, over, found = [anonymous()], threading.Event(), []

    def look() -> None:
        while not over.wait(0.02):
            highest[0] = max(highest[0], anonymous())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found.append(max(highest[0], anonymous()))


def one(row: str, images: str, work: str, side: str) -> dict[str, Any]:
    """Run a command in this process."""
    import torch

    import ddbench.distillation.runner
    import ddbench.evaluation.evaluator  # noqa: F401
    from ddbench.cli.main import run

    torch.zeros(10).sum()
    argv = [str(word) for word in commands(Path(images), Path(work), int(side))[row]]
    sys.stdout = sys.stderr
    private, resident = anonymous(), common.rss()
    common.reset_peak()
    begin = time.process_time()
    with sampled() as found:
        run(argv)
    sys.stdout = sys.__stdout__
    return {
        "private": found[0] - private,
        "resident": common.peak() - resident,
        "base": resident,
        "cpu": time.process_time() - begin,
    }


def main() -> None:
    """Measure all rows."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--keep", type=Path, help="where the folder of images is, or is made and stays")
    parser.add_argument("--classes", type=int, default=1000, help=f"of {EACH} images each")
    parser.add_argument("--side", type=int, default=32, help="of an image, pixels")
    parser.add_argument("--rows", default="", help="some of them, with commas; each needs what those before it made")
    parser.add_argument("--work", type=Path, help="where the commands work; stays")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(*args.one)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        images, work = args.keep or Path(scratch) / "images", args.work or Path(scratch) / "work"
        make_folder(images, args.classes, args.side)
        lines = ["| what | private MB | with mapped pages, MB | bound | CPU s |", "|---|---|---|---|---|"]
        rows = commands(images, work, args.side)
        for row in args.rows.split(",") if args.rows else rows:
            found = common.measure(__file__, row, images, work, args.side)
            numbers = [found[name] / 2**20 for name in ("private", "resident", "base")]
            lines.append(f"| {row} | {numbers[0]:.0f} | {numbers[1]:.0f} | {BOUND} | {found['cpu']:.0f} |")
            print(lines[-1], file=sys.stderr)
        decoded = sum(path.stat().st_size for path in work.glob("data/decoded/*/*.npy"))
        lines += ["", f"A process with torch and ddbench loaded has {numbers[2]:.0f} MB (not in the table)."]
        lines += [f"Decoded once: {decoded / 2**20:.0f} MB on the disk, mapped by every command."]
    command = "python benchmarks/many_images.py"
    title = f"{args.classes * EACH:,} images of {args.side} px in {args.classes:,} classes: memory"
    common.report(__file__, title, lines, command)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
