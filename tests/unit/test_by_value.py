"""Files that travel with a job: the same file where it is there, a copy where it is not."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ddbench.runtime import by_value
from ddbench.runtime.by_value import Carried, packed, unpacked


@dataclass(frozen=True)
class Inner:
    file: Path | None = None
    hidden: int = field(default=0, init=False)


@dataclass(frozen=True, kw_only=True)
class Job:
    name: str
    inner: Inner
    files: tuple[Path, ...] = ()
    by_name: dict[str, Path] = field(default_factory=dict)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies are put."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def sent(value: object) -> object:
    return pickle.loads(pickle.dumps(value))


def test_a_file_that_is_there_is_used(tmp_path: Path, temporary: Path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    job = Job(name="x", inner=Inner(path), files=(path,), by_name={"a": path})
    assert unpacked(sent(packed(job, bytes)), bytes) == job
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("other", [None, b"abd", b""], ids=["gone", "of the same size", "empty"])
def test_a_file_that_is_another_one_is_copied(other: bytes | None, tmp_path: Path, temporary: Path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    there = sent(packed(Job(name="x", inner=Inner(path), files=(path, tmp_path)), bytes))
    path.unlink()
    if other is not None:
        path.write_bytes(other)
    for _ in range(2):
        made = unpacked(there, bytes)
        copied = made.inner.file
        assert copied.read_bytes() == b"abc"
        assert copied.name == "a.bin"
        assert copied.is_relative_to(temporary)
        assert made.files == (copied, tmp_path)
        copied.write_bytes(b"damaged")  # the next one puts it right


def test_what_does_not_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    large, missing = tmp_path / "large", tmp_path / "missing"
    large.write_bytes(b"12345")
    monkeypatch.setattr(by_value, "LIMIT", 4)
    job = Job(name="x", inner=Inner(large), files=(missing, tmp_path))
    assert packed(job, bytes) is job
    assert unpacked(job, bytes) is job
    monkeypatch.setattr(by_value, "LIMIT", 5)
    assert isinstance(packed(job, bytes).inner.file, Carried)
