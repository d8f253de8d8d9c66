"""``ddbench relabel``: a teacher is found or trained, labels are stored and used, bad input is refused in one line."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EAGER, contents, evaluate_tiny, random_tiny
from safetensors.torch import load_file, save_file
from test_kill import halted, kill_when

from ddbench.runtime.files import file_hash

TEACHER = "convnet-d1-w4-bn"
EPOCHS = 3
Refused = Callable[..., str]


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A folder with a run of ``random`` and a store with one tiny teacher; copy it before changing it."""
    from ddbench.cli.main import run
    from ddbench.data.load import load_dataset
    from ddbench.runtime.progress import Console
    from ddbench.teachers.recipe import TeacherRecipe
    from ddbench.teachers.train import train_teacher

    root = tmp_path_factory.mktemp("taught")
    with contextlib.redirect_stdout(io.StringIO()):
        run([str(part) for part in random_tiny(root / "run", "--data", data_root)])
    train_teacher(
        root=root / "teachers",
        dataset=load_dataset("digits", data_root),
        data=data_root,
        student=TEACHER,
        recipe=TeacherRecipe(epochs=1),
        device="cpu",
        threads=1,
        compile="off",
        console=Console(quiet=True),
    )
    return root


@pytest.fixture
def place(taught: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(taught, tmp_path / "place"))


def relabel_tiny(place: Path, *more: object) -> list[object]:
    """A relabel command that takes a fraction of a second; later flags replace these."""
    given = {str(part) for part in more}
    base = [("--teachers", place / "teachers"), ("--epochs", EPOCHS)]
    flags = [part for pair in base if pair[0] not in given for part in pair]
    return ["relabel", place / "run", *flags, *EAGER, *more]


