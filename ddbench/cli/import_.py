"""``ddbench import``: read a synset that other code published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Loading, data_flag
from ddbench.exchange.settings import ImportSettings
from ddbench.runtime.errors import UserError, visible
from ddbench.runtime.files import read_json
from ddbench.runtime.temporary import is_temporary

if TYPE_CHECKING:
    from ddbench.exchange.description import Description
    from ddbench.exchange.importer import Imported
    from ddbench.synset import Synset


@dataclass(frozen=True, kw_only=True)
class Args(Loading):
    """Read a published synset into a run folder, ready for ddbench evaluate. Nothing in the file is executed."""

    file: tyro.conf.Positional[Path]
    """images_best.pt, [images, labels] or a dict in a .pt, DC's res_*.pt, an .npz or .npy, a folder CLASS/IMAGE, or one
    that ddbench export --format hub wrote."""
    dataset: str | None = None
    """Dataset it was distilled from; an export of ddbench (hub, npz) says it."""
    out: Path | None = None
    """Run folder to make."""
    inspect: bool = False
    """Only tell what the file holds; no --dataset and --out are needed."""
    size: int | None = None
    """Side in pixels for image folders and ImageNet."""
    settings: ImportSettings = field(default_factory=ImportSettings)
    """How it is to be understood."""


EXAMPLES = """  ddbench import images_best.pt --inspect
  ddbench import images_best.pt --labels labels_best.pt --lr 0.0187 --preprocess zca \\
      --dataset cifar10 --method mtt --student convnet-d3-w128-in --out runs/mtt-published
  ddbench import res_DC_CIFAR10_ConvNet_10ipc.pt --dataset cifar10 --method dc --index 2 --out runs/dc-published
  ddbench import data.pt --dataset cifar10 --method idc --decode-factor 2 --out runs/idc-published
  ddbench import syn_data --dataset imagenette --size 224 --method rded --patches 2 --out runs/rded-published
  ddbench import published --out runs/theirs                        # a folder of ddbench export --format hub"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench import", str(Args.__doc__), EXAMPLES)
    from ddbench.hub import is_hub

    hub = is_hub(args.file)
    if args.inspect:
        print("\n".join(map(visible, _inspect(args, hub).lines())))
        return
    name = args.dataset
    if name is None and not hub and args.file.suffix.lower() == ".npz":
        from ddbench.exchange.importer import said_dataset

        name = said_dataset(args.file, args.settings)
    for flag, value in (("--dataset NAME", name or hub), ("--out FOLDER", args.out)):
        if not value:
            raise UserError(f"import: {flag} is needed (or --inspect, to see what the file holds)")
    assert args.out is not None
    args.settings.check()
    if hub:
        import_hub(args.file, args.out, args, args.settings, args.dataset, args.size)
        return
    assert name is not None
    if args.dataset is None:
        _not_own(args.file, name)
    from ddbench.cli.settings import open_dataset
    from ddbench.data.load import kept_root
    from ddbench.exchange.importer import import_synset

    dataset = open_dataset(name, args.size, args)
    imported = import_synset(args.file, dataset=dataset, data=kept_root(args.data), settings=args.settings)
    _write(args.file.name, args.out, imported, args)


def _inspect(args: Args, hub: bool) -> Description:
    from ddbench.exchange.importer import inspect, inspect_content

    if not hub:
        return inspect(args.file, args.settings)
    from ddbench.hub.read import open_hub, read_content

    args.settings.check()
    return inspect_content(args.file, read_content(open_hub(args.file)), args.settings)


