"""Expert labels: whose images, whose words, which epoch; nothing of the test set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_EPOCHS, digits_context

from ddbench.experts.store import find_stores
from ddbench.methods import expertlabels
from ddbench.methods.base import Context, State
from ddbench.methods.expertlabels import ExpertLabels, ExpertLabelsConfig, own_first
from ddbench.methods.kmeans import KMeans, KMeansConfig
from ddbench.methods.needs.experts import Experts
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.methods.random import Random, RandomConfig
from ddbench.protocols.training import DivergedError
from ddbench.runtime.errors import UserError
from ddbench.training.flat import load_flat

SMALL: dict[str, Any] = {"sweep_students": 1, "sweep_epochs": 2}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def context(data_root: Path, tmp_path: Path, tiny_experts: Path) -> Context:
    (store,) = find_stores(tiny_experts)
    return digits_context(data_root, tmp_path).give(Experts, store)


@pytest.fixture
def make(context: Context) -> Callable[..., ExpertLabels]:
    def call(within: Context = context, **settings: Any) -> ExpertLabels:
        config = ExpertLabelsConfig(**{**({} if "label_epoch" in settings else SMALL), **settings})
        ExpertLabels.check(config, within)
        method = ExpertLabels(config, within)
        method.setup()
        return method

    return call


def test_images_are_those_of_random_and_labels_the_words_of_an_expert(make: Callable[..., Any], context: Context):
    product = make(label_epoch=2).distilled()
    assert torch.equal(product.images, Random(RandomConfig(), context).distilled().images)
    store = context.given(Experts)
    found = []
    for index in store.indices:
        net = context.network(0)
        load_flat(net, store.rows(index, 2)[0])
        with torch.no_grad():
            said = net.eval()(context.preprocess.apply(product.images))
        found.append(torch.allclose(own_first(said, context.hard_labels()), product.labels, atol=1e-5))
    assert found.count(True) == 1
    assert torch.equal(product.labels.argmax(1), context.hard_labels())


def test_images_of_a_coreset(make: Callable[..., Any], context: Context):
    class Features:
        """A teacher whose features are the first pixels."""

        path = Path("teacher")

        def network(self, device: object) -> torch.nn.Module:
            return context.network(3)

    taught = context.give(TrainedTeacher, Features())  # type: ignore[arg-type]
    coreset = KMeans(KMeansConfig(), taught)
    coreset.setup()
    for label in range(context.classes):
        coreset.step(label)
    product = make(taught, label_epoch=1, select="kmeans").distilled()
    assert torch.equal(product.images, coreset.distilled().images)


def test_own_first():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0], [9.0, 8.0, 7.0]])
    made = own_first(logits, torch.tensor([0, 2, 1]))
    assert made.tolist() == [[3.0, 1.0, 2.0], [0.0, 4.0, 5.0], [8.0, 9.0, 7.0]]


def test_the_best_epoch_on_held_out_images_labels(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    scores = {1: 0.3, 2: 0.6, 3: 0.6, 4: 0.5}
    monkeypatch.setattr(ExpertLabels, "_score", lambda self, epoch: scores[epoch])
    method = make()
    assert method.iterations == TINY_EPOCHS
    found = [method.step(iteration) for iteration in range(method.iterations)]
    assert [one["sweep_accuracy"] for one in found] == list(scores.values())
    assert [one["label_epoch"] for one in found] == [1, 2, 3, 4]
    assert method.best == 2, "of two equal ones the earlier"
    assert torch.equal(method.distilled().labels, method.labels(2))
    again = make()
    again.load_state(State(tensors=method.state().tensors))
    assert again.best == 2


def test_a_score_is_of_held_out_images(make: Callable[..., Any], context: Context):
    """With held-out labels that are wrong the score falls; the test set is not in reach."""
    held = context.held_out
    wrong = dataclasses.replace(held, labels=(held.labels + 1) % 10)
    spoiled = dataclasses.replace(context, held_out=wrong)
    right, other = (make(one, sweep_epochs=60).step(TINY_EPOCHS - 1) for one in (context, spoiled))
    assert right["sweep_accuracy"] > other["sweep_accuracy"] + 0.05


def raising(error: UserError) -> Callable[..., Any]:
    def train(*_: object) -> None:
        raise error

    return train


def test_only_students_that_diverge_make_an_epoch_a_bad_one(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(expertlabels, "train_students", raising(DivergedError("not finite")))
    assert make().step(0)["sweep_accuracy"] == 0
    monkeypatch.setattr(expertlabels, "train_students", raising(UserError("no memory")))
    with pytest.raises(UserError, match="no memory"):
        make().step(0)


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4]), (3, [3, 4]), (9, [4])])
def test_epochs_that_are_tried(make: Callable[..., Any], every: int, epochs: list[int]):
    assert make(every=every).epochs == epochs


def test_refused(make: Callable[..., Any], context: Context):
    with pytest.raises(UserError, match=r"--label-epoch 5: the experts in .* have 4 epochs"):
        make(label_epoch=5)
    none = dataclasses.replace(context.held_out, images=context.held_out.images[:0], labels=context.held_out.labels[:0])
    with pytest.raises(UserError, match=r"--label-epoch 0: the best epoch is found on held-out training images"):
        make(dataclasses.replace(context, held_out=none))
    make(dataclasses.replace(context, held_out=none), label_epoch=1)
    early = dataclasses.replace(context, held_out=none, resources={})  # a task asks before it records experts
    with pytest.raises(UserError, match=r"--label-epoch 0"):
        ExpertLabels.check(ExpertLabelsConfig(), early)
