"""The tables that set public code beside ours: what is summed, which ratio has which bound, what is put back."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not (BENCHMARKS / f"{name}.py").is_file():
        pytest.skip("the tests run without the checkout: no benchmarks")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def cells(lines: list[str], name: str) -> list[str]:
    (found,) = (line for line in lines if line.startswith(f"| {name} |"))
    return [part.strip() for part in found.split("|")[2:-1]]


def test_corruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = script("peer_corruptions", monkeypatch)
    both = {"accuracy": (0.5, 0.25), "same": 0.75}
    rows = [
        peer.Measured(name="fog", made=(2.0, 1.0), classified=(1.0, 1.0), **both),
        peer.Measured(name="snow", made=(4.0, 0.5), classified=(1.0, 0.5), **both),
    ]
    lines = peer.table(rows, 30)
    assert cells(lines, "fog") == ["2.00", "1.00", "0.50", "0.500", "0.250", "0.750"]
    assert cells(lines, "images") == ["6.0", "1.5", "0.25", "–"]
    assert cells(lines, "the student") == ["2.0", "1.5", "0.75", "–"]
    assert cells(lines, "together") == ["8.0", "3.0", "0.38", "0.5"]
    assert "30 images" in lines[0]


def test_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = script("peer_attacks", monkeypatch)
    right = {"right": (0.5, 0.5), "same": 1.0}
    rows = [
        peer.Measured(name="fgsm-linf-8", library="torchattacks", seconds=(2.0, 1.0), passes=(1.0, 0.5), **right),
        peer.Measured(name="autoattack-linf-8", library="pyautoattack", seconds=(8, 8), passes=(5, 4), **right),
    ]
    lines = peer.table(rows, 12)
    assert cells(lines, "fgsm-linf-8") == ["torchattacks", "2.00", "1.00", "0.50", "0.500", "0.500", "1.000"]
    assert cells(lines, "torchattacks") == ["2.0", "1.0", "1.0", "0.50", "0.25", "–"]
    assert cells(lines, "pyautoattack") == ["8.0", "5.0", "8.0", "1.00", "0.50", "–"]
    assert cells(lines, "together") == ["10.0", "6.0", "9.0", "0.90", "0.45", "0.5"]
    assert not [line for line in peer.table(rows[:1], 12) if line.startswith("| pyautoattack |")]


def test_the_clock_counts_passes_and_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = script("peer_attacks", monkeypatch)
    times = iter([0.0, 1.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(peer, "time", SimpleNamespace(process_time=lambda: next(times)))
    model, grad, backward = torch.nn.Linear(2, 1), torch.autograd.grad, torch.autograd.backward
    x = torch.ones(1, 2, requires_grad=True)
    with peer.clock(model) as spent:
        torch.autograd.grad(model(x).sum(), x)
        assert spent == [3.0]
        model(x)
    assert spent == [7.0]
    assert "forward" not in vars(model)
    assert (torch.autograd.grad, torch.autograd.backward) == (grad, backward)


def test_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = script("peer_score", monkeypatch)
    found = {
        "DD-Ranking": {"seconds": 50.0, "testing": 10.0, "tests": 5, "accuracies": [20.0, 30.0, 10.0], "ended": "no"},
        "ddbench": {
            "seconds": 20.0,
            "testing": 4.0,
            "tests": 4,
            "accuracies": [21.0, 31.0, 11.0],
            "convolutions": 0.75,
        },
    }
    lines = peer.table(found, 20, (1000, 200))
    assert cells(lines, "DD-Ranking") == ["50.0", "40.0", "10.0", "5", "20.0", "30.0", "10.0"]
    assert cells(lines, "the score") == ["0.40", "0.33"]
    assert cells(lines, "training alone") == ["0.40", "–"]
    assert cells(lines, "one test") == ["0.50", "–"]
    assert cells(lines, "ddbench's convolutions alone, 75% of its training") == ["0.30", "–"]
    assert "`ValueError: no`" in lines[-1]
    del found["DD-Ranking"]["ended"]
    assert "ValueError" not in "\n".join(peer.table(found, 20, (1000, 200)))


def test_calls_of_a_function_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = script("peer_score", monkeypatch)
    module = SimpleNamespace(double=lambda x: 2 * x)
    work = module.double
    with peer.timed(module, "double") as spent:
        assert module.double(3) == 6
        assert module.double(4) == 8
    assert len(spent) == 2
    assert module.double is work


def test_our_side_makes_the_seven_trainings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ten classes of two training images each; the synset has one of each."""
    peer = script("peer_score", monkeypatch)
    monkeypatch.setattr(peer, "IPC", 1)
    monkeypatch.setattr(peer, "STUDENT", "mlp-d3-w128")
    pixels = np.random.default_rng(0)
    for number in range(30):
        path = tmp_path / "images" / ("test" if number < 10 else "train") / f"c{number % 10}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    peer.prepare(tmp_path / "images", tmp_path)
    plans, train = [], importlib.import_module("ddbench.protocols.training").train_student

    def seen(plan: object, *given: object) -> object:
        plans.append((plan, given[-1]))
        return train(plan, *given)

    monkeypatch.setattr("ddbench.protocols.training.train_student", seen)
    found = peer.ours(tmp_path, 2)
    assert [(len(plan.synset.images), rate) for plan, rate in plans] == [
        (10, 0.01),
        (20, 0.01),
        *((10, rate) for rate in peer.RATES),
    ]
    assert [plan.protocol.augmentation == "none" for plan, _ in plans] == [False, True, *[False] * 5]
    assert {plan.epochs for plan, _ in plans} == {2}
    assert not torch.equal(plans[0][0].synset.images, plans[2][0].synset.images)
    assert found["tests"] == 7
    assert 0 < found["testing"] < found["seconds"]
    assert len(found["accuracies"]) == 3
    monkeypatch.setattr("ddbench.protocols.training.train_student", train)
    assert peer.convolutions(tmp_path, 1) == 0  # this student has none
    monkeypatch.setattr(peer, "STUDENT", "convnet-d1-w4-in")
    assert 0 < peer.convolutions(tmp_path, 1) < 1
