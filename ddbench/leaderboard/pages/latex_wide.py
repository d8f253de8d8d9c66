"""The board as papers print it: one LaTeX table of methods by dataset and budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

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


class Shown(NamedTuple):
    """A column of the table.

    Attributes:
        scores: what stands in it, by line.
        otherwise: lines whose row other teachers labelled than most of the column.
    """

    cell: Cell
    scores: dict[Named, Score]
    otherwise: frozenset[Named]


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
    columns = [_shown(cell, student) for cell in cells]
    names = {name for column in columns for name in column.scores}
    references = [name for kind in REFERENCES for name in sorted(names) if name.reference == kind]
    methods = {name for name in names if not name.reference}
    bearers = Counter(title for title, _, _ in {name[:3] for name in names})
    shared = {title for title, count in bearers.items() if count > 1}
    yield "\\begin{table}"
    yield "\\centering"
    yield f"\\caption{{{_caption(columns, student, spread)}}}"
    yield f"\\label{{{label}}}"
    yield f"\\begin{{tabular}}{{l{'r' * len(cells)}}}"
    yield "\\toprule"
    yield from _heads(cells)
    yield "\\midrule"
    for name in sorted(methods, key=lambda name: (_mean_rank(name, columns), name)):
        yield _line(name, name.title in shared, columns, spread)
    if methods and references:
        yield "\\midrule"
    for name in references:
        yield _line(name, False, columns, spread)
    yield "\\bottomrule"
    yield "\\end{tabular}"
    yield "\\end{table}"


def _shown(cell: Cell, student: str) -> Shown:
    lines, measure = _lines_of(cell), cell.main(student or cell.students[0])
    return Shown(
        cell,
        {name: score for name, row in lines.items() if (score := row.scores.get(measure))},
        frozenset(name for name, row in lines.items() if cell.labelled_otherwise(row)),
    )


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
    return f"{title}, fixed network" if row.first.fixed else title


def _mean_rank(name: Named, columns: Sequence[Shown]) -> float:
    """Over the columns where it has a rank; last without any."""
    ranks = [column.scores[name].rank for column in columns if name in column.scores]
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


def _line(name: Named, named: bool, columns: Sequence[Shown], spread: str) -> str:
    """A method's line; ``named``: with its name, since another one has its title too."""
    title = f"{name.title} ({name.method})" if named else name.title
    shown = [_entry(name, column, spread) for column in columns]
    return " & ".join([escape(title if name.which == 0 else f"{title} ({name.which + 1})"), *shown]) + " \\\\"


def _entry(name: Named, column: Shown, spread: str) -> str:
    text = _number(name, column, spread)
    return f"{text}$^{{\\ddagger}}$" if name in column.otherwise and text != ABSENT else text


def _number(name: Named, column: Shown, spread: str) -> str:
    score, cell = column.scores.get(name), column.cell
    if score is None:
        return ABSENT
    text = number(score.statistics, cell.described.unit, spread)
    if score.odd:
        return f"{text}$^{{\\dagger}}$"
    if not score.best:
        return text
    sign = cell.main(cell.students[0]).sign
    mean = sign * score.statistics["mean"]
    top = all(mean <= sign * one.statistics["mean"] for one in column.scores.values() if one.best)
    return f"\\textbf{{{text}}}" + ("" if top else "$^{\\ast}$")


def _caption(columns: Sequence[Shown], student: str, spread: str) -> str:
    head = columns[0].cell
    how = "standard deviation" if spread == "std" else "half of the 95 \\% interval"
    trained: dict[str, dict[str, None]] = {}
    for cell in (column.cell for column in columns):
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
    if any(score.odd for column in columns for score in column.scores.values()):
        text += " $^{\\dagger}$: measured with other settings."
    if any(column.otherwise for column in columns):
        text += " $^{\\ddagger}$: labelled by another teacher than the rest of its column."
    if any(name.which for column in columns for name in column.scores):
        text += " A number behind a name: another synset of the same method."
    return text
