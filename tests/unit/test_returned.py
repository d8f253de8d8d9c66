"""What somebody's own method returns: rubbish is one line that names method and file, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EAGER, TINY, Outcome

import ddbench
from ddbench.methods import METHODS
from ddbench.runtime import authors
from ddbench.runtime.jobs import answer

pytestmark = pytest.mark.usefixtures("tables_kept")

OWN = """
from dataclasses import dataclass

import torch

from ddbench.decoders.base import Decoder
from ddbench.decoders.ddif import Ddif
from ddbench.methods.base import Distilled, Method, State
from ddbench.synset import Budget, Replay

NAN = float("nan")


class Darker(Decoder):
    kind = "darker"


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    steps: int = 2


class Mine(Method[MineConfig]):
    config_class = MineConfig
    title = "Mine"
    iterations = 2

    def setup(self):
        self.images = self.context.preprocess.apply(self.context.random_images("mine"))
        self.labels = self.context.hard_labels()

    def step(self, iteration):
        return {"loss": 1.0}

    def distilled(self):
        return Distilled(images=self.images, labels=self.labels)

    def state(self):
        return State(tensors={"images": self.images})

    def load_state(self, state):
        self.images = state.tensors["images"]
"""

STATE = 'State(tensors={"images": self.images})'
PRODUCT = "Distilled(images=self.images, labels=self.labels)"
LOSS = '{"loss": 1.0}'

RUBBISH: dict[str, tuple[str, str, str]] = {
    # what is written in its place, and what is told
    "no state": (STATE, "None", "state() is None, expected ddbench.methods.base.State"),
    "a state of numbers": (STATE, 'State(tensors={"x": 1})', "tensor 'x' of state() is int 1"),
    "a state without names": (STATE, "State(tensors=[self.images])", "tensors of state() is list"),
    "a state of NaN": (STATE, 'State(tensors={"x": self.images * NAN})', "tensor 'x' of state() is with NaN or"),
    "a state of infinity": (
        STATE,
        'State(tensors={"x": self.images.exp() / 0})',
        "tensor 'x' of state() is with NaN or",
    ),
    "a complex state": (STATE, 'State(tensors={"x": self.images + 1j})', "'x' of state() is a tensor of complex64"),
    "values that are no JSON": (STATE, 'State(values={"x": {1, 2}})', "values of state() is dict"),
    "values of NaN": (STATE, 'State(values={"x": NAN})', "expected JSON (Out of range"),
    "values without names": (STATE, "State(values=[1])", "values of state() is list [1], expected JSON by name"),
    "metrics of text": (LOSS, '{"loss": "low"}', "iteration 0: step() of Mine returned dict {'loss': 'low'}"),
    "no product": (PRODUCT, "None", "distilled() is None, expected ddbench.methods.base.Distilled"),
    "a product of lists": (PRODUCT, "Distilled(images=[1], labels=[1])", "images of distilled() is list [1]"),
    "float64": ("images=self.images,", "images=self.images.double(),", "tensor of float64 of shape [10, 1, 8, 8]"),
    "half images": ("images=self.images,", "images=self.images[:, :, :4],", "[10, 1, 4, 8], expected uint8"),
    "NaN": ("images=self.images,", "images=self.images * NAN,", "distilled(): images hold NaN"),
    "pixels up to 255": (
        'self.context.preprocess.apply(self.context.random_images("mine"))',
        'self.context.random_images("mine").float()',
        "is float32 values from 0 to 255, which are pixels from 0 to 255, expected uint8 (pixels)",
    ),
    "too few": ("images=self.images,", "images=self.images[:3],", "distilled(): 10 labels for 3 images"),
    "labels too high": ("labels=self.labels)", "labels=self.labels + 7)", "labels from 7 to 16, expected 0 to 9"),
    "labels of int32": (
        "labels=self.labels)",
        "labels=self.labels.int())",
        "labels of distilled() is a tensor of int32",
    ),
    "soft labels of two": ("labels=self.labels)", "labels=torch.zeros(10, 2))", "soft labels of shape [10, 2]"),
    "a rate that is none": ("labels=self.labels)", "labels=self.labels, learned_lr=0.1)", "learned_lr of distilled()"),
    "an empty rate": (
        "=self.labels)",
        "=self.labels, learned_lr=torch.empty(0))",
        "learned_lr of distilled() is a tensor",
    ),
    "rates of nothing": (
        "=self.labels)",
        "=self.labels, learned_lr=torch.tensor([0.02]))",
        "learned_lr of distilled() is a tensor of float32 of shape [1], expected one number, or one a stage",
    ),
    "stages of int32": (
        "=self.labels)",
        "=self.labels, stage=self.labels.int())",
        "stage of distilled() is a tensor of int32 of shape [10], expected int64 (N,)",
    ),
    "a recipe of text": ("=self.labels)", '=self.labels, schedule="x")', "schedule of distilled() is str 'x'"),
    "half a pass": (
        "=self.labels)",
        '=self.labels, schedule=Replay(epochs=0.5, init="xavier"))',
        "distilled(): header field 'epochs' is 0.5, expected int",
    ),
    "a decoder that no reader knows": (
        "=self.labels)",
        "=self.labels, decoder=Darker())",
        "decoder of distilled() is of the kind 'darker', which no reader knows, expected one with an entry point",
    ),
    "a decoder of other numbers": (
        "=self.labels)",
        "=self.labels, decoder=Ddif(shape=(1, 8, 8), layers=1, width=2, omega_first=30, omega=10))",
        "distilled(): header field 'omega_first' is 30, expected float",
    ),
    "patches of text": ("labels=self.labels)", 'labels=self.labels, patches="2")', "patches of distilled() is str '2'"),
    "no steps": ("iterations = 2", "iterations = None", "iterations is None, expected a whole number of steps"),
    "no budget": ("iterations = 2", "iterations, budget = 2, 10", "budget is int 10, expected ddbench.synset.Budget"),
    "no augmentation": ("iterations = 2", "iterations, augmentation = 2, None", "augmentation is None, expected"),
    "no step()": ("def step(", "def stop(", "step() is missing, which does one of its 2 iterations"),
    "no distilled()": ("def distilled(", "def distil(", "distilled() is missing, which gives the product"),
    "no load_state()": ("def load_state(", "def load(", "load_state() is missing, which takes over what state() gives"),
    "no merge()": (
        "iterations = 2",
        "iterations, pieces = 2, lambda self: [range(2)]",
        "merge() is missing, which puts",
    ),
    "gaps": ("iterations = 2", "iterations, pieces = 2, lambda self: [range(1)]", "pieces() is list [range(0, 1)]"),
}


def own(folder: Path, old: str = "", new: str = "", name: str = "mine") -> tuple[object, ...]:
    """A command that runs the method, a part of which is something else."""
    assert old in OWN
    path = folder / f"{name}.py"
    path.write_text(OWN.replace(old, new, 1) if old else OWN)
    METHODS._table.pop("mine", None)  # each case is a method of its own
    flags = ("--dataset", "digits", "--ipc", 1, "--student", TINY, "--recipe", "none", "--quiet")
    return ("distill", "--method", "mine", "--method-file", path, *flags, "--out", folder / "runs" / "new", *EAGER)


@pytest.mark.parametrize("case", RUBBISH.values(), ids=RUBBISH)
def test_rubbish(case: tuple[str, str, str], refused: Callable[..., str], tmp_path: Path):
    old, new, told = case
    argv = own(tmp_path, old, new)
    line = refused(argv, told)
    assert line.endswith(f"; mend it ({tmp_path / 'mine.py'})")


def test_what_it_needs(refused: Callable[..., str], tmp_path: Path):
    argv = own(tmp_path, "iterations = 2", "iterations, needs = 2, lambda config: None")
    refused(argv, "--method mine: needs() returned None, expected a tuple of Need")


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("return " + LOSS, "return 1 / 0", "in Mine.step: 'return 1 / 0': ZeroDivisionError"),
        (LOSS, '{"loss": float(self.images)}', "in Mine.step: "),
        ("self.images = self.context.preprocess.apply(", "self.images = self.context.no_such(", "in Mine.setup: "),
        ("return " + STATE, "return open('nothing.txt')", "FileNotFoundError"),
    ],
    ids=["an error", "an error of torch", "an error of ours", "a file"],
)
def test_an_error_in_code_of_its_author_names_the_line(
    old: str, new: str, where: str, refused: Callable[..., str], tmp_path: Path
):
    argv = own(tmp_path, old, new)
    number = next(at for at, line in enumerate((tmp_path / "mine.py").read_text().splitlines(), 1) if new in line)
    refused(argv, f"mine.py, line {number}, in Mine.", where, "DDBENCH_TRACEBACK=1 shows the whole traceback")


def test_the_whole_traceback_on_request(ddb: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DDBENCH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        ddb(*own(tmp_path, "return " + LOSS, "return 1 / 0"))


def test_a_caller_in_python_gets_the_error_itself(tmp_path: Path, data_root: Path):
    own(tmp_path, "return " + LOSS, "return 1 / 0", name="called")
    with pytest.raises(ZeroDivisionError):
        ddbench.distill(
            method="mine",
            method_file=tmp_path / "called.py",
            dataset="digits",
            ipc=1,
            student=TINY,
            recipe="none",
            out=tmp_path / "run",
            data=data_root,
            quiet=True,
        )


def test_errors_of_a_worker_are_told_alike(monkeypatch: pytest.MonkeyPatch):
    def fails(_: object) -> None:
        raise ValueError("no")

    assert answer(fails, 0)[0] == "error"
    monkeypatch.setattr(authors, "_THEIRS", {fails.__module__.partition(".")[0]})
    kind, told = answer(fails, 0)
    assert kind == "user-error"
    assert Path(__file__).name in told
    assert "ValueError: no" in told


def test_an_error_that_is_ours_keeps_its_traceback(ddb: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch):
    def broken(argv: object) -> None:
        raise ZeroDivisionError

    from ddbench.cli import doctor

    monkeypatch.setattr(doctor, "main", broken)
    with pytest.raises(ZeroDivisionError):
        ddb("doctor")


def test_a_run_with_a_checkpoint_stays(ddb: Callable[..., Outcome], tmp_path: Path):
    """What was done before a step goes wrong is kept."""
    argv = own(tmp_path, "return " + LOSS, "return " + LOSS + " if iteration == 0 else None")
    result = ddb(*argv, "--checkpoint-every", 1)
    assert result.code == 2
    assert "iteration 1: step() of Mine returned None" in result.err
    assert {"config.json", "checkpoint.safetensors"} <= {path.name for path in (tmp_path / "runs" / "new").iterdir()}


def test_a_folder_that_was_there_stays(ddb: Callable[..., Outcome], tmp_path: Path):
    argv = own(tmp_path, STATE, "None")
    (tmp_path / "runs" / "new").mkdir(parents=True)
    assert ddb(*argv).code == 2
    assert list((tmp_path / "runs" / "new").iterdir()) == []


def test_a_product_that_is_there_at_the_end_only(ddb: Callable[..., Outcome], tmp_path: Path):
    """A method that collects what its steps leave has no product before the first one."""
    argv = own(tmp_path, "return {", "self.made = self.images\n        return {")
    text = (tmp_path / "mine.py").read_text().replace("images=self.images,", "images=self.made,")
    (tmp_path / "mine.py").write_text(text)
    assert ddb(*argv).code == 0
    assert json.loads((tmp_path / "runs" / "new" / "config.json").read_text())["method"] == "mine"


def test_every_plateau_is_finite():
    from ddbench.training.plateau import Plateau

    state = Plateau(0.1, 3).state()
    assert bool(torch.isfinite(state["plateau"]).all())
    again: Any = Plateau(1.0, 3)
    again.load_state(state)
    assert again.after(5.0) == 0.1
    assert again._best == 5.0
