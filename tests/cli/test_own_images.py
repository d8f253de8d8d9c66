"""Images of one's own on the command line: named wrongly, lying elsewhere, gone; a synset of them handed on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import EAGER, TINY, distill_tiny, evaluate_tiny
from PIL import Image

import ddbench
from ddbench.data.load import load_dataset
from ddbench.decoders.multi_formation import formation
from ddbench.exchange.write import lost_in_pixels
from ddbench.graphs.read import load_graphs, write_compact
from ddbench.runtime.jobs import WorkerDied, run_jobs
from ddbench.synset import read_synset

MINE = '''
from dataclasses import dataclass

from ddbench.config import setting
from ddbench.methods.base import Distilled, Method


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    group: int = setting(8, at_least=1)
    """Images."""


class Mine(Method[MineConfig]):
    config_class = MineConfig
    title = "Mine"

    def distilled(self):
        return Distilled(images=self.context.random_images("mine", 0), labels=self.context.hard_labels())
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with ``own/``, images of two classes, and ``own.npz``, the same as arrays."""
    numbers = np.random.default_rng(0)
    folder = tmp_path / "place"
    images = numbers.integers(0, 256, (20, 8, 8), dtype=np.uint8)
    for index, image in enumerate(images):
        path = folder / "own" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    np.savez(folder / "own.npz", images=images, labels=np.arange(20) % 2)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "needle"),
    [
        ("own", "did you mean 'folder:own'?"),
        ("own.npz", "did you mean 'npz:own.npz'?"),
        ("npz:own", "own is a folder, expected an npz file; a folder of images is folder:own"),
        ("folder:own.npz", "own.npz is a file, expected a folder of images; a file of arrays is npz:own.npz"),
        ("folder:own/a", "0 class folder(s) and 10 image file(s) found, expected at least two classes"),
        ("folder:own/a", "is this the folder of one class? Then name the one above it"),
        ("folder:gone", "gone is no folder, neither here"),
    ],
)
def test_what_must_be_meant(place: Path, refused: Callable, name: str, needle: str):
    size = () if "npz:" in name else ("--size", 8)
    refused(("distill", "--method", "random", "--dataset", name, "--ipc", 1, *size, "--quiet"), needle)


def test_another_size_is_told_as_such(place: Path, ddb: Callable, refused: Callable):
    own = ("--dataset", "folder:own", "--student", TINY, "--quiet", *EAGER)
    run = ("distill", "--method", "random", "--ipc", 1, "--out", "run", *own)
    assert ddb(*run, "--size", 8).code == 0
    refused((*run, "--size", 16), "run holds another run: dataset_fingerprint", "or are read with another --size")
    refused(("evaluate", "run", "--size", 16), "--size 16: the synset has images", "with 8 pixels; leave --size out")
    assert ddb("buffer", "--experts", 1, "--epochs", 2, "--batch", 8, *own, "--size", 8).code == 0
    mtt = ("distill", "--method", "mtt", "--recipe", "none", "--ipc", 1, *own)
    refused((*mtt, "--size", 16), "is of images of 8 pixels (--size), here they have 16")


@pytest.mark.parametrize(("kind", "size"), [("folder:own", ("--size", 8)), ("npz:own.npz", ())])
def test_data_that_lie_elsewhere_are_found_in_the_data_folder(
    place: Path, tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch, kind: str, size: tuple[object, ...]
):
    base = ("distill", "--method", "random", "--dataset", kind, *size, "--ipc", 1, "--out", "run", "--quiet")
    assert ddb(*base, *EAGER).code == 0
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    score = evaluate_tiny(place / "run", "--students", "mlp-d1-w8")
    assert ddb(*score).code == 2
    scored = ddb(*score, "--data", place)
    assert scored.code == 0, scored.err


def test_graphs_that_lie_elsewhere_are_found_in_the_data_folder(tmp_path: Path):
    write_compact(tmp_path / "set.npz", load_graphs("graphs:made"))
    (tmp_path / "made").mkdir()  # in the way of nothing
    for name in ("graphs:set.npz", "graphs:made"):
        assert load_dataset(name, tmp_path, modality="graph").spec.classes == 2


@pytest.mark.parametrize("format", ["png", "grid", "npz"])
def test_an_export_needs_no_real_images(place: Path, ddb: Callable, format: str):
    made = ("distill", "--method", "random", "--dataset", "folder:own", "--size", 8, "--ipc", 1, "--out", "run")
    assert ddb(*made, "--quiet", *EAGER).code == 0
    shutil.rmtree("own")
    written = ddb("export", "run", "--out", "out", "--format", format)
    assert (written.code, written.err) == (0, "")
    assert "note" not in written.out  # real pixels with hard labels: a picture is all of them


