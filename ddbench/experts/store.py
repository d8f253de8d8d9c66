"""The trajectory store: one safetensors file an expert, one flat row an epoch, read by memory map.

``ROOT/<dataset>/<student>/<hash>/expert_00017.safetensors`` holds ``w[E+1, P]`` (and ``buffers[E+1, B]`` for networks
with running statistics); ``manifest.json`` beside them says what they are. The manifest can be made again from the
files: every expert file carries its own record.
"""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ddbench.data.specs import dataset_slug, kept_at
from ddbench.experts.recipe import BUFFERS, IMPORTED, ExpertRecipe, Kind, buffer_command
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash, gone, read_json, write_json
from ddbench.runtime.tensors import check_tensor, open_tensors, write_tensors

EXPERT_KIND = "ddbench-expert"
MANIFEST_KIND = "ddbench-trajectories"
SCHEMA = 1
MANIFEST = "manifest.json"


def expert_file(index: int) -> str:
    """File name of an expert."""
    return f"expert_{index:05d}.safetensors"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One expert's record in the manifest: file hash, bytes, and its curves (one entry an epoch, fractions).

    ``at_once`` experts were trained with stacked weights, which decides the last bits of each; 1 is not written down.
    """

    sha256: str
    bytes: int
    seed: int
    loss: list[float]
    train_accuracy: list[float]
    holdout_accuracy: list[float]
    test_accuracy: float | None
    at_once: int = 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = dict(vars(self))
        if self.at_once == 1:
            del values["at_once"]
        return values


@dataclass(kw_only=True)
class TrajectoryStore:
    """Experts of one recipe, student and dataset.

    Attributes:
        folder: where the files are.
        header: dataset, fingerprint, size, student, preprocess (as JSON), parameter names and shapes, versions; and,
            for trajectories that start from networks of another store, ``parent`` (:mod:`ddbench.experts.derived`).
        recipe: how they were trained.
        experts: index -> record, for the finished ones.
    """

    folder: Path
    recipe: ExpertRecipe
    header: dict[str, Any]
    experts: dict[int, Recorded] = field(default_factory=dict)
    _open: dict[int, Any] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """Number of parameters P."""
        total = 0
        for _, shape in self.header["parameters"]:
            count = 1
            for side in shape:
                count *= side
            total += count
        return total

    @property
    def indices(self) -> list[int]:
        """Indices of the finished experts, ascending."""
        return sorted(self.experts)

    def first(self, count: int) -> TrajectoryStore:
        """The same store with its first ``count`` experts only, as it was before later ones were recorded."""
        return self._only(self.indices[:count])

    def earliest(self, count: int) -> TrajectoryStore:
        """The same with those that were recorded first, by their files: of several processes each does some of them."""
        files = {index: self.folder / expert_file(index) for index in self.indices}
        times = {index: path.stat().st_mtime_ns for index, path in files.items() if path.exists()}
        return self._only(sorted(times, key=lambda index: (times[index], index))[:count])

    def _only(self, indices: Sequence[int]) -> TrajectoryStore:
        return replace(self, experts={index: self.experts[index] for index in indices}, _open={})

    def command(self, epochs: int, *, kind: Kind, size: int | None) -> str:
        """What records as many experts like these of another number of epochs.

        Args:
            kind: of those in place of imported ones.
            size: of the images, where the dataset's name leaves it open.
        """
        recipe = replace(self.recipe, epochs=epochs)
        if recipe.kind == IMPORTED:
            recipe = replace(recipe, kind=kind)
        dataset, student = self.header["dataset"], self.header["student"]
        roots = self.folder.parents
        known = len(roots) > 2 and store_folder(roots[2], dataset, student, self.folder.name) == self.folder
        buffers = str(roots[2]) if known else BUFFERS
        return buffer_command(dataset, student, recipe, len(self.experts), buffers, size)

    def identity(self) -> str:
        """Hash over the recipe and the content of every expert: what a synset names as its parent."""
        from ddbench.runtime.files import text_hash

        return text_hash(
            {"recipe": self.recipe.to_json(), "experts": {str(k): self.experts[k].sha256 for k in self.indices}}
        )

    def rows(self, index: int, *epochs: int) -> list[Tensor]:
        """Snapshots of an expert, each a fresh float32 ``(P,)``; only these rows are read from disk.

        Raises:
            UserError: no such expert, or a file that does not hold what the manifest says.
        """
        if index not in self._open:
            path = self.folder / expert_file(index)
            with open_tensors(path, EXPERT_KIND, SCHEMA) as (handle, _):
                shape = check_tensor(path, handle, "w", ("F32",), 2)
            if shape != (self.recipe.epochs + 1, self.size):
                raise UserError(f"{path}: w has shape {list(shape)}, expected {[self.recipe.epochs + 1, self.size]}")
            self._open[index] = safe_open(path, framework="pt").get_slice("w")
        rows = [self._open[index][epoch].clone() for epoch in epochs]  # the slice is a view of the mapped file
        for epoch, row in zip(epochs, rows, strict=True):
            # The sum of finite weights is finite (or they are huge): one pass instead of three.
            if not math.isfinite(float(row.sum())) and not bool(torch.isfinite(row).all()):
                raise UserError(
                    f"{self.folder / expert_file(index)}: epoch {epoch} holds NaN or infinite weights; record it again"
                )
        return rows

    def buffers(self, index: int, epoch: int) -> Tensor:
        """Running statistics of an expert at an epoch, float32 ``(B,)``; B is 0 where none are recorded.

        Raises:
            UserError: no such expert, or a file that does not hold what it should.
        """
        path = self.folder / expert_file(index)
        with open_tensors(path, EXPERT_KIND, SCHEMA) as (handle, _):
            if "buffers" not in handle.keys():  # noqa: SIM118 (not a dict)
                return torch.zeros(0)
            shape = check_tensor(path, handle, "buffers", ("F32",), 2)
            if shape[0] != self.recipe.epochs + 1:
                raise UserError(f"{path}: buffers of {shape[0]} epochs, expected {self.recipe.epochs + 1}")
            row: Tensor = handle.get_slice("buffers")[epoch].clone()
            return row

    def write_expert(self, index: int, weights: Tensor, buffers: Tensor, curves: dict[str, Any]) -> None:
        """Write one finished expert: ``weights`` ``(E+1, P)``, ``buffers`` ``(E+1, B)`` with B possibly 0."""
        tensors = {"w": weights}
        if buffers.numel():
            tensors["buffers"] = buffers
        header = {"kind": EXPERT_KIND, "schema": SCHEMA, "index": index, "recipe": self.recipe.to_json(), **curves}
        write_tensors(self.folder / expert_file(index), tensors, header)

    def scan(self, index: int) -> bool:
        """Take a finished expert file into the manifest's table; whether there is one."""
        path = self.folder / expert_file(index)
        if not path.exists():
            return False
        if index in self.experts and self.experts[index].bytes == path.stat().st_size:
            return True
        with open_tensors(path, EXPERT_KIND, SCHEMA) as (handle, header):
            check_tensor(path, handle, "w", ("F32",), 2)
        curves = {name: header.get(name) for name in _CURVES}
        if "at_once" in header:
            curves["at_once"] = header["at_once"]
        try:
            self.experts[index] = _recorded({"sha256": file_hash(path), "bytes": path.stat().st_size, **curves})
        except TypeError as error:
            raise UserError(f"{path}: its record is malformed ({error}); remove it and record it again") from None
        return True

    def write_manifest(self) -> None:
        """Write ``manifest.json``."""
        write_json(
            self.folder / MANIFEST,
            {
                "kind": MANIFEST_KIND,
                "schema": SCHEMA,
                **self.header,
                "recipe": self.recipe.to_json(),
                "experts": {f"{index:05d}": self.experts[index].to_json() for index in self.indices},
            },
        )

    def enter(self, *indices: int) -> None:
        """Write the manifest with these new experts, and with those that other processes have written meanwhile.

        The files are the records: whoever writes the manifest looks afterwards whether it has them all, so that a
        manifest which an unlucky process wrote over a better one is mended.

        Raises:
            UserError: one of ``indices`` is malformed or gone, or the folder cannot be written to.
        """
        for index in indices:
            self.experts.pop(index, None)  # a file of the same size that was removed since
            if not self.scan(index):
                raise gone(self.folder / expert_file(index))
        entered: set[str] | None = None
        while entered is None or not {f"{index:05d}" for index in self._there()} <= entered:
            self.write_manifest()
            entered = set(read_json(self.folder / MANIFEST, "trajectory manifest")["experts"])

    def _there(self) -> list[int]:
        """Indices of the whole files that are there; what they hold is taken into the table."""
        found = []
        for path in self.folder.glob(expert_file(0).replace("00000", "[0-9]" * 5)):
            index = int(path.stem[-5:])
            with contextlib.suppress(UserError, OSError):  # damaged, or removed just now: of another process
                if self.scan(index):
                    found.append(index)
        return found

    def verify(self) -> list[str]:
        """Compare every file with its sha256; returns one line a defect."""
        bad = []
        for index in self.indices:
            path = self.folder / expert_file(index)
            if not path.exists():
                bad.append(f"{path}: missing")
            elif path.stat().st_size != self.experts[index].bytes:
                bad.append(f"{path}: {path.stat().st_size:,} bytes, the manifest says {self.experts[index].bytes:,}")
            elif file_hash(path) != self.experts[index].sha256:
                bad.append(f"{path}: its sha256 is not the manifest's: the file changed after it was recorded")
        return bad


