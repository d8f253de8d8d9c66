"""Graph sets from files: the four forms give the same graphs, and files that are wrong are refused in one line."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddbench.data.load import load_dataset
from ddbench.graphs.files import column, read_text
from ddbench.graphs.graphset import GraphSet, make_graphs
from ddbench.graphs.made import made_graphs
from ddbench.graphs.read import Source, load_graphs, write_compact
from ddbench.graphs.splits import Split, folds, random_split
from ddbench.runtime.errors import UserError

TU = {
    "A": "1, 2\n2, 1\n2, 3\n3, 2\n4, 5\n5, 4\n",
    "graph_indicator": "1\n1\n1\n2\n2\n",
    "graph_labels": "-1\n1\n",
    "node_labels": "0\n3\n0\n3\n3\n",
    "edge_labels": "0\n0\n2\n2\n0\n0\n",
}
OGB = {
    "raw/num-node-list": "3\n2\n",
    "raw/num-edge-list": "2\n1\n",
    "raw/edge": "0,1\n1,2\n0,1\n",
    "raw/node-feat": "0\n3\n0\n3\n3\n",
    "raw/edge-feat": "0\n2\n0\n",
    "raw/graph-label": "0\n1\n",
}
DGCNN = "2\n3 0\n0 1 1\n3 2 0 2\n0 1 1\n2 1\n3 1 1\n3 1 0\n"


def tu(folder: Path, **changes: str | None) -> Path:
    """A TU folder of two graphs; None leaves a file out."""
    folder.mkdir()
    for part, text in {**TU, **changes}.items():
        if text is not None:
            (folder / f"SET_{part}.txt").write_text(text)
    return folder


def ogb(folder: Path, changes: dict[str, str | bytes] | None = None) -> Path:
    """The same two graphs as OGB has them; bytes stand for a packed file."""
    for name, text in {**OGB, **(changes or {})}.items():
        path = folder / f"{name}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else gzip.compress(text.encode()))
    return folder


def same(one: GraphSet, other: GraphSet) -> bool:
    return one.fingerprint == other.fingerprint


def test_the_forms_give_the_same_graphs(tmp_path: Path):
    ours = load_graphs(f"graphs:{tu(tmp_path / 'tu')}").graphs
    assert ours.name == "SET"
    assert ours.nodes_per_graph.tolist() == [3, 2]
    assert ours.edges.tolist() == [[0, 1], [1, 2], [0, 1]]
    assert ours.node_labels[:, 0].tolist() == [0, 1, 0, 1, 1], "ranks of 0 and 3"
    assert ours.edge_labels[:, 0].tolist() == [0, 1, 0]
    assert ours.labels.tolist() == [0, 1]
    assert ours.degrees.tolist() == [1, 2, 1, 1, 1]
    assert same(load_graphs(f"graphs:{ogb(tmp_path / 'ogb')}").graphs, ours)
    (tmp_path / "text.txt").write_text(DGCNN)
    plain = load_graphs(f"graphs:{tmp_path / 'text.txt'}").graphs
    assert same(plain, load_graphs(f"graphs:{tu(tmp_path / 'plain', edge_labels=None)}").graphs)
    write_compact(tmp_path / "set.npz", Source(ours))
    assert same(load_graphs(f"graphs:{tmp_path / 'set.npz'}").graphs, ours)


def test_an_array_by_columns_is_the_same_table(tmp_path: Path):
    """numpy keeps a transposed array, such as stacked ends of edges are, column by column in the file."""
    graphs = load_graphs("graphs:made").graphs
    arrays = {"y" if name == "labels" else name: values for name, values in graphs.packed().items()}
    np.savez(tmp_path / "set.npz", **arrays | {"edges": np.asfortranarray(arrays["edges"])})
    assert load_graphs(f"graphs:{tmp_path / 'set.npz'}").graphs.fingerprint == graphs.fingerprint


def test_without_labels_the_degree_is_the_label(tmp_path: Path):
    graphs = load_graphs(f"graphs:{tu(tmp_path / 'tu', node_labels=None)}").graphs
    assert graphs.node_labels[:, 0].tolist() == [0, 1, 0, 0, 0]
    assert graphs.node_sizes == (2,)


def test_one_direction_of_an_edge_is_enough_and_a_loop_is_one_arc(tmp_path: Path):
    folder = tu(tmp_path / "tu", A="1, 2\n3, 2\n4, 5\n5, 5\n", edge_labels=None)
    graphs = load_graphs(f"graphs:{folder}").graphs
    assert graphs.edges.tolist() == [[0, 1], [1, 2], [0, 1], [1, 1]]
    assert graphs.degrees.tolist() == [1, 2, 1, 1, 2]


def test_take_is_a_set_of_the_same_graphs():
    graphs = made_graphs()
    index = np.array([5, 0, 5])
    taken = graphs.take(index)
    assert len(taken) == 3
    for new, old in enumerate(index):
        for ptr, names in (("node_ptr", ["node_labels"]), ("edge_ptr", ["edges", "edge_labels"])):
            for name in names:
                ours = getattr(taken, name)[slice(*getattr(taken, ptr)[new : new + 2])]
                assert (ours == getattr(graphs, name)[slice(*getattr(graphs, ptr)[old : old + 2])]).all()


def test_scaffold_split_comes_with_the_set(tmp_path: Path):
    graphs = made_graphs(20)
    split = Split(np.arange(4, 20), np.array([2, 3]), np.array([0, 1]))
    write_compact(tmp_path / "set.npz", Source(graphs, split))
    found = load_graphs(f"graphs:{tmp_path / 'set.npz'}").split
    assert found is not None
    assert found.valid.tolist() == [2, 3]
    parts = {
        f"split/scaffold/{part}": text for part, text in {"train": "0\n1\n", "valid": "1\n", "test": "0\n"}.items()
    }
    with pytest.raises(UserError, match="in two parts"):
        load_graphs(f"graphs:{ogb(tmp_path / 'ogb', parts)}")


def test_a_fold_that_is_named_is_taken_where_a_split_comes_with_the_set(tmp_path: Path):
    graphs = made_graphs(40)
    split = Split(np.arange(4, 40), np.array([2, 3]), np.array([0, 1]))
    write_compact(tmp_path / "mutag.npz", Source(graphs, split))
    own, first, fourth = (load_dataset(name, tmp_path, modality="graph") for name in ("mutag", "mutag:0", "mutag:3"))
    assert own.test.labels.tolist() == graphs.labels[split.test].tolist()
    assert len({one.fingerprint for one in (own, first, fourth)}) == 3
    for dataset, fold in ((first, 0), (fourth, 3)):
        assert dataset.test.graphs.fingerprint == graphs.take(folds(graphs.labels, 0, fold).test).fingerprint


@pytest.mark.parametrize("place", ["ogbg_molbace", "molbace.npz"])
def test_a_set_known_by_its_split_is_refused_without_it(tmp_path: Path, place: str):
    if place == "molbace.npz":
        write_compact(tmp_path / place, Source(made_graphs(20)))
    else:
        ogb(tmp_path / place)
    with pytest.raises(UserError, match=f"dataset ogbg-molbace: .*{place} holds no split, expected its scaffold split"):
        load_dataset("ogbg-molbace", tmp_path, modality="graph")


def test_all_members_of_a_packed_file_are_read(tmp_path: Path):
    """As ``cat a.gz b.gz``, bgzip and pigz write them; zeros may stand behind each."""
    first, second = gzip.compress(b"1\n2\n"), gzip.compress(b"3\n4\n")
    path = tmp_path / "numbers.csv.gz"
    for packed in (first + second, first + bytes(40_000) + second + bytes(9), first + gzip.compress(b"") + second):
        path.write_bytes(packed)
        assert column(path, read_text(path, "table"), "numbers").tolist() == [1, 2, 3, 4]
    large = b"".join(b"%d\n" % number for number in range(100_000))
    path.write_bytes(gzip.compress(large, 0) + second)
    assert read_text(path, "table") == large + b"3\n4\n"


def test_splits():
    labels = np.array([0] * 63 + [1] * 125)
    split = random_split(labels, 0)
    assert [len(split.train), len(split.valid), len(split.test)] == [152, 18, 18]
    assert (random_split(labels, 0).test == split.test).all()
    assert not np.array_equal(random_split(labels, 1).test, split.test)
    tests = [folds(labels, 0, fold).test for fold in range(10)]
    assert sorted(np.concatenate(tests).tolist()) == list(range(188))
    assert {int((labels[test] == 0).sum()) for test in tests} <= {6, 7}
    assert (folds(labels, 0, 0).valid == tests[1]).all()
    with pytest.raises(UserError, match="fold 10: expected 0 to 9"):
        folds(labels, 0, 10)
    with pytest.raises(UserError, match="at least 10"):
        random_split(labels[:9], 0)


def npz(shape: tuple[int, ...], kind: str = "<i8") -> bytes:
    """A compact file whose first array only declares its size."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": kind, "fortran_order": False, "shape": shape})
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        packed.writestr("nodes_per_graph.npy", head.getvalue())
    return made.getvalue()


