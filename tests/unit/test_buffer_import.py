"""Buffers of public code as they are found: old files, tuples, dicts, unequal lengths, one file twice, many files."""

from __future__ import annotations

import gc
import shlex
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EAGER, TINY, distill_tiny

from ddbench.data.load import load_dataset
from ddbench.experts import importer
from ddbench.experts.store import TrajectoryStore, find_stores
from ddbench.networks.build import build_student
from ddbench.runtime import signs


def tiny(seed: int = 0) -> torch.nn.Module:
    return build_student(TINY, channels=1, size=8, classes=10, seed=seed)


def official(experts: int = 2, snapshots: int = 3) -> list[list[list[torch.Tensor]]]:
    """What the public code pickles: experts, snapshots, parameters."""
    return [
        [[p.detach().clone() for p in tiny(10 * e + s).parameters()] for s in range(snapshots)] for e in range(experts)
    ]


def saved(path: Path, content: object, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.fixture
def take_files(ddb: Callable, tmp_path: Path) -> Callable[..., str]:
    """``take_files(*files and flags)``: what the import verb says."""

    def call(*argv: object) -> str:
        result = ddb("buffer", "import", *argv, "--dataset", "digits", "--student", TINY, "--buffers", tmp_path / "in")
        assert result.code == 0, result.err
        return result.out

    return call


def rows_of(root: Path) -> list[list[torch.Tensor]]:
    (store,) = find_stores(root)
    return [store.rows(index, *range(store.recipe.epochs + 1)) for index in store.indices]


def flat_rows(experts: list[list[list[torch.Tensor]]]) -> list[list[torch.Tensor]]:
    return [[torch.cat([part.reshape(-1) for part in snapshot]) for snapshot in expert] for expert in experts]


def same(one: list[list[torch.Tensor]], two: list[list[torch.Tensor]]) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a, b) for p, q in zip(one, two, strict=True) for a, b in zip(p, q, strict=True)
    )


