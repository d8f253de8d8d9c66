"""What others publish beside what a board has of it: the cells of the plans of reproduction. Imports no torch.

Everything follows from plans and rows; nothing is typed. A cell that has no row is open, and a figure that nobody has
seen in its source is not printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from ddbench.leaderboard.coverage import Checked, all_checked, together
from ddbench.leaderboard.plans import REPRODUCTION, Plan, PlanCell, find_plan, result_of, shipped_plans
from ddbench.leaderboard.published import Published, Verdict, judge
from ddbench.leaderboard.result import Cost, Result
from ddbench.leaderboard.verification import Verification
from ddbench.statistics import Statistics, count_words, summarise


@dataclass(frozen=True, kw_only=True)
class Truth:
    """One published figure, and what is measured of it.

    Attributes:
        plan: name of the plan that the cell is of.
        cells: the plan's cells that measure it; several where several synsets do (random subsets).
        published: the figure.
        rows: the rows that are there, one a synset.
        ours: mean, std and n of the networks of one synset, or of the means of several; None: open.
        verdict: None: open.
        checked: what the verifications of its rows say together; None: one has none.
    """

    plan: str
    cells: tuple[PlanCell, ...]
    published: Published
    rows: tuple[Result, ...]
    ours: Statistics | None
    verdict: Verdict | None
    checked: Checked | None

    @property
    def cell(self) -> PlanCell:
        """The cell that speaks for all."""
        return self.cells[0]

    @property
    def protocol(self) -> str:
        """Name of the protocol that ours is measured by."""
        return str(self.cell.kind.protocol(self.cell.protocol).name)

    @property
    def cpu_seconds(self) -> float:
        """What the rows took in all, with what was trained for them."""
        return sum(_seconds(cost) for row in self.rows for cost in (row.cost.distill, row.cost.evaluate))

    @property
    def devices(self) -> tuple[str, ...]:
        """Where the rows were measured."""
        costs = [cost for row in self.rows for cost in (row.cost.distill, row.cost.evaluate)]
        return tuple(dict.fromkeys(cost.device for cost in costs if cost is not None))

    @property
    def deviations(self) -> tuple[str, ...]:
        """How ours differs from the publication: what the plan says, and other numbers of synsets or networks."""
        found = list(self.cell.deviations)
        theirs = self.published
        if 0 < len(self.rows) < len(self.cells):
            found.append(f"{len(self.rows)} of the {len(self.cells)} synsets of the plan so far")
        if self.rows and theirs.runs is not None and theirs.networks is not None:
            counts = Counter(len(_networks(row, theirs.student)) for row in self.rows)
            if set(counts) != {theirs.networks} or len(self.rows) != theirs.runs:
                networks = " or ".join(count_words(count, "network") for count in sorted(counts))
                found.append(
                    f"{count_words(len(self.rows), 'synset')}, {networks} each; theirs "
                    f"{count_words(theirs.runs, 'synset')}, {count_words(theirs.networks, 'network')} each"
                )
        return tuple(found)


def _networks(row: Result, student: str) -> list[float]:
    """The accuracy of each network of a student; the runs of a fixed network are one."""
    found = list(row.values(student, row.main_metric).values())
    return [fmean(found)] if row.fixed and found else found


def _seconds(cost: Cost | None) -> float:
    if cost is None:
        return 0.0
    upstream = cost.more.get("upstream")
    parts = upstream.values() if isinstance(upstream, dict) else []
    own = [part.get("cpu_seconds") for part in parts if isinstance(part, dict)]
    return cost.cpu_seconds + sum(part for part in own if isinstance(part, float | int))


def reproduction_plans() -> list[Plan]:
    """The shipped plans of the kind ``reproduction``."""
    return [plan for plan in map(find_plan, shipped_plans()) if plan.kind == REPRODUCTION]


def truths(plans: Sequence[Plan], results: Sequence[Result], verifications: Mapping[str, Verification]) -> list[Truth]:
    """Every published figure of some plans with what is measured of it, in the order of the plans.

    Args:
        results, verifications: of the board.
    """
    found = []
    for plan in plans:
        groups: dict[str, list[PlanCell]] = {}
        for cell in plan.cells:
            groups.setdefault(_subject(cell), []).append(cell)
        for cells in map(tuple, groups.values()):
            rows = tuple(row for cell in cells if (row := result_of(cell, results)) is not None)
            for published in cells[0].published:
                found.append(_truth(plan.name, cells, published, rows, verifications))
    return found


def _subject(cell: PlanCell) -> str:
    """What cells share that measure one figure by several synsets: all but the seed, and what is said of their cost."""
    left: dict[str, Any] = {"seed": 0, "seeds": 0, "minutes": 0.0, "expected": False, "note": ""}
    return repr(replace(cell, **left))


def _truth(
    plan: str,
    cells: tuple[PlanCell, ...],
    published: Published,
    rows: tuple[Result, ...],
    verifications: Mapping[str, Verification],
) -> Truth:
    groups = [_networks(row, published.student) for row in rows]
    ours = summarise(groups[0] if len(groups) == 1 else [fmean(group) for group in groups]) if groups else None
    known = all_checked(rows, verifications)
    return Truth(
        plan=plan,
        cells=cells,
        published=published,
        rows=rows,
        ours=ours,
        verdict=None if ours is None else judge(ours, published, cells[0].not_comparable),
        checked=together(known.values()) if rows and len(known) == len(rows) else None,
    )
