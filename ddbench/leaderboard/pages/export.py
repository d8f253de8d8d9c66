"""The board for other programs: CSV, Parquet, LaTeX, JSON and SQLite.

CSV, Parquet and the table ``numbers`` of SQLite are long: one line for each number of each row of the board. LaTeX is
the table as one prints it. JSON is the index: every table with its rows and what was measured.
"""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.leaderboard.columns import Measure
from ddbench.leaderboard.coverage import Checked
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.rows import Cell, Row, Score, wanted_references
from ddbench.leaderboard.schema import result_path, same_subject
from ddbench.runtime.errors import UserError, install_words
from ddbench.runtime.files import plain_or_absent, write_atomic, write_bytes, write_text
from ddbench.statistics import Statistics

if TYPE_CHECKING:
    import pandas

Record = dict[str, Any]

KIND = "ddbench-index"
SCHEMA = 1
FORMATS = ("csv", "parquet", "latex", "json", "sqlite")
BINARY = ("parquet", "sqlite")
"""Formats that are no text for a terminal."""
FORMULA = r"=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n"
"""A cell that begins with one of these, of full width too, is a formula to a spreadsheet program."""
BEGINS = re.compile(rf"(^|;)(\s*[{FORMULA}])")
"""Where a text is a formula: as a cell, and behind a semicolon, at which spreadsheets of many languages part a line."""


def default_path(root: Path, kind: str) -> Path | None:
    """Where a format goes when no file is named: ``index.sqlite`` beside the pages; None: text, to the terminal."""
    return root / f"index.{kind}" if kind in BINARY else None


def records(cells: Sequence[Cell], student: str = "") -> Iterator[Record]:
    """One record for each measured number, in the order of the board.

    Args:
        student: whose rank, order and difference to random images; empty: of every table the one that ranks.
    """
    for cell in cells:
        table = _table_of(cell)
        for row in cell.ordered(student):
            head = table | _row_of(cell, row, student)
            for measure, score in row.scores.items():
                yield head | {"student": measure.student, "metric": _name(measure)} | _number_of(score)
            for name, metric, statistics in _others(row):
                number = _number_of(Score(statistics, None, False, False)) | {"comparable": None}  # nobody has looked
                yield head | {"student": name, "metric": metric} | number


def _name(measure: Measure) -> str:
    return f"cross_{measure.metric}" if measure.group == "cross" else measure.metric


def _table_of(cell: Cell) -> Record:
    return {
        "dataset": cell.dataset,
        "fingerprint": cell.fingerprint,
        "budget_unit": cell.budget.unit,
        "budget": cell.budget.value,
        "labels": cell.label_kind,
        "protocol": cell.protocol.name,
        "protocol_hash": cell.protocol.hash,
        "standard": bool(cell.protocol.standard),
        "changed": json.dumps(cell.protocol.changed, sort_keys=True, ensure_ascii=False),
        "precision": cell.precision,
    }


def _row_of(cell: Cell, row: Row, student: str) -> Record:
    said, against = row.first.submission, cell.against_random(row, student)
    return {
        "ranked_by": student or cell.students[0],
        "rank": cell.rank(row, student),
        "method": row.method,
        "reference": row.reference,
        "teacher": " ".join(sorted(row.labellers)),
        "usual_teacher": not cell.labelled_otherwise(row) if row.labellers else None,
        "title": said.method_title,
        "authors": "; ".join(said.authors),
        "id": " ".join(result.id for result in row.results),
        "verified": "" if row.checked is None else row.checked.verdict,
        "verified_networks": None if row.checked is None else row.checked.again,
        "claimed_networks": None if row.checked is None else row.checked.claimed,
        "stored_bytes": row.stored,
        "compression": row.compression,
        "bits_per_class": row.bits,
        "zstd_bits_per_class": row.packed_bits,
        "distill_cpu_seconds": row.distill_seconds,
        "against_random": "" if against is None else against.verdict,
        "random_difference": None if against is None else against.difference,
        "random_low": None if against is None else against.low,
        "random_high": None if against is None else against.high,
        "random_labelled_alike": None if against is None else against.labelled_alike,
    }


def _number_of(score: Score) -> Record:
    found = score.statistics
    numbers = {"mean": found["mean"], "std": found["std"], "n": found["n"], "low": found["low"], "high": found["high"]}
    return numbers | {"place": score.rank, "best": score.best, "comparable": not score.odd}


