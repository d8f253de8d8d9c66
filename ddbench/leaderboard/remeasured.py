"""What of a row is measured again beside its accuracy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ddbench.leaderboard.columns import repeated
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.verification import Verification
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json

if TYPE_CHECKING:
    from ddbench.evaluation.tasks import Job
    from ddbench.measurements.suite import Choice


def unmeasured(result: Result, made: Verification) -> list[str]:
    """Metrics and tasks of a row that its verification says nothing of, though they can be measured again."""
    metrics = [name for name in repeated(sorted(result.measured or ())) if name in result.metrics]
    tasks = result.tasks or {}
    return [name for name in metrics if name not in made.measured] + sorted(tasks.keys() - (made.tasks or {}).keys())


def measurements(result: Result, job: Job) -> list[Choice]:
    """What is to be measured again, as the row's settings say; nothing where it has accuracies only.

    Versions of libraries, and what the mCE refers to, may be others than the row's.

    Raises:
        UserError: settings that are malformed, or that this ddbench does not have.
    """
    from ddbench.evaluation.probing import build_suites
    from ddbench.evaluation.tasks import load_plan
    from ddbench.measurements.suite import SUITES, Choice
    from ddbench.runtime.files import file_hash

    where, choices = f"row {result.id}", []
    for kind, settings in sorted((result.measured or {}).items()):
        images, budget = settings.get("images"), settings.get("budget", "")
        if kind not in SUITES:
            continue  # nothing that this program measures; it stays as claimed
        if kind != "calibration" and (type(images) is not int or images < 1):
            raise UserError(
                f"{where}: measured.{kind}.images is {str(images)[:40]!a}, expected a number of test images"
            )
        if kind == "calibration":
            choices.append(Choice(kind=kind))
        elif kind == "ood":
            choices.append(Choice(kind=kind, other=str(settings.get("other"))[:40], max_images=images))
        else:
            choices.append(Choice(kind=kind, budget=str(budget)[:40], max_images=images))
    if not choices:
        return []
    plan, dataset = load_plan(job, file_hash(job.synset))
    for suite in build_suites(choices, plan, dataset):
        ours, theirs = json.loads(canonical_json(suite.settings)), result.measured_as(suite.kind)
        differing = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
        differing -= {"libraries", "reference"}
        if differing:
            raise UserError(
                f"{where}: its {suite.kind} was measured with other settings than this ddbench has ({min(differing)} "
                "differs); verify it without --measured"
            )
    return choices
