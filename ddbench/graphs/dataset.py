"""Sets of graphs as datasets: by name out of the data folder, ``graphs:PATH``, or made; with their split."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset, Split
from ddbench.data.places import own_place
from ddbench.data.specs import GRAPHS, MADE, DatasetSpec
from ddbench.graphs.graphset import GraphSet
from ddbench.graphs.read import FORMS, SPLIT_FORMS, load_graphs
from ddbench.graphs.splits import FOLDS, check_split, folds, random_split
from ddbench.graphs.splits import Split as Parts
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash
from ddbench.runtime.progress import Console

PLACES = {
    "mutag": ("MUTAG", "mutag.npz", "MUTAG.txt"),
    "proteins": ("PROTEINS", "proteins.npz", "PROTEINS.txt"),
    "nci1": ("NCI1", "nci1.npz", "NCI1.txt"),
    "imdb-binary": ("IMDB-BINARY", "imdb-b.npz", "IMDBBINARY.txt"),
    "dd": ("DD", "dd.npz", "DD.txt"),
    "ogbg-molbace": ("ogbg_molbace", "molbace.npz"),
    "ogbg-molbbbp": ("ogbg_molbbbp", "molbbbp.npz"),
    "ogbg-molhiv": ("ogbg_molhiv", "molhiv.npz"),
}
"""Where a named set is looked for under the data folder, and under ``graphs`` in it; the first that is there."""


class GraphSplit(Split):
    """Graphs of a split with their labels; it has no images.

    Attributes:
        graphs: the graphs.
        labels: int64 ``(N,)``.
    """

    graphs: GraphSet

    def __init__(self, graphs: GraphSet) -> None:
        object.__setattr__(self, "graphs", graphs)
        object.__setattr__(self, "labels", torch.from_numpy(graphs.labels))

    @property
    def images(self) -> Tensor:
        """There are none.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.graphs.name}: a set of graphs has no images (docs/graphs.md)")


@dataclass(frozen=True)
class GraphDataset(Dataset):
    """A set of graphs in memory.

    Attributes:
        valid: the part that a protocol may choose weights on; nobody trains on it.
        division: where the three parts come from, in words.
    """

    train: GraphSplit
    test: GraphSplit
    valid: GraphSplit = field(kw_only=True)
    division: str = field(kw_only=True)

    def check(self) -> None:
        """Nothing to do: graphs and split were checked when they were made."""


def load_graph_dataset(spec: DatasetSpec, root: Path | None, download: bool, console: Console | None) -> GraphDataset:
    """Read a set of graphs with the fold that its name says, its own split, or 80 / 10 / 10 percent.

    Args:
        spec: of :data:`PLACES` (``NAME:FOLD`` too), or of ``graphs:PATH``.
        root: data folder; None: there is none, which ``graphs:PATH`` and ``graphs:made`` do without.
        download: fetch a named set whose files are missing (:mod:`ddbench.graphs.download`).
        console: told what is fetched.

    Raises:
        UserError: no such files, files that do not fit together or lack the split that the set is known by, or a
            download that fails.
    """
    base, _, fold = (spec.name, "", "") if spec.name in PLACES else spec.name.rpartition(":")
    own = spec.name.startswith(GRAPHS)
    if spec.name == MADE:
        where = MADE
    elif own:
        where = f"{GRAPHS}{own_place(spec.name.removeprefix(GRAPHS), root)}"
    else:
        where = f"{GRAPHS}{_place(base or spec.name, root or Path(), download, console)}"
    source = load_graphs(where)
    graphs = source.graphs
    if not own and fold:
        parts, division = folds(graphs.labels, 0, int(fold)), f"fold {int(fold)} of {FOLDS} by seed 0 for testing"
    elif source.split is not None:
        parts, division = source.split, "its own, that came with it"
    elif not own and not spec.folds:
        # by another split its results would stand beside those of the published one, under the same name
        raise UserError(
            f"dataset {spec.name}: {where.removeprefix(GRAPHS)} holds no split, expected {spec.note} ({SPLIT_FORMS}); "
            f"remove it and get it anew with --download, or use {where}, which is split 80 / 10 / 10"
        )
    else:
        parts, division = random_split(graphs.labels, 0), "80 / 10 / 10 percent by seed 0"
    check_split(spec.name, parts, graphs.labels)
    names = tuple(map(str, range(graphs.classes)))
    return GraphDataset(
        spec=replace(spec, classes=graphs.classes, class_names=names),
        train=GraphSplit(graphs.take(parts.train)),
        test=GraphSplit(graphs.take(parts.test)),
        fingerprint=_fingerprint(graphs, parts),
        root=root,
        valid=GraphSplit(graphs.take(parts.valid)),
        division=division,
    )


def _place(name: str, root: Path, download: bool, console: Console | None) -> Path:
    folders = (root, root / "graphs")
    for folder in folders:
        for place in PLACES[name]:
            if (folder / place).exists():
                return folder / place
    if download:
        from ddbench.graphs.download import fetch_graphs

        made = root / "graphs" / PLACES[name][0]
        fetch_graphs(name, made, console)
        return made
    looked = " or ".join(str(folder) for folder in folders)
    raise UserError(
        f"dataset {name}: no {', '.join(PLACES[name])} in {looked}; get it with --download, put {FORMS} there under "
        "one of these names, or use graphs:PATH"
    )


def _fingerprint(graphs: GraphSet, parts: Parts) -> str:
    """Hex sha256 of the graphs and of which are for what."""
    split = {name: getattr(parts, name).tolist() for name in ("train", "valid", "test")}
    return text_hash({"graphs": graphs.fingerprint, "split": split})
