"""What a row must have, and what it keeps, that takes the place of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddbench.data.specs import dataset_slug
from ddbench.leaderboard.attachments import IMPORTED
from ddbench.leaderboard.columns import HEADLINE
from ddbench.leaderboard.result import Result
from ddbench.runtime.errors import UserError

WORDS = {
    "method_title": "name",
    "authors": "authors",
    "links": "links",
    "code": "code",
    "licence": "licence",
    "note": "note",
    "claims": "claims",
    "synset_url": "address of the synset",
}
"""What a submitter says that is true of a synset whoever evaluates it: field of a row's submission, in words."""


def with_words_of(latest: Result, result: Result) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The content of a row with what the submitter said of the one whose place it takes, where this one says nothing.

    Returns:
        The content, and what was kept, in words.
    """
    content, old = result.to_json(), latest.to_json()["submission"]
    said = dict(content["submission"])
    old["claims"] = [claim for claim in old["claims"] if claim["student"] in result.students]
    kept = [field for field in WORDS if not said.get(field) and old.get(field)]
    said |= {field: old[field] for field in kept}
    words = [WORDS[field] for field in kept]
    if result.synset.method == IMPORTED != latest.synset.method:
        content["synset"] = {**content["synset"], "method": latest.synset.method}
        words.insert(0, f"method {latest.synset.method}")
    return {**content, "submission": said}, tuple(words)


def _kinds(row: Result, student: str) -> set[str]:
    """Kinds of extra measurements that a row has of a student."""
    return {kind for kind in row.measured or {} if any(name in row.summary[student] for name in HEADLINE.get(kind, ()))}


def _seeds(row: Result, student: str) -> set[int]:
    return set(row.values(student, row.main_metric))


def what_is_lost(latest: Result, result: Result, run: str = "RUN") -> tuple[str, str] | None:
    """What a row lacks that the one has whose place it takes, and how to add it; None: nothing."""
    students = [student for student in latest.students if student not in result.students]
    measured = sorted(set(latest.measured or {}) - set(result.measured or {}))
    tasks = sorted(set(latest.tasks or {}) - set(result.tasks or {}))
    if students:
        return " and ".join(students), f"evaluate with --students {','.join([*result.students, *students])}"
    for student in latest.students:
        if seeds := _seeds(latest, student) - _seeds(result, student):
            every = ",".join(result.students)
            named = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, sorted(seeds)))} of {student}"
            return named, f"evaluate with --students {every} --seeds {max(_seeds(latest, student)) + 1}"
    if measured:
        return " and ".join(measured), f"evaluate with {' '.join(f'--{kind}' for kind in measured)}"
    fewer = {student: _kinds(latest, student) - _kinds(result, student) for student in latest.students}
    if any(fewer.values()):
        flags = " ".join(f"--{kind}" for kind in sorted(set().union(*fewer.values())))
        lost = " and ".join(f"{kind} of {student}" for student, kinds in fewer.items() for kind in sorted(kinds))
        return lost, f"evaluate with --students {','.join(result.students)} {flags}"
    if tasks:
        file = f"tasks/{dataset_slug(result.synset.dataset)}-{tasks[0]}.json"
        return f"the task {' and '.join(tasks)}", f"give its result with --task {file}"
    if latest.scores and not result.scores:
        return "DD-Ranking's scores", f"run `ddbench scores {run}`"
    return None


def check_nothing_lost(latest: Result, result: Result, run: Path) -> None:
    """A row has all that the one has whose place it takes.

    Raises:
        UserError: names what it lacks, and how to add it.
    """
    lost = what_is_lost(latest, result, str(run))
    if lost is not None:
        raise UserError(
            f"the board's row of this synset under this protocol ({latest.id}) has {lost[0]}, this evaluation has not: "
            f"{lost[1]}, then submit again"
        )
