"""Importing the buffers that MTT's and its followers' public code records.

``replay_buffer_{n}.pt`` is a pickled list of experts, each a list of E+1 snapshots, each a list of parameter tensors in
``module.parameters()`` order; it says nothing about dataset, network, transform or settings, so the flags must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.config import check_config
from ddbench.data.dataset import Dataset
from ddbench.data.load import data_root
from ddbench.data.preprocess import fit_preprocess
from ddbench.data.specs import resolve_augmentation
from ddbench.experts.recipe import IMPORTED, ExpertRecipe
from ddbench.experts.record import open_store
from ddbench.experts.store import TrajectoryStore
from ddbench.networks.names import parse_student
from ddbench.runtime.errors import UserError
from ddbench.runtime.pickles import load_pt


def import_buffers(
    files: Sequence[Path],
    *,
    root: Path,
    dataset: Dataset,
    data: Path | None,
    student: str,
    preprocess: str,
    lr: float,
    augmentation: str,
) -> TrajectoryStore:
    """Read official buffers into a store of kind ``imported``; every file is checked before anything is written.

    Raises:
        UserError: a file that is no such buffer, shapes that are not the student's, NaN, snapshots that all share one
            storage (the public code's bug on CPUs), or files of different lengths.
    """
    if not files:
        raise UserError("buffer import: name at least one replay_buffer_*.pt file")
    spec = dataset.spec
    student = str(parse_student(student))
    from ddbench.networks.build import build_student

    net = build_student(student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=0)
    shapes = [tuple(parameter.shape) for parameter in net.parameters()]
    experts: list[Tensor] = []
    for path in files:
        content = load_pt(path, mmap=True)
        if not isinstance(content, list) or not content:
            raise UserError(f"{path}: expected a list of experts, found {type(content).__name__}")
        experts += [_expert(f"{path}: expert {k}", expert, shapes, student) for k, expert in enumerate(content)]
    lengths = {len(expert) for expert in experts}
    if len(lengths) > 1:
        raise UserError(
            f"the experts have {', '.join(str(n - 1) for n in sorted(lengths))} epochs; import equal ones together"
        )
    recipe = ExpertRecipe(
        epochs=lengths.pop() - 1,
        lr=lr,
        augmentation=resolve_augmentation(augmentation, spec.flip),
        preprocess=preprocess,
        holdout=0.0,
    )
    check_config(recipe)
    recipe = replace(recipe, kind=IMPORTED)
    store = open_store(root, dataset, student, recipe, fit_preprocess(dataset, preprocess, data_root(data)))
    known = {_same(store, index) for index in store.indices}
    first = max(store.indices, default=-1) + 1
    curves: dict[str, Any] = {
        "seed": 0,
        "loss": [],
        "train_accuracy": [],
        "holdout_accuracy": [],
        "test_accuracy": None,
    }
    for weights in experts:
        if weights[-1].double().sum().item() in known:
            continue  # imported before
        store.write_expert(first, weights, torch.zeros(0), curves)
        store.scan(first)
        first += 1
    store.write_manifest()
    return store


def _same(store: TrajectoryStore, index: int) -> float:
    return float(store.rows(index, store.recipe.epochs)[0].double().sum())


def _expert(where: str, expert: Any, shapes: list[tuple[int, ...]], student: str) -> Tensor:
    """One expert as ``(E+1, P)`` float32."""
    if not isinstance(expert, list) or len(expert) < 2:
        raise UserError(f"{where}: expected a list of at least 2 snapshots")
    rows = []
    for epoch, snapshot in enumerate(expert):
        if not isinstance(snapshot, list) or not all(isinstance(part, Tensor) for part in snapshot):
            raise UserError(f"{where}, snapshot {epoch}: expected a list of tensors")
        found = [tuple(part.shape) for part in snapshot]
        if found != shapes:
            at = next(
                (i for i, (a, b) in enumerate(zip(found, shapes, strict=False)) if a != b), min(len(found), len(shapes))
            )
            raise UserError(
                f"{where}, snapshot {epoch}: parameter {at} has shape {found[at] if at < len(found) else 'missing'}, "
                f"{student} has {shapes[at] if at < len(shapes) else 'no such parameter'}; is it another network?"
            )
        rows.append(torch.cat([part.detach().reshape(-1).float() for part in snapshot]))
    weights = torch.stack(rows)
    if not bool(torch.isfinite(weights).all()):
        raise UserError(f"{where}: holds NaN or infinite weights")
    if bool((weights == weights[0]).all()):
        raise UserError(
            f"{where}: all {len(rows)} snapshots are equal: recorded on a CPU by code that stored one tensor "
            "many times; record it again with ddbench buffer"
        )
    return weights
