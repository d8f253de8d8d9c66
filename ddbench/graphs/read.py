"""Readers of graph sets: TU folders, OGB's raw tables, the text form of DGCNN, one compact file. Imports no torch."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddbench.graphs.files import MAX_NUMBERS, MAX_TEXT, column, numbers, read_text
from ddbench.graphs.graphset import GraphSet, Ints, make_graphs, pack
from ddbench.graphs.made import made_graphs
from ddbench.graphs.splits import PARTS, Split, check_split
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import plain_file, write_atomic
from ddbench.runtime.folders import expanded

PREFIX = "graphs:"
FORMS = (
    "a TU folder (NAME_A.txt and its like), a folder of OGB (raw/edge.csv.gz and its like), "
    "a DGCNN text (.txt) or a compact file (.npz)"
)
SPLIT_FORMS = "split/scaffold/ in a folder of OGB, split_train and its like in an npz"


@dataclass(frozen=True, eq=False)
class Source:
    """What was read: all graphs, and the split that came with them (OGB's scaffold split), if one did."""

    graphs: GraphSet
    split: Split | None = None


def load_graphs(spec: str) -> Source:
    """Read a graph set.

    Args:
        spec: ``graphs:PATH``, where PATH is one of :data:`FORMS`, or ``graphs:made``
            (:func:`ddbench.graphs.made.made_graphs`).

    Raises:
        UserError: not of this form, no such files, or files that do not fit together; nothing is allocated for what a
            file merely declares.
    """
    if not spec.startswith(PREFIX) or spec == PREFIX:
        raise UserError(f"graph set {spec!r}: expected {PREFIX}PATH or {PREFIX}made")
    if spec == f"{PREFIX}made":
        return Source(made_graphs())
    path = expanded(spec.removeprefix(PREFIX))
    if path.is_dir():
        if any(path.glob("*_A.txt")):
            return Source(read_tu(path))
        if (path / "raw" / "edge.csv.gz").exists():
            return read_ogb(path)
        raise UserError(f"{path}: no graph set is in this folder; expected {FORMS}")
    plain_file(path, "graph set")
    return read_compact(path) if path.suffix == ".npz" else Source(read_dgcnn(path))


def read_tu(folder: Path) -> GraphSet:
    """The text form of the TU collection: ``_A``, ``_graph_indicator``, ``_graph_labels``, and, if there,
    ``_node_labels`` and ``_edge_labels``. Attributes (real numbers) are not read.

    Raises:
        UserError: see :func:`load_graphs`.
    """
    found = sorted(folder.glob("*_A.txt"))
    if len(found) != 1:
        raise UserError(f"{folder}: {len(found)} files *_A.txt, expected one")
    name = found[0].name.removesuffix("_A.txt")

    def text(part: str) -> bytes:
        return read_text(folder / f"{name}_{part}.txt", f"file of a TU set ({part})")

    def table(part: str) -> Ints | None:
        path = folder / f"{name}_{part}.txt"
        return numbers(path, text(part)) if path.exists() else None

    pairs = numbers(found[0], text("A"), columns=2) - 1
    owner_file = folder / f"{name}_graph_indicator.txt"
    owner = column(owner_file, text("graph_indicator"), "graph numbers") - 1
    labels = column(folder / f"{name}_graph_labels.txt", text("graph_labels"), "graph labels")
    if (np.diff(owner) < 0).any() or owner[0] < 0 or owner[-1] >= len(labels):
        raise UserError(f"{owner_file}: expected numbers from 1 to {len(labels)}, one a node, that never fall")
    wrong = ((pairs < 0) | (pairs >= len(owner))).any(1)
    if wrong.any():
        at = int(wrong.argmax())
        raise UserError(f"{found[0]}: line {at + 1}: {(pairs[at] + 1).tolist()}, expected nodes 1 to {len(owner)}")
    graph = owner[pairs[:, 0]]
    if (graph != owner[pairs[:, 1]]).any():
        at = int((graph != owner[pairs[:, 1]]).argmax())
        raise UserError(f"{found[0]}: line {at + 1}: nodes {(pairs[at] + 1).tolist()} are of two graphs")
    edge_labels = table("edge_labels")
    if edge_labels is not None and len(edge_labels) != len(pairs):
        raise UserError(f"{folder}: {len(pairs)} lines of pairs but {len(edge_labels)} of edge labels; is one cut?")
    order = np.argsort(graph, kind="stable")
    counts = np.bincount(owner, minlength=len(labels))
    first = np.cumsum(counts) - counts
    return make_graphs(
        str(folder),
        counts,
        table("node_labels"),
        np.bincount(graph, minlength=len(labels)),
        (pairs - first[graph][:, None])[order],
        None if edge_labels is None else edge_labels[order],
        labels,
        name=name,
    )


def read_ogb(folder: Path) -> Source:
    """OGB's raw tables (``raw/*.csv.gz``) and its split (``split/scaffold``), if it is there; sets with one label each.

    Raises:
        UserError: see :func:`load_graphs`; several labels a graph.
    """

    def part(name: str, under: str = "raw") -> tuple[Path, bytes]:
        path = folder / under / f"{name}.csv.gz"
        return path, read_text(path, "table of an OGB set")

    def table(name: str) -> Ints | None:
        return numbers(*part(name)) if (folder / "raw" / f"{name}.csv.gz").exists() else None

    graphs = make_graphs(
        str(folder),
        column(*part("num-node-list"), "counts"),
        table("node-feat"),
        column(*part("num-edge-list"), "counts"),
        numbers(*part("edge"), columns=2),
        table("edge-feat"),
        column(*part("graph-label"), "labels: a set with several tasks"),
        name=folder.name,
    )
    if not (folder / "split" / "scaffold").is_dir():
        return Source(graphs)
    split = Split(*(column(*part(name, "split/scaffold"), "positions") for name in PARTS))
    return Source(graphs, check_split(f"{folder}/split/scaffold", split, graphs.labels))


def read_dgcnn(path: Path) -> GraphSet:
    """The text form of DGCNN: the number of graphs; for each ``n label`` and n lines ``tag k neighbours...``.

    Raises:
        UserError: see :func:`load_graphs`.
    """
    table = column(path, read_text(path, "graph set").translate(_ONE_A_LINE), "numbers")
    values = table.data  # as whole numbers of Python, one at a time
    at = 1
    nodes: list[int] = []
    tags: list[int] = []
    counts: list[int] = []
    labels: list[int] = []
    own: list[int] = []  # of each node: its number in its graph, where its neighbours begin, how many
    begins: list[int] = []
    many: list[int] = []
    for graph in range(values[0]):
        if at + 2 > len(values):
            raise UserError(f"{path}: it declares {values[0]} graphs and ends in graph {graph} (from 0); is it cut?")
        size, label = values[at], values[at + 1]
        at += 2
        before = len(many)
        # every node takes at least two numbers: a size that is only declared costs nothing
        if not 0 <= size <= (len(values) - at) // 2:
            raise UserError(f"{path}: graph {graph} (from 0) declares {size} nodes, more or fewer than are there")
        for node in range(size):
            if at + 2 > len(values) or not 0 <= values[at + 1] <= len(values) - at - 2:
                raise UserError(f"{path}: graph {graph}, node {node} (from 0): a wrong count of neighbours, or cut")
            tags.append(values[at])
            own.append(node)
            begins.append(at + 2)
            many.append(values[at + 1])
            at += 2 + many[-1]
        nodes.append(size)
        counts.append(sum(many[before:]))
        labels.append(label)
    if at != len(values) or values[0] < 0:
        raise UserError(f"{path}: {len(values) - at} numbers behind the last of {values[0]} graphs, expected none")
    tagged, joined = np.array(tags, dtype=np.int64)[:, None], np.array(many, dtype=np.int64)
    first = np.array(begins, dtype=np.int64) - (np.cumsum(joined) - joined)
    others = table[np.repeat(first, joined) + np.arange(joined.sum())]
    ends = np.stack([np.repeat(np.array(own, dtype=np.int64), joined), others], axis=1)
    return make_graphs(str(path), nodes, tagged, counts, ends, None, labels, name=path.stem)


_ONE_A_LINE = bytes.maketrans(b" \t\r\x0b\x0c", b"\n" * 5)

_NEEDED = ("nodes_per_graph", "node_labels", "edges_per_graph", "edges", "y")


def read_compact(path: Path) -> Source:
    """One npz file of whole numbers: ``nodes_per_graph, node_labels, edges_per_graph, edges, y``, and if there
    ``edge_labels``, and ``split_train, split_valid, split_test`` (all or none); :func:`write_compact` writes it.

    Raises:
        UserError: see :func:`load_graphs`.
    """
    arrays = _arrays(path)
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise UserError(f"{path}: no array {missing[0]}; expected {', '.join(_NEEDED)}")
    graphs = make_graphs(
        str(path),
        arrays["nodes_per_graph"],
        arrays["node_labels"],
        arrays["edges_per_graph"],
        arrays["edges"],
        arrays.get("edge_labels"),
        arrays["y"],
        name=path.stem,
    )
    names = [f"split_{part}" for part in PARTS]
    absent = [name for name in names if name not in arrays]
    if len(absent) == len(names):
        return Source(graphs)
    if absent:
        raise UserError(f"{path}: half a split, no array {absent[0]}; expected all of {', '.join(names)}, or none")
    return Source(graphs, check_split(str(path), Split(*(arrays[name].reshape(-1) for name in names)), graphs.labels))


def _arrays(path: Path) -> dict[str, Ints]:
    """The arrays of an npz file, whose sizes are looked at before anything is unpacked."""
    made: dict[str, Ints] = {}
    total = 0
    plain_file(path, "graph set", MAX_TEXT)
    try:
        with zipfile.ZipFile(path) as packed:
            if sum(item.file_size for item in packed.infolist()) > MAX_TEXT:
                raise UserError(f"{path}: unpacked, more than {MAX_TEXT:,} bytes are too large for a graph set")
            for item in packed.infolist():
                with packed.open(item) as handle:
                    version = np.lib.format.read_magic(handle)
                    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                    shape, fortran, kind = read[version](handle)
                    count = int(np.prod([int(side) for side in shape], dtype=object))
                    if kind.kind not in "iu" or not 1 <= len(shape) <= 2:
                        raise ValueError(f"{item.filename} is {kind} {shape}, expected tables of whole numbers")
                    if count * kind.itemsize > item.file_size:
                        raise ValueError(f"{item.filename} declares {count:,} numbers and holds fewer")
                    total += count
                    if total > MAX_NUMBERS:
                        raise ValueError(f"{total:,} numbers, expected at most {MAX_NUMBERS:,}")
                    flat = np.frombuffer(handle.read(count * kind.itemsize), dtype=kind)
                    values = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
                if values.size and int(values.max()) > np.iinfo(np.int64).max:
                    raise ValueError(f"{item.filename} holds {values.max()}, expected whole numbers of 64 bits")
                made[item.filename.removesuffix(".npy")] = values.astype(np.int64)
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
        raise UserError(f"{path}: not a compact graph set: {error!s:.200}") from None
    return made


def write_compact(path: Path, source: Source) -> None:
    """Write what :func:`read_compact` reads.

    Raises:
        UserError: the folder cannot be written to.
    """
    arrays = {"y" if name == "labels" else name: part for name, part in source.graphs.packed().items()}
    if source.split is not None:
        arrays |= pack({f"split_{part}": getattr(source.split, part) for part in PARTS})

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, values in arrays.items():
                entry = zipfile.ZipInfo(f"{name}.npy")  # without the time of day: same graphs, same bytes
                entry.compress_type = zipfile.ZIP_DEFLATED
                with packed.open(entry, "w") as handle:
                    np.lib.format.write_array(handle, values, allow_pickle=False)

    write_atomic(path, write)
