"""What the tables say, as text: the same columns and entries for the page, the Markdown, the terminal and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ddbench.leaderboard.columns import CROSS, MAIN, Measure, others
from ddbench.leaderboard.ranking import alike
from ddbench.leaderboard.result import Budget, Result
from ddbench.leaderboard.rows import FULL, RANDOM, REFERENCES, AgainstRandom, Cell, Row, wanted_references
from ddbench.statistics import FRACTION, SIGNED, Statistics, count_words, spread_words

NONE = "–"
METHOD = "method"
"""Title of the column that names the method."""
UNMEASURED = "not measured"
PLACE, COST, RATE, ABOUT = "place", "cost", "rate", "about"
"""Groups of the columns that are no measures."""
HEAD_GROUPS = (PLACE, MAIN, CROSS, COST, ABOUT)
"""The groups of the first table, where a board is printed as two; the others follow in the second."""


@dataclass(frozen=True)
class Column:
    """Head of a column; ``hint`` explains it, ``measure`` is what it shows where it is one."""

    title: str
    number: bool
    hint: str
    group: str
    measure: Measure | None = None


@dataclass(frozen=True)
class Entry:
    """One field of a row.

    Attributes:
        text: as printed.
        key: what it is sorted by; None: last.
        best: (tied) best of its column.
        detail: a second line.
    """

    text: str
    key: float | str | None
    best: bool = False
    detail: str = ""


EMPTY = Entry(NONE, None)


@dataclass(frozen=True)
class Line:
    """One line of a table; ``row`` is None for a reference that was not measured."""

    row: Row | None
    reference: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Table:
    """A cell of the board, laid out."""

    cell: Cell
    title: str
    caption: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    def only(self, groups: Sequence[str]) -> Table | None:
        """The same table with the columns of some groups; None where nothing but the place is left."""
        kept = [i for i, column in enumerate(self.columns) if column.group in groups]
        return None if all(self.columns[i].group == PLACE for i in kept) else self.at(kept)

    def at(self, kept: Sequence[int]) -> Table:
        """The same table with some of its columns, by number."""
        lines = tuple(Line(line.row, line.reference, tuple(line.entries[i] for i in kept)) for line in self.lines)
        return Table(self.cell, self.title, self.caption, tuple(self.columns[i] for i in kept), lines)

    def identified(self) -> Table:
        """The same table with the ids of its rows, which ``verify`` takes."""
        lines = tuple(Line(line.row, line.reference, (*line.entries, _ids(line.row))) for line in self.lines)
        column = Column("id", False, "of the row; of several subsets one each", ABOUT)
        return Table(self.cell, self.title, self.caption, (*self.columns, column), lines)


def parts(table: Table) -> list[Table]:
    """The table as one or two that are narrow enough to print: accuracy and cost, then what else was measured."""
    rest = [PLACE, *dict.fromkeys(column.group for column in table.columns if column.group not in HEAD_GROUPS)]
    return [part for part in (table.only(HEAD_GROUPS), table.only(rest)) if part is not None]


def budget_text(budget: Budget, items: str = "images") -> str:
    """``IPC 10``, ``all images`` (or other items), or unit and value."""
    if budget.unit == "all":
        return f"all {items}"
    return f"IPC {budget.value}" if budget.unit == "ipc" else f"{budget.unit} {budget.value}"


def number_text(value: float, unit: str) -> str:
    """Fractions in per cent with one decimal, points with one decimal, other units with four digits."""
    if unit in (FRACTION, SIGNED):
        return f"{100 * value:.1f}"
    return f"{value:.1f}" if unit == "points" else f"{value:.4g}"


def half_width(statistics: Statistics) -> float | None:
    """Half of the 95 % interval; None for a single run."""
    low, high = statistics["low"], statistics["high"]
    return None if low is None or high is None else (high - low) / 2


def statistics_text(statistics: Statistics, unit: str) -> str:
    """Mean and interval by :func:`ddbench.statistics.spread_words`."""
    return spread_words(statistics, lambda value: number_text(value, unit), unit)


def bytes_text(count: float) -> str:
    """Bytes with a decimal prefix."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def bits_text(count: float) -> str:
    """Bits to three digits with a decimal prefix: ``848 bit``, ``20.6 kbit``."""
    for unit in ("bit", "kbit", "Mbit", "Gbit"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} Tbit"


