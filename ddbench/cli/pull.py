"""``ddbench pull``: a run of a synset that was published on a hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Loading
from ddbench.exchange.settings import ImportSettings


@dataclass(frozen=True, kw_only=True)
class Args(Loading):
    """Fetch a synset that ddbench push published into a run folder, ready for ddbench evaluate. The real images of its
    dataset must be here."""

    name: tyro.conf.Positional[str]
    """OWNER/NAME of the dataset on the hub."""
    out: Path
    """Run folder to make."""
    revision: str | None = None
    """Branch, tag or commit; default: the newest."""
    labels: bool = True
    """Stored labels of its views too, where it has them; they may be large."""
    dataset: str | None = None
    """Dataset it was distilled from, where it is images of a folder: folder:PATH."""
    size: int | None = None
    """Side in pixels; default: that of the synset."""


EXAMPLES = """  ddbench pull me/digits-ipc1-mtt --out runs/theirs
  ddbench pull me/imagenette-rded --out runs/theirs --revision v1 --no-labels"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench pull", str(Args.__doc__), EXAMPLES)
    from ddbench.cli.import_ import claim, import_hub
    from ddbench.hub import remote

    claim(args.out, lambda there: str(there.get("imported_from")).startswith(f"{args.name}@"))  # before the download
    folder = remote.pull(args.name, revision=args.revision, labels=args.labels, quiet=args.quiet)
    import_hub(
        *(folder, args.out, args, ImportSettings()),
        name=args.dataset,
        size=args.size,
        source=f"{args.name}@{folder.name}",
        labels=args.labels,
    )
