"""DATM: window, first images and labels, the gradient of the soft labels, skipped steps, refused settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EAGER, TINY, contents, record_digits
from trajectory_context import assert_differentiates, assert_equal, linear, make_context, reference, started

from ddbench.experts.recipe import ExpertRecipe
from ddbench.methods.datm import DATM, DATMConfig
from ddbench.methods.needs.experts import Experts
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.synset import read_synset
from ddbench.training.problem import InnerResult
from ddbench.training.trajectory_losses import first_right, mean_right_logits, window_end


@pytest.fixture(scope="module")
def able(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """Root of a store with experts that know some digits."""
    root = tmp_path_factory.mktemp("able")
    record_digits(root, data_root, ExpertRecipe(epochs=4, lr=0.1, batch=16, augmentation="none"))
    return root


@pytest.fixture
def method(able: Path, data_root: Path, tmp_path: Path) -> Callable[..., Any]:
    """``method(name=value, ...)``: DATM after ``setup``."""
    return lambda **settings: started(DATM, make_context(able, data_root, tmp_path), **settings)


def test_window_grows_as_in_the_public_code():
    """Its formula is written out: ``min(T+, Tcur + int((T+ - Tcur) * it / end))``, in floating point."""
    for first, last, over in ((10, 20, 1000), (30, 50, 2000), (3, 4, 7), (5, 5, 1)):
        for iteration in [*range(0, over + 3, max(1, over // 50)), over - 1, over, 10 * over]:
            wanted = min(last, first + int((last - first) * iteration / over))
            assert window_end(iteration, first, last, over) == wanted
    assert window_end(0, 10, 20, 1000) == 10
    assert [window_end(i, 0, 2, 4) for i in range(6)] == [0, 0, 1, 1, 2, 2]


def test_first_right_takes_them_in_order():
    asked = []

    def tables(*rows: str):
        for row in rows:
            asked.append(row)
            yield torch.tensor([sign == "+" for sign in row])

    assert first_right(tables("-+-++", "+++++"), 2).tolist() == [1, 3]
    assert asked == ["-+-++"], "a second expert was asked though the first gave enough"
    assert first_right(tables("-+-+-", "++---", "-----"), 3).tolist() == [1, 3, 0]
    assert first_right(tables("--+--", "-----"), 4).tolist() == [2, 0, 1, 3], "those nobody gets right come last"
    assert first_right(tables("++"), 0).tolist() == []
    for rows, count in ((["++"], 3), ([], 1)):
        with pytest.raises(ValueError, match=f"{count} of"):
            first_right(tables(*rows), count)


def test_mean_of_the_logits_of_those_that_are_right():
    """Against a plain loop in numpy; a row that nobody classifies right becomes the mean with two entries exchanged."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 40, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (40,), generator=generator)
    logits[:, 7] = torch.tensor([1.0, 3.0, 2.0])
    labels[7] = 0
    made = mean_right_logits(logits, labels)
    assert torch.equal(made[7], torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64))
    lost = 0
    for image, label in enumerate(labels.tolist()):
        rows = [row for row in logits[:, image].numpy() if int(np.argmax(row)) == label]
        wanted = np.mean(rows, axis=0) if rows else np.mean(logits[:, image].numpy(), axis=0)
        lost += not rows
        if rows:
            np.testing.assert_allclose(made[image].numpy(), wanted, rtol=1e-12, atol=0)
        else:
            assert sorted(made[image].tolist()) == pytest.approx(sorted(wanted.tolist()))
    assert lost < 20
    assert torch.equal(made.argmax(1), labels), "every first label says its class"
    assert torch.equal(mean_right_logits(logits[:1], logits[0].argmax(1)), logits[0])


