"""Results grouped into the tables of the board, which are ranked when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ddbench.leaderboard.columns import MAIN, Measure, measures
from ddbench.leaderboard.coverage import Checked, together
from ddbench.leaderboard.ranking import Ranking, alike
from ddbench.leaderboard.result import Budget, ProtocolInfo, Result
from ddbench.leaderboard.rows import FULL, RANDOM, Cell, Row, Score, in_order
from ddbench.leaderboard.schema import same_subject
from ddbench.methods import USUAL_PROTOCOL
from ddbench.runtime.files import canonical_json
from ddbench.statistics import summarise_groups


@dataclass(frozen=True)
class Known:
    """What is found out about results and is not in them, by their id.

    Attributes:
        verdicts: of verifications, in short.
        packed: bytes that are stored, after zstd.
    """

    verdicts: Mapping[str, Checked] = field(default_factory=dict)
    packed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Entry:
    """A result that stands, and the ones it superseded."""

    result: Result
    earlier: tuple[Result, ...]


@dataclass(frozen=True)
class Group:
    """The results of one table, which is yet to be made of them.

    Attributes:
        label_kind: of the table.
        entries: what stands in it, methods first.
    """

    label_kind: str
    entries: tuple[_Entry, ...]

    @property
    def dataset(self) -> str:
        """Name of its data."""
        return str(self._first.synset.dataset)

    @property
    def budget(self) -> Budget:
        """Of its synsets."""
        return self._first.synset.budget

    @property
    def protocol(self) -> str:
        """Name of the protocol."""
        return self._first.protocol.name

    @property
    def students(self) -> set[str]:
        """All that any of its results has."""
        return {student for entry in self.entries for student in entry.result.students}

    @property
    def _first(self) -> Result:
        return self.entries[0].result

    def cell(self, known: Known) -> Cell:
        """The table: rows made, ranked and held against random images."""
        head, metric = self._first, self._first.main_metric
        results = [entry.result for entry in self.entries]
        ranking = _ranking_student(results)
        columns = sorted(self.students, key=lambda name: (name != ranking, name))
        shown = measures(results, metric, columns)
        by_measure = {measure: Ranking(measure, ranking) for measure in shown}
        rows = [_row(group, shown, ranking, known) for group in _grouped(self.entries)]
        for measure, one in by_measure.items():
            rows = one.ranked(rows)
            if measure.group == MAIN:
                rows = one.against_random(rows)
        first = next(one for one in shown if one.group == MAIN)
        return Cell(
            dataset=self.dataset,
            fingerprint=head.synset.dataset_fingerprint,
            budget=self.budget,
            label_kind=self.label_kind,
            protocol=head.protocol,
            precision=head.precision,
            metric=metric,
            described=head.metrics[metric],
            students=tuple(columns),
            measures=shown,
            rows=tuple(in_order(rows, first)),
            labellers=usual_labellers(rows),
        )


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


def build_cells(results: Sequence[Result], known: Known | None = None) -> list[Cell]:
    """All tables of some results, in the order of :func:`groups`."""
    return [group.cell(known or Known()) for group in groups(results)]


def groups(results: Sequence[Result]) -> list[Group]:
    """Group results into tables, in the order of dataset, protocol (the usual one first), labels and budget.

    All real data joins every table of its data and protocol; under a standard one also where the epochs of a synset
    were altered, which are none of its own. Random images join the tables of their budget: with
    their own kind of labels, and with hard labels also the soft-label tables that have no random row of their own.
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
    trained = {key: _real_key(entries[0].result) for key, entries in tables.items()} if real else {}
    for data, entries in real.items():
        whole = entries[0].result
        same = _real_key(whole) if whole.protocol.standard else None
        found = [key for key, training in trained.items() if key[:-3] == data or training == same]
        for key in found or [(*data, "all", 0, whole.synset.label_kind)]:
            tables[key] = tables.get(key, []) + entries
    ordered = sorted(tables.items(), key=lambda item: _order(item[0], item[1][0].result.protocol))
    return [Group(key[-1], tuple(entries)) for key, entries in ordered]


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


def _real_key(result: Result) -> tuple[Any, ...]:
    """How all real data would be trained in the place of a synset: for ``full_epochs``, whatever its ``epochs`` are."""
    synset, protocol = result.synset, result.protocol
    left = {"epochs"} if "full_epochs" in protocol.settings else set()
    said = [
        canonical_json({name: value for name, value in one.items() if name not in left})
        for one in (protocol.settings, protocol.changed)
    ]
    described = canonical_json(result.metrics[result.main_metric].to_json())
    return (synset.dataset, synset.dataset_fingerprint, protocol.name, *said, result.precision, described)


def _order(key: tuple[Any, ...], protocol: ProtocolInfo) -> tuple[Any, ...]:
    dataset, *data = key[:-3]
    unit, value, labels = key[-3:]
    usual = protocol.standard and protocol.name == USUAL_PROTOCOL
    return (dataset, not usual, *data, labels, unit, value)


def _reference(result: Result) -> str:
    if result.synset.budget.unit == "all":
        return FULL
    return RANDOM if result.synset.method == RANDOM else ""


def _grouped(entries: Sequence[_Entry]) -> list[list[_Entry]]:
    """Results that make a row together: all of the method ``random`` with one preprocess, else one each.

    The same subsets with another preprocess are neither further subsets nor measured alike.
    """
    drawn: dict[str, list[_Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.result.synset.seed, entry.result.id)):
        if _reference(entry.result) == RANDOM:
            drawn.setdefault(canonical_json(entry.result.synset.preprocess), []).append(entry)
    single = [[entry] for entry in entries if _reference(entry.result) != RANDOM]
    return single + [own for _, own in sorted(drawn.items(), key=lambda item: (-len(item[1]), item[0]))]


def _row(group: Sequence[_Entry], shown: Sequence[Measure], ranking: str, beside: Known) -> Row:
    """A row that has no rank yet."""
    results = tuple(entry.result for entry in group)
    scores = {}
    for measure in shown:
        known = measure.known(results[0])
        if known is None or len(results) > 1:
            having = alike(results, measure, ranking)
            values = [list(measure.values(one, ranking).values()) for one in having]
            known = measure.known(having[0]) if len(having) == 1 else None
            known = known or (summarise_groups(values) if values else None)
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
        checked=together(judged) if len(judged) == len(results) else None,
        packed=sum(packed) / len(packed) if len(packed) == len(results) else None,
    )


def usual_labellers(rows: Sequence[Row]) -> frozenset[str]:
    """Those that labelled most rows, of equally many those of random images; none where all rows have the same."""
    votes = Counter(row.labellers for row in rows if row.labellers)
    if len(votes) < 2:
        return frozenset()
    random = {row.labellers for row in rows if row.reference == RANDOM}
    return min(votes, key=lambda own: (-votes[own], own not in random, len(own), sorted(own)))


def _ranking_student(results: Sequence[Result]) -> str:
    """The student that most synsets' runs named, of those evaluated, else that most have; the first by name.

    Also where it took no part: a run names the student that the synset is meant for.
    """
    methods = [result for result in results if not _reference(result)]
    votes = Counter(str(one.synset.student) for one in methods if one.synset.student in one.students)
    votes = votes or Counter(student for one in methods or results for student in one.students)
    return min(votes, key=lambda name: (-votes[name], name))
