"""What the board compares: a number a row has for each seed, its direction, and what must be equal for a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from ddbench.evaluation.ddranking.definitions import UNITS
from ddbench.leaderboard.result import Metric, Result, TaskInfo, plain
from ddbench.runtime.files import canonical_json
from ddbench.statistics import Statistics

HEADLINE = {
    "further": ("accuracy",),
    "calibration": ("ece_scaled", "ece"),
    "robustness": ("robust_accuracy", "robust_autoattack"),
    "corruptions": ("corruption_accuracy", "mce"),
    "ood": ("ood_auroc",),
}
"""Metrics with a column of their own, by group (the accuracy where another metric ranks); an opened row shows all
others. The group is also the name of the settings in a result's ``measured``."""

_BINS = ("n_test", "n_bins", "norm")
_CORRUPTED = ("version", "set", "constants", "types", "severities", "images")
ESSENTIAL = {
    "ece": _BINS,
    "ece_scaled": (*_BINS, "temperature_split", "temperature_images", "temperature_unseen"),
    "corruption_accuracy": _CORRUPTED,
}
"""Metric -> the settings that it depends on, where those are not all of its group."""

SHORT = {
    "ece_scaled": "ECE scaled",
    "ece": "ECE",
    "robust_accuracy": "robust",
    "robust_autoattack": "AutoAttack",
    "corruption_accuracy": "corrupted",
    "mce": "mCE",
    "ood_auroc": "OOD AUROC",
    "lira_tpr_at_fpr_0.001": "LiRA TPR at 0.1 %",
    "lira_tpr_at_fpr_0.01": "LiRA TPR at 1 %",
    "lira_auc": "LiRA AUC",
}

SCORES = {
    "hlr": ("HLR", UNITS["hlr"], "lower", "hard label recovery: all real data less the synset, hard labels"),
    "ior": ("IOR", UNITS["ior"], "higher", "improvement over random real data under the row's own protocol"),
    "lrs": ("LRS", UNITS["lrs"], "higher", "label robust score, 0 to 100"),
    "ars": ("ARS", UNITS["ars"], "higher", "augmentation robust score, 0 to 100"),
}
"""DD-Ranking's scores: title, unit, direction, meaning; they join a row as the result's ``scores``."""

MAIN, CROSS, SCORE, TASK = "accuracy", "cross", "scores", "tasks"


def repeated(groups: Iterable[str]) -> list[str]:
    """Metrics of the groups that a verification measures again; the mCE refers to a file that its submitter has."""
    return [name for group in groups for name in HEADLINE.get(group, ()) if name != "mce"]


@dataclass(frozen=True)
class Measure:
    """One compared number.

    Attributes:
        group: MAIN, CROSS, SCORE, TASK or a key of HEADLINE.
        student: whose it is; empty where it is not one student's.
        metric: name in the result; of a task ``<task>.<metric>``.
        title, unit, hint: as shown; the unit ``fraction`` is printed in per cent.
        better: ``higher`` or ``lower``.
    """

    group: str
    student: str
    metric: str
    title: str
    unit: str
    better: str
    hint: str

    @property
    def sign(self) -> int:
        """Ascending order of ``sign * value`` is from best to worst."""
        return -1 if self.better == "higher" else 1

    def values(self, result: Result, ranking: str) -> dict[int, float]:
        """Seed -> value; empty where the result has none.

        Args:
            ranking: the student that stands for the training student where that was not evaluated.
        """
        if self.group == SCORE:
            return _scores(result, self.metric)
        if self.group == CROSS:
            return _cross(result, self.metric, others(result, ranking))
        if self.group == TASK:
            task, name = _of_task(result, self.metric)
            return {} if task is None else task.values(name)
        return result.values(self.student, self.metric)

    def known(self, result: Result) -> Statistics | None:
        """Statistics that the result has of it already, checked when it was read; None: they follow from the values."""
        if self.group == TASK:
            task, name = _of_task(result, self.metric)
            return None if task is None else task.summary[name]
        return result.statistics.get(self.student, {}).get(self.metric)

    def described_by(self, result: Result) -> bool:
        """Whether a result means the same by the number: unit and direction."""
        if self.group == SCORE:
            return True
        task, name = _of_task(result, self.metric) if self.group == TASK else (None, "")
        own = task.metrics[name] if task is not None else result.metrics.get(self.metric)
        return own is not None and (own.unit, own.better) == (self.unit, self.better)

    def settings(self, result: Result, ranking: str) -> str:
        """What must be equal for two rows' numbers to be compared."""
        if self.group == SCORE:
            said = result.scores
            asked = ("student", "standard", "weight", "random_labels", "hard_augmentation")
            return canonical_json([getattr(said, name, None) for name in asked])
        if self.group == CROSS:
            return canonical_json(others(result, ranking))
        if self.group == TASK:
            task, name = _of_task(result, self.metric)
            return "" if task is None else canonical_json([plain(task.metrics[name]), plain(task.question)])
        if self.group == MAIN:
            return ""
        settings = result.measured_as(self.group)
        names = ESSENTIAL.get(self.metric, settings.keys())
        kept = {name: value for name, value in settings.items() if name in names}
        return canonical_json([plain(result.metrics.get(self.metric)), kept])


