"""Results grouped into the tables of the board and ranked. Numbers only; no text is laid out here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ddbench.leaderboard.columns import MAIN, Measure, measures
from ddbench.leaderboard.result import Budget, Metric, ProtocolInfo, Result, Stored
from ddbench.leaderboard.schema import same_subject
from ddbench.modalities import modality
from ddbench.runtime.files import canonical_json
from ddbench.statistics import Statistics, paired_difference, summarise_groups

RANDOM, FULL = "random", "full"
REFERENCES = (RANDOM, FULL)


@dataclass(frozen=True)
class Score:
    """One measure of one row.

    Attributes:
        statistics: mean, std, n, low, high.
        rank: place among the rows of the table by this measure; rows that the best of their group is not better than
            share its place. None: a reference, no interval, or measured in another way than most rows.
        best: the best of the column or tied with it; never where nothing else can be compared.
        odd: measured with other settings than most rows of the table.
    """

    statistics: Statistics
    rank: int | None
    best: bool
    odd: bool


@dataclass(frozen=True)
class AgainstRandom:
    """How a row stands to the row of random images, by the measure that ranks.

    Attributes:
        verdict: ``above`` (better), ``below`` (worse), or ``tie``: the 95 % interval of the difference holds 0.
        difference: mean of the row less random images, in the unit of the measure.
        low, high: its interval, paired by seed and over subsets; None without two common seeds, where the verdict is
            that of the intervals of the two rows.
    """

    verdict: str
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """One row: one result, or all random subsets of a table together.

    Attributes:
        results: several only for the method ``random``.
        scores: what was measured.
        reference: ``random`` and ``full`` are shown below the methods and have no rank; else empty.
        earlier: superseded results behind it, newest first.
        verdict: of the verification, None where there is none; of several results the worst.
        verdicts: result id -> verdict, of its results and the earlier ones that have one.
        against_random: how it stands to random images; None: not known.
        packed: bytes that it stores with its synset after zstd; over several subsets their mean; None: not known.
    """

    results: tuple[Result, ...]
    scores: Mapping[Measure, Score]
    reference: str
    earlier: tuple[Result, ...]
    verdict: str | None
    verdicts: Mapping[str, str] = field(default_factory=dict)
    against_random: AgainstRandom | None = None
    packed: float | None = None

    @property
    def first(self) -> Result:
        """The result that speaks for the row."""
        return self.results[0]

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.first.synset.method)

    @property
    def verified(self) -> bool:
        """Whether a verification reached the claimed numbers."""
        return self.verdict is not None and self.verdict != "below"

    @property
    def stored(self) -> Stored:
        """Bytes of the synset, by part."""
        return self.first.synset.bytes

    @property
    def compression(self) -> float:
        """Bytes of the real training set over those of the synset."""
        return self.stored.real / self.stored.total

    @property
    def bits(self) -> float:
        """Bits per class of everything that training needs, as stored."""
        return 8 * self.stored.total / self.first.synset.classes

    @property
    def packed_bits(self) -> float | None:
        """The same with the arrays of the synset after zstd, to three digits: more differ with zstd's version."""
        return None if self.packed is None else float(f"{8 * self.packed / self.first.synset.classes:.3g}")

    @property
    def distill_seconds(self) -> float | None:
        """CPU seconds of the distillation; over several subsets their mean."""
        costs = [result.cost.distill for result in self.results]
        known = [cost.cpu_seconds for cost in costs if cost is not None]
        return sum(known) / len(known) if known else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Network seeds of the student that has most, of each result."""
        return tuple(max(Counter(run.student for run in one.runs).values()) for one in self.results)


@dataclass(frozen=True)
class Cell:
    """One table: what may be compared with each other.

    Attributes:
        metric: name of the metric that the table ranks by.
        described: its unit, direction and title.
        students: columns, the one that ranks first.
        measures: the columns of measured numbers.
        rows: methods from best to worst, then the references that were measured: random images, all real data.
    """

    dataset: str
    fingerprint: str
    budget: Budget
    label_kind: str
    protocol: ProtocolInfo
    precision: str
    metric: str
    described: Metric
    students: tuple[str, ...]
    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]

    @property
    def items(self) -> str:
        """What its synsets hold: images, or graphs."""
        return modality(self.rows[0].first.synset.modality).items

    def main(self, student: str) -> Measure:
        """The accuracy of one student."""
        return next(one for one in self.measures if one.group == MAIN and one.student == student)

    def rank(self, row: Row, student: str = "") -> int | None:
        """The place of a row by a student, by default the one that ranks."""
        score = row.scores.get(self.main(student or self.students[0]))
        return score.rank if score else None


@dataclass(frozen=True)
class _Known:
    """What is found out about results and is not in them, by their id: verdicts, stored bytes after zstd."""

    verdicts: Mapping[str, str]
    packed: Mapping[str, int]


@dataclass(frozen=True)
class _Entry:
    """A result that stands, and the ones it superseded."""

    result: Result
    earlier: tuple[Result, ...]


def current(results: Sequence[Result]) -> list[_Entry]:
    """The result that stands for each (synset, protocol), with those it replaces.

    It is one that no other supersedes; of several (two boards were merged) the one with most runs.
    """
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(same_subject(result), []).append(result)
    chosen = []
    for group in groups.values():
        replaced = {result.supersedes for result in group}
        group.sort(key=lambda result: (result.id not in replaced, len(result.runs), result.id), reverse=True)
        chosen.append(_Entry(group[0], tuple(group[1:])))
    return chosen


def build_cells(
    results: Sequence[Result], verdicts: Mapping[str, str] | None = None, packed: Mapping[str, int] | None = None
) -> list[Cell]:
    """Group results into tables, in the order of dataset, protocol, labels and budget.

    All real data joins every table of its data and protocol. Random images join the tables of their budget: with
    their own kind of labels, and with hard labels also the soft-label tables that have no random row of their own.

    Args:
        verdicts: result id -> verdict of its verification.
        packed: result id -> its stored bytes after zstd.
    """
    tables: dict[tuple[Any, ...], list[_Entry]] = {}
    random: dict[tuple[Any, ...], list[_Entry]] = {}
    real: dict[tuple[Any, ...], list[_Entry]] = {}
    for entry in current(results):
        synset = entry.result.synset
        data = _data_key(entry.result)
        key = (*data, synset.budget.unit, synset.budget.value, synset.label_kind)
        if synset.budget.unit == "all":
            real.setdefault(data, []).append(entry)
        else:
            (random if synset.method == RANDOM else tables).setdefault(key, []).append(entry)
    tables = {key: entries + random.get(key, random.get((*key[:-1], "hard"), [])) for key, entries in tables.items()}
    taken = {entry.result.id for entries in tables.values() for entry in entries}
    tables |= {key: entries for key, entries in random.items() if entries[0].result.id not in taken}
    for data, entries in real.items():
        found = [key for key in tables if key[:-3] == data] or [(*data, "all", 0, "hard")]
        for key in found:
            tables[key] = tables.get(key, []) + entries
    known = _Known(verdicts or {}, packed or {})
    return [_cell(key, entries, known) for key, entries in sorted(tables.items(), key=lambda i: _order(i[0]))]


def _data_key(result: Result) -> tuple[Any, ...]:
    """What results share that may stand in one table, budget and labels aside."""
    synset, protocol = result.synset, result.protocol
    changed = canonical_json(protocol.changed)
    return (
        synset.dataset,
        synset.dataset_fingerprint,
        not protocol.standard,
        protocol.name,
        protocol.hash,
        changed,
        result.precision,
        result.main_metric,
        canonical_json(result.metrics[result.main_metric].to_json()),
    )


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    unit, value, labels = key[-3:]
    return (*key[:-3], labels, unit, value)


def _cell(key: tuple[Any, ...], entries: Sequence[_Entry], known: _Known) -> Cell:
    head = entries[0].result
    metric = head.main_metric
    results = [entry.result for entry in entries]
    ranking = _ranking_student(results)
    names = {student for result in results for student in result.students}
    columns = sorted(names, key=lambda name: (name != ranking, name))
    shown = measures(results, metric, columns)
    rows = [_row(group, shown, ranking, known) for group in _grouped(entries)]
    for measure in shown:
        rows = _ranked(rows, measure, ranking)
    first = next(one for one in shown if one.group == MAIN)
    rows.sort(key=lambda row: _place(row, first))
    return Cell(
        dataset=head.synset.dataset,
        fingerprint=head.synset.dataset_fingerprint,
        budget=head.synset.budget,
        label_kind=key[-1],
        protocol=head.protocol,
        precision=head.precision,
        metric=metric,
        described=head.metrics[metric],
        students=tuple(columns),
        measures=shown,
        rows=tuple(_against_random(rows, first, ranking)),
    )


def _reference(result: Result) -> str:
    if result.synset.budget.unit == "all":
        return FULL
    return RANDOM if result.synset.method == RANDOM else ""


def _grouped(entries: Sequence[_Entry]) -> list[list[_Entry]]:
    """Results that make a row together: all of the method ``random``, else one each."""
    drawn = [entry for entry in entries if _reference(entry.result) == RANDOM]
    single = [[entry] for entry in entries if _reference(entry.result) != RANDOM]
    drawn.sort(key=lambda entry: (entry.result.synset.seed, entry.result.id))
    return [*single, drawn] if drawn else single


def _row(group: Sequence[_Entry], shown: Sequence[Measure], ranking: str, beside: _Known) -> Row:
    """A row that has no rank yet."""
    from ddbench.leaderboard.verification import VERDICTS

    results = tuple(entry.result for entry in group)
    scores = {}
    for measure in shown:
        known = measure.known(results[0])
        if known is None or len(results) > 1:
            alike = _alike(results, measure, ranking)
            groups = [list(measure.values(result, ranking).values()) for result in alike]
            known = summarise_groups(groups) if groups else None
        if known is not None:
            scores[measure] = Score(known, None, False, False)
    judged = [beside.verdicts[result.id] for result in results if result.id in beside.verdicts]
    packed = [beside.packed[result.id] for result in results if result.id in beside.packed]
    earlier = tuple(result for entry in group for result in entry.earlier)
    return Row(
        results=results,
        scores=scores,
        reference=_reference(results[0]),
        earlier=earlier,
        verdicts={one.id: beside.verdicts[one.id] for one in (*results, *earlier) if one.id in beside.verdicts},
        verdict=min(judged, key=VERDICTS.index) if len(judged) == len(results) else None,
        packed=sum(packed) / len(packed) if len(packed) == len(results) else None,
    )


def _alike(results: Sequence[Result], measure: Measure, ranking: str) -> list[Result]:
    """Those that have the measure, with the settings that most of them share: what one number may be made of."""
    having = [result for result in results if measure.values(result, ranking)]
    if len(having) < 2:
        return having
    votes = Counter(measure.settings(result, ranking) for result in having)
    usual = min(votes, key=lambda settings: (-votes[settings], settings))
    return [result for result in having if measure.settings(result, ranking) == usual]


def _settings(row: Row, measure: Measure, ranking: str) -> str:
    """How a row that has the measure was measured."""
    return measure.settings(_alike(row.results, measure, ranking)[0], ranking)


def _ranking_student(results: Sequence[Result]) -> str:
    """The student that most synsets were distilled on, of those evaluated; else the first one."""
    votes = Counter(
        str(result.synset.student)
        for result in results
        if not _reference(result) and result.synset.student in result.students
    )
    return min(votes, key=lambda name: (-votes[name], name)) if votes else results[0].students[0]


def _place(row: Row, first: Measure) -> tuple[Any, ...]:
    """Order of the rows: methods with a rank, those without, random images, all real data."""
    score = row.scores.get(first)
    mean = first.sign * score.statistics["mean"] if score else 0.0
    reference = REFERENCES.index(row.reference) + 1 if row.reference else 0
    rank = score.rank if score else None
    return (reference, score is None, rank is None, rank or 0, mean, row.method, row.first.id)


def _ranked(rows: Sequence[Row], measure: Measure, ranking: str) -> list[Row]:
    """Give every row its rank by one measure.

    From best to worst, a row joins the group above it unless that group's best row is better than it; then it opens
    the next one, at its own place. One of fewer seeds, or other ones, may have the lower mean and be the better one of
    the two by the seeds that they share. Rows with a single seed have no interval and so no rank, and neither have the
    references and rows that were measured in another way than most.
    """
    usual = _usual_settings(rows, measure, ranking)
    odd = {id(row) for row in rows if measure in row.scores and _settings(row, measure, ranking) != usual}
    running = [
        row
        for row in rows
        if not row.reference
        and id(row) not in odd
        and measure in row.scores
        and row.scores[measure].statistics["low"] is not None
    ]
    running.sort(key=lambda row: (measure.sign * row.scores[measure].statistics["mean"], row.method, row.first.id))
    ranks: dict[int, int] = {}
    leader: Row | None = None
    place = 0
    for position, row in enumerate(running, start=1):
        if leader is None or beats(leader, row, measure, ranking):
            leader, place = row, position
        ranks[id(row)] = place
    ranked = []
    for row in rows:
        score = row.scores.get(measure)
        if score is not None:
            rank = ranks.get(id(row))
            score = replace(score, rank=rank, best=rank == 1 and len(running) > 1, odd=id(row) in odd)
            row = replace(row, scores={**row.scores, measure: score})
        ranked.append(row)
    return ranked


def _usual_settings(rows: Sequence[Row], measure: Measure, ranking: str) -> str:
    """The settings that most methods share, or the references where no method has the measure."""
    having = [row for row in rows if measure in row.scores]
    methods = [row for row in having if not row.reference]
    votes = Counter(_settings(row, measure, ranking) for row in methods or having)
    return min(votes, key=lambda settings: (-votes[settings], settings)) if votes else ""


def beats(one: Row, other: Row, measure: Measure, ranking: str) -> bool:
    """Whether one row is better than another: the 95 % interval of their difference, paired by seed, leaves out zero.

    Without two common seeds: whether their intervals do not overlap; a row without an interval cannot be told from any.
    """
    difference, _, _, apart = _difference(one, other, measure, ranking)
    return apart and measure.sign * difference < 0


def _difference(one: Row, other: Row, measure: Measure, ranking: str) -> tuple[float, float | None, float | None, bool]:
    """Mean of ``one - other``, its interval where it is paired, and whether the two can be told apart."""
    single, group, sign = (one, other, 1) if len(one.results) == 1 else (other, one, -1)
    ours = measure.values(single.first, ranking)
    theirs = [measure.values(result, ranking) for result in _alike(group.results, measure, ranking)]
    if len(single.results) == 1 and theirs and len(set(ours).intersection(*theirs)) > 1:
        found = paired_difference(ours, theirs)
        ends = [None if end is None else sign * end for end in (found["low"], found["high"])]
        low, high = ends if sign > 0 else reversed(ends)
        return float(sign * found["mean"]), low, high, not found["tie"]
    a, b = one.scores[measure].statistics, other.scores[measure].statistics
    return a["mean"] - b["mean"], None, None, _apart(a, b)


def _apart(a: Statistics, b: Statistics) -> bool:
    """Whether two intervals have nothing in common; not known without both."""
    if a["low"] is None or a["high"] is None or b["low"] is None or b["high"] is None:
        return False
    return a["low"] > b["high"] or b["low"] > a["high"]


def _against_random(rows: Sequence[Row], first: Measure, ranking: str) -> list[Row]:
    """Say of every method whether it is above, level with or below random images by the measure that ranks."""
    random = next((row for row in rows if row.reference == RANDOM and first in row.scores), None)
    if random is None:
        return list(rows)
    said = []
    for row in rows:
        if not row.reference and first in row.scores and row.scores[first].statistics["low"] is not None:
            difference, low, high, apart = _difference(row, random, first, ranking)
            better = "above" if first.sign * difference < 0 else "below"
            row = replace(row, against_random=AgainstRandom(better if apart else "tie", difference, low, high))
        said.append(row)
    return said
