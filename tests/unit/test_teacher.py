"""Teachers: the file, what is trained on, resuming, finding and checking them, and methods that need one."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from conftest import PATIENCE, contents, held_out_mask, listing, negative
from safetensors.torch import load_file, save_file

from ddbench.data.dataset import Dataset, holdout_split
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.distillation.runner import RunSettings, distill
from ddbench.methods.base import Distilled, Method
from ddbench.methods.needs.flags import TeacherFlags
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.networks.build import build_student
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.synset import read_synset
from ddbench.teachers import train as teach
from ddbench.teachers.recipe import TeacherRecipe
from ddbench.teachers.store import (
    Teacher,
    check_teacher,
    default_teacher,
    find_teacher,
    read_teacher,
    teacher_file,
    teacher_files,
)
from ddbench.teachers.train import ensure_teacher, train_teacher

STUDENT = "convnet-d1-w4-bn"
RECIPE = TeacherRecipe(epochs=4, augmentation="crop")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(data_root: Path) -> Dataset:
    return load_dataset("digits", data_root)


@pytest.fixture
def make(digits: Dataset, data_root: Path) -> Callable[..., Teacher]:
    """``make(root, recipe)`` trains a teacher of digits."""

    def call(
        root: Path,
        recipe: TeacherRecipe = RECIPE,
        student: str = STUDENT,
        dataset: Dataset = digits,
        quiet: bool = True,
    ) -> Teacher:
        return train_teacher(
            root=root,
            dataset=dataset,
            data=data_root,
            student=student,
            recipe=recipe,
            device="cpu",
            threads=1,
            compile="off",
            console=Console(quiet=quiet),
        )

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Dataset, data_root: Path) -> Path:
    """Root with one teacher; copy its bytes before changing them."""
    root = tmp_path_factory.mktemp("teachers")
    train_teacher(
        root=root,
        dataset=digits,
        data=data_root,
        student=STUDENT,
        recipe=RECIPE,
        device="cpu",
        threads=1,
        compile="off",
        console=Console(quiet=True),
    )
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A copy of the root with one teacher."""
    return Path(shutil.copytree(trained, tmp_path / "teachers"))


@pytest.fixture
def path(root: Path) -> Path:
    """The teacher's file in the copy."""
    return teacher_files(root)[0]


