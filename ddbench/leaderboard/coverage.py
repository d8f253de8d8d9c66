"""A verification in short: its verdict, and how many of a row's networks it rests on. Imports no torch.

A verification may have trained fewer networks again than the row has (``--seeds``): of the others nothing is known. So
wherever a verdict is shown, this is shown with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ddbench.leaderboard.result import Result
from ddbench.leaderboard.verification import VERDICTS, Verification
from ddbench.statistics import count_words


@dataclass(frozen=True)
class Checked:
    """What a verification says of a row, or several of several.

    Attributes:
        verdict: of the row; of several the worst.
        again: networks trained again, of the student of which the fewest were.
        claimed: networks that the row has of that student.
        own: whether those trained again have seeds of the row's.
    """

    verdict: str
    again: int
    claimed: int
    own: bool = True

    @property
    def partial(self) -> bool:
        """Whether fewer networks were trained again than the row has."""
        return self.again < self.claimed

    @property
    def extent(self) -> str:
        """``1 of 5 networks``, with seeds that the row has not ``1 network for 5``; empty where all were."""
        if not self.partial:
            return ""
        return (
            f"{self.again} of {self.claimed} networks"
            if self.own
            else f"{count_words(self.again, 'network')} for {self.claimed}"
        )

    @property
    def words(self) -> str:
        """``identical``, or ``identical (1 of 5 networks)``."""
        return f"{self.verdict} ({self.extent})" if self.partial else self.verdict


def checked(result: Result, found: Verification) -> Checked:
    """A row's verification in short; the runs of a fixed network are one."""
    claimed = {student: result.values(student, found.metric) for student in found.students}
    fewest = min(claimed, key=lambda student: (found.students[student].n / len(claimed[student]), student))
    return Checked(
        verdict=found.verdict,
        again=found.students[fewest].n,
        claimed=found.students[fewest].n if result.fixed else len(claimed[fewest]),
        own=all(run.seed in claimed[run.student] for run in found.runs),
    )


def all_checked(results: Iterable[Result], found: Mapping[str, Verification]) -> dict[str, Checked]:
    """Result id -> :class:`Checked`, of those that have a verification."""
    return {result.id: checked(result, found[result.id]) for result in results if result.id in found}


def together(ones: Iterable[Checked]) -> Checked:
    """Several as one: the worst verdict, all their networks; more than one claims do not stand for those of another."""
    every = list(ones)
    partial = any(one.partial for one in every)
    return Checked(
        verdict=min((one.verdict for one in every), key=VERDICTS.index),
        again=sum(min(one.again, one.claimed) if partial else one.again for one in every),
        claimed=sum(one.claimed for one in every),
        own=all(one.own for one in every),
    )
