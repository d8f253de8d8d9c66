"""Importing the buffers that MTT's and its followers' public code records.

``replay_buffer_{n}.pt`` is a pickled list of experts, each a list of E+1 snapshots, each a list of parameter tensors in
``module.parameters()`` order (or a dict of them by name); it says nothing about dataset, network, transform or
settings, so the flags must. One file is in memory at a time, and one expert as it is stored.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.config import check_config
from ddbench.data.dataset import Dataset
from ddbench.data.limits import require_memory
from ddbench.data.load import kept_root
from ddbench.data.preprocess import fit_preprocess
from ddbench.data.specs import resolve_augmentation
from ddbench.experts.recipe import IMPORTED, ExpertRecipe
from ddbench.experts.record import open_store
from ddbench.experts.store import TrajectoryStore, check_root, store_folder
from ddbench.networks.names import parse_student
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import plain_file
from ddbench.runtime.pickles import load_pt
from ddbench.runtime.signs import turn

MAX_FILE = 256 * 2**30
"""Bytes of a buffer file: its tensors are mapped, not read."""

MAX_SNAPSHOTS = 10_000
"""Of an expert: it would be one of 10,000 epochs."""

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Entries of a network's state that are no parameters."""

CURVES: dict[str, Any] = {
    "seed": 0,
    "loss": [],
    "train_accuracy": [],
    "holdout_accuracy": [],
    "test_accuracy": None,
}
"""Of an imported expert nothing else is known."""

Shapes = list[tuple[int, ...]]


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
    epochs: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> TrajectoryStore:
    """Read official buffers into a store of kind ``imported``; every file is checked before anything is written.

    An expert that the store holds already, or that comes twice, is taken once.

    Args:
        epochs: keep so many epochs of each expert; None: all, which must then be equally many.
        tell: is given a line for each expert that was left out, and one if another import is waited for.

    Raises:
        UserError: a file that is no such buffer, shapes that are not the student's, NaN, snapshots that all share one
            storage (the public code's bug on CPUs), or experts of different lengths.
    """
    if not files:
        raise UserError("buffer import: name at least one replay_buffer_*.pt file")
    if epochs is not None and epochs < 1:
        raise UserError(f"--epochs {epochs}: expected at least 1")
    spec = dataset.spec
    student = str(parse_student(student))
    recipe = ExpertRecipe(
        epochs=epochs or 1,
        lr=lr,
        augmentation=resolve_augmentation(augmentation, spec.flip),
        preprocess=preprocess,
        holdout=0.0,
    )
    check_config(recipe)
    from ddbench.networks.build import build_student

    net = build_student(student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=0)
    shapes = [tuple(parameter.shape) for parameter in net.parameters()]
    recipe = replace(recipe, epochs=_length(files, shapes, student, epochs), kind=IMPORTED)
    fitted = fit_preprocess(dataset, preprocess, kept_root(data))
    check_root(root)
    folder = store_folder(root, spec.name, student, recipe.key(student, dataset.fingerprint))
    with turn(folder / "import", "store", tell):  # so that the experts of another import are counted
        store = open_store(root, dataset, student, recipe, fitted)
        experts = (one for path in files for one in _experts(path, shapes, student, epochs))
        _add(store, experts, tell)
    return store


def _add(store: TrajectoryStore, experts: Iterable[tuple[str, Tensor]], tell: Callable[[str], None]) -> None:
    """Write those experts (where each is from, and its weights) that the store does not hold."""
    known = {_digest(*store.rows(index, 0, store.recipe.epochs)) for index in store.indices}
    index = max(store.indices, default=-1) + 1
    for where, weights in experts:
        digest = _digest(weights[0], weights[-1])
        if digest in known:
            tell(f"{where} is there already")
            continue
        known.add(digest)
        store.write_expert(index, weights, torch.zeros(0), CURVES)
        store.scan(index)
        index += 1
    store.write_manifest()


