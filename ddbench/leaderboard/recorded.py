"""What other verbs left of a run beside its evaluation, as a row has it: costs, scores, tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ddbench.evaluation.ddranking.definitions import TITLES, Accuracies
from ddbench.evaluation.kept import COSTS, SECONDS
from ddbench.leaderboard.consistency import score_summary
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.schema import MAX_RESULT_BYTES
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, read_json
from ddbench.runtime.resources import PEAKS, largest

SCORES_KIND = "ddbench-scores"
OWN_ACCURACIES = tuple(field.name for field in fields(Accuracies))


def read_scores(path: Path, result: Result) -> dict[str, Any] | None:
    """DD-Ranking's scores of the same synset under the same protocol, where they were measured."""
    if not path.is_file():
        return None
    found = read_json(path, "scores file", MAX_RESULT_BYTES)
    try:
        if found["kind"] != SCORES_KIND or found["synset"]["sha256"] != result.synset.sha256:
            raise UserError(f"{path}: scores of another synset; run `ddbench scores` again, or remove the file")
        if found["protocol"]["hash"] != result.protocol.hash:
            return None
        if result.teacher is not None and found["teacher"] != result.teacher["sha256"]:
            raise UserError(
                f"{path}: scores with another teacher than the evaluation's ({result.teacher['sha256'][:12]}): remove "
                "the file, and score with that one by `ddbench scores RUN --teacher FILE`"
            )
        for lost in found.get("diverged", []):
            raise UserError(
                f"{path}: repeat {lost['seed']} diverged ({TITLES[lost['leg']]}), and the scores of a row have every "
                "repeat; remove the file to submit the row without scores"
            )
        names = ("seed", *OWN_ACCURACIES)
        repeats = [{name: repeat[name] for name in names} for repeat in found["repeats"]]
        own = [Accuracies(**{name: repeat[name] for name in OWN_ACCURACIES}) for repeat in repeats]
        kept = {name: found[name] for name in ("student", "standard", "weight", "random_labels")}
        if found.get("hard_augmentation"):
            kept["hard_augmentation"] = True
        return {**kept, "repeats": repeats, "summary": score_summary(own, found["weight"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a whole scores file ({error!r:.80}); run `ddbench scores` again") from None


def read_tasks(paths: Sequence[Path], result: Result) -> dict[str, Any]:
    """What results of tasks say of a row's synset: task -> as :class:`ddbench.leaderboard.result.TaskInfo`.

    Raises:
        UserError: no result of a task, one that does not have the synset, or two of one task.
    """
    from ddbench.tasks import task_class
    from ddbench.tasks.record import read_result

    found: dict[str, Any] = {}
    for path in paths:
        made = read_result(path)
        head, name = made["head"], made["task"]
        label = next((run["label"] for run in head["runs"] if run["sha256"] == result.synset.sha256), None)
        if label is None:
            runs = ", ".join(run["label"] for run in head["runs"])
            raise UserError(
                f"--task {path}: it is about {runs:.200}, not about this synset ({result.synset.sha256[:8]}); name the "
                f"run in `ddbench task {name}` too"
            )
        if name in found:
            raise UserError(f"--task {path}: a second result of {name}; a row has one of each task")
        found[name] = task_class(name).told(head, made["units"], label).to_json(head)
    return found


def read_cost(path: Path, left_out: Sequence[str] = ()) -> Any:
    """A cost record, what one run and all its measurements took as one entry: a row has no room for every probe.

    Args:
        left_out: students that are not on the row, whose trainings it does not count.
    """
    cost = read_json(path, "cost record", 16 * MAX_RESULT_BYTES) if path.exists() else None
    if not isinstance(cost, dict) or not isinstance(cost.get("runs"), list):
        return cost
    entries: dict[str, dict[str, Any]] = {}
    for run in cost["runs"]:
        if not isinstance(run, dict) or any(type(run.get(name, 0)) not in (int, float) for name in COSTS):
            raise UserError(f"{path}: run {str(run)[:60]!a} is malformed; evaluate again")
        named = {name: run[name] for name in ("student", "seed", "searched_lr") if name in run}
        entry = entries.setdefault(canonical_json(named), dict(named))
        for name, value in run.items():
            if name in PEAKS:
                entry[name] = max(entry.get(name, 0), value)
            elif name in SECONDS:
                entry[name] = round(entry.get(name, 0.0) + value, 3)
    own = [entry for entry in entries.values() if entry.get("student") not in left_out]
    if len(own) < len(entries):
        cost = {name: value for name, value in cost.items() if name not in COSTS} | largest(own)
        cost |= {name: round(sum(entry.get(name, 0) for entry in own), 3) for name in SECONDS}
    return {**cost, "runs": own}
