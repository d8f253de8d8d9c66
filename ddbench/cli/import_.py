"""``ddbench import``: read a synset that other code published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Common
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import is_temporary, read_json


@dataclass(frozen=True, kw_only=True)
class Args(Common):
    """Read a published synset into a run folder, ready for ddbench evaluate. Nothing in the file is executed."""

    file: tyro.conf.Positional[Path]
    """images_best.pt, DC's res_*.pt, an .npz with images and labels, or a folder CLASS/*.png."""
    dataset: str
    """Dataset it was distilled from."""
    out: Path
    """Run folder to make."""
    preprocess: str = "meanstd"
    """What its images went through: meanstd, or zca (ignored for pixels)."""
    labels: Path | None = None
    """labels_best.pt; without it class-major hard labels are assumed."""
    lr: str | None = None
    """Learned learning rate: a number, or a .pt file that holds one."""
    index: int = 0
    """Which set of a res_*.pt (negative: from the end)."""
    method: str = "imported"
    """Name of the method that made it."""
    student: str | None = None
    """Network it was distilled on."""
    augmentation: str = "dsa"
    """Augmentation it was distilled with (recorded)."""
    size: int | None = None
    """Side in pixels for image folders and ImageNet."""


EXAMPLES = """  ddbench import images_best.pt --labels labels_best.pt --lr 0.0187 --preprocess zca \\
      --dataset cifar10 --method mtt --student convnet-d3-w128-in --out runs/mtt-published
  ddbench import res_DC_CIFAR10_ConvNet_10ipc.pt --dataset cifar10 --method dc --index 2 --out runs/dc-published"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench import", str(Args.__doc__), EXAMPLES)
    from ddbench.cli.settings import open_dataset
    from ddbench.data.load import data_root
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.exchange import import_synset
    from ddbench.networks.names import parse_student
    from ddbench.preview import preview_png
    from ddbench.runtime.files import write_bytes, write_json
    from ddbench.synset import FILE, check_synset, write_synset

    dataset = open_dataset(args.dataset, args.size, args)
    preprocess = fit_preprocess(dataset, args.preprocess, data_root(args.data))
    synset = import_synset(
        args.file,
        dataset=dataset,
        preprocess=preprocess,
        labels=args.labels,
        lr=args.lr,
        index=args.index,
        method=args.method,
        student=str(parse_student(args.student)) if args.student else None,
        augmentation=args.augmentation,
    )
    check_synset(args.out / FILE, synset)
    config = {"kind": "ddbench-run", "schema": 1, "method": args.method, **synset.config}
    _claim(args.out, config)
    write_json(args.out / "config.json", config)
    write_bytes(args.out / "preview.png", preview_png(synset, preprocess))
    write_synset(args.out / FILE, synset)  # last: where it is, the run is whole
    print(f"synset: {args.out / FILE}   next: ddbench evaluate {args.out}")


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
