"""A context for a method that matches trajectories, on digits and tiny experts; and the linear student in its place."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import digits_context
from linear_student import Training
from torch import nn

from ddbench.experts.store import find_stores
from ddbench.methods.base import Context
from ddbench.methods.needs.experts import Experts
from ddbench.methods.parts.segments import Segment
from ddbench.training.flat import FlatNet
from ddbench.training.inner import InnerLoop
from ddbench.training.problem import InnerResult

TINY_SETTINGS: dict[str, Any] = {
    "iterations": 4,
    "student_steps": 4,
    "expert_epochs": 2,
    "max_start_epoch": 2,
    "lr_images": 1.0,
    "lr_lr": 1e-4,
}


def make_context(buffers: Path, data_root: Path, folder: Path, ipc: int = 2, kind: str = "sgd") -> Context:
    """A context with the first store of a kind below ``buffers``; the run's seed is 0."""
    experts = next(store for store in find_stores(buffers) if store.recipe.kind == kind)
    return digits_context(data_root, folder, ipc=ipc).give(Experts, experts)


def started(kind: Any, context: Context, **settings: Any) -> Any:
    """A method after ``setup``, small settings with some changed."""
    config = kind.config_class(**{**TINY_SETTINGS, **settings})
    kind.check(config, context)
    method = kind(config, context)
    method.setup()
    return method


def linear(method: Any, *, start_epoch: int = 0, epochs: tuple[int, ...] = (2,), seed: int = 3) -> Segment:
    """Give a method a linear student of float64 instead of its own, with images to fit; returns a segment to follow."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    classes, size = method.context.classes, 4
    net = nn.Sequential(nn.Flatten(), nn.Linear(size * size, classes)).double()
    method.inner = InnerLoop(FlatNet(net), method.config.inner)
    method.canvas.value = normal(len(method.images), 1, size, size)
    method.rate.value = torch.tensor(0.2, dtype=torch.float64)
    steps, images = method.config.student_steps, len(method.images)
    start = normal(method.inner.net.size)
    return Segment(
        expert=0,
        start_epoch=start_epoch,
        start=start,
        targets={epoch: start + 0.3 * normal(len(start)) for epoch in epochs},
        batches=[torch.randperm(images, generator=g)[: images // 2] for _ in range(steps)],
        draws=None,
    )


def reference(method: Any, segment: Segment, labels: torch.Tensor, **more: Any) -> Training:
    """The same training in numpy; ``labels`` are classes or logits, matched at the end if ``targets`` says nothing."""
    hard = not labels.is_floating_point()
    rows = torch.nn.functional.one_hot(labels, method.context.classes) if hard else labels
    steps = len(segment.batches)
    return Training(
        start=segment.start.numpy(),
        images=method.images.detach().flatten(1).numpy(),
        labels=rows.double().numpy(),
        hard=hard,
        lr=float(method.rate.value),
        batches=[np.asarray(batch) for batch in segment.batches],
        **{"targets": [(steps, segment.target.numpy(), 1.0)], **more},
    )


def assert_equal(result: InnerResult, wanted: Training, tolerance: float = 1e-10) -> None:
    """Loss and gradients of ours are the reference's; relative to the largest entry."""
    images, labels, lr = wanted.gradients()
    assert abs(float(result.loss) - wanted.loss()) <= tolerance * abs(wanted.loss())
    pairs = [(result.images.flatten(1).numpy(), images), (np.array([float(result.lr)]), np.array([lr]))]
    if not wanted.hard:
        assert result.labels is not None
        pairs.append((result.labels.numpy(), labels))
    for ours, theirs in pairs:
        assert np.abs(theirs).max() > 1e-6, "the comparison would be empty"
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def assert_differentiates(wanted: Training) -> None:
    """The reference's own gradients against central differences of its loss."""
    images, labels, lr = wanted.gradients()
    for name, gradient in (("images", images), ("labels", labels), ("lr", np.array(lr))):
        if name == "labels" and wanted.hard:
            continue
        value = np.array(getattr(wanted, name), dtype=np.float64)
        for flat in range(0, value.size, max(1, value.size // 5)):
            both = []
            for sign in (1, -1):
                moved = value.copy().reshape(-1)
                moved[flat] += sign * 1e-5
                there = float(moved[0]) if name == "lr" else moved.reshape(value.shape)
                both.append(dataclasses.replace(wanted, **{name: there}).loss())
            found = gradient.reshape(-1)[flat]
            assert abs((both[0] - both[1]) / 2e-5 - found) <= 1e-6 * np.abs(gradient).max()
