"""The board in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ddbench.leaderboard.board import read_board
from ddbench.leaderboard.kept import made_once
from ddbench.leaderboard.pages.view import Table, lay_out, parts
from ddbench.leaderboard.select import Selection, select

PLAIN_WIDTH = 200
"""Columns when the output is no terminal: wide enough that nothing is cut."""


def show_board(root: Path, selection: Selection) -> None:
    """Print part of a board; the same part of the same files as it was printed before (:mod:`..kept`).

    Raises:
        UserError: as :func:`read_board` and :func:`select`.
    """
    console = _console()

    def make() -> str:
        cells = select(read_board(root).cells, selection)
        with console.capture() as captured:
            show([lay_out(cell, selection.student) for cell in cells], console)
        return captured.get()

    look = (console.width, console.color_system, console.is_terminal, console.encoding, console.legacy_windows)
    console.file.write(made_once(root, "show", f"{selection} {look} {console.no_color}", make))


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
        for place, part in enumerate(parts(table)):
            console.print(_grid(part, title if place == 0 else f"{table.title}, continued", table.caption))


def _grid(table: Table, title: str, caption: str) -> Grid:
    grid = Grid(title=_line(title), caption=_line(caption), title_justify="left", caption_justify="left")
    for column in table.columns:
        grid.add_column(_line(column.title), justify="right" if column.number else "left", vertical="top")
    for line in table.lines:
        fields = [f"{entry.text} ({entry.detail})" if entry.detail else entry.text for entry in line.entries]
        grid.add_row(
            *(_line(text, "bold" if entry.best else "") for text, entry in zip(fields, line.entries, strict=True))
        )
    return grid


def _line(text: str, style: str = "") -> Text:
    return Text(" ".join(text.split()), style=style)