def header_of(path: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The safetensors header, ddbench's inside it, and the tensors' bytes."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    outer = json.loads(raw[8 : 8 + length])
    return outer, json.loads(outer["__metadata__"]["ddbench"]), raw[8 + length :]


def rewrite(path: Path, out: Path | None = None, **fields: Any) -> Path:
    """Put other fields into ddbench's header (None removes one); the tensors stay."""
    _, inner, _ = header_of(path)
    inner = {name: value for name, value in {**inner, **fields}.items() if value is not None}
    target = out or path
    save_file(load_file(path), target, metadata={"ddbench": json.dumps(inner)})
    return target


def tensors_changed(path: Path, **tensors: torch.Tensor | None) -> None:
    _, inner, _ = header_of(path)
    whole = {**load_file(path), **{name.replace("__", "."): value for name, value in tensors.items()}}
    kept = {name: value for name, value in whole.items() if value is not None}
    save_file(kept, path, metadata={"ddbench": json.dumps(inner)})


# The file


def test_file(root: Path, path: Path, digits: Dataset):
    _, header, _ = header_of(path)
    assert path == teacher_file(root, "digits", STUDENT, RECIPE.key(STUDENT, digits.fingerprint))
    assert (header["kind"], header["schema"]) == ("ddbench-teacher", 1)
    assert set(header) == {
        *("kind", "schema", "dataset", "dataset_fingerprint", "class_names", "student", "shape", "preprocess"),
        *("recipe", "seed", "curves", "test_accuracy", "versions"),
    }
    assert header["recipe"] == json.loads(json.dumps(RECIPE.to_json()))
    assert {name: len(curve) for name, curve in header["curves"].items()} == {
        "loss": 4,
        "train_accuracy": 4,
        "holdout_accuracy": 4,
    }
    assert header["curves"]["loss"][-1] < header["curves"]["loss"][0]
    net = build_student(STUDENT, channels=1, size=8, classes=10, seed=0)
    stored = load_file(path)
    assert {name: t.shape for name, t in stored.items()} == {name: t.shape for name, t in net.state_dict().items()}
    text = json.dumps(header)
    assert "seconds" not in text
    assert str(root) not in text


def test_what_is_read_back(path: Path, digits: Dataset):
    teacher = read_teacher(path)
    assert (teacher.student, teacher.dataset, teacher.fingerprint) == (STUDENT, "digits", digits.fingerprint)
    assert (teacher.class_names, teacher.shape) == (digits.spec.class_names, (1, 8, 8))
    assert teacher.preprocess == fit_preprocess(digits, "meanstd").to_json()
    assert teacher.holdout == 0.1
    assert teacher.accuracy == header_of(path)[1]["curves"]["holdout_accuracy"][-1]
    # 1 -> 4 channels by 3x3 with bias, scale and shift of 4, then 4 * 4 * 4 inputs to 10 classes
    assert teacher.parameters == (9 * 4 + 4) + 8 + (64 * 10 + 10)
    assert teacher.bytes == 4 * (teacher.parameters + 8), "running mean and variance of 4 channels"
    assert teacher.reference() == {
        "sha256": teacher.sha256,
        "student": STUDENT,
        "dataset_fingerprint": digits.fingerprint,
        "test_accuracy": teacher.test_accuracy,
    }


def test_network_has_the_accuracies_of_the_file(path: Path, digits: Dataset):
    teacher = read_teacher(path)
    net = teacher.network("cpu")
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    mean, std = digits.spec.mean[0], digits.spec.std[0]
    held_out = holdout_split(digits.train, 0.1, 10)[1]
    for split, said in ((digits.test, teacher.test_accuracy), (held_out, teacher.accuracy)):
        right = net((split.images / 255 - mean) / std).argmax(1) == split.labels
        assert float(right.double().mean()) == pytest.approx(said, abs=1e-6)
    assert teacher.test_accuracy > 0.5


def test_file_that_changed_since_it_was_read(path: Path):
    teacher = read_teacher(path)
    rewrite(path, test_accuracy=0.99)
    with pytest.raises(UserError, match="changed since it was read"):
        teacher.network("cpu")
    path.unlink()
    with pytest.raises(UserError, match="cannot read this teacher"):
        teacher.network("cpu")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not a whole safetensors file"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
    "foreign": (lambda path: save_file({"w": torch.zeros(2)}, path), "ddbench did not write"),
    "other kind": (lambda path: rewrite(path, kind="ddbench-synset"), "a ddbench-synset file, expected ddbench-teach"),
    "newer": (lambda path: rewrite(path, schema=2), "schema 2 was made by a newer ddbench"),
    "nan": (lambda path: tensors_changed(path, classifier__bias=torch.full((10,), math.nan)), "classifier.bias holds"),
    "lacks a tensor": (lambda path: tensors_changed(path, classifier__bias=None), "has no tensor 'classifier.bias'"),
    "one too many": (lambda path: tensors_changed(path, extra=torch.zeros(1)), "holds a tensor 'extra' that"),
    "shape": (lambda path: tensors_changed(path, classifier__bias=torch.zeros(9)), r"classifier.bias is F32\[9\]"),
    "dtype": (lambda path: tensors_changed(path, classifier__bias=torch.zeros(10).half()), r"is F16\[10\]"),
    "other student": (lambda path: rewrite(path, student="convnet-d1-w8-bn"), r"expected|has F32\["),
    "unknown student": (lambda path: rewrite(path, student="convnt"), "unknown student 'convnt'"),
    "too deep": (lambda path: rewrite(path, student="convnet-d8-w4-bn"), "poolings leave no pixel"),
    "huge": (lambda path: rewrite(path, student="vit-d32-w4096", shape=[16, 1024, 1024]), "not those of vit-d32"),
    "no classes": (lambda path: rewrite(path, class_names=None), "'class_names' is missing"),
    "class": (lambda path: rewrite(path, class_names=["a", 3]), "'class_names' holds 2 entries"),
    "fewer classes": (lambda path: rewrite(path, class_names=list("abc")), r"classifier.weight is F32\[10, 64\]"),
    "sides": (lambda path: rewrite(path, shape=[1, 8, 9]), r"'shape' is \[1, 8, 9\]"),
    "no shape": (lambda path: rewrite(path, shape="8"), "'shape' is missing or not a list"),
    "accuracy": (lambda path: rewrite(path, test_accuracy=98.5), "'test_accuracy' is 98.5, expected a fraction"),
    "no accuracy": (lambda path: rewrite(path, test_accuracy=None), "'test_accuracy' is None"),
    "curves": (lambda path: rewrite(path, curves={}), "holdout_accuracy' is missing"),
    "recipe": (lambda path: rewrite(path, recipe=None), "'recipe' is missing"),
    "std": (lambda path: rewrite(path, preprocess={"kind": "meanstd", "mean": [0.1], "std": [0.0]}), "std 0.0"),
    "channels": (lambda path: rewrite(path, preprocess={"kind": "meanstd", "mean": [0] * 3, "std": [1] * 3}), "of 3"),
    "zca": (lambda path: rewrite(path, preprocess={"kind": "zca", "dims": [3, 8, 8]}), r"a ZCA of images \[3, 8, 8\]"),
    "preprocess": (lambda path: rewrite(path, preprocess={}), "neither 'meanstd' nor 'zca'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_file(name: str, path: Path):
    damage, message = DAMAGE[name]
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        read_teacher(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_file_cut_anywhere_or_with_any_byte_changed(path: Path):
    """Whatever is done to the bytes, reading gives a teacher or a UserError: no other exception."""
    raw = path.read_bytes()
    for cut in range(0, len(raw), 97):
        path.write_bytes(raw[:cut])
        with pytest.raises(UserError):
            read_teacher(path)
    changed = 0
    for place in range(0, len(raw), 31):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x15]) + raw[place + 1 :])
        try:
            read_teacher(path).network("cpu")
        except UserError:
            changed += 1
    assert changed > 20


