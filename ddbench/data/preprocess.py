"""How pixels become network input: mean/std or ZCA; invertible, and written into every artefact."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.data import zca
from ddbench.data.dataset import Dataset, chunks
from ddbench.data.specs import PREPROCESS_KINDS, STATISTICS, preprocess_kind
from ddbench.registry import unknown
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash

PROBE_TOLERANCE = 1e-3
"""Largest difference of a probe, relative to the largest of the recorded numbers."""

LARGEST, SMALLEST = 1e6, 1e-6
"""Bounds of recorded numbers: the largest magnitude, and the smallest std or eps."""

LARGEST_INPUT = 32.0
"""Floats from 0 on that go beyond this are no network input but pixels up to 255."""

OVERSHOOT = 0.5
"""Learned pixels may lie outside of the range by this share of it."""


def are_pixels255(images: Tensor, low: float, high: float) -> bool:
    """Whether floats that go beyond 1 are pixels from 0 to 255, and no network input.

    Args:
        low, high: the smallest and largest of them.
    """
    return low >= 0 and high <= 255 and (high > LARGEST_INPUT or bool((images == images.round()).all()))


@dataclass(frozen=True, eq=False)
class Preprocess:
    """An invertible map from pixels in [0, 1] to network input.

    Two are equal when they are the same transform: the same numbers (mean/std), or the same ZCA of the same images.

    Attributes:
        kind: ``meanstd`` or ``zca``.
        mean, std: per channel (mean/std only).
        eps: added to the eigenvalues (ZCA only).
        fingerprint: of the dataset it was fitted on (ZCA only).
        shape: ``(C, H, W)`` of the images it was fitted on (ZCA only).
        factors: its matrices (ZCA only).
    """

    kind: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    eps: float = 0.0
    fingerprint: str = ""
    shape: tuple[int, ...] = ()
    factors: zca.Zca | None = field(default=None, repr=False)
    _placed: dict[torch.device, tuple[Tensor, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind == "meanstd":
            _check_statistics(self.mean, self.std)
        elif self.kind != "zca" or self.factors is None:
            raise UserError(f"preprocess kind {self.kind!r}: expected 'meanstd', or 'zca' with its matrices")

    @cached_property
    def key(self) -> str:
        """12 hex digits that name the transform; the same on every machine."""
        return text_hash(self._identity())[:12]

    def _identity(self) -> dict[str, Any]:
        if self.factors is None:
            return {"kind": self.kind, "mean": list(self.mean), "std": list(self.std)}
        return {"kind": self.kind, "eps": self.eps, "dataset_fingerprint": self.fingerprint, "dims": list(self.shape)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preprocess) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self.key)

    def apply(self, images: Tensor) -> Tensor:
        """Network input float32 of the same shape and device.

        Args:
            images: uint8 ``(N, C, H, W)``, gone through in pieces so that little more memory than the result is
                needed; or float in [0, 1] of that shape, which may carry gradients.

        Raises:
            UserError: no tensor, one of other numbers, or a shape that does not belong to this transform.
        """
        self._check(images)
        if images.is_floating_point():
            return self._forward(images.float())
        if images.dtype != torch.uint8:
            raise UserError(f"images of {images.dtype}, expected torch.uint8, or floats in [0, 1]")
        made = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        start = 0
        for piece in chunks(images):
            made[start : start + len(piece)] = self._forward(piece.float().div_(255))
            start += len(piece)
        return made

    def invert(self, x: Tensor) -> Tensor:
        """Pixels float32 of network input ``(N, C, H, W)``; in [0, 1] for real images, not clamped for others.

        Raises:
            UserError: no tensor, or a shape that does not belong to this transform.
        """
        self._check(x)
        x = x.float()
        if self.factors is None:
            mean, std = self._place(x.device)
            return x * std + mean
        mean, _, inverse = self._place(x.device)
        return torch.addmm(mean, x.flatten(1), inverse).view(x.shape)

    def _forward(self, x: Tensor) -> Tensor:
        if self.factors is None:
            mean, std = self._place(x.device)
            return (x - mean) / std
        mean, whiten, _ = self._place(x.device)
        return ((x.flatten(1) - mean) @ whiten).view(x.shape)

    def _place(self, device: torch.device) -> tuple[Tensor, ...]:
        """The numbers as float32 tensors on a device, moved there once."""
        if device not in self._placed:
            if self.factors is None:
                made = [torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std)]
            else:
                made = [self.factors.mean.float(), self.factors.whiten, self.factors.inverse]
            self._placed[device] = tuple(part.to(device) for part in made)
        return self._placed[device]

    def _check(self, images: object) -> None:
        if not isinstance(images, Tensor):
            what = f"images are of type {type(images).__name__}"
            raise UserError(f"{what}, expected a torch tensor; torch.as_tensor makes one of an array")
        if images.ndim != 4:
            raise UserError(f"images of shape {list(images.shape)}, expected (N, C, H, W)")
        if self.factors is None and images.shape[1] != len(self.mean):
            raise UserError(f"images of {images.shape[1]} channels, this mean/std has {len(self.mean)}")
        if self.factors is not None and tuple(images.shape[1:]) != self.shape:
            raise UserError(f"images of shape {list(images.shape[1:])}, this ZCA was fitted on {list(self.shape)}")

    def to_json(self) -> dict[str, Any]:
        """All that is needed to make the transform again: its numbers, or how to re-compute and check them."""
        if self.factors is None:
            return self._identity()
        return {**self._identity(), "matrix_sha256": self._matrix_hash, "probe": self.factors.probe()}

    @cached_property
    def _matrix_hash(self) -> str:
        assert self.factors is not None
        return hashlib.sha256(self.factors.whiten.contiguous().numpy().data).hexdigest()

    @staticmethod
    def from_json(data: Any, dataset: Dataset | None, cache: Path | None = None) -> Preprocess:
        """The transform of a record; a ZCA is fitted again (or read from the cache) and compared with its probe.

        Args:
            data: as :meth:`to_json`.
            dataset: what it is for; None will do for mean/std, whose channels are then not compared.
            cache: data folder where ZCA matrices are kept; default: that of ``dataset``.

        Raises:
            UserError: malformed or non-finite numbers, a std that is not positive, another number of channels, a ZCA
                of other images, or a matrix that is not the recorded one.
        """
        kind = data.get("kind") if isinstance(data, Mapping) else None
        if kind == "meanstd":
            record = _fields(data, "kind", "mean", "std")
            mean, std = (_numbers(record[name], name) for name in ("mean", "std"))
            made = Preprocess("meanstd", mean, std)
            if dataset is not None and len(mean) != dataset.spec.channels:
                raise _bad(f"{len(mean)} channels, {dataset.spec.name} has {dataset.spec.channels}")
            return made
        if kind == "zca":
            record = _fields(data, "kind", "eps", "dataset_fingerprint", "dims", "matrix_sha256", "probe")
            return _zca_from(record, dataset, cache)
        raise _bad(f"kind {kind!r:.60} is neither 'meanstd' nor 'zca'")


def fit_preprocess(dataset: Dataset, kind: str, cache: Path | None = None) -> Preprocess:
    """The transform of a kind for a dataset.

    Args:
        kind: ``meanstd`` (the dataset's own statistics), ``zca`` (fitted on the whole training split, eps 0.1), or a
            name of :data:`ddbench.data.specs.STATISTICS` (``mtt``: CIFAR-10's numbers on CIFAR-100).
        cache: data folder where ZCA matrices are kept; default: that of ``dataset``, nowhere when it has none.

    Raises:
        UserError: unknown kind, statistics for another number of channels, or a ZCA that does not fit into memory.
    """
    if kind == "zca":
        return _fit_zca(dataset, zca.EPS, cache)
    if kind not in PREPROCESS_KINDS:
        raise unknown("normalisation", kind, PREPROCESS_KINDS, "--preprocess")
    mean, std = STATISTICS.get(kind, (dataset.spec.mean, dataset.spec.std))
    if len(mean) != dataset.spec.channels:
        raise UserError(
            f"--preprocess {kind}: statistics of {len(mean)} channels, {dataset.spec.name} has "
            f"{dataset.spec.channels}; use --preprocess meanstd"
        )
    return Preprocess("meanstd", mean, std)


def kind_of(preprocess: Preprocess, dataset: Dataset) -> str | None:
    """The kind by which :func:`fit_preprocess` makes a transform; None where its numbers have no name."""
    return preprocess_kind(preprocess._identity(), (dataset.spec.mean, dataset.spec.std))


def _fit_zca(dataset: Dataset, eps: float, cache: Path | None) -> Preprocess:
    factors = zca.fit_cached(dataset, eps, cache or dataset.root)
    return Preprocess("zca", eps=eps, fingerprint=dataset.fingerprint, shape=dataset.spec.shape, factors=factors)


def _zca_from(record: Mapping[str, Any], dataset: Dataset | None, cache: Path | None) -> Preprocess:
    (eps,) = _numbers([record["eps"]], "eps")
    if eps < SMALLEST:
        raise _bad(f"eps {eps}: expected at least {SMALLEST:g}")
    if dataset is None:
        raise UserError("preprocess: a ZCA can only be made with the dataset at hand; give --dataset and --data")
    spec = dataset.spec
    if record["dims"] != list(spec.shape):
        raise _bad(f"ZCA of images {record['dims']!r:.60}, {spec.name} has {list(spec.shape)}")
    if record["dataset_fingerprint"] != dataset.fingerprint:
        raise _bad(
            f"ZCA of a dataset with fingerprint {str(record['dataset_fingerprint'])[:12]!r}, but the {spec.name} data "
            f"here has {dataset.fingerprint[:12]}; use the data it was fitted on"
        )
    recorded = _numbers(record["probe"], "probe")
    made = _fit_zca(dataset, eps, cache)
    assert made.factors is not None
    found = made.factors.probe()
    limit = PROBE_TOLERANCE * max(map(abs, recorded))
    if len(found) != len(recorded) or max(abs(a - b) for a, b in zip(found, recorded, strict=True)) > limit:
        raise _bad("the ZCA matrix computed here is not the recorded one (its probe differs); the record is damaged")
    return made


def _bad(what: str) -> UserError:
    return UserError(f"preprocess record: {what}")


def _fields(data: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    if set(data) != set(names):
        raise _bad(f"fields {sorted(map(str, data))}, expected {sorted(names)}")
    return data


def _numbers(values: Any, name: str) -> tuple[float, ...]:
    """A non-empty list of finite numbers."""
    if not isinstance(values, list | tuple) or not values:
        raise _bad(f"{name} is {str(values)[:80]!r}, expected a list of numbers")
    for value in values:
        # Written so that NaN fails it; the bound keeps float32 finite.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise _bad(f"{name} holds {str(value)[:40]!r}, expected finite numbers up to {LARGEST:g}")
    return tuple(float(value) for value in values)


def _check_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if not mean or len(mean) != len(std):
        raise _bad(f"{len(mean)} means and {len(std)} standard deviations; expected one of each per channel")
    if not all(abs(value) <= LARGEST for value in (*mean, *std)):
        raise _bad(f"mean {mean}, std {std}: expected finite numbers up to {LARGEST:g}")
    if min(std) < SMALLEST:
        raise _bad(f"std {min(std)}: expected at least {SMALLEST:g}")
