"""``ddbench data check``: what a dataset or images of your own hold, before work."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import data_flag
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError, visible
from ddbench.runtime.progress import Console


@dataclass(frozen=True, kw_only=True)
class CheckArgs:
    """Tell what a dataset holds: counts, sizes, modes or labels, skipped files, class balance, items that are in both
    splits; and draw a row of images or graphs a class."""

    dataset: tyro.conf.Positional[str]
    """Dataset name (ddbench list datasets), folder:PATH, npz:PATH, hub:OWNER/NAME or graphs:PATH."""
    size: int | None = None
    """Side in pixels, where it can be chosen."""
    out: Path | None = None
    """The picture (default: NAME.png here, with --size NAME-SIZE.png)."""
    data: Path | None = None
    """Folder with the datasets; default: $DDBENCH_DATA, else the user's cache folder."""
    download: bool = False
    """Download the dataset when it is not there."""
    skip_broken: bool = False
    """Leave image files that cannot be read out, now and later (else they are named and nothing is done)."""


EXAMPLES = """  ddbench data check digits
  ddbench data check folder:my-images --size 32 --skip-broken
  ddbench data check npz:my-arrays.npz
  ddbench data check graphs:MUTAG
  ddbench data check hub:uoft-cs/cifar10 --size 32 --download --out cifar10.png"""

SUBVERBS = ("check",)


def main(argv: list[str]) -> None:
    """Run the verb."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: ddbench data check [--help] ...\n\n{CheckArgs.__doc__}\n\nexamples:\n{EXAMPLES}")
        return
    if argv[0] not in SUBVERBS:
        raise UserError(
            f"data: unknown sub-verb {argv[0]!r}{suggest(argv[0], SUBVERBS)}; one of: {', '.join(SUBVERBS)}"
        )
    args = parse(CheckArgs, argv[1:], "ddbench data check", str(CheckArgs.__doc__), EXAMPLES)
    _check(args)


class Told(Console):
    """What the reader of image files says about them is a result of this verb."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        """Keep it, to print it with the rest."""
        self.said.append(text)


def _check(args: CheckArgs) -> None:
    from ddbench.data.load import load_dataset
    from ddbench.data.specs import dataset_slug, modality_of
    from ddbench.modalities import modality
    from ddbench.runtime.files import ensure_writable, write_bytes

    kind = modality(modality_of(args.dataset))
    side = "" if args.size is None else f"-{args.size}"
    out = args.out or Path(f"{dataset_slug(args.dataset)}{side}.png")
    if out.suffix != ".png" or out.is_dir():
        raise UserError(f"--out {out}: expected a file that ends in .png")
    if args.skip_broken and kind.name != "image":
        raise UserError(f"--skip-broken: for image files, {args.dataset} is a set of {kind.items}; leave it out")
    console = Told()
    dataset = load_dataset(
        args.dataset,
        args.data,
        size=args.size,
        download=args.download,
        console=console,
        skip_broken=args.skip_broken,
        modality=kind.name,
    )
    ensure_writable(out.parent)
    head, *lines = kind.survey(dataset)
    print("\n".join(visible(line) for text in [*(console.said or [head]), *lines] for line in text.splitlines()))
    write_bytes(out, kind.first_items(dataset))
    print(f"  picture: {out}")
    words = ["ddbench", "distill", "--method", "random", "--dataset", args.dataset]
    words += [] if args.size is None else ["--size", str(args.size)]
    print(f"next: {shlex.join(words)}{data_flag(args.data)} {kind.small_budget(dataset)}")
