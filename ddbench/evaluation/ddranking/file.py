"""The result file of DD-Ranking's scores: what it says, and which one may take its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddbench.evaluation.ddranking.definitions import SYNSET, WEIGHT, Leg, scores_of, summary
from ddbench.evaluation.ddranking.trainings import Scored, Work
from ddbench.runtime.device import recorded_kind
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_json
from ddbench.synset import Synset

KIND = "ddbench-scores"
SCHEMA = 1

DECIDES = ("schema", "synset", "student", "protocol", "weight", "hard_augmentation", "random_labels", "teacher")
"""Fields in which a file differs that holds other scores."""


def marks(own: Leg, weight: float, hard_augmentation: bool) -> dict[str, Any]:
    """What makes a result non-standard.

    Args:
        own: the leg of the synset under its own protocol.
    """
    found = dict(own.difference)
    if weight != WEIGHT:
        found["weight"] = f"{weight:g}"
    if hard_augmentation:
        found["hard_augmentation"] = True
    return found


def head(
    synset: Synset,
    *,
    sha256: str,
    own: Leg,
    work: Work,
    weight: float,
    hard_augmentation: bool,
    teacher: str | None,
) -> dict[str, Any]:
    """Everything of a result but what was measured.

    Args:
        sha256: of the synset's file.
        own: the leg of the synset under its own protocol.
        teacher: sha256 of the teacher that labels views, or the random subsets; None: there is none.
    """
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "synset": {
            "sha256": sha256,
            "method": synset.method,
            "dataset": synset.dataset,
            "dataset_fingerprint": synset.fingerprint,
            "budget": {"unit": synset.budget.unit, "value": synset.budget.value},
            "label_kind": synset.label_kind,
            "seed": synset.seed,
        },
        "student": work.student,
        "protocol": {"name": own.base.name, "hash": own.protocol.hash, "changed": own.difference},
        "standard": not marks(own, weight, hard_augmentation),
        "weight": weight,
        "hard_augmentation": hard_augmentation,
        "random_labels": "hard" if teacher is None else "teacher",
        "teacher": teacher,
        "precision": "float32",
        "threads": work.threads,
        "versions": work.versions,
        **recorded_kind(work.device),
    }


def check_out(out: Path, new: dict[str, Any], repeats: int) -> None:
    """Refuse a file that is no result of these scores; as many repeats of the same or more may replace it.

    Args:
        new: the head of what is to be written.
        repeats: how many it will have.

    Raises:
        UserError: it is something else, or has more repeats.
    """
    if not out.exists():
        return
    old = read_json(out, "scores file")
    if not isinstance(old, dict) or old.get("kind") != KIND:
        raise UserError(f"{out}: holds something else than scores; choose another --out")
    for name in DECIDES:
        if old.get(name) != new[name]:
            remedy = "remove it"
            labeller = old.get("teacher")
            if name in ("random_labels", "teacher"):
                which = f"(sha256 {labeller[:12]})" if isinstance(labeller, str) else ""
                remedy = f"give --teacher FILE, that of there {which}," if which else "leave --teacher out,"
            raise UserError(f"{out}: holds other scores ({name} differs); {remedy} or choose another --out")
    there = old.get("repeats")
    if isinstance(there, list) and len(there) > repeats:
        raise UserError(f"--repeats {repeats}: {out} has {len(there)}; give as many, or choose another --out")


def tables(scored: dict[str, Scored], plan: dict[str, Leg], repeats: int, weight: float) -> dict[str, Any]:
    """What was measured: every accuracy of every repeat, the scores, their statistics, and how each leg was trained.

    A repeat lacks what diverged in it, which ``diverged`` tells.
    """
    rows = [
        scores_of({name: one.accuracies[seed] for name, one in scored.items() if seed in one.accuracies}, weight)
        for seed in range(repeats)
    ]
    lost = [
        {"leg": name, "seed": seed, "diverged": reason}
        for name, one in scored.items()
        for seed, reason in sorted(one.diverged.items())
    ]
    return {
        "legs": {
            name: {
                "subject": leg.subject,
                "shared": leg.subject != SYNSET,
                "protocol": {"name": leg.base.name, "hash": leg.protocol.hash, "changed": leg.difference},
                "learning_rates": list(scored[name].rates),
                "learning_rate_sources": sorted(set(scored[name].sources)),
                "synsets": list(scored[name].synsets),
            }
            for name, leg in plan.items()
        },
        "repeats": [{"seed": seed, **row} for seed, row in enumerate(rows)],
        "summary": summary(rows),
        **({"diverged": lost} if lost else {}),
    }


def costs(scored: dict[str, Scored]) -> dict[str, Any]:
    """What each leg took, now and before; ``found`` trainings were in the cache or in the run already."""
    rows = {
        name: {
            "trained": one.trained,
            "found": one.found,
            "wall_seconds": round(one.wall_seconds, 3),
            "cpu_seconds": round(one.cpu_seconds, 3),
        }
        for name, one in scored.items()
    }
    distinct = list({id(one): one for one in scored.values()}.values())  # equal legs are one training
    return {
        "legs": rows,
        "trained": sum(one.trained for one in distinct),
        "found": sum(one.found for one in distinct),
        "wall_seconds": round(sum(one.wall_seconds for one in distinct), 3),
        "cpu_seconds": round(sum(one.cpu_seconds for one in distinct), 3),
    }