# Training


def test_against_a_plain_loop_in_double_precision(make: Callable, digits: Dataset, tmp_path: Path):
    """Weights of two epochs of SGD with momentum, decay and cosine, against torch's own optimiser and scheduler."""
    recipe = TeacherRecipe(epochs=2, augmentation="none", lr=0.1, momentum=0.9, weight_decay=0.01, batch=64)
    found = load_file(make(tmp_path, recipe).path)
    split = holdout_split(digits.train, 0.1, 10)[0]
    x = (split.images.double() / 255 - digits.spec.mean[0]) / digits.spec.std[0]
    seed = seeds.derive(0, "teacher")
    net = build_student(STUDENT, channels=1, size=8, classes=10, seed=seed).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    for epoch in range(2):
        order = torch.randperm(len(x), generator=seeds.generator(seed, "order", epoch))
        for index in order.split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[index]), split.labels[index]).backward()
            optimizer.step()
        schedule.step()
    for name, tensor in net.state_dict().items():
        assert torch.allclose(found[name].double(), tensor.double(), atol=2e-4), name


def test_precision(make: Callable, tmp_path: Path):
    whole, half = (
        load_file(make(tmp_path / name, replace(RECIPE, epochs=1, precision=name)).path)["classifier.weight"]
        for name in ("float32", "bfloat16")
    )
    assert 0 < float((half - whole).abs().max()) < 0.05


def test_schedules():
    recipe = TeacherRecipe(epochs=10)
    factors = [recipe.factor(epoch) for epoch in range(10)]
    assert factors[0] == 1
    assert factors[5] == pytest.approx(0.5)
    assert recipe.factor(10) == pytest.approx(0)
    assert factors == sorted(factors, reverse=True)
    assert [replace(recipe, schedule="constant").factor(epoch) for epoch in range(10)] == [1.0] * 10
    warm = replace(recipe, warmup=4)
    assert [warm.factor(epoch) for epoch in range(5)] == pytest.approx([0.01, 0.2575, 0.505, 0.7525, 1.0])
    assert warm.factor(7) == pytest.approx(0.5)


def test_held_out_images_are_never_seen(make: Callable, digits: Dataset, tmp_path: Path):
    """Other pixels in the held-out images change no weight, other pixels elsewhere do."""
    held = held_out_mask(digits)
    whole = load_file(make(tmp_path / "whole").path)
    for name, marked, same in (("held", held, True), ("seen", ~held, False)):
        found = load_file(make(tmp_path / name, dataset=negative(digits, marked)).path)
        assert all(torch.equal(found[key], whole[key]) for key in whole) == same