def seconds_text(seconds: float) -> str:
    """Seconds to three digits, in minutes or hours when there are many."""
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def ratio_text(ratio: float) -> str:
    """A factor: ``32.2 ×``, ``1,200 ×``."""
    return f"{ratio:.1f} ×" if ratio < 99.95 else f"{ratio:,.0f} ×"


def lay_out(cell: Cell, student: str = "", everyone: bool = False) -> Table:
    """Columns and entries of one cell; columns in which no row has anything are left out.

    Args:
        student: whose order, rank, difference to random images, calibration and robustness are shown; by default the
            student that ranks.
        everyone: keep calibration and robustness of all students (for the page, which can switch).
    """
    student = student if student in cell.students else cell.students[0]
    shown = [one for one in cell.measures if everyone or one.group in (MAIN, CROSS) or one.student in ("", student)]
    tail = [one for one in shown if one.group not in (MAIN, CROSS)]
    columns = [
        Column("rank", True, "rows that cannot be told apart share a rank", PLACE),
        Column(METHOD, False, "how the synset was made", PLACE),
        *(_measured(one) for one in shown if one.group in (MAIN, CROSS)),
        Column("stored", True, f"bytes of {cell.items}, labels and everything else that training needs", COST),
        Column("compression", True, "bytes of the real training set over stored bytes", COST),
        Column("distillation", True, "CPU time of the distillation", COST),
        Column("bits/class", True, "bits of everything stored, over the number of classes", RATE),
        Column("after zstd", True, "bits per class with every array of the synset after zstd", RATE),
        *(_measured(one) for one in tail),
        Column("seeds", True, "independently initialised students", ABOUT),
        Column("claim", True, "what the authors report", ABOUT),
        Column("verified", False, "trained again from the synset by the board: is it what was claimed?", ABOUT),
        Column("made with", False, "torch version and device of the evaluation", ABOUT),
    ]
    lines = [Line(row, row.reference, tuple(_entries(cell, row, columns, student))) for row in cell.ordered(student)]
    missing = [name for name in wanted_references(cell) if name not in {line.reference for line in lines}]
    used = [i for i in range(len(columns)) if i < 2 or any(line.entries[i].text != NONE for line in lines)]
    lines += [Line(None, name, _missing(name, len(columns))) for name in missing]
    lines.sort(key=lambda line: ("", *REFERENCES).index(line.reference))
    unit = cell.described.unit
    percent = " in per cent" if unit == FRACTION else "" if unit == "1" else f" in {unit}"
    better = "" if cell.described.better == "higher" else ", lower is better"
    caption = f"{cell.described.title}{percent}{better}: mean ± half of the 95 % interval. Ranked by {student}."
    note = teacher_note(cell)
    return Table(
        cell=cell,
        title=f"{cell.dataset}, {budget_text(cell.budget, cell.items)}",
        caption=f"{caption} {note}" if note else caption,
        columns=tuple(columns[i] for i in used),
        lines=tuple(Line(line.row, line.reference, tuple(line.entries[i] for i in used)) for line in lines),
    )


def _measured(measure: Measure) -> Column:
    arrow = ", lower is better" if measure.better == "lower" else ""
    unit = ", per cent" if measure.unit in (FRACTION, SIGNED) else ""
    hint = measure.hint if measure.group == MAIN else f"{measure.hint}{unit}{arrow}"
    return Column(measure.title, True, hint, measure.group, measure)


def _missing(name: str, width: int) -> tuple[Entry, ...]:
    return (EMPTY, Entry(name, name, detail=UNMEASURED), *[EMPTY] * (width - 2))


def _entries(cell: Cell, row: Row, columns: Sequence[Column], student: str) -> list[Entry]:
    rank, spent, known = cell.rank(row, student), row.distill_seconds, row.checked
    made = {
        "rank": Entry(str(rank), rank) if rank else EMPTY,
        METHOD: Entry(row.method, row.method, detail=_method_detail(cell, row, student)),
        "stored": Entry(bytes_text(row.stored), row.stored),
        "compression": Entry(ratio_text(row.compression), row.compression),
        "bits/class": Entry(bits_text(row.bits), row.bits),
        "after zstd": EMPTY if row.packed_bits is None else Entry(bits_text(row.packed_bits), row.packed_bits),
        "distillation": EMPTY if spent is None else Entry(seconds_text(spent), spent),
        "seeds": Entry(_seeds_text(row.seeds), sum(row.seeds)),
        "claim": _claim(cell, row, student),
        "verified": EMPTY if known is None else Entry(known.verdict, known.words, detail=known.extent),
        "made with": _made_with(row.first),
    }
    return [made[column.title] if column.measure is None else _score(cell, row, column.measure) for column in columns]