def rewrite(path: Path, **change: Any) -> None:
    """Change fields of a file's header."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["ddbench"])
    save_file(load_file(path), path, metadata={"ddbench": json.dumps({**header, **change})})


def teacher_of(place: Path) -> Path:
    return next((place / "teachers").glob("*/*/*.safetensors"))


def test_labels_are_made_and_used(ddb: Callable, place: Path):
    result = ddb(*relabel_tiny(place))
    assert result.code == 0, result.err
    path = place / "run" / "labels.safetensors"
    lines = result.out.splitlines()
    # 10 images of 64 bytes; 3 epochs x 10 images x 10 classes x 2 bytes.
    assert lines[0] == f"labels of 3 epochs x 10 images x 10 classes by {TEACHER}: 0.00 MB, 0.938 x the images' bytes"
    assert lines[1] == f"labels: {path}"
    assert lines[2] == f"next: ddbench evaluate {place / 'run'} --protocol fkd --epochs 3"
    assert f"teacher: {teacher_of(place)}" in result.err
    assert load_file(path)["logits"].shape == (3, 10, 10)
    cost = json.loads((place / "run" / "labels.cost.json").read_text())
    assert cost["epochs"] == EPOCHS
    assert cost["wall_seconds"] > 0

    scored = ddb(*evaluate_tiny(place / "run", "--protocol", "fkd", "--out", place / "score.json"))
    assert scored.code == 0, scored.err
    evaluation = json.loads((place / "score.json").read_text())
    assert evaluation["labels"]["bytes"] == evaluation["synset"]["bytes"]["labels"] - 10 == 600
    assert evaluation["labels"]["teacher"]["student"] == TEACHER

    again = ddb(*relabel_tiny(place, "--quiet"))
    assert (again.code, again.out, again.err) == (0, result.out, "")


def test_next_command_of_other_places_and_protocols(ddb: Callable, place: Path):
    out = place / "l.safetensors"
    run = place / "run"
    text = ddb(*relabel_tiny(place, "--out", out, "--quiet")).out
    assert text.splitlines()[-1] == f"next: ddbench evaluate {run} --protocol fkd --labels {out} --epochs 3"
    text = ddb(*relabel_tiny(place, "--protocol", "kd-v1", "--out", place / "kd.safetensors", "--quiet")).out
    assert text.splitlines()[-1].endswith('FILE.toml says name = "kd-v1-stored", base = "kd-v1" and labels = "stored"')
    mine = place / "mine.toml"
    mine.write_text('name = "kd-v1-stored"\nbase = "kd-v1"\nlabels = "stored"\nepochs = 2\n')
    scored = ddb(*evaluate_tiny(run, "--protocol", mine, "--labels", place / "kd.safetensors"))
    assert scored.code == 0, scored.err
    out = place / "mine.safetensors"
    text = ddb(
        "relabel", run, "--protocol", mine, "--teachers", place / "teachers", "--out", out, "--quiet", *EAGER
    ).out
    assert text.splitlines()[0].startswith("labels of 2 epochs")
    assert text.splitlines()[-1] == f"next: ddbench evaluate {run} --protocol {mine} --labels {out}"


def test_the_command_that_makes_missing_labels_names_the_synset(ddb: Callable, place: Path, refused: Refused):
    """A file that has another name than a run's is no run's folder."""
    run, bare, mine = place / "run", place / "bare.safetensors", place / "mine.toml"
    shutil.copy(run / "synset.safetensors", bare)
    mine.write_text('name = "kd-v1-stored"\nbase = "kd-v1"\nlabels = "stored"\nepochs = 2\n')
    for given, named in ((run, run), (run / "synset.safetensors", run), (bare, bare)):
        refused(evaluate_tiny(given, "--protocol", "fkd"), f"`ddbench relabel {named}`")
        words = refused(evaluate_tiny(given, "--protocol", mine), f"`ddbench relabel {named} --protocol {mine}`")
    command = words.partition("`ddbench ")[2].partition("`")[0].split()
    assert ddb(*command, "--teachers", place / "teachers", "--quiet", *EAGER).code == 0
    assert ddb(*evaluate_tiny(bare, "--protocol", mine, "--epochs", 2)).code == 0


def test_stored_labels_go_to_the_protocols_that_take_them(ddb: Callable, place: Path, refused: Refused):
    labels = place / "labels.safetensors"
    assert ddb(*relabel_tiny(place, "--out", labels)).code == 0
    argv = evaluate_tiny(place / "run", "--protocol", "hard-v1,fkd", "--labels", labels)
    done = ddb(*argv)
    assert done.code == 0, done.err
    names = {path.name.partition("-nonstandard")[0] for path in (place / "run" / "evaluations").glob("*.json")}
    assert names >= {"hard-v1", "fkd"}
    refused([*argv, "--protocol", "hard-v1,dc-legacy"], "--labels: protocol hard-v1 takes no stored labels")


def test_a_teacher_is_trained_where_there_is_none(ddb: Callable, place: Path):
    more = ("--teachers", place / "others", "--teacher-student", TEACHER)
    result = ddb(*relabel_tiny(place, *more))
    assert result.code == 0, result.err
    assert f"no teacher {TEACHER} of digits in {place / 'others'}" in result.err
    assert "training one first" in result.err
    assert len(list((place / "others").glob(f"digits/{TEACHER}/*.safetensors"))) == 1


def test_which_teacher(ddb: Callable, place: Path):
    """The flag's; else the synset's own; else that of an earlier try; else the best that fits."""
    first = teacher_of(place)
    better = first.with_name("better.safetensors")
    shutil.copy(first, better)
    curves = {"loss": [1.0], "train_accuracy": [1.0], "holdout_accuracy": [1.0]}
    rewrite(better, curves=curves)
    assert f"teacher: {better}" in ddb(*relabel_tiny(place, "--out", place / "a")).err
    assert f"teacher: {first}" in ddb(*relabel_tiny(place, "--teacher", first, "--out", place / "b")).err
    assert f"teacher: {first}" in ddb(*relabel_tiny(place, "--out", place / "b")).err, "that of the labels there"
    rewrite(place / "run" / "synset.safetensors", teacher={"sha256": file_hash(first), "student": TEACHER})
    assert f"teacher: {first}" in ddb(*relabel_tiny(place, "--out", place / "c")).err
    more = ("--teacher-student", TEACHER, "--out", place / "d")
    assert f"teacher: {better}" in ddb(*relabel_tiny(place, *more)).err


def test_kill(ddb: Callable, place: Path, data_root: Path):
    """kill -9 in the middle: the same command goes on and leaves the bytes of a run that was never killed."""
    killed, whole = place / "killed.safetensors", place / "whole.safetensors"
    argv = relabel_tiny(place, "--epochs", 300, "--out", killed)
    relabel = "ddbench.protocols.relabel"
    process = halted(f"{relabel}:write_json", 1, argv, data_root, f"{relabel}:SAVE_SECONDS=-1")
    kill_when(process, (place / ".killed.safetensors.partial.json").exists)
    assert not killed.exists()
    result = ddb(*argv)
    assert result.code == 0, result.err
    assert "going on at epoch" in result.err
    assert ddb(*relabel_tiny(place, "--epochs", 300, "--out", whole)).code == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert not [name for name in contents(place) if "partial" in name and not name.endswith(".tmp")]


BAD = {
    "run": (("{place}/none",), "none: no such synset"),
    "protocol": (("{place}/run", "--protocol", "fdk"), "'fdk'", "did you mean 'fkd'"),
    "own-labels": (("{place}/run", "--protocol", "hard-v1"), "hard-v1 takes its labels from the synset"),
    "epochs": (("{place}/run", "--epochs", 0), "--epochs 0: expected at least 1"),
    "seed": (("{place}/run", "--seed", -1), "--seed -1: expected at least 0"),
    "two-teachers": (("{place}/run", "--teacher", "x", "--teacher-student", TEACHER), "give one of the two"),
    "no-teacher": (("{place}/run", "--teacher", "{place}/x.safetensors"), "x.safetensors: no such file"),
    "synset-as-teacher": (
        ("{place}/run", "--teacher", "{place}/run/synset.safetensors"),
        "a ddbench-synset file, expected ddbench-teacher",
    ),
    "teacher-student": (("{place}/run", "--teacher-student", "convnet-d1-w4"), "'convnet-d1-w4'"),
    "teacher-too-deep": (("{place}/run", "--teacher-student", "convnet-d5-w4-bn"), "convnet-d5-w4-bn"),
    "device": (("{place}/run", "--device", "gpu"), "'gpu'"),
    "out-folder": (("{place}/run", "--out", "{place}/run"), "a folder, expected the name of a file"),
    "out-synset": (("{place}/run", "--out", "{place}/run/synset.safetensors"), "ddbench-synset", "another --out"),
    "out-below-file": (("{place}/run", "--out", "{place}/run/config.json/x"), "cannot write to"),
    "flag": (("{place}/run", "--epoch", 3), "--epoch", "did you mean '--epochs'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, place: Path, refused: Refused):
    argv, *needles = BAD[name]
    words = [str(part).format(place=place) for part in argv]
    refused(["relabel", *words, "--teachers", place / "teachers", *EAGER, "--quiet"], *needles)


@pytest.mark.parametrize(
    ("change", "needles"),
    [
        ({"class_names": [*"1023456789"]}, ("classes of digits in another order", "class 0 is '1'")),
        ({"dataset_fingerprint": "0" * 64}, ("fingerprint 000000000000",)),
        ({"preprocess": {"kind": "meanstd", "mean": [0.5], "std": [0.5]}}, ("its input is made by",)),
    ],
)
def test_teacher_of_something_else(change: dict[str, Any], needles: tuple[str, ...], place: Path, refused: Refused):
    rewrite(teacher_of(place), **change)
    refused([*relabel_tiny(place, "--teacher", teacher_of(place)), "--quiet"], "teachers/digits", *needles)


def test_own_teacher_is_missing(place: Path, refused: Refused):
    rewrite(place / "run" / "synset.safetensors", teacher={"sha256": "e" * 64, "student": TEACHER})
    refused([*relabel_tiny(place), "--quiet"], "own teacher", "eeeeeeeeeeee", "give --teacher FILE")


def test_teacher_beyond_float16(place: Path, refused: Refused):
    path = teacher_of(place)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    text = json.loads(raw[8 : 8 + length])["__metadata__"]["ddbench"]
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("bias") and tensors[name].shape == (10,))
    tensors[name][3] = 1e5
    save_file(tensors, path, metadata={"ddbench": text})
    refused([*relabel_tiny(place, "--teacher", path), "--quiet"], str(path), "65504 (float16)")


def damage(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
    elif how == "nan":
        raw = bytearray(path.read_bytes())
        raw[-2:] = torch.tensor(float("nan")).half().numpy().tobytes()
        path.write_bytes(raw)
    else:
        shutil.copy(path.with_name("synset.safetensors"), path)


DAMAGE = {
    "truncated": ("labels.safetensors: not a whole safetensors file",),
    "nan": ("labels.safetensors: the logits of epoch 2 hold NaN", "ddbench relabel"),
    "foreign": ("labels.safetensors: a ddbench-synset file, expected ddbench-labels",),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_labels(how: str, ddb: Callable, place: Path, refused: Refused):
    """Refused where they would be made again, and where they would be used."""
    assert ddb(*relabel_tiny(place, "--quiet")).code == 0
    damage(place / "run" / "labels.safetensors", how)
    refused([*relabel_tiny(place), "--quiet"], *DAMAGE[how])
    refused(evaluate_tiny(place / "run", "--protocol", "fkd"), *DAMAGE[how])


def test_labels_that_do_not_fit(ddb: Callable, place: Path, refused: Refused):
    """Fewer epochs than are trained, and labels of another synset."""
    assert ddb(*relabel_tiny(place, "--quiet", "--epochs", 2)).code == 0
    refused(evaluate_tiny(place / "run", "--protocol", "fkd"), "labels of 2 epochs", "trains 3")
    refused([*relabel_tiny(place), "--quiet"], "labels.safetensors holds labels of 2 epochs, not 3")
    refused([*relabel_tiny(place, "--seed", 5, "--epochs", 2), "--quiet"], "holds other labels (seed 0, not 5)")
    assert ddb(*random_tiny(place / "other", "--seed", 1)).code == 0
    labels = ("--labels", place / "run" / "labels.safetensors")
    refused(evaluate_tiny(place / "other", "--protocol", "fkd", "--epochs", 2, *labels), "labels of another synset")


def test_too_little_space(place: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch):
    """Told before a teacher is trained."""
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 100}))
    refused([*relabel_tiny(place, "--teachers", place / "none"), "--quiet"], "3 epochs x 10 images", "free some space")


def test_same_seed_same_bytes(ddb: Callable, place: Path):
    for name in ("a", "b"):
        assert ddb(*relabel_tiny(place, "--out", place / name)).code == 0
    assert (place / "a").read_bytes() == (place / "b").read_bytes()
    assert ddb(*relabel_tiny(place, "--out", place / "c", "--seed", 1)).code == 0
    assert (place / "c").read_bytes() != (place / "a").read_bytes()