def _length(files: Sequence[Path], shapes: Shapes, student: str, epochs: int | None) -> int:
    """Epochs of every expert of all files; each expert is read and checked for it.

    Raises:
        UserError: one that cannot be taken, or experts of different lengths.
    """
    lengths: dict[int, str] = {}
    for path in files:
        for where, weights in _experts(path, shapes, student, epochs):
            lengths.setdefault(len(weights) - 1, where)
    if len(lengths) > 1:
        found = "; ".join(f"{where} has {count}" for count, where in sorted(lengths.items()))
        raise UserError(
            f"the experts have {', '.join(map(str, sorted(lengths)))} epochs ({found}); import equal ones together, "
            f"or keep the first epochs of each: --epochs {min(lengths)}"
        )
    return next(iter(lengths))


def _digest(first: Tensor, last: Tensor) -> str:
    """Names an expert by its first and last weights."""
    digest = hashlib.sha256(first.contiguous().numpy().data)
    digest.update(last.contiguous().numpy().data)
    return digest.hexdigest()


def _experts(path: Path, shapes: Shapes, student: str, epochs: int | None) -> Iterator[tuple[str, Tensor]]:
    """Where each expert of a file is, and its weights ``(E+1, P)``, one after the other."""
    size = plain_file(path, "buffer", MAX_FILE)
    if not zipfile.is_zipfile(path):  # of torch before 1.6: it is read whole
        require_memory(size, str(path), "save it again with a newer torch")
    content = load_pt(path, mmap=True, limit=MAX_FILE)
    if not isinstance(content, list | tuple) or not content:
        raise UserError(f"{path}: expected a list of experts, found {type(content).__name__}")
    for number, expert in enumerate(content):
        where = f"{path}: expert {number}"
        weights = _expert(where, expert, shapes, student)
        if epochs is not None and len(weights) <= epochs:
            raise UserError(f"{where} has {len(weights) - 1} epochs, --epochs {epochs} asks for more")
        yield where, weights if epochs is None else weights[: epochs + 1]


def _expert(where: str, expert: Any, shapes: Shapes, student: str) -> Tensor:
    """One expert as ``(E+1, P)`` float32."""
    if not isinstance(expert, list | tuple) or len(expert) < 2:
        raise UserError(f"{where}: expected a list of at least 2 snapshots")
    if len(expert) > MAX_SNAPSHOTS:
        raise UserError(f"{where}: {len(expert):,} snapshots are too many (at most {MAX_SNAPSHOTS:,})")
    snapshots = [_parts(f"{where}, snapshot {epoch}", one, shapes, student) for epoch, one in enumerate(expert)]
    size = sum(part.numel() for part in snapshots[0])
    require_memory(2 * 4 * len(snapshots) * size, f"{where} ({len(snapshots)} snapshots)", "import it elsewhere")
    weights = torch.empty(len(snapshots), size)
    for row, parts in zip(weights, snapshots, strict=True):
        torch.cat([part.detach().reshape(-1).float() for part in parts], out=row)
    if not bool(torch.isfinite(weights).all()):
        raise UserError(f"{where}: holds NaN or infinite weights")
    if bool((weights == weights[0]).all()):
        raise UserError(
            f"{where}: all {len(weights)} snapshots are equal: recorded on a CPU by code that stored one tensor "
            "many times; record it again with ddbench buffer"
        )
    return weights


def _parts(where: str, snapshot: Any, shapes: Shapes, student: str) -> list[Tensor]:
    """The parameters of a snapshot, in the order of the student's."""
    if isinstance(snapshot, Mapping):
        snapshot = [part for name, part in snapshot.items() if str(name).rpartition(".")[2] not in STATISTICS]
    if not isinstance(snapshot, list | tuple) or not all(_plain(part) for part in snapshot):
        raise UserError(f"{where}: expected a list of tensors")
    found = [tuple(part.shape) for part in snapshot]
    if found != shapes:
        at = next(
            (i for i, (a, b) in enumerate(zip(found, shapes, strict=False)) if a != b), min(len(found), len(shapes))
        )
        raise UserError(
            f"{where}: parameter {at} has shape {found[at] if at < len(found) else 'missing'}, "
            f"{student} has {shapes[at] if at < len(shapes) else 'no such parameter'}; is it another network?"
        )
    return list(snapshot)


def _plain(part: Any) -> bool:
    return (
        isinstance(part, Tensor)
        and part.layout == torch.strided
        and part.is_floating_point()
        and part.device.type == "cpu"
    )
