"""Results grouped into the tables of the board and ranked. Numbers only; no text is laid out here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddbench.leaderboard.schema import Result, main_metric, students, values
from ddbench.leaderboard.submit import same_subject
from ddbench.runtime.files import canonical_json

Statistics = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One row: one result, or all random subsets of a table together.

    Attributes:
        results: several only for the method ``random``.
        summary: student -> statistics of the table's metric.
        rank: 1 is best; None for all real data and for rows without the student that ranks.
        best: students in whose column this row is best or tied with the best.
        cross: mean over the students other than the one that the synset was distilled on, and how many they are.
        earlier: how many superseded results stand behind it.
    """

    results: tuple[Result, ...]
    summary: dict[str, Statistics]
    rank: int | None
    best: frozenset[str]
    cross: tuple[float, int] | None
    earlier: int

    @property
    def first(self) -> Result:
        """The result that speaks for the row."""
        return self.results[0]

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.first["synset"]["method"])

    @property
    def full(self) -> bool:
        """Whether this is the row of all real data."""
        return bool(self.first["synset"]["budget"]["unit"] == "all")

    @property
    def stored(self) -> dict[str, int]:
        """Bytes of the synset, by part."""
        return dict(self.first["synset"]["bytes"])

    @property
    def compression(self) -> float:
        """Bytes of the real training set over those of the synset."""
        return self.stored["real"] / self.stored["total"]

    @property
    def distill_seconds(self) -> float | None:
        """CPU seconds of the distillation; over several subsets their mean."""
        costs = [result["cost"]["distill"] for result in self.results]
        known = [cost["cpu_seconds"] for cost in costs if cost is not None]
        return sum(known) / len(known) if known else None

    @property
    def seeds(self) -> int:
        """Network seeds of the student that has most, in one result."""
        return max(Counter(run["student"] for run in self.first["runs"]).values())

    @property
    def standard(self) -> bool:
        """Whether the protocol was used as it is."""
        return bool(self.first["protocol"]["standard"])


@dataclass(frozen=True)
class Cell:
    """One table: what may be compared with each other.

    Attributes:
        metric: name of the metric that the table shows and ranks by.
        described: its unit, direction and title.
        students: columns, the one that ranks first.
        rows: ranked ones first, all real data last.
    """

    dataset: str
    fingerprint: str
    budget: dict[str, Any]
    label_kind: str
    protocol: dict[str, Any]
    precision: str
    metric: str
    described: dict[str, str]
    students: tuple[str, ...]
    rows: tuple[Row, ...]


def current(results: Sequence[Result]) -> list[tuple[Result, int]]:
    """The result that stands for each (synset, protocol), and how many earlier ones it replaces.

    It is one that no other supersedes; of several (two boards were merged) the one with most runs.
    """
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(same_subject(result), []).append(result)
    chosen = []
    for group in groups.values():
        replaced = {result["supersedes"] for result in group}
        latest = [result for result in group if result["id"] not in replaced]
        chosen.append((max(latest, key=lambda result: (len(result["runs"]), result["id"])), len(group) - 1))
    return chosen


def build_cells(results: Sequence[Result]) -> list[Cell]:
    """Group results into tables, in the order of dataset, protocol, labels and budget."""
    real: dict[tuple[Any, ...], list[tuple[Result, int]]] = {}
    tables: dict[tuple[Any, ...], list[tuple[Result, int]]] = {}
    for result, earlier in current(results):
        synset = result["synset"]
        data = _data_key(result)
        if synset["budget"]["unit"] == "all":
            real.setdefault(data, []).append((result, earlier))
        else:
            key = (*data, synset["budget"]["unit"], synset["budget"]["value"], synset["label_kind"])
            tables.setdefault(key, []).append((result, earlier))
    covered = {key[:-3] for key in tables}
    for data, entries in real.items():
        if data not in covered:
            tables[(*data, "all", 0, "hard")] = []
        for key in tables:
            if key[:-3] == data:
                tables[key] += entries
    return [_cell(entries) for _, entries in sorted(tables.items(), key=lambda item: _order(item[0]))]


def _data_key(result: Result) -> tuple[Any, ...]:
    """What results share that may stand in one table, budget and labels aside."""
    synset, protocol = result["synset"], result["protocol"]
    changed = canonical_json(protocol["changed"])
    return (
        synset["dataset"],
        synset["dataset_fingerprint"],
        not protocol["standard"],
        protocol["name"],
        protocol["hash"],
        changed,
        result["precision"],
        main_metric(result),
        canonical_json(result["metrics"][main_metric(result)]),
    )


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    unit, value, labels = key[-3:]
    return (*key[:-3], labels, unit, value)