def others(result: Result, ranking: str) -> list[str]:
    """The students that a result's mean across architectures is over, by name: all but the one that its synset was
    distilled on or, where that was not evaluated or is none, all but ``ranking``."""
    known = result.students
    own = result.distilled_on
    own = own if own in known else ranking
    return sorted(name for name in known if name != own)


def _scores(result: Result, name: str) -> dict[int, float]:
    """Seed -> one score, from the accuracies of each repeat."""
    scores = result.scores
    if scores is None:
        return {}
    return {seed: table[name] for seed, table in scores.by_seed.items()}


def _of_task(result: Result, metric: str) -> tuple[TaskInfo | None, str]:
    """The task of ``<task>.<metric>`` in a result, where it has that number, and the metric's own name."""
    task, _, name = metric.partition(".")
    found = result.task(task)
    return (found if found is not None and name in found.metrics else None), name


def _cross(result: Result, metric: str, names: Sequence[str]) -> dict[int, float]:
    tables = [result.values(name, metric) for name in names]
    if not tables:
        return {}
    return {seed: fmean(table[seed] for table in tables) for seed in sorted(set(tables[0]).intersection(*tables[1:]))}


def measures(results: Iterable[Result], metric: str, columns: Sequence[str]) -> tuple[Measure, ...]:
    """Everything that rows of one table are compared by: accuracies first, then what else any of them has.

    Args:
        metric: the one that the table ranks by.
        columns: students in the order of the columns, first the one that ranks.
    """
    results = list(results)
    described = _described((name, one) for result in results for name, one in result.metrics.items())
    main = described[metric]
    found = [
        Measure(MAIN, name, metric, name, main.unit, main.better, f"mean and half of its 95 % interval, {name}")
        for name in columns
    ]
    hint = f"mean over the students but the one it was distilled on; if that is none of them, but {columns[0]}"
    found.append(Measure(CROSS, "", metric, "cross-arch.", main.unit, main.better, hint))
    if any(result.scores is not None for result in results):
        found += [Measure(SCORE, "", name, *said) for name, said in SCORES.items()]
    measured = {(run.student, name) for result in results for run in result.runs for name in run.metrics}
    for group, names in HEADLINE.items():
        for student in columns:
            for name in names:
                if name != metric and (student, name) in measured:
                    one = described[name]
                    title = SHORT.get(name, one.title)
                    text = f"{one.title}, {student}"
                    found.append(Measure(group, student, name, title, one.unit, one.better, text))
    return (*found, *_task_measures(results))


def _task_measures(results: Sequence[Result]) -> Iterator[Measure]:
    """The numbers of tasks: tasks by name, their numbers as most rows tell them."""
    tasks: dict[str, list[TaskInfo]] = {}
    for result in results:
        for task, info in (result.tasks or {}).items():
            tasks.setdefault(task, []).append(info)
    for task, told in sorted(tasks.items()):
        for name, one in _described(entry for info in told for entry in info.metrics.items()).items():
            title, hint = f"{task} {SHORT.get(name, name)}", f"{one.title} (task {task})"
            yield Measure(TASK, "", f"{task}.{name}", title, one.unit, one.better, hint)


def _described(entries: Iterable[tuple[str, Metric]]) -> dict[str, Metric]:
    """What most say of a metric, by name: no single row turns the order of a column round."""
    votes: dict[str, Counter[Metric]] = {}
    for name, one in entries:
        votes.setdefault(name, Counter())[one] += 1
    return {name: min(own, key=lambda one: (-own[one], one.unit, one.better, one.title)) for name, own in votes.items()}
