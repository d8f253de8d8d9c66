"""A synset opened for a caller in Python: a torch ``Dataset`` of network inputs, and pictures."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from ddbench.data.load import load_dataset
from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import size_to_load
from ddbench.preview import MAX_COLUMNS, MAX_ROWS, grid
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import Protocol
from ddbench.runtime.errors import UserError
from ddbench.synset import Synset, check_against, own_preprocess, read_synset, synset_path

if TYPE_CHECKING:
    from PIL.Image import Image


class LoadedSynset(torch.utils.data.Dataset[tuple[Tensor, "int | Tensor"]]):
    """What a student is trained on: decoded images as network input, with their labels.

    Attributes:
        path: the file.
        synset: its content as stored (:class:`ddbench.synset.Synset`).
        preprocess: how pixels become network input; ``apply`` takes real images the same way.
    """

    def __init__(self, path: Path, synset: Synset, preprocess: Preprocess) -> None:
        self.path = path
        self.synset = synset
        self.preprocess = preprocess
        plan = Plan(synset=synset, protocol=Protocol(name="none"), preprocess=preprocess, flip=False)
        self._inputs = plan.inputs(torch.device("cpu"))

    def __len__(self) -> int:
        return len(self._inputs)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, Tensor]: ...

    def __getitem__(self, index: int | slice) -> tuple[Tensor, int | Tensor]:
        """Image ``index`` as float32 ``(C, H, W)``, and its class or its soft label (logits, float32 ``(K,)``); of a
        slice the images ``(n, C, H, W)``, and labels ``(n,)`` or ``(n, K)``.

        Raises:
            IndexError: there is no such image.
            UserError: neither a whole number nor a slice.
        """
        if isinstance(index, slice):
            positions = self._positions(index)
            return self._inputs.batch(positions), self.labels[positions]
        position = self._position(index)
        label = self.labels[position]
        return self._inputs.batch(slice(position, position + 1))[0], label if label.ndim else int(label)

    def _positions(self, index: slice) -> Tensor:
        try:
            return torch.tensor(range(len(self))[index], dtype=torch.int64)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.path}: images {index}: {error}") from None

    def _position(self, index: int) -> int:
        count = len(self)
        try:
            place = operator.index(index)
        except TypeError:
            raise UserError(f"{self.path}: image {repr(index)[:80]}, expected a whole number or a slice") from None
        if not -count <= place < count:
            raise IndexError(f"{self.path}: image {index} of {count}")
        return place % count

    @property
    def images(self) -> Tensor:
        """All network inputs, float32 ``(N, C, H, W)``."""
        return self._inputs.batch(slice(0, len(self)))

    @property
    def labels(self) -> Tensor:
        """Classes, int64 ``(N,)``, or soft labels as logits, float32 ``(N, K)``."""
        return self._inputs.labels

    @property
    def method(self) -> str:
        """Name of the method that made it."""
        return self.synset.method

    @property
    def dataset(self) -> str:
        """Name of the real dataset that it stands for."""
        return self.synset.dataset

    @property
    def ipc(self) -> int | None:
        """Images per class that it may hold; None: the whole training set."""
        return self.synset.budget.value if self.synset.budget.unit == "ipc" else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return self.synset.class_names

    @property
    def student(self) -> str | None:
        """The network that it was distilled on, if any; of methods in which none takes part, the one of the run."""
        return self.synset.student

    @property
    def learned_lr(self) -> float | list[float] | None:
        """The learning rate that was learned with the images, or one a stage or step; None: none was."""
        lr = self.synset.learned_lr
        return None if lr is None else float(lr) if lr.ndim == 0 else [float(rate) for rate in lr]

    @property
    def config(self) -> dict[str, Any]:
        """The method's settings."""
        return self.synset.config

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.synset.seed

    def pixels(self, index: Tensor | Sequence[int] | slice = slice(None)) -> Tensor:
        """Images as uint8 ``(n, C, H, W)`` for looking at: inverted and clamped, not what a student sees.

        Args:
            index: positions, whole numbers ``(n,)`` in a tensor, array or list, or a slice.

        Raises:
            UserError: neither.
        """
        if isinstance(index, slice):
            index = self._positions(index)
        else:
            try:
                index = torch.as_tensor(index)
            except (TypeError, ValueError, RuntimeError):
                index = torch.empty(())
            if index.ndim != 1 or index.is_floating_point() or index.is_complex():
                raise UserError(f"{self.path}: images {repr(index)[:80]}, expected a list of positions, or a slice")
        if self.synset.space == "pixels" and self.synset.decoder is None:
            return self.synset.images[index]
        return (self.preprocess.invert(self._inputs.batch(index)).clamp(0, 1) * 255).round().to(torch.uint8)

    def to_pil(self, index: int) -> Image:
        """Image ``index`` as a grey or RGB picture of its own size.

        Raises:
            IndexError: there is no such image.
        """
        position = self._position(index)
        return _picture(self.pixels(slice(position, position + 1))[0])

    def grid(self) -> Image:
        """A picture with a row a class: the first 10 images of the first 20 classes, small ones enlarged."""
        labels, classes = self._inputs.hard_labels, len(self.class_names)
        shown = torch.cat([(labels == k).nonzero()[:MAX_COLUMNS, 0] for k in range(min(classes, MAX_ROWS))])
        return _picture(grid(self.pixels(shown), labels[shown], classes))

    def __repr__(self) -> str:
        _, channels, height, width = self.synset.images.shape
        rate = "" if self.learned_lr is None else f", learned lr {self.synset.learned_lr}"
        return (
            f"{self.method} on {self.dataset}, {self.synset.budget}: {len(self)} images of {channels} x {height} x "
            f"{width}, {len(self.class_names)} classes, {self.synset.label_kind} labels{rate}"
        )


def open_synset(run: Path, data: Path | None, download: bool) -> LoadedSynset:
    """Open a synset file or the one of a run folder; see :func:`ddbench.load`."""
    path = synset_path(run)
    synset = read_synset(path)
    preprocess = own_preprocess(synset)
    if preprocess is not None:
        return LoadedSynset(path, synset, preprocess)
    size = size_to_load(synset.dataset, synset.images.shape[-1])
    dataset = load_dataset(synset.dataset, data, size=size, download=download)
    return LoadedSynset(path, synset, check_against(path, synset, dataset))


def _picture(image: Tensor) -> Image:
    from PIL import Image

    shown = image[0] if len(image) != 3 else image.permute(1, 2, 0)
    return Image.fromarray(shown.contiguous().numpy())