def named(snapshot: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state of a network that ran on several GPUs, with statistics that are no parameters."""
    names = [name for name, _ in tiny().named_parameters()]
    state = {f"module.{name}": part for name, part in zip(names, snapshot, strict=True)}
    return {**state, "module.norm.running_mean": torch.zeros(4), "module.norm.num_batches_tracked": torch.tensor(1)}


FORMS = {
    "before-1.6": (lambda experts: experts, False),
    "tuples": (lambda experts: tuple(tuple(map(tuple, expert)) for expert in experts), True),
    "dicts": (lambda experts: [[named(snapshot) for snapshot in expert] for expert in experts], True),
    "parameters": (lambda experts: [[[torch.nn.Parameter(p) for p in s] for s in e] for e in experts], True),
    "doubles": (lambda experts: [[[p.double() for p in s] for s in e] for e in experts], True),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_buffers(form, take_files: Callable, tmp_path: Path):
    change, zipped = form
    said = take_files(saved(tmp_path / "buffer.pt", change(official()), zipped))
    assert same(rows_of(tmp_path / "in"), flat_rows(official()))
    assert "2 experts of 2 epochs" in said
    assert "--holdout 0" in said


def test_the_command_that_is_told_distils(take_files: Callable, ddb: Callable, tmp_path: Path):
    said = take_files(saved(tmp_path / "buffer.pt", official())).splitlines()[-1]
    command = shlex.split(said.removeprefix("next: ddbench "))
    done = ddb(*command, "--iterations", 1, "--out", tmp_path / "run", *EAGER)
    assert done.code == 0, done.err


def test_one_expert_twice_is_taken_once(take_files: Callable, tmp_path: Path):
    first, second = official(2)
    one = saved(tmp_path / "one.pt", [first, second])
    again = saved(tmp_path / "again.pt", [second, first], zipped=False)
    said = take_files(one, one, again)
    assert said.count("is there already") == 4
    assert same(rows_of(tmp_path / "in"), flat_rows([first, second]))
    other = [[part.clone() for part in snapshot] for snapshot in first]
    other[-1][0].view(-1)[:2] += torch.tensor([1.0, -1.0])  # the same sum, other weights
    assert "already" not in take_files(saved(tmp_path / "other.pt", [other]))
    assert len(rows_of(tmp_path / "in")) == 3


def test_experts_of_unequal_lengths(take_files: Callable, ddb: Callable, tmp_path: Path):
    long, short = official(1, 4), official(2, 3)[1:]
    files = [saved(tmp_path / "long.pt", long), saved(tmp_path / "short.pt", short)]
    base = ("buffer", "import", *files, "--dataset", "digits", "--student", TINY, "--buffers", tmp_path / "in")
    refusal = ddb(*base)
    assert refusal.code == 2
    for part in ("2, 3 epochs", "short.pt: expert 0 has 2", "long.pt: expert 0 has 3", "--epochs 2"):
        assert part in refusal.err
    assert "--epochs 3" in ddb(*base, "--epochs", 3).err
    assert not (tmp_path / "in").exists()
    take_files(*files, "--epochs", 2)
    assert same(rows_of(tmp_path / "in"), flat_rows([long[0][:3], short[0]]))


def test_few_experts_are_in_memory_at_a_time(take_files: Callable, tmp_path: Path, monkeypatch):
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = []
    make = importer._expert

    def counted(*args: object) -> torch.Tensor:
        gc.collect()
        made = make(*args)
        alive.add(made)
        most.append(len(alive))
        return made

    monkeypatch.setattr(importer, "_expert", counted)
    experts = official(6)
    take_files(*(saved(tmp_path / f"{number}.pt", [expert]) for number, expert in enumerate(experts)))
    assert len(most) == 12  # all are checked, then all are written
    assert max(most) <= 2


def test_two_imports_at_once_keep_all_experts(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    digits, experts = load_dataset("digits", data_root), official(4)
    first, second = (saved(tmp_path / f"{n}.pt", experts[2 * n : 2 * n + 2]) for n in range(2))
    writing, waiting = threading.Event(), threading.Event()
    write = TrajectoryStore.write_expert

    def held(*args: Any) -> None:
        """The first import is in the middle of it until the second waits, or is done."""
        if not writing.is_set():
            writing.set()
            waiting.wait()
        write(*args)

    def take(path: Path, tell: Callable[[str], None]) -> None:
        try:
            importer.import_buffers(
                [path],
                root=tmp_path / "in",
                dataset=digits,
                data=data_root,
                student=TINY,
                preprocess="meanstd",
                lr=0.01,
                augmentation="dsa",
                tell=tell,
            )
        finally:
            writing.set()
            waiting.set()

    monkeypatch.setattr(TrajectoryStore, "write_expert", held)
    monkeypatch.setattr(signs, "POLL", 0.001)
    other = threading.Thread(target=take, args=(first, lambda line: None))
    other.start()
    writing.wait()
    take(second, lambda line: waiting.set())
    other.join()
    assert same(rows_of(tmp_path / "in"), flat_rows(experts))
    assert not list((tmp_path / "in").rglob("*.turn"))


def test_a_small_file_that_unfolds_to_much_is_refused(refused: Callable, tmp_path: Path, monkeypatch):
    snapshot, last = official(1, 2)[0]
    path = saved(tmp_path / "buffer.pt", [[*[snapshot] * 5000, last]])
    monkeypatch.setattr("ddbench.data.limits.available_memory", lambda: 10**6)
    argv = ["buffer", "import", path, "--dataset", "digits", "--student", TINY, "--buffers", tmp_path / "in"]
    refused(argv, "5001 snapshots", "memory")


def test_distilling_from_imported_experts_names_the_flag(take_files: Callable, refused: Callable, tmp_path: Path):
    take_files(saved(tmp_path / "buffer.pt", official(2, 4)))
    line = refused(distill_tiny(tmp_path / "in", tmp_path / "run"), "--holdout 0.1", "imported", "add --holdout 0")
    assert "record" not in line
