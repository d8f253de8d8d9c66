"""GUARD's penalties against closed forms, and teachers that are trained with them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ddbench.data.dataset import Dataset
from ddbench.data.load import load_dataset
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash
from ddbench.runtime.progress import Console
from ddbench.teachers.recipe import PENALTY_WEIGHTS, TeacherRecipe
from ddbench.teachers.store import Teacher, find_teacher, penalty_of, read_teacher
from ddbench.teachers.train import ensure_teacher, train_teacher
from ddbench.training.curvature import PENALTIES, ascent_step, curvature_penalty, loss_gap_penalty

STUDENT = "convnet-d1-w4-bn"
N, D, K, LENGTH = 5, 6, 4, 3.0


@pytest.fixture(scope="module")
def linear() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs ``(N, D)``, weights ``(K, D)`` and labels of a softmax regression."""
    randomness = np.random.default_rng(3)
    return randomness.normal(size=(N, D)), randomness.normal(size=(K, D)), randomness.integers(K, size=N)


def reference(kind: str, x: np.ndarray, weights: np.ndarray, labels: np.ndarray, real: np.ndarray) -> Any:
    """Both penalties of softmax regression by hand; ``weights`` may be complex, the step is that of ``real`` ones.

    The input gradient of the mean cross-entropy is ``W' (p - onehot) / N``.
    """

    def probabilities(inputs: np.ndarray, w: np.ndarray) -> np.ndarray:
        raised = np.exp(inputs @ w.T)
        return raised / raised.sum(1, keepdims=True)

    def loss(inputs: np.ndarray) -> Any:
        return -np.log(probabilities(inputs, weights)[np.arange(N), labels]).mean()

    gradient = (probabilities(x, real) - np.eye(K)[labels]) @ real / N
    step = LENGTH * (gradient + 1e-7) / (np.sqrt((gradient**2).sum(1, keepdims=True)) + 1e-7)
    if kind == "loss-gap":
        gap = loss(x + step) - loss(x)
        return gap * np.sign(gap.real)
    change = (probabilities(x + step, weights) - probabilities(x, weights)) @ weights / N
    return np.sqrt((change**2).sum(1)).mean()


@pytest.mark.parametrize("kind", PENALTIES)
def test_value_and_gradient(kind: str, linear: tuple[np.ndarray, np.ndarray, np.ndarray]):
    """Against float64 by hand; its derivative in the weights by complex steps, exact to rounding."""
    x, weights, labels = linear
    w = torch.tensor(weights, requires_grad=True)
    y = torch.tensor(labels)
    value = PENALTIES[kind](lambda z: F.cross_entropy(z @ w.T, y), torch.tensor(x), LENGTH)
    assert value.shape == ()
    assert float(value.detach()) == pytest.approx(float(reference(kind, x, weights, labels, weights)), abs=1e-10)
    (gradient,) = torch.autograd.grad(value, w)
    expected = np.empty_like(weights)
    for index in np.ndindex(*weights.shape):
        shifted = weights.astype(complex)
        shifted[index] += 1e-30j
        expected[index] = reference(kind, x, shifted, labels, weights).imag / 1e-30
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=0, atol=1e-10)


def test_forms_differ(linear: tuple[np.ndarray, np.ndarray, np.ndarray]):
    x, weights, labels = linear
    one, two = (float(reference(kind, x, weights, labels, weights)) for kind in PENALTIES)
    assert abs(one - two) > 0.1


def test_sum_in_place_of_mean(linear: tuple[np.ndarray, np.ndarray, np.ndarray]):
    """Not squared: the loss of a mean over N images has 1/N of the curvature of that of a sum, at the same step."""
    x, weights, labels = (torch.tensor(part) for part in linear)
    mean, total = (
        curvature_penalty(lambda z, how=how: F.cross_entropy(z @ weights.T, labels, reduction=how), x, LENGTH).item()
        for how in ("mean", "sum")
    )
    assert total == pytest.approx(N * mean, rel=1e-5), "the step's 1e-7 is all that differs"


