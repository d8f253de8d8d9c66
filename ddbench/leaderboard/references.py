"""Real images that synsets are compared with: all of them, and random subsets, as ordinary runs in a cache.

What is the same for every synset of a cell is made, and trained on, once. Imports no torch at module level.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.modalities import modality
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.runtime.signs import turn

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset
    from ddbench.data.preprocess import Preprocess
    from ddbench.synset import Synset
    from ddbench.teachers.store import Teacher

HOLDOUT = 0.1
"""Fraction held out where a synset does not say its own, and for the learning rate of the real images."""


@dataclass(frozen=True, kw_only=True)
class References:
    """Synset files of all real images and of the random subset of each repeat."""

    real: Path
    random: tuple[Path, ...]


def make_references(
    synset: Synset,
    *,
    name: str,
    cache: Path,
    repeats: int,
    dataset: Dataset,
    data: Path | None,
    preprocess: Preprocess,
    labeller: Teacher | None,
    device: str,
    console: Console,
) -> References:
    """Make what the cache lacks: runs of the methods ``random`` and ``full``.

    Args:
        name: the synset's, for messages.
        preprocess: the synset's; real images get their dataset's where it has no name.
        labeller: gives the random subsets soft labels; None: they keep their hard ones.

    Raises:
        UserError: the synset's held-out fraction is none, there are not so many real images, or a folder of the cache
            is another run.
    """
    cell = _cell(synset, name, cache, dataset, preprocess)
    if cell.fitted != preprocess:
        console.say(f"the synset's preprocess is of its own; real images get that of {dataset.spec.name} ({cell.kind})")
    ipc = synset.budget.value
    run = functools.partial(real_run, dataset=dataset, data=data, preprocess=cell.kind)
    random = []
    for repeat in range(repeats):
        path = run(cell.random(repeat), "random", ipc=ipc, seed=repeat, holdout=cell.holdout)
        if labeller is not None:
            path = _labelled(path, cell.labelled(repeat, labeller), labeller, dataset, device)
        random.append(path)
    real = run(cell.real, "full", ipc=0, seed=0, holdout=HOLDOUT)
    return References(real=real, random=tuple(random))


def planned_references(
    synset: Synset,
    *,
    name: str,
    cache: Path,
    repeats: int,
    dataset: Dataset,
    preprocess: Preprocess,
    labeller: Teacher | None,
) -> References:
    """What :func:`make_references` gives, whether it is there or not; nothing is made.

    Raises:
        UserError: as :func:`make_references`.
    """
    from ddbench.synset import FILE

    cell = _cell(synset, name, cache, dataset, preprocess)
    places = [cell.random(repeat) if labeller is None else cell.labelled(repeat, labeller) for repeat in range(repeats)]
    return References(real=cell.real / FILE, random=tuple(place / FILE for place in places))


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """Where the references of a synset lie, and how they are made."""

    folder: Path
    ipc: int
    holdout: float
    kind: str
    fitted: Preprocess

    @property
    def real(self) -> Path:
        return self.folder / f"full-{self.fitted.key}"

    def random(self, repeat: int) -> Path:
        return self.folder / f"random-ipc{self.ipc}-holdout{self.holdout:g}-{self.fitted.key}-s{repeat}"

    def labelled(self, repeat: int, labeller: Teacher) -> Path:
        place = self.random(repeat)
        return place.with_name(f"{place.name}-teacher-{labeller.sha256[:12]}")


def _cell(synset: Synset, name: str, cache: Path, dataset: Dataset, preprocess: Preprocess) -> _Cell:
    from ddbench.data.preprocess import fit_preprocess, kind_of
    from ddbench.data.specs import dataset_slug

    holdout = synset.config.get("holdout", HOLDOUT)
    if isinstance(holdout, bool) or not isinstance(holdout, int | float) or not 0 <= holdout <= 0.9:
        raise UserError(f"{name}: the synset's held-out fraction is {str(holdout)[:40]!r}, expected 0 to 0.9")
    kind = kind_of(preprocess, dataset) or "meanstd"
    return _Cell(
        folder=cache / f"{dataset_slug(dataset.spec.name)}-{dataset.fingerprint[:12]}",
        ipc=synset.budget.value,
        holdout=float(holdout),
        kind=kind,
        fitted=fit_preprocess(dataset, kind),
    )


def real_run(
    folder: Path,
    method: str,
    *,
    ipc: int,
    seed: int,
    holdout: float,
    dataset: Dataset,
    data: Path | None,
    preprocess: str,
) -> Path:
    """The synset of a run of ``random`` or ``full`` in a cache, made if it is not there.

    Raises:
        UserError: what is there is another run.
    """
    from ddbench.runtime.tensors import open_tensors
    from ddbench.synset import FILE, KIND, SCHEMA

    path = folder / FILE
    if path.exists():
        wanted = {"method": method, "seed": seed, "dataset_fingerprint": dataset.fingerprint}
        with open_tensors(path, KIND, SCHEMA) as (_, header):
            differing = [name for name, value in wanted.items() if header.get(name) != value]
        if differing:
            raise UserError(
                f"{path}: another run ({', '.join(differing)} differ(s)); remove it or choose another --cache"
            )
        return path
    with turn(folder.with_name(f".{folder.name}"), "run"):  # of several processes one makes it
        return _make(
            folder, method, ipc=ipc, seed=seed, holdout=holdout, dataset=dataset, data=data, preprocess=preprocess
        )


def _make(
    folder: Path,
    method: str,
    *,
    ipc: int,
    seed: int,
    holdout: float,
    dataset: Dataset,
    data: Path | None,
    preprocess: str,
) -> Path:
    """A run of ``random`` or ``full``; a finished one is left as it is."""
    from ddbench.distillation.runner import RunSettings, distill
    from ddbench.methods import METHODS

    own = modality(dataset.spec.modality)
    kind = METHODS.get(method).fitting(method, dataset.spec.name, own.name)
    return distill(
        method,
        kind,
        kind.config_class(),
        dataset=dataset,
        data=data,
        settings=RunSettings(
            ipc=ipc,
            student=own.run_student(None, dataset),  # recorded only: real images are of no student
            seed=seed,
            preprocess=preprocess,
            holdout=holdout,
            validate_every=0,
            validate_epochs=1,
            track="jsonl",
            checkpoint_every=0,
            device="cpu",
            threads=1,
            compile="off",
        ),
        out=folder,
        console=Console(quiet=True),
    )


def _labelled(path: Path, folder: Path, labeller: Teacher, dataset: Dataset, device: str) -> Path:
    """A random subset with a teacher's logits for labels: what ``soft-v1`` is for images that nobody distilled."""
    from ddbench.runtime import device as devices
    from ddbench.synset import FILE, check_against, read_synset, write_synset
    from ddbench.training.loops import Inputs, predict

    made = folder / FILE
    if made.exists():
        return made
    synset, place = read_synset(path), devices.resolve_device(device)
    inputs = Inputs(synset.images, synset.labels, check_against(path, synset, dataset), place)
    logits = predict(labeller.network(place), inputs)
    given = {"label_teacher": labeller.sha256}
    parents = {**synset.parents, "teacher": labeller.sha256}
    write_synset(made, replace(synset, labels=logits, config={**synset.config, **given}, parents=parents))
    return made
