"""A finished evaluation for a caller in Python: its table as text, as a data frame, as a picture. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.config import checked
from ddbench.modalities import modality
from ddbench.registry import unknown
from ddbench.runtime.errors import UserError
from ddbench.statistics import TOO_FEW, count_words, gap_words, interval_words, paired_difference, summarise

if TYPE_CHECKING:
    import pandas
    from PIL.Image import Image

RANKING = ("roc_auc", "accuracy")
"""Metrics that rank a result, the first that there is; an accuracy says little where classes are of very different
sizes."""

NOT_PRINTED = ("adaptive_ece", "classwise_ece", "nll_scaled", "brier")
"""What metrics begin with that are in the file only: calibration has many. What ranks has a line of its own."""


ORDER = (
    "ece",
    "nll",
    "overconfidence",
    "temperature",
    "robust",
    "cw",
    "deepfool",
    "beard",
    "corruption",
    "noise",
    "mce",
    "ood",
)
"""What metrics begin with, in the order of their lines."""

ONE = "one fixed network"
"""What stands in the place of the number of seeds."""


def ranked_by(metrics: Mapping[str, Any]) -> str:
    """The metric that a result is ranked by: of :data:`RANKING` the first that it has, else the first by name."""
    return next((name for name in RANKING if name in metrics), min(metrics))


def said_before(metric: str, title: str) -> str:
    """What stands before figures of a metric that ranks, such as ``ROC-AUC ``; nothing before accuracy."""
    return "" if metric == "accuracy" else f"{title.removeprefix('Test ')} "


def is_fixed(synset: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a result's protocol trained the one network that its synset brings.

    Early results do not say so: theirs are of the method ``dd`` with a fixed start, whose steps the protocol replays.

    Args:
        synset: what the result says of its synset.
        settings: its protocol's.
    """
    said = synset.get("fixed_network")
    early = synset["method"] == "dd" and settings.get("replay") and synset["config"].get("init_networks") == "fixed"
    return bool(early if said is None else said)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Students trained on a synset and tested, and what was measured on them.

    Attributes:
        path: the file.
        data: its content.
    """

    path: Path
    data: dict[str, Any]

    @property
    def title(self) -> str:
        """Method, dataset, budget and protocol; and whether a setting differs from the protocol's."""
        synset, protocol = self.data["synset"], self.data["protocol"]
        budget = f"{synset['budget']['unit']} {synset['budget']['value']}"
        title = f"{synset['method']} on {synset['dataset']}, {budget}, {protocol['name']}"
        return title + ("" if protocol["standard"] else f"  NON-STANDARD: {protocol['changed']}")

    @property
    def students(self) -> tuple[str, ...]:
        """The names of the students that have a summary."""
        return tuple(self.data["summary"])

    @property
    def diverged(self) -> dict[str, list[int]]:
        """Student -> seeds whose outputs were not finite; such a student has no summary."""
        found: dict[str, list[int]] = {}
        for entry in self.data.get("diverged", []):
            found.setdefault(entry["student"], []).append(entry["seed"])
        return found

    @property
    def standard(self) -> bool:
        """Whether every setting is the protocol's own."""
        return bool(self.data["protocol"]["standard"])

    @property
    def fixed(self) -> bool:
        """Whether the protocol trained one fixed network: its runs are one, and have no spread."""
        return is_fixed(self.data["synset"], self.data["protocol"]["settings"])

    @checked
    def summary(self, student: str | None = None, metric: str = "accuracy") -> dict[str, Any]:
        """``mean``, ``std``, ``n`` and the 95 % interval ``low`` to ``high`` of a metric over the seeds.

        Runs of a fixed network are one, and have no interval.

        Args:
            student: its name; may be left out where there is one only.
            metric: a key of ``data["metrics"]``.

        Raises:
            UserError: no such student or metric, or several students and none named.
        """
        table = self.data["summary"]
        if student is None:
            if len(table) != 1:
                raise UserError(f"{self.path}: there are {len(table)} students, name one of: {', '.join(table)}")
            student = self.students[0]
        if student in self.diverged:
            raise UserError(
                f"{self.path}: {student} diverged (seeds {_listed(self.diverged[student])}): it has no mean"
            )
        if student not in table:
            raise unknown("student of this evaluation", student, table)
        if metric not in table[student]:
            raise unknown("metric of this evaluation", metric, table[student])
        found = table[student][metric]
        return dict(summarise([found["mean"]]) if self.fixed else found)

    @checked
    def accuracy(self, student: str | None = None) -> float:
        """Mean test accuracy over the seeds, 0 to 1.

        Raises:
            UserError: as :meth:`summary`.
        """
        return float(self.summary(student)["mean"])

    @checked
    def by_seed(self, student: str, metric: str = "accuracy") -> dict[int, float]:
        """A metric of each of a student's runs that has it, by seed; nothing of one that diverged at every seed.

        Raises:
            UserError: no such student or metric, or the metric was not measured on this student.
        """
        if student not in self.students and student not in self.diverged:
            raise unknown("student of this evaluation", student, [*self.students, *self.diverged])
        if metric not in self.data["metrics"]:
            raise unknown("metric of this evaluation", metric, self.data["metrics"])
        own = {run["seed"]: run["metrics"] for run in self.data["runs"] if run["student"] == student}
        found = {seed: metrics[metric] for seed, metrics in own.items() if metric in metrics}
        if own and not found:
            raise unknown(f"metric of {student}", metric, dict.fromkeys(name for one in own.values() for name in one))
        return found

    def frame(self) -> pandas.DataFrame:
        """One row a run: ``method``, ``dataset``, ``protocol``, ``student``, ``seed``, then a column a metric.

        Runs that diverged are rows without a value.
        """
        import pandas

        synset = self.data["synset"]
        named = {"method": synset["method"], "dataset": synset["dataset"], "protocol": self.data["protocol"]["name"]}
        return pandas.DataFrame(
            [
                {**named, "student": run["student"], "seed": run["seed"], **run.get("metrics", {})}
                for run in [*self.data["runs"], *self.data.get("diverged", [])]
            ]
        )

    @checked
    def plot(self, metric: str = "accuracy") -> Image:
        """A picture of a metric: a line a student with every run, the mean and its 95 % interval.

        Raises:
            UserError: no student has the metric.
        """
        from ddbench.evaluation.plot import plot

        head = self.title.split("  ")[0] + ("" if self.standard else ", non-standard")
        return plot(self.data, head, metric)

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield self.title
        known = self.data["metrics"]
        main = ranked_by(known)
        for student, metrics in self.data["summary"].items():
            entry, rate = metrics[main], self.data["learning_rates"][student]
            words = interval_words(entry, 100, 2)
            interval = f"  95 % interval {words}" if words and words != TOO_FEW else f"  {words}" if words else ""
            seeds = count_words(entry["n"], "seed")
            if self.fixed:
                interval, seeds = "", ONE
            figure = f"{said_before(main, known[main]['title'])}{100 * entry['mean']:6.2f} %"
            yield f"  {student:<24} {figure}{interval}  ({seeds})  lr {rate['rate']:g}"
            yield from _measured({name: known[name] for name in known if name != main}, metrics, self.fixed)
        for student, lost in self.diverged.items():
            total = len(lost) + sum(run["student"] == student for run in self.data["runs"])
            yield f"  {student:<24} diverged: seeds {_listed(lost)} ({len(lost)} of {total}); it has no mean"
        synset = self.data["synset"]
        stored = synset["bytes"]
        names = ("images", "labels", "augmentation", "teacher", "other")
        items = modality(synset["modality"]).items
        parts = ", ".join(f"{name} {stored[name]:,}" for name in names if stored[name]).replace("images", items)
        share = f"1/{stored['real_images'] / synset['images']:.0f} of the {items}"
        if (
            synset["decoded_images"] != synset["classes"] * synset["budget"]["value"]
            and synset["budget"]["unit"] == "ipc"
        ):
            share += f"; a student sees {synset['decoded_images']:,}"
        yield f"  bytes {stored['total']:,} ({parts}): {stored['total'] / stored['real']:.2%} of the real set, {share}"


