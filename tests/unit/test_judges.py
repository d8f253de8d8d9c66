"""Experts that judge images say the same of one whatever stands beside it, also where they came without statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import digits_context
from torch import Tensor, nn

from ddbench.methods.ast import AST, ASTConfig
from ddbench.methods.base import Context
from ddbench.methods.datm import DATM, DATMConfig
from ddbench.methods.expertlabels import ExpertLabels, ExpertLabelsConfig
from ddbench.methods.needs.experts import Experts
from ddbench.methods.parts.judges import BATCH, Judges
from ddbench.training.flat import flatten_buffers, flatten_parameters

pytestmark = pytest.mark.usefixtures("one_thread")


class Store:
    """One expert of a network with batch norm."""

    recipe = SimpleNamespace(epochs=1)
    indices = (0,)

    def __init__(self, weights: Tensor, statistics: Tensor) -> None:
        self._weights, self._statistics = weights, statistics

    def rows(self, index: int, *epochs: int) -> list[Tensor]:
        return [self._weights.clone() for _ in epochs]

    def buffers(self, index: int, epoch: int) -> Tensor:
        return self._statistics.clone()


@pytest.fixture
def make(data_root: Path, tmp_path: Path) -> Callable[..., Context]:
    def call(statistics: Tensor | None = None) -> Context:
        """Without statistics, as of an imported buffer."""
        context = digits_context(data_root, tmp_path, student="convnet-d1-w4-bn")
        store: Any = Store(flatten_parameters(context.network(1)), torch.zeros(0) if statistics is None else statistics)
        return context.give(Experts, store)

    return call


def logits_of(kind: str, context: Context, positions: Tensor) -> Tensor:
    """What a method is told of training images."""
    if kind == "expertlabels":
        method = ExpertLabels(ExpertLabelsConfig(label_epoch=1), context)
        method.setup()
        method._images = context.train.images[positions]
        return method.labels(1).sort(1).values  # the own class's entry is exchanged for the largest
    matching: Any = AST(ASTConfig(), context) if kind == "ast" else DATM(DATMConfig(), context)
    return matching.expert_logits(0, positions)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["ast", "datm", "expertlabels"])
def test_what_stands_beside_an_image_does_not_matter(kind: str, make: Callable[..., Context]):
    context = make()
    labels = context.train.labels
    order = labels.argsort(stable=True)
    mixed = torch.cat([(labels == label).nonzero()[:2, 0] for label in range(context.classes)])
    alone = order[labels[order] == 3][:2]
    if kind == "expertlabels":  # which labels as many images as the synset has
        whole = logits_of(kind, context, mixed)
        same = logits_of(kind, context, alone.repeat(context.classes))[:2]
    else:
        whole, same = logits_of(kind, context, mixed), logits_of(kind, context, alone)
    torch.testing.assert_close(same, whole[6:8], rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_training_images(make: Callable[..., Context]):
    """Means over whole batches in a shuffled order that no class fills; the same at the second call."""
    context = make()
    judges = Judges(context, context.given(Experts))
    net: Any = judges.network(0, 1)
    assert not net.training
    conv = next(one for one in net.modules() if isinstance(one, nn.Conv2d))
    norm = next(one for one in net.modules() if isinstance(one, nn.BatchNorm2d))
    with torch.no_grad():
        x = conv(context.preprocess.apply(context.train.images))
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), rtol=0.05, atol=0.02)
    torch.testing.assert_close(norm.running_var, x.var((0, 2, 3)), rtol=0.05, atol=0.0)
    assert len(x) // BATCH == 4
    assert torch.equal(flatten_buffers(judges.network(0, 1)), flatten_buffers(net))
    assert torch.equal(flatten_buffers(Judges(context, context.given(Experts)).network(0, 1)), flatten_buffers(net))


def test_recorded_statistics_are_taken_as_they_are(make: Callable[..., Context]):
    wanted = torch.arange(8.0)
    context = make(wanted)
    assert torch.equal(flatten_buffers(Judges(context, context.given(Experts)).network(0, 1)), wanted)
