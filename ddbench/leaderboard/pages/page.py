"""The generated files: ``LEADERBOARD.md``, ``index.html`` and a file for each row. Same results, same bytes.

The page carries its rows as JSON, and its script draws tables, plots and opened rows by DOM calls, never from markup:
no text of a submitter is parsed as HTML. What fits is decided in :mod:`ddbench.leaderboard.pages.embed`; what an opened
row shows is loaded from its own file (:mod:`ddbench.leaderboard.pages.row_files`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ddbench.leaderboard.board import Board, read_board
from ddbench.leaderboard.kept import Kept, board_digest
from ddbench.leaderboard.pages import embed, markdown, row_files, truth
from ddbench.leaderboard.pages.embed import largest, methods, shortened
from ddbench.leaderboard.pages.view import Table, lay_out, parts
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.schema import RESULTS, result_path
from ddbench.leaderboard.truth import reproduction_plans, truths
from ddbench.leaderboard.verification import SUFFIX
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash, write_derived, write_text

MARKDOWN_BYTES = 400_000
"""Bound on the table lines of LEADERBOARD.md; a page beyond half a megabyte is not rendered by code hosts."""
PAGES = 2
"""So many of the generated files are pages; the others are what one loads."""
SCRIPTS = ("dom.js", "plots.js", "panel.js", "compare.js", "table.js", "board.js")


def tables(root: Path) -> list[Table]:
    """The board of a folder, laid out.

    Raises:
        UserError: as :func:`read_board`.
    """
    return [lay_out(cell) for cell in read_board(root).cells]


def render(root: Path, results: Sequence[Result] | None = None) -> dict[Path, str]:
    """The text of every generated file of the board at ``root``: the two pages, then the files of the rows.

    Args:
        results: its rows where they were read already.

    Raises:
        UserError: as :func:`read_board`, or a preview is refused.
    """
    board = read_board(root, results)
    laid = [lay_out(cell, everyone=True) for cell in board.cells]
    html, shown = _html(board, laid)
    pages = {root / "LEADERBOARD.md": _markdown(board), root / "index.html": html}
    return pages | dict(row_files.row_files(board, shown))


def build(root: Path, results: Sequence[Result] | None = None) -> list[Path]:
    """Write ``LEADERBOARD.md``, ``index.html`` and the files of the rows; remove those of rows that are gone.

    Rows that another process adds meanwhile are on the pages: of two that build at once the one that writes last may
    have read first.

    Returns:
        The paths, the two pages first.

    Raises:
        UserError: as :func:`render`, or the folder cannot be written to.
    """
    before = board_digest(root / RESULTS)
    if (known := _as_kept(root, before)) is not None:
        return known
    there = _there(root)
    if results is not None and len(results) != sum(not path.name.endswith(SUFFIX) for path in there):
        results = None
    while True:
        pages = render(root, results)
        texts = [(path, text) for path, text in pages.items() if not _holds(path, text.encode())]
        write_derived({path: text for path, text in texts if path.parent != root})
        for path, text in texts:
            if path.parent == root:
                write_text(path, text)
        for path in row_files.stale(root, set(pages)):
            path.unlink(missing_ok=True)
        earlier, there, results = there, _there(root), None
        if there == earlier:
            _keep(root, before, pages)
            return list(pages)
        before = board_digest(root / RESULTS)


def _there(root: Path) -> dict[Path, int]:
    """When each row and verification of a board was written."""
    return {path: path.stat().st_mtime_ns for path in (root / RESULTS).rglob("*.json")}


def check(root: Path, results: Sequence[Result] | None = None) -> list[Path]:
    """Compare the generated files with a fresh build; returns their paths.

    Raises:
        UserError: as :func:`render`, a file is missing or differs, or one is of a row that is not there.
    """
    before = board_digest(root / RESULTS)
    if (known := _as_kept(root, before)) is not None:
        return known
    pages = render(root, results)
    again = f"run `ddbench leaderboard build --leaderboard {root}` and commit it"
    for path, text in pages.items():
        if not _holds(path, text.encode()):
            raise UserError(f"{path} {'differs from a fresh build' if path.is_file() else 'is missing'}: {again}")
    for path in row_files.stale(root, set(pages)):
        raise UserError(f"{path} is of no row that is on the page: {again}")
    _keep(root, before, pages)
    return list(pages)


def _as_kept(root: Path, before: bytes | None) -> list[Path] | None:
    """The generated files where they are, to the byte, what these very results gave before; else None."""
    text = None if before is None else Kept(root).product("pages", before)
    if text is None:
        return None
    hashes = {root / name: found for name, found in json.loads(text)}
    same = all(path.is_file() and file_hash(path) == found for path, found in hashes.items())
    return list(hashes) if same and not row_files.stale(root, set(hashes)) else None


def _keep(root: Path, before: bytes | None, pages: Mapping[Path, str]) -> None:
    """Keep what these results gave, if nobody wrote meanwhile."""
    if before is not None and board_digest(root / RESULTS) == before:
        hashes = [
            (path.relative_to(root).as_posix(), sha256(text.encode()).hexdigest()) for path, text in pages.items()
        ]
        Kept(root).keep("pages", before, json.dumps(hashes))


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _asset(name: str) -> str:
    return (files("ddbench.leaderboard") / "templates" / name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ddbench.leaderboard"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown.escape, "mdlink": markdown.link}
    environment.globals |= {"result_path": lambda result: result_path(result).as_posix()}
    return environment


def _counts(board: Board) -> dict[str, Any]:
    """What the head of both pages says."""
    rows = {row.first.id: row for cell in board.cells for row in cell.rows}
    standing = {result.id for row in rows.values() for result in row.results}
    known = [one for name, one in board.checked.items() if name in standing and one.verdict != "below"]
    return {
        "results": len(standing),
        "tables": len(board.cells),
        "methods": len({row.method for row in rows.values()}),
        "datasets": len({cell.dataset for cell in board.cells}),
        "earlier": sum(len(row.earlier) for row in rows.values()),
        "verified": len(known),
        "partial": sum(one.partial for one in known),
    }


# LEADERBOARD.md


def _markdown(board: Board) -> str:
    shown = [lay_out(cell) for cell in board.cells]
    sizes = [
        [sum(len(entry.text) + len(entry.detail) + 4 for entry in line.entries) * 2 for line in table.lines]
        for table in shown
    ]
    most = largest(sizes, [methods(table) for table in shown], MARKDOWN_BYTES)
    shown = [shortened(table, most) for table in shown]
    left = sum(len(cell.rows) for cell in board.cells) - sum(line.row is not None for t in shown for line in t.lines)
    pictures = {
        result.id
        for table in shown
        for line in table.lines
        if line.row is not None and not line.reference
        for result in line.row.results
        if (board.root / result_path(result)).with_suffix(".png").is_file()
    }
    text = (
        _environment()
        .get_template("LEADERBOARD.md.j2")
        .render(
            tables=[(table, parts(table)) for table in shown],
            counts=_counts(board),
            pictures=pictures,
            most=most if left else None,
            left=left,
        )
    )
    return str(text)


# index.html


def _truth(board: Board) -> dict[str, Any] | None:
    """What of published figures the board has measured; None: nothing."""
    found = truths(reproduction_plans(), board.results, board.verifications)
    shown = [line for line in truth.lines(found) if line.word != "open"]
    if not shown:
        return None
    return {"summary": truth.summary(found), "open": len(found) - len(shown), "head": truth.HEAD, "lines": shown}


def _html(board: Board, laid: Sequence[Table]) -> tuple[str, list[Table]]:
    """The page, and the tables as it has them."""
    style, script = _asset("style.css"), "\n".join(_asset(name) for name in SCRIPTS)
    template = _environment().get_template("index.html.j2")
    context = {
        "counts": _counts(board),
        "empty": not board.cells,
        "truth": _truth(board),
        "style": Markup(style),
        "script": Markup(script),
        # 'self' and, where the page is a file, file: are for the files of rows and the pictures of synsets
        "policy": (
            f"default-src 'none'; img-src 'self' file: data:; style-src '{_source_hash(style)}'; "
            f"script-src 'self' file: '{_source_hash(script)}'; base-uri 'none'; form-action 'none'"
        ),
    }

    def page(data: dict[str, Any]) -> str:
        return str(template.render(context, data=Markup(embed.embedded(data))))

    bare = page(embed.without_rows(embed.page_data(laid, 0)))
    data = embed.page_data(laid, embed.MAX_PAGE_BYTES - len(bare.encode()) - 100)  # 100: the counts of rows
    return page(data), [embed.shortened(table, data["most"]) for table in laid]
