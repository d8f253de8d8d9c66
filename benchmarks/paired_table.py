"""Rows of a board beside random images and beside another method, as Markdown: paired differences with intervals.

    python benchmarks/paired_table.py --dataset digits --ipc 1 --methods mtt,ftd,tesla --base mtt

A cell of a table is a method under its protocol, with the networks of the same seeds on both sides; random is ten
subsets, so the interval of a difference is over students and subsets. Random images stand under ``--random-protocol``,
by default the method's own, else under ``--protocol``; the base under ``--protocol``, else the head says which.

A document says above each of its tables how it is made, ``<!-- paired_table --ipc 1 --methods mtt,ftd --base mtt
--students NAME -->`` in one line:

    python benchmarks/paired_table.py --write docs/digits.md ...   # or --check; without a file: all such documents
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ddbench.leaderboard.grouping import current
from ddbench.leaderboard.result import Budget, Result
from ddbench.leaderboard.schema import load_results
from ddbench.statistics import Statistics, gap_words, interval_words, paired_difference, summarise, summarise_groups

MARK = re.compile(r"^<!-- paired_table (.*) -->\n", re.MULTILINE)
OLD = re.compile(r"\A\n*(\|.*\n)*")
"""What stands below a mark: blank lines and a table."""


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
    text = gap_words(gap["mean"], gap["low"], gap["high"])
    return f"{text}: tie" if gap["tie"] else text


def split(method: str) -> tuple[str, str | None]:
    """Name and protocol of ``METHOD`` or ``METHOD:PROTOCOL``."""
    name, _, protocol = method.partition(":")
    return name, protocol or None


def means(results: list[Result], args: argparse.Namespace, student: str) -> list[str]:
    """One table of several metrics: means over network seeds with intervals; random over its subsets too."""
    metrics = args.metrics.split(",")
    lines = [f"| method | protocol | {' | '.join(metrics)} |", f"|{' --- |' * (len(metrics) + 2)}"]
    for method in args.methods.split(","):
        name, protocol = split(method)
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
            words = interval_words(entry, unit, digits, rows[0].metrics[metric].unit)
            cells.append(f"{unit * entry['mean']:.{digits}f} ({words})")
        lines.append(f"| {name} | `{rows[0].protocol.name}` | {' | '.join(cells)} |")
    return lines


def pairs(results: list[Result], args: argparse.Namespace, student: str) -> list[str]:
    """One table of one metric, beside random images and beside the base."""
    results = [one for one in results if one.values(student, args.metric)]  # others are of other networks
    others = chosen(results, args, args.base, args.protocol) or chosen(results, args, args.base, None)
    base = f" | - {args.base}" if args.base else ""
    if others and others[0].protocol.name != args.protocol:
        base += f", `{others[0].protocol.name}`"
    lines = [f"| method | protocol | % | - random{base} |", f"|{' --- |' * (5 if args.base else 4)}"]
    for method in args.methods.split(","):
        name, wanted = split(method)
        found = chosen(results, args, name, wanted)
        if not found:
            continue
        result = found[0]
        protocol = result.protocol.name
        ours = result.values(student, args.metric)
        randoms = chosen(results, args, "random", args.random_protocol or protocol)
        randoms = randoms or chosen(results, args, "random", args.protocol)
        subsets = [one.values(student, args.metric) for one in randoms]
        cells = [name, f"`{protocol}`"]
        if name == "random":
            cells += [interval(summarise_groups([list(own.values()) for own in subsets])), ""]
        else:
            cells += [interval(summarise(list(ours.values()))), difference(ours, subsets) if subsets else ""]
        if args.base:
            other = [one.values(student, args.metric) for one in others[:1]]
            cells.append(difference(ours, other) if other and name not in (args.base, "random") else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def moves(results: list[Result], args: argparse.Namespace, student: str) -> list[str]:
    """One table of what other protocols change: the same sets, the networks of the same seeds."""
    first, *others = args.protocols.split(",")
    heads = [f"`{other}` - `{first}`" for other in others]
    lines = [f"| method | {' | '.join(heads)} |", f"|{' --- |' * (len(heads) + 1)}"]
    for method in args.methods.split(","):
        before = {row.synset.sha256: row for row in chosen(results, args, method, first)}
        cells = []
        for other in others:
            groups = []
            for row in chosen(results, args, method, other):
                if row.synset.sha256 in before:
                    was = before[row.synset.sha256].values(student, args.metric)
                    now = row.values(student, args.metric)
                    groups.append([now[seed] - was[seed] for seed in sorted(now.keys() & was.keys())])
            cells.append(changed([group for group in groups if group]))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def changed(groups: list[list[float]]) -> str:
    """Differences of one set over its networks, or of several sets over the sets, as :func:`difference` says them."""
    if not groups:
        return ""
    found = summarise(groups[0] if len(groups) == 1 else [sum(group) / len(group) for group in groups])
    if found["low"] is None or found["high"] is None:
        return f"{100 * found['mean']:+.1f} (too few seeds)"
    text = f"{100 * found['mean']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
    return f"{text}: tie" if found["low"] <= 0 <= found["high"] else text


def table(results: list[Result], args: argparse.Namespace, student: str) -> list[str]:
    """The table of a student."""
    return (means if args.metrics else moves if args.protocols else pairs)(results, args, student)


def made(text: str, results: list[Result], path: str = "") -> str:
    """A document with the table under each mark ``<!-- paired_table FLAGS -->`` made again; a mark names one student.

    Raises:
        SystemExit: a mark that is no such command.
    """
    parts = MARK.split(text)
    pieces = [parts[0]]
    for flags, after in zip(parts[1::2], parts[2::2], strict=True):
        args = parser().parse_args(shlex.split(flags))
        if not args.students or "," in args.students:
            raise SystemExit(f"{path}: paired_table {flags}: expected --students with one student")
        rows = table(results, args, args.students)
        rest = OLD.sub("", after, count=1)
        blank = "" if rest.startswith("\n") or not rest else "\n"  # a mark that had no table yet
        pieces += [f"<!-- paired_table {flags} -->\n\n", "\n".join(rows), f"\n{blank}", rest]
    return "".join(pieces)


def parser() -> argparse.ArgumentParser:
    """The flags of the command line, and of a mark in a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", type=Path, default=Path(__file__).parents[1] / "leaderboard")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--ipc", type=int)
    parser.add_argument("--methods", help="comma-separated METHOD or METHOD:PROTOCOL, in the order of the table")
    parser.add_argument("--protocol", default="hard-v1", help="preferred where a method has rows under several")
    parser.add_argument("--random-protocol", default=None)
    parser.add_argument("--base", default=None, help="a method that the others are also compared with")
    parser.add_argument("--students", default=None)
    parser.add_argument("--metric", default="accuracy")
    parser.add_argument("--metrics", default=None, help="several, comma-separated: one table of their means instead")
    parser.add_argument("--protocols", default=None, help="several: instead, what the others change against the first")
    parser.add_argument("--write", type=Path, nargs="*", metavar="FILE.md", help="make their marked tables again")
    parser.add_argument("--check", type=Path, nargs="*", metavar="FILE.md", help="1 where --write would change one")
    return parser


