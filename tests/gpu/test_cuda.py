"""On a CUDA device: the same numbers as on the CPU, within float32. Run with ``pytest -m gpu tests/gpu``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ddbench.data.policy import parse_policy
from ddbench.networks.build import build_student
from ddbench.training.flat import FlatNet, flatten_parameters
from ddbench.training.inner import InnerLoop
from ddbench.training.loops import Inputs, predict, train
from ddbench.training.many import train_many
from ddbench.training.optimizers import OptimizerSettings
from ddbench.training.problem import InnerProblem, match_term

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
STUDENT = "convnet-d2-w8-in"
SETTINGS: dict[str, Any] = {
    "epochs": 5,
    "batch": 16,
    "optimizer": OptimizerSettings(lr=0.01, momentum=0.9, weight_decay=5e-4),
    "policy": parse_policy("dsa"),
}


@pytest.fixture(autouse=True)
def no_tf32() -> Iterator[None]:
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    yield
    for place, value in zip(places, before, strict=True):
        place.allow_tf32 = value


def data(device: str) -> Inputs:
    g = torch.Generator().manual_seed(0)
    return Inputs(torch.randn(40, 1, 16, 16, generator=g), torch.arange(40) % 10, None, torch.device(device))


def student(device: str, seed: int = 0) -> torch.nn.Module:
    return build_student(STUDENT, channels=1, size=16, classes=10, seed=seed).to(device)


def trained(device: str) -> torch.nn.Module:
    net = student(device)
    for _ in train(net, data(device), seed=0, **SETTINGS):
        pass
    return net


def test_training_is_that_of_the_cpu() -> None:
    one, two = (predict(trained(device), data(device)) for device in ("cpu", "cuda"))
    assert torch.allclose(one, two, atol=1e-3)


def test_networks_at_once_are_those_one_by_one() -> None:
    alone = [student("cuda", seed) for seed in range(3)]
    for seed, net in enumerate(alone):
        for _ in train(net, data("cuda"), seed=seed, **SETTINGS):
            pass
    together = [student("cuda", seed) for seed in range(3)]
    for _ in train_many(together, data("cuda"), seeds=range(3), **SETTINGS):
        pass
    for one, two in zip(alone, together, strict=True):
        assert torch.allclose(flatten_parameters(one), flatten_parameters(two), atol=1e-3)


@pytest.mark.parametrize("mode", ["unroll", "adjoint"])
def test_the_inner_loops_gradient_is_that_of_the_cpu(mode: str) -> None:
    def gradient(device: str) -> torch.Tensor:
        module = student(device)
        images = torch.randn(40, 1, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
        start = flatten_parameters(module).detach()
        target = start + 0.01 * torch.randn(len(start), generator=torch.Generator().manual_seed(1)).to(device)
        problem = InnerProblem(
            start=start,
            images=images,
            labels=(torch.arange(40) % 10).to(device),
            lr=torch.tensor(0.05, device=device),
            batches=[None] * 4,
            terms=[match_term(4, target, start)],
        )
        return InnerLoop(FlatNet(module), mode)(problem).images.cpu()

    one, two = gradient("cpu"), gradient("cuda")
    assert torch.allclose(one, two, atol=1e-4 * float(one.abs().max()))
