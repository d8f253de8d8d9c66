"""Files of the right form with contents that cannot be: one line that names the file, and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EAGER, TINY, distill_tiny, evaluate_tiny
from safetensors import safe_open
from safetensors.torch import save_file
from test_fewer_cores import killed_at

from ddbench.diffusion import train as diffusion
from ddbench.methods.mtt import MTT
from ddbench.teachers import train

pytestmark = pytest.mark.usefixtures("tables_kept")

Refused = Callable[..., str]
Ddb = Callable[..., Any]


def change_tensor(path: Path, name: str, value: torch.Tensor) -> None:
    with safe_open(path, "pt") as handle:
        tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
        metadata = handle.metadata()
    assert name in tensors
    save_file({**tensors, name: value}, path, metadata=metadata)


CHECKPOINTS: dict[str, tuple[str, torch.Tensor, str]] = {
    "momentum of other images": ("image_momentum.0", torch.zeros(1), "image_momentum.0 has shape [1]"),
    "no momentum": ("lr_momentum.0", torch.zeros(0), "lr_momentum.0 has shape [0]"),
    "images without numbers": ("images", torch.full((10, 1, 8, 8), float("nan")), "images holds NaN"),
    "a rate that is none": ("raw_lr", torch.tensor(float("nan")), "raw_lr holds NaN"),
    "images without end": ("images", torch.full((10, 1, 8, 8), float("inf")), "images holds infinity"),
    "a momentum without end": ("image_momentum.0", torch.full((10, 1, 8, 8), -float("inf")), "holds infinity"),
}


@pytest.mark.parametrize("case", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint(
    case: tuple[str, torch.Tensor, str],
    ddb: Ddb,
    refused: Refused,
    buffers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    name, value, told = case
    command = distill_tiny(buffers, tmp_path / "run", "--checkpoint-every", 1)
    go_on = killed_at(monkeypatch, MTT, "step", 3)
    assert ddb(*command).code == 130
    go_on()
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    change_tensor(checkpoint, name, value)
    before = checkpoint.read_bytes()
    result = ddb(*command)
    assert result.code == 2
    assert told in result.err
    assert str(checkpoint) in result.err
    assert result.err.count("\n") == 1
    assert checkpoint.read_bytes() == before


TRAINED: dict[str, tuple[tuple[object, ...], Any, str]] = {
    "teacher": (
        ("teacher", "--student", "convnet-d1-w4-bn", "--epochs", 3, "--compile", "off", "--teachers"),
        train,
        "take",
    ),
    "diffusion model": (
        ("diffusion", "train", "--widths", 8, 8, "--batch", 8, "--steps", 4, "--diffusions"),
        diffusion,
        "note",
    ),
}


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("kind", TRAINED)
def test_a_checkpoint_of_what_is_trained_holds_finite_numbers(
    kind: str, value: float, ddb: Ddb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Weights and what the optimiser keeps; the file stays as it is."""
    command, module, step = TRAINED[kind]
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    command = (*command, tmp_path, "--dataset", "digits", "--quiet", "--threads", 1)
    go_on = killed_at(monkeypatch, module._Progress, step, 3)
    assert ddb(*command).code == 130
    go_on()
    (checkpoint,) = tmp_path.rglob("*.partial.safetensors")
    whole = checkpoint.read_bytes()
    with safe_open(checkpoint, "pt") as handle:
        shapes = {name: handle.get_tensor(name).shape for name in handle.keys()}  # noqa: SIM118 (not a dict)
    for prefix in ("net.", "optimizer."):
        name = next(name for name, shape in sorted(shapes.items()) if name.startswith(prefix) and len(shape) > 1)
        checkpoint.write_bytes(whole)
        change_tensor(checkpoint, name, torch.full(shapes[name], value))
        before = checkpoint.read_bytes()
        result = ddb(*command)
        assert result.code == 2
        assert f"{checkpoint}: " in result.err
        assert f"{name} holds {'infinity' if value > 1 else 'NaN'}" in result.err
        assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("value", ["nan", "inf", "0.5", 1.5, -0.1, True, None])
