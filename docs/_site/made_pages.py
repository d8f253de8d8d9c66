"""Pages that are made of the code and of the board, as Markdown; nothing in them is typed."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ddbench
from ddbench.cli.completion import ARGS
from ddbench.cli.help import FLAGS, flags_of
from ddbench.cli.main import VERBS
from ddbench.leaderboard.grouping import build_cells
from ddbench.leaderboard.rows import RANDOM, Cell, Row
from ddbench.leaderboard.schema import load_results
from ddbench.methods import METHODS, facts_of, shipped
from ddbench.methods.citation import bibliography, bibtex, cited

NEEDED = {"experts": "experts", "teacher": "a teacher", "diffusion": "a diffusion model"}
"""Key of a need -> what it is called in a table."""

METRICS = {"roc_auc": "ROC AUC"}
"""Metric of a row -> what it is called, where it is not the accuracy."""

MOST = ("digits", "hard-v1", "hard")
"""Dataset, protocol and labels of the tables that have most methods."""


def start(root: Path) -> str:
    """Getting started: the sections of the README that a newcomer needs."""
    text = (root / "README.md").read_text(encoding="utf-8")
    sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    wanted = ("## Two commands", "## What the demo shows", "## Five minutes", "## From Python")
    found = [part for part in sections if part.startswith(wanted)]
    assert len(found) == len(wanted), "README.md has other sections"
    return "# Getting started\n\n" + "".join(found)


# Which method


def which_method(root: Path) -> str:
    """Accuracy, cost and needs of every method of the board, a table for what may be compared."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in build_cells(load_results(root / "leaderboard")):
        groups.setdefault((cell.dataset, cell.protocol.name, cell.label_kind), []).append(cell)
    parts = [(root / "docs" / "_site" / "which-method.md").read_text(encoding="utf-8"), *_answers(groups)]
    for (dataset, protocol, labels), cells in groups.items():
        if any(len([row for row in cell.rows if not row.reference]) > 1 for cell in cells):
            parts += _compared(root, dataset, protocol, labels, cells)
    return "\n".join(parts)


def _answers(groups: dict[tuple[str, str, str], list[Cell]]) -> Iterator[str]:
    """What leads, by what a method needs, where most methods can be compared."""
    cells = [cell for cell in groups[MOST] if cell.budget.unit == "ipc"]
    yield f"## In short, on {MOST[0]}\n"
    yield f"| needed beforehand | {' | '.join(f'IPC {cell.budget.value:g}' for cell in cells)} |"
    yield "| --- " * (len(cells) + 1) + "|"
    kinds = {_needs(row.method) for cell in cells for row in cell.rows if not row.reference}
    for needs in sorted(kinds, key=lambda kind: (kind != "nothing", kind)):
        leading = []
        for cell in cells:
            rows = [row for row in cell.rows if not row.reference and _needs(row.method) == needs]
            first = max(rows, key=lambda row: _main(cell, row)["mean"], default=None)
            leading.append("-" if first is None else f"{_linked(first.method)} {_cell(cell, first)}")
        yield f"| {needs} | {' | '.join(leading)} |"
    yield f"\nThe most accurate of each kind under `{MOST[1]}`; what the marks mean stands below the next table.\n"


def _compared(root: Path, dataset: str, protocol: str, labels: str, cells: list[Cell]) -> Iterator[str]:
    """A table: a line a method, a column an IPC, then cost and needs."""
    cells = [cell for cell in cells if not cell.budget.whole]
    last = cells[-1]
    yield f"## {dataset}, {protocol}, {labels} labels\n"
    yield f"Student {last.students[0]}; {_protocol(root, protocol)}.\n"
    heads = [_budget(cell) for cell in cells]
    yield f"| method | {' | '.join(heads)} | other students | CPU minutes | needs |"
    yield "| --- " * (len(heads) + 4) + "|"
    rows: dict[str, dict[int, Row]] = {}
    for column, cell in enumerate(cells):
        for row in cell.rows:
            rows.setdefault(row.method, {}).setdefault(column, row)
    order = sorted(rows, key=lambda name: _order(cells, rows[name]))
    for name in order:
        found = rows[name]
        values = [_cell(cells[column], found.get(column)) for column in range(len(cells))]
        column, row = max(found.items())
        seconds = row.distill_seconds
        cost = "-" if seconds is None or row.reference == "full" else f"{seconds / 60:.2g}"
        yield f"| {_linked(name)} | {' | '.join(values)} | {_others(cells[column], row)} | {cost} | {_needs(name)} |"
    others = ", ".join(last.students[1:]) or "none"
    metric = METRICS.get(last.main(last.students[0]).metric, "accuracy")
    yield (
        f"\n% test {metric}, half width of the 95 % interval; bold: the best or tied with it; = cannot be told from\n"
        f"random images. Other students: mean of {others}; CPU minutes of one distillation, without what it\n"
        "needs: both at the largest budget that a method has here.\n"
    )


def _order(cells: list[Cell], found: dict[int, Row]) -> tuple[bool, int, float]:
    column, row = max(found.items())
    return bool(row.reference), -column, -_main(cells[column], row)["mean"]


def _main(cell: Cell, row: Row) -> Any:
    score = row.scores.get(cell.main(cell.students[0]))
    return score.statistics if score else {"mean": -1.0, "low": None, "high": None}


def _percent(statistics: Any) -> str:
    if statistics["mean"] < 0:
        return "-"
    width = "" if statistics["low"] is None else f" ± {100 * (statistics['high'] - statistics['low']) / 2:.1f}"
    return f"{100 * statistics['mean']:.1f}{width}"