def _seeds_text(seeds: Sequence[int]) -> str:
    """``5``; of several subsets ``3 × 2``, or ``10 × 5 to 10`` where not all have as many."""
    least, most = min(seeds), max(seeds)
    each = str(most) if least == most else f"{least} to {most}"
    return f"{len(seeds)} × {each}" if len(seeds) > 1 else each


def _score(cell: Cell, row: Row, measure: Measure) -> Entry:
    score = row.scores.get(measure)
    if score is None:
        return EMPTY
    said, averaged = [], alike(row.results, measure, cell.students[0])
    if score.odd:
        count = len(others(averaged[0], cell.students[0]))
        said.append(f"over {count}" if measure.group == CROSS else "other settings")
    if len(averaged) < len(row.results):
        said.append(count_words(len(averaged), "subset"))
    text = statistics_text(score.statistics, measure.unit)
    return Entry(text, score.statistics["mean"], score.best, ", ".join(said))


def against_random_text(against: AgainstRandom | None, unit: str) -> str:
    """``above random by 20.8``, ``below random by 46.1``, ``ties with random (+1.1)``; empty where it is not known.

    Where it is not the images alone that differ, it says so.
    """
    if against is None:
        return ""
    size, other = number_text(abs(against.difference), unit), "" if against.labelled_alike else " of another teacher"
    if against.verdict == "tie":
        return f"ties with random{other} ({'-' if against.difference < 0 else '+'}{size})"
    return f"{against.verdict} random{other} by {size}"


def _method_detail(cell: Cell, row: Row, student: str) -> str:
    stands = against_random_text(cell.against_random(row, student), cell.described.unit)
    return ", ".join(filter(None, (what_it_is(cell, row), stands)))


def what_it_is(cell: Cell, row: Row) -> str:
    """What is said of a method beside its name, whoever ranks."""
    title = row.first.submission.method_title
    labels = row.first.synset.label_kind
    several = sum(one.reference == RANDOM for one in cell.rows) > 1  # of different preprocesses
    said = [
        title if _letters(title) != _letters(row.method) else "",
        f"{len(row.results)} subsets" if len(row.results) > 1 else "",
        str(row.first.synset.preprocess.get("kind", "")) if row.reference == RANDOM and several else "",
        f"{labels} labels" if row.reference == RANDOM and labels != cell.label_kind else "",
        "all real data" if row.reference == FULL and not _letters(title).startswith("allreal") else "",
        "fixed network" if row.first.fixed else "",
        teacher_text(row.labellers) if cell.labelled_otherwise(row) else "",
    ]
    return ", ".join(filter(None, said))


def teacher_text(labellers: frozenset[str]) -> str:
    """``teacher 40864f87``, by which rows of one teacher are told; ``several teachers``."""
    return f"teacher {next(iter(labellers))[:8]}" if len(labellers) == 1 else "several teachers"


def teacher_note(cell: Cell) -> str:
    """What is said below a table whose rows not all have the same teacher; else empty."""
    if not any(map(cell.labelled_otherwise, cell.rows)):
        return ""
    return (
        f"Rows were labelled by {teacher_text(cell.labellers)} unless they name another one: these differ by more than "
        "their images."
    )


def _letters(name: str) -> str:
    """What is left of a name without case and signs: "k-Center" says no more than "kcenter"."""
    return "".join(filter(str.isalnum, name.casefold()))


def _claim(cell: Cell, row: Row, student: str) -> Entry:
    claims = [claim for claim in row.first.submission.claims if claim.metric == cell.metric]
    if not claims:
        return EMPTY
    claims.sort(key=lambda claim: claim.student != student)
    unit = cell.described.unit
    more = f"and {len(claims) - 1} more" if len(claims) > 1 else ""
    of = "" if claims[0].student == student else claims[0].student
    return Entry(number_text(claims[0].value, unit), claims[0].value, detail=", ".join(filter(None, (of, more))))


def _ids(row: Row | None) -> Entry:
    first, *others = [one.id for one in row.results] if row else [NONE]
    return Entry(first, first, detail=", ".join(others))


def _made_with(result: Result) -> Entry:
    cost = result.cost.evaluate
    parts = [result.versions.get("torch", ""), cost.device.partition(":")[0] if cost else ""]
    text = " · ".join(filter(None, parts)) or NONE
    return Entry(text, text)
