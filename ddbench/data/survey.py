"""What a dataset holds, for a person to look at before work: counts, balance, images that are in both splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset, Split, chunks

SHOWN = 20
"""Classes that are told one by one; of more the largest and the smallest."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was counted.

    Attributes:
        train, test: images of each class, in label order.
        both: test images that are, to the bit, training images too.
        twice: training images that are there already.
        mean, std: per channel, of training pixels in [0, 1], as the dataset is normalised.
        fingerprint: hex sha256 of the content.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    both: int
    twice: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    note: str
    fingerprint: str

    def lines(self) -> Iterator[str]:
        """A few lines, of which the first names the dataset and its counts."""
        yield (
            f"{self.name}: {len(self.train)} classes, {sum(self.train):,} training and {sum(self.test):,} test images"
            + (f"; {self.note}" if self.note else "")
        )
        channels, height, width = self.shape
        yield f"  used as {'grey' if channels == 1 else 'colour'}, {width} x {height} px"
        yield from balance("images", self.class_names, self.train, self.test)
        values = ["(" + ", ".join(f"{one:.4g}" for one in part) + ")" for part in (self.mean, self.std)]
        mirrored = "augmentation may mirror them" if self.flip else "never mirrored"
        yield f"  normalised with mean {values[0]}, deviation {values[1]}; {mirrored}"
        yield f"  the same to the bit: {self.twice:,} training images twice, {self.both:,} test images also trained on"
        yield f"  fingerprint {self.fingerprint[:16]}"


def balance(items: str, class_names: tuple[str, ...], train: tuple[int, ...], test: tuple[int, ...]) -> Iterator[str]:
    """Lines about how many items each class has.

    Args:
        items: what they are, for people ("images").
        train, test: of each class, in label order.
    """
    order = sorted(range(len(train)), key=lambda label: -train[label])
    least, most = train[order[-1]], train[order[0]]
    ratio = "balanced" if most == least else f"the largest class has {most / max(least, 1):.3g} times the smallest"
    yield f"  {items} a class: {least:,} to {most:,}, {ratio}"
    shown = order if len(order) <= SHOWN else [*order[: SHOWN // 2], *order[-SHOWN // 2 :]]
    names = [class_names[label] if class_names else str(label) for label in shown]
    width = min(40, max(map(len, names)))
    for place, (label, name) in enumerate(zip(shown, names, strict=True)):
        if len(order) > SHOWN and place == SHOWN // 2:
            yield f"    ... {len(order) - SHOWN} others"
        bar = "#" * max(1, round(20 * train[label] / most))
        yield f"    {name:<{width}.{width}}  {train[label]:>9,}  {test[label]:>9,}  {bar}"


def survey(dataset: Dataset) -> Survey:
    """Count a dataset; every image is looked at once."""
    spec = dataset.spec
    train, test = (
        tuple(torch.bincount(split.labels, minlength=spec.classes).tolist()) for split in (dataset.train, dataset.test)
    )
    known = set(_digests(dataset.train))
    return Survey(
        name=spec.name,
        shape=spec.shape,
        class_names=spec.class_names,
        train=train,
        test=test,
        both=sum(one in known for one in _digests(dataset.test)),
        twice=len(dataset.train) - len(known),
        mean=spec.mean,
        std=spec.std,
        flip=spec.flip,
        note=spec.note,
        fingerprint=dataset.fingerprint,
    )


def _digests(split: Split) -> Iterator[bytes]:
    for piece in chunks(split.images):
        for image in piece:
            yield hashlib.blake2b(image.contiguous().numpy().data, digest_size=16).digest()


def first_images(split: Split, classes: int, count: int, widest: int) -> tuple[Tensor, Tensor]:
    """The first images of the first classes with their labels, for a picture.

    Args:
        classes, count: so many classes, and images of each, at most.
        widest: larger images are thinned out to this side at most, in px.
    """
    index = torch.cat([(split.labels == label).nonzero()[:count, 0] for label in range(classes)])
    step = -(-split.images.shape[-1] // widest)
    return split.images[index][:, :, ::step, ::step], split.labels[index]
