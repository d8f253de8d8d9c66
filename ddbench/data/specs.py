"""The datasets by name: shape, classes, statistics, where they come from. Imports no torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddbench.registry import Table, unknown
from ddbench.runtime.errors import UserError

FOLDER = "folder:"
"""Prefix of the name of a user's own image folder: ``folder:PATH``."""

SIZES = range(4, 1025)
"""Sides in pixels that a resizable dataset can be given."""

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

``cifar10-idc`` is what IDC, DREAM and DD-RobustBench use on CIFAR-10; ``mtt`` is what MTT and its successors use on
CIFAR-10 *and* CIFAR-100 (CIFAR-10's numbers); RDED uses ``imagenet`` on CIFAR.
"""

PREPROCESS_KINDS: tuple[str, ...] = ("meanstd", "zca", *STATISTICS)
"""What :func:`ddbench.data.preprocess.fit_preprocess` accepts as a kind."""


@dataclass(frozen=True)
class DatasetSpec:
    """What is known about a dataset before its images are read.

    Attributes:
        name: as on the command line; ``folder:PATH`` for a user's own images.
        channels: 1 or 3; 0 for a folder that was not read yet.
        size: side in pixels (images are square).
        classes: number of classes; 0 for a folder that was not read yet.
        class_names: in label order; empty until loaded where only the files tell.
        mean, std: per channel, of pixels in [0, 1]; empty for a folder that was not read yet.
        flip: whether a mirrored image is still one of its class (not so for digits).
        source: how the images are obtained.
        note: what a reader of a result should know.
        modality: always ``image`` today.
        resizable: whether ``--size`` applies.
        needs_folder: whether the user has to provide the files (there is no download).
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
    resizable: bool = False
    needs_folder: bool = False
    indices: tuple[int, ...] = ()
    reader: str | Callable[..., Any] = ""
    skip_broken: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, size, size)``."""
        return self.channels, self.size, self.size


def dataset_slug(name: str) -> str:
    """A dataset's name as a safe, short file name; different folders get different ones."""
    if not name.startswith(FOLDER):
        return name
    path = name.removeprefix(FOLDER)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).name).strip("-.")[:40] or "images"
    return f"folder-{stem}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


_TEN = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# ImageNet-1k indices in label order: MTT and DD-Ranking agree on them.
_SUBSETS: dict[str, tuple[int, ...]] = {
    "imagenette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "imagewoof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "imagemeow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "imagesquawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "imagefruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "imageyellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
}
_IMAGENET_SOURCE = "an ImageNet-1k copy of yours under DATA/imagenet/{train,val}/<wnid>/"


def _imagenet(name: str, size: int, classes: int, indices: tuple[int, ...]) -> DatasetSpec:
    mean, std = STATISTICS["imagenet"]
    return DatasetSpec(
        name,
        channels=3,
        size=size,
        classes=classes,
        class_names=(),
        mean=mean,
        std=std,
        flip=True,
        source=_IMAGENET_SOURCE,
        note="scored on the validation images; shorter side resized, centre crop",
        resizable=True,
        needs_folder=True,
        indices=indices,
        reader="ddbench.data.files:load_imagenet",
    )


# DC, DSA, DM, DC-BENCH and BEARD normalise CIFAR-100 with its own statistics, which is the default here;
# MTT and DD-Ranking take CIFAR-10's: STATISTICS["mtt"].
_BUILTIN = (
    # Mean and std measured on the 1,297 training images of the fixed split.
    DatasetSpec(
        "digits",
        1,
        8,
        10,
        _TEN,
        (0.3067,),
        (0.3767,),
        False,
        "embedded in scikit-learn; no download",
        "50 images of each class are the test set; the split is fixed",
        reader="ddbench.data.sources:load_digits_dataset",
    ),
    DatasetSpec(
        "mnist",
        1,
        28,
        10,
        _TEN,
        (0.1307,),
        (0.3081,),
        False,
        "IDX files in DATA/MNIST/raw, or --download",
        reader="ddbench.data.sources:load_idx_dataset",
    ),
    DatasetSpec(
        "fashion-mnist",
        1,
        28,
        10,
        _FASHION,
        (0.2861,),
        (0.3530,),
        True,
        "IDX files in DATA/FashionMNIST/raw, the Debian package dataset-fashion-mnist, or --download",
        reader="ddbench.data.sources:load_idx_dataset",
    ),
    DatasetSpec(
        "svhn",
        3,
        32,
        10,
        _TEN,
        (0.4377, 0.4438, 0.4728),
        (0.1980, 0.2010, 0.1970),
        False,
        "{train,test}_32x32.mat in DATA/SVHN, or --download",
        reader="ddbench.data.sources:load_svhn",
    ),
    DatasetSpec(
        "cifar10",
        3,
        32,
        10,
        _CIFAR10,
        *STATISTICS["cifar10"],
        True,
        "the python version in DATA/cifar-10-batches-py, or --download",
        reader="ddbench.data.sources:load_cifar",
    ),
    DatasetSpec(
        "cifar100",
        3,
        32,
        100,
        (),
        *STATISTICS["cifar100"],
        True,
        "the python version in DATA/cifar-100-python, or --download",
        reader="ddbench.data.sources:load_cifar",
    ),
    DatasetSpec(
        "tiny-imagenet",
        3,
        64,
        200,
        (),
        *STATISTICS["imagenet"],
        True,
        "the official archive tiny-imagenet-200.zip, unpacked into DATA/tiny-imagenet-200",
        "scored on the 10,000 validation images",
        needs_folder=True,
        reader="ddbench.data.files:load_tiny_imagenet",
    ),
    *(_imagenet(name, 128, 10, indices) for name, indices in _SUBSETS.items()),
    _imagenet("imagenet-1k", 64, 1000, tuple(range(1000))),
)