def side_by_side(results: Sequence[Evaluation]) -> list[str]:
    """Lines of a table: each student by each protocol in what ranks, and its paired difference from the first one.

    Args:
        results: evaluations of one synset, at least one.
    """
    first, width = results[0], max(len(one.data["protocol"]["name"]) for one in results)
    main = ranked_by(first.data["metrics"])
    named = said_before(main, first.data["metrics"][main]["title"]) or "accuracy "
    lines = ["", f"{named}in %, and - {first.data['protocol']['name']} with its 95 % interval, seeds paired"]
    for student in first.students:
        lines.append(f"  {student}")
        for one in results:
            if student not in one.students or student in one.diverged or student in first.diverged:
                continue
            line = f"    {one.data['protocol']['name']:{width}}  {100 * one.summary(student, main)['mean']:5.1f}"
            if one is not first:
                line += f"  {_gap(one, first, student, main)}"
            lines.append(line)
    return lines


def _gap(one: Evaluation, other: Evaluation, student: str, metric: str) -> str:
    """The difference of two, paired by seed; runs of a fixed network are one, and are paired with nothing."""
    if one.fixed or other.fixed:
        means = [float(each.summary(student, metric)["mean"]) for each in (one, other)]
        return f"{gap_words(means[0] - means[1], None, None)} ({ONE})"
    gap = paired_difference(one.by_seed(student, metric), [other.by_seed(student, metric)])
    tie = ": tie" if gap["tie"] and gap["low"] is not None else ""
    return gap_words(gap["mean"], gap["low"], gap["high"]) + tie


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def _measured(known: dict[str, Any], metrics: dict[str, Any], fixed: bool) -> Iterator[str]:
    """One line a metric that was measured beside the one that ranks, without an interval of a fixed network."""
    shown = [name for name in known if name in metrics and not name.startswith(NOT_PRINTED)]
    places = {name: next((place for place, start in enumerate(ORDER) if name.startswith(start)), 99) for name in shown}
    for name in sorted(shown, key=lambda name: (places[name], name)):
        entry, metric = metrics[name], known[name]
        words = "" if fixed else interval_words(entry, unit=str(metric.get("unit")))
        interval, seeds = f"  {words}" if words else "", ONE if fixed else count_words(entry["n"], "seed")
        yield f"    {metric['title']:<52} {entry['mean']:8.4f}{interval}  ({seeds})"