def marked() -> list[Path]:
    """Every document of the project with a marked table."""
    root = Path(__file__).parents[1]
    paths = sorted([*root.glob("docs/*.md"), *root.glob("methods/*/README.md")])
    return [path for path in paths if MARK.search(path.read_text(encoding="utf-8"))]


def rewritten(documents: list[Path], results: list[Result], *, write: bool) -> int:
    """Make the tables of documents again, or say which are not what the board gives; the exit code."""
    changed = False
    for document in documents:
        old = document.read_text(encoding="utf-8")
        new = made(old, results, str(document))
        if write:
            document.write_text(new, encoding="utf-8")
        elif new != old:
            changed = True
            print(f"{document}: not what the board gives; run python benchmarks/paired_table.py --write {document}")
    return int(changed)


def main() -> int:
    """Print one table for each student, or make those of a document."""
    args = parser().parse_args()
    results = [entry.result for entry in current(load_results(args.board))]
    asked = args.check if args.write is None else args.write
    if asked is not None:
        return rewritten(asked or marked(), results, write=args.write is not None)
    if args.ipc is None or not args.methods:
        raise SystemExit("expected --ipc and --methods, or --write or --check with a document")
    rows = [result for method in args.methods.split(",") for result in chosen(results, args, *split(method))]
    known = dict.fromkeys(student for result in rows for student in result.summary)
    for student in args.students.split(",") if args.students else known:
        print(f"\nIPC {args.ipc}, {student}{'' if args.metrics else ', ' + args.metric}\n")
        print("\n".join(table(results, args, student)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
