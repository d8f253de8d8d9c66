"""What goes to a GPU and back while work is done there, seen on one that is not there: little, and without waiting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY

from ddbench.data.augment import FAMILIES, Strategy
from ddbench.data.policy import augment, parse_policy
from ddbench.data.preprocess import Preprocess
from ddbench.networks.build import build_student
from ddbench.training import loops
from ddbench.training.optimizers import OptimizerSettings, load_optimizer_state, make_optimizer, optimizer_state


def moves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], torch.dtype, bool]]:
    """Shape and type of what goes from the CPU to the device from now on, and whether the process does not wait."""
    from benchmarks.gpu import pretended

    found: list[tuple[tuple[int, ...], torch.dtype, bool]] = []
    own = pretended._Calls._to

    def noting(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        made = own(self, args, kwargs)
        if (self.tags.of(args[0]), self.tags.of(made)) == ("cpu", "cuda"):
            found.append((tuple(args[0].shape), args[0].dtype, bool(kwargs.get("non_blocking"))))
        return made

    monkeypatch.setattr(pretended._Calls, "_to", noting)
    return found


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("text", [*FAMILIES, "dsa", "crop+flip", "rrc+mixup", "patchshuffle+cutmix"])
def test_nobody_waits_for_what_is_drawn(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, g = torch.rand(6, 3, 8, 8, device="cuda"), torch.Generator().manual_seed(0)
    policy = parse_policy(text, factor=2)
    assert policy is not None
    each = [replace(part, per="image") if isinstance(part, Strategy) else part for part in policy.parts]
    found = moves(monkeypatch)
    for one in (policy, replace(policy, parts=tuple(each))):
        augment(one, x, g, None)
    assert found
    assert all(quick for *_, quick in found)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", ["frepo", "rcig", "dd"])
def test_real_images_lie_on_the_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step draws positions; they were gathered and preprocessed on the CPU, and copied in each."""
    from benchmarks.gpu.world import World, smoke_method

    method: Any = smoke_method(World(device="cuda:0", rehearse=True, data=None, scratch=tmp_path), name, "cuda:0")
    method.real_batch(0)  # with which mean and std go there
    found = moves(monkeypatch)
    x, y = method.real_batch(1)
    assert (str(x.device), str(y.device)) == ("cuda:0", "cuda:0")
    assert found == [((len(x),), torch.int64, True)]


@pytest.mark.usefixtures("gpu")
def test_pixels_go_to_the_device_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once where they are few enough, else batch by batch; the numbers are those of inputs that are kept."""
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 4, 4).contiguous()
    plain, index = Preprocess(kind="meanstd", mean=(0.5,), std=(0.2,)), torch.tensor([3, 1])
    wanted = plain.apply(images[index])
    for most, stays in ((640, False), (160, False), (159, True)):
        monkeypatch.setattr(loops, "MATERIALISE_BYTES", most)
        found = moves(monkeypatch)
        inputs = loops.Inputs(images, torch.arange(10), plain, torch.device("cuda"))
        x, y = inputs.labelled(index)
        assert (inputs.stays, str(x.device), y.tolist()) == (stays, "cuda:0", [3, 1])
        assert torch.equal(x.cpu(), wanted)
        pixels = [(shape, kind) for shape, kind, _ in found if len(shape) == 4 and shape[2:] == (4, 4)]
        assert pixels == [((2 if stays else 10, 1, 4, 4), torch.uint8)]


@pytest.mark.usefixtures("gpu")
def test_logits_leave_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import pretended

    inputs = loops.Inputs(torch.rand(600, 1, 8, 8), torch.zeros(600).long(), None, torch.device("cuda"))
    net = build_student(TINY, channels=1, size=8, classes=2, seed=0).to("cuda")
    left, own = [], pretended._Calls._moved

    def noting(self: Any, tensor: torch.Tensor, kind: str) -> torch.Tensor:
        left.extend([len(tensor)] * (kind == "cpu"))
        return own(self, tensor, kind)

    monkeypatch.setattr(pretended._Calls, "_moved", noting)
    assert len(loops.predict(net, inputs)) == 600
    assert left == [600]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("stays", [False, True])
def test_positions_go_to_the_device_once_an_epoch(stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that stay on the CPU are found by positions there: those of the device would have to come back."""
    from benchmarks.gpu import pretended

    if stays:
        monkeypatch.setattr(loops, "MATERIALISE_BYTES", 0)
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 4, 4).contiguous()
    plain = Preprocess(kind="meanstd", mean=(0.0,), std=(1 / 255,))
    inputs = loops.Inputs(images, torch.arange(10), plain, torch.device("cuda"))
    asked, own = [], inputs.batch
    monkeypatch.setattr(inputs, "batch", lambda index: (asked.append(str(index.device)), own(index))[1])
    moved, move = [], pretended._Move.apply
    counting = SimpleNamespace(apply=lambda tensor, *rest: (moved.append(tensor.shape), move(tensor, *rest))[1])
    monkeypatch.setattr(pretended, "_Move", counting)
    for view in loops.views(inputs, batch=4, policy=None, seed=0, epoch=0):
        assert (str(view.x.device), str(view.index.device)) == ("cuda:0", "cuda:0")
        assert view.x[:, 0, 0, 0].round().tolist() == view.index.tolist()
    assert set(asked) == {"cpu" if stays else "cuda:0"}
    assert [shape for shape in moved if len(shape) == 1] == [(10,)]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("name", "place"), [("adam", "cuda:0"), ("nadam", "cpu"), ("radam", "cpu")])
def test_counters_of_optimisers_are_where_they_were(name: str, place: str) -> None:
    """After a checkpoint too: of one that is not fused torch would ask the device for each at every step."""
    parameters = [torch.ones(3, device="cuda", requires_grad=True)]
    settings = OptimizerSettings(name=name, lr=0.1)
    stepper = make_optimizer(parameters, settings)
    parameters[0].grad = torch.ones(3, device="cuda")
    stepper.step()
    kept = {key: value.cpu().to("cuda") for key, value in optimizer_state(stepper, "own").items()}
    again = make_optimizer(parameters, settings)
    load_optimizer_state(again, "own", kept)
    for one in (stepper, again):
        entry = one.state_dict()["state"][0]
        assert (str(entry["step"].device), str(entry["exp_avg"].device)) == (place, "cuda:0")
        one.step()
    assert float(again.state_dict()["state"][0]["step"]) == 2
