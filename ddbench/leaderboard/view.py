"""What the tables say, as text: the same columns and entries for the page, the Markdown and the terminal."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ddbench.leaderboard.rows import Cell, Row, Statistics
from ddbench.leaderboard.schema import Result, students

NONE = "–"
PROTOCOL_FLAGS = ("epochs", "lr", "augmentation", "max_images")
"""Protocol settings that ``ddbench evaluate`` can alter by a flag of the same name."""


@dataclass(frozen=True)
class Column:
    """Head of a column; ``hint`` explains it."""

    title: str
    number: bool
    hint: str


@dataclass(frozen=True)
class Entry:
    """One field of a row: its text, what it is sorted by (None: last), whether it is (tied) best, and a second line."""

    text: str
    key: float | str | None
    best: bool = False
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A cell of the board, laid out."""

    cell: Cell
    title: str
    caption: str
    columns: tuple[Column, ...]
    lines: tuple[tuple[Row, tuple[Entry, ...]], ...]


def budget_text(budget: dict[str, object]) -> str:
    """``IPC 10``, ``all images``, or unit and value."""
    if budget["unit"] == "all":
        return "all images"
    return f"IPC {budget['value']}" if budget["unit"] == "ipc" else f"{budget['unit']} {budget['value']}"


def number_text(value: float, unit: str) -> str:
    """Fractions in per cent with one decimal, other units with four digits."""
    return f"{100 * value:.1f}" if unit == "fraction" else f"{value:.4g}"


def statistics_text(statistics: Statistics, unit: str) -> str:
    """``88.7 ± 0.9``: mean and half of the 95 % interval, or the mean alone for a single run."""
    mean = number_text(statistics["mean"], unit)
    if statistics["low"] is None:
        return mean
    return f"{mean} ± {number_text((statistics['high'] - statistics['low']) / 2, unit)}"


def bytes_text(count: float) -> str:
    """Bytes with a decimal prefix."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def seconds_text(seconds: float) -> str:
    """Seconds to three digits, in minutes or hours when there are many."""
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def ratio_text(ratio: float) -> str:
    """A factor: ``32.2 ×``, ``1,200 ×``."""
    return f"{ratio:.1f} ×" if ratio < 99.95 else f"{ratio:,.0f} ×"


def lay_out(cell: Cell) -> Table:
    """Columns and entries of one cell; columns in which no row has anything are left out."""
    unit = cell.described["unit"]
    percent = " in per cent" if unit == "fraction" else "" if unit == "1" else f" in {unit}"
    columns = [
        Column("rank", True, "by the mean of the first student"),
        Column("method", False, "how the synset was made"),
    ]
    columns += [Column(name, True, f"mean and half of its 95 % interval, {name}") for name in cell.students]
    columns += [
        Column("cross-arch.", True, "mean over the students that the synset was not distilled on"),
        Column("stored", True, "bytes of images, labels and everything else that training needs"),
        Column("compression", True, "bytes of the real training set over stored bytes"),
        Column("distillation", True, "CPU time of the distillation"),
        Column("seeds", True, "independently initialised students"),
        Column("claim", True, "what the authors report"),
        Column("made with", False, "torch version and device of the evaluation"),
    ]
    table = [_entries(cell, row) for row in cell.rows]
    used = [i for i in range(len(columns)) if i < 2 or any(entries[i].text != NONE for entries in table)]
    better = "" if cell.described["better"] == "higher" else ", lower is better"
    caption = f"{cell.described['title']}{percent}{better}: mean ± half of the 95 % interval."
    if cell.students:
        caption += f" Ranked by {cell.students[0]}."
    return Table(
        cell=cell,
        title=f"{cell.dataset}, {budget_text(cell.budget)}",
        caption=caption,
        columns=tuple(columns[i] for i in used),
        lines=tuple((row, tuple(entries[i] for i in used)) for row, entries in zip(cell.rows, table, strict=True)),
    )


def _entries(cell: Cell, row: Row) -> list[Entry]:
    unit = cell.described["unit"]
    empty = Entry(NONE, None)
    scores = [
        Entry(statistics_text(found, unit), found["mean"], student in row.best) if found else empty
        for student, found in ((student, row.summary.get(student)) for student in cell.students)
    ]
    cross = empty
    if row.cross:
        mean, count = row.cross
        partial = count < len(cell.students) - 1
        cross = Entry(number_text(mean, unit), mean, detail=f"{count} of {len(cell.students) - 1}" if partial else "")
    spent = row.distill_seconds
    subsets = len(row.results)
    return [
        Entry(str(row.rank), row.rank) if row.rank else empty,
        Entry(row.method, row.method, detail=_method_detail(row)),
        *scores,
        cross,
        Entry(bytes_text(row.stored["total"]), row.stored["total"]),
        Entry(ratio_text(row.compression), row.compression),
        empty if spent is None else Entry(seconds_text(spent), spent),
        Entry(f"{subsets} × {row.seeds}" if subsets > 1 else str(row.seeds), row.seeds * subsets),
        _claim(cell, row),
        _made_with(row.first),
    ]


def _method_detail(row: Row) -> str:
    title = row.first["submission"]["method_title"]
    parts = [
        title if title != row.method else "",
        f"{len(row.results)} subsets" if len(row.results) > 1 else "",
        "all real images, not ranked" if row.full else "",
        "" if row.standard else "non-standard",
    ]
    return ", ".join(filter(None, parts))


def _claim(cell: Cell, row: Row) -> Entry:
    claims = [claim for claim in row.first["submission"]["claims"] if claim["metric"] == cell.metric]
    if not claims:
        return Entry(NONE, None)
    claims.sort(key=lambda claim: claim["student"] != cell.students[0])
    unit = cell.described["unit"]
    more = f"and {len(claims) - 1} more" if len(claims) > 1 else ""
    of = "" if claims[0]["student"] == cell.students[0] else claims[0]["student"]
    return Entry(number_text(claims[0]["value"], unit), claims[0]["value"], detail=", ".join(filter(None, (of, more))))


def _made_with(result: Result) -> Entry:
    cost = result["cost"]["evaluate"]
    parts = [result["versions"].get("torch", ""), cost["device"].partition(":")[0] if cost else ""]
    text = " · ".join(filter(None, parts)) or NONE
    return Entry(text, text)


def commands(result: Result) -> list[str]:
    """The commands that make this row again; settings other than the defaults are in the config."""
    synset, protocol = result["synset"], result["protocol"]
    distill = ["ddbench", "distill", "--method", synset["method"], "--dataset", synset["dataset"]]
    if synset["budget"]["unit"] != "all":
        distill += [f"--{synset['budget']['unit']}", str(synset["budget"]["value"])]
    if synset["student"]:
        distill += ["--student", synset["student"]]
    distill += ["--seed", str(synset["seed"]), "--out", "RUN"]
    seeds = max(run["seed"] for run in result["runs"]) + 1
    evaluate = ["ddbench", "evaluate", "RUN", "--protocol", protocol["name"]]
    evaluate += ["--students", ",".join(students(result)), "--seeds", str(seeds)]
    if result["precision"] != "float32":
        evaluate += ["--precision", result["precision"]]
    for name in PROTOCOL_FLAGS:
        if name in protocol["changed"]:
            evaluate += [f"--{name.replace('_', '-')}", str(protocol["changed"][name])]
    if synset["dataset"].startswith("folder:"):
        size = ["--size", str(synset["shape"][-1])]
        distill, evaluate = distill + size, evaluate + size
    return [shlex.join(distill), shlex.join(evaluate), "ddbench submit RUN"]
