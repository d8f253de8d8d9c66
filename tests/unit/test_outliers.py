"""Other data: the scores against scikit-learn and by hand, what is refused, and the way to the board."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from robust_student import digits, student, trained
from sklearn.metrics import roc_auc_score

from ddbench.data.dataset import Split
from ddbench.measurements.outliers import (
    OutlierProbe,
    OutlierSuite,
    auroc,
    confidence,
    false_positives,
    noise,
    outlier_suite,
)
from ddbench.measurements.suite import Choice
from ddbench.protocols.training import split_to_test
from ddbench.runtime.errors import UserError


def test_auroc_is_that_of_scikit_learn():
    draws = np.random.default_rng(0)
    inside, outside = np.round(draws.normal(0.5, 1, 300), 1), np.round(draws.normal(0, 1, 200), 1)
    assert len(set(inside) & set(outside)) > 10, "ties"
    expected = roc_auc_score([1] * 300 + [0] * 200, np.concatenate([inside, outside]))
    assert auroc(inside, outside) == pytest.approx(expected, abs=1e-12)
    assert auroc(inside, inside) == 0.5
    assert auroc(np.array([2.0, 3.0]), np.array([1.0])) == 1.0
    assert auroc(np.array([1.0]), np.array([2.0, 3.0])) == 0.0


def test_false_positives_by_hand():
    inside = np.arange(1.0, 21.0)  # 95 % of twenty: all but the lowest; the threshold is 2
    assert false_positives(inside, np.array([1.9, 2.0, 30.0, -1.0])) == 0.5
    assert false_positives(np.array([1.0]), np.array([0.5])) == 0.0
    assert false_positives(np.ones(7), np.ones(3)) == 1.0
    for count in (1, 7, 100, 500):
        scores = np.random.default_rng(count).permutation(count).astype(float)
        assert count * false_positives(scores, scores) == np.ceil(0.95 * count)


def test_confidence_tells_apart_what_rounds_to_one():
    logits = torch.tensor([[40.0, 0.0, -5.0], [50.0, 0.0, -5.0], [0.0, 0.0, 0.0]])
    found = confidence(logits)
    assert found[0] < found[1] < 0
    assert found[2] == pytest.approx(-np.log(3))
    random = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(found := confidence(random), random.double().log_softmax(1).amax(1).numpy(), rtol=1e-6)
    assert found.dtype == np.float64


def test_noise_is_always_the_same():
    state = torch.get_rng_state()
    made = noise(20, (1, 8, 8))
    assert made.dtype == torch.uint8
    assert made.shape == (20, 1, 8, 8)
    assert torch.equal(made, noise(20, (1, 8, 8)))
    assert 100 < float(made.float().mean()) < 155
    assert torch.equal(torch.get_rng_state(), state)


def test_a_student_knows_digits_from_noise():
    probe = OutlierProbe(other="noise", root=None, images=60)
    found = probe.measure(trained(student()))
    assert found.metrics["ood_auroc"] > 0.8
    assert 0 <= found.metrics["ood_fpr95"] < 0.9
    assert found == pickle.loads(pickle.dumps(probe)).measure(trained(student()))


def test_outliers_are_balanced_over_the_classes():
    """As many of each class of the other data, whatever comes first there; here more than fit in equal shares."""
    measured, seen = trained(student(), 60), []

    def watched(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return measured.logits(images)

    probe = OutlierProbe(other="digits", root=None, images=23, fingerprint=digits().fingerprint)
    probe.measure(replace(measured, logits=watched))
    inside, outside = seen
    assert torch.equal(inside, measured.test.images)
    test = digits().test
    labels = [int(test.labels[(test.images == image).all((1, 2, 3))].unique()) for image in outside]
    assert np.bincount(labels).tolist() == [3, 3, 3, *[2] * 7]
    assert np.bincount(test.labels[:23], minlength=10).tolist() != np.bincount(labels).tolist()


def test_other_data_that_changed_are_refused():
    """They are read again by each worker, and told by the fingerprint that they had at first."""
    probe = OutlierProbe(other="digits", root=None, images=23, fingerprint="0" * 64)
    with pytest.raises(UserError, match=r"^dataset digits: its images changed since the command began"):
        probe.measure(trained(student(), 60))


def test_both_sides_are_enlarged_alike(monkeypatch: pytest.MonkeyPatch):
    """Where a protocol tests images enlarged and cut (RDED), images are not told from themselves."""
    plan: Any = SimpleNamespace(protocol=SimpleNamespace(test_zoom=True))
    images = torch.randint(256, (30, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    raw = Split(images, torch.zeros(30, dtype=torch.int64))
    subject: Any = SimpleNamespace(
        plan=plan, test=split_to_test(plan, raw), logits=lambda images: images.flatten(1)[:, 300:310].float() / 100
    )
    probe = OutlierProbe(other="itself", root=None, images=30)
    monkeypatch.setattr(OutlierProbe, "_others", lambda *_: raw)
    assert probe.measure(subject).metrics["ood_auroc"] == 0.5


class Plan:
    """As much of a plan as the builder looks at."""

    def __init__(self, channels: int = 1, size: int = 8) -> None:
        self.synset = SimpleNamespace(images=torch.zeros(1, channels, size, size))
        self.protocol = SimpleNamespace(test_zoom=False)


def build(other: str, dataset: Any = None, **shape: int) -> OutlierSuite:
    choice = Choice(kind="ood", other=other, max_images=40)
    return outlier_suite(choice, Plan(**shape), dataset or digits())  # type: ignore[arg-type, return-value]


def test_builder():
    made = build("noise")
    assert (made.images, made.other_images, made.fingerprint) == (40, 40, "")
    assert pickle.loads(pickle.dumps(made)) == made
    assert made.settings["other"] == "noise"
    for other, needle in (
        ("digits", "this dataset itself"),
        ("mnist", r"1 x 28 x 28, the synset's 1 x 8 x 8"),
        ("cifar10", "3 x 32 x 32"),
        ("mnst", "did you mean 'mnist'"),
        ("folder:/tmp", "a folder"),
        ("noice", "did you mean 'noise'"),
    ):
        with pytest.raises(UserError, match=needle):
            build(other)


def test_another_dataset(data_root: Path, monkeypatch: pytest.MonkeyPatch):
    """Its test images, class-balanced, through the student's own preprocess; the digits stand for another dataset."""
    from ddbench.data.load import load_dataset
    from ddbench.measurements import outliers

    asked: list[str] = []

    def loaded(name: str, root: Path | None, *, size: int | None) -> Any:
        asked.append(name)
        return load_dataset("digits", root)

    spec = SimpleNamespace(channels=1, size=8, resizable=False)
    monkeypatch.setattr(outliers, "load_dataset", loaded)
    monkeypatch.setattr(outliers, "dataset_spec", lambda name: spec)
    made = build("mnist")
    assert (made.other_images, made.fingerprint) == (40, digits().fingerprint)
    (probe,) = made.probes
    found = probe.measure(trained(student(), 500))
    assert asked == ["mnist", "mnist"]
    assert found.metrics["ood_auroc"] == pytest.approx(0.5, abs=0.1), "both are digits"


