"""From the run configuration in a row back to the commands behind its synset. Imports no torch."""

from __future__ import annotations

import shlex
from typing import Any

from ddbench.leaderboard.schema import Result

EXPERT_FLAGS = (
    *(
        "epochs",
        "optimizer",
        "lr",
        "momentum",
        "weight_decay",
        "batch",
        "decay",
        "augmentation",
        "preprocess",
        "holdout",
    ),
    *("seed", "precision", "kind", "rho", "alpha", "clip", "clip_epochs", "penalty", "drop"),
)
"""Settings of an expert's recipe that ``ddbench buffer`` has a flag of the same name for."""


def expert_command(result: Result) -> str | None:
    """The ``ddbench buffer`` command that records a row's experts; None: it had none, or they were imported."""
    experts = (result.get("recipe") or {}).get("experts")
    recipe = experts.get("recipe") if isinstance(experts, dict) else None
    if not isinstance(experts, dict) or not isinstance(recipe, dict) or recipe.get("kind") == "imported":
        return None
    synset = result["synset"]
    command = ["ddbench", "buffer", "--dataset", synset["dataset"]]
    if synset["dataset"].startswith("folder:"):
        command += ["--size", str(synset["shape"][-1])]
    if synset["student"]:
        command += ["--student", synset["student"]]
    command += ["--experts", str(experts.get("count"))]
    for name in EXPERT_FLAGS:
        if name in recipe:
            command += _flag(name, recipe[name])
    options = recipe.get("options")
    if isinstance(options, dict) and options:
        command += ["--options", *(f"{name}={value!r}" for name, value in sorted(options.items()))]
    return shlex.join(command)


def run_flags(result: Result) -> list[str]:
    """Flags of ``ddbench distill`` that are in no config but decide the last bits of a synset."""
    recipe = result.get("recipe") or {}
    flags = []
    for name in ("threads", "compile", "device"):
        if isinstance(recipe.get(name), str | int):
            flags += [f"--{name}", str(recipe[name])]
    return flags


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, str(value)]
