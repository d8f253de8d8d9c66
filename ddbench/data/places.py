"""Where the files of datasets are looked for, to see which are there without reading them. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ddbench.runtime.folders import expanded

DEBIAN = {"fashion-mnist": ("dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist"))}
"""Datasets that Debian packages: the package, and where it puts the files."""

IDX_PARTS = tuple(f"{part}-{end}" for part in ("train", "t10k") for end in ("images-idx3-ubyte", "labels-idx1-ubyte"))
IDX = f"{IDX_PARTS[0]}*"

FILES: dict[str, tuple[str, ...]] = {
    "digits": (),
    "mnist": (f"MNIST/raw/{IDX}",),
    "fashion-mnist": (f"FashionMNIST/raw/{IDX}",),
    "svhn": ("SVHN/train_32x32.mat", "train_32x32.mat"),
    "cifar10": ("cifar-10-batches-py",),
    "cifar100": ("cifar-100-python",),
    "tiny-imagenet": ("tiny-imagenet-200", "tiny-imagenet"),
    "imagenet-1k": ("imagenet/train",),
    "imagenette2": ("imagenette2*/train",),
    "imagewoof2": ("imagewoof2*/train",),
    "kmnist": (f"KMNIST/raw/{IDX}",),
    "emnist": ("EMNIST/raw/emnist-*-train-images-idx3-ubyte*",),
    "usps": ("USPS/usps.bz2", "usps.bz2"),
    "stl10": ("stl10_binary/train_X.bin",),
    "medmnist": ("medmnist/*mnist.npz", "medmnist/*mnist_*.npz"),
}
"""Below the data folder: one of these, where a dataset is there. Digits need no file; subsets are parts of ImageNet."""


def own_place(place: str, root: Path | None) -> Path:
    """Where data of a user's own are: a relative path is looked for in the working directory, then in ``root``, if any.

    The name is kept in everything made of the data, so this finds them for a synset that is scored elsewhere, or after
    they were moved; what is found is compared by fingerprint.
    """
    path = expanded(place)
    below = path if root is None else root / path  # an absolute path stays what it is
    return below if below.exists() and not path.exists() else path


def packaged(name: str) -> bool:
    """Whether Debian's package of a dataset is there, with all its files."""
    return name in DEBIAN and all(any(DEBIAN[name][1].glob(f"{part}*")) for part in IDX_PARTS)


def find_files(root: Path) -> dict[str, Path | None]:
    """Each dataset of :data:`FILES` that needs files -> what was found of it first; None: nothing."""
    found: dict[str, Path | None] = {}
    for name, patterns in FILES.items():
        if patterns:
            places = [(root, pattern) for pattern in patterns]
            places += [(DEBIAN[name][1], IDX)] if name in DEBIAN else []
            found[name] = next((path for place, pattern in places for path in sorted(place.glob(pattern))), None)
    return found