@pytest.mark.parametrize("inner", ["adjoint", "unroll", "higher"])
def test_soft_label_gradient_against_numpy(inner: str, method: Callable):
    """Of images, labels and learning rate, through several steps on batches: a linear student derived by hand."""
    datm = method(inner=inner, student_steps=5)
    segment = linear(datm)
    datm.soft.value = torch.randn(20, 10, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wanted = reference(datm, segment, datm.logits)
    assert_differentiates(wanted)
    assert_equal(datm.inner(datm.problem(segment)), wanted)


def test_first_images_are_classified_right(method: Callable):
    """By the first expert, which here finds enough; the labels are the mean logits of those that are right."""
    datm = method(iterations=1)
    context, labels = datm.context, datm.hard_labels
    assert labels.tolist() == [label for label in range(10) for _ in range(2)]
    everything = datm.expert_logits(datm.store.indices[0], torch.arange(len(context.train)))
    right = torch.bincount(context.train.labels[everything.argmax(1) == context.train.labels], minlength=10)
    assert int(right.sum()) > 500
    said = datm.expert_logits(datm.store.indices[0], datm.images.detach())
    for label in range(10):
        found = int((said[labels == label].argmax(1) == label).sum())
        assert found == min(2, int(right[label])), f"class {label}"
    assert torch.equal(datm.logits.argmax(1), labels)
    both = torch.stack([datm.expert_logits(expert, datm.images.detach()) for expert in datm.store.indices])
    agreed = (both.argmax(2) == labels).all(0)
    assert bool(agreed.any())
    torch.testing.assert_close(datm.logits.detach()[agreed], both.mean(0)[agreed])
    alone = method(iterations=1, label_experts=1)
    one = (both[0].argmax(1) == labels).nonzero()[:, 0]
    torch.testing.assert_close(alone.logits.detach()[one], both[0][one])
    pixels = context.preprocess.apply(context.train.images[context.train.labels == 3])
    assert all(bool((pixels == image).flatten(1).all(1).any()) for image in datm.images.detach()[6:8])


def test_start_epochs_stay_in_the_window(method: Callable):
    datm = method(iterations=40, max_start_epoch=3, min_start_epoch=1, first_end=2, growth=20, expert_epochs=1)
    drawn = [datm.draw_segment(iteration).start_epoch for iteration in range(40)]
    assert set(drawn[:20]) == {1}, "the end is 2 until it has grown by a whole epoch"
    assert set(drawn[20:]) == {1, 2}
    assert {method(iterations=1).draw_segment(i).start_epoch for i in range(20)} == {0, 1}, "off: T+ from the start"


def test_bad_steps_are_skipped(method: Callable):
    """Nothing moves, momenta included, and it is counted; the next good step is taken."""
    datm = method(lr_labels=0.5)
    datm.step(0)
    before = {name: tensor.clone() for name, tensor in datm.state().tensors.items()}
    assert {"images", "raw_lr", "logits", "label_momentum.0", "image_momentum.0"} <= set(before)
    result: InnerResult = datm.inner(datm.problem(datm.draw_segment(1)))
    datm.config = dataclasses.replace(datm.config, skip_above=float(result.loss) * 0.999)
    assert datm.step(1)["skipped"] == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in datm.state().tensors.items())
    assert datm.state().values == {"skipped": 1}
    datm.config = dataclasses.replace(datm.config, skip_above=float(result.loss))
    assert datm.step(1)["skipped"] == 0, "a loss of the threshold itself is taken, as in the public code"
    assert not torch.equal(before["logits"], datm.logits)


def test_labels_are_moved_by_sgd_with_momentum(method: Callable):
    """Two steps, against the update written out."""
    datm = method(lr_labels=3.0, momentum_labels=0.7, skip_above=100.0, iterations=2)
    logits, velocity = datm.logits.detach().clone(), torch.zeros(20, 10)
    for iteration in range(2):
        gradient = datm.inner(datm.problem(datm.draw_segment(iteration))).labels
        velocity = 0.7 * velocity + gradient
        logits = logits - 3.0 * velocity
        datm.step(iteration)
        torch.testing.assert_close(datm.logits.detach(), logits)
    assert torch.equal(datm.distilled().labels, datm.logits.detach())