def damaged_npz() -> bytes:
    """A compact file whose first array has a header that ends in the middle of a word of Python."""
    header = b"{'descr': '<i8', 'shape': (('"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        packed.writestr("nodes_per_graph.npy", b"\x93NUMPY\1\0" + bytes((len(header), 0)) + header)
    return made.getvalue()


def compact(**changes: object) -> bytes:
    """A compact file of two graphs."""
    arrays: dict[str, object] = {"nodes_per_graph": [2, 2], "node_labels": [[0], [1], [0], [1]]}
    arrays |= {"edges_per_graph": [1, 1], "edges": [[0, 1], [0, 1]], "y": [0, 1], **changes}
    made = io.BytesIO()
    np.savez_compressed(made, **{name: np.asarray(values) for name, values in arrays.items()})
    return made.getvalue()


SPLIT = {"split/scaffold/train": "0\n", "split/scaffold/valid": "1\n", "split/scaffold/test": "1\n"}


def linked(folder: Path, target: str) -> Path:
    """A TU folder whose list of edges is a link."""
    tu(folder, A=None)
    (folder / "SET_A.txt").symlink_to(target)
    return folder


def text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "node 0": (lambda p: tu(p / "s", A="0, 1\n"), r"line 1: \[0, 1\], expected nodes 1 to 5"),
    "node too high": (lambda p: tu(p / "s", A="1, 6\n"), "expected nodes 1 to 5"),
    "two graphs joined": (lambda p: tu(p / "s", A="1, 4\n"), "of two graphs"),
    "graph too high": (lambda p: tu(p / "s", graph_indicator="1\n1\n1\n2\n1000000000\n"), "numbers from 1 to 2"),
    "graph negative": (lambda p: tu(p / "s", graph_indicator="-1\n1\n1\n2\n2\n"), "numbers from 1 to 2"),
    "graph without nodes": (lambda p: tu(p / "s", graph_labels="1\n2\n3\n"), "graph 2 .* has no node"),
    "labels cut": (lambda p: tu(p / "s", node_labels="0\n3\n"), "labels of 2 nodes"),
    "edge labels cut": (lambda p: tu(p / "s", edge_labels="0\n"), "6 lines of pairs but 1"),
    "two labels of an edge": (lambda p: tu(p / "s", edge_labels="0\n1\n2\n2\n0\n0\n"), "has two labels"),
    "words": (lambda p: tu(p / "s", A="1, two\n"), "whole numbers"),
    "fractions": (lambda p: tu(p / "s", A="1, 1.5\n"), "whole numbers"),
    "a number too large": (lambda p: tu(p / "s", A="1, 99999999999999999999\n"), "whole numbers"),
    "three columns": (lambda p: tu(p / "s", A="1, 2, 3\n"), "3 column"),
    "empty": (lambda p: tu(p / "s", A="\n"), "it is empty"),
    "no indicator": (lambda p: tu(p / "s", graph_indicator=None), "no such file"),
    "one class": (lambda p: tu(p / "s", graph_labels="1\n1\n"), "at least 2"),
    "no set": (lambda p: p, "no graph set is in this folder"),
    "nowhere": (lambda p: p / "nothing", "no such graph set"),
    "negative count": (lambda p: ogb(p / "s", {"raw/num-node-list": "-1\n6\n"}), "declares -1 nodes"),
    "10^9 nodes": (lambda p: ogb(p / "s", {"raw/num-node-list": "1000000000\n2\n"}), "declares 1000000000 nodes"),
    "more nodes than rows": (lambda p: ogb(p / "s", {"raw/num-node-list": "1000000\n2\n"}), "should have 1000002"),
    "more edges than rows": (lambda p: ogb(p / "s", {"raw/num-edge-list": "50000000\n1\n"}), "should have 50000001"),
    "edge out of its graph": (lambda p: ogb(p / "s", {"raw/edge": "0,1\n1,3\n0,1\n"}), "expected 0 to 2"),
    "cut gz": (lambda p: ogb(p / "s", {"raw/edge": gzip.compress(b"0,1\n" * 99)[:-12]}), "is cut"),
    "cut in the second member": (
        lambda p: ogb(p / "s", {"raw/edge": gzip.compress(b"0,1\n") + gzip.compress(b"1,2\n")[:-1]}),
        "is cut",
    ),
    "bytes behind a gz": (
        lambda p: ogb(p / "s", {"raw/edge": gzip.compress(b"0,1\n", 9) + b"0,1\n"}),
        "edge.csv.gz: from byte 24 on not a gzip file",
    ),
    "no gz": (lambda p: ogb(p / "s", {"raw/edge": b"0,1\n"}), "not a gzip file"),
    "a bomb": (lambda p: ogb(p / "s", {"raw/edge": gzip.compress(bytes(2**20), 9) * 2}), "whole numbers"),
    "several tasks": (lambda p: ogb(p / "s", {"raw/graph-label": "0,1\n1,0\n"}), "several tasks"),
    "10^9 graphs": (lambda p: text(p / "s.txt", "1000000000\n1 0\n0 0\n"), "declares 1000000000 graphs"),
    "10^9 nodes of text": (lambda p: text(p / "s.txt", "1\n1000000000 0\n0 0\n"), "declares 1000000000 nodes"),
    "10^9 neighbours": (lambda p: text(p / "s.txt", "1\n1 0\n0 1000000000 1\n"), "wrong count of neighbours"),
    "negative neighbours": (lambda p: text(p / "s.txt", "1\n1 0\n0 -1 1\n"), "wrong count of neighbours"),
    "negative graphs": (lambda p: text(p / "s.txt", "-1\n"), "behind the last of -1"),
    "neighbour too high": (lambda p: text(p / "s.txt", DGCNN.replace("3 2 0 2", "3 2 0 7")), "expected 0 to 2"),
    "npz of 10^9": (lambda p: text(p / "s.npz", npz((10**9,))), "declares 1,000,000,000 numbers"),
    "npz of 10^30": (lambda p: text(p / "s.npz", npz((10**15, 10**15))), "holds fewer"),
    "npz of objects": (lambda p: text(p / "s.npz", npz((1,), "|O")), "tables of whole numbers"),
    "npz of a cut header": (lambda p: text(p / "s.npz", damaged_npz()), "not a compact graph set"),
    "npz of nothing": (lambda p: text(p / "s.npz", b"PK"), "not a compact graph set"),
    "npz of one number": (lambda p: text(p / "s.npz", compact(y=3)), r"y.npy is int64 \(\), expected tables"),
    "npz beyond 64 bits": (
        lambda p: text(p / "s.npz", compact(y=np.array([2**64 - 1, 0], np.uint64))),
        "holds 18446744073709551615",
    ),
    "npz of half a split": (
        lambda p: text(p / "s.npz", compact(split_train=[0], split_test=[1])),
        "half a split, no array split_valid",
    ),
    "three ends of an edge": (lambda p: text(p / "s.npz", compact(edges=[[0, 1, 2]])), r"shape \[1, 3\]"),
    "a word of a megabyte": (lambda p: ogb(p / "s", {"raw/num-node-list": "1" * 2**20}), "a line of 1,048,576 bytes"),
    "columns of a megabyte": (lambda p: tu(p / "s", A="1, 2\n" + "1," * 2**19 + "\n"), "a line of 1,048,577 bytes"),
    "rows of two lengths": (lambda p: tu(p / "s", A="1, 2\n2\n"), "changed from 2 to 1 at row 2$"),
    "digits of another script": (lambda p: text(p / "s.txt", "\u0662\n"), "whole numbers"),
    "a device": (lambda p: linked(p / "s", "/dev/zero"), "it is a device"),
    "a link to itself": (lambda p: linked(p / "s", "SET_A.txt"), "symbolic links"),
    "split twice": (lambda p: ogb(p / "s", {**OGB, **SPLIT, "split/scaffold/valid": "0\n"}), "in two parts, or twice"),
    "split beyond": (
        lambda p: ogb(p / "s", {**OGB, **SPLIT, "split/scaffold/test": "9\n"}),
        "graph 9, expected 0 to 1",
    ),
    "split cut": (lambda p: ogb(p / "s", {**OGB, "split/scaffold/train": "0\n"}), "no such table"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_one_line(tmp_path: Path, case: str):
    build, words = HOSTILE[case]
    spec = f"graphs:{build(tmp_path)}"
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=words) as caught:
            load_graphs(spec)
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20, "memory for what a file merely declares"
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddbench.graphs.files.MAX_TEXT", 2**16)
    folder = ogb(tmp_path / "s", {"raw/edge": gzip.compress(b"0,1\n" * 2**18)})
    with pytest.raises(UserError, match="more than 65,536 bytes are too large"):
        load_graphs(f"graphs:{folder}")
    many = ogb(tmp_path / "many", {"raw/edge": gzip.compress(b"0,1\n" * 2**13) * 3})
    with pytest.raises(UserError, match="more than 65,536 bytes are too large"):
        load_graphs(f"graphs:{many}")