def _cell(cell: Cell, row: Row | None) -> str:
    if row is None or row.scores.get(cell.main(cell.students[0])) is None:
        return "-"
    score = row.scores[cell.main(cell.students[0])]
    text = f"**{_percent(score.statistics)}**" if score.best else _percent(score.statistics)
    against = cell.against_random(row)
    tie = against is not None and against.verdict == "tie"
    return text + (" =" if tie and row.method != RANDOM else "")


def _others(cell: Cell, row: Row) -> str:
    scores = [row.scores.get(cell.main(student)) for student in cell.students[1:]]
    means = [100 * score.statistics["mean"] for score in scores if score is not None]
    return f"{sum(means) / len(means):.1f}" if means else "-"


def _needs(name: str) -> str:
    kind = METHODS.get(name) if name in METHODS else None
    keys = [need.key for need in kind.needs(kind.config_class())] if kind else []
    return ", ".join(NEEDED.get(key, key) for key in keys) or "nothing"


def _linked(name: str) -> str:
    facts = facts_of(name) if name in METHODS else None
    return f"[{facts.title if facts else name}](../methods/{name}/README.md)" if name in shipped() else name


def _budget(cell: Cell) -> str:
    budget = cell.budget
    return f"IPC {budget.value:g}" if budget.unit == "ipc" else f"{budget.value:,g} {budget.unit}"


def _protocol(root: Path, name: str) -> str:
    """The protocol with a link to its page, where it has one of its own."""
    page = f"protocols/{name}.md"
    return f"[protocol {name}]({page})" if (root / "docs" / page).is_file() else f"protocol {name}"


# Reference


def cli(_: Path) -> str:
    """Every verb with its examples and flags, from the dataclasses that the parsers are made of."""
    parts = [
        "# Command line\n\n`ddbench VERB [flags]`; every verb has `--help`, and `ddbench completion` makes a shell "
        "complete them.\n\n| verb | |\n| --- | --- |"
    ]
    parts += [f"| [`{name}`](#ddbench-{name}) | {_escaped(words)} |" for name, (_, words) in VERBS.items()]
    for name, (module, words) in VERBS.items():
        parts.append(f"\n## ddbench {name} {{: #ddbench-{name} }}\n\n{words[0].upper()}{words[1:]}.\n")
        examples = getattr(importlib.import_module(module), "EXAMPLES", "")
        if examples:
            parts.append(f"```console\n{inspect.cleandoc(examples)}\n```\n")
        kinds = {verb: where for verb, where in ARGS.items() if verb.split()[0] == name}
        for verb, where in kinds.items():
            parts += [f"\n### `ddbench {verb}`\n"] * (list(kinds) != [name])
            parts += _flags(verb, where)
    return "\n".join(parts)


def _flags(verb: str, where: str) -> Iterator[str]:
    module, _, name = where.partition(":")
    kind = getattr(importlib.import_module(f"ddbench.cli.{module}"), name)
    yield f"{_escaped(' '.join((kind.__doc__ or '').split()))}\n"
    yield from _table(kind)
    if verb == "distill":
        yield "\nThe settings of a method are flags too: they stand on [its page](../methods/README.md).\n"


def _table(kind: type[Any], default: Any = None) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for flag in flags_of(kind, default):
        words = _escaped(flag.words + (f" Default: {flag.default}." if flag.default is not None else ""))
        groups.setdefault(flag.group, []).append(f"| `{flag.said.replace('|', chr(0xFF5C))}` | {words} |")
    for group, lines in groups.items():
        head = "flag" if group == FLAGS else _escaped(group)
        yield "\n".join([f"| {head} | |", "| --- | --- |", *lines, ""])


def _escaped(text: str) -> str:
    """A text for a cell of a table."""
    return re.sub(r"(?<!`)(<[^>\s]+>)", r"`\1`", text).replace("|", "\\|").replace("*", "\\*")


def api(_: Path) -> str:
    """The names of ``import ddbench``, documented from their docstrings."""
    where = {name: ddbench._ELSEWHERE.get(name, "ddbench.api") for name in ddbench.__all__}
    where["distill"] = "ddbench.distillation.start"
    names = [name for name in ddbench.__all__ if name != "__version__"]
    listed = "\n".join(f"::: {where[name]}.{name}\n" for name in names)
    return f"# Python interface, in full\n\nHow to use it: [From Python](../api.md).\n\n{listed}"


def citations(_: Path) -> str:
    """BibTeX of the methods' papers."""
    return (
        "# BibTeX of the methods\n\nCite the papers of the methods that you ran; the keywords of a paper are its "
        f"methods. `ddbench list methods --bibtex` prints these entries.\n\n```bibtex\n{bibliography()}\n```\n"
    )


def below_card(name: str) -> str:
    """The settings of a method with their defaults, what it needs, and its citation."""
    kind, facts = METHODS.get(name), facts_of(name)
    table = "\n".join(_table(kind.config_class)) or "It has none of its own.\n"
    text = f"\n\n## Settings\n\nFlags of `ddbench distill --method {name}`, keywords of `ddbench.distill`. "
    text += f"Needed beforehand: {_needs(name)}.\n\n{table}\n"
    if facts is not None and facts.paper:
        text += f"\n## Citation\n\n```bibtex\n{bibtex(facts, cited()[facts.paper])}\n```\n"
    return text


MADE: dict[str, Callable[[Path], str]] = {
    "start.md": start,
    "which-method.md": which_method,
    "reference/cli.md": cli,
    "reference/api.md": api,
    "reference/bibtex.md": citations,
}
"""Page -> what makes it of the checkout."""
