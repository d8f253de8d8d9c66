"""Which teacher a verb takes, and what it says when there is none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ddbench.teachers.store as teachers
from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import STATISTICS
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.protocols.teacher import choose_teacher, protocol_teacher
from ddbench.runtime.errors import UserError

ROOT = Path("teachers")
OWN = {"sha256": "e" * 64, "student": "convnet-d3-w128-bn"}
DATA = {"dataset": "digits", "fingerprint": "f" * 64}


def synset(teacher: dict[str, Any] | None = None) -> Any:
    """All that is looked at of a synset."""
    return SimpleNamespace(**DATA, preprocess={"kind": "meanstd"}, teacher=teacher, images=np.zeros((0, 1, 8, 8)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the store was asked for; it holds nothing."""
    questions: list[dict[str, Any]] = []

    def find(root: Path, **wanted: Any) -> Any:
        assert root == ROOT
        questions.append({name: value for name, value in wanted.items() if value is not None})
        return None

    monkeypatch.setattr(teachers, "find_teacher", find)
    monkeypatch.setattr(teachers, "read_teacher", lambda path: f"read {path}")
    return questions


def test_the_flags_file_comes_first(asked: list[dict[str, Any]]):
    assert choose_teacher(ROOT, synset(OWN), given=Path("a"), earlier="b") == "read a"
    assert asked == []


def test_the_synsets_own_is_the_only_one_that_will_do(asked: list[dict[str, Any]]):
    assert choose_teacher(ROOT, synset(OWN), earlier="b") is None
    assert asked == [{"sha256": OWN["sha256"]}]


def test_an_earlier_one_then_the_best(asked: list[dict[str, Any]]):
    assert choose_teacher(ROOT, synset(), earlier="b") is None
    assert asked == [{**DATA, "sha256": "b"}, {**DATA, "preprocess": {"kind": "meanstd"}}]


def test_another_architecture_than_the_synsets_own(asked: list[dict[str, Any]]):
    transform = Preprocess("meanstd", (0.5,), (0.5,))
    choose_teacher(ROOT, synset(OWN), student="mlp-d3-w8", preprocess=transform)
    assert asked == [{**DATA, "student": "mlp-d3-w8", "preprocess": transform.to_json()}]


def test_the_earlier_one_is_taken(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(teachers, "find_teacher", lambda root, **wanted: wanted.get("sha256", "the best"))
    assert choose_teacher(ROOT, synset(), earlier="b") == "b"
    assert choose_teacher(ROOT, synset()) == "the best"


def test_a_slash_behind_the_name_of_a_folder_counts_nothing(monkeypatch: pytest.MonkeyPatch):
    """A synset may have been made when names had one."""
    said = {"preprocess": {"kind": "meanstd"}, "recipe": {}, "members": (), "accuracy": 0.5}
    found: Any = SimpleNamespace(dataset="folder:imgs", **said)
    monkeypatch.setattr(teachers, "files_like", lambda *place: [Path("a")])
    monkeypatch.setattr(teachers, "read_teacher", lambda path: found)
    assert teachers.find_teacher(ROOT, dataset="folder:imgs/") is found
    assert teachers.find_teacher(ROOT, dataset="folder:images/") is None


def test_protocol_that_has_none(asked: list[dict[str, Any]]):
    assert protocol_teacher(PROTOCOLS["hard-v1"], synset(OWN), given=None, root=ROOT) is None
    with pytest.raises(UserError, match=r"--teacher: protocol hard-v1 has no teacher; use e\.g\. --protocol kd-v1"):
        protocol_teacher(PROTOCOLS["hard-v1"], synset(), given=Path("a"), root=ROOT)
    assert asked == []


def test_the_command_makes_a_teacher_of_the_synsets_own_statistics(asked: list[dict[str, Any]]):
    """Of the kind alone there are many: one of other numbers was found, and then refused."""
    mean, std = STATISTICS["imagenet"]
    numbers = {"kind": "meanstd", "mean": [*mean], "std": [*std]}
    made: Any = synset()
    vars(made).update(dataset="cifar10", preprocess=numbers, images=np.zeros((0, 3, 32, 32)))
    with pytest.raises(UserError, match=r"ddbench teacher --dataset cifar10 --preprocess imagenet`"):
        protocol_teacher(PROTOCOLS["kd-v1"], made, given=None, root=ROOT)
    assert asked[0]["preprocess"] == made.preprocess
    odd: Any = SimpleNamespace(**{**vars(made), "preprocess": {"kind": "meanstd", "mean": [0.5] * 3, "std": [0.5] * 3}})
    with pytest.raises(UserError, match="a teacher of cifar10 with its own mean and std, and"):
        protocol_teacher(PROTOCOLS["kd-v1"], odd, given=None, root=ROOT)


@pytest.mark.parametrize(
    ("dataset", "side", "flags"),
    [
        ("folder:my images", 32, "--dataset 'folder:my images' --size 32"),
        ("npz:mine.npz", 8, "--dataset npz:mine.npz"),
        ("hub:me/mine", 16, "--dataset hub:me/mine --size 16"),
        ("imagenette", 64, "--dataset imagenette --size 64"),
        ("another-package", 8, "--dataset another-package"),
    ],
)
def test_the_command_makes_one_of_these_images(asked: list[dict[str, Any]], dataset: str, side: int, flags: str):
    """Image files are refused without --size, and others have another size without it."""
    made = synset()
    vars(made).update(dataset=dataset, images=np.zeros((0, 3, side, side)))
    with pytest.raises(UserError, match=f"train one with `ddbench teacher {flags}( --preprocess meanstd)?`"):
        protocol_teacher(PROTOCOLS["kd-v1"], made, given=None, root=ROOT)


def test_the_command_makes_one_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(teachers, "find_teacher", lambda root, **wanted: None)
    with pytest.raises(UserError, match=r"my ones holds none.* --dataset digits --teachers 'my ones'`"):
        protocol_teacher(PROTOCOLS["kd-v1"], synset(), given=None, root=Path("my ones"))


def test_protocol_that_needs_one(asked: list[dict[str, Any]]):
    assert protocol_teacher(PROTOCOLS["kd-v1"], synset(), given=Path("a"), root=ROOT) == "read a"
    remedy = "and teachers holds none: train one with `ddbench teacher --dataset digits`, or give --teacher FILE"
    with pytest.raises(UserError) as none:
        protocol_teacher(PROTOCOLS["kd-v1"], synset(), given=None, root=ROOT)
    assert str(none.value) == f"protocol kd-v1 needs a teacher of digits with preprocess meanstd, {remedy}"
    with pytest.raises(UserError) as own:
        protocol_teacher(PROTOCOLS["rded"], synset(OWN), given=None, root=ROOT)
    reference = "convnet-d3-w128-bn, sha256 eeeeeeeeeeee"
    remedy = "and teachers does not hold it: give --teacher FILE, that one or another, or --teachers DIR"
    assert str(own.value) == f"protocol rded needs the synset's own teacher ({reference}), {remedy}"
