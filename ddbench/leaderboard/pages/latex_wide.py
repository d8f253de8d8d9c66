"""The board as papers print it: one LaTeX table of methods by dataset and budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ddbench.leaderboard.columns import Measure
from ddbench.leaderboard.pages.latex import BOOKTABS, escape, labels_of, number, protocol_words
from ddbench.leaderboard.pages.view import budget_text
from ddbench.leaderboard.rows import Cell, Row, Score
from ddbench.methods import METHODS, facts_of
from ddbench.runtime.files import canonical_json

ABSENT = "--"
REFERENCES = {"random": "Random real", "full": "All real"}


class Named(NamedTuple):
    """A line of the table.

    Attributes:
        title: what the submitter calls the method.
        method: its name, by which two of one title are told apart; empty for a reference.
        reference: of what methods are held against, its name; else empty.
        which: of the rows of this method and title in a column, from 0.
    """

    title: str
    method: str
    reference: str
    which: int


def wide_text(cells: Sequence[Cell], student: str = "", spread: str = "std") -> str:
    """Tables of methods by (dataset, budget) that need the package booktabs; one for each protocol and kind of labels,
    whose numbers are not to be compared.

    In every column the best mean is bold; what cannot be told from it (95 % paired interval) is bold with an asterisk.
    Where a method has several rows in a column each has a line, none is chosen. Methods stand in the order of their
    mean rank.

    Args:
        student: whose accuracy; empty: of every column the one that ranks.
        spread: ``std`` over the seeds, or ``interval``: half of the 95 % interval.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_group(cell), []).append(cell)
    heads = [found[0] for found in groups.values()]
    labels = labels_of([(f"{head.protocol.name} {head.label_kind}", head) for head in heads])
    made = [
        "\n".join([*_table(found, student, spread, label), ""])
        for found, label in zip(groups.values(), labels, strict=True)
    ]
    return BOOKTABS + "\n".join(made) if made else ""


def _group(cell: Cell) -> str:
    """What tables share whose numbers may stand beside each other."""
    changed = dict(cell.protocol.changed)
    described = cell.described.to_json()
    return canonical_json([cell.protocol.name, cell.protocol.hash, changed, cell.label_kind, cell.precision, described])


def _table(cells: Sequence[Cell], student: str, spread: str, label: str) -> Iterator[str]:
    columns = [_lines_of(cell) for cell in cells]
    scores = [
        {name: score for name, row in lines.items() if (score := row.scores.get(_measure(cell, student)))}
        for cell, lines in zip(cells, columns, strict=True)
    ]
    names = {name for column in scores for name in column}
    references = [name for kind in REFERENCES for name in sorted(names) if name.reference == kind]
    methods = {name for name in names if not name.reference}
    bearers = Counter(title for title, _, _ in {name[:3] for name in names})
    shared = {title for title, count in bearers.items() if count > 1}
    yield "\\begin{table}"
    yield "\\centering"
    yield f"\\caption{{{_caption(cells, student, spread, scores)}}}"
    yield f"\\label{{{label}}}"
    yield f"\\begin{{tabular}}{{l{'r' * len(cells)}}}"
    yield "\\toprule"
    yield from _heads(cells)
    yield "\\midrule"
    for name in sorted(methods, key=lambda name: (_mean_rank(name, scores), name)):
        yield _line(name, name.title in shared, cells, scores, spread)
    if methods and references:
        yield "\\midrule"
    for name in references:
        yield _line(name, False, cells, scores, spread)
    yield "\\bottomrule"
    yield "\\end{tabular}"
    yield "\\end{table}"


def _measure(cell: Cell, student: str) -> Measure:
    return cell.main(student or cell.students[0])


def _references(cell: Cell) -> dict[str, str]:
    """Titles of the rows that methods are held against."""
    return {name: f"{words} {cell.items}" for name, words in REFERENCES.items()}


