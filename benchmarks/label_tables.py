"""One table for each kind of labels, from the rows of a board: every method of a dataset beside random images.

    python benchmarks/label_tables.py                                  # writes docs/labels.md
    python benchmarks/label_tables.py --check                          # 1 where that would change it
    python benchmarks/label_tables.py --datasets digits --print

Rows are compared within a kind of labels and a protocol only, and with the same networks' seeds on both sides. The rate
is bits per class after zstd of everything that a training needs, as stored where the synset is not on the board.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ddbench.leaderboard.board import read_board
from ddbench.leaderboard.pages.view import against_random_text, bits_text, budget_text, statistics_text
from ddbench.leaderboard.rows import FULL, RANDOM, Cell, Row

ROOT = Path(__file__).parents[1]
KINDS = {
    "hard": ("Hard labels", "The class of each image, and nothing else."),
    "soft": ("One soft label an image", "Labels that a method learned, or that a network gave once; they are stored."),
    "teacher": ("A teacher's label of every view", "A network labels each augmented view; its bytes are in the rate."),
    "targets": ("Targets of a regression", "Labels of kernel methods: learned numbers that are no distribution."),
}
ONCE = (
    "A teacher's label of every image",
    "A network labels each image before it is augmented; the labels are stored, and in the rate.",
)
"""Of protocols that ask a teacher once."""
HEAD = """Written from the rows of the board by `python benchmarks/label_tables.py`; not edited by hand. Each table
is one kind of labels under one protocol; rows of different tables are not compared. Test accuracy in %, mean ± half
of the 95 % interval over seeds; "to random" is the difference to random images, paired by seed, and says where it
is none. Rate: bits per class of all that a training needs, after zstd ([columns](leaderboard.md#tables-and-ranks)).
Each method ran once: the intervals are over students."""
STUDENTS = {"digits": "convnet-d2-w32-in", "fashion-mnist": "convnet-d3-w32-in"}
"""The student of a dataset's tables; where no method of a table has it, the one that ranks there."""


def entries(cell: Cell, row: Row, student: str) -> list[str]:
    """Accuracy, how it stands to random images, and rate of a row; blank where this student was not evaluated."""
    score = row.scores.get(cell.main(student))
    if score is None:
        return [""] * 3
    bits = row.bits if row.packed_bits is None else row.packed_bits
    against = against_random_text(cell.against_random(row, student), cell.described.unit)
    return [statistics_text(score.statistics, cell.described.unit), against, bits_text(bits)]


def student_of(cell: Cell, wanted: str) -> str:
    """The student that a table is shown for: the wanted one where a method has it, not random images alone."""
    has = any(wanted in row.first.students for row in cell.rows if not row.reference)
    return wanted if has else cell.students[0]


def table(cells: Sequence[Cell], student: str) -> list[str]:
    """The Markdown of one protocol's tables side by side, a column group a budget; best of the largest first."""
    chosen = [student_of(cell, student) for cell in cells]
    found: dict[str, dict[int, list[str]]] = {}
    for place, cell in reversed(list(enumerate(cells))):
        for row in cell.rows:
            own = found.setdefault(row.method, {})
            if row.reference != FULL and place not in own:
                own[place] = entries(cell, row, chosen[place])
    methods = [name for name in found if name != RANDOM and any(any(own) for own in found[name].values())]
    heads = [f"{budget_text(cell.budget)}, %" for cell in cells]
    lines = ["| method | " + " | ".join(f"{head} | to random | rate" for head in heads) + " |"]
    lines.append("| --- |" + " ---: | --- | ---: |" * len(cells))
    for name in [*methods, *([RANDOM] if RANDOM in found else [])]:
        parts = [part for place in range(len(cells)) for part in found[name].get(place, [""] * 3)]
        lines.append(f"| {name} | " + " | ".join(parts) + " |")
    return lines


def page(board: Path, datasets: Sequence[str]) -> str:
    """All tables as one page of Markdown."""
    cells = [cell for cell in read_board(board).cells if cell.protocol.standard and cell.budget.unit == "ipc"]
    lines = ["# By kind of labels", "", *HEAD.splitlines()]
    for dataset in datasets:
        for kind in KINDS:
            own = [cell for cell in cells if (cell.dataset, cell.label_kind) == (dataset, kind)]
            for protocol in dict.fromkeys(cell.protocol.name for cell in own):
                title, words = KINDS[kind]
                side = [cell for cell in own if cell.protocol.name == protocol]
                if not any(row.reference == "" for cell in side for row in cell.rows):
                    continue  # random images alone
                student = STUDENTS.get(dataset, side[0].students[0])
                if side[0].protocol.settings.get("labels") == "once":
                    title, words = ONCE
                found = {student_of(cell, student) for cell in side}
                named = student if found == {student} else side[0].students[0]
                lines += ["", f"## {dataset}: {title[0].lower()}{title[1:]}, `{protocol}`", ""]
                lines += [f"{words} Student `{named}`.", "", *table(side, student)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write, check or print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", type=Path, default=ROOT / "leaderboard")
    parser.add_argument("--datasets", default="digits,fashion-mnist", help="comma-separated")
    parser.add_argument("--print", action="store_true", help="print it and write nothing")
    parser.add_argument("--check", action="store_true", help="1 where docs/labels.md is not that page; write nothing")
    args = parser.parse_args()
    text = page(args.board, args.datasets.split(","))
    target = ROOT / "docs" / "labels.md"
    if args.print:
        sys.stdout.write(text)
    elif not args.check:
        target.write_text(text, encoding="utf-8")
    elif target.read_text(encoding="utf-8") != text:
        print("docs/labels.md: not what the board gives; run python benchmarks/label_tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
