"""Latents of a training set, clean or inverted to a noisy level: streamed to a cache, their statistics from it.

The cache is ``ROOT/<key>/class_00003/part_00000.safetensors``: :data:`SHARD` images a file, each written whole or not
at all, so that a killed run goes on where it was. The key is a hash of everything that decides the latents, the seed of
a run not among it: runs of other seeds and budgets find them done. No more than a shard is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset, Split, class_indices
from ddbench.data.limits import require_disk
from ddbench.data.mapped import gather
from ddbench.diffusion.backends import Backend
from ddbench.diffusion.ddim import Move, inversion_moves, travel
from ddbench.runtime import device as devices
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_json, text_hash, write_json
from ddbench.runtime.progress import Bar, Console
from ddbench.runtime.resources import Meter
from ddbench.runtime.tensors import check_tensor, open_tensors, read_finite, write_tensors

KIND = "ddbench-latents"
COST = "cost.json"
SECONDS = ("wall_seconds", "cpu_seconds")
SHARD = 512
"""Images of a file."""


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Which latents are wanted.

    Attributes:
        steps: points of the grid of times.
        start: time of the level that images are inverted to; None: clean latents.
        guidance: classifier-free guidance on the way.
        released: as the released code of D3HR (:func:`ddbench.diffusion.ddim.inversion_moves`).
        images: of each class, evenly spread over it; 0: all.
    """

    steps: int
    start: int | None
    guidance: float
    released: bool
    images: int