def test_ascent_step():
    """Of length h in the direction of the gradient; where there is none, h in every coordinate."""
    gradient = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]], dtype=torch.float64)
    step = ascent_step(gradient, 2.0)
    assert torch.allclose(step[0], torch.tensor([[1.2, 1.6]], dtype=torch.float64), atol=1e-6)
    assert torch.equal(step[1], torch.full((1, 2), 2.0, dtype=torch.float64))


def test_a_linear_loss_has_no_curvature_but_a_gap():
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    x = torch.ones(3, 2, dtype=torch.float64)

    def loss(z: torch.Tensor) -> torch.Tensor:
        return (z @ weights).mean()

    assert float(curvature_penalty(loss, x, 0.5).detach()) == 0
    assert float(loss_gap_penalty(loss, x, 0.5).detach()) == pytest.approx(0.5 * 5**0.5, rel=1e-6)


# Teachers


@pytest.fixture(scope="module")
def digits(data_root: Path) -> Dataset:
    return load_dataset("digits", data_root)


@pytest.fixture(scope="module")
def train(digits: Dataset, data_root: Path) -> Callable[..., Teacher]:
    """``train(root, **fields)``: a tiny teacher."""

    def call(root: Path, **fields: Any) -> Teacher:
        return train_teacher(
            root=root,
            dataset=digits,
            data=data_root,
            student=STUDENT,
            recipe=TeacherRecipe(**{"epochs": 3, "batch": 64, **fields}),
            device="cpu",
            threads=1,
            compile="off",
            console=Console(quiet=True),
        )

    return call


