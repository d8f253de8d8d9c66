"""What ``index.html`` carries for its script, within 2 MB: the rows of all tables, as they are drawn.

Every table has all its rows while they fit; else each gets its best K, with the largest K that fits, and the
references. What an opened row shows is in a file of its own (:mod:`ddbench.leaderboard.pages.row_files`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ddbench.leaderboard.columns import MAIN
from ddbench.leaderboard.pages.details import rounded
from ddbench.leaderboard.pages.view import (
    EMPTY,
    METHOD,
    PLACE,
    Column,
    Entry,
    Line,
    Table,
    against_random_text,
    budget_text,
    half_width,
    lay_out,
    teacher_note,
    what_it_is,
)
from ddbench.leaderboard.rows import Cell, Row
from ddbench.leaderboard.schema import result_path
from ddbench.leaderboard.select import verified_part
from ddbench.methods import shipped
from ddbench.methods.facts import CARDS

MAX_PAGE_BYTES = 2_000_000

DOCS = CARDS.removesuffix("/methods")
LINKS = (
    ("How to read it", f"{DOCS}/docs/leaderboard.md"),
    ("Methods and papers", f"{DOCS}/methods/README.md"),
    ("Documentation", f"{DOCS}/README.md"),
    ("Submit a row", f"{DOCS}/docs/submitting.md"),
    ("Data: every row as JSON", "results/"),
    ("As text", "LEADERBOARD.md"),
)
"""Words and addresses in the head of the page."""


def methods(table: Table) -> int:
    return sum(not line.reference for line in table.lines)


def shortened(table: Table, most: int) -> Table:
    """The table with its best ``most`` methods, and its references."""
    lines = tuple(line for i, line in enumerate(table.lines) if line.reference or i < most)
    return Table(table.cell, table.title, table.caption, table.columns, lines)


def largest(sizes: Sequence[Sequence[int]], methods: Sequence[int], room: int) -> int:
    """The largest K so that the best K methods of every table, with the references, have at most ``room`` bytes.

    At least one a table.
    """
    total = sum(sum(own[count:]) for own, count in zip(sizes, methods, strict=True))  # the references
    longest = max(methods, default=0)
    for k in range(longest):
        total += sum(own[k] for own, count in zip(sizes, methods, strict=True) if k < count)
        if total > room:
            return max(1, k)
    return longest


def embedded(value: Any) -> str:
    """JSON that may stand inside a ``script`` element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _size(value: Any) -> int:
    return len(embedded(value).encode()) + 1


def page_data(laid: Sequence[Table], room: int) -> dict[str, Any]:
    """What the page's script draws from.

    Args:
        laid: every table, with the columns of all students.
        room: bytes that the rows may take, as JSON.
    """
    lines = [_lines(table) for table in laid]
    most = largest([[_size(line) for line in own] for own in lines], [methods(table) for table in laid], room)
    shown = [_kept(own, table, most) for own, table in zip(lines, laid, strict=True)]
    return {
        "tables": [_table(table, own) for table, own in zip(laid, shown, strict=True)],
        "most": most,
        "methods": _methods(lines),
        "left": sum(len(every) - len(own) for every, own in zip(lines, shown, strict=True)),
        "links": [list(one) for one in LINKS],
    }


def without_rows(data: dict[str, Any]) -> dict[str, Any]:
    """The same without a row: what the rows leave of the page's room does not hang on them."""
    return data | {"tables": [table | {"rows": []} for table in data["tables"]]}


def _methods(tables: Sequence[Sequence[dict[str, Any]]]) -> dict[str, dict[str, str]]:
    """What is known of the methods of the rows that this package has: they are shown in an opened row."""
    there = {line["m"] for lines in tables for line in lines if "m" in line}
    found = {}
    for name, (_, facts) in shipped().items():
        if name in there:
            said = {
                "title": facts.title,
                "line": facts.line,
                "family": facts.family,
                "paper": facts.paper,
                "cited": facts.citation,
                "url": facts.address,
                "code": facts.code,
                "licence": facts.licence or "",
                "card": f"{CARDS}/{name}/README.md",
            }
            found[name] = {key: text for key, text in said.items() if text}
    return found


def _kept(lines: Sequence[Any], table: Table, most: int) -> list[Any]:
    """The lines that :func:`shortened` keeps."""
    return [line for i, line in enumerate(lines) if table.lines[i].reference or i < most]