@pytest.mark.parametrize(("format", "file"), [("npz", "synset.npz"), ("hub", "")])
def test_an_import_names_the_place_where_the_images_are(place: Path, ddb: Callable, format: str, file: str):
    """What was distilled from an absolute path of another machine could be imported and not evaluated."""
    if format == "hub":
        pytest.importorskip("pyarrow.parquet")
    made = (
        "distill",
        "--method",
        "random",
        "--dataset",
        f"folder:{place}/own",
        "--size",
        8,
        "--ipc",
        1,
        "--out",
        "run",
    )
    assert ddb(*made, "--quiet", *EAGER).code == 0
    assert ddb("export", "run", "--out", "out", "--format", format).code == 0
    given = ("import", Path("out") / file, "--dataset", "folder:moved", "--size", 8, "--out")
    (place / "moved").symlink_to("own")
    assert ddb(*given, "same").code == 0
    assert Path("same/synset.safetensors").read_bytes() == Path("run/synset.safetensors").read_bytes()
    (place / "moved").unlink()
    (place / "own").rename("moved")
    assert ddb(*given, "back").code == 0
    assert read_synset(Path("back/synset.safetensors")).dataset == "folder:moved"
    assert ddb(*evaluate_tiny(Path("back"))).code == 0


def test_pictures_say_of_what_they_are(place: Path, ddb: Callable):
    """An import of the pictures would show them to a student through another preprocess, patches as whole images."""
    made = ("distill", "--method", "random", "--dataset", "digits", "--ipc", 1, "--preprocess", "zca", "--out", "run")
    assert ddb(*made, "--quiet", *EAGER).code == 0
    said = "note: 8-bit pixels, without the preprocess that a student sees them through; --format npz has all of it"
    assert said in ddb("export", "run", "--out", "png").out
    whole = read_synset(Path("run/synset.safetensors"))
    usual = {"kind": "meanstd", "mean": [0.3067], "std": [0.3767]}
    assert lost_in_pixels(replace(whole, preprocess=usual)) == ""
    stitched = replace(whole, preprocess=usual, patches=2, teacher={"sha256": 64 * "0"})
    assert lost_in_pixels(stitched) == "how many patches they are stitched of, the teacher"
    several = replace(whole, preprocess=usual, decoder=formation(2))
    assert lost_in_pixels(several) == "that each is cut at use (--decode-factor 2)"


def test_pictures_say_what_they_leave_out(mtt_run: Path, tmp_path: Path, ddb: Callable):
    said = ddb("export", mtt_run, "--out", tmp_path / "png").out
    assert "note: 8-bit pixels, without what of the images lies between or beyond them, the learned rate;" in said
    assert "note" not in ddb("export", mtt_run, "--out", tmp_path / "npz", "--format", "npz").out


def test_a_learned_rate_that_trains_nothing_is_told_at_once(buffers: Path, tmp_path: Path, ddb: Callable):
    argv = [part for part in distill_tiny(buffers, tmp_path / "run", "--lr-lr", 1e6) if part != "--quiet"]
    argv[argv.index("--iterations") + 1] = 1
    found = ddb(*argv)
    rate = ddbench.load(tmp_path / "run").learned_lr
    assert found.code == 0
    assert isinstance(rate, float)
    assert rate <= 0
    assert f"warning: the learned learning rate is {rate:g}, which trains nothing" in found.err


def test_settings_without_a_docstring_have_a_plain_head(tmp_path: Path, ddb: Callable, tables_kept: None):
    (tmp_path / "mine.py").write_text(MINE)
    text = ddb("distill", "--method", "mine", "--method-file", tmp_path / "mine.py", "--help").out
    assert "\nMineConfig:\n" in text


def leave(shared: object, job: object) -> None:
    raise SystemExit(1)


def test_a_worker_that_cannot_start_is_not_called_short_of_memory():
    with pytest.raises(WorkerDied, match="__main__"):
        list(run_jobs(f"{__name__}:leave", None, [1, 2], 2))


def test_a_submission_is_shown_without_its_files(random_run: Path, tmp_path: Path, ddb: Callable):
    assert ddb(*evaluate_tiny(random_run)).code == 0
    plan = ddbench.submit(random_run, tmp_path / "board", dry_run=True)
    assert plan.attachments
    assert "attachments" not in repr(plan)
    assert TINY in repr(plan)
