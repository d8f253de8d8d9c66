"""Flags of verbs whose work several processes share out: ``--shard`` and ``--status``. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ddbench.runtime.shards import ENVIRONMENT, Shard, State, parse_shard, status_lines

SHARE = ("shard", "status")
"""The fields, for heads of the help."""


@dataclass(frozen=True, kw_only=True)
class Sharded:
    """Flags of a verb whose units may be shared out."""

    shard: str | None = None
    """Do the i-th of n parts, i/n with i from 0 to n-1, or the name of a variable that holds i, such as
    JOB_COMPLETION_INDEX/8; alone, or left out in a Slurm array: as SLURM_ARRAY_TASK_ID and _COUNT say. 0/1 does all.
    The parts may run anywhere with the same folders (docs/scale.md)."""
    status: bool = False
    """Print what is done, running, failed and open, by all processes, and do nothing."""

    @property
    def part(self) -> Shard:
        """The shard that is meant.

        Raises:
            UserError: another form or range, or variables that name none.
        """
        return parse_shard(self.shard)


def with_shard(argv: Sequence[str]) -> list[str]:
    """The flags, with the value that a lone ``--shard`` means."""
    found = []
    for token, following in zip(argv, [*argv, ""][1:], strict=True):
        found.append(token)
        if token == "--shard" and (not following or re.match("-[^0-9]", following)):
            found.append(ENVIRONMENT)
    return found


def print_status(title: object, states: Sequence[State]) -> None:
    """Print what became of the units of a result."""
    for line in status_lines(str(title), states):
        print(line)
