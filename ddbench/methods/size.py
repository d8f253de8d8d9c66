"""``size``: the number of nodes alone as the score of each class, its sign chosen on training graphs. No network.

On ogbg-molbace and MUTAG it is above many published figures (docs/graphs.md).
"""

from __future__ import annotations

from ddbench.graphs.reference import SIZE
from ddbench.methods.facts import Facts
from ddbench.methods.families.graphs import ReferenceGraphs


class Size(ReferenceGraphs):
    """The number of nodes."""

    facts = Facts(
        title="Number of nodes",
        line="graphs: the number of nodes alone, nothing learned",
        family="reference",
        protocol="graph-v1",
        student=False,
    )
    how = SIZE
