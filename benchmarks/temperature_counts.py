"""Which temperature mends the calibration error? Counted over every row of a board that has it.

One comparison a (synset, protocol, student): the ECE after scaling by the temperature of held-out real images, of the
synset, of the masked synset, less the ECE before, paired by the seed of the network. ``better`` and ``worse``: the 95 %
interval of the mean difference leaves out 0. Rows of all real images are left out: they have no synset.

The table stands in ``docs/calibration.md``, below its mark:

    python benchmarks/temperature_counts.py --write    # or --check
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1]))

from ddbench.leaderboard.board import read_board
from ddbench.statistics import paired_difference

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "calibration.md"
TABLE = re.compile(r"(?<=<!-- temperature_counts -->\n\n)(\|.*\n)*")
SETS = {
    "ece_scaled": "held-out real images",
    "ece_scaled_synset": "the synset",
    "ece_scaled_masked": "the masked synset",
}


def table(board: Path) -> str:
    """The table of a board's rows."""
    counts: Counter[tuple[str, str, str]] = Counter()
    means: dict[tuple[str, str], list[float]] = {}
    for result in read_board(board).results:
        dataset = result.synset.dataset
        for student in result.students:
            before = result.values(student, "ece")
            if result.synset.method == "full" or len(before) < 2:
                continue
            means.setdefault((dataset, ""), []).append(fmean(before.values()))
            for name in SETS:
                after = result.values(student, name)
                found = paired_difference(after, [before])
                verdict = "tie" if found["tie"] else ("worse" if found["mean"] > 0 else "better")
                counts[dataset, name, verdict] += 1
                means.setdefault((dataset, name), []).append(fmean(after.values()))
    lines = ["| dataset | T of | better | tie | worse | mean ECE before | after |", "|" + " --- |" * 7]
    for dataset in sorted({dataset for dataset, _ in means}):
        for name, title in SETS.items():
            numbers = " | ".join(str(counts[dataset, name, verdict]) for verdict in ("better", "tie", "worse"))
            errors = f"{fmean(means[dataset, '']):.4f} | {fmean(means[dataset, name]):.4f}"
            lines.append(f"| {dataset} | {title} | {numbers} | {errors} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the table, write it into its document, or look whether it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", type=Path, default=ROOT / "leaderboard")
    parser.add_argument("--write", action="store_true", help="make the table of docs/calibration.md again")
    parser.add_argument("--check", action="store_true", help="1 where --write would change it")
    args = parser.parse_args()
    made, old = table(args.board), DOCUMENT.read_text(encoding="utf-8")
    new, there = TABLE.subn(lambda _: made, old, count=1)
    if not there:
        raise SystemExit(f"{DOCUMENT}: it has no mark <!-- temperature_counts -->")
    if args.write:
        DOCUMENT.write_text(new, encoding="utf-8")
    elif not args.check:
        sys.stdout.write(made)
    elif new != old:
        print("docs/calibration.md: not what the board gives; run python benchmarks/temperature_counts.py --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