def _table(table: Table, lines: Sequence[Any]) -> dict[str, Any]:
    cell = table.cell
    return {
        "title": table.title,
        "dataset": cell.dataset,
        "budget": budget_text(cell.budget, cell.items),
        "value": cell.budget.value if cell.budget.unit != "all" else None,
        "counted": f"{cell.items} per class" if cell.budget.unit == "ipc" else cell.budget.unit,
        "labels": cell.label_kind,
        "protocol": cell.protocol.name,
        "hash": cell.protocol.hash,
        "changed": ", ".join(f"{name} = {json.dumps(v)}" for name, v in sorted(cell.protocol.changed.items())),
        "standard": cell.protocol.standard,
        "precision": cell.precision,
        "fingerprint": cell.fingerprint[:12],
        "metric": cell.described.title,
        "unit": cell.described.unit,
        "better": cell.described.better,
        "students": list(cell.students),
        "columns": [_column(column) for column in table.columns],
        "rows": list(lines),
        **({"note": note} if (note := teacher_note(cell)) else {}),
    }


def _column(column: Column) -> dict[str, Any]:
    found: dict[str, Any] = {"t": column.title, "h": column.hint, "g": column.group}
    if column.number:
        found["n"] = 1
    if column.measure is not None and column.measure.student:
        found["s"] = column.measure.student
    if column.measure is not None and column.measure.better == "lower":
        found["low"] = 1
    return found


def _lines(table: Table) -> list[dict[str, Any]]:
    """The rows of a table; where some are not verified, each that is says what is otherwise among those that are."""
    lines, cell = [_line(table, line) for line in table.lines], table.cell
    some = None if all(row.verified or row.reference for row in cell.rows) else verified_part(cell)
    if some is None:
        return lines
    part = lay_out(replace(some, labellers=cell.labellers), everyone=True)  # the note below the table is that of all
    places = [(i, part.columns.index(one)) for i, one in enumerate(table.columns) if one in part.columns]
    there = {line.row.first.id: line for line in part.lines if line.row is not None}
    for found in lines:
        if found.get("id") not in there:
            continue
        line = there[found["id"]]
        new = {i: _entry(line, at, part) for i, at in places if table.columns[i].group != PLACE}
        other = {i: entry for i, entry in new.items() if entry != found["e"][i]}
        ranks = _ranks(some, line.row)
        said = {**({"k": ranks} if ranks != found["k"] else {}), **({"e": other} if other else {})}
        found |= {"v": said} if said else {}
    return lines


def _ranks(cell: Cell, row: Row | None) -> list[int]:
    """The place of a row by each student; 0: none."""
    return [0 if row is None else cell.rank(row, student) or 0 for student in cell.students]


def _line(table: Table, line: Line) -> dict[str, Any]:
    """A row of the page: entries, ranks by student, and what search and plots need."""
    found: dict[str, Any] = {"e": [_entry(line, i, table) for i in range(len(table.columns))]}
    row, cell = line.row, table.cell
    if line.reference:
        found["ref"] = line.reference
    if row is None:
        return found
    said = row.first.submission
    stands = [against_random_text(cell.against_random(row, student), cell.described.unit) for student in cell.students]
    found |= {
        "id": row.first.id,
        "m": row.method,
        "k": _ranks(cell, row),
        "b": rounded(row.stored),
        "q": " ".join([said.method_title, *said.authors, said.licence, *(one.id for one in row.results)]).strip(),
        "path": result_path(row.first).as_posix(),
    }
    if row.verified:
        found["ok"] = 1
    if cell.labellers:
        found["t"] = " ".join(sorted(row.labellers))
    if len(row.results) > 1:
        found["n"] = len(row.results)
    if any(stands):
        found["a"] = stands
    return found


def _entry(line: Line, place: int, table: Table) -> Any:
    """``[text, key, best, detail, half of the interval]`` without the empty end; 0: nothing."""
    entry, column = line.entries[place], table.columns[place]
    if column.title == METHOD and line.row is not None:  # how it stands to random images hangs on the student
        entry = replace(entry, detail=what_it_is(table.cell, line.row))
    if entry == EMPTY:
        return 0
    half = None
    if line.row is not None and column.measure is not None and column.measure.group == MAIN:
        half = half_width(line.row.scores[column.measure].statistics)
    found = [entry.text, _key(entry), int(entry.best), entry.detail, rounded(half) if half is not None else 0]
    while len(found) > 2 and not found[-1]:
        found.pop()
    return found[:1] if len(found) == 2 and found[1] == found[0] else found


def _key(entry: Entry) -> Any:
    return rounded(float(entry.key)) if isinstance(entry.key, int | float) else entry.key