def test_an_accuracy_that_is_none(value: Any, refused: Refused, random_run: Path):
    path = next(one for one in (random_run / "evaluations").glob("*.json") if not one.name.endswith(".cost.json"))
    content = json.loads(path.read_text())
    content["runs"][0]["metrics"]["accuracy"] = value
    path.write_text(json.dumps(content))
    refused(evaluate_tiny(random_run, "--seeds", 3), path.name, "its runs", f"accuracy {value!r}".strip("'"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_of_a_teacher(optimizer: str, ddb: Ddb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    command = ("teacher", "--dataset", "digits", "--student", "convnet-d1-w4-bn", "--epochs", 3, "--quiet", *EAGER)
    command += ("--teachers", tmp_path, "--optimizer", optimizer, "--lr", 0.001)
    go_on = killed_at(monkeypatch, train._Progress, "take", 3)
    assert ddb(*command).code == 130
    go_on()
    (checkpoint,) = tmp_path.rglob("*.partial.safetensors")
    name = "optimizer.0" if optimizer == "sgd" else "optimizer.0.exp_avg"
    change_tensor(checkpoint, name, torch.zeros(3))
    result = ddb(*command)
    assert result.code == 2
    assert "has shape [3], expected [4, 1, 3, 3]" in result.err
    assert str(checkpoint) in result.err


@pytest.mark.parametrize(
    ("student", "told"), [(0, "its runs"), (None, "its runs"), ([], "its runs"), ("x" * 3000, "unknown student 'xxx")]
)
def test_a_student_of_an_evaluation(student: Any, told: str, refused: Refused, random_run: Path):
    path = next(one for one in (random_run / "evaluations").glob("*.json") if not one.name.endswith(".cost.json"))
    content = json.loads(path.read_text())
    content["runs"][0]["student"] = student
    path.write_text(json.dumps(content))
    line = refused(evaluate_tiny(random_run, "--seeds", 3), path.name, told)
    assert len(line) < 1000


def test_a_student_of_a_cost_record(ddb: Ddb, random_run: Path):
    """Costs are told, not needed."""
    (path,) = (random_run / "evaluations").glob("*.cost.json")
    content = json.loads(path.read_text())
    content["runs"][0]["student"] = None
    path.write_text(json.dumps(content))
    assert ddb(*evaluate_tiny(random_run, "--seeds", 3)).code == 0


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ('optimizer = "adamm"', "unknown optimiser 'adamm'"),
        ('optimizer = "lbfgs"\nmomentum = 0.5', "optimizer lbfgs has no option"),
    ],
)
def test_an_optimiser_of_a_protocol_is_told_before_anything_is_written(
    setting: str, told: str, refused: Refused, random_run: Path, tmp_path: Path
):
    own = tmp_path / "own.toml"
    own.write_text(f'name = "own"\nbase = "hard-v1"\n{setting}\n')
    argv = ("evaluate", random_run, "--protocol", own, "--students", TINY, "--workers", 1, "--quiet", *EAGER)
    refused(argv, "protocol own", told)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('dataset = "../x"', "unknown dataset '../x'"),
        ('dataset = "digit"', "did you mean 'digits'"),
        ('dataset = "digits"\nsize = -1', "size is -1"),
        ('dataset = "digits"\nsize = 100000', "size is 100000"),
        ('dataset = "digits"\nstudent = "lenett"', "did you mean 'lenet'"),
        (f'dataset = "digits"\nipc = 1{"0" * 40}', "ipc is 1000"),
    ],
)
def test_names_and_sizes_of_a_plan(line: str, told: str, refused: Refused, tmp_path: Path):
    plan = tmp_path / "plan.toml"
    plan.write_text(f'[[cells]]\nmethod = "random"\n{line}\n' + ("" if "ipc" in line else "ipc = 1\n"))
    refused(("reproduce", plan, "--dry-run"), told)


OWN = """from dataclasses import dataclass
from ddbench.methods.base import Distilled, Method, State

@dataclass(frozen=True, kw_only=True)
class OwnConfig:
    pass

class Own(Method[OwnConfig]):
    config_class = OwnConfig
    title = "Own"
    iterations = {iterations}

    def setup(self):
        self.images = self.context.preprocess.apply(self.context.random_images("own"))

    def step(self, iteration):
        return {metrics}

    def distilled(self):
        return Distilled(images=self.images, labels=self.context.hard_labels())

    def state(self):
        return State(tensors={{}})

    def load_state(self, state):
        pass
"""


@pytest.mark.parametrize("iterations", ["'two'", "-1", "2.0", "None"])
def test_a_method_that_does_not_say_how_many_steps_it_has(iterations: str, refused: Refused, tmp_path: Path):
    (tmp_path / "own.py").write_text(OWN.format(iterations=iterations, metrics="{}"))
    argv = [*random_own(tmp_path), "--out", tmp_path / "run"]
    refused(argv, "method Own: iterations is", "expected a whole number of steps")


@pytest.mark.parametrize("metrics", ["None", "{'loss': self.images}", "[1.0]"])
def test_a_step_that_returns_no_numbers(metrics: str, ddb: Ddb, tmp_path: Path):
    (tmp_path / "own.py").write_text(OWN.format(iterations=2, metrics=metrics))
    result = ddb(*random_own(tmp_path), "--out", tmp_path / "run")
    assert result.code == 2
    (line,) = [line for line in result.err.splitlines() if "error" in line]
    assert "iteration 0: step() of Own returned" in line


def random_own(folder: Path) -> list[object]:
    method = ("--method", "own", "--method-file", folder / "own.py")
    return ["distill", *method, "--dataset", "digits", "--ipc", 1, "--student", TINY, "--quiet", *EAGER]