def test_test_images_are_looked_at_once_and_change_no_weight(
    make: Callable, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    looked = []
    predict = teach.predict

    def watched(net: Any, inputs: Any, **more: Any) -> torch.Tensor:
        looked.append(len(inputs))
        return predict(net, inputs, **more)

    monkeypatch.setattr(teach, "predict", watched)
    one = make(tmp_path / "one")
    assert looked == [int(held_out_mask(digits).sum())] * RECIPE.epochs + [len(digits.test)]
    two = make(tmp_path / "two", dataset=negative(digits, test=True))
    assert one.accuracy == two.accuracy
    assert one.test_accuracy != two.test_accuracy
    a, b = load_file(one.path), load_file(two.path)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_default_recipe_teaches_digits(make: Callable, tmp_path: Path):
    teacher = make(tmp_path, TeacherRecipe(), default_teacher(8))
    assert teacher.student == "convnet-d2-w32-bn"
    assert teacher.accuracy >= 0.97
    assert teacher.test_accuracy >= 0.96


def test_default_students():
    names = {size: default_teacher(size) for size in (8, 28, 32, 64, 128)}
    assert names == {
        8: "convnet-d2-w32-bn",
        28: "convnet-d3-w128-bn",
        32: "convnet-d3-w128-bn",
        64: "convnet-d4-w128-bn",
        128: "convnet-d5-w128-bn",
    }


def test_no_flip_on_digits(make: Callable, tmp_path: Path):
    """``crop+flip`` on data that may not be mirrored is ``crop``."""
    a, b = (load_file(make(tmp_path / name, replace(RECIPE, augmentation=name)).path) for name in ("crop+flip", "crop"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_nothing_held_out(make: Callable, tmp_path: Path):
    teacher = make(tmp_path, replace(RECIPE, holdout=0.0))
    assert (teacher.holdout, teacher.accuracy) == (0, None)


def test_bytes_do_not_depend_on_the_time_or_place(make: Callable, trained: Path, tmp_path: Path):
    make(tmp_path / "again")
    assert contents(tmp_path / "again", "cost.json") == contents(trained, "cost.json")
    cost = json.loads(next(trained.rglob("*.cost.json")).read_text())
    assert cost["wall_seconds"] > 0
    assert cost["epochs"] == RECIPE.epochs


REFUSED = {
    "epochs": ({"epochs": 0}, "--epochs 0"),
    "batch": ({"batch": 0}, "--batch 0"),
    "lr": ({"lr": 0.0}, "--lr 0"),
    "nan": ({"lr": math.nan}, "--lr nan"),
    "momentum": ({"momentum": -1.0}, "--momentum -1"),
    "decay": ({"weight_decay": math.inf}, "--weight-decay inf"),
    "holdout": ({"holdout": 0.95}, "--holdout 0.95"),
    "warmup": ({"warmup": 4}, "--warmup 4: expected fewer than the 4 epochs"),
    "schedule": ({"schedule": "cosin"}, "did you mean 'cosine'"),
    "preprocess": ({"preprocess": "zac"}, "--preprocess"),
    "precision": ({"precision": "half"}, "--precision"),
    "optimizer": ({"optimizer": "sdg"}, "did you mean 'sgd'"),
    "option": ({"optimizer": "adam"}, "no option 'momentum'"),
    "augmentation": ({"augmentation": "corp"}, "did you mean 'crop'"),
    "seed": ({"seed": -1}, "--seed -1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_are_refused(name: str, make: Callable, tmp_path: Path):
    change, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        make(tmp_path / "out", replace(RECIPE, **change))
    assert not (tmp_path / "out").exists()


def test_students_that_are_refused(make: Callable, tmp_path: Path):
    with pytest.raises(UserError, match="poolings leave no pixel"):
        make(tmp_path / "out", student="convnet-d4-w4-bn")
    assert not (tmp_path / "out").exists()
    make(tmp_path / "out", replace(RECIPE, batch=389, epochs=1))  # 1,168 images: the last batch is a single one


def test_divergence(make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(teach, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(UserError, match=r"diverged, after epoch [1-4] .* lower --lr \(now 1e\+20\)"):
        make(tmp_path, replace(RECIPE, lr=1e20), student="convnet-d1-w4-nn")
    assert contents(tmp_path) == {}


# Killed and repeated


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_killed_after_every_epoch(optimizer: str, make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed in the work after each epoch in turn; each try goes on from the last checkpoint."""
    momentum = 0.9 if optimizer == "sgd" else 0.0
    recipe = replace(RECIPE, optimizer=optimizer, momentum=momentum, lr=0.01)
    whole = make(tmp_path / "whole", recipe)
    monkeypatch.setattr(teach, "CHECKPOINT_SECONDS", 0.0)
    predict, calls, tries, resumed = teach.predict, [0], 0, []
    train = teach.train

    def dying(*args: Any, **more: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 2:
            raise Killed
        return predict(*args, **more)

    def watched(*args: Any, **more: Any) -> Any:
        resumed.append(more["resume"].epochs if more["resume"] else 0)
        return train(*args, **more)

    monkeypatch.setattr(teach, "predict", dying)
    monkeypatch.setattr(teach, "train", watched)
    while True:
        tries += 1
        calls[0] = 0
        try:
            teacher = make(tmp_path / "killed", recipe)
            break
        except Killed:
            assert not list((tmp_path / "killed").rglob("*[0-9a-f].safetensors"))
            assert len(list((tmp_path / "killed").rglob("*.partial.safetensors"))) == 1
    assert resumed == [0, 1, 2, 3, 4], "one epoch a try, and one that only tests"
    assert teacher.sha256 == whole.sha256
    assert contents(tmp_path / "killed", "cost.json") == contents(tmp_path / "whole", "cost.json")


@pytest.mark.parametrize("place", ["write_teacher", "write_json", "write_tensors"])
def test_killed_while_writing(place: str, make: Callable, trained: Path, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:

        def die(*args: Any, **more: Any) -> None:
            raise Killed

        patch.setattr(teach, place, die)
        with pytest.raises(Killed):
            make(tmp_path)
    assert not [name for name in contents(tmp_path) if name.endswith((*tuple("0123456789abcdef"), ".tmp"))]
    make(tmp_path)
    assert contents(tmp_path, "cost.json") == contents(trained, "cost.json")


def test_checkpoints_are_not_written_every_epoch(make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = []
    write = teach.write_tensors
    monkeypatch.setattr(teach, "write_tensors", lambda *args: (written.append(args[2]["done"]), write(*args)))
    make(tmp_path)
    assert written == [RECIPE.epochs]


def test_cost_of_all_tries(make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(teach, "write_teacher", lambda *args, **more: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            make(tmp_path)
    partial = next(tmp_path.rglob("*.partial.safetensors"))
    rewrite(partial, wall_seconds=1000.0, cpu_seconds=900.0)
    make(tmp_path)
    cost = json.loads(next(tmp_path.rglob("*.cost.json")).read_text())
    assert 1000 < cost["wall_seconds"] < 1000 + PATIENCE
    assert 900 < cost["cpu_seconds"] < 1000


def test_finished_already(make: Callable, root: Path, capsys: pytest.CaptureFixture[str]):
    before = listing(root)
    teacher = make(root, quiet=False)
    assert f"trained already: {teacher.path}" in capsys.readouterr().err
    assert listing(root) == before


def test_damaged_checkpoint(make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(teach, "write_teacher", lambda *args, **more: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            make(tmp_path)
    partial = next(tmp_path.rglob("*.partial.safetensors"))
    raw = partial.read_bytes()
    for damage, message in (
        (lambda: partial.write_bytes(raw[:-5]), "not a whole safetensors file"),
        (lambda: rewrite(partial, done=9), "epoch 9 of 4"),
        (lambda: rewrite(partial, curves=None), "remove it to start again"),
        (lambda: rewrite(partial, kind="ddbench-teacher"), "expected ddbench-teacher-checkpoint"),
        (lambda: tensors_changed(partial, net__classifier__bias=None), "Missing key.* remove it to start again"),
    ):
        partial.write_bytes(raw)
        damage()
        with pytest.raises(UserError, match=message) as caught:
            make(tmp_path)
        assert str(partial) in str(caught.value)
    partial.unlink()
    make(tmp_path)


def test_finished_file_that_is_damaged(make: Callable, path: Path, root: Path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="remove the file, and the same command trains it again"):
        make(root)


# Finding and checking


def variant(path: Path, name: str, holdout_accuracy: float | None, **fields: Any) -> Path:
    """A copy of a teacher with another held-out accuracy."""
    curves = {
        "loss": [],
        "train_accuracy": [],
        "holdout_accuracy": [] if holdout_accuracy is None else [holdout_accuracy],
    }
    return rewrite(path, path.with_name(f"{name}.safetensors"), curves=curves, **fields)


def test_the_best_on_held_out_images_is_found_never_on_test(root: Path, path: Path):
    variant(path, "aaaa", 0.97, test_accuracy=0.99)
    best = variant(path, "bbbb", 0.99, test_accuracy=0.5)
    variant(path, "cccc", 0.99, test_accuracy=1.0)
    variant(path, "dddd", None, test_accuracy=1.0)
    assert find_teacher(root).path == best, "of equals the first"
    path.unlink()
    best.unlink()
    assert find_teacher(root).path.stem == "cccc"


def test_filters(root: Path, path: Path, digits: Dataset):
    teacher = read_teacher(path)
    preprocess = fit_preprocess(digits, "meanstd").to_json()
    other = Preprocess("meanstd", (0.5,), (0.5,)).to_json()
    fitting = {
        "sha256": teacher.sha256,
        "dataset": "digits",
        "fingerprint": digits.fingerprint,
        "student": STUDENT,
        "preprocess_kind": "meanstd",
        "preprocess": preprocess,
        "holdout": 0.1,
    }
    wrong = {
        "sha256": "0" * 64,
        "dataset": "mnist",
        "fingerprint": "0" * 64,
        "student": "lenet",
        "preprocess_kind": "zca",
        "preprocess": other,
        "holdout": 0.2,
    }
    assert find_teacher(root, **fitting) == teacher
    for name, value in fitting.items():
        assert find_teacher(root, **{name: value}) == teacher
        assert find_teacher(root, **{**fitting, name: wrong[name]}) is None, name
    assert find_teacher(root / "nowhere") is None
    assert find_teacher(path) is None


def test_checkpoints_and_damaged_files_are_no_teachers(root: Path, path: Path):
    path.with_name("aaaa.partial.safetensors").write_bytes(b"")
    path.with_name(".aaaa.safetensors.1.0123abcd.tmp").write_bytes(b"")
    assert teacher_files(root) == [path]
    damaged = path.with_name("aaaa.safetensors")
    damaged.write_bytes(path.read_bytes()[:-1])
    assert find_teacher(root).path == path
    sha256 = read_teacher(path).sha256
    assert find_teacher(root, sha256=sha256).path == path
    path.unlink()
    with pytest.raises(UserError, match=r"aaaa\.safetensors: not a whole"):
        find_teacher(root)
    assert find_teacher(root, sha256=sha256) is None


def test_check(path: Path, digits: Dataset):
    teacher, preprocess = read_teacher(path), fit_preprocess(digits, "meanstd")
    check_teacher(teacher, digits, preprocess)
    names = teacher.class_names
    swapped = (names[1], names[0], *names[2:])
    cases = [
        ({"class_names": swapped}, "has the classes of digits in another order .its class 0 is '1', here it is '0'"),
        ({"class_names": (*names[:9], "cat")}, "its 10 classes are not the 10 of digits .'cat' is none of them"),
        ({"class_names": names[:9]}, "its 9 classes are not the 10 of digits; train"),
        ({"fingerprint": "f" * 64}, f"fingerprint ffffffffffff, the digits data here has {digits.fingerprint[:12]}"),
        ({"shape": (3, 8, 8)}, "its input is 3x8x8, images of digits are 1x8x8"),
        (
            {"preprocess": {**teacher.preprocess, "mean": [0.5]}},
            r"made by mean \[0.5\] and std .*, here by mean \[0.3067",
        ),
        ({"preprocess": {"kind": "zca", "eps": 0.1}}, r"made by zca \(eps 0.1"),
    ]
    for change, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            check_teacher(replace(teacher, **change), digits, preprocess)
        assert str(caught.value).startswith(str(path))
        assert "train one with ddbench teacher --dataset digits" in str(caught.value)


def test_what_is_advised_instead_of_a_teacher_of_other_data(path: Path, digits: Dataset):
    """Image files are refused without --size, and no network has the name of several in one file."""
    teacher, preprocess = replace(read_teacher(path), fingerprint="f" * 64), fit_preprocess(digits, "meanstd")
    own = replace(digits, spec=replace(digits.spec, name="folder:my images"))
    remedy = f"train one with ddbench teacher --dataset 'folder:my images' --size 8 --student {teacher.student}"
    with pytest.raises(UserError, match=re.escape(remedy)):
        check_teacher(teacher, own, preprocess)
    several = replace(teacher, student="convnet-d1-w4-bn+convnet-d1-w8-bn")
    remedy = "train its 2 networks with ddbench teacher --dataset digits --student convnet-d1-w4-bn and the like, and"
    with pytest.raises(UserError, match=re.escape(remedy)):
        check_teacher(several, digits, preprocess)


def test_zca_teachers_fit_the_same_zca(make: Callable, digits: Dataset, tmp_path: Path):
    teacher = make(tmp_path, replace(RECIPE, preprocess="zca", epochs=1))
    zca = fit_preprocess(digits, "zca")
    check_teacher(teacher, digits, zca)
    # what two machines compute differently of the same ZCA does not count
    check_teacher(
        replace(teacher, preprocess={**teacher.preprocess, "probe": [0.0], "matrix_sha256": "0"}), digits, zca
    )
    with pytest.raises(UserError, match="made by zca"):
        check_teacher(teacher, digits, fit_preprocess(digits, "meanstd"))
    assert find_teacher(tmp_path, preprocess_kind="zca") == teacher


# The teacher that a method needs


@pytest.fixture
def ensure(digits: Dataset, data_root: Path) -> Callable[..., Teacher]:
    def call(root: Path, **more: Any) -> Teacher:
        options: dict[str, Any] = {"student": STUDENT, "preprocess_kind": "meanstd", "holdout": 0.1, **more}
        return ensure_teacher(
            root=root,
            dataset=digits,
            data=data_root,
            device="cpu",
            threads=1,
            compile="off",
            console=Console(),
            **options,
        )

    return call


def test_ensured_once(ensure: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    teacher = ensure(tmp_path)
    said = capsys.readouterr().err
    assert f"no teacher {STUDENT} of digits in {tmp_path} (preprocess meanstd, holdout 0.1): training one first" in said
    assert teacher.recipe == json.loads(json.dumps(TeacherRecipe().to_json()))
    before = listing(tmp_path)
    assert ensure(tmp_path) == teacher
    assert f"teacher: {teacher.path} (held-out accuracy 0." in capsys.readouterr().err
    assert listing(tmp_path) == before


def test_a_teacher_of_another_recipe_will_do_but_not_of_another_holdout(ensure: Callable, root: Path, path: Path):
    assert ensure(root).path == path
    other = ensure(root, holdout=0.2)
    assert (other.path != path, other.holdout) == (True, 0.2)


@dataclass(frozen=True)
class NoSettings:
    """Nothing to set."""


class Taught(Method[NoSettings]):
    """Takes the real images of each class that the teacher is surest of."""

    config_class = NoSettings
    title = "taught"
    seen: ClassVar[list[Any]] = []
    dying: ClassVar[bool] = False

    @classmethod
    def needs(cls, config: NoSettings) -> tuple[Any, ...]:
        return (TrainedTeacher(),)

    @classmethod
    def check(cls, config: NoSettings, context: Any) -> None:
        assert not context.resources
        if context.seed == 99:
            raise UserError("refused by the method")

    @property
    def iterations(self) -> int:
        return 2

    def setup(self) -> None:
        self.seen.append(self.context.given(TrainedTeacher))
        self.net = self.context.given(TrainedTeacher).network(self.context.device)

    def step(self, iteration: int) -> dict[str, float]:
        if iteration and self.dying:
            raise Killed
        return {"loss": 0.0}

    def distilled(self) -> Distilled:
        train = self.context.train
        scores = self.net(self.context.preprocess.apply(train.images)).log_softmax(1)
        best = [torch.where(train.labels == k, scores[:, k], -math.inf).argmax() for k in range(10)]
        return Distilled(images=train.images[torch.stack(best)], labels=torch.arange(10))


@pytest.fixture
def run(digits: Dataset, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``run(out, root)`` runs ``Taught`` through the runner."""
    monkeypatch.setattr(Taught, "seen", [])

    def call(out: Path, root: Path, kind: Any = Taught, teacher_student: str | None = STUDENT, **more: Any) -> Path:
        settings = RunSettings(
            **{
                "ipc": 1,
                "student": STUDENT,
                "seed": 0,
                "preprocess": "meanstd",
                "holdout": 0.1,
                "validate_every": 0,
                "validate_epochs": 1,
                "track": "jsonl",
                "checkpoint_every": 1,
                "device": "cpu",
                "threads": 1,
                "compile": "off",
                "flags": (TeacherFlags(teachers=root, teacher_student=teacher_student),),
                **more,
            }
        )
        return distill(
            "taught",
            kind,
            kind.config_class(),
            dataset=digits,
            data=data_root,
            settings=settings,
            out=out,
            console=Console(),
        )

    return call


def test_needs_teacher(run: Callable, root: Path, path: Path, tmp_path: Path):
    synset = read_synset(run(tmp_path / "run", root))
    teacher = read_teacher(path)
    assert Taught.seen == [teacher]
    assert synset.parents == {"teacher": teacher.sha256}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["teacher"] == teacher.reference()


def test_teacher_is_trained_first(run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(tmp_path / "run", tmp_path / "new", teacher_student=None)
    said = capsys.readouterr().err
    assert "no teacher convnet-d2-w32-bn of digits" in said
    assert "it is kept for the next run" in said
    (path,) = teacher_files(tmp_path / "new")
    assert Taught.seen == [read_teacher(path)]


def test_method_without_need_gets_none(run: Callable, tmp_path: Path):
    class Plain(Taught):
        """Needs nothing."""

        @classmethod
        def needs(cls, config: NoSettings) -> tuple[Any, ...]:
            return ()

        def setup(self) -> None:
            with pytest.raises(LookupError, match="no teacher"):
                self.context.given(TrainedTeacher)

        def distilled(self) -> Distilled:
            return Distilled(images=self.context.random_images("x"), labels=torch.arange(10))

    synset = read_synset(run(tmp_path / "run", tmp_path / "none", Plain))
    assert synset.parents == {}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["teacher"] is None
    assert not (tmp_path / "none").exists()


def test_killed_run_keeps_its_teacher(run: Callable, root: Path, path: Path, tmp_path: Path, monkeypatch):
    """A better teacher that came since changes nothing of a run that was begun, and nothing of one that is finished."""
    whole = run(tmp_path / "whole", root).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Taught, "dying", True)
        with pytest.raises(Killed):
            run(tmp_path / "run", root)
    better = variant(path, "better", 1.0)
    assert find_teacher(root).path == better
    assert run(tmp_path / "run", root).read_bytes() == whole
    assert Taught.seen[-1].path == path
    before = listing(tmp_path / "run")
    for place in (root, tmp_path / "nowhere"):
        assert run(tmp_path / "run", place) == tmp_path / "run" / "synset.safetensors"
    assert listing(tmp_path / "run") == before
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(UserError, match=r"holds another run: teacher.student differ"):
        run(tmp_path / "run", root, teacher_student="lenet")
    run(tmp_path / "fresh", root)
    assert Taught.seen[-1].path == better


def test_refusals_come_before_the_teacher_is_trained(run: Callable, tmp_path: Path):
    """Nothing is trained and no folder made when the method refuses, or the run's folder cannot be had."""
    new, out = tmp_path / "new", tmp_path / "run"
    with pytest.raises(UserError, match="refused by the method"):
        run(out, new, seed=99)
    with pytest.raises(UserError, match="unknown student 'convnt'"):
        run(out, new, teacher_student="convnt")
    with pytest.raises(UserError, match="poolings leave no pixel"):
        run(out, new, teacher_student="convnet-d8-w4-bn")
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.tex").touch()
    with pytest.raises(UserError, match="exists and is no ddbench run"):
        run(occupied, new)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="cannot write"):
        run(file / "run", new)
    assert not new.exists()
    assert not out.exists()


def test_run_folder_is_not_made_when_the_teacher_fails(run: Callable, tmp_path: Path, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.touch()
    with pytest.raises(UserError, match="cannot write"):
        run(tmp_path / "run", blocked)
    with monkeypatch.context() as patch:
        patch.setattr(teach, "write_teacher", lambda *args, **more: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            run(tmp_path / "run", tmp_path / "new")
    assert not (tmp_path / "run").exists()
    run(tmp_path / "run", tmp_path / "new")


def test_recipe_is_frozen_and_complete():
    """Every field of the recipe decides the key."""
    key = RECIPE.key(STUDENT, "f")
    assert key == TeacherRecipe(epochs=4, augmentation="crop").key(STUDENT, "f")
    for field in dataclasses.fields(RECIPE):
        value = getattr(RECIPE, field.name)
        other = value + 1 if isinstance(value, int | float) else (("eps", 1.0),) if field.name == "options" else "x"
        assert replace(RECIPE, **{field.name: other}).key(STUDENT, "f") != key, field.name
    assert RECIPE.key("lenet", "f") != key
    assert RECIPE.key(STUDENT, "g") != key
