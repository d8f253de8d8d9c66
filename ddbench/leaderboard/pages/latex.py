"""The board as LaTeX: one booktabs table a cell, ready for a paper."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from ddbench.leaderboard.columns import CROSS, MAIN
from ddbench.leaderboard.pages.export import load_pandas
from ddbench.leaderboard.pages.view import (
    ABOUT,
    COST,
    NONE,
    PLACE,
    RATE,
    Column,
    Line,
    Table,
    lay_out,
    number_text,
    teacher_note,
)
from ddbench.leaderboard.rows import Cell
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError
from ddbench.statistics import Statistics, spread_words

BOOKTABS = "% \\usepackage{booktabs}\n"
LEFT_OUT = "% left out: "
"""How the line begins that says how many tables are not printed."""
FLOAT32 = "float32"
DEFAULT = ("method", MAIN, CROSS, "stored")
GROUPS = (
    MAIN,
    CROSS,
    COST,
    RATE,
    "further",
    "scores",
    "calibration",
    "robustness",
    "corruptions",
    "ood",
    "tasks",
    ABOUT,
)
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "`": r"\textasciigrave{}",
    "–": "--",
    "×": r"$\times$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
}


def escape(text: object) -> str:
    """One line in which no character is a command."""
    return "".join(SPECIAL.get(letter, letter) for letter in " ".join(str(text).split()))


def latex_text(cells: Sequence[Cell], columns: Sequence[str] = (), student: str = "", spread: str = "std") -> str:
    """All tables, each a ``table`` environment that needs the package booktabs.

    In every column the best mean is bold; what cannot be told from it (95 % paired interval) is bold with an asterisk.
    Tables that have none of the columns are left out, and a comment says how many.

    Args:
        columns: titles of columns or names of groups of them, in the order of printing; empty: :data:`DEFAULT`.
        student: whose rank and metrics; empty: the one that ranks.
        spread: ``std`` over the seeds, or ``interval``: half of the 95 % interval.

    Raises:
        UserError: an unknown column, or pandas is not installed.
    """
    if not cells:
        return ""
    tables = [lay_out(cell, student) for cell in cells]
    known = {column.title for table in tables for column in table.columns}
    for name in columns:
        if name not in known and name not in GROUPS:
            names = sorted(known | set(GROUPS))
            raise UserError(f"--columns {name}: no such column{suggest(name, names)}; one of: {', '.join(names)}")
    chosen = [(table, places) for table in tables if (places := _places(table, columns or DEFAULT))]
    labels = labels_of([(_name(table), table.cell) for table, _ in chosen])
    made = [_table(*one, spread, label) for one, label in zip(chosen, labels, strict=True)]
    return BOOKTABS + _left_out(len(tables) - len(made)) + "\n".join(made)


def _left_out(count: int) -> str:
    words = "1 table that has" if count == 1 else f"{count} tables that have"
    return f"{LEFT_OUT}{words} none of these columns\n" if count else ""


def _places(table: Table, wanted: Sequence[str]) -> list[int]:
    """Where the columns of a table are that are wanted, in the order of printing."""
    places = [
        place
        for name in wanted
        for place, column in enumerate(table.columns)
        if (name in (column.title, column.group) and column.group != PLACE) or name == column.title
    ]
    return list(dict.fromkeys(places))


def _name(table: Table) -> str:
    return f"{table.title} {table.cell.label_kind} {table.cell.protocol.name}"


def protocol_words(cell: Cell) -> str:
    """The protocol of a caption, with what was altered of it, and the precision where it is not the usual one."""
    changed = ", ".join(f"{name} = {json.dumps(value)}" for name, value in sorted(cell.protocol.changed.items()))
    words = f"protocol {cell.protocol.name}"
    if not cell.protocol.standard:
        words += f" (non-standard: {changed})" if changed else " (non-standard)"
    return escape(words if cell.precision == FLOAT32 else f"{words}, {cell.precision}")


def labels_of(named: Sequence[tuple[str, Cell]]) -> list[str]:
    """Labels of tables, no two alike: their names, and what was altered of the protocol.

    Tables of other data of one name, or of two protocols of one name, are numbered.
    """
    count: Counter[str] = Counter()
    made = []
    for name, cell in named:
        changed = [f"{key} {value}" for key, value in sorted(cell.protocol.changed.items())]
        words = [name, *changed, *([] if cell.precision == FLOAT32 else [cell.precision])]
        label = "tab:" + re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
        count[label] += 1
        made.append(label if count[label] == 1 else f"{label}--{count[label]}")
    return made


def _table(table: Table, places: Sequence[int], spread: str, label: str) -> str:
    pandas = load_pandas()
    heads = [escape(table.columns[place].title) for place in places]
    lines = [[_cell(table, line, place, spread) for place in places] for line in table.lines]
    made = pandas.DataFrame(lines, columns=pandas.Index(heads, dtype=object))
    sides = "".join("r" if table.columns[place].number else "l" for place in places)
    how = "standard deviation" if spread == "std" else "half of the 95 \\% interval"
    cell = table.cell
    caption = (
        f"{escape(table.title)}, {escape(cell.label_kind)} labels, {protocol_words(cell)}: "
        f"{escape(cell.described.title)}"
        f"{' in per cent' if cell.described.unit == 'fraction' else ''}, mean $\\pm$ {how}. "
        "Bold: best; $^{\\ast}$: cannot be told from the best (95 \\% paired interval)."
    )
    if any("$^{\\dagger}$" in text for line in lines for text in line):
        caption += " $^{\\dagger}$: over other students, or measured with other settings."
    if note := teacher_note(cell):
        caption += f" {escape(note)}"
    text = made.to_latex(index=False, escape=False, column_format=sides, caption=caption, label=label)
    return _with_rule(str(text), table)


def _with_rule(text: str, table: Table) -> str:
    """A rule above the references."""
    lines = text.splitlines()
    first = lines.index("\\midrule") + 1 + sum(not line.reference for line in table.lines)
    if 0 < sum(not line.reference for line in table.lines) < len(table.lines):
        lines.insert(first, "\\midrule")
    return "\n".join(lines) + "\n"


def _cell(table: Table, line: Line, place: int, spread: str) -> str:
    column, entry = table.columns[place], line.entries[place]
    score = line.row.scores.get(column.measure) if line.row is not None and column.measure is not None else None
    if score is None or column.measure is None:
        text = entry.text if entry.text != NONE else "–"
        return escape(f"{text} ({entry.detail})" if entry.detail else text)
    text = number(score.statistics, column.measure.unit, spread)
    if not score.best:
        return f"{text}$^{{\\dagger}}$" if score.odd else text
    bold = f"\\textbf{{{text}}}"
    return bold if _is_top(table, column, score.statistics["mean"]) else f"{bold}$^{{\\ast}}$"


def number(statistics: Statistics, unit: str, spread: str) -> str:
    """``88.7 $\\pm$ 0.9``, or the mean alone where there is no spread; ``spread`` as in :func:`latex_text`."""
    if spread != "std":
        return spread_words(statistics, lambda value: number_text(value, unit), unit, "$\\pm$")
    mean, std = number_text(statistics["mean"], unit), statistics["std"]
    return mean if std is None else f"{mean} $\\pm$ {number_text(std, unit)}"


def _is_top(table: Table, column: Column, mean: float) -> bool:
    """Whether a mean is the best of its column."""
    measure = column.measure
    if measure is None:
        return False
    scores = [line.row.scores.get(measure) for line in table.lines if line.row is not None]
    return all(measure.sign * mean <= measure.sign * one.statistics["mean"] for one in scores if one and one.best)
