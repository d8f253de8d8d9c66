"""What is known about a dataset before its images are read. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ddbench.runtime.errors import UserError

LONGEST_NAME = 199
"""Letters of a class name, at most: no synset that names a longer one is read."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of pixels in [0, 1]."""

STATISTICS: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar10-idc": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mtt": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
"""Named statistics that a dataset can be normalised with instead of its own.

``cifar10-idc`` is what DD-RobustBench uses on CIFAR-10 (despite its name, IDC does not); ``mtt`` is what MTT and its
successors, IDC, DREAM and NCFM use on CIFAR-10 *and* CIFAR-100 (CIFAR-10's numbers); RDED uses ``imagenet`` on CIFAR.
"""


@dataclass(frozen=True)
class DatasetSpec:
    """What is known about a dataset before its images are read.

    Attributes:
        name: as on the command line; ``folder:PATH``, ``npz:PATH`` or ``hub:NAME`` for a user's own images.
        channels: 1 or 3; 0 for images of a user's own that were not read yet.
        size: side in pixels (images are square); 0 for an array of a user's own that was not read yet.
        classes: number of classes; 0 for images of a user's own that were not read yet.
        class_names: in label order; empty until loaded where only the files tell.
        mean, std: per channel, of pixels in [0, 1]; empty for images of a user's own that were not read yet.
        flip: whether a mirrored image is still one of its class (not so for digits).
        source: how the images are obtained.
        note: what a reader of a result should know.
        modality: ``image``, or ``graph``: then channels, size, mean and std are 0 or empty.
        folds: so many folds it can be split in, ``NAME:0`` and so on, each tested on one of them.
        resizable: whether ``--size`` applies.
        sizes: the only sides in pixels that it comes in, of a resizable dataset; empty: any.
        indices: ImageNet-1k indices of the classes, in label order, for its subsets.
        reader: function, or ``module:function``, that is called as ``(spec, root, download, console)`` with the data
            folder, whether missing files may be fetched, and a :class:`ddbench.runtime.progress.Console` or None; it
            gives a :class:`ddbench.data.dataset.Dataset` (:func:`ddbench.data.dataset.make_dataset`).
        skip_broken: a wish to its reader: leave image files out that cannot be read, instead of refusing the set.
    """

    name: str
    channels: int
    size: int
    classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    source: str
    note: str = ""
    modality: str = "image"
    folds: int = 0
    resizable: bool = False
    sizes: tuple[int, ...] = ()
    indices: tuple[int, ...] = ()
    reader: str | Callable[..., Any] = ""
    skip_broken: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, size, size)``."""
        return self.channels, self.size, self.size


def check_class_names(where: str, names: Sequence[str]) -> None:
    """Refuse class names that the reader of a synset would not take, before work.

    Raises:
        UserError: one is longer than :data:`LONGEST_NAME`, or no text.
    """
    for label, name in enumerate(names):
        if len(name) > LONGEST_NAME:
            raise UserError(
                f"{where}: the name of class {label}, {name[:30]!r}..., has {len(name)} letters, expected at most "
                f"{LONGEST_NAME}; rename it"
            )
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(f"{where}: the name of class {label}, {name!a}, is not UTF-8; rename it")