def _others(row: Row) -> Iterator[tuple[str, str, Statistics]]:
    """Metrics of a row's only result that are no column of the board."""
    if len(row.results) > 1:
        return
    columns = {(measure.student, measure.metric) for measure in row.scores}
    for student, own in sorted(row.first.statistics.items()):
        for metric, statistics in sorted(own.items()):
            if (student, metric) not in columns:
                yield student, metric, statistics


def frame(cells: Sequence[Cell], student: str = "") -> pandas.DataFrame:
    """The records as a data frame: text, Int64 for ranks and counts, float64 for numbers, boolean for what may be open.

    Raises:
        UserError: pandas is not installed.
    """
    pandas = load_pandas()
    table = pandas.DataFrame(list(records(cells, student)), columns=_COLUMNS)
    for name in ("rank", "place", "n", "verified_networks", "claimed_networks"):
        table[name] = table[name].astype("Int64")
    differences = ("random_difference", "random_low", "random_high")
    rates = ("compression", "bits_per_class", "zstd_bits_per_class")
    for name in ("mean", "std", "low", "high", *rates, "distill_cpu_seconds", *differences):
        table[name] = table[name].astype("float64")
    for name in ("usual_teacher", "comparable", "random_labelled_alike"):
        table[name] = table[name].astype("boolean")
    for name in ("budget", "stored_bytes"):
        whole = all(float(value).is_integer() for value in table[name])
        table[name] = table[name].astype("Int64" if whole else "float64")
    return table


_COLUMNS = (
    *("dataset", "fingerprint", "budget_unit", "budget", "labels", "protocol", "protocol_hash", "standard", "changed"),
    *("precision", "ranked_by", "rank", "method", "reference", "teacher", "usual_teacher"),
    *("title", "authors", "id", "verified", "verified_networks"),
    *(
        "claimed_networks",
        "stored_bytes",
        "compression",
        "bits_per_class",
        "zstd_bits_per_class",
        "distill_cpu_seconds",
        "against_random",
        "random_difference",
        "random_low",
        "random_high",
        "random_labelled_alike",
    ),
    *("student", "metric", "mean", "std", "n", "low", "high", "place", "best", "comparable"),
)


def load_pandas() -> Any:
    """pandas, imported where a table is made.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UserError("this format needs pandas: pip install pandas (json and sqlite need nothing)") from None
    return pandas


def csv_text(cells: Sequence[Cell], student: str = "") -> str:
    """The records as CSV, all text in quotes; what a spreadsheet would take for a formula gets an apostrophe before it.

    Raises:
        UserError: pandas is not installed.
    """
    table = frame(cells, student)
    for name in table.columns:
        if table[name].dtype == object or str(table[name].dtype).startswith("str"):
            table[name] = table[name].map(harmless)
    return str(table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC))


def harmless(text: Any) -> Any:
    """A text that no spreadsheet program runs: an apostrophe before each part of it that would be a formula."""
    return BEGINS.sub(r"\1'\2", text) if isinstance(text, str) else text


def write_parquet(path: Path, cells: Sequence[Cell], student: str = "") -> None:
    """Write the records as Parquet.

    Raises:
        UserError: pandas or pyarrow is not installed, or the folder cannot be written to.
    """
    table = frame(cells, student)
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(f"--format parquet needs pyarrow: {install_words('parquet')}") from None
    write_atomic(path, lambda temporary: table.to_parquet(temporary, index=False, engine="pyarrow"))


def index(cells: Sequence[Cell], student: str = "") -> Record:
    """The board as one JSON value: tables, their rows, and for every row what was measured and where its files are."""
    return {"kind": KIND, "schema": SCHEMA, "tables": [_indexed(cell, student) for cell in cells]}


def _indexed(cell: Cell, student: str) -> Record:
    rows = []
    for row in cell.ordered(student):
        numbers = [
            {"student": measure.student, "metric": _name(measure)} | _number_of(score)
            for measure, score in row.scores.items()
        ]
        more = {
            "results": [{"id": result.id, "path": result_path(result).as_posix()} for result in row.results],
            "superseded": [{"id": result.id, "path": result_path(result).as_posix()} for result in row.earlier],
            "numbers": numbers,
        }
        rows.append(_row_of(cell, row, student) | more)
    measured = {row.reference for row in cell.rows}
    missing = [name for name in wanted_references(cell) if name not in measured]
    return _table_of(cell) | {"metric": cell.metric, "students": list(cell.students), "rows": rows, "missing": missing}


def json_text(cells: Sequence[Cell], student: str = "") -> str:
    """:func:`index` as text."""
    return json.dumps(index(cells, student), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


TABLES = """
CREATE TABLE results (id TEXT PRIMARY KEY, path TEXT NOT NULL, dataset TEXT, budget_unit TEXT, budget REAL,
  labels TEXT, method TEXT, protocol TEXT, protocol_hash TEXT, standard INTEGER, synset_sha256 TEXT, seed INTEGER,
  superseded_by TEXT, verified TEXT, stored_bytes INTEGER, real_bytes INTEGER, verified_networks INTEGER,
  claimed_networks INTEGER, teacher TEXT);
