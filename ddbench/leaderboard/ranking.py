"""The places of a table's rows by one measure, and how each row stands to random images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ddbench.leaderboard.columns import Measure
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.rows import RANDOM, AgainstRandom, Row
from ddbench.statistics import Statistics, paired_difference


def alike(results: Sequence[Result], measure: Measure, student: str) -> list[Result]:
    """Those that have the measure, with the settings that most of them share: what one number may be made of.

    Args:
        student: the one that ranks.
    """
    having = [result for result in results if measure.values(result, student)]
    if len(having) < 2:
        return having
    votes = Counter(measure.settings(result, student) for result in having)
    usual = min(votes, key=lambda settings: (-votes[settings], settings))
    return [result for result in having if measure.settings(result, student) == usual]


class Ranking:
    """The rows of a table by one measure; what each has of it is looked up once.

    Attributes:
        measure: what is compared.
        student: the one that ranks.
    """

    def __init__(self, measure: Measure, student: str) -> None:
        self.measure, self.student = measure, student
        self._known: dict[str, tuple[str, list[dict[int, float]]]] = {}

    def _of(self, row: Row) -> tuple[str, list[dict[int, float]]]:
        """How a row was measured, and seed -> value of each result that was measured so; nothing: none was."""
        name = row.first.id
        if name not in self._known:
            having = alike(row.results, self.measure, self.student)
            settings = self.measure.settings(having[0], self.student) if having else ""
            self._known[name] = settings, [self.measure.values(result, self.student) for result in having]
        return self._known[name]

    def ranked(self, rows: Sequence[Row]) -> list[Row]:
        """Give every row its rank.

        From best to worst, a row joins the group above it unless that group's best row is better than it; then it
        opens the next one, at its own place. One of fewer seeds, or other ones, may have the lower mean and be the
        better one of the two by the seeds that they share. Rows with a single seed have no interval and so no rank,
        and neither have the references and rows that were measured in another way than most.
        """
        measure = self.measure
        having = [row for row in rows if measure in row.scores]
        usual = self._usual(having)
        odd = {row.first.id for row in having if self._of(row)[0] != usual}
        running = [
            row
            for row in having
            if not row.reference and row.first.id not in odd and row.scores[measure].statistics["low"] is not None
        ]
        running.sort(key=lambda row: (measure.sign * row.scores[measure].statistics["mean"], row.method, row.first.id))
        ranks: dict[str, int] = {}
        leader: Row | None = None
        place = 0
        for position, row in enumerate(running, start=1):
            if leader is None or self.beats(leader, row):
                leader, place = row, position
            ranks[row.first.id] = place
        ranked = []
        for row in rows:
            score = row.scores.get(measure)
            if score is not None:
                rank = ranks.get(row.first.id)
                score = replace(score, rank=rank, best=rank == 1 and len(running) > 1, odd=row.first.id in odd)
                row = replace(row, scores={**row.scores, measure: score})
            ranked.append(row)
        return ranked

    def _usual(self, having: Sequence[Row]) -> str:
        """The settings that most methods share, or the references where no method has the measure."""
        known = [row for row in having if any(map(self.measure.described_by, row.results))]
        methods = [row for row in known if not row.reference]
        votes = Counter(self._of(row)[0] for row in methods or known)
        return min(votes, key=lambda settings: (-votes[settings], settings)) if votes else ""

    def beats(self, one: Row, other: Row) -> bool:
        """Whether one row is better: the 95 % interval of their difference, paired by seed, leaves out zero.

        Without two common seeds: whether their intervals do not overlap; a row without an interval cannot be told from
        any.
        """
        difference, _, _, apart = self._difference(one, other)
        return apart and self.measure.sign * difference < 0

    def _difference(self, one: Row, other: Row) -> tuple[float, float | None, float | None, bool]:
        """Mean of ``one - other``, its interval where it is paired, and whether the two can be told apart."""
        single, group, sign = (one, other, 1) if len(one.results) == 1 else (other, one, -1)
        theirs = self._of(group)[1]
        if len(single.results) == 1 and theirs:
            ours = next(iter(self._of(single)[1]), {})
            if len(set(ours).intersection(*theirs)) > 1:
                found = paired_difference(ours, theirs)
                ends = [None if end is None else sign * end for end in (found["low"], found["high"])]
                low, high = ends if sign > 0 else reversed(ends)
                return float(sign * found["mean"]), low, high, not found["tie"]
        a, b = one.scores[self.measure].statistics, other.scores[self.measure].statistics
        return a["mean"] - b["mean"], None, None, _apart(a, b)

    def against_random(self, rows: Sequence[Row]) -> list[Row]:
        """Say of every method whether it is above, level with or below random images by the measure.

        Of several rows of random images: those with its preprocess, else the one with most subsets.
        """
        measure = self.measure
        drawn = [row for row in rows if row.reference == RANDOM and measure in row.scores]
        if not drawn:
            return list(rows)
        said = []
        for row in rows:
            own = row.first.synset.preprocess
            random = next((one for one in drawn if one.first.synset.preprocess == own), drawn[0])
            if not row.reference and measure in row.scores and row.scores[measure].statistics["low"] is not None:
                difference, low, high, apart = self._difference(row, random)
                better = "above" if measure.sign * difference < 0 else "below"
                against = AgainstRandom(
                    better if apart else "tie", difference, low, high, row.labellers == random.labellers
                )
                score = replace(row.scores[measure], against_random=against)
                row = replace(row, scores={**row.scores, measure: score})
            said.append(row)
        return said


def _apart(a: Statistics, b: Statistics) -> bool:
    """Whether two intervals have nothing in common; not known without both."""
    if a["low"] is None or a["high"] is None or b["low"] is None or b["high"] is None:
        return False
    return a["low"] > b["high"] or b["low"] > a["high"]
