"""The board in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.table import Table as Grid
from rich.text import Text

from ddbench.leaderboard.board import read_board
from ddbench.leaderboard.kept import made_once
from ddbench.leaderboard.pages.view import METHOD, PLACE, Entry, Table, lay_out, parts
from ddbench.leaderboard.select import Selection

PLAIN_WIDTH = 200
"""Columns when the output is no terminal."""

EDGES = 3
"""Columns of the terminal that a field takes beside its text."""


def show_board(root: Path, selection: Selection, ids: bool = False) -> None:
    """Print part of a board; the same part of the same files as it was printed before (:mod:`..kept`).

    Args:
        ids: with the ids of the rows.

    Raises:
        UserError: as :func:`read_board`, or nothing of the board is all that is asked for.
    """
    console = _console()

    def make() -> str:
        cells = read_board(root).select(selection)
        with console.capture() as captured:
            tables = [lay_out(cell, selection.student) for cell in cells]
            show([table.identified() for table in tables] if ids else tables, console)
        return captured.get()

    look = (console.width, console.color_system, console.is_terminal, console.encoding, console.legacy_windows)
    console.file.write(made_once(root, "show", f"{selection} {ids} {look} {console.no_color}", make))


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def show(tables: Sequence[Table], console: Console | None = None) -> None:
    """Print the tables; text of submitters is never read as markup."""
    console = console or _console()
    if not tables:
        console.print("the board is empty; `ddbench submit RUN` adds a row")
    for table in tables:
        cell = table.cell
        title = f"{table.title} · {cell.label_kind} labels · {cell.protocol.name} {cell.protocol.hash}"
        if not cell.protocol.standard:
            title += " · non-standard"
        narrow = (one for part in parts(table) for one in _fitting(part, console.width))
        for place, part in enumerate(narrow):
            console.print(_grid(part, *((title, table.caption) if place == 0 else (f"{table.title}, continued", ""))))


def _fitting(table: Table, width: int) -> list[Table]:
    """The table as as many as it takes for heads and numbers to stand whole, each with rank and method."""
    room = [EDGES + _room(table, number) for number in range(len(table.columns))]
    place = [number for number, column in enumerate(table.columns) if column.group == PLACE]
    taken: list[list[int]] = [[]]
    for number in range(len(table.columns)):
        if number in place:
            continue
        if taken[-1] and 1 + sum(room[one] for one in (*place, *taken[-1], number)) > width:
            taken.append([])
        taken[-1].append(number)
    return [table.at([*place, *chosen]) for chosen in taken]


def _room(table: Table, number: int) -> int:
    """The width of a column: texts and its head stand whole, what is told below them and methods break at spaces.

    The methods' takes the room that the others leave.
    """
    column = table.columns[number]
    entries = [line.entries[number] for line in table.lines]
    broken = [word for entry in entries for word in f"({entry.detail})".split()]
    texts = [entry.text for entry in entries]
    whole = texts if column.title != METHOD else [word for text in texts for word in text.split()]
    return max(map(len, [column.title, *whole, *broken]))


def _field(entry: Entry) -> str:
    return f"{entry.text} ({entry.detail})" if entry.detail else entry.text


def _grid(table: Table, title: str, caption: str) -> Grid:
    below = _line(caption) if caption else None
    grid = Grid(title=_line(title), caption=below, title_justify="left", caption_justify="left")
    for number, column in enumerate(table.columns):
        justify: JustifyMethod = "right" if column.number else "left"
        width = None if column.title == METHOD else _room(table, number)
        grid.add_column(_line(column.title), justify=justify, vertical="top", width=width, overflow="fold")
    for line in table.lines:
        fields = [_field(entry) for entry in line.entries]
        grid.add_row(
            *(_line(text, "bold" if entry.best else "") for text, entry in zip(fields, line.entries, strict=True))
        )
    return grid


def _line(text: str, style: str = "") -> Text:
    return Text(" ".join(text.split()), style=style)
