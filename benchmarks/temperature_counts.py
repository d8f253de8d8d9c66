"""Which temperature mends the calibration error? Counted over every row of a board that has it.

One comparison a (synset, protocol, student): the ECE after scaling by the temperature of held-out real images, of the
synset, of the masked synset, less the ECE before, paired by the seed of the network. ``better`` and ``worse``: the 95 %
interval of the mean difference leaves out 0. Rows of all real images are left out: they have no synset.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean

import common

SETS = {
    "ece_scaled": "held-out real images",
    "ece_scaled_synset": "the synset",
    "ece_scaled_masked": "the masked synset",
}


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__ or "")
    parser.add_argument("--board", type=Path, default=Path("leaderboard"))
    options = parser.parse_args()

    from ddbench.leaderboard.board import read_board
    from ddbench.statistics import paired_difference

    counts: Counter[tuple[str, str, str]] = Counter()
    means: dict[tuple[str, str], list[float]] = {}
    for result in read_board(options.board).results:
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
    lines = ["| dataset | T of | better | tie | worse | mean ECE before | after |", "|---|---|---|---|---|---|---|"]
    for dataset in sorted({dataset for dataset, _ in means}):
        for name, title in SETS.items():
            numbers = " | ".join(str(counts[dataset, name, verdict]) for verdict in ("better", "tie", "worse"))
            errors = f"{fmean(means[dataset, '']):.4f} | {fmean(means[dataset, name]):.4f}"
            lines.append(f"| {dataset} | {title} | {numbers} | {errors} |")
    title = "ECE after temperature scaling against before, over the rows of the board"
    common.report(__file__, title, lines, "python benchmarks/temperature_counts.py")


if __name__ == "__main__":
    main()
