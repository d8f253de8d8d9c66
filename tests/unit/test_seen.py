"""Views that are kept for the next student are those that it would be made."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made_synsets import made as made_synset

from ddbench.data.load import load_dataset
from ddbench.data.policy import parse_policy
from ddbench.data.preprocess import fit_preprocess
from ddbench.evaluation.forecast import _student
from ddbench.networks.build import build_student
from ddbench.protocols import seen
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.protocols.seen import SeenViews, seen_views
from ddbench.protocols.training import Settings
from ddbench.training.loops import Inputs, train, views
from ddbench.training.optimizers import OptimizerSettings

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS = 9
CPU = torch.device("cpu")


def inputs_of_noise() -> Inputs:
    return Inputs(torch.randn(11, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(11) % 3, None, CPU)


def trained(student: str, seed: int, kept: SeenViews | None) -> bytes:
    net = build_student(student, channels=1, size=8, classes=3, seed=seed)
    how = OptimizerSettings(lr=0.05, momentum=0.9)
    policy = parse_policy("dsa", flip=False)
    for _ in train(net, inputs_of_noise(), epochs=EPOCHS, batch=8, optimizer=how, policy=policy, seed=seed, seen=kept):
        pass
    return b"".join(one.detach().numpy().tobytes() for one in net.state_dict().values())


def test_students_see_the_same_views_made_once_a_seed(monkeypatch: pytest.MonkeyPatch):
    made: list[Any] = []
    monkeypatch.setattr(seen, "views", lambda *given, **named: made.append(named) or views(*given, **named))
    kept = SeenViews()
    for student in ("mlp-d2-w8", "convnet-d1-w4-in"):
        for seed in (0, 3):
            assert trained(student, seed, kept) == trained(student, seed, None)
    assert len(made) == 2 * EPOCHS


def test_no_more_is_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch):
    inputs = inputs_of_noise()
    monkeypatch.setattr(seen, "LIMIT", 2 * 11 * 64 * 4)
    kept = SeenViews()
    for epoch in (0, 1, 2, 2):
        (one,) = kept(inputs, batch=11, policy=None, seed=0, epoch=epoch)
        (other,) = views(inputs, batch=11, policy=None, seed=0, epoch=epoch)
        assert torch.equal(one.x, other.x)
    assert [epoch for *_, epoch in kept._made] == [0, 1]


def test_views_are_those_of_one_plan(monkeypatch: pytest.MonkeyPatch):
    inputs = inputs_of_noise()
    plan: Any = SimpleNamespace(synset=object(), preprocess=1, protocol="a", flip=False, epochs=10)
    monkeypatch.setattr(seen, "_last", [])
    first = seen_views(plan, inputs)
    assert first is not None
    assert seen_views(SimpleNamespace(**vars(plan)), inputs) is first  # type: ignore[arg-type]
    for change in ({"synset": object()}, {"protocol": "b"}, {"flip": True}, {"preprocess": 2}):
        assert seen_views(SimpleNamespace(**{**vars(plan), **change}), inputs) is not first  # type: ignore[arg-type]
    assert seen_views(SimpleNamespace(**{**vars(plan), "epochs": 10**6}), inputs) is None  # type: ignore[arg-type]


def test_views_that_a_network_wrote_into_are_made_again():
    kept, how = SeenViews(), {"batch": 11, "policy": None, "seed": 0, "epoch": 0}
    (first,) = kept(inputs_of_noise(), **how)
    before = first.x.clone()
    torch.nn.functional.hardswish(first.x, inplace=True)
    assert not torch.equal(first.x, before)
    (second,) = kept(inputs_of_noise(), **how)
    assert torch.equal(second.x, before)
    assert kept(inputs_of_noise(), **how)[0] is second


def test_views_are_not_those_of_another_thread(monkeypatch: pytest.MonkeyPatch):
    """Another thread puts its own plan's there while these are made."""
    plan: Any = SimpleNamespace(synset=object(), preprocess=1, protocol="a", flip=False, epochs=10)
    other: Any = SimpleNamespace(**{**vars(plan), "synset": object()})
    taken: list[SeenViews | None] = []

    class Interrupted(list[Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            super().__setitem__(key, value)
            if not taken:
                taken.append(None)
                taken[0] = seen_views(other, inputs_of_noise())

    monkeypatch.setattr(seen, "_last", Interrupted())
    found = seen_views(plan, inputs_of_noise())
    assert found is not None
    assert found is not taken[0]


def test_a_forecast_makes_its_views_in_every_training(monkeypatch: pytest.MonkeyPatch, data_root: Path):
    made: list[Any] = []
    monkeypatch.setattr(seen, "views", lambda *given, **named: made.append(named) or views(*given, **named))
    dataset = load_dataset("digits", data_root)
    synset = made_synset((1, 8, 8), pixels=True)
    preprocess = fit_preprocess(dataset, "meanstd")
    plan = Plan(synset=synset, protocol=PROTOCOLS["hard-v1"], preprocess=preprocess, flip=False)
    how = Settings(device="cpu", threads=1)
    _student(plan, dataset.test, "mlp-d1-w8", how, at_once=1, seconds=1e-6)
    assert len(made) == 3 + 2  # one epoch thrice, and two