def test_more_numbers_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Text that packs well, blanks between numbers too."""
    monkeypatch.setattr("ddbench.graphs.files.MAX_NUMBERS", 1000)
    monkeypatch.setattr("ddbench.graphs.read.MAX_NUMBERS", 1000)
    packed = text(tmp_path / "s.npz", compact(y=np.zeros(1001, np.uint8)))
    for path in (packed, ogb(tmp_path / "s", {"raw/edge": "0,1\n" * 600}), text(tmp_path / "s.txt", "1 " * 1001)):
        with pytest.raises(UserError, match="numbers, expected at most 1,000"):
            load_graphs(f"graphs:{path}")


def test_a_spec_says_that_it_is_one():
    with pytest.raises(UserError, match="expected graphs:PATH"):
        load_graphs("mutag")


def test_made_set_has_no_size_to_learn():
    graphs = made_graphs()
    sizes = [np.sort(graphs.nodes_per_graph[graphs.labels == label]).tolist() for label in (0, 1)]
    assert sizes[0] == sizes[1]
    assert same(graphs, load_graphs("graphs:made").graphs)


def test_arrays_that_do_not_fit():
    with pytest.raises(UserError, match="1 counts of nodes, 1 of edges and 2 labels"):
        make_graphs("here", [1], [[0]], [0], np.zeros((0, 2)), None, [0, 1])
