"""``ddbench import``: read a synset that other code published."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Common
from ddbench.exchange.settings import ImportSettings
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import is_temporary, read_json


@dataclass(frozen=True, kw_only=True)
class Args(Common):
    """Read a published synset into a run folder, ready for ddbench evaluate. Nothing in the file is executed."""

    file: tyro.conf.Positional[Path]
    """images_best.pt, [images, labels] or a dict in a .pt, DC's res_*.pt, an .npz or .npy, or a folder CLASS/IMAGE."""
    dataset: str | None = None
    """Dataset it was distilled from."""
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
  ddbench import syn_data --dataset imagenette --size 224 --method rded --patches 2 --out runs/rded-published"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench import", str(Args.__doc__), EXAMPLES)
    if args.inspect:
        from ddbench.exchange.importer import inspect

        print("\n".join(inspect(args.file, args.settings).lines()))
        return
    for flag, value in (("--dataset NAME", args.dataset), ("--out FOLDER", args.out)):
        if value is None:
            raise UserError(f"import: {flag} is needed (or --inspect, to see what the file holds)")
    assert args.dataset is not None
    assert args.out is not None
    _import(args, args.dataset, args.out)


def _import(args: Args, name: str, out: Path) -> None:
    from ddbench.cli.settings import open_dataset
    from ddbench.data.load import data_root
    from ddbench.exchange.importer import import_synset
    from ddbench.preview import preview_png
    from ddbench.runtime.files import write_bytes, write_json
    from ddbench.synset import FILE, check_synset, write_synset

    args.settings.check()
    dataset = open_dataset(name, args.size, args)
    imported = import_synset(args.file, dataset=dataset, data=data_root(args.data), settings=args.settings)
    synset = imported.synset
    check_synset(args.file, synset)
    config = {"kind": "ddbench-run", "schema": 1, "method": synset.method, "imported_from": args.file.name}
    _claim(out, config)
    write_json(out / "config.json", config)
    if not args.quiet:
        print("\n".join(imported.description.lines()))
    write_bytes(out / "preview.png", preview_png(synset, imported.preprocess))
    write_synset(out / FILE, synset)  # last: where it is, the run is whole
    print(f"synset: {out / FILE}   next: ddbench evaluate {out}")


def _claim(out: Path, config: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but this import, unfinished.

    Raises:
        UserError: a synset, another run or foreign files are there.
    """
    if (out / "synset.safetensors").exists():
        raise UserError(f"{out} holds a synset already; choose another --out")
    path = out / "config.json"
    mine = path.exists() and read_json(path, "run configuration") == config
    if not mine and out.exists() and (not out.is_dir() or any(not is_temporary(entry) for entry in out.iterdir())):
        raise UserError(f"{out} holds other files already; choose another --out")