_CURVES = ("seed", "loss", "train_accuracy", "holdout_accuracy", "test_accuracy")
_HEADER = {
    "dataset": str,
    "dataset_fingerprint": str,
    "student": str,
    "preprocess": dict,
    "parameters": list,
    "versions": dict,
}


def _recorded(entry: dict[str, Any]) -> Recorded:
    """A record of the manifest.

    Raises:
        TypeError: an unknown or missing field, or a value of another type.
    """
    made = Recorded(**entry)
    curves = [name for name in ("loss", "train_accuracy", "holdout_accuracy") if not _numbers(entry[name])]
    whole = [name for name in ("bytes", "seed", "at_once") if type(getattr(made, name)) is not int]
    wrong = whole + curves
    if not isinstance(made.sha256, str):
        wrong.append("sha256")
    if made.test_accuracy is not None and not _numbers([made.test_accuracy]):
        wrong.append("test_accuracy")
    if wrong:
        raise TypeError(f"{wrong[0]} is {entry[wrong[0]]!r:.40}")
    return made


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)


def read_store(folder: Path) -> TrajectoryStore:
    """Open a store by its manifest.

    Raises:
        UserError: no manifest, a newer schema, or one that is malformed.
    """
    path = folder / MANIFEST
    data = read_json(path, "trajectory manifest")
    if not isinstance(data, dict) or data.get("kind") != MANIFEST_KIND:
        raise UserError(f"{path}: not a trajectory manifest")
    if not isinstance(data.get("schema"), int) or data["schema"] > SCHEMA:
        raise UserError(f"{path}: schema {data.get('schema')!r} was made by a newer ddbench: upgrade")
    for name, kind in _HEADER.items():
        if not isinstance(data.get(name), kind):
            raise UserError(f"{path}: field {name!r} is missing or not a {kind.__name__}")
    for entry in data["parameters"]:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], list)) or not all(
            isinstance(side, int) and 0 < side < 2**31 for side in entry[1]
        ):
            raise UserError(f"{path}: field 'parameters' holds {entry!r:.60}, expected [name, shape]")
    try:
        experts = {int(index): _recorded(entry) for index, entry in data["experts"].items()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: the table of experts is malformed ({error})") from None
    header = {name: data[name] for name in (*_HEADER, "size", "dataset_name", "parent") if name in data}
    return TrajectoryStore(
        folder=folder, recipe=ExpertRecipe.from_json(data.get("recipe"), str(path)), header=header, experts=experts
    )


def store_folders(root: Path, dataset: str | None = None, student: str | None = None) -> list[Path]:
    """Folders of the stores under a root (or the one that ``root`` itself is); those of others may be among them."""
    if (root / MANIFEST).exists():
        return [root]
    return folders_like(root, dataset_slug(dataset) if dataset else "*", student)


def folders_like(root: Path, folders: str, student: str | None) -> list[Path]:
    """Folders of the stores in the folders of a pattern."""
    return [path.parent for path in sorted(root.glob(f"{folders}/{student or '*'}/*/{MANIFEST}"))]


def check_root(root: Path, *, one: bool = False) -> None:
    """Refuse a folder within a root of stores as a root: nobody would find a store that is made there.

    Args:
        one: a store's own folder will do.

    Raises:
        UserError: names the root.
    """
    for pattern, what in (("*/*/", "of one dataset"), ("*/", "of one dataset and network"), ("", "itself a store")):
        if one and not pattern:
            continue
        for path in sorted(root.glob(pattern + MANIFEST)):
            belongs = _root_of(path)
            if belongs is not None or not pattern:
                remedy = "a folder in which stores lie" if belongs is None else shlex.join(["--buffers", str(belongs)])
                raise UserError(f"--buffers {root}: is {what}, expected the root of all stores: give {remedy}")


def root_for(folder: Path) -> Path:
    """Where experts are recorded beside those of a folder: the root of a store's own folder; any other is a root."""
    return (_root_of(folder / MANIFEST) if (folder / MANIFEST).exists() else None) or folder


def _root_of(manifest: Path) -> Path | None:
    """The root in which a store lies as a root's store does; None: it lies elsewhere."""
    try:
        store = read_store(manifest.parent)
    except UserError:
        return None
    folder = store.folder if len(store.folder.parents) > 2 else store.folder.absolute()
    root = folder.parents[min(2, len(folder.parents) - 1)]
    there = store_folder(root, store.header["dataset"], store.header["student"], folder.name)
    return root if there == folder else None


def find_stores(root: Path, dataset: str | None = None, student: str | None = None) -> list[TrajectoryStore]:
    """All stores under a root (or the one that ``root`` itself is), of a dataset and student when these are given.

    Raises:
        UserError: one of them cannot be read.
    """
    return [read_store(folder) for folder in store_folders(root, dataset, student)]


def store_folder(root: Path, dataset: str, student: str, key: str) -> Path:
    """Where the experts of a recipe belong."""
    return kept_at(root, dataset, student, key)
