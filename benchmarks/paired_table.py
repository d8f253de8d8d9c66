"""Rows of a board beside random images and beside another method, as Markdown: paired differences with intervals.

    python benchmarks/paired_table.py --dataset digits --ipc 1 --methods mtt,ftd,tesla --base mtt

A cell of a table is a method under its protocol, with the networks of the same seeds on both sides; random is ten
subsets, so the interval of a difference is over students and subsets. Random images stand under ``--random-protocol``,
by default the method's own, else under ``--protocol``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ddbench.leaderboard.result import Budget, Result
from ddbench.leaderboard.rows import current
from ddbench.leaderboard.schema import load_results
from ddbench.statistics import Statistics, interval_words, paired_difference, summarise, summarise_groups


def chosen(results: list[Result], args: argparse.Namespace, method: str, protocol: str | None) -> list[Result]:
    """Rows of a method in this dataset and budget, one a seed; those under ``protocol`` where there are several."""
    found = [
        result
        for result in results
        if result.synset.method == method
        and result.synset.dataset == args.dataset
        and result.synset.budget == Budget("ipc", args.ipc)
        and result.protocol.standard
        and protocol in (None, result.protocol.name)
    ]
    return sorted(found, key=lambda result: (result.protocol.name != args.protocol, result.synset.seed))


def interval(entry: Statistics) -> str:
    """``98.0 (97.5 to 98.4)``."""
    return f"{100 * entry['mean']:.1f} ({interval_words(entry, 100, 1)})"


def difference(ours: dict[int, float], others: list[dict[int, float]]) -> str:
    """``+1.1 (-3.3 to +5.5): tie``."""
    gap = paired_difference(ours, others)
    text = f"{100 * gap['mean']:+.1f} ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})"
    return f"{text}: tie" if gap["tie"] else text


def means(results: list[Result], args: argparse.Namespace, student: str) -> None:
    """One table of several metrics: means over network seeds with intervals; random over its subsets too."""
    metrics = args.metrics.split(",")
    print(f"\nIPC {args.ipc}, {student}\n")
    print(f"| method | protocol | {' | '.join(metrics)} |\n|{' --- |' * (len(metrics) + 2)}")
    for method in args.methods.split(","):
        name, _, protocol = method.partition(":")
        rows = [row for row in chosen(results, args, name, protocol or args.protocol) if student in row.summary]
        if not rows:
            continue
        cells = []
        for metric in metrics:
            groups = [list(own.values()) for own in (row.values(student, metric) for row in rows) if own]
            if not groups:
                cells.append("")
                continue
            entry = summarise_groups(groups) if name == "random" else summarise(groups[0])
            digits, unit = (1, 100) if "accuracy" in metric or metric.startswith("robust") else (3, 1)
            mean, fraction = f"{unit * entry['mean']:.{digits}f}", unit == 100
            cells.append(f"{mean} ({interval_words(entry, unit, digits, fraction)})")
        print(f"| {name} | `{rows[0].protocol.name}` | {' | '.join(cells)} |")


def main() -> None:
    """Print one table for each student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", type=Path, default=Path(__file__).parents[1] / "leaderboard")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--ipc", type=int, required=True)
    parser.add_argument("--methods", required=True, help="comma-separated, in the order of the table")
    parser.add_argument("--protocol", default="hard-v1", help="preferred where a method has rows under several")
    parser.add_argument("--random-protocol", default=None)
    parser.add_argument("--base", default=None, help="a method that the others are also compared with")
    parser.add_argument("--students", default=None)
    parser.add_argument("--metric", default="accuracy")
    parser.add_argument("--metrics", default=None, help="several, comma-separated: one table of their means instead")
    args = parser.parse_args()
    results = [entry.result for entry in current(load_results(args.board))]
    rows = {method: chosen(results, args, method.partition(":")[0], None) for method in args.methods.split(",")}
    known = [student for found in rows.values() for result in found for student in result.summary]
    for student in args.students.split(",") if args.students else dict.fromkeys(known):
        if args.metrics:
            means(results, args, student)
            continue
        print(f"\nIPC {args.ipc}, {student}, {args.metric}\n")
        base = f" | - {args.base}" if args.base else ""
        print(f"| method | protocol | % | - random{base} |\n|{' --- |' * (5 if args.base else 4)}")
        for method, found in rows.items():
            if not found or not found[0].values(student, args.metric):
                continue
            result = found[0]
            protocol = result.protocol.name
            ours = result.values(student, args.metric)
            randoms = chosen(results, args, "random", args.random_protocol or protocol)
            randoms = randoms or chosen(results, args, "random", args.protocol)
            subsets = [own for own in (one.values(student, args.metric) for one in randoms) if own]
            cells = [method, f"`{protocol}`"]
            if method == "random":
                cells += [interval(summarise_groups([list(own.values()) for own in subsets])), ""]
            else:
                cells += [interval(summarise(list(ours.values()))), difference(ours, subsets) if subsets else ""]
            if args.base:
                base_rows = rows.get(args.base) or chosen(results, args, args.base, args.protocol)
                other = [own for own in (one.values(student, args.metric) for one in base_rows[:1]) if own]
                cells.append(difference(ours, other) if other and method not in (args.base, "random") else "")
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
