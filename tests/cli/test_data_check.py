"""``ddbench data check``: what it tells and draws, of every kind of dataset; a hub is a stand-in on this machine."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import evaluate_tiny, random_tiny
from hub_server import TOKEN, Hub, serving
from PIL import Image

from ddbench.graphs.made import made_graphs
from ddbench.graphs.read import Source, write_compact
from ddbench.graphs.splits import Split

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def png(side: int = 10) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def make_folder(root: Path) -> None:
    for part in ("train", "test"):
        for name, count in (("cat", 6), ("dog", 2)):
            for number in range(count):
                path = root / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png())
    (root / "train" / "cat" / "0.png").write_bytes((root / "train" / "cat" / "1.png").read_bytes())
    (root / "test" / "dog" / "0.png").write_bytes((root / "train" / "dog" / "1.png").read_bytes())
    (root / "train" / "cat" / "notes.txt").write_text("no image")


def test_digits(ddb: Callable, tmp_path: Path):
    found = ddb("data", "check", "digits")
    assert (found.code, found.err) == (0, "")
    for part in (
        "digits: 10 classes, 1,297 training and 500 test images",
        "images a class: 124 to 133, the largest class has 1.07 times the smallest",
        "0 training images twice, 0 test images also trained on",
        "fingerprint de2b5c1362d07049",
        "picture: digits.png",
        "next: ddbench distill --method random --dataset digits --ipc 1",
    ):
        assert part in found.out
    with Image.open(tmp_path / "digits.png") as picture:
        assert picture.size == (10 * 50 - 2, 10 * 50 - 2)


def test_folder(ddb: Callable, tmp_path: Path):
    make_folder(tmp_path / "set")
    (tmp_path / "set" / "train" / "cat" / "9.png").write_bytes(b"no image")
    found = ddb("data", "check", "folder:set", "--size", 8, "--data", "data", "--skip-broken", "--out", "look.png")
    assert (found.code, found.err) == (0, "")
    for part in (
        "folder:set: 2 classes (cat, dog); 8 training images (2 to 6 a class)",
        "16 RGB, read as colour; 10 x 10 px",
        "ignored: files with other endings (1 .txt)",
        "left out as broken (--skip-broken): 1: ",
        "used as colour, 8 x 8 px",
        "the largest class has 3 times the smallest",
        "1 training images twice, 1 test images also trained on",
    ):
        assert part in found.out
    assert (tmp_path / "look.png").is_file()


def test_a_picture_a_size(ddb: Callable, tmp_path: Path):
    make_folder(tmp_path / "own")
    for size in (8, 16):
        assert ddb("data", "check", "folder:own", "--size", size).code == 0
    assert [path.stem.rpartition("-")[2] for path in sorted(tmp_path.glob("*.png"))] == ["16", "8"]


def test_the_next_command_can_be_taken_as_it_stands(ddb: Callable, tmp_path: Path):
    make_folder(Path("my images"))
    found = ddb("data", "check", "folder:my images", "--size", 8, "--data", "my data", "--out", "x.png")
    command = "ddbench distill --method random --dataset 'folder:my images' --size 8 --data 'my data' --ipc 1"
    assert found.out.splitlines()[-1] == f"next: {command}"
    write_compact(tmp_path / "mutag.npz", Source(made_graphs(40)))
    after = ddb("data", "check", "mutag", "--data", tmp_path).out.splitlines()[-1].removeprefix("next: ddbench ")
    assert ddb(*shlex.split(after), "--out", "run").code == 0


def test_arrays_and_many_classes(ddb: Callable, tmp_path: Path):
    images, labels = RNG.integers(0, 256, (180, 200, 200), dtype=np.uint8), np.arange(180) % 60
    np.savez("own.npz", images=images, labels=labels)
    found = ddb("data", "check", "npz:own.npz")
    assert found.code == 0, found.err
    assert "images a class: 2 to 2, balanced" in found.out
    assert "... 40 others" in found.out
    with Image.open(next(tmp_path.glob("npz-own*.png"))) as picture:  # thinned out: 200 px become 100
        assert picture.size == (2 * 102 - 2, 20 * 102 - 2)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    with serving() as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.address)
        template = made.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield made


def test_hub(ddb: Callable, hub: Hub, tmp_path: Path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": png(8), "path": None} for _ in range(10)], kind)
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": rows, "label": pa.array([0, 1] * 5)}), stream)
    parts = {f"plain/{part}-00000-of-00001.parquet": stream.getvalue() for part in ("train", "test")}
    hub.files["me/cats"], hub.private["me/cats"] = {"README.md": b"# cats", **parts}, True
    check = ("data", "check", "hub:me/cats", "--size", 8, "--data", "data", "--out", "cats.png")
    found = ddb(*check)
    assert found.code == 2
    assert "hub:me/cats: not on this machine; get it with --download" in found.err
    found = ddb(*check, "--download")
    assert found.code == 0, found.err
    assert "2 classes (0, 1); 10 training images (5 a class), 10 test images (5 a class)" in found.out
    assert TOKEN not in found.out + found.err
    assert not [one for one in hub.asked if "README" in one]
    assert ddb(*check).code == 0  # from the library's cache
    assert ddb("data", "check", "hub:me/cats/plain", *check[3:]).code == 0
    found = ddb("data", "check", "hub:me/dogs", *check[3:], "--download")
    assert found.code == 2
    assert "no such dataset or revision, or none that your token may read" in found.err


@pytest.mark.parametrize(
    ("argv", "needle"),
    [
        (("chek", "digits"), "did you mean 'check'"),
        (("check",), "dataset"),
        (("check", "digitz"), "did you mean 'digits'"),
        (("check", "digits", "--out", "picture.jpg"), "ends in .png"),
        (("check", "folder:nowhere", "--size", "8"), "is no folder"),
        (("check", "npz:nowhere.npz"), "no such npz file"),
        (("check", "folder:nowhere"), "--size"),
        (("check", "chestmnist"), "several labels"),
    ],
)
def test_refusals(refused: Callable, argv: tuple[str, ...], needle: str):
    refused(("data", *argv), needle)


def test_own_arrays_are_distilled_and_scored(ddb: Callable, tmp_path: Path):
    images, labels = RNG.integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 2
    np.savez("own.npz", images=images, labels=labels)
    found = ddb(*random_tiny(tmp_path / "run", "--dataset", "npz:own.npz"))
    assert found.code == 0, found.err
    found = ddb(*evaluate_tiny(tmp_path / "run"))
    assert found.code == 0, found.err
    assert "random on npz:own.npz" in found.out


def test_graphs(ddb: Callable, tmp_path: Path):
    found = ddb("data", "check", "graphs:made")
    assert (found.code, found.err) == (0, "")
    for part in (
        "graphs:made: 2 classes, 128 training, 16 validation and 16 test graphs",
        "split: 80 / 10 / 10 percent by seed 0",
        "a graph has 10 to 20 (median 15) nodes and 10 to 20 (median 15) edges",
        "labels: of a node 4 kinds, of an edge none",
        "stored, the training graphs take 6,048 bytes",
        "graphs a class: 64 to 64, balanced",
        "0 training graphs twice, 0 test graphs also trained on",
        "fingerprint 4ecc72be16f62e79",
        "next: ddbench distill --method random --dataset graphs:made --max-bytes 605",
    ):
        assert part in found.out
    with Image.open(next(tmp_path.glob("graphs-made-*.png"))) as picture:
        assert min(picture.size) > 100
    after = found.out.splitlines()[-1].removeprefix("next: ddbench ").split()
    assert ddb(*after, "--out", "run").code == 0


def test_graphs_that_are_there_twice(ddb: Callable, tmp_path: Path):
    graphs = made_graphs(12)
    write_compact(tmp_path / "own.npz", Source(graphs.take([0] * 11 + [1] * 11)))
    found = ddb("data", "check", "graphs:own.npz")
    assert (found.code, found.err) == (0, "")
    assert "16 training graphs twice, 2 test graphs also trained on" in found.out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--skip-broken",), "--skip-broken: for image files, graphs:made is a set of graphs; leave it out"),
        (("--size", 8), "--size 8: graphs:made is no set of images"),
    ],
)
def test_flags_of_images_are_refused_for_graphs(flags: tuple[object, ...], told: str, refused: Callable):
    refused(("data", "check", "graphs:made", *flags), told)


def test_the_split_is_told(ddb: Callable, tmp_path: Path):
    graphs = made_graphs(40)
    split = Split(np.arange(8, 40), np.arange(4, 8), np.arange(4))
    write_compact(tmp_path / "mutag.npz", Source(graphs, split))
    for name, words in (("mutag", "its own"), ("mutag:3", "fold 3 of 10 by seed 0 for testing")):
        assert f"  split: {words}" in ddb("data", "check", name, "--data", tmp_path).out


def test_a_fold_that_is_none(refused: Callable):
    refused(("data", "check", f"mutag:{'9' * 400}"), "mutag has no such fold")