def import_hub(
    place: Path,
    out: Path,
    loading: Loading,
    settings: ImportSettings,
    name: str | None = None,
    size: int | None = None,
    source: str = "",
    labels: bool = True,
) -> None:
    """Make a run of a folder of the form ``hub``: the synset to the byte, its stored labels, a preview.

    Args:
        name: the dataset, default: what the folder says.
        size: side in pixels, default: that of its images.
        source: what the run is to say it came from; default: the folder's name.
        labels: stored labels of its views too.

    Raises:
        UserError: a folder that is damaged or foreign, another dataset than it was made for, or a used ``out``.
    """
    from ddbench.cli.settings import open_dataset
    from ddbench.data.load import kept_root
    from ddbench.exchange.importer import import_content
    from ddbench.hub.read import open_hub, read_content, same_bytes, write_labels
    from ddbench.runtime.files import file_hash, write_json
    from ddbench.synset import FILE

    hub = open_hub(place)
    if name is None:
        _not_own(place, hub.dataset)
    content = read_content(hub)
    dataset = open_dataset(name or hub.dataset, hub.shape[-1] if size is None else size, loading)
    imported = import_content(place, content, dataset=dataset, data=kept_root(loading.data), settings=settings)
    config = _config(imported, source or place.name)
    claim(out, lambda there: there == config)
    beside, published = out / "labels.safetensors", None
    if labels and hub.labels is not None:
        published = str(hub.labels.get("sha256"))
    if not (out / FILE).exists():
        write_json(out / "config.json", config)
        if published is not None:
            write_labels(hub, beside)
    elif published is not None and not (beside.is_file() and file_hash(beside) == published):
        raise _used(out)
    _write(source or place.name, out, imported, loading)
    print(same_bytes(out / FILE, hub.sha256))
    if published is not None:
        print(same_bytes(beside, published))


def _not_own(place: Path, name: str) -> None:
    """Refuse to take images of somebody's own from where they lay when the set was made.

    Raises:
        UserError: they are such.
    """
    from ddbench.data.specs import is_own, own_form

    if is_own(name):
        raise UserError(f"{place}: made of images of {name[:80]}: say where they are here, --dataset {own_form(name)}")


def _config(imported: Imported, source: str) -> dict[str, Any]:
    return {"kind": "ddbench-run", "schema": 1, "method": imported.synset.method, "imported_from": source}


def _write(source: str, out: Path, imported: Imported, loading: Loading) -> None:
    from ddbench.cli.distill import evaluation_command
    from ddbench.preview import preview_png
    from ddbench.runtime.files import write_bytes, write_json
    from ddbench.synset import FILE, check_synset, write_synset

    synset = imported.synset
    check_synset(Path(source), synset)
    config = _config(imported, source)
    claim(out, lambda there: there == config)
    there = (out / FILE).exists()
    if there:
        _check_same(out, synset)
    else:
        write_json(out / "config.json", config)
    if not loading.quiet:
        print("\n".join(map(visible, replace(imported.description, file=source).lines())))
    if there:
        print(f"finished already: {out} holds this very synset")
    else:
        write_bytes(out / "preview.png", preview_png(synset, imported.preprocess))
        write_synset(out / FILE, synset)  # last: where it is, the run is whole
    form = {**synset.header(), "staged": synset.stage is not None}
    following = evaluation_command(out, synset.method, form) + data_flag(loading.data)
    print(f"synset: {out / FILE}   next: {following}")


def _check_same(out: Path, synset: Synset) -> None:
    """Refuse a run whose synset is not this one, to the byte.

    Raises:
        UserError: it is another one.
    """
    from ddbench.runtime.files import file_hash
    from ddbench.runtime.temporary import own_folder
    from ddbench.synset import FILE, write_synset

    with own_folder(out / FILE) as folder:
        write_synset(folder / FILE, synset)
        if file_hash(folder / FILE) != file_hash(out / FILE):
            raise _used(out)


def _used(out: Path) -> UserError:
    return UserError(f"{out} holds a synset already; choose another --out")


def claim(out: Path, mine: Callable[[Mapping[str, Any]], bool]) -> None:
    """Refuse a folder that holds anything but what this import left, finished or not.

    Args:
        mine: whether this import may have left such a configuration.

    Raises:
        UserError: another run or foreign files are there.
    """
    path = out / "config.json"
    there = read_json(path, "run configuration") if path.exists() else None
    begun = isinstance(there, dict) and mine(there)
    if not begun and (out / "synset.safetensors").exists():
        raise _used(out)
    if not begun and out.exists() and (not out.is_dir() or any(not is_temporary(entry) for entry in out.iterdir())):
        raise UserError(f"{out} holds other files already; choose another --out")
