"""Atomic files, checked reads, seeds, tensors with a header, pickles, devices, trackers, progress."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import ddbench
from ddbench.runtime import device as devices
from ddbench.runtime import files, pickles, seeds, temporary
from ddbench.runtime.errors import UserError
from ddbench.runtime.pickles import load_pt
from ddbench.runtime.progress import Console
from ddbench.runtime.resources import Meter
from ddbench.runtime.tensors import open_tensors, read_finite, write_tensors
from ddbench.runtime.tracking import JsonLines, open_trackers

# Files


def test_atomic_write_replaces_or_leaves(tmp_path: Path):
    path = tmp_path / "deep" / "file.txt"
    files.write_text(path, "öne")
    assert path.read_text(encoding="utf-8") == "öne"

    def fail(place: Path) -> None:
        place.write_text("half")
        assert path.read_text(encoding="utf-8") == "öne", "the old file is whole while the new one is written"
        assert temporary.is_temporary(place)
        raise OSError(5, "broken")

    with pytest.raises(UserError, match=r"cannot write .*file\.txt: broken"):
        files.write_atomic(path, fail)
    assert path.read_text(encoding="utf-8") == "öne"
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]

    def bug(temporary: Path) -> None:
        temporary.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        files.write_atomic(path, bug)
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]


def test_listed_where_the_folder_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("b.part", "a.part", "c"):
        (tmp_path / name).touch()
    assert [path.name for path in files.listed(tmp_path, "*.part")] == ["a.part", "b.part"]
    assert files.listed(tmp_path / "none", "*.part") == []

    def gone(folder: Path, pattern: str) -> Iterator[Path]:
        raise FileNotFoundError(folder)
        yield

    monkeypatch.setattr(Path, "glob", gone)
    assert files.listed(tmp_path, "*.part") == []


def left_by(pid: int, path: Path) -> Path:
    """What a process of this machine has for ``path``."""
    whose, _, random, end = temporary.temporary(path).name.rsplit(".", 3)
    return path.with_name(f"{whose}.{pid}.{random}.{end}")


def test_a_folder_of_its_own_takes_the_place_of_a_killed_ones(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = left_by(ended.pid, tmp_path / "set")
    left.mkdir()
    (left / "archive.zip").touch()
    with temporary.own_folder(tmp_path / "set") as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_is_temporary():
    assert temporary.is_temporary(Path("x/.synset.safetensors.0a1b2c3d.123.0a1b2c3d.tmp"))
    for name in (".tmp", "notes.tmp", "a.1.00000000.tmp", ".hidden", ".x.y.00000000.tmp"):
        assert not temporary.is_temporary(Path(name))


def test_same_value_same_bytes(tmp_path: Path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None, "ö"]})
    files.write_json(tmp_path / "b.json", {"a": [1.5, None, "ö"], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert files.text_hash({"b": 1, "a": 2}) == files.text_hash({"a": 2, "b": 1}) != files.text_hash({"a": 2, "b": 2})
    assert files.canonical_json({"b": 1, "a": "ö"}) == '{"a":"ö","b":1}'
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            files.write_json(tmp_path / "c.json", {"a": value})
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"a": 1,',
            r"not a thing, or damaged \(not JSON from line 1, column 9\); copy it anew, or remove and make it",
        ),
        (b"", r"not a thing, or damaged \(empty\)"),
        (b"\xff\xfe", r"not a thing, or damaged \(not a text in UTF-8\)"),
        (b'{"a": NaN}', "NaN is not allowed"),
        (b"[" * 100_000, "not a thing"),
    ],
    ids=["torn", "empty", "binary", "nan", "deep"],
)
def test_read_json_refuses(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.json: .*{message}"):
        files.read_json(tmp_path / "x.json", "thing")
    with pytest.raises(UserError, match="no such thing"):
        files.read_json(tmp_path / "y.json", "thing")
    with pytest.raises(UserError, match="cannot read this thing"):
        files.read_json(tmp_path, "thing")


def test_ensure_writable(tmp_path: Path):
    files.ensure_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        files.ensure_writable(tmp_path / "file" / "below")


def test_a_folder_that_another_process_takes_away_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch, times = Path.touch, 0

    def late(path: Path) -> None:
        nonlocal times
        times += 1
        if times <= 2:
            path.parent.rmdir()
        touch(path)

    monkeypatch.setattr(Path, "touch", late)
    files.ensure_writable(tmp_path / "locks")
    assert times == 3
    assert list(tmp_path.rglob("*")) == [tmp_path / "locks"]


def test_a_file_that_another_process_takes_away_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It was there when its name was looked up, and is not when it is looked at."""
    (tmp_path / "sign").symlink_to("gone")
    monkeypatch.setattr(Path, "exists", lambda path: True)
    assert not files.plain_or_absent(tmp_path / "sign", "sign of life")
    assert not files.plain_or_absent(tmp_path / "nothing", "sign of life")


# Seeds


