"""Finding what a method needs, or the command that makes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ddbench.data.dataset import Dataset
from ddbench.data.preprocess import Preprocess
from ddbench.experts.recipe import OWN, ExpertRecipe, buffer_command
from ddbench.experts.store import TrajectoryStore, find_stores
from ddbench.networks.build import build_student
from ddbench.runtime.errors import UserError

EXPERTS = 20
"""How many experts a message tells to record where no recipe says."""

SAME = ("kind", "lr", "batch", "epochs", "optimizer")
"""What makes a store the one that a recipe asks for, beside the settings of its kind."""


def find_experts(
    *,
    method: str,
    kind: str,
    dataset: Dataset,
    preprocess: Preprocess,
    preprocess_kind: str,
    student: str,
    holdout: float,
    buffers: Path,
    asked: tuple[int, ExpertRecipe] | None,
) -> TrajectoryStore:
    """The store that fits, or the command that makes it.

    Of several that fit, those whose settings are the ones of the recipe come first, then the one with most experts,
    then the one with most epochs.

    Args:
        method: who asks, for the message.
        kind: kind of the experts where no recipe asks for any.
        preprocess_kind: its name (:data:`ddbench.data.specs.PREPROCESS_KINDS`).
        asked: number and settings of the experts that a recipe asks for.

    Raises:
        UserError: none fits; the message says what is there and what to type.
    """
    count, wanted = asked or (EXPERTS, ExpertRecipe.from_json({"kind": kind}, f"method {method}"))
    wanted = replace(wanted, preprocess=preprocess_kind, holdout=holdout)
    spec = dataset.spec

    def rank(store: TrajectoryStore) -> tuple[bool, int, int]:
        return asked is not None and _as_asked(store.recipe, wanted), len(store.experts), store.recipe.epochs

    reasons = []
    for store in sorted(find_stores(buffers, spec.name, student), key=rank, reverse=True):
        reason = _misfit(store, method, wanted, dataset, preprocess, student)
        if reason is None:
            return store
        reasons.append(f"{store.folder} {reason}")
    found = f"; what is there does not fit: {'; '.join(reasons)}" if reasons else ""
    size = spec.size if spec.resizable else None
    command = buffer_command(spec.name, student, wanted, count, str(buffers), size)
    raise UserError(f"no experts of {student} on {spec.name} in {buffers}{found}; record them with: {command}")


def _as_asked(recipe: ExpertRecipe, wanted: ExpertRecipe) -> bool:
    names = (*SAME, *OWN.get(wanted.kind, ()))
    return all(getattr(recipe, name) == getattr(wanted, name) for name in names)


def _misfit(
    store: TrajectoryStore,
    method: str,
    wanted: ExpertRecipe,
    dataset: Dataset,
    preprocess: Preprocess,
    student: str,
) -> str | None:
    """Why a store cannot be used, or ``None``. Of imported experts nobody knows the kind: they fit any."""
    header, recipe, spec = store.header, store.recipe, dataset.spec
    if not store.experts:
        return "holds no finished expert"
    if (header["dataset"], header["student"]) != (spec.name, student):
        return f"is of {header['student']} on {header['dataset']}"
    if "parent" in header:
        return "holds trajectories that a run derived from its own synset"
    if header["dataset_fingerprint"] != dataset.fingerprint:
        return f"is of other data (fingerprint {header['dataset_fingerprint'][:12]}, here {dataset.fingerprint[:12]})"
    if recipe.kind not in (wanted.kind, "imported"):
        return f"holds {recipe.kind} experts, {method} asks for {wanted.kind}"
    if recipe.preprocess != wanted.preprocess:
        return f"has preprocess {recipe.preprocess}, wanted {wanted.preprocess}"
    if recipe.holdout != wanted.holdout:
        return f"was recorded with --holdout {recipe.holdout:g}, wanted {wanted.holdout:g}"
    net = build_student(student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=0)
    if header["parameters"] != [[name, list(parameter.shape)] for name, parameter in net.named_parameters()]:
        return f"has other parameters than {student}"
    if Preprocess.from_json(header["preprocess"], dataset) != preprocess:
        return "was recorded with other preprocess numbers"
    return None
