"""Named sets of graphs fetched over HTTP from a server of this machine: what is kept, and what is refused."""

from __future__ import annotations

import gzip
import io
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ddbench.data.load import load_dataset
from ddbench.graphs import download, files
from ddbench.graphs.dataset import PLACES, GraphDataset
from ddbench.graphs.download import ARCHIVES
from ddbench.runtime.errors import UserError

GRAPHS = 40
"""Pairs of nodes with an edge, of two classes in turn."""


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a web server shows, in place of both collections."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, archive in ARCHIVES.items():
        url = f"http://127.0.0.1:{server.server_port}/{Path(archive.url).name}"
        monkeypatch.setitem(ARCHIVES, name, replace(archive, url=url, graphs=GRAPHS))
    yield folder
    server.shutdown()
    server.server_close()


def fetch(name: str, root: Path) -> GraphDataset:
    found = load_dataset(name, root, download=True, modality="graph")
    assert isinstance(found, GraphDataset)
    return found


def pack(path: Path, contents: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in contents.items():
            packed.writestr(name, data)


def tu(name: str, **changes: bytes) -> dict[str, bytes]:
    """A set of the TU collection, with a file that no reader needs."""
    starts = range(1, 2 * GRAPHS, 2)
    parts = {
        "A": "".join(f"{one}, {one + 1}\n{one + 1}, {one}\n" for one in starts).encode(),
        "graph_indicator": "".join(f"{graph + 1}\n" * 2 for graph in range(GRAPHS)).encode(),
        "graph_labels": b"0\n1\n" * (GRAPHS // 2),
        "node_labels": b"0\n1\n" * GRAPHS,
        **changes,
    }
    return {f"{name}/{name}_{part}.txt": data for part, data in parts.items()} | {f"{name}/README.txt": b"a set"}


def table(text: str) -> bytes:
    return gzip.compress(text.encode())


def ogb(name: str) -> dict[str, bytes]:
    """A set of OGB; its test part are the last four graphs."""
    tables = {
        "raw/num-node-list": "2\n" * GRAPHS,
        "raw/num-edge-list": "1\n" * GRAPHS,
        "raw/edge": "0,1\n" * GRAPHS,
        "raw/node-feat": "0\n1\n" * GRAPHS,
        "raw/graph-label": "0\n1\n" * (GRAPHS // 2),
        "split/scaffold/train": "".join(f"{one}\n" for one in range(32)),
        "split/scaffold/valid": "".join(f"{one}\n" for one in range(32, 36)),
        "split/scaffold/test": "".join(f"{one}\n" for one in range(36, 40)),
        "mapping/mol": "C,0\n",
    }
    return {f"{name}/{part}.csv.gz": table(text) for part, text in tables.items()}


def test_a_set_of_either_collection_is_fetched_once(served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pack(served / "MUTAG.zip", tu("MUTAG"))
    pack(served / "bace.zip", ogb("bace"))
    root = tmp_path / "data"
    for name, place in (("mutag", "MUTAG"), ("ogbg-molbace", "ogbg_molbace")):
        fetched = fetch(name, root)
        assert len(fetched.train.graphs) == 32
        assert f"{name}: fetching http" in capsys.readouterr().err
        kept = sorted(path.name for path in (root / "graphs" / place).rglob("*") if path.is_file())
        assert not {"README.txt", "mol.csv.gz"} & set(kept), "what no reader needs is left"
    assert fetched.test.labels.tolist() == [0, 1, 0, 1], "the scaffold split came with it"
    assert sorted(path.name for path in (root / "graphs").iterdir()) == ["MUTAG", "ogbg_molbace"], "no temporary files"
    for path in served.iterdir():
        path.unlink()
    again = fetch("ogbg-molbace", root)
    assert again.fingerprint == fetched.fingerprint


def short() -> bytes:
    return tu("NCI1", A=b"1, 2\n")["NCI1/NCI1_A.txt"]


BROKEN = {
    "missing": ({}, "404"),
    "no such folder in it": (tu("OTHER"), "no NCI1/NCI1_A.txt"),
    "a part is missing": ({"NCI1/NCI1_A.txt": short()}, "NCI1_graph_indicator.txt"),
    "other graphs": (
        tu("NCI1", A=b"1, 2\n3, 4\n", graph_indicator=b"1\n1\n2\n2\n", graph_labels=b"0\n1\n", node_labels=b"0\n" * 4),
        "2 graphs, expected 40",
    ),
    "no numbers": (tu("NCI1", graph_labels=b"x\n"), "expected whole numbers"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_nothing_is_left_of_a_download_that_fails(case: str, served: Path, tmp_path: Path):
    contents, words = BROKEN[case]
    if contents:
        pack(served / "NCI1.zip", contents)
    with pytest.raises(
        UserError, match=rf"dataset nci1: the download of http.* failed: .*{words}.*; try again"
    ) as found:
        fetch("nci1", tmp_path)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "graphs").exists()


def test_an_archive_of_ogb_without_its_split_is_not_kept(served: Path, tmp_path: Path):
    pack(served / "bace.zip", {name: data for name, data in ogb("bace").items() if "split" not in name})
    with pytest.raises(UserError, match="holds no scaffold split"):
        fetch("ogbg-molbace", tmp_path)
    assert not (tmp_path / "graphs").exists()


def test_no_archive_and_a_damaged_one(served: Path, tmp_path: Path):
    (served / "DD.zip").write_bytes(b"<html>moved</html>")
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in tu("PROTEINS").items():
            packed.writestr(name, data)
    broken = bytearray(whole.getvalue())
    at = broken.index(b"_A.txt") + len("_A.txt")
    broken[at : at + 40] = np.random.default_rng(0).bytes(40)
    (served / "PROTEINS.zip").write_bytes(broken)
    for name, words in (("dd", "not a zip file"), ("proteins", "failed")):
        with pytest.raises(UserError, match=words):
            fetch(name, tmp_path)
    assert not (tmp_path / "graphs").exists()


def test_a_file_that_declares_too_much_is_not_unpacked(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pack(served / "IMDB-BINARY.zip", tu("IMDB-BINARY"))
    monkeypatch.setattr(download, "MAX_TEXT", 100)
    with pytest.raises(UserError, match="more than 100"):
        fetch("imdb-binary", tmp_path)
    assert download.MAX_TEXT != files.MAX_TEXT
    assert not (tmp_path / "graphs").exists()


def test_every_named_set_has_an_archive():
    assert set(ARCHIVES) == set(PLACES)


def test_without_download_the_flag_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"mutag: no MUTAG, .*get it with --download"):
        load_dataset("mutag", tmp_path, modality="graph")
