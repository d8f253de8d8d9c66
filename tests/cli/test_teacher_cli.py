"""``ddbench teacher``: what it prints, what it refuses, and kill -9 at work."""

from __future__ import annotations

import dataclasses
import errno
import glob
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import halting
import pytest
import torch
from conftest import EAGER, PATIENCE, contents, listing, random_tiny
from safetensors.torch import load_file, save_file
from test_kill import halted, kill_when

import ddbench
from ddbench.cli.teacher import Args
from ddbench.distillation import start
from ddbench.evaluation.ddranking import trainings
from ddbench.methods.base import Distilled, Method
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.registry import Registry
from ddbench.teachers import train
from ddbench.teachers.recipe import TeacherRecipe
from ddbench.teachers.store import read_teacher, teacher_files

ROOT = Path(ddbench.__file__).parents[1]
STUDENT = "convnet-d1-w4-bn"

Refused = Callable[..., str]


def train_tiny(root: Path, *more: object) -> list[object]:
    """A command that takes a fraction of a second."""
    return ["teacher", "--student", STUDENT, "--epochs", 2, "--teachers", root, *EAGER, *more]


@pytest.fixture
def path(ddb: Callable, tmp_path: Path) -> Path:
    """The file of a trained teacher below ``tmp_path / "teachers"``."""
    assert ddb(*train_tiny(tmp_path / "teachers")).code == 0
    return teacher_files(tmp_path / "teachers")[0]


def test_train(ddb: Callable, tmp_path: Path):
    result = ddb(*train_tiny(tmp_path))
    assert result.code == 0, result.err
    (path,) = teacher_files(tmp_path)
    teacher = read_teacher(path)
    accuracies = f"held-out accuracy {teacher.accuracy:.3f}, test accuracy {teacher.test_accuracy:.3f}"
    assert result.out == f"{STUDENT} on digits: {accuracies}: {path}\n"
    assert f"teacher ({STUDENT}, digits, 2 epochs): 2/2" in result.err
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {path.name, f"{path.stem}.cost.json"}
    before = listing(tmp_path)
    again = ddb(*train_tiny(tmp_path))
    assert (again.code, again.out) == (0, result.out)
    assert again.err == f"trained already: {path}\n"
    assert listing(tmp_path) == before
    assert ddb(*train_tiny(tmp_path, "--quiet")).err == ""


