"""The evaluation as it is written: its head, and the whole of it."""

from __future__ import annotations

from typing import Any

from ddbench.evaluation.kept import KIND, SCHEMA, Kept
from ddbench.evaluation.tasks import Job
from ddbench.modalities import modality
from ddbench.runtime import device as devices

SEARCHED = "search on held-out training images"
"""Where a learning rate comes from that was searched for."""


def whole(head: dict[str, Any], plan: Any, kept: Kept) -> dict[str, Any]:
    """The evaluation: head, learning rates, runs, statistics."""
    rates: dict[str, Any] = {}
    kind = modality(plan.synset.modality)
    for student in sorted({student for student, _ in kept.runs}):
        searched = kept.searches.get(student, {})
        rate, source = kind.rate(plan, student)
        if searched:
            rate, source = kept.best_rate(student), SEARCHED
        rates[student] = {
            "rate": rate,
            "source": source,
            "searched": {repr(rate): value for rate, value in sorted(searched.items())},
        }
    made = {**head, "metrics": {**kind.metrics, **kept.metrics}, "learning_rates": rates, **kept.tables()}
    if kept.diverged:
        made["diverged"] = [
            {"student": student, "seed": seed, "diverged": reason}
            for (student, seed), reason in sorted(kept.diverged.items())
        ]
    if kept.findings:
        kinds = {kind for _, _, kind in kept.findings}
        made["measured"] = {kind: settings for kind, settings in kept.measured.items() if kind in kinds}
        made["details"] = kept.details
        made["findings"] = [
            {"student": student, "seed": seed, "kind": kind, "details": details}
            for (student, seed, kind), details in sorted(kept.findings.items())
        ]
    return made


def head_of(job: Job, plan: Any, sha256: str, dataset: Any, difference: dict[str, Any]) -> dict[str, Any]:
    """Everything of an evaluation but its runs; two evaluations with equal heads can share runs."""
    teacher, stored = plan.teacher, plan.stored
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "synset": {"sha256": sha256, **modality(plan.synset.modality).describe(plan, dataset)},
        "teacher": teacher.reference() if job.protocol.labels in ("once", "teacher") and teacher else None,
        "labels": stored.reference() if job.protocol.labels == "stored" and stored else None,
        "protocol": {
            "name": job.protocol.name,
            "hash": job.protocol.hash,
            "standard": not difference,
            "changed": difference,
            "settings": job.protocol.settings(),
        },
        "precision": job.precision,
        "threads": job.threads,
        "at_once": job.at_once,
        "versions": devices.versions(),
        **devices.recorded_kind(job.device),
    }
