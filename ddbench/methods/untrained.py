"""``untrained``: the student as it is built, without a step, which a row of graphs is to be held against.

The sign of each class's score is chosen on training graphs. Sum pooling alone scores far above chance where classes
differ in the number of nodes (docs/graphs.md).
"""

from __future__ import annotations

from ddbench.graphs.reference import UNTRAINED
from ddbench.methods.facts import Facts
from ddbench.methods.families.graphs import ReferenceGraphs


class Untrained(ReferenceGraphs):
    """A network without a step."""

    facts = Facts(
        title="Untrained network",
        line="graphs: the student without a step, its signs chosen on training graphs",
        family="reference",
        protocol="graph-v1",
    )
    how = UNTRAINED
