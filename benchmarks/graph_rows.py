"""The board's rows of a set of graphs as the tables of docs/graphs.md: ROC-AUC and accuracy of every student.

    python benchmarks/graph_rows.py                                    # writes the sections of docs/graphs.md
    python benchmarks/graph_rows.py --check                            # 1 where that would change them
    python benchmarks/graph_rows.py --print

Each set has a section between two marks; nothing else of the page is touched.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ddbench.leaderboard.board import read_board
from ddbench.leaderboard.pages.view import statistics_text
from ddbench.leaderboard.rows import Cell, Row

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "graphs.md"
SETS = ("mutag", "ogbg-molbace")
METRICS = {"roc_auc": "AUC", "accuracy": "accuracy"}
POOLINGS = ("mean", "sum")
NOTHING = ("size", "untrained")
"""Methods whose product has no graphs."""


def scores(cell: Cell, row: Row, student: str) -> list[str]:
    """AUC and accuracy of a row with one student; blank where it was not evaluated."""
    found = {}
    for measure, score in row.scores.items():
        if measure.student == student and measure.metric in METRICS:
            found[METRICS[measure.metric]] = statistics_text(score.statistics, measure.unit)
    return [found.get(name, "") for name in METRICS.values()]


def table(cell: Cell, pooling: str) -> list[str]:
    """The rows of a table of the board by the students of one pooling; best first, as there."""
    students = [name for name in sorted(cell.students) if name.endswith(pooling)]
    heads = [f"{metric}, {student}" for metric in METRICS.values() for student in students]
    lines = [f"| row | graphs or sets | bytes | {' | '.join(heads)} |", f"|{' --- |' * (3 + len(heads))}"]
    for row in cell.rows:
        synset = row.first.synset
        several = f", {len(row.results)} subsets" if len(row.results) > 1 else ""
        both = [scores(cell, row, student) for student in students]
        parts = [pair[place] for place in range(len(METRICS)) for pair in both]
        items = "" if row.method in NOTHING else f"{synset.images:,}"
        lines.append(f"| {row.method}{several} | {items} | {row.stored:,.0f} | {' | '.join(parts)} |")
    return lines


def section(cells: Sequence[Cell], dataset: str) -> str:
    """All tables of a set."""
    lines = []
    for cell in cells:
        if cell.dataset == dataset and cell.protocol.standard:
            seeds = max(count for row in cell.rows for count in row.seeds)
            lines.append(
                f"Protocol `{cell.protocol.name}`, up to {cell.budget.value:,} bytes, in %: mean ± half of the 95 % "
                f"interval over {seeds} networks, of random graphs over subsets."
            )
            for pooling in POOLINGS:
                lines += ["", *table(cell, pooling)]
    return "\n".join(lines)


def filled(text: str, board: Path) -> str:
    """The page with its sections made anew.

    Raises:
        ValueError: a section's marks are not in the page.
    """
    cells = read_board(board).cells
    for dataset in SETS:
        begin, end = f"<!-- board: {dataset} -->", f"<!-- end of board: {dataset} -->"
        made = f"{begin}\n\n{section(cells, dataset)}\n\n{end}"
        text, count = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, made=made: made, text, flags=re.S)
        if count != 1:
            raise ValueError(f"{begin} ... {end} stands {count} times in the page, expected once")
    return text


def main() -> int:
    """Write, check or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", type=Path, default=ROOT / "leaderboard")
    parser.add_argument("--print", action="store_true", help="print the sections and write nothing")
    parser.add_argument("--check", action="store_true", help="1 where docs/graphs.md has others; write nothing")
    args = parser.parse_args()
    if args.print:
        cells = read_board(args.board).cells
        print("\n\n".join(f"{dataset}\n\n{section(cells, dataset)}" for dataset in SETS))
        return 0
    before = PAGE.read_text(encoding="utf-8")
    text = filled(before, args.board)
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
    elif text != before:
        print("docs/graphs.md: not what the board gives; run python benchmarks/graph_rows.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