class Latents:
    """The latents of a training set, as files.

    Args:
        root: root of the caches.
        model: identity of the model (sha256).
        labels: the model's class of each class, int64 ``(K,)``.
        train: the images that may be used: the dataset's training images, or what a held-out fraction leaves of them.
    """

    def __init__(
        self,
        root: Path,
        *,
        backend: Backend,
        model: str,
        labels: Tensor,
        dataset: Dataset,
        train: Split,
        inversion: Inversion,
        precision: str,
    ) -> None:
        self.backend, self.labels, self.train, self.inversion = backend, labels, train, inversion
        self._name = dataset.spec.name
        key = {
            "model": model,
            "labels": labels.tolist(),
            "fingerprint": dataset.fingerprint,
            "images": len(train),
            "inversion": asdict(inversion),
            "precision": precision,
            # What decides the last bits.
            "device": backend.device.type,
            "threads": torch.get_num_threads(),
            "versions": devices.versions(),
        }
        self.folder = root / text_hash(key)[:16]
        count = inversion.images
        self._index = [
            index[torch.arange(count) * len(index) // count] if 0 < count < len(index) else index
            for index in class_indices(train.labels, dataset.spec.classes)
        ]
        start = inversion.start
        self._moves: list[Move] = (
            []
            if start is None
            else inversion_moves(backend.alphas, inversion.steps, start, released=inversion.released)
        )
        self.size = 1
        for side in backend.latent_shape:
            self.size *= side

    def shards(self, label: int) -> Iterator[Tensor]:
        """The latents of a class in pieces: float32 ``(n, D)``, n at most :data:`SHARD`.

        Raises:
            UserError: a file is missing, damaged or holds NaN.
        """
        for part, index in enumerate(self._index[label].split(SHARD)):
            path = self._path(label, part)
            with open_tensors(path, KIND, 1) as (handle, _):
                shape = check_tensor(path, handle, "latents", ("F32",), 2)
                if shape != (len(index), self.size):
                    raise UserError(f"{path}: latents of shape {list(shape)}, expected {[len(index), self.size]}")
                yield read_finite(path, handle, "latents")

    def make(self, console: Console, labels: Iterable[int] | None = None) -> dict[str, Any]:
        """Make what is missing; returns what all of it cost, earlier tries, runs and processes included.

        Args:
            labels: classes that are wanted; None: all. Several processes may make different ones at once.

        Raises:
            UserError: the disk is too small or full, a folder cannot be written to, or latents are not finite.
        """
        parts = [
            (label, part, index)
            for label in (range(len(self._index)) if labels is None else labels)
            for part, index in enumerate(self._index[label].split(SHARD))
        ]
        missing = [one for one in parts if not self._path(one[0], one[1]).exists()]
        if not missing:
            console.say(f"latents made already: {self.folder}")
            return self._cost()
        count, left = sum(len(one[2]) for one in parts), sum(len(one[2]) for one in missing)
        require_disk(4 * self.size * left, self.folder, "caching the latents", "invert fewer images: --images")
        with console.bar(f"latents ({self._name}, {len(self._moves)} moves)", count, count - left) as bar:
            for label in dict.fromkeys(one[0] for one in missing):
                self._make(label, [one for one in missing if one[0] == label], bar)
        return self._cost()

    def _make(self, label: int, missing: list[tuple[int, int, Tensor]], bar: Bar) -> None:
        """Make files of a class; what they cost stands beside them."""
        path = self._path(label, 0).with_name(COST)
        earlier = self._read_cost(path)
        meter = Meter(earlier_wall=earlier["wall_seconds"], earlier_cpu=earlier["cpu_seconds"])
        for _, part, index in missing:
            made = []
            for few in index.split(self.backend.batch):
                made.append(self._latents(few, label))
                bar.advance(units=len(few))
            latents = torch.cat(made)
            if not bool(torch.isfinite(latents).all()):
                raise UserError(
                    f"latents of class {label} are not finite: the model cannot invert these images; lower "
                    f"--guidance (now {self.inversion.guidance:g})"
                )
            header = {"kind": KIND, "schema": 1, "label": label, "part": part}
            write_tensors(self._path(label, part), {"latents": latents}, header)
            write_json(path, {"wall_seconds": round(meter.wall, 3), "cpu_seconds": round(meter.cpu, 3)})

    @torch.no_grad()
    def _latents(self, index: Tensor, label: int) -> Tensor:
        """Latents float32 ``(n, D)`` of the training images at ``index``, on the CPU."""
        backend, inversion = self.backend, self.inversion
        noise = None
        if backend.noisy_codes:
            drawn = [
                torch.randn(backend.latent_shape, generator=seeds.generator(0, "posterior", position))
                for position in index.tolist()
            ]
            noise = torch.stack(drawn).to(backend.device)
        clean = backend.encode(backend.images(gather(self.train.images, index)), noise)
        classes = self.labels[label].to(backend.device).expand(len(index))

        def predict(x: Tensor, move: Move) -> Tensor:
            return backend.noise(x, move.time, classes, inversion.guidance)

        return travel(clean, self._moves, predict).flatten(1).float().cpu()

    def _path(self, label: int, part: int) -> Path:
        return self.folder / f"class_{label:05d}" / f"part_{part:05d}.safetensors"

    def _cost(self) -> dict[str, Any]:
        """What all classes cost; one record of all was left by versions before there was one for each."""
        found = [self._read_cost(path) for path in (self.folder / COST, *sorted(self.folder.glob(f"class_*/{COST}")))]
        return {name: round(sum(one[name] for one in found), 3) for name in SECONDS}

    def _read_cost(self, path: Path) -> dict[str, float]:
        if not path.exists():
            return dict.fromkeys(SECONDS, 0.0)
        cost = read_json(path, "cost record")
        try:
            return {name: float(cost[name]) for name in SECONDS}
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: no cost record of latents; remove {self.folder}, it is made again") from None


def moments(shards: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of each coordinate, float64 ``(D,)``, of pieces ``(n, D)``.

    Pieces are merged by Chan, Golub and LeVeque's update; a single image has standard deviation 0.
    """
    count = 0
    mean = squares = torch.zeros(1, dtype=torch.float64)
    for piece in shards:
        x = piece.double()
        own = x.mean(0)
        total = count + len(x)
        difference = own - mean
        squares = squares + (x - own).square().sum(0) + difference.square() * (count * len(x) / total)
        mean = mean + difference * (len(x) / total)
        count = total
    return mean, (squares / max(1, count - 1)).sqrt()


def normality(shards: Iterator[Tensor], mean: Tensor, std: Tensor) -> tuple[float, float]:
    """Mean over the coordinates of |skewness| and of |excess kurtosis|: 0 and 0 for a normal distribution."""
    count = 0
    third = fourth = torch.zeros_like(mean)
    for piece in shards:
        z = (piece.double() - mean) / std
        third, fourth = third + z.pow(3).sum(0), fourth + z.pow(4).sum(0)
        count += len(piece)
    return float((third / count).abs().mean()), float((fourth / count - 3).abs().mean())
