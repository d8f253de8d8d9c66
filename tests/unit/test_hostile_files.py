"""Every reader against files that are no plain files, empty, endless or too deep: one line at once, nothing written."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome

from ddbench.runtime import files
from ddbench.runtime.errors import UserError

SECONDS = 10


@contextmanager
def at_once() -> Iterator[None]:
    """End a reader that waits (for a writer of a pipe) or reads without end."""

    def stop(*_: Any) -> None:
        raise AssertionError(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (make_pipe, "named pipe"),
    "link to a pipe": (link_to_pipe, "named pipe"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "device"),
    "socket": (make_socket, "socket"),
    "folder": (Path.mkdir, "folder"),
    "link to nothing": (lambda path: path.symlink_to("nowhere"), ""),
    "empty": (Path.touch, ""),
}


def _tensors(path: Path) -> None:
    from ddbench.runtime.tensors import open_tensors

    with open_tensors(path, "test", 1):
        pass


def _recipes(path: Path) -> Any:
    from ddbench.distillation.recipes import choose_recipe

    return choose_recipe(str(path), "mtt", {})


def _image(path: Path) -> Any:
    from ddbench.data.images import read_image

    return read_image(path, 3, 8)


def _stl10(path: Path) -> Any:
    from ddbench.data.arrays import _stl10
    from ddbench.data.specs import DATASETS

    path.with_name("train_y.bin").write_bytes(b"\1")
    return _stl10(path.parent, "train", DATASETS["stl10"])


def _readers() -> dict[str, tuple[str, Callable[[Path], Any]]]:
    """Name -> the name of a file that the reader takes, and the reader."""
    from ddbench.data.arrays import _usps
    from ddbench.data.idx import read_idx
    from ddbench.data.load import load_dataset
    from ddbench.data.specs import DATASETS
    from ddbench.exchange.read import _from_npz
    from ddbench.experts.store import read_store
    from ddbench.leaderboard.attachments import read_header
    from ddbench.leaderboard.images import published_png
    from ddbench.leaderboard.plans import read_plan
    from ddbench.leaderboard.schema import read_result
    from ddbench.protocols.labels import read_labels
    from ddbench.protocols.protocol import read_protocol
    from ddbench.registry import load_file
    from ddbench.runtime.pickles import load_pt
    from ddbench.synset import read_synset
    from ddbench.teachers.store import read_teacher

    return {
        "json": ("x.json", lambda path: files.read_json(path, "thing")),
        "toml": ("x.toml", lambda path: files.read_toml(path, "thing", 1000) or files.read_json(path, "thing")),
        "hash": ("x", lambda path: files.file_hash(path) and files.read_json(path, "thing")),
        "tensors": ("x.safetensors", _tensors),
        "pt": ("x.pt", load_pt),
        "synset": ("x.safetensors", read_synset),
        "teacher": ("x.safetensors", read_teacher),
        "labels": ("x.safetensors", read_labels),
        "header": ("x.safetensors", lambda path: read_header(path, "ddbench-synset")),
        "manifest": ("manifest.json", lambda path: read_store(path.parent)),
        "result": ("x.json", read_result),
        "preview": ("x.png", published_png),
        "plan": ("x.toml", read_plan),
        "protocol": ("x.toml", read_protocol),
        "recipe": ("x.toml", _recipes),
        "image": ("x.png", _image),
        "idx": ("x-ubyte", lambda path: read_idx(path, 3)),
        "idx.gz": ("x-ubyte.gz", lambda path: read_idx(path, 3)),
        "npz": ("x.npz", _from_npz),
        "own npz": ("x.npz", lambda path: load_dataset(f"npz:{path}", path.parent)),
        "own parquet": ("train.parquet", lambda path: load_dataset(f"hub:{path.parent}", path.parent, size=8)),
        "usps": ("usps.bz2", lambda path: _usps(path, DATASETS["usps"])),
        "stl10": ("train_X.bin", _stl10),
        "medmnist": ("bloodmnist.npz", lambda path: load_dataset("bloodmnist", path.parent)),
        "method file": ("x.py", lambda path: load_file(path) and files.read_json(path, "empty is a module")),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_readers(kind: str, tmp_path: Path):
    make, word = KINDS[kind]
    for number, (reader, (name, read)) in enumerate(_readers().items()):
        place = tmp_path / str(number)
        place.mkdir()
        make(place / name)
        with at_once(), pytest.raises(UserError) as caught:
            read(place / name)
        message = str(caught.value)
        assert name in message, reader
        assert "\n" not in message, reader
        assert word in message, (reader, message)


@pytest.mark.parametrize("kind", ["pipe", "endless device", "folder"])
def test_what_is_appended_to_or_taken(kind: str, tmp_path: Path):
    from ddbench.runtime.signs import turn
    from ddbench.runtime.tracking import JsonLines

    for name, use in (
        ("it.turn", lambda path: turn(path.with_suffix(""), "it").__enter__()),
        ("metrics.jsonl", lambda path: JsonLines(path, 0)),
    ):
        KINDS[kind][0](tmp_path / name)
        with at_once(), pytest.raises(UserError, match="no plain file"):
            use(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_of_an_evaluation_is_passed_over(kind: str, tmp_path: Path):
    from ddbench.evaluation.parts import read_head, read_parts

    KINDS[kind][0](tmp_path / "run-0.part")
    KINDS[kind][0](tmp_path / "head.json") if kind != "link to a pipe" else None
    with at_once():
        assert read_parts(tmp_path, lambda record: None) == []
        assert read_head(tmp_path) is None


# The contents


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1e999}', "a: Infinity (or a number out of range)"),
        ('{"a": [0, -1e999]}', "a.1: Infinity"),
        ('{"a": NaN}', "NaN is not allowed"),
        (f'{{"a": {"9" * 400}}}', "a: a number of more than 300 digits"),
        (f'{{"a": {"9" * 5000}}}', "not a thing"),
        ("[" * 70 + "]" * 70, "nested more than 64 deep"),
        ('{"a":' * 200_000, "nested more than 64 deep"),
        (f"[{'[],' * 2_000_001}0]", "more than 4,000,000 parts"),
    ],
    ids=["inf", "minus inf", "nan", "huge", "huger", "deep", "deeper", "many"],
)
def test_json_out_of_bounds(text: str, told: str, tmp_path: Path):
    (tmp_path / "x.json").write_text(text)
    with at_once(), pytest.raises(UserError) as caught:
        files.read_json(tmp_path / "x.json", "thing")
    assert told in str(caught.value)
    assert len(str(caught.value)) < 400


def test_json_within_bounds(tmp_path: Path):
    value = {"a": [1.5, -(10**299), 1e308, None, True, "NaN"], "b": {}}
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json", "thing") == value
    (tmp_path / "x.json").write_text("[" * 64 + "]" * 64)
    files.read_json(tmp_path / "x.json", "thing")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"a = {'[' * 400}{']' * 400}", "nested more than 64 deep"),
        (f"a = {'[' * 20_000}", "nested more than 64 deep"),
        ("a" + ".a" * 400 + " = 1", "nested more than 64 deep"),
        (f"a = {'9' * 400}", "a: a number of more than 300 digits"),
        (f"a = {'9' * 5000}", "not a"),
        ("a = ", "not TOML"),
    ],
)
def test_toml_out_of_bounds(text: str, told: str, tmp_path: Path):
    from ddbench.leaderboard.plans import read_plan
    from ddbench.protocols.protocol import read_protocol

    (tmp_path / "x.toml").write_text(text)
    for read in (read_plan, read_protocol, _recipes):
        with at_once(), pytest.raises(UserError) as caught:
            read(tmp_path / "x.toml")
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


CELL = '[[cells]]\nmethod = "mtt"\ndataset = "digits"\n'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("ipc = []", "ipc is []"),
        ("ipc = 1\nprotocols = []", "protocols is an empty list"),
        ("ipc = 1\nrun_seeds = []", "expected run_seeds from 0 on"),
        ("ipc = 1\nminutes = []", "minutes is []"),
        ("ipc = 1\nminutes = nan", "minutes is nan"),
        ("ipc = 1\nseeds = 100000000000", "at most 1,000"),
        (f"ipc = {list(range(1, 3000))}\nrun_seeds = {list(range(3000))}", "more than 10,000 cells"),
    ],
)
def test_plans_out_of_bounds(body: str, told: str, tmp_path: Path):
    from ddbench.leaderboard.plans import read_plan

    (tmp_path / "x.toml").write_text(CELL + body)
    with at_once(), pytest.raises(UserError) as caught:
        read_plan(tmp_path / "x.toml")
    assert told in str(caught.value)


def test_a_header_of_tensors_that_is_out_of_bounds(tmp_path: Path):
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    for header in (
        '{"kind": "test", "schema": 1, "a": 1e999}',
        '{"kind": "test", "schema": 1, "a": ' + "9" * 400 + "}",
    ):
        save_file({"a": torch.zeros(1)}, path, metadata={"ddbench": header})
        with pytest.raises(UserError, match=r"its header is not JSON .*a: "):
            _tensors(path)
    path.write_bytes((2**25).to_bytes(8, "little") + b"{" + b" " * 2**25)
    with at_once(), pytest.raises(UserError, match="not a whole safetensors file"):
        _tensors(path)


# The verbs


def test_verbs_refuse_a_pipe_and_change_nothing(tmp_path: Path, ddb: Callable[..., Outcome], random_run: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for ending in (".toml", ".py", ".pt", ".npz", ".sqlite"):
        (tmp_path / f"pipe{ending}").symlink_to(pipe)
    before = names(tmp_path)
    out = tmp_path / "out"
    for argv in (
        ("evaluate", random_run, "--protocol", tmp_path / "pipe.toml"),
        ("evaluate", pipe),
        ("evaluate", random_run, "--protocol", "fkd", "--labels", pipe),
        ("distill", "--method", "mtt", "--recipe", tmp_path / "pipe.toml", "--ipc", 1, "--out", out),
        ("distill", "--method", "x", "--method-file", tmp_path / "pipe.py", "--ipc", 1, "--out", out),
        ("distill", "--method", "random", "--dataset", f"folder:{pipe}", "--size", 8, "--ipc", 1, "--out", out),
        ("distill", "--method", "random", "--dataset", "digits", "--ipc", 1, "--out", pipe),
        ("import", tmp_path / "pipe.pt", "--dataset", "digits", "--out", out),
        ("import", tmp_path / "pipe.npz", "--dataset", "digits", "--out", out),
        ("export", random_run, "--format", "npz", "--out", pipe / "x"),
        ("reproduce", tmp_path / "pipe.toml", "--out", out),
        ("relabel", random_run, "--teacher", pipe),
        ("teacher", "info", pipe),
        ("leaderboard", "build", "--leaderboard", pipe),
    ):
        with at_once():
            result = ddb(*argv)
        assert result.code == 2, (argv, result.err)
        assert result.err.count("\n") == 1, (argv, result.err)
        assert names(tmp_path) == before, argv


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize("name", ["config.json", "synset.safetensors", "preview.png", "cost.json"])
def test_a_pipe_in_a_run(name: str, ddb: Callable[..., Outcome], random_run: Path, tmp_path: Path):
    (random_run / name).unlink()
    os.mkfifo(random_run / name)
    before = names(random_run)
    for argv in (
        ("evaluate", random_run, "--seeds", 1, "--epochs", 1, "--quiet"),
        ("submit", random_run, "--leaderboard", tmp_path / "board", "--dry-run"),
    ):
        if name in ("preview.png", "cost.json", "config.json") and argv[0] == "evaluate":
            continue  # not read by it
        with at_once():
            result = ddb(*argv)
        assert "Traceback" not in result.err
        assert names(random_run) == before


def test_a_pipe_in_a_board_and_a_store(tmp_path: Path, buffers: Path, ddb: Callable[..., Outcome]):
    row = tmp_path / "board" / "results" / "digits" / "ipc1" / "mtt" / "0123456789abcdef.json"
    row.parent.mkdir(parents=True)
    os.mkfifo(row)
    for verb in ("build", "check", "show"):
        with at_once():
            result = ddb("leaderboard", verb, "--leaderboard", tmp_path / "board")
        assert result.code == 2, result.err
        assert row.name in result.err
    expert = next(buffers.rglob("expert_00000.safetensors"))
    expert.unlink()
    os.mkfifo(expert)
    with at_once():
        result = ddb("buffer", "verify", buffers)
    assert result.code != 0
    assert "Traceback" not in result.err
