"""Mapped images: what was read is given back, and nothing that was written is lost."""

from __future__ import annotations

import mmap
import re
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import ddbench
from ddbench.data import dataset, mapped
from ddbench.data.cache import _mapped
from ddbench.data.dataset import Split, chunks, take
from ddbench.data.mapped import gather

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/smaps is of Linux")

COUNT, SIDE = 4096, 32
SIZE = COUNT * SIDE**2


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "KEPT", SIZE // 8)
    monkeypatch.setattr(dataset, "CHUNK_BYTES", SIZE // 16)


@pytest.fixture
def images(tmp_path: Path) -> Tensor:
    pixels = np.arange(SIZE, dtype=np.uint32).astype(np.uint8).reshape(COUNT, 1, SIDE, SIDE)
    np.save(tmp_path / "x.npy", pixels)
    return _mapped(np.load(tmp_path / "x.npy", mmap_mode="c"))


class Watched:
    """A map that counts how often its pages are given back; whether they stay until then is the system's choice."""

    closed = False

    def __init__(self, images: Tensor) -> None:
        self.own = mapped._map_of(images)
        assert self.own is not None
        self.file, self.count = self.own.file(), 0
        self.own.file = weakref.ref(self)

    def madvise(self, advice: int) -> None:
        assert advice == mmap.MADV_DONTNEED
        self.count += 1
        self.file.madvise(advice)


def resident(images: Tensor) -> int:
    """Bytes of the map that are in memory."""
    found, place = False, images.data_ptr()
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            low, high = (int(word, 16) for word in head.split("-"))
            found = low <= place < high
        elif found and head == "Rss:":
            return int(line.split()[1]) * 1024
    raise AssertionError("no such map")


def test_a_sweep(images: Tensor):
    watched = Watched(images)
    assert sum(int(piece.sum(dtype=torch.int64)) for piece in chunks(images)) == SIZE * 255 // 2
    assert watched.count == SIZE // mapped.KEPT
    assert resident(images) <= SIZE // 4
    assert int(images.sum(dtype=torch.int64)) == SIZE * 255 // 2, "pages come back"
    assert watched.count == SIZE // mapped.KEPT, "nobody said that they were read"


def test_rows_here_and_there(images: Tensor):
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    same = torch.cat([gather(images, part) for part in order.split(16)])
    assert torch.equal(same, images[order])
    for part in order.split(16):
        gather(images, part)
    assert resident(images) <= SIZE // 2


def test_what_was_written_to_a_private_map_stays(images: Tensor):
    watched = Watched(images)
    images[5] = 7
    for piece in chunks(images):
        piece.sum()
    assert bool((images[5] == 7).all())
    assert watched.count == 0


def test_a_copy_in_a_nameless_file(images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dataset, "MAPPED_BYTES", 1)
    index = torch.arange(0, COUNT, 2)
    copied = take(Split(images, torch.arange(COUNT)), index, tmp_path)
    assert resident(images) <= SIZE // 4
    assert resident(copied.images) <= SIZE // 4
    assert torch.equal(copied.images, images[index])
    assert torch.equal(copied.labels, index)


def test_what_is_not_mapped_is_only_indexed(images: Tensor):
    other = images.clone()
    assert torch.equal(gather(other, torch.tensor([3, 1])), images[[3, 1]])
    assert torch.equal(gather(images, slice(2, 4)), other[2:4])


def test_methods_read_training_images_by_gather():
    """Images that are mapped stay resident otherwise (docs/architecture.md)."""
    methods = Path(ddbench.__file__).parent / "methods"
    pattern = re.compile(r"\.(train|held_out)\.images\[")
    found = [path.name for path in sorted(methods.rglob("*.py")) if pattern.search(path.read_text(encoding="utf-8"))]
    assert not found