def _lines_of(cell: Cell) -> dict[Named, Row]:
    """The rows of a column by the line that they stand in."""
    count: Counter[tuple[str, str, str]] = Counter()
    references = _references(cell)
    found = {}
    for row in cell.rows:
        key = (title_of(row), row.method, "")
        if row.reference:
            key = (references[row.reference], "", row.reference)
        found[Named(*key, count[key])] = row
        count[key] += 1
    return found


def title_of(row: Row) -> str:
    """What a submitter calls the method, else what its authors do, else its name here."""
    facts = facts_of(row.method) if row.method in METHODS else None
    title = row.first.submission.method_title or (facts.title if facts else row.method)
    return f"{title}, fixed network" if row.first.synset.fixed_network else title


def _mean_rank(name: Named, scores: Sequence[dict[Named, Score]]) -> float:
    """Over the columns where it has a rank; last without any."""
    ranks = [column[name].rank for column in scores if name in column]
    known = [rank for rank in ranks if rank is not None]
    return sum(known) / len(known) if known else float("inf")


def _heads(cells: Sequence[Cell]) -> Iterator[str]:
    """A line of datasets over a line of budgets."""
    over, rules, at = [""], [], 2
    for (name, _), group in groupby(cells, key=lambda cell: (cell.dataset, cell.fingerprint)):
        count = len(list(group))
        over.append(f"\\multicolumn{{{count}}}{{c}}{{{escape(name)}}}")
        rules.append(f"\\cmidrule(lr){{{at}-{at + count - 1}}}")
        at += count
    yield " & ".join(over) + " \\\\"
    yield "".join(rules)
    yield " & ".join(["Method", *(escape(budget_text(cell.budget, cell.items)) for cell in cells)]) + " \\\\"


def _line(name: Named, named: bool, cells: Sequence[Cell], scores: Sequence[dict[Named, Score]], spread: str) -> str:
    """A method's line; ``named``: with its name, since another one has its title too."""
    title = f"{name.title} ({name.method})" if named else name.title
    shown = [_entry(name, cell, column, spread) for cell, column in zip(cells, scores, strict=True)]
    return " & ".join([escape(title if name.which == 0 else f"{title} ({name.which + 1})"), *shown]) + " \\\\"


def _entry(name: Named, cell: Cell, column: dict[Named, Score], spread: str) -> str:
    score = column.get(name)
    if score is None:
        return ABSENT
    text = number(score.statistics, cell.described.unit, spread)
    if score.odd:
        return f"{text}$^{{\\dagger}}$"
    if not score.best:
        return text
    sign = cell.main(cell.students[0]).sign
    mean = sign * score.statistics["mean"]
    top = all(mean <= sign * one.statistics["mean"] for one in column.values() if one.best)
    return f"\\textbf{{{text}}}" + ("" if top else "$^{\\ast}$")


def _caption(cells: Sequence[Cell], student: str, spread: str, scores: Sequence[dict[Named, Score]]) -> str:
    head = cells[0]
    how = "standard deviation" if spread == "std" else "half of the 95 \\% interval"
    trained: dict[str, dict[str, None]] = {}
    for cell in cells:
        trained.setdefault(student or cell.students[0], {})[cell.dataset] = None
    on = "; ".join(
        escape(name) + (f" on {escape(', '.join(sets))}" if len(trained) > 1 else "") for name, sets in trained.items()
    )
    unit = " in per cent" if head.described.unit == "fraction" else ""
    text = (
        f"{escape(head.described.title)}{unit}, mean $\\pm$ {how}; "
        f"{escape(head.label_kind)} labels, {protocol_words(head)}; student: {on}. "
        "Bold: best of its column; $^{\\ast}$: cannot be told from the best (95 \\% paired interval)."
    )
    if any(score.odd for column in scores for score in column.values()):
        text += " $^{\\dagger}$: measured with other settings."
    if any(name.which for column in scores for name in column):
        text += " A number behind a name: another synset of the same method."
    return text