def test_default_root_and_student(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert ddb("teacher", "--epochs", 1, *EAGER).code == 0
    (path,) = teacher_files(Path("teachers"))
    assert path.parts[:3] == ("teachers", "digits", "convnet-d2-w32-bn")
    assert ddb("teacher", "info").out.count("convnet-d2-w32-bn") == 2, "in its column and in the path"


def test_flags_are_the_recipe(ddb: Callable, tmp_path: Path):
    flags = {
        "epochs": 3,
        "optimizer": "adam",
        "lr": 0.002,
        "weight_decay": 0.01,
        "options": "eps=1e-06",
        "batch": 100,
        "schedule": "constant",
        "warmup": 1,
        "augmentation": "crop",
        "preprocess": "zca",
        "holdout": 0.2,
        "seed": 5,
        "precision": "bfloat16",
    }
    argv = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", value)]
    result = ddb("teacher", "--student", STUDENT, "--teachers", tmp_path, *argv, *EAGER)
    assert result.code == 0, result.err
    teacher = read_teacher(teacher_files(tmp_path)[0])
    assert teacher.recipe == {**flags, "options": {"eps": 1e-6}, "momentum": 0.0}, "no momentum where there is none"
    assert teacher.preprocess["kind"] == "zca"


def test_defaults_are_those_of_the_recipe():
    args, recipe = Args().settings, TeacherRecipe()
    for field in dataclasses.fields(recipe):
        if field.name != "momentum":  # its default depends on the optimiser
            assert getattr(args, field.name) == getattr(recipe, field.name), field.name


def test_info(ddb: Callable, path: Path, tmp_path: Path):
    assert ddb(*train_tiny(tmp_path / "teachers", "--holdout", 0)).code == 0
    result = ddb("teacher", "info", tmp_path / "teachers")
    head, *rows = result.out.splitlines()
    assert head.split() == ["dataset", "student", "epochs", "preprocess", "holdout", "held-out", "test", "MB", "file"]
    assert len(rows) == 2
    one = ddb("teacher", "info", path).out.splitlines()[1]
    assert one.split() == [
        *("digits", STUDENT, "2", "meanstd", "0.1"),
        *(f"{read_teacher(path).accuracy:.3f}", f"{read_teacher(path).test_accuracy:.3f}", "0.00", str(path)),
    ]
    assert [row.split()[5] for row in rows].count("-") == 1, "nothing held out, no accuracy"


REFUSALS = {
    "dataset": (("--dataset", "digit"), "did you mean 'digits'"),
    "student": (("--student", "convnet-d3-w128"), "did you mean 'convnet-d3-w128-in'"),
    "too deep": (("--student", "convnet-d4-w8-bn"), "4 poolings leave no pixel"),
    "optimizer": (("--optimizer", "sdg"), "did you mean 'sgd'"),
    "optimizer for matrices": (("--optimizer", "muon"), "--optimizer muon: "),
    "optimizer with a closure": (("--optimizer", "lbfgs"), "--optimizer lbfgs has no option"),
    "option": (("--options", "eps=x"), "expected name=number"),
    "augmentation": (("--augmentation", "crop+filp"), "did you mean 'flip'"),
    "preprocess": (("--preprocess", "zac"), "'zac'"),
    "epochs": (("--epochs", 0), "--epochs 0"),
    "batch": (("--batch", -1), "--batch -1"),
    "holdout": (("--holdout", 1), "--holdout 1"),
    "schedule": (("--schedule", "step"), "step"),
    "size": (("--size", 16), "digits has a fixed size"),
    "device": (("--device", "gpu"), "--device"),
    "threads": (("--threads", -1), "expected at least 0"),
    "flag": (("--epoch", 3), "did you mean '--epochs'"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused(name: str, refused: Refused, tmp_path: Path):
    flags, *needles = REFUSALS[name]
    refused(["teacher", "--teachers", tmp_path / "teachers", *flags], *needles)


def test_sub_verb_and_empty_root(refused: Refused, tmp_path: Path):
    refused(["teacher", "inf"], "'inf'", "did you mean 'info'")
    refused(["teacher", "info", tmp_path / "nowhere"], f"{tmp_path / 'nowhere'}: holds no teachers")


def test_unwritable_root(refused: Refused, tmp_path: Path):
    (tmp_path / "file").touch()
    refused(train_tiny(tmp_path / "file"), "cannot write", "choose a folder")


def test_full_disk(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ddbench.runtime import tensors

    def full(*args: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    result = ddb(*train_tiny(tmp_path))
    assert result.code == 2
    assert "the disk is full" in result.err.splitlines()[-1]
    assert contents(tmp_path) == {}


def damaged(path: Path, **fields: object) -> None:
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        inner = json.loads(json.loads(handle.read(length))["__metadata__"]["ddbench"])
    save_file(load_file(path), path, metadata={"ddbench": json.dumps({**inner, **fields})})


@pytest.mark.parametrize(
    ("damage", "needle"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "not a whole safetensors file"),
        (lambda path: path.write_text("hello"), "not a whole safetensors file"),
        (lambda path: save_file({"w": torch.zeros(1)}, path), "ddbench did not write"),
        (lambda path: damaged(path, schema=7), "made by a newer ddbench"),
        (lambda path: damaged(path, class_names=[]), "'class_names' holds 0 entries"),
    ],
    ids=["truncated", "text", "foreign", "newer", "classes"],
)
def test_damaged_files(damage: Callable, needle: str, path: Path, refused: Refused, tmp_path: Path):
    damage(path)
    refused(["teacher", "info", tmp_path / "teachers"], str(path), needle)
    refused(train_tiny(tmp_path / "teachers"), str(path), needle, "remove the file")


def test_class_order(path: Path, refused: Refused, tmp_path: Path):
    """A file whose classes are in another order is not taken for the dataset's teacher."""
    damaged(path, class_names=list("1023456789"))
    refused(train_tiny(tmp_path / "teachers"), str(path), "in another order", "its class 0 is '1', here it is '0'")


def test_help_without_torch():
    code = (
        "import sys\nfrom ddbench.cli.main import run\n"
        "for argv in (['teacher', '--help'], ['teacher', 'info', '--help'], ['--help']):\n"
        "    try:\n        run(argv)\n    except SystemExit as stop:\n        assert not stop.code\n"
        "assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ddbench teacher --dataset cifar10" in done.stdout
    assert "  teacher " in done.stdout.split("usage: ddbench VERB")[1]


def test_killed(ddb: Callable, data_root: Path, tmp_path: Path):
    """SIGKILL while it trains: the same command goes on, and leaves the bytes of a run that was never killed."""

    def command(place: Path) -> list[object]:
        return train_tiny(place, "--epochs", 30, "--batch", 64)

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    # a checkpoint after every epoch instead of every 20 seconds
    train = "ddbench.teachers.train"
    process = halted(f"{train}:_Progress.save", 1, command(killed), data_root, f"{train}:CHECKPOINT_SECONDS=0")
    kill_when(process, lambda: bool(halting.seen(killed, "*.partial.safetensors")))
    assert not teacher_files(killed)
    result = ddb(*command(killed))
    assert result.code == 0, result.err
    assert "going on after epoch" in result.err
    assert ddb(*command(whole)).code == 0
    final = contents(killed, "cost.json", ".tmp")
    assert len(final) == 1
    assert final == contents(whole, "cost.json")


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Nothing to set."""


class Taught(Method[NoSettings]):
    """Random images of a method that wants a teacher."""

    config_class = NoSettings
    title = "taught"

    @classmethod
    def needs(cls, config: NoSettings) -> tuple[TrainedTeacher]:
        return (TrainedTeacher(),)

    def distilled(self) -> Distilled:
        assert self.context.given(TrainedTeacher).student == STUDENT
        return Distilled(images=self.context.random_images("x"), labels=self.context.hard_labels())


def test_distill_takes_the_flags(ddb: Callable, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``--teachers`` and ``--teacher-student`` reach the runner, which trains the teacher that is not there."""
    monkeypatch.setattr(start, "METHODS", Registry("method", None, {"taught": f"{__name__}:Taught"}))
    argv = [
        *("distill", "--method", "taught", "--ipc", 1, "--recipe", "none", "--out", tmp_path / "run"),
        *("--teachers", tmp_path / "teachers", *EAGER),
    ]
    refused([*argv, "--teacher-student", "convnt"], "unknown student 'convnt'")
    result = ddb(*argv, "--teacher-student", STUDENT)
    assert result.code == 0, result.err
    assert f"no teacher {STUDENT} of digits in {tmp_path / 'teachers'}" in result.err
    (path,) = teacher_files(tmp_path / "teachers")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["teacher"]["sha256"] == read_teacher(path).sha256


@pytest.mark.usefixtures("ctrl_c")
def test_what_a_killed_training_left_is_no_teacher(
    ddb: Callable, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Neither for ``info`` nor for the shell's pattern that is told for ``teacher join``."""
    root = tmp_path / "teachers"
    hold = train._Progress.hold

    def interrupted(*given: Any) -> None:
        hold(*given)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train._Progress, "hold", interrupted)
    assert ddb(*train_tiny(root, "--seed", 1)).code == 130
    (checkpoint,) = set(root.rglob("*.safetensors")) - {path}
    shell = glob.glob(f"{root}/digits/*-bn/*.safetensors")  # noqa: PTH207 (as a shell it passes hidden files over)
    assert shell == [str(path)]
    found = json.loads(ddb("info", root, "--json").out)
    assert found["settings"] == {"teachers": 1, "teachers that are not finished": 1}
    assert found["next"] == [
        f"ddbench teacher info {root}",
        "repeat its `ddbench teacher` command: it goes on where it was",
    ]
    told = json.loads(ddb("info", checkpoint, "--json").out)
    assert (told["what"], told["settings"]) == ("checkpoint of a teacher that is not finished", {"epochs done": 1})


def test_one_teacher_that_cannot_be_read_hides_no_other(ddb: Callable, path: Path, tmp_path: Path):
    damaged = path.with_name("0.safetensors")
    damaged.write_bytes(path.read_bytes()[:-1])
    listed = ddb("teacher", "info", tmp_path / "teachers")
    assert listed.code == 2
    assert str(path) in listed.out
    assert listed.err.startswith(f"ddbench: error: 1 of 2 teachers cannot be read: {damaged}: ")


def two_teachers(ddb: Callable, root: Path) -> Iterator[Path]:
    """A teacher, and then a better one."""
    assert ddb(*train_tiny(root)).code == 0
    (first,) = teacher_files(root)
    yield first
    assert ddb(*train_tiny(root, "--epochs", 5)).code == 0
    (second,) = set(teacher_files(root)) - {first}
    assert read_teacher(second).accuracy > read_teacher(first).accuracy
    yield second


def test_a_better_teacher_that_came_since(ddb: Callable, refused: Refused, random_run: Path, tmp_path: Path):
    """What was begun goes on with its teacher; where that is gone, the line says which file is asked for."""
    root, out = tmp_path / "teachers", tmp_path / "score.json"
    argv = ["evaluate", random_run, "--protocol", "kd-v1", "--students", STUDENT, "--epochs", 1, "--teachers", root]
    argv += ["--workers", 1, "--out", out, "--quiet", *EAGER]
    teachers = two_teachers(ddb, root)
    first = next(teachers)
    assert ddb(*argv, "--seeds", 1).code == 0
    next(teachers)
    more = ddb(*argv, "--seeds", 2)
    assert more.code == 0, more.err
    made = json.loads(out.read_text())
    assert len(made["runs"]) == 2
    sha256 = made["teacher"]["sha256"]
    assert sha256 == read_teacher(first).sha256
    kept = first.rename(tmp_path / "kept.safetensors")
    which = f"--teacher FILE, that of there ({STUDENT}, sha256 {sha256[:12]}), or choose another --out"
    refused([*argv, "--seeds", 3], str(out), "(teacher differs)", which)
    assert ddb(*argv, "--seeds", 3, "--teacher", kept).code == 0


def test_a_teacher_of_another_synsets_evaluation(ddb: Callable, refused: Refused, random_run: Path, tmp_path: Path):
    """It is not gone on with: the line says what the file is, not how to give a teacher that fits neither."""
    root, out, other = tmp_path / "teachers", tmp_path / "score.json", tmp_path / "zca"
    argv = ["--protocol", "kd-v1", "--students", STUDENT, "--epochs", 1, "--seeds", 1, "--workers", 1]
    argv += ["--teachers", root, "--out", out, "--quiet", *EAGER]
    assert ddb(*train_tiny(root)).code == 0
    assert ddb("evaluate", random_run, *argv).code == 0
    assert ddb(*random_tiny(other, "--preprocess", "zca")).code == 0
    refused(["evaluate", other, *argv], "protocol kd-v1 needs a teacher of digits with preprocess zca")
    assert ddb(*train_tiny(root, "--preprocess", "zca")).code == 0
    wanted = "holds runs of another evaluation (synset.sha256 differs); remove it or choose another --out"
    refused(["evaluate", other, *argv], str(out), wanted)


def test_killed_scores_and_a_better_teacher(
    ddb: Callable, refused: Refused, random_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Their file is written at the end only: the legs that were begun say the teacher; gone, it is asked for."""
    root, out = tmp_path / "teachers", tmp_path / "scores.json"
    argv = ["scores", random_run, "--protocol", "kd-v1", "--student", STUDENT, "--epochs", 1, "--teachers", root]
    argv += ["--cache", tmp_path / "cache", "--out", out, "--repeats", 2, "--workers", 1, "--quiet", *EAGER]
    teachers = two_teachers(ddb, root)
    first = next(teachers)

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before_the_last_legs:
        before_the_last_legs.setattr(trainings, "_train_random", killed)
        assert ddb(*argv).code == 130
    assert not out.exists()
    better, kept, sha256 = next(teachers), tmp_path / "kept.safetensors", read_teacher(first).sha256
    first.rename(kept)
    refused(argv, f"begun with a teacher (sha256 {sha256[:12]})", f"or begin anew with --teacher {better}")
    better.rename(tmp_path / "better.safetensors")
    refused(argv, f"was begun with a teacher (sha256 {sha256[:12]}) that is not in {root}; give --teacher FILE")
    for path, place in ((kept, first), (tmp_path / "better.safetensors", better)):
        path.rename(place)
    assert ddb(*argv).code == 0
    made = json.loads(out.read_text())
    assert made["teacher"] == sha256


def test_scores_and_a_better_teacher(ddb: Callable, refused: Refused, random_run: Path, tmp_path: Path):
    root = tmp_path / "teachers"
    argv = ["scores", random_run, "--protocol", "kd-v1", "--student", STUDENT, "--epochs", 1, "--teachers", root]
    argv += ["--cache", tmp_path / "cache", "--out", tmp_path / "scores.json", "--workers", 1, "--quiet", *EAGER]
    teachers = two_teachers(ddb, root)
    first = next(teachers)
    assert ddb(*argv, "--repeats", 2).code == 0
    next(teachers)
    assert ddb(*argv, "--repeats", 3).code == 0
    first.rename(tmp_path / "kept.safetensors")
    refused([*argv, "--repeats", 4], "(teacher differs)", "--teacher FILE, that of there (sha256 ")
