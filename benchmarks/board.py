"""How long a large board takes, and how large its page is: 10,000 made-up results, valid through the schema.

Times are CPU seconds of one process. ``read`` checks every file in full; every other line includes it. With
``--results 100`` it is a quick look.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from made_board import many_results, put

from ddbench.leaderboard.board import read_board
from ddbench.leaderboard.pages.embed import MAX_PAGE_BYTES
from ddbench.leaderboard.pages.export import csv_text, write_sqlite
from ddbench.leaderboard.pages.page import build
from ddbench.leaderboard.pages.terminal import show
from ddbench.leaderboard.pages.view import lay_out
from ddbench.leaderboard.select import Selection, select


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    before = time.process_time()
    work()
    return time.process_time() - before


def printed(root: Path) -> None:
    """``leaderboard show`` of one table."""
    cells = select(read_board(root).cells, Selection("digits", 10, "hard"))
    with contextlib.redirect_stdout(io.StringIO()):
        show([lay_out(cell) for cell in cells])


def main() -> int:
    """Make the board, time what reads it, print; 1 when the page is too large."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--results", type=int, default=10_000)
    count = parser.parse_args().results
    with tempfile.TemporaryDirectory() as folder:
        root, database = Path(folder) / "board", Path(folder) / "index.sqlite"
        for number, result in enumerate(many_results(count)):
            put(root, result, picture=number % 10 == 0)
        seconds = {
            "read and check": timed(lambda: read_board(root)),
            "build": timed(lambda: build(root)),
            "show one table": timed(lambda: printed(root)),
            "export --format sqlite": timed(lambda: write_sqlite(database, read_board(root).cells)),
            "export --format csv": timed(lambda: csv_text(read_board(root).cells)),
        }
        page = (root / "index.html").stat().st_size
        sizes = {"index.html": page, "LEADERBOARD.md": (root / "LEADERBOARD.md").stat().st_size}
        sizes["index.sqlite"] = database.stat().st_size
    lines = [f"{count:,} results in 24 tables, every tenth with all measurements and a preview.", ""]
    lines += ["| what | CPU s |", "|---|---|", *(f"| {name} | {value:.1f} |" for name, value in seconds.items()), ""]
    lines += ["| file | bytes |", "|---|---|", *(f"| {name} | {size:,} |" for name, size in sizes.items()), ""]
    lines += [f"Bound of index.html: {MAX_PAGE_BYTES:,} bytes, {'kept' if page <= MAX_PAGE_BYTES else 'BROKEN'}."]
    common.report(__file__, "A large board", lines, "python benchmarks/board.py")
    return int(page > MAX_PAGE_BYTES)


if __name__ == "__main__":
    sys.exit(main())
