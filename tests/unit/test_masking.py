"""Masked distillation: what is hidden gets no gradient, nothing hidden changes no byte, masks are fresh."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import distill_tiny
from trajectory_context import TINY_SETTINGS, make_context

from ddbench.data.masks import pixel_mask
from ddbench.methods import METHODS
from ddbench.methods.parts import masking
from ddbench.methods.parts.masking import MaskConfig, synthetic_mask
from ddbench.training.flat import FlatNet
from ddbench.training.inner import InnerLoop
from ddbench.training.problem import InnerProblem, match_term

FAMILIES: dict[str, dict[str, Any]] = {
    "mtt": {**TINY_SETTINGS, "augmentation": "none"},
    "tesla": {**TINY_SETTINGS, "augmentation": "none", "batch_syn": 7},
    "dm": {"iterations": 2, "batch_real": 8, "augmentation": "none"},
    "datadam": {"iterations": 2, "batch_real": 8, "augmentation": "none"},
    "dc": {"iterations": 1, "outer_loops": 1, "batch_real": 8, "init": "real"},
    "idc": {
        "iterations": 1,
        "inner_steps": 1,
        "batch_real": 8,
        "net_images": 0,
        "factor": 1,
        "augmentation": "none",
        "lr_images": 0.01,
        "init": "real",
    },
}
"""One method of each kind that the mask is in, without augmentation, which would move what is hidden."""


def test_a_mask_hides_pixels_of_all_channels_alike():
    mask = pixel_mask(40, 8, 6, 0.3, torch.Generator().manual_seed(0))
    assert mask.shape == (40, 1, 8, 6)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert float((mask == 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert bool((pixel_mask(2, 3, 3, 0.0, torch.Generator()) == 1).all())


def test_masks_are_fresh_and_named():
    config, images = MaskConfig(mask_ratio=0.5), torch.zeros(3, 2, 8, 8)
    one, same, other, later = (synthetic_mask(config, images, *name) for name in ((0, 1), (0, 1), (1, 1), (0, 2)))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, later)
    assert synthetic_mask(MaskConfig(), images, 0, 1) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_pixels_get_no_gradient(
    name: str, buffers: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The left half is hidden in every step: it stays as it was, bit for bit, and the right half moves."""
    asked: list[tuple[int, float]] = []

    def left(n: int, height: int, width: int, ratio: float, _: torch.Generator) -> torch.Tensor:
        asked.append((n, ratio))
        mask = torch.ones(n, 1, height, width)
        mask[..., : width // 2] = 0
        return mask

    monkeypatch.setattr(masking, "pixel_mask", left)
    kind = METHODS.get(name)
    context = make_context(buffers, data_root, tmp_path)
    config = kind.config_class(**FAMILIES[name], mask_ratio=0.25)
    kind.check(config, context)
    method = kind(config, context)
    method.setup()
    before = method.distilled().images.clone()
    method.step(0)
    after = method.distilled().images
    half = before.shape[-1] // 2
    assert torch.equal(after[..., :half], before[..., :half])
    assert bool((after[..., half:] != before[..., half:]).flatten(1).any(1).all()), "every image moves"
    assert {ratio for _, ratio in asked} == {0.25}


@pytest.mark.parametrize("mode", ["unroll", "adjoint", "truncated"])
def test_the_inner_loop_differentiates_through_its_masks(mode: str):
    """A masked problem is the problem of a network that masks its input itself, one mask a step."""
    generator = torch.Generator().manual_seed(0)
    net = FlatNet(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).double())
    images = torch.randn(4, 1, 4, 4, generator=generator, dtype=torch.float64)
    masks = [pixel_mask(4, 4, 4, 0.4, generator).double() for _ in range(3)]
    start, target = (torch.randn(51, generator=generator, dtype=torch.float64) for _ in range(2))
    problem = InnerProblem(
        start=start,
        images=images,
        labels=torch.tensor([0, 1, 2, 0]),
        lr=torch.tensor(0.1, dtype=torch.float64),
        batches=[None] * 3,
        terms=[match_term(3, target, start)],
        masks=masks,
    )
    found = InnerLoop(net, mode)(problem)
    pixels = images.clone().requires_grad_()
    theta = start.clone().requires_grad_()
    for mask in masks:
        seen = theta.detach().requires_grad_() if mode == "truncated" else theta
        loss = torch.nn.functional.cross_entropy(net(seen, pixels * mask), problem.labels)
        (gradient,) = torch.autograd.grad(loss, seen, create_graph=True)
        theta = theta - 0.1 * gradient
    outer = (theta - target).square().sum() / (start - target).square().sum()
    (expected,) = torch.autograd.grad(outer, pixels)
    torch.testing.assert_close(found.images, expected, rtol=1e-10, atol=1e-12)
    hidden = torch.stack(masks).sum(0) == 0
    assert bool(hidden.any())
    assert bool((found.images[hidden.expand_as(found.images)] == 0).all())
    with pytest.raises(ValueError, match="2 masks for 3 steps"):
        replace(problem, masks=masks[:2])


def test_ratio_0_changes_no_byte(ddb: Callable, buffers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert ddb(*distill_tiny(buffers, tmp_path / "plain")).code == 0
    monkeypatch.setattr(masking, "pixel_mask", None)  # nothing is drawn
    assert ddb(*distill_tiny(buffers, tmp_path / "zero", "--mask-ratio", 0)).code == 0
    for name in ("synset.safetensors", "config.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "zero" / name).read_bytes()
    assert "mask_ratio" not in json.loads((tmp_path / "plain" / "config.json").read_text())["config"]


def test_ratio_is_recorded_and_masks_change_the_product(ddb: Callable, buffers: Path, tmp_path: Path):
    for place in ("one", "two"):
        assert ddb(*distill_tiny(buffers, tmp_path / place, "--mask-ratio", 0.3)).code == 0
    assert ddb(*distill_tiny(buffers, tmp_path / "plain")).code == 0
    data = {place: (tmp_path / place / "synset.safetensors").read_bytes() for place in ("one", "two", "plain")}
    assert data["one"] == data["two"] != data["plain"]
    assert json.loads((tmp_path / "one" / "config.json").read_text())["config"]["mask_ratio"] == 0.3


def test_every_method_that_has_the_flag_checks_it(buffers: Path, tmp_path: Path, refused: Callable):
    refused(distill_tiny(buffers, tmp_path / "run", "--mask-ratio", 1), "--mask-ratio 1.0", "below 1")
    refused(distill_tiny(buffers, tmp_path / "run", "--mask-ratio", -0.1), "--mask-ratio -0.1")