@pytest.fixture(scope="module")
def plain(train: Callable[..., Teacher], tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return train(tmp_path_factory.mktemp("plain"))


def test_recipes_without_a_penalty_are_as_before(digits: Dataset):
    """Their records and the names of their files say nothing of it."""
    recipe = TeacherRecipe()
    record = {
        "epochs": 30,
        "optimizer": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "options": {},
        "batch": 128,
        "schedule": "cosine",
        "warmup": 0,
        "augmentation": "crop+flip",
        "preprocess": "meanstd",
        "holdout": 0.1,
        "seed": 0,
        "precision": "float32",
    }
    assert recipe.to_json() == record
    named = text_hash({"recipe": record, "student": STUDENT, "fingerprint": digits.fingerprint})[:12]
    assert recipe.key(STUDENT, digits.fingerprint) == named
    assert TeacherRecipe(penalty="curvature").key(STUDENT, digits.fingerprint) != named


@pytest.mark.parametrize("kind", PENALTIES)
def test_record_of_a_penalty(kind: str):
    """The weight is written out, so that the default and its number are the same teacher."""
    record = TeacherRecipe(penalty=kind).to_json()
    assert penalty_of(record) == {"penalty": kind, "penalty_weight": PENALTY_WEIGHTS[kind], "penalty_step": 3.0}
    assert record == TeacherRecipe(penalty=kind, penalty_weight=PENALTY_WEIGHTS[kind]).to_json()


@pytest.mark.parametrize("kind", PENALTIES)
def test_a_vanishing_penalty_changes_nothing(kind: str, train: Callable[..., Teacher], plain: Teacher, tmp_path: Path):
    """So it is the loss that is added to, and the penalty leaves running statistics alone."""
    teacher = train(tmp_path, penalty=kind, penalty_weight=1e-30)
    for name, tensor in teacher.network("cpu").state_dict().items():
        assert torch.equal(tensor, plain.network("cpu").state_dict()[name]), name


def measure(kind: str, teacher: Teacher, digits: Dataset) -> float:
    """The penalty of a teacher on real images."""
    net = teacher.network("cpu")
    images = (digits.train.images[:128].float() / 255 - teacher.preprocess["mean"][0]) / teacher.preprocess["std"][0]
    labels = digits.train.labels[:128]
    return float(PENALTIES[kind](lambda x: F.cross_entropy(net(x), labels), images, 0.5).detach())


@pytest.mark.parametrize(("kind", "weight"), [("curvature", 30.0), ("loss-gap", 1.0)])
def test_a_penalty_flattens(
    kind: str, weight: float, train: Callable[..., Teacher], plain: Teacher, digits: Dataset, tmp_path: Path
):
    teacher = train(tmp_path, penalty=kind, penalty_weight=weight, penalty_step=0.5)
    assert measure(kind, teacher, digits) < 0.7 * measure(kind, plain, digits)


def test_training_with_a_penalty_goes_on(
    train: Callable[..., Teacher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ddbench.teachers import train as teach

    monkeypatch.setattr(teach, "CHECKPOINT_SECONDS", 0.0)
    whole = train(tmp_path / "whole", penalty="curvature", penalty_weight=3.0)
    save = teach._Progress.save

    def dying(self: Any, epochs: int) -> None:
        save(self, epochs)
        if epochs == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(teach._Progress, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", penalty="curvature", penalty_weight=3.0)
    monkeypatch.setattr(teach._Progress, "save", save)
    killed = train(tmp_path / "killed", penalty="curvature", penalty_weight=3.0)
    assert killed.path.read_bytes() == whole.path.read_bytes()


def test_only_who_asks_for_a_penalty_gets_one(
    train: Callable[..., Teacher], plain: Teacher, digits: Dataset, data_root: Path, tmp_path: Path
):
    flat = train(tmp_path, penalty="loss-gap")
    assert find_teacher(tmp_path, dataset="digits") is None
    found = find_teacher(tmp_path, sha256=flat.sha256)
    assert found is not None, "by its hash it is found whatever it was trained with"
    wanted = penalty_of(flat.recipe)
    assert find_teacher(tmp_path, penalty=wanted) == flat
    assert find_teacher(tmp_path, penalty={**wanted, "penalty_step": 1.0}) is None
    shutil.copy(plain.path, flat.path.parent)
    assert find_teacher(tmp_path, dataset="digits") == read_teacher(flat.path.parent / plain.path.name)
    kept = ensure_teacher(
        root=tmp_path,
        dataset=digits,
        data=data_root,
        student=STUDENT,
        preprocess_kind="meanstd",
        holdout=0.1,
        device="cpu",
        threads=1,
        compile="off",
        console=Console(quiet=True),
        penalty=wanted,
    )
    assert kept == flat


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"penalty": "curvatur"}, "did you mean 'curvature'"),
        ({"penalty": "curvature", "penalty_weight": 0.0}, "--penalty-weight 0.0: expected a positive number"),
        ({"penalty": "curvature", "penalty_weight": float("nan")}, "--penalty-weight nan"),
        ({"penalty": "loss-gap", "penalty_step": -1.0}, "--penalty-step -1"),
        ({"penalty_weight": 3.0}, "belong to a penalty: give --penalty curvature or loss-gap"),
        ({"penalty_step": 1.0}, "belong to a penalty"),
    ],
)
def test_refused(fields: dict[str, Any], match: str):
    with pytest.raises(UserError, match=match):
        dataclasses.replace(TeacherRecipe(), **fields).check()


def test_command_line(ddb: Callable, refused: Callable, tmp_path: Path):
    refused(["teacher", "--penalty-weight", 2, "--teachers", tmp_path / "t"], "--penalty-weight", "--penalty curvature")
    argv = ["teacher", "--student", STUDENT, "--epochs", 1, "--teachers", tmp_path, "--compile", "off", "--threads", 1]
    assert ddb(*argv, "--penalty", "curvature", "--penalty-weight", 2, "--penalty-step", 0.5).code == 0
    (path,) = tmp_path.glob("*/*/*.safetensors")
    assert penalty_of(read_teacher(path).recipe) == {
        "penalty": "curvature",
        "penalty_weight": 2.0,
        "penalty_step": 0.5,
    }
    assert ddb(*argv).code == 0
    head, *rows = ddb("teacher", "info", tmp_path).out.splitlines()
    assert "penalty" in head.split()
    column = head.split().index("penalty")
    assert sorted(row.split()[column] for row in rows) == ["-", "curvature"]
