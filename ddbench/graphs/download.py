"""Named sets of graphs fetched from where their collections serve them: TU's zip archives and OGB's."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

from ddbench.graphs.files import MAX_TEXT
from ddbench.graphs.read import PREFIX, load_graphs
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.runtime.temporary import own_folder

TU = "https://www.chrsmrrs.com/graphkerneldatasets"
"""Where PyTorch Geometric's ``TUDataset`` fetches the collection too."""

OGB = "https://snap.stanford.edu/ogb/data/graphproppred/csv_mol_download"
"""Where the ``ogb`` package fetches the molecules too."""

_TABLES = ("edge", "num-node-list", "num-edge-list", "graph-label", "node-feat", "edge-feat")
_OGB_FILES = (
    *(f"raw/{name}.csv.gz" for name in _TABLES),
    *(f"split/scaffold/{name}.csv.gz" for name in ("train", "valid", "test")),
)
_TU_PARTS = ("A", "graph_indicator", "graph_labels", "node_labels", "edge_labels")


@dataclass(frozen=True)
class Archive:
    """A zip archive of one set.

    Attributes:
        url: where it is.
        inside: the folder in it.
        files: those below ``inside`` that are taken, where they are there; all others are left.
        graphs: how many the set has, by its publication: no digest is published for any.
    """

    url: str
    inside: str
    files: tuple[str, ...]
    graphs: int


def _tu(name: str, graphs: int) -> Archive:
    return Archive(f"{TU}/{name}.zip", name, tuple(f"{name}_{part}.txt" for part in _TU_PARTS), graphs)


def _ogb(name: str, graphs: int) -> Archive:
    return Archive(f"{OGB}/{name}.zip", name, _OGB_FILES, graphs)


ARCHIVES = {
    "mutag": _tu("MUTAG", 188),
    "proteins": _tu("PROTEINS", 1113),
    "nci1": _tu("NCI1", 4110),
    "imdb-binary": _tu("IMDB-BINARY", 1000),
    "dd": _tu("DD", 1178),
    "ogbg-molbace": _ogb("bace", 1513),
    "ogbg-molbbbp": _ogb("bbbp", 2039),
    "ogbg-molhiv": _ogb("hiv", 41127),
}


def fetch_graphs(name: str, target: Path, console: Console | None = None) -> None:
    """Fetch a set into the folder ``target``, which is there, whole and read once, or not at all.

    Args:
        name: of :data:`ARCHIVES`.

    Raises:
        UserError: no network, an archive that is none, has a file of more than
            :data:`~ddbench.graphs.files.MAX_TEXT` bytes, holds another number of graphs, or no split of OGB's;
            a folder that cannot be written to.
    """
    from torchvision.datasets.utils import download_url

    archive = ARCHIVES[name]
    (console or Console()).say(f"{name}: fetching {archive.url}")
    made = [folder for folder in target.parents if not folder.exists()]  # the innermost first
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with own_folder(target) as folder:
            download_url(archive.url, folder, "archive.zip")
            unpacked = folder / target.name
            _unpack(folder / "archive.zip", archive, unpacked)
            source = load_graphs(f"{PREFIX}{unpacked}")
            found = len(source.graphs)
            if found != archive.graphs:
                raise UserError(f"it holds {found:,} graphs, expected {archive.graphs:,}: the set was changed")
            if source.split is None and archive.files is _OGB_FILES:
                raise UserError("it holds no scaffold split: the set was changed")
            if not target.exists():  # else another process was first
                unpacked.rename(target)
    except (OSError, RuntimeError, UserError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the server's answer too: an open connection
        with suppress(OSError):  # another process put something there
            for folder in made:
                folder.rmdir()
        reason = " ".join(str(error).split())
        raise UserError(
            f"dataset {name}: the download of {archive.url} into {target} failed: {reason:.300}; try again, or put the "
            "files there"
        ) from error


def _unpack(path: Path, archive: Archive, folder: Path) -> None:
    """Write the files that are wanted, each of a bounded size, and nothing else of the archive."""
    with zipfile.ZipFile(path) as packed:
        sizes = {item.filename: item.file_size for item in packed.infolist()}
        for name in archive.files:
            member = f"{archive.inside}/{name}"
            if member not in sizes:
                continue  # what the reader cannot do without, it names
            if sizes[member] > MAX_TEXT:  # zipfile reads no more than is declared
                raise UserError(f"{member} has {sizes[member]:,} bytes, more than {MAX_TEXT:,}")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with packed.open(member) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
    if not folder.exists():
        raise UserError(f"the archive has no {archive.inside}/{archive.files[0]}")
