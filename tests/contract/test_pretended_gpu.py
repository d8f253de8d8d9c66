"""What code for a GPU does wrong shows on a CPU: every method, verb and protocol on a device that is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddbench.diffusion import backends, store
from ddbench.methods import METHODS

ROOT = Path(__file__).parents[2]

if not (ROOT / "benchmarks" / "gpu").is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)

NAMES = [name for name in METHODS if "image" in METHODS.get(name).modalities]
HERE, THERE = "cpu", "cuda:0"


@pytest.fixture(autouse=True)
def checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def pretended() -> Any:
    from benchmarks.gpu.pretended import pretended_cuda

    return pretended_cuda


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from benchmarks.gpu.world import World

    return World(device=THERE, rehearse=True, data=None, scratch=tmp_path_factory.mktemp("world"))


def device(tensor: torch.Tensor) -> str:
    return str(tensor.device)


def test_where_tensors_are(pretended: Any) -> None:
    with pretended():
        near, far = torch.ones(2, 3), torch.ones(2, 3, device="cuda")
        assert torch.cuda.is_available()
        assert (device(near), device(far)) == (HERE, THERE)
        assert (far.is_cuda, far.is_cpu, near.is_cuda) == (True, False, False)
        for made in (far + 1, far @ far.T, far[0], far.clone(), torch.zeros_like(far), far.new_zeros(2), near.to(far)):
            assert device(made) == THERE
        for made in (far.cpu(), far.to("cpu"), torch.zeros_like(far, device="cpu"), near.sum()):
            assert device(made) == HERE
        moved = torch.nn.Linear(3, 2).to("cuda")
        assert {device(one) for one in moved.parameters()} == {THERE}
        assert device(moved(far)) == THERE
        assert device(torch.func.vmap(lambda row: row * 2)(far)) == THERE
    assert not torch.cuda.is_available()
    assert device(far) == HERE


WRONG: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "a sum": lambda near, far: near + far,
    "a product": lambda near, far: far @ near,
    "a row": lambda near, far: torch.cat([near, far]),
    "an index": lambda near, far: far.index_select(0, torch.tensor([0])),
    "an index of the device": lambda near, far: near[torch.tensor([0], device="cuda")],
    "a place to write": lambda near, far: near.add_(far),
    "a number to write on": lambda near, far: near.sum().add_(far.sum()),
    "a layer": lambda near, far: torch.nn.Linear(3, 2)(far),
    "numpy": lambda near, far: far.numpy(),
    "an array": lambda near, far: np.asarray(far),
    "a generator": lambda near, far: torch.randn(2, generator=torch.Generator(), device="cuda"),
    "a generator in place": lambda near, far: far.normal_(generator=torch.Generator()),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_gpu_refuses(pretended: Any, what: str) -> None:
    near, far = torch.ones(3, 3), torch.ones(3, 3)
    with pretended(), pytest.raises((RuntimeError, TypeError), match="device"):
        WRONG[what](near, far.to("cuda"))


def test_what_a_gpu_takes(pretended: Any) -> None:
    """Numbers of the CPU, and positions of the CPU in what lies on the device."""
    with pretended():
        near, far = torch.ones(3), torch.arange(3.0, device="cuda")
        assert (far + torch.tensor(2.0)).tolist() == [2, 3, 4]
        assert far[torch.tensor([2, 0])].tolist() == [2, 0]
        near.copy_(far)
        assert (device(near), near.tolist()) == (HERE, [0, 1, 2])
        assert torch.where(far > 0, torch.tensor(9.0), far).tolist() == [0, 9, 9]


def test_gradients_come_back(pretended: Any) -> None:
    """Of the first and the second order, over a move to the device and back."""
    with pretended():
        weight = torch.tensor([1.0, 2.0], requires_grad=True)
        loss = (weight.to("cuda") ** 3).sum().cpu()
        (first,) = torch.autograd.grad(loss, weight, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), weight)
        assert (device(first), first.tolist()) == (HERE, [3, 12])
        assert (device(second), second.tolist()) == (HERE, [6, 12])


def copied(load: Callable[..., Any]) -> Callable[..., Any]:
    """Loading of a diffusion model whose weights lie in memory of their own, as a device has them.

    Those of the CPU lie in the mapped file, where they begin at any multiple of four bytes: torch's product of a single
    row (IGD asks for one image at a time) is rounded otherwise there.
    """

    def loaded(*args: Any, **kwargs: Any) -> Any:
        net = load(*args, **kwargs)
        for one in net.parameters():
            one.data = one.data.clone()
        return net

    return loaded


@pytest.mark.parametrize("name", NAMES)
def test_method(pretended: Any, world: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps with a checkpoint between them leave the CPU's synset, to the last bit."""
    from benchmarks.gpu.smoke import synset

    monkeypatch.setitem(backends.BATCH, "cuda", backends.BATCH["cpu"])  # rounding depends on it
    monkeypatch.setattr(store, "load_part", copied(store.load_part))
    one, _ = synset(world, name, HERE)
    with pretended():
        two, _ = synset(world, name, THERE, again=True)
    assert torch.equal(one, two)


def test_verbs_and_protocols(pretended: Any, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb that computes and every protocol for images end well, and accuracies are the CPU's."""
    from benchmarks.gpu import smoke
    from benchmarks.gpu.report import Report
    from benchmarks.gpu.verbs import commands, protocols

    monkeypatch.setenv("DDBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(smoke, "ACCURACY", 0.0)
    with pretended():
        smoke.verbs(world, Report(tmp_path / "part.md", "A part", "a machine"))
    lines = [line for line in (tmp_path / "part.md").read_text().splitlines() if line.startswith("| ")]
    lines = [line for line in lines if not line.startswith(("| verb ", "| --- "))]
    assert len(lines) == len(commands()) + len(protocols())
    assert [line for line in lines if not line.endswith("| yes |")] == []