def test_derived_seeds_are_stable():
    assert seeds.derive(0, "expert", 3) == 1812638108712331144
    assert seeds.derive(0, "expert", 3) != seeds.derive(3, "expert", 0)
    assert 0 <= seeds.derive(-1, "x") < 2**63
    one, two = (torch.rand(3, generator=seeds.generator(1, "x", k)) for k in (0, 1))
    assert not torch.equal(one, two)
    assert torch.equal(one, torch.rand(3, generator=seeds.generator(1, "x", 0)))


def test_isolated_puts_the_state_back():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeds.isolated(3, "init"):
        first = torch.rand(2)
    with pytest.raises(RuntimeError), seeds.isolated(3, "init"):
        torch.rand(2).view(3)
    with seeds.isolated(3, "init"):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.get_rng_state(), before)
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002 (the global state is watched)
    seeds.generator(0, "x")
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


# Tensors with a header


def test_tensors_round_trip(tmp_path: Path):
    path = tmp_path / "t.safetensors"
    header = {"kind": "test", "schema": 2, "text": "ö", "list": [1, None]}
    tensors = {"a": torch.arange(6).view(2, 3).t(), "b": torch.tensor(1.5, requires_grad=True)}
    write_tensors(path, tensors, header)
    with open_tensors(path, "test", 2) as (handle, read):
        assert read == header
        assert torch.equal(read_finite(path, handle, "a"), tensors["a"])
        assert float(handle.get_tensor("b")) == 1.5
    raw = path.read_bytes()
    write_tensors(path, dict(reversed(tensors.items())), dict(reversed(header.items())))
    assert path.read_bytes() == raw
    with pytest.raises(UserError, match="schema 2 was made by a newer ddbench"), open_tensors(path, "test", 1):
        pass
    with pytest.raises(UserError, match="a test file, expected other"), open_tensors(path, "other", 2):
        pass
    with (
        pytest.raises(UserError, match=r"no such file \(expected a test file\)"),
        open_tensors(tmp_path / "x", "test", 1),
    ):
        pass


# Pickles


