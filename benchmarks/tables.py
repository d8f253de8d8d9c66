"""All that is made from the rows of the board: its pages, docs/truth.md, and the tables of documents and cards.

    python benchmarks/tables.py            # make it again, after rows were added
    python benchmarks/tables.py --check    # 1 where that would change a file: what CI asks

Each part has a command of its own, which is printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("-m", "ddbench", "leaderboard", "build"): (),
    ("-m", "ddbench", "leaderboard", "truth"): ("--write",),
    ("benchmarks/label_tables.py",): (),
    ("benchmarks/graph_rows.py",): (),
    ("benchmarks/paired_table.py",): ("--write",),
    ("benchmarks/temperature_counts.py",): ("--write",),
}
"""Command of a part -> the flag with which it writes."""


def main() -> int:
    """Make or check every part; the exit code of the first one that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    args = parser.parse_args()
    codes = []
    for part, writing in PARTS.items():
        flag = ("--check",) if args.check else writing
        print("python", *part, *flag, flush=True)
        codes.append(subprocess.run([sys.executable, *part, *flag], cwd=ROOT, check=False).returncode)
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main())