def _cell(entries: list[tuple[Result, int]]) -> Cell:
    head = entries[0][0]
    metric = main_metric(head)
    drafts = [_draft(group, metric) for group in _grouped(entries)]
    ranking = _ranking_student([draft for draft in drafts if not draft.full] or drafts)
    columns = sorted(
        {student for draft in drafts for student in draft.summary}, key=lambda name: (name != ranking, name)
    )
    sign = -1 if head["metrics"][metric]["better"] == "higher" else 1
    drafts.sort(key=lambda draft: _rank_key(draft, ranking, sign))
    best = {student: _best([draft for draft in drafts if not draft.full], student, metric, sign) for student in columns}
    rows: list[Row] = []
    for place, draft in enumerate(drafts):
        rank = None
        if not draft.full and ranking in draft.summary:
            tied = place > 0 and draft.summary[ranking]["mean"] == rows[-1].summary[ranking]["mean"]
            rank = rows[-1].rank if tied else place + 1
        rows.append(
            Row(
                results=draft.results,
                summary=draft.summary,
                rank=rank,
                best=frozenset(student for student in columns if any(draft is one for one in best[student])),
                cross=_cross(draft, ranking),
                earlier=draft.earlier,
            )
        )
    return Cell(
        dataset=head["synset"]["dataset"],
        fingerprint=head["synset"]["dataset_fingerprint"],
        budget=head["synset"]["budget"],
        label_kind=head["synset"]["label_kind"],
        protocol=head["protocol"],
        precision=head["precision"],
        metric=metric,
        described=head["metrics"][metric],
        students=tuple(columns),
        rows=tuple(rows),
    )


def _grouped(entries: list[tuple[Result, int]]) -> list[list[tuple[Result, int]]]:
    """Results that make a row together: all of the method ``random``, else one each."""
    drawn = [entry for entry in entries if entry[0]["synset"]["method"] == "random"]
    others = [[entry] for entry in entries if entry[0]["synset"]["method"] != "random"]
    return [*others, sorted(drawn, key=lambda entry: (entry[0]["synset"]["seed"], entry[0]["id"]))] if drawn else others


def _draft(group: list[tuple[Result, int]], metric: str) -> Row:
    """A row that has no rank yet."""
    from ddbench.evaluate.statistics import summarise_groups

    results = tuple(result for result, _ in group)
    names = dict.fromkeys(student for result in results for student in students(result))
    summary = {}
    for student in names:
        groups = [list(values(result, student, metric).values()) for result in results]
        summary[student] = summarise_groups([own for own in groups if own])
    return Row(results, summary, None, frozenset(), None, sum(earlier for _, earlier in group))


def _ranking_student(drafts: list[Row]) -> str:
    """The student that most synsets were distilled on, of those evaluated; else the first one."""
    votes = Counter(
        str(draft.first["synset"]["student"]) for draft in drafts if draft.first["synset"]["student"] in draft.summary
    )
    if votes:
        return min(votes, key=lambda name: (-votes[name], name))
    return next((student for draft in drafts for student in draft.summary), "")


def _rank_key(draft: Row, ranking: str, sign: int) -> tuple[Any, ...]:
    known = ranking in draft.summary
    mean = sign * draft.summary[ranking]["mean"] if known else 0.0
    return (draft.full, not known, mean, draft.method, draft.first["id"])


def _cross(draft: Row, ranking: str) -> tuple[float, int] | None:
    own = draft.first["synset"]["student"]
    own = own if own in draft.summary else ranking
    means = [statistics["mean"] for student, statistics in draft.summary.items() if student != own]
    return (sum(means) / len(means), len(means)) if means else None


def _best(drafts: list[Row], student: str, metric: str, sign: int) -> list[Row]:
    """The best row of a column and those that cannot be told from it; rows without an interval take no part."""
    known = [draft for draft in drafts if student in draft.summary and draft.summary[student]["low"] is not None]
    if len(known) < 2:
        return []
    top = min(known, key=lambda draft: sign * draft.summary[student]["mean"])
    return [draft for draft in known if draft is top or _tied(top, draft, student, metric)]


def _tied(one: Row, other: Row, student: str, metric: str) -> bool:
    """Whether the paired difference by network seed may be nothing; without common seeds, whether intervals overlap."""
    from ddbench.evaluate.statistics import paired_difference

    single, group = (one, other) if len(one.results) == 1 else (other, one)
    ours = values(single.first, student, metric)
    others = [own for own in (values(result, student, metric) for result in group.results) if own]
    if len(single.results) == 1 and len(set(ours).intersection(*others)) > 1:
        return bool(paired_difference(ours, others)["tie"])
    a, b = one.summary[student], other.summary[student]
    return bool(a["low"] <= b["high"] and b["low"] <= a["high"])
