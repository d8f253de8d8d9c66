"""How long a large board takes, and how large its page is: 10,000 made-up results, valid through the schema.

User CPU seconds of whole commands, each in a process of its own, beside the same commands of an earlier commit on the
same board: before anything is kept, unchanged, and after one row was added. ``--results 100`` is a quick look;
``--against ""`` leaves the earlier commit out.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import common

from ddbench.leaderboard.pages.embed import MAX_PAGE_BYTES

CHECKOUT = Path(__file__).resolve().parent.parent
BEFORE = "9194343"
NICE = 5
ROUNDS = 3
MAKE = """
import sys
from pathlib import Path
from made_board import many_results, put
root, count, first = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for number, result in enumerate(many_results(count)):
    if number >= first:
        put(root, result, picture=number % 10 == 0)
"""
ONE_TABLE = ("--dataset", "digits", "--ipc", "10", "--labels", "hard")
COMMANDS = {
    "show, one table": ("show", *ONE_TABLE),
    "check": ("check",),
    "build --check": ("build", "--check"),
    "build": ("build",),
    "export --format csv": ("export", "--format", "csv", "--out", "board.csv"),
}
BOUNDS = {"show, one table": 0.05, "build": 0.25}


class Tree:
    """A checkout whose commands are measured.

    Attributes:
        code: its folder.
        work: folder of its board, cache and exports.
    """

    def __init__(self, code: Path, work: Path) -> None:
        self.code, self.work = code, work
        self.work.mkdir()

    def make(self, count: int, first: int = 0) -> None:
        """Write the results of number ``first`` and beyond, by its own code."""
        self._run([sys.executable, "-c", MAKE, "board", str(count), str(first)])

    def seconds(self, name: str) -> float:
        """User CPU seconds of one command."""
        return self._run([sys.executable, "-m", "ddbench", "leaderboard", *COMMANDS[name], "--leaderboard", "board"])

    def forget(self) -> None:
        """Remove what is kept."""
        shutil.rmtree(self.work / "cache", ignore_errors=True)

    def _run(self, command: list[str]) -> float:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{self.code}{os.pathsep}{self.code / 'tests'}",
            "DDBENCH_BOARD_CACHE": str(self.work / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            command, cwd=self.work, env=environment, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.nice(NICE)
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: {command}")
        return used.ru_utime


@contextmanager
def earlier(commit: str, folder: Path) -> Iterator[Tree | None]:
    """The checkout of an earlier commit, with a board of its own; none where there is no commit."""
    if not commit:
        yield None
        return
    code = folder / "code"
    subprocess.run(["git", "-C", CHECKOUT, "worktree", "add", "--quiet", "--detach", code, commit], check=True)
    try:
        yield Tree(code, folder / "before")
    finally:
        subprocess.run(["git", "-C", CHECKOUT, "worktree", "remove", "--force", code], check=True)


def measure(tree: Tree, old: Tree | None, count: int) -> dict[str, dict[str, float]]:
    """Name of a command -> its seconds.

    By ``before``, the earlier commit; ``cold``, nothing kept; ``same``, an unchanged board; ``grown``, one row more.
    The two trees take turns, so that other work of the machine slows both; ``before`` and ``same`` are medians of
    ``ROUNDS`` where there is a bound, else of one.
    """
    for one in filter(None, (tree, old)):
        one.make(count)
        one.seconds("build")  # --check needs the pages
    found = {}
    for number, name in enumerate(COMMANDS):
        tree.forget()
        times = {"before": float("nan"), "cold": tree.seconds(name), "grown": float("nan")}
        rounds = ROUNDS if name in BOUNDS else 1
        pairs = [(old.seconds(name) if old else float("nan"), tree.seconds(name)) for _ in range(rounds)]
        times["before"], times["same"] = (statistics.median(side) for side in zip(*pairs, strict=True))
        if name != "build --check":  # with a row more it fails, as it should
            tree.make(count + number + 1, count + number)
            times["grown"] = tree.seconds(name)
            tree.seconds("build")
        found[name] = times
        print(name, times, file=sys.stderr)
    return found


def main() -> int:
    """Make the boards, time what reads them, print; 1 when the page is too large or a bound is broken."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--against", default=BEFORE, help="commit to compare with")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(CHECKOUT, Path(folder) / "after")
        with earlier(args.against, Path(folder)) as old:
            found = measure(tree, old, args.results)
        board = tree.work / "board"
        sizes = {name: (board / name).stat().st_size for name in ("index.html", "LEADERBOARD.md")}
        rows = [path.stat().st_size for path in (board / "rows").iterdir()]
    text = [f"{args.results:,} results in 24 tables, every tenth with all measurements and a preview."]
    text += [
        f"User CPU seconds of whole commands (`ddbench leaderboard ...`), nice {NICE}; before: commit {args.against}."
    ]
    lines = [
        " ".join(text),
        "",
        "| command | before | nothing kept | unchanged | ratio | bound | one row more | ratio |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    broken = []
    for name, times in found.items():
        base, cold, same, grown = (times[kind] for kind in ("before", "cold", "same", "grown"))
        ratio, bound = same / base, BOUNDS.get(name)
        broken += [name] if bound is not None and ratio > bound else []
        grew = "| – | – |" if grown != grown else f"| {grown:.2f} | {grown / base:.3f} |"
        lines += [f"| {name} | {base:.2f} | {cold:.2f} | {same:.2f} | {ratio:.3f} | {bound or '–'} {grew}"]
    page = sizes["index.html"]
    lines += ["", "| file | bytes |", "|---|---|", *(f"| {name} | {size:,} |" for name, size in sizes.items())]
    lines += [f"| rows/, {len(rows):,} files | {sum(rows):,} |", ""]
    lines += [f"Bound of index.html: {MAX_PAGE_BYTES:,} bytes, {'kept' if page <= MAX_PAGE_BYTES else 'BROKEN'}."]
    lines += [f"Bounds of the times: {'BROKEN: ' + ', '.join(broken) if broken else 'kept'}."] if args.against else []
    common.report(__file__, "A large board", lines, "python benchmarks/board.py")
    return int(page > MAX_PAGE_BYTES or bool(broken))


if __name__ == "__main__":
    sys.exit(main())
