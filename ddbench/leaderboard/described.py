"""What a row says of its files, beside what the evaluator says of them: nothing is trained.

A verification trains the students of a row again and compares their numbers. What stands beside those numbers (kind of
labels, bytes by part, rates, the teacher) follows from the row's files and its protocol, and is compared here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddbench.leaderboard.attachments import IMPORTED
from ddbench.leaderboard.result import Result, plain
from ddbench.modalities import modality
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, file_hash

if TYPE_CHECKING:
    from ddbench.evaluation.tasks import Job

ROUNDING = 1e-6
"""Relative difference of two numbers that are one: the mean of learned rates is a sum in float32."""


def check_described(result: Result, job: Job) -> None:
    """Refuse a row that says something else of its synset, teacher, stored labels or rates than its files give.

    Two things are its submitter's to say: the method of a synset that was imported without a name, and the accuracies
    of a search for a rate, which are measured; the rate must be the best of them.

    Args:
        job: of the row, with its files.

    Raises:
        UserError: names the field, or the files do not belong together.
    """
    from ddbench.evaluation.record import head_of
    from ddbench.evaluation.tasks import load_plan

    sha256 = file_hash(job.synset)
    plan, dataset = load_plan(job, sha256)
    head = head_of(job, plan, sha256, dataset, {})
    found = {name: json.loads(canonical_json(head[name])) for name in ("synset", "teacher", "labels")}
    said = {"synset": result.synset.to_json(), "teacher": plain(result.teacher), "labels": plain(result.labels)}
    if found["synset"]["method"] == IMPORTED:
        found["synset"]["method"] = said["synset"]["method"]
    if result.synset.budget.whole:  # made here of the dataset; a file of its own that nobody has
        found["synset"]["sha256"] = said["synset"]["sha256"]
    if "fixed_network" not in said["synset"]:  # as in early rows, whose bytes count the network
        found["synset"].pop("fixed_network", None)
    said["learning_rates"] = plain(result.learning_rates)
    found["learning_rates"] = {student: _rate(result, job.protocol, plan, student) for student in result.students}
    wrong = differing(said, found)
    if wrong is not None:
        raise UserError(
            f"row {result.id}: its {wrong[:80]} is not what its files give; nothing is trained: evaluate and submit "
            "the synset again"
        )


def _rate(result: Result, protocol: Any, plan: Any, student: str) -> dict[str, Any]:
    """What a row must say of the rate of a student."""
    from ddbench.evaluation.kept import best_of
    from ddbench.evaluation.record import SEARCHED

    own = result.learning_rates.get(student, {})
    rate, source = modality(result.synset.modality).rate(plan, student)
    if getattr(protocol, "replay", False) and own.get("source") == "protocol":
        source = "protocol"  # early rows name it, though a replayed recipe has rates of its own
        if own.get("rate") == protocol.lr:
            rate = protocol.lr  # and some of them its rate, not their mean
    if getattr(protocol, "lr_source", "") != "search":
        return {"rate": rate, "source": source, "searched": {}}
    tried = own.get("searched", {})
    found = {rate: tried.get(repr(rate), 0.0) for rate in protocol.lr_grid}
    return {
        "rate": best_of(found),
        "source": SEARCHED,
        "searched": {repr(rate): value for rate, value in found.items()},
    }


@dataclass(frozen=True)
class SearchedOtherwise:
    """Where a search for rates, done again, found something else than a row says.

    Attributes:
        line: in words.
        chosen: whether another rate is best, not only accuracies differ.
    """

    line: str
    chosen: bool


def searched_otherwise(result: Result, again: Mapping[str, Any]) -> list[SearchedOtherwise]:
    """What a search for rates found that the row does not say of it, one for each such student.

    Args:
        again: student -> rate and ``searched`` (rate -> accuracy on held-out items), trained again.
    """
    found_otherwise = []
    for student, found in again.items():
        own = result.learning_rates.get(student, {})
        said, tried = own.get("searched", {}), found["searched"]
        gaps = {rate: abs(value - said.get(rate, 0.0)) for rate, value in tried.items()}
        if not any(gaps.values()):
            continue
        worst = max(gaps, key=lambda rate: gaps[rate])
        best, rate = found["rate"], own.get("rate")
        better = "" if best == rate else f"; rate {best:g} is best, not {rate:g}"
        line = (
            f"search of {student}: rate {worst} reaches {tried[worst]:.4f} on held-out items, the row says "
            f"{said.get(worst, 0.0):.4f} ({sum(gap > 0 for gap in gaps.values())} of {len(gaps)} rates differ){better}"
        )
        found_otherwise.append(SearchedOtherwise(line, chosen=best != rate))
    return found_otherwise


def differing(said: Any, found: Any, place: str = "") -> str | None:
    """Where two JSON values differ first, as ``synset.bytes.labels``; None: nowhere."""
    if isinstance(said, Mapping) and isinstance(found, Mapping):
        for name in sorted(said.keys() | found.keys()):
            if name not in said or name not in found:
                return f"{place}.{name}".lstrip(".")
            deeper = differing(said[name], found[name], f"{place}.{name}")
            if deeper is not None:
                return deeper
        return None
    if isinstance(said, float) and isinstance(found, float):
        alike = math.isclose(said, found, rel_tol=ROUNDING)
    else:
        alike = said == found and isinstance(said, bool) == isinstance(found, bool)
    return None if alike else place.lstrip(".")
