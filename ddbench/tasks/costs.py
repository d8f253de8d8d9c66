"""What the sets that a task distilled took, from the cost records of their runs. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_json
from ddbench.statistics import count_words

IDENTITIES = {"experts": "identity", "teacher": "sha256", "diffusion": "sha256"}
"""What a set may have needed -> the field of its reference that names the very thing: several sets may share one."""


@dataclass(frozen=True, kw_only=True)
class SetsCost:
    """CPU seconds of a task's sets.

    Attributes:
        sets: how many have a cost record.
        distillation: of their distillations.
        needs: of the experts, teachers and diffusion models that they needed, each once.
    """

    sets: int
    distillation: float
    needs: float

    def __str__(self) -> str:
        more = f", and {self.needs:.1f} for their experts, teachers and diffusion models" if self.needs else ""
        return f"{count_words(self.sets, 'set')} distilled in {self.distillation:.1f} CPU s{more}"


def cost_of_sets(result: Path) -> SetsCost | None:
    """The cost of the sets beside a task's result; None where there are none. Damaged records are passed over."""
    own, shared = [], {}
    for path in sorted(result.with_name(f"{result.stem}.files").glob("*/cost.json")):
        cost, config = _read(path), _read(path.with_name("config.json"))
        seconds = cost.get("cpu_seconds")
        if not isinstance(seconds, int | float):
            continue
        own.append(float(seconds))
        for key, identity in IDENTITIES.items():
            upstream, reference = _part(cost.get("upstream"), key), _part(config, key)
            taken = upstream.get("cpu_seconds")
            if isinstance(taken, int | float):
                shared[key, str(reference.get(identity))] = float(taken)
    return SetsCost(sets=len(own), distillation=sum(own), needs=sum(shared.values())) if own else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path, "record of a run")
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _part(table: Any, key: str) -> dict[str, Any]:
    found = table.get(key) if isinstance(table, dict) else None
    return found if isinstance(found, dict) else {}
