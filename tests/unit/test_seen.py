"""Views that are kept for the next student are those that it would be made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ddbench.data.policy import parse_policy
from ddbench.networks.build import build_student
from ddbench.protocols import seen
from ddbench.protocols.seen import SeenViews, seen_views
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
