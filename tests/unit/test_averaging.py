"""The moving average of a student's weights: against sums in float64, against a loop by hand, alone and at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import TINY
from torch import Tensor, nn

from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.networks.build import build_student
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS, Protocol, changed, result_name
from ddbench.protocols.training import Settings, trained_students
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget, Synset
from ddbench.training.averaging import Averaging, MovingAverage
from ddbench.training.loops import Inputs, train, views
from ddbench.training.losses import cross_entropy
from ddbench.training.optimizers import OptimizerSettings

CPU = torch.device("cpu")
BATCH_NORM = "convnet-d2-w4-bn"
DECAY = 0.75

pytestmark = pytest.mark.usefixtures("one_thread")


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_average_is_the_weighted_sum_of_all_that_was():
    """After n updates: d^n p_0 + (1 - d) sum of d^(n - k) p_k."""
    past = [[randn(3, 2, seed=step), randn(5, seed=100 + step)] for step in range(6)]
    tensors = [one.clone() for one in past[0]]
    average = MovingAverage(tensors, 0.9)
    for now in past[1:]:
        for tensor, value in zip(tensors, now, strict=True):
            tensor.copy_(value)
        average.update()
    shares = [0.9**5, *(0.1 * 0.9 ** (5 - step) for step in range(1, 6))]
    assert sum(shares) == pytest.approx(1)
    average.put()
    for place, tensor in enumerate(tensors):
        expected = torch.stack([share * one[place] for share, one in zip(shares, past, strict=True)]).sum(0)
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-12)


def test_whole_numbers_are_left_alone():
    counted, weight = torch.tensor(3), torch.ones(2, dtype=torch.float64)
    average = MovingAverage([counted, weight], 0.5)
    counted += 1
    weight += 1
    average.update()
    average.put()
    assert int(counted) == 4
    assert weight.tolist() == [1.5, 1.5]


def by_hand(net: nn.Module, inputs: Inputs, epochs: int, rate: float) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Parameters and running statistics, at the start and after every step of plain gradient descent."""
    statistics = [one for one in net.buffers() if one.is_floating_point()]
    weights, running = [[p.detach().clone() for p in net.parameters()]], [[one.clone() for one in statistics]]
    for epoch in range(epochs):
        for seen in views(inputs, batch=10, policy=None, seed=0, epoch=epoch):
            loss = cross_entropy(net.train()(seen.x), inputs.labels[seen.index])
            for parameter, slope in zip(
                net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True
            ):
                parameter.data -= rate * slope
            weights.append([p.detach().clone() for p in net.parameters()])
            running.append([one.clone() for one in statistics])
    return weights, running


def averaged(past: list[list[Tensor]]) -> list[Tensor]:
    found = past[0]
    for now in past[1:]:
        found = [DECAY * a + (1 - DECAY) * p for a, p in zip(found, now, strict=True)]
    return found


@pytest.mark.parametrize("buffers", [False, True])
def test_training_averages_after_every_step(buffers: bool):
    """Parameters from the initial ones on; running statistics the last ones, or averaged too."""
    inputs = Inputs(randn(23, 1, 8, 8, seed=1), torch.arange(23) % 10, None, CPU)
    net, other = (build_student(BATCH_NORM, channels=1, size=8, classes=10, seed=4).double() for _ in range(2))
    average = Averaging(decay=DECAY, buffers=buffers).of(net.parameters(), net.buffers())
    how = OptimizerSettings(lr=0.1)
    for _ in train(net, inputs, seed=0, epochs=3, batch=10, optimizer=how, policy=None, after_step=average.update):
        pass
    weights, running = by_hand(other, inputs, 3, 0.1)
    assert len(weights) == 1 + 3 * 3, "the smaller batch is a step too"
    for ours, theirs in zip(net.parameters(), weights[-1], strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=0, atol=1e-10)  # until put, the last weights
    average.put()
    statistics = [one for one in net.buffers() if one.is_floating_point()]
    assert statistics
    found = [p.detach() for p in net.parameters()] + statistics
    expected = averaged(weights) + (averaged(running) if buffers else running[-1])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert any(float((a - b).abs().max()) > 1e-3 for a, b in zip(averaged(weights), weights[-1], strict=True))


def plan_of(protocol: Protocol, stage: Tensor | None = None) -> Plan:
    dataset = load_dataset("digits")
    preprocess = fit_preprocess(dataset, "meanstd")
    synset = Synset(
        images=dataset.train.images[:20],
        labels=torch.arange(10).repeat_interleave(2),
        stage=stage,
        preprocess=preprocess.to_json(),
        budget=Budget("ipc", 2),
        dataset="digits",
        fingerprint=dataset.fingerprint,
        class_names=dataset.spec.class_names,
        method="random",
        config={},
        seed=0,
    )
    return Plan(synset=synset, protocol=protocol, preprocess=preprocess, flip=False)


def weights_of(protocol: Protocol, seeds: list[int], student: str = TINY, stage: Tensor | None = None) -> list[Tensor]:
    nets, _ = trained_students(plan_of(protocol, stage), student, seeds, Settings(device="cpu", threads=1))
    return [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]


@pytest.mark.parametrize("student", [TINY, BATCH_NORM])
def test_students_trained_at_once_are_averaged_alike(student: str):
    last = changed(PROTOCOLS["hard-v1"], epochs=3)[0]
    mean = changed(last, ema_decay=0.9)[0]
    together = weights_of(mean, [0, 1], student)
    for seed, found in enumerate(together):
        torch.testing.assert_close(found, weights_of(mean, [seed], student)[0], rtol=0, atol=1e-6)
    assert float((together[0] - weights_of(last, [0], student)[0]).abs().max()) > 1e-3


def test_average_goes_on_from_stage_to_stage():
    """With a decay that keeps the start only, two stages end near the initial weights; with none, at the last ones."""
    stage = torch.arange(20) % 2
    base = changed(PROTOCOLS["pdd"], epochs=4)[0]
    start = build_student(TINY, channels=1, size=8, classes=10, seed=0)
    initial = torch.cat([p.detach().flatten() for p in start.parameters()])
    moved = float((weights_of(base, [0], stage=stage)[0] - initial).abs().max())
    slow = weights_of(changed(base, ema_decay=0.9999)[0], [0], stage=stage)[0]
    assert moved > 1e-2
    assert float((slow - initial).abs().max()) < 1e-2 * moved


def test_edc_as_published_is_edc_with_an_average():
    """And what does not average says nothing of it: its hash and its record are as before."""
    edc, published = PROTOCOLS["edc"], PROTOCOLS["edc-ema"]
    made, difference = changed(edc, ema_decay=0.99)
    assert replace(made, name=published.name) == published
    assert difference == {"ema_decay": 0.99}
    assert result_name(edc, difference) == "edc-nonstandard-ema_decay=0.99"
    assert {name for one in PROTOCOLS.values() for name in one.settings() if name.startswith("ema")} == {"ema_decay"}
    assert not any("ema_decay" in PROTOCOLS[name].settings() for name in PROTOCOLS if name != "edc-ema")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema_decay": 1.0}, "--ema-decay 1.0: expected 0"),
        ({"ema_decay": -0.1}, "--ema-decay -0.1: expected 0"),
        ({"ema_buffers": True}, "ema_buffers without ema_decay"),
    ],
)
def test_refused(settings: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        changed(PROTOCOLS["edc"], **settings)
