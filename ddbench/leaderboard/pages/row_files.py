"""``rows/<id>.js`` of a board: what the page shows of a row that is opened, loaded when it is.

The page must work from ``file://``, where a page can fetch nothing but may add a script. A file is one call with one
string of JSON, which the page parses: no text of a submitter is run. Pictures stay files beside their results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ddbench.leaderboard.board import Board
from ddbench.leaderboard.kept import Kept
from ddbench.leaderboard.pages.details import Pool, row_details
from ddbench.leaderboard.pages.view import Table

FOLDER = "rows"
CALL = "ddbenchRow"
_NAME = re.compile(r"[0-9a-f]{16}\.js")


def row_files(board: Board, tables: Sequence[Table]) -> Iterator[tuple[Path, str]]:
    """Path and text of the file of every row of these tables. A row of several tables is as in the first.

    Raises:
        UserError: a preview is refused.
    """
    seen, marks = set(), Kept(board.root).marks("previews")
    for table in tables:
        for line in table.lines:
            if line.row is None or line.row.first.id in seen:
                continue
            name = line.row.first.id
            seen.add(name)
            pool = Pool()
            details = row_details(table.cell, line.row, board.root, board.verifications, pool, marks)
            yield board.root / FOLDER / f"{name}.js", script(name, details | {"texts": list(pool.texts)})
    marks.keep()


def script(name: str, value: object) -> str:
    """The call that hands a value over, as JSON in a string: a key ``__proto__`` is a key, and nothing is run."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text = text.replace("\\", "\\\\").replace("'", "\\'").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f"{CALL}('{name}','{text}')\n"


def stale(root: Path, wanted: set[Path]) -> list[Path]:
    """Files of rows that are no longer on the page. Files with another name are nobody's business."""
    found = sorted((root / FOLDER).glob("*.js"))
    return [path for path in found if path not in wanted and _NAME.fullmatch(path.name)]
