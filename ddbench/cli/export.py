"""``ddbench export``: write a synset as PNG folders, one picture, arrays, or a dataset for hubs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Loading
from ddbench.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Args(Loading):
    """Write a synset for other programs."""

    run: tyro.conf.Positional[Path]
    """A run folder, or a synset file."""
    out: Path
    """Folder to write into."""
    format: Literal["png", "grid", "npz", "hub"] = "png"
    """png: a folder a class (8 bits); grid: one picture; npz: the exact arrays and the header; hub: parquet files and a
    card as Hugging Face's datasets reads them, exact too."""
    leaderboard: Path | None = None
    """hub: folder of the board whose rows of this synset go into the card; default: leaderboard, if it is there."""


EXAMPLES = """  ddbench export runs/digits-ipc1-mtt-s0 --format grid --out pictures
  ddbench export runs/digits-ipc1-mtt-s0 --format npz --out arrays
  ddbench export runs/digits-ipc1-mtt-s0 --format hub --out published   # load_dataset("published")"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench export", str(Args.__doc__), EXAMPLES)
    if args.format == "hub":
        from ddbench.hub.write import export_hub

        exported = export_hub(args.run, args.out, args.leaderboard)
        print("\n".join([*exported.notes, f"{len(exported.files)} file(s) in {args.out}"]))
        print(f"next: ddbench push {shlex.quote(str(args.out))} OWNER/NAME")
        return
    if args.leaderboard is not None:
        raise UserError(f"--leaderboard {args.leaderboard}: only --format hub has a card")
    from ddbench.cli.settings import open_dataset
    from ddbench.data.specs import size_to_load
    from ddbench.exchange.write import export_synset, lost_in_pixels
    from ddbench.protocols.plan import labels_path, row_labels
    from ddbench.synset import check_against, own_preprocess, read_synset, synset_path

    path = synset_path(args.run)
    synset = read_synset(path)
    preprocess = own_preprocess(synset)
    if preprocess is None:
        size = size_to_load(synset.dataset, synset.images.shape[-1])
        preprocess = check_against(path, synset, open_dataset(synset.dataset, size, args))
    files = export_synset(synset, preprocess, args.format, args.out)
    print(f"{len(files)} file(s) in {args.out}")
    if args.format == "png" and (lost := lost_in_pixels(synset)):
        print(f"note: 8-bit pixels, without {lost}; --format npz has all of it")
    if labels := row_labels(path) or next(filter(Path.is_file, [labels_path(path)]), None):
        print(f"note: without {labels}, the stored labels of views; --format hub has them too")
