"""The evaluation as it is written: its head, and the whole of it."""

from __future__ import annotations

from typing import Any

from ddbench.data.dataset import Dataset
from ddbench.evaluation.kept import KIND, SCHEMA, Kept
from ddbench.evaluation.storage import storage
from ddbench.evaluation.tasks import Job
from ddbench.protocols.plan import Plan, learned_rate, rate_of
from ddbench.runtime import device as devices

METRICS = {"accuracy": {"unit": "fraction", "better": "higher", "title": "Test accuracy"}}


def whole(head: dict[str, Any], plan: Plan, kept: Kept) -> dict[str, Any]:
    """The evaluation: head, learning rates, runs, statistics."""
    rates: dict[str, Any] = {}
    for student in sorted({student for student, _ in kept.runs}):
        searched = kept.searches.get(student, {})
        rates[student] = {
            "rate": kept.best_rate(student) if searched else rate_of(plan, student),
            "source": _rate_source(plan, bool(searched)),
            "searched": {repr(rate): value for rate, value in sorted(searched.items())},
        }
    made = {**head, "metrics": {**METRICS, **kept.metrics}, "learning_rates": rates, **kept.tables()}
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


def _rate_source(plan: Plan, searched: bool) -> str:
    if searched:
        return "search on held-out training images"
    return "protocol" if learned_rate(plan.synset, plan.protocol) is None else "synset"


def head_of(job: Job, plan: Plan, sha256: str, dataset: Dataset, difference: dict[str, Any]) -> dict[str, Any]:
    """Everything of an evaluation but its runs; two evaluations with equal heads can share runs."""
    synset, lr = plan.synset, plan.synset.learned_lr
    teacher, stored = plan.teacher, plan.stored
    kinds = {"teacher": "teacher", "stored": "teacher", "hard": "hard"}
    bound = job.protocol.replay and synset.schedule is not None and synset.schedule.fixed is not None
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "synset": {
            "sha256": sha256,
            "method": synset.method,
            "dataset": synset.dataset,
            "dataset_fingerprint": synset.fingerprint,
            "modality": synset.modality,
            "budget": {"unit": synset.budget.unit, "value": synset.budget.value},
            "classes": synset.classes,
            "shape": list(synset.images.shape[1:]),
            "images": len(synset.images),
            "decoded_images": synset.decoded_images,
            "label_kind": kinds.get(job.protocol.labels, synset.label_kind),
            "student": synset.student,
            "seed": synset.seed,
            "preprocess": synset.preprocess,
            "config": synset.config,
            "learned_lr": float(lr) if lr is not None and lr.ndim == 0 else None,
            "bytes": storage(plan, dataset),
            **({"fixed_network": True} if bound else {}),
        },
        "teacher": teacher.reference() if job.protocol.labels == "teacher" and teacher else None,
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
    }
