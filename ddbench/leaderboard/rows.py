"""Tables of the board, their rows and scores. Numbers only; no text is laid out here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from ddbench.leaderboard.columns import MAIN, Measure
from ddbench.leaderboard.coverage import Checked
from ddbench.leaderboard.result import Budget, Metric, ProtocolInfo, Result
from ddbench.modalities import modality
from ddbench.statistics import Statistics

RANDOM, FULL = "random", "full"
REFERENCES = (RANDOM, FULL)


@dataclass(frozen=True)
class AgainstRandom:
    """How a row stands to the row of random images, by one student's measure.

    Attributes:
        verdict: ``above`` (better), ``below`` (worse), or ``tie``: the 95 % interval of the difference holds 0.
        difference: mean of the row less random images, in the unit of the measure.
        low, high: its interval, paired by seed and over subsets; None without two common seeds, where the verdict is
            that of the intervals of the two rows.
        labelled_alike: whether the same teacher labelled the views of both, or none did: else the difference may be
            the teachers'.
    """

    verdict: str
    difference: float
    low: float | None
    high: float | None
    labelled_alike: bool = True


@dataclass(frozen=True)
class Score:
    """One measure of one row.

    Attributes:
        statistics: mean, std, n, low, high.
        rank: place among the rows of the table by this measure; rows that the best of their group is not better than
            share its place. None: a reference, no interval, or measured in another way than most rows.
        best: the best of the column or tied with it; never where nothing else can be compared.
        odd: measured with other settings than most rows of the table.
        against_random: of a method's accuracy, how it stands to random images; None: not known.
    """

    statistics: Statistics
    rank: int | None
    best: bool
    odd: bool
    against_random: AgainstRandom | None = None


@dataclass(frozen=True)
class Row:
    """One row: one result, or all random subsets of a table together.

    Attributes:
        results: several only for the method ``random``.
        scores: what was measured.
        reference: ``random`` and ``full`` are shown below the methods and have no rank; else empty.
        earlier: superseded results behind it, newest first.
        checked: what its verification says, None where there is none; of several results all of theirs together.
        verdicts: result id -> what its verification says, of its results and the earlier ones that have one.
        packed: bytes that it stores with its synset after zstd; over several subsets their mean; None: not known.
    """

    results: tuple[Result, ...]
    scores: Mapping[Measure, Score]
    reference: str
    earlier: tuple[Result, ...]
    checked: Checked | None
    verdicts: Mapping[str, Checked] = field(default_factory=dict)
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
    def labellers(self) -> frozenset[str]:
        """Hashes of the teachers that labelled its views; none: nobody did."""
        return frozenset(one.labeller for one in self.results if one.labeller)

    @property
    def verified(self) -> bool:
        """Whether a verification reached the claimed numbers, by all networks or by some."""
        return self.checked is not None and self.checked.verdict != "below"

    @property
    def stored(self) -> float:
        """Bytes of everything that training needs; over several subsets their mean."""
        return mean(result.synset.bytes.total for result in self.results)

    @property
    def compression(self) -> float:
        """Bytes of the real training set over those of the synset."""
        return self.first.synset.bytes.real / self.stored

    @property
    def bits(self) -> float:
        """Bits per class of everything that training needs, as stored."""
        return 8 * self.stored / self.first.synset.classes

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
        """Networks of the student that has most, of each result; a fixed network is one, whatever its seeds."""
        return tuple(1 if one.fixed else max(Counter(run.student for run in one.runs).values()) for one in self.results)


@dataclass(frozen=True)
class Cell:
    """One table: what may be compared with each other.

    Attributes:
        metric: name of the metric that the table ranks by.
        described: its unit, direction and title.
        students: columns, the one that ranks first.
        measures: the columns of measured numbers.
        rows: methods from best to worst, then the references that were measured: random images, all real data.
        labellers: where not all rows were labelled by the same teachers, hashes of those that labelled most rows.
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
    labellers: frozenset[str] = frozenset()

    @property
    def items(self) -> str:
        """What its synsets hold: images, or graphs."""
        return modality(self.rows[0].first.synset.modality).items

    def labelled_otherwise(self, row: Row) -> bool:
        """Whether others labelled a row's views than those of most rows: it differs by more than its images."""
        return bool(self.labellers and row.labellers) and row.labellers != self.labellers

    def main(self, student: str) -> Measure:
        """The accuracy of one student."""
        return next(one for one in self.measures if one.group == MAIN and one.student == student)

    def rank(self, row: Row, student: str = "") -> int | None:
        """The place of a row by a student, by default the one that ranks."""
        score = row.scores.get(self.main(student or self.students[0]))
        return score.rank if score else None

    def against_random(self, row: Row, student: str = "") -> AgainstRandom | None:
        """How a row stands to random images by a student, by default the one that ranks."""
        score = row.scores.get(self.main(student or self.students[0]))
        return score.against_random if score else None

    def ordered(self, student: str = "") -> list[Row]:
        """The rows in their order by a student, by default the one that ranks."""
        return in_order(self.rows, self.main(student or self.students[0]))


def wanted_references(cell: Cell) -> tuple[str, ...]:
    """What should stand below the methods of a table; one of all real data is a reference itself."""
    return () if cell.budget.unit == "all" else REFERENCES


def in_order(rows: Iterable[Row], main: Measure) -> list[Row]:
    """Methods with a rank by a measure, those without one, random images, all real data."""

    def place(row: Row) -> tuple[Any, ...]:
        score = row.scores.get(main)
        mean = main.sign * score.statistics["mean"] if score else 0.0
        reference = REFERENCES.index(row.reference) + 1 if row.reference else 0
        rank = score.rank if score else None
        return (reference, score is None, rank is None, rank or 0, mean, row.method, row.first.id)

    return sorted(rows, key=place)
