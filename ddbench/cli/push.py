"""``ddbench push``: publish a synset as a dataset on a hub."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from ddbench.cli.parse import parse
from ddbench.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Args:
    """Publish a run as a dataset on the Hugging Face hub, in the form of ddbench export --format hub. The token is that
    of `hf auth login`, or HF_TOKEN; HF_ENDPOINT names another hub."""

    place: tyro.conf.Positional[Path]
    """A run folder, a synset file, or a folder of ddbench export --format hub."""
    name: tyro.conf.Positional[str]
    """OWNER/NAME of the dataset; it is made if it is not there, a synset that is there gets a new version."""
    private: bool = False
    """Of a dataset that is made: for you alone (else for everybody)."""
    leaderboard: Path | None = None
    """Folder of the board whose rows of this synset go into the card; default: leaderboard, if it is there."""
    quiet: bool = False
    """Print results and errors only."""


EXAMPLES = """  ddbench push runs/digits-ipc1-mtt-s0 me/digits-ipc1-mtt --private
  ddbench push published me/digits-ipc1-mtt                # after ddbench export --format hub --out published"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench push", str(Args.__doc__), EXAMPLES)
    from ddbench.data.specs import is_own, own_form
    from ddbench.hub import is_hub, remote
    from ddbench.hub.read import check_whole, open_hub
    from ddbench.runtime.hub_library import check_name, library

    check_name(args.name)
    library("push and pull need")
    if is_hub(args.place):
        if args.leaderboard is not None:
            raise UserError(
                f"--leaderboard {args.leaderboard}: {args.place} has its card already; give the run instead"
            )
        dataset = open_hub(args.place).dataset
        check_whole(args.place)  # so that nothing broken is published, and takes the place of what is whole
        address = remote.push(args.place, args.name, private=args.private, quiet=args.quiet)
    else:
        from ddbench.hub.write import export_hub

        with tempfile.TemporaryDirectory(prefix="ddbench-push-") as scratch:
            made = export_hub(args.place, Path(scratch) / "hub", args.leaderboard)
            for note in made.notes:
                print(note)
            dataset = open_hub(Path(scratch) / "hub").dataset
            address = remote.push(Path(scratch) / "hub", args.name, private=args.private, quiet=args.quiet)
    print(f"published: {address}")
    own = f" --dataset {own_form(dataset)}" if is_own(dataset) else ""  # where they are on the machine that pulls
    print(f"next: ddbench pull {args.name} --out runs/theirs{own}")