def test_fewer_experts_than_are_to_label_is_said(able: Path, data_root: Path, tmp_path: Path, capsys: Any):
    context = dataclasses.replace(make_context(able, data_root, tmp_path), console=Console())
    count = len(context.given(Experts).experts)
    for asked, told in ((count + 1, True), (count, False), (0, False)):
        DATM.check(DATMConfig(max_start_epoch=2, expert_epochs=2, label_experts=asked), context)
        words = f"--label-experts {asked}: {context.given(Experts).folder} has {count} expert"
        assert (words in capsys.readouterr().err) is told


def test_most_steps_skipped_is_said(method: Callable, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    datm = method(skip_above=1e-9, iterations=3)
    monkeypatch.setattr(datm.context.console, "say", said.append)
    for iteration in range(3):
        datm.step(iteration)
    assert len(said) == 1
    assert "3 of 3 steps had a matching loss above --skip-above 1e-09" in said[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first_end": 3}, "--first-end 3: expected 0, or more than --min-start-epoch 0 and at most"),
        ({"first_end": 1, "min_start_epoch": 1}, "--first-end 1: expected 0, or more than --min-start-epoch 1"),
        ({"first_end": -1}, "--first-end -1"),
        ({"growth": 0}, "--growth 0: expected a positive number"),
        ({"skip_above": 0.0}, "--skip-above 0.0: expected a positive number"),
        ({"skip_above": float("nan")}, "--skip-above nan"),
        ({"lr_labels": -1.0}, "--lr-labels -1.0"),
        ({"momentum_labels": 1.0}, "--momentum-labels 1.0: expected a number from 0 to below 1"),
        ({"label_experts": -1}, "--label-experts -1"),
        ({"max_start_epoch": 4}, "needs experts of at least 5 epochs .* have 4: lower --max-start-epoch to 3, or"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str, method: Callable):
    with pytest.raises(UserError, match=message):
        method(**settings)


def test_experts_of_another_kind(refused: Callable, buffers: Path, tmp_path: Path):
    """One line, with the command that records those that are asked for."""
    line = refused(
        [
            *("distill", "--method", "datm", "--dataset", "digits", "--ipc", 1, "--student", TINY, "--recipe", "none"),
            *("--buffers", buffers, "--out", tmp_path / "run", *EAGER),
        ],
        "holds sgd experts, datm asks for gsam",
        "record them with: ddbench buffer --dataset digits",
    )
    assert "--kind gsam" in line


def test_delivered_labels_are_logits(ddb: Callable, buffers: Path, tmp_path: Path):
    """From the command line: the synset is soft, scored with soft-v1, and a repeated run gives the same bytes."""
    experts = ["buffer", "--dataset", "digits", "--student", TINY, "--experts", 1, "--epochs", 4, "--kind", "gsam"]
    assert ddb(*experts, "--buffers", buffers, "--quiet", *EAGER, "--workers", 1).code == 0
    for name in ("one", "two"):
        made = ddb(
            *("distill", "--method", "datm", "--dataset", "digits", "--ipc", 1, "--student", TINY),
            *("--recipe", "none", "--iterations", 3, "--student-steps", 2, "--expert-epochs", 1),
            *("--max-start-epoch", 2, "--lr-images", 1, "--buffers", buffers, "--out", tmp_path / name),
            *("--quiet", *EAGER),
        )
        assert made.code == 0, made.err
    assert contents(tmp_path / "one", "cost.json") == contents(tmp_path / "two", "cost.json")
    synset = read_synset(tmp_path / "one" / "synset.safetensors")
    assert (synset.label_kind, tuple(synset.labels.shape)) == ("soft", (10, 10))
    assert DATMConfig().skip_above == synset.config["skip_above"]
    score = ddb(
        *("evaluate", tmp_path / "one", "--protocol", "soft-v1", "--students", TINY, "--seeds", 1, "--epochs", 2),
        *("--workers", 1, "--max-images", 50, "--quiet", *EAGER),
    )
    assert score.code == 0, score.err