CREATE TABLE runs (id TEXT NOT NULL, student TEXT, seed INTEGER, metric TEXT, value REAL);
CREATE TABLE numbers ({columns});
CREATE INDEX runs_of ON runs (id, student, metric);
CREATE INDEX results_of ON results (dataset, budget, method);
CREATE INDEX numbers_of ON numbers (dataset, budget, metric, student);
"""


def write_sqlite(path: Path, cells: Sequence[Cell], student: str = "") -> None:
    """Write the index as an SQLite file: ``results``, ``runs`` (every single one) and ``numbers`` (the records).

    A file that is there is replaced as a whole.

    Raises:
        UserError: it exists and is no SQLite file, or the folder cannot be written to.
    """
    if plain_or_absent(path, "index"):
        with open(path, "rb") as handle:
            if handle.read(16) != b"SQLite format 3\0":
                raise UserError(f"{path}: holds something else than an index; choose another --out")
    write_bytes(path, _database(cells, student))


def _database(cells: Sequence[Cell], student: str) -> bytes:
    """The file; made in memory, so that a disk that refuses it is told as of any file."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(TABLES.format(columns=", ".join(_COLUMNS)))
        stand: dict[str, tuple[Result, Checked | None]] = {}
        for cell in cells:
            for row in cell.rows:
                for result in (*row.results, *row.earlier):
                    stand[result.id] = (result, row.verdicts.get(result.id))
        replaced = _replaced(cells)
        connection.executemany(
            f"INSERT INTO results VALUES ({', '.join('?' * 19)})",
            (_result_line(result, replaced.get(name), known) for name, (result, known) in stand.items()),
        )
        connection.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", _run_lines(r for r, _ in stand.values()))
        connection.executemany(
            f"INSERT INTO numbers VALUES ({', '.join('?' * len(_COLUMNS))})",
            (tuple(record[name] for name in _COLUMNS) for record in records(cells, student)),
        )
        connection.commit()
        return connection.serialize()
    finally:
        connection.close()


def _replaced(cells: Sequence[Cell]) -> dict[str, str]:
    """Id of a folded result -> id of the one that names it, or else (two boards were merged) of the one that stands."""
    found: dict[str, str] = {}
    for row in (row for cell in cells for row in cell.rows if row.earlier):
        standing = {same_subject(result): result.id for result in row.results}
        found |= {result.id: standing[same_subject(result)] for result in row.earlier}
        found |= {one.supersedes: one.id for one in (*row.earlier[::-1], *row.results) if one.supersedes}
    return found


def _result_line(result: Result, replaced: str | None, known: Checked | None) -> tuple[Any, ...]:
    synset, protocol = result.synset, result.protocol
    return (
        *(result.id, result_path(result).as_posix(), synset.dataset, synset.budget.unit),
        *(synset.budget.value, synset.label_kind, synset.method, protocol.name, protocol.hash),
        *(protocol.standard, synset.sha256, synset.seed, replaced),
        *(None if known is None else known.verdict, synset.bytes.total, synset.bytes.real),
        *((None, None) if known is None else (known.again, known.claimed)),
        result.labeller,
    )


def _run_lines(results: Iterator[Result]) -> Iterator[tuple[Any, ...]]:
    for result in results:
        for run in result.runs:
            for metric, value in run.metrics.items():
                yield result.id, run.student, run.seed, metric, value


def write_export(path: Path, kind: str, cells: Sequence[Cell], text: str = "", student: str = "") -> None:
    """Write one format into a file.

    Args:
        kind: of :data:`FORMATS`.
        text: what is written for the formats that are text.
        student: as in :func:`records`.

    Raises:
        UserError: as the format's own function, or the folder cannot be written to.
    """
    if kind == "parquet":
        write_parquet(path, cells, student)
    elif kind == "sqlite":
        write_sqlite(path, cells, student)
    elif kind == "csv":
        write_bytes(path, text.encode())
    else:
        write_text(path, text)
