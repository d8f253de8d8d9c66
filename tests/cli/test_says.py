"""What verbs print of foreign texts, and what numbers and places they refuse before work. Nothing computes."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ddbench.cli.distill import peeked
from ddbench.cli.parse import options_from_text
from ddbench.cli.places import export
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import parse_json
from ddbench.runtime.signs import TURN, turn

RED = "\x1b[31mred"


def tensors(path: Path, header: str) -> Path:
    """A safetensors file of one byte with this header of ours."""
    table = {"__metadata__": {"ddbench": header}, "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0")
    return path


def test_info_escapes_foreign_texts(ddb: Callable, tmp_path: Path):
    place = tensors(tmp_path / "t.safetensors", json.dumps({"kind": "ddbench-teacher", "dataset": RED}))
    told = ddb("info", place)
    assert told.code == 0
    assert "\x1b" not in told.out
    assert "\\x1b[31mred" in told.out
    assert json.loads(ddb("info", place, "--json").out)["settings"]["dataset"] == RED


@pytest.mark.parametrize("value", ["NaN", '"\\ud800"'])
def test_info_takes_no_header_that_it_cannot_print(ddb: Callable, tmp_path: Path, value: str):
    place = tensors(tmp_path / "t.safetensors", f'{{"kind": "ddbench-teacher", "dataset": {value}}}')
    for flags in ([], ["--json"]):
        assert ddb("info", place, *flags).code == 2


def test_half_a_character_is_no_text():
    assert parse_json('["\\ud83d\\ude00", "\\\\ud800"]') == ["\U0001f600", "\\ud800"]
    for text in ('["\\ud800"]', '{"\\udfff": 1}'):
        with pytest.raises(ValueError, match="half a character"):
            parse_json(text)


def test_inspect_escapes_foreign_texts(ddb: Callable, tmp_path: Path):
    arrays = {"images": np.zeros((2, 3, 8, 8), np.uint8), "labels": np.array([0, 1]), RED: np.zeros(2)}
    np.savez(tmp_path / "x.npz", **arrays)
    told = ddb("import", tmp_path / "x.npz", "--inspect")
    assert told.code == 0
    assert "\x1b" not in told.out
    assert "\\x1b[31mred" in told.out


def test_data_check_escapes_names_of_classes(ddb: Callable, tmp_path: Path):
    for split in ("train", "test"):
        for name in (RED, "b"):
            folder = tmp_path / "mine" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8), (40 * number, len(name), len(split))).save(folder / f"{number}.png")
    told = ddb(
        *("data", "check", f"folder:{tmp_path}/mine", "--size", 8, "--data", tmp_path / "data"),
        *("--out", tmp_path / "picture.png"),
    )
    assert told.code == 0, told.err
    assert "\x1b" not in told.out
    assert "\\x1b[31mred" in told.out


def a_teacher(path: Path) -> SimpleNamespace:
    numbers = {"holdout": 0.1, "accuracy": None, "test_accuracy": 0.5, "bytes": 1}
    return SimpleNamespace(dataset=RED, student="s", recipe={}, preprocess={"kind": "zca"}, path=path, **numbers)


def a_model(path: Path) -> SimpleNamespace:
    numbers = {"side": 8, "classes": 2, "parameters": 1, "loss": None}
    return SimpleNamespace(kind="k", dataset=RED, recipe={}, folder=path, **numbers)


def a_store(path: Path) -> SimpleNamespace:
    recipe = SimpleNamespace(epochs=1, kind="sgd", lr=0.1, preprocess="zca", holdout=0.1)
    return SimpleNamespace(header={"dataset": RED, "student": "s"}, recipe=recipe, experts={}, indices=[], folder=path)


@pytest.mark.parametrize(
    ("verb", "reader", "found"),
    [
        ("teacher", "ddbench.teachers.store.read_teacher", a_teacher),
        ("diffusion", "ddbench.diffusion.store.read_model", a_model),
        ("buffer", "ddbench.experts.store.read_store", a_store),
    ],
)
def test_tables_escape_foreign_texts(
    ddb: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    reader: str,
    found: Callable[[Path], SimpleNamespace],
):
    """Headers of such files are checked for their types only."""
    place = tmp_path / "one"
    if verb == "teacher":
        place.touch()
    else:
        place.mkdir()
        (place / "manifest.json").touch()
    monkeypatch.setattr(reader, found)
    told = ddb(verb, "info", place)
    assert told.code == 0, told.err
    assert "\x1b" not in told.out
    assert "\\x1b[31mred" in told.out


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_options_are_numbers_that_can_be_recorded(value: str):
    with pytest.raises(UserError, match=f"dampening={value}"):
        options_from_text([f"dampening={value}"])


@pytest.mark.parametrize("ipc", ["10", "+10", "1_0"])
def test_the_recipe_is_that_of_the_budget(ipc: str):
    """However the number is typed that the full parse takes."""
    chosen, _ = peeked(["--method", "mtt", "--dataset", "cifar10", "--ipc", ipc])
    assert chosen.recipe is not None
    assert chosen.recipe.name == "cifar10-ipc10"


@pytest.mark.parametrize("seconds", ["nan", "inf", "0"])
def test_plan_measures_for_some_seconds(ddb: Callable, seconds: str):
    assert f"--seconds {seconds}" in ddb("plan", "--seconds", seconds, "evaluate", "nowhere").err


def test_slurm_reads_the_folder_of_logs_as_one_word(ddb: Callable, tmp_path: Path):
    logs = tmp_path / "my logs"
    logs.mkdir()
    assert f'#SBATCH --output="{logs}/ddbench-evaluate-%j.log"\n' in ddb("slurm", "--logs", logs, "evaluate", "r").out


@pytest.mark.parametrize(
    ("flag", "value"), [("--time", "\u0663:00:00"), ("--memory", "1\u0663G"), ("--gpus", "1\u0663")]
)
def test_slurm_takes_its_own_digits_only(ddb: Callable, flag: str, value: str):
    assert flag in ddb("slurm", flag, value, "evaluate", "r").err


def test_no_turn_waits_for_a_link_that_leads_nowhere(tmp_path: Path):
    (tmp_path / f"run{TURN}").symlink_to(tmp_path / "gone")
    said: list[str] = []

    def take() -> None:
        try:
            with turn(tmp_path / "run", "run"):
                said.append("taken")
        except UserError as error:
            said.append(str(error))

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(10)
    (tmp_path / f"run{TURN}").unlink(missing_ok=True)
    assert said, "it waits for ever"
    assert "leads nowhere" in said[0]


def test_a_diffusion_model_leaves_broken_images_out_where_advised(ddb: Callable, tmp_path: Path):
    """The refusal of broken files names the flag."""
    told = ddb("diffusion", "train", "--dataset", f"folder:{tmp_path}/none", "--size", 8, "--skip-broken")
    assert "--skip-broken" not in told.err


def test_no_samples_are_drawn_for_a_folder(ddb: Callable, tmp_path: Path):
    assert "a folder" in ddb("diffusion", "sample", tmp_path / "none", "--out", tmp_path).err


def test_the_next_command_says_where_own_images_are(tmp_path: Path):
    for name, flags in (
        ("digits", ""),
        ("folder:theirs", " --dataset folder:PATH"),
        ("npz:a.npz", " --dataset npz:PATH"),
    ):
        about = {"kind": "ddbench-hub", "synset": {"kind": "ddbench-synset", "dataset": name}}
        (tmp_path / "synset.json").write_text(json.dumps(about))
        found = export(tmp_path)
        assert found is not None
        assert found.next[0] == f"ddbench import {tmp_path}{flags} --out runs/NAME"


def test_the_next_pull_says_where_own_images_are(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "synset.json").write_text(json.dumps({"kind": "ddbench-hub"}))
    monkeypatch.setattr("ddbench.hub.read.open_hub", lambda place: SimpleNamespace(dataset="folder:theirs"))
    monkeypatch.setattr("ddbench.hub.read.check_whole", lambda place: None)
    monkeypatch.setattr("ddbench.hub.remote.push", lambda *args, **kwargs: "there")
    monkeypatch.setattr("ddbench.runtime.hub_library.library", lambda need: None)
    told = ddb("push", tmp_path, "me/theirs")
    assert told.out.splitlines()[-1] == "next: ddbench pull me/theirs --out runs/theirs --dataset folder:PATH"