def test_a_folder_called_like_a_dataset_is_no_run(
    refused: Callable, random_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    refused(["evaluate", random_run, "--ood", "mnist"], "--ood mnist: its images are 1 x 28 x 28")
    refused(["evaluate", random_run, "--ood", "folder:/tmp"], "--ood folder:/tmp: a folder")


def test_from_the_command_line_to_the_board(ddb: Callable, random_run: Path, tmp_path: Path):
    from test_measurements import command

    out = tmp_path / "score.json"
    assert ddb(*command(random_run, "--ood", "--max-images", 50, "--out", out)).code == 0
    data = json.loads(out.read_text())
    assert data["measured"]["ood"]["images"] == 50
    assert data["protocol"]["changed"] == {"epochs": 20, "full_epochs": 20}
    for run in data["runs"]:
        assert 0 <= run["metrics"]["ood_auroc"] <= 1
    own = tmp_path / "quick.toml"
    own.write_text('name = "quick-3"\nbase = "hard-v1"\nepochs = 4\nfull_epochs = 1\nlr = 0.02\n')
    argv = [part for part in command(random_run, "--protocol", own, "--ood", "noise") if part not in ("--epochs", 20)]
    assert ddb(*argv).code == 0
    board = tmp_path / "board"
    assert ddb("submit", random_run, "--protocol", "quick-3", "--leaderboard", board).code == 0
    assert ddb("leaderboard", "build", "--leaderboard", board).code == 0
    assert "OOD AUROC" in (board / "LEADERBOARD.md").read_text()
    verify = ("leaderboard", "verify", "--measured", "--leaderboard", board, "--work", tmp_path / "work")
    result = ddb(*verify, "--compile", "off")
    assert "OOD AUROC" in result.out
    assert "quick-3: identical" in result.out