def _check_spec(name: str, spec: DatasetSpec) -> None:
    """Refuse a spec of another package that cannot be one.

    Raises:
        UserError: another name than its own, a malformed one, a shape that students cannot take, numbers that do not
            fit its channels or classes, or no reader.
    """
    if name != spec.name or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UserError(f"dataset {name!r:.80}, named {spec.name!r:.80}: expected one name of letters, digits, dots, -")
    if spec.channels not in (1, 3) or spec.size not in SIZES or spec.classes < 2:
        raise UserError(
            f"dataset {name!r}: {spec.channels} channels, side {spec.size}, {spec.classes} classes; expected 1 or 3 "
            f"channels, a side of {SIZES.start} to {SIZES.stop - 1} and at least 2 classes"
        )
    if (len(spec.mean), len(spec.std)) != (spec.channels, spec.channels):
        raise UserError(f"dataset {name!r}: mean and std need one number a channel, of pixels in [0, 1]")
    if spec.class_names and len(spec.class_names) != spec.classes:
        raise UserError(f"dataset {name!r}: {len(spec.class_names)} class names for {spec.classes} classes")
    if not spec.reader:
        raise UserError(f"dataset {name!r}: has no reader; give a function, or module:function")


DATASETS: Table[DatasetSpec] = Table(
    "dataset", "ddbench.datasets", DatasetSpec, {spec.name: spec for spec in _BUILTIN}, _check_spec
)
"""The datasets by name; other packages add theirs (entry point group ``ddbench.datasets``)."""


def dataset_spec(name: str, size: int | None = None) -> DatasetSpec:
    """The spec of a dataset; for ``folder:PATH`` what is known before the images are read.

    Args:
        name: a name of :data:`DATASETS`, or ``folder:PATH``.
        size: side in pixels, for resizable datasets only; a folder has no default.

    Raises:
        UserError: unknown name (with a suggestion), a size where none applies or out of :data:`SIZES`, a folder
            without a size.
    """
    if size is not None and size not in SIZES:
        raise UserError(f"--size {size}: expected {SIZES.start} to {SIZES.stop - 1} pixels")
    if name.startswith(FOLDER):
        if name == FOLDER:
            raise UserError("--dataset folder: names no path; write folder:PATH")
        if size is None:
            raise UserError(
                f"--dataset {name}: an image folder needs --size PIXELS (images are resized and cropped to it)"
            )
        return DatasetSpec(
            name,
            channels=0,
            size=size,
            classes=0,
            class_names=(),
            mean=(),
            std=(),
            flip=True,
            source=f"image files under {name.removeprefix(FOLDER)}",
            resizable=True,
            needs_folder=True,
            reader="ddbench.data.files:load_folder",
        )
    if name.startswith("graphs:"):
        raise UserError(f"--dataset {name}: commands work on images; graph sets are used from Python (docs/graphs.md)")
    if name not in DATASETS:
        raise unknown("dataset", name, [*DATASETS, "folder:PATH"], "--dataset")
    spec = DATASETS[name]
    if size is None or size == spec.size:
        return spec
    if not spec.resizable:
        raise UserError(f"--size {size}: {name} has a fixed size of {spec.size} pixels; leave --size out")
    return replace(spec, size=size)


def size_to_load(name: str, side: int) -> int | None:
    """The size with which a dataset is read for images of this side, in px; None where it has one size only.

    Raises:
        UserError: as :func:`dataset_spec`.
    """
    resizable = name.startswith(FOLDER) or dataset_spec(name).resizable
    return side if resizable else None


DSA = "color_crop_cutout_flip_scale_rotate"
"""All six families of DSA."""


def resolve_augmentation(text: str, flip: bool) -> str:
    """The strategy that ``dsa`` means for a dataset (no flip where ``flip`` is False); others are taken as they are."""
    if text != "dsa":
        return text
    return DSA if flip else DSA.replace("flip_", "")
