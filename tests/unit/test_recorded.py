"""Recorded calls: the same bits as plain ones, and no recording of what may change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.data.policy import parse_policy
from ddbench.networks.build import build_student
from ddbench.runtime.seeds import isolated
from ddbench.training import loops, recorded
from ddbench.training.loops import Inputs, train
from ddbench.training.optimizers import OptimizerSettings
from ddbench.training.recorded import BEFORE, Gradients, NotRecordedError, Recording, Repeated, recordable

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained(student: str, epochs: int = 12) -> tuple[bytes, list[float]]:
    """Weights and statistics as bytes, and the losses of the epochs, in batches of 16 and 7 images."""
    net = build_student(student, channels=1, size=8, classes=3, seed=0)
    inputs = Inputs(numbers(23, 1, 8, 8), torch.arange(23) % 3, None, CPU)
    how = OptimizerSettings(lr=0.05, momentum=0.9, weight_decay=1e-3)
    policy = parse_policy("dsa", flip=False)
    seen = [one.loss for one in train(net, inputs, epochs=epochs, batch=16, optimizer=how, policy=policy, seed=1)]
    return b"".join(one.detach().numpy().tobytes() for one in net.state_dict().values()), seen


@pytest.mark.parametrize(
    "student", ["convnet-d2-w8-in", "convnet-d1-w8-bn", "convnet-d2-w8-gn", "mlp-d2-w16", "lenet", "convnet-d1-w8-nn"]
)
def test_a_repeated_training_gives_the_bits_of_a_plain_one(student: str, monkeypatch: pytest.MonkeyPatch):
    repetitions: list[int] = []
    call = Recording.__call__

    def counted(self: Recording, *inputs: Tensor) -> list[Tensor | None]:
        repetitions.append(1)
        return call(self, *inputs)

    monkeypatch.setattr(Recording, "__call__", counted)
    repeated = trained(student)
    assert len(repetitions) > 8
    monkeypatch.setattr(loops, "recordable", lambda net, device: False)
    assert repeated == trained(student)


def test_what_is_recorded_is_what_is_done():
    weight, buffer = numbers(3, 4).requires_grad_(), torch.zeros(3)

    def function(x: Tensor, y: Tensor) -> list[Tensor | None]:
        buffer.add_(x.sum(0))  # changes what is not its own
        parts = torch.cat([x, y * 2], 1)  # a list of tensors
        value = (torch.stack([parts, parts]) @ torch.cat([weight.T, weight.T])).square().mean()
        (slope,) = torch.autograd.grad(value, weight)
        return [value.detach(), slope, None]

    one = numbers(2, 3, seed=1), numbers(2, 5, seed=2)
    two = numbers(2, 3, seed=3), numbers(2, 5, seed=4)
    made = Recording(function, one)
    assert torch.equal(buffer, one[0].sum(0))
    with torch.no_grad():
        weight.mul_(3)
    repeated, kept = made(*two), buffer.clone()
    buffer.copy_(one[0].sum(0))
    plain = function(*two)
    assert repeated[2] is None
    assert all(
        torch.equal(a, b) for a, b in zip(repeated[:2], plain[:2], strict=True) if a is not None and b is not None
    )
    assert torch.equal(kept, buffer)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x * float(x.sum())],
        lambda x: [x if x.sum() > 0 else -x],
        lambda x: [F.dropout(x, 0.5)],
        lambda x: [x + torch.rand(3)],
    ],
)
def test_a_call_that_looks_at_numbers_or_draws_is_not_recorded(function: recorded.Function):
    with pytest.raises(NotRecordedError):
        Recording(function, [torch.ones(3)])


def test_a_function_that_changes_its_ways_is_called():
    calls: list[int] = []

    def function(x: Tensor) -> list[Tensor | None]:
        calls.append(1)
        return [x * len(calls)]

    repeated = Repeated(function)
    found = [repeated(torch.ones(2))[0] for _ in range(BEFORE + 6)]
    assert [float(one[0]) for one in found if one is not None] == list(range(1, BEFORE + 7))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(4, 3), nn.RReLU()),  # draws, which its attributes do not say
        nn.Sequential(nn.Hardswish(inplace=True), nn.Linear(4, 3)),  # writes into its input
    ],
)
def test_a_network_that_draws_or_writes_into_its_input_gives_the_bits_of_plain_calls(net: nn.Module):
    assert recordable(net, CPU)
    losses: list[list[float]] = []
    for repeat in (False, True):
        gradients = Gradients(net, lambda x, y: (F.cross_entropy(net(x), y), torch.zeros(1)), repeat)
        with isolated(0, "drawing"):
            losses.append([float(gradients(numbers(5, 4, seed=step), torch.arange(5) % 3)[0]) for step in range(9)])
    assert losses[0] == losses[1]


def test_too_much_is_not_recorded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorded, "LARGEST", 100)
    with pytest.raises(NotRecordedError, match="bytes"):
        Recording(lambda x: [x + 1], [torch.ones(1000)])


def test_which_networks_are_recorded():
    class Own(nn.Linear):
        pass

    assert recordable(build_student("convnet-d1-w8-bn", channels=1, size=8, classes=3, seed=0), CPU)
    assert not recordable(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), CPU)
    assert not recordable(nn.Sequential(Own(2, 2)), CPU)
    assert not recordable(nn.Linear(2, 2), torch.device("meta"))
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda module, given, found: found)
    assert not recordable(hooked, CPU)


def test_a_loss_from_outside_may_change():
    net, inputs = (
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        Inputs(numbers(6, 1, 2, 2), torch.arange(6) % 3, None, CPU),
    )
    epochs: list[int] = []
    how = OptimizerSettings(lr=0.0)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y) * 0 + len(epochs)

    for epoch in train(net, inputs, epochs=9, batch=2, optimizer=how, policy=None, seed=0, loss=loss):
        assert epoch.loss == len(epochs)
        epochs.append(epoch.number)