def without_students(evaluation: dict[str, Any], path: Path, left_out: Sequence[str]) -> dict[str, Any]:
    """An evaluation without some of its students, and without what was measured on those only.

    Raises:
        UserError: no such student, none is left, or one of those left diverged: a row has every run.
    """
    known = list(dict.fromkeys(run["student"] for run in [*evaluation["runs"], *evaluation.get("diverged", [])]))
    for student in left_out:
        if student not in known:
            raise unknown("student of this evaluation", student, known, "--leave-out")
    lost = [entry for entry in evaluation.get("diverged", []) if entry["student"] not in left_out]
    if lost:
        student = lost[0]["student"]
        seeds = ", ".join(str(entry["seed"]) for entry in lost if entry["student"] == student)
        raise UserError(
            f"{path}: {student} diverged (seeds {seeds}), and a row needs all runs of its students; give "
            f"--leave-out {student}"
        )
    if not left_out:
        return evaluation
    runs = [run for run in evaluation["runs"] if run["student"] not in left_out]
    if not runs:
        raise UserError(f"--leave-out {left_out[0]}: no student of {path} is left")
    tables: dict[str, Any] = {
        name: {student: entry for student, entry in evaluation[name].items() if student not in left_out}
        for name in ("learning_rates", "summary", "details")
        if name in evaluation
    }
    tables["metrics"] = {
        name: metric
        for name, metric in evaluation["metrics"].items()
        if any(name in own for own in tables["summary"].values())
    }
    if "findings" in evaluation:
        tables["findings"] = [entry for entry in evaluation["findings"] if entry.get("student") not in left_out]
        kinds = {entry["kind"] for entry in tables["findings"]}
        tables["measured"] = {kind: how for kind, how in evaluation.get("measured", {}).items() if kind in kinds}
    left = {name: value for name, value in evaluation.items() if name not in ("measured", "details")}
    tables = {name: table for name, table in tables.items() if table or name not in ("measured", "details")}
    return {**left, **tables, "runs": runs}