def test_load_pt(tmp_path: Path):
    content = {"a": [torch.arange(3), 1.5, "text", np.float64(2.5), np.int64(3)]}
    torch.save(content, tmp_path / "a.pt")
    found = load_pt(tmp_path / "a.pt")
    assert torch.equal(found["a"][0], torch.arange(3))
    assert found["a"][1:] == [1.5, "text", 2.5, 3]
    with pytest.raises(UserError, match=r"b\.pt: no such file"):
        load_pt(tmp_path / "b.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(UserError, match=r"module\.pt: refused, it is no plain file of tensors"):
        load_pt(tmp_path / "module.pt")


# Devices


def test_devices():
    assert devices.resolve_device("cpu") == torch.device("cpu")
    assert devices.resolve_device("auto").type in ("cpu", "cuda")
    for name in ("tpu", "cuda:", "cuda:x", "cpu:1", "", "cuda:-1"):
        with pytest.raises(UserError, match="--device"):
            devices.resolve_device(name)
    assert devices.cores() >= 1
    assert devices.versions()["torch"] == torch.__version__.partition("+")[0]


def test_compiler_choice_rests_on_the_work_alone(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    cpu, limit = torch.device("cpu"), devices.AUTO_COMPILE_FLOPS["cpu"]
    monkeypatch.setattr(devices, "compiler_available", lambda device: True)
    assert devices.choose_compiler("off", 1e30, cpu, said.append) is None
    assert devices.choose_compiler("auto", limit / 2, cpu, said.append) is None
    assert devices.choose_compiler("auto", limit * 2, cpu, said.append) is not None
    assert devices.choose_compiler("on", 1, cpu, said.append) is not None
    assert said == []
    monkeypatch.setattr(devices, "compiler_available", lambda device: False)
    assert devices.choose_compiler("on", 1, cpu, said.append) is None
    assert len(said) == 1
    assert "no C++ compiler" in said[0]
    with pytest.raises(UserError, match="'maybe'"):
        devices.choose_compiler("maybe", 1, cpu, said.append)


# Trackers and progress


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_metrics_on_a_full_disk(tmp_path: Path):
    """The file is named, and closing it, which writes again what is left, says nothing of its own."""
    tracker = JsonLines(tmp_path / "metrics.jsonl", 0)
    tracker.close()
    tracker._file = open("/dev/full", "w")  # noqa: SIM115 (the tracker closes it)
    with pytest.raises(UserError, match=r"^cannot write /dev/full: the disk is full"):
        tracker.log(1, {"loss": 1.0})
    tracker.close()


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonLines(path, 0)
    for iteration in range(1, 6):
        tracker.log(iteration, {"loss": 1 / iteration})
    tracker.close()
    whole = path.read_text()
    path.write_text(whole + '{"iteration": 6, "lo')
    tracker = JsonLines(path, 3)
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [1, 2, 3]
    for iteration in (4, 5):
        tracker.log(iteration, {"loss": 1 / iteration})
    tracker.log(6, {"loss": float("nan"), "other": float("-inf")})
    tracker.close()
    assert path.read_text() == whole + '{"iteration":6,"loss":null,"other":null}\n'


def test_what_was_not_written_here_ends_a_log(tmp_path: Path):
    """Whatever stands behind our lines is neither a traceback nor taken into memory; a whole last line is ended."""
    path, ours = tmp_path / "metrics.jsonl", '{"iteration":1}\n{"iteration":2}'
    for text in ("\n" + 100_000 * "[", "\n" + '{"iteration":3}' * 2, "\n\ud800", "\n[3]\n", ""):
        path.write_bytes(f"{ours}{text}".encode(errors="surrogatepass"))
        JsonLines(path, 9).close()
        assert path.read_text() == f"{ours}\n"
    with open(path, "r+b") as file:
        file.truncate(2**25)  # a hole: zeros without a line's end
    tracemalloc.start()
    JsonLines(path, 9).close()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.read_text() == f"{ours}\n"
    assert most < 2**20


def test_unknown_tracker(tmp_path: Path):
    with pytest.raises(UserError, match="--track: 'tb' is none of jsonl, wandb, tensorboard"):
        open_trackers("tb", tmp_path, {}, 0, Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_plain_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddbench.runtime.progress.PLAIN_SECONDS", 0.0)
    with Console().bar("work", 3, 1) as bar:
        bar.advance("loss 1.5")
        bar.advance("loss 0.5")
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) == 2
    assert lines[0].startswith("work: 2/3, ")
    assert lines[0].endswith("left loss 1.5")
    assert lines[1].startswith("work: 3/3 in ")
    with Console(quiet=True).bar("work", 1) as bar:
        bar.advance()
    assert capsys.readouterr().err == ""


def test_meter_adds_earlier_tries():
    meter = Meter(earlier_wall=100.0, earlier_cpu=50.0)
    report = meter.report("cpu", iterations=3)
    assert report["wall_seconds"] >= 100
    assert report["cpu_seconds"] >= 50
    assert report["peak_memory_bytes"] > 10**6
    assert (report["device"], report["iterations"], report["cores"]) == ("cpu", 3, os.cpu_count())


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    path = tmp_path / "a[1].json"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = left_by(dead.pid, path)
    none = left_by(int("9" * 15), path)  # no process has such a number
    alive = left_by(os.getppid(), path)
    other = left_by(dead.pid, tmp_path / "b.json")
    for file in (left, none, alive, other):
        file.write_text("part")
    files.write_json(path, {})
    assert not left.exists()
    assert not none.exists()
    assert alive.exists()
    assert other.exists()


def test_what_another_machine_writes_is_left_alone_until_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process number of another machine, or of another container, means nothing here."""
    path, number = tmp_path / "a.json", int("9" * 15)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(temporary, "machine", lambda: "elsewhere")
        fresh, old = left_by(number, path), left_by(number, path)
    for file in (fresh, old):
        file.write_text("part")
    day_before = time.time() - temporary.FOREIGN - 1
    os.utime(old, (day_before, day_before))
    files.write_json(path, {})
    assert fresh.exists()
    assert not old.exists()


KILLED_IN_THE_LIBRARY = """
import os, pathlib, sys
import torch
from ddbench.runtime import tensors

def save_file(made, path, metadata):  # as safetensors 0.8: a random name beside the file first
    pathlib.Path(path).with_name(".tmpAbC123").write_bytes(b"part")
    os._exit(9)

tensors.save_file = save_file
tensors.write_tensors(pathlib.Path(sys.argv[1]), {"a": torch.zeros(2)}, {"kind": "x", "schema": 1})
"""


def test_what_the_tensor_library_left_when_it_was_killed_is_swept_away(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    search = {**os.environ, "PYTHONPATH": str(Path(ddbench.__file__).parents[1])}
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_THE_LIBRARY, str(path)], env=search, check=False)
    assert killed.returncode == 9
    assert all(map(temporary.is_temporary, tmp_path.iterdir()))  # nothing that a run would take for a foreign file
    write_tensors(path, {"a": torch.zeros(2)}, {"kind": "x", "schema": 1})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_packed_pt_that_unfolds_to_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """torch packs nothing; what is stored as it is may be large."""
    torch.save(torch.zeros(1000), tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as source, zipfile.ZipFile(tmp_path / "packed.pt", "w", 8) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert load_pt(tmp_path / "packed.pt").shape == (1000,)
    monkeypatch.setattr(pickles, "MAX_DEFLATED", 1000)
    assert load_pt(tmp_path / "plain.pt").shape == (1000,)
    with pytest.raises(UserError, match=r"packed\.pt: unfolds from .* and torch packs nothing"):
        load_pt(tmp_path / "packed.pt")


@pytest.mark.parametrize(("kernels", "said"), [("AVX512", ", AVX512"), ("DEFAULT", "")])
def test_a_cpu_is_told_with_its_instructions(kernels: str, said: str, monkeypatch: pytest.MonkeyPatch):
    """Machines of one name differ in them, and the last bits with them."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    monkeypatch.setattr(devices, "_cpu_name", lambda: "Example 3000")
    assert devices.describe(torch.device("cpu")) == f"cpu: Example 3000{said}"
