"""``mirage``: sets of trees that many training graphs of a class hold together, with their number (Gupta et al., ICLR
2024, arXiv:2310.09486). No gradients, no student.

The algorithm and what it deviates in: :mod:`ddbench.graphs.mirage` and ``methods/mirage/README.md``.
"""

from __future__ import annotations

from ddbench.graphs.graphset import GraphSet
from ddbench.graphs.mirage import MirageConfig, TreePayload, distil
from ddbench.methods.facts import Facts
from ddbench.methods.families.graphs import OneShotGraphs
from ddbench.synset import Budget


class Mirage(OneShotGraphs[MirageConfig]):
    """Frequent sets of computation trees."""

    config_class = MirageConfig
    facts = Facts(
        title="Mirage",
        line="graphs: sets of computation trees that are frequent in a class",
        family="graph distillation",
        protocol="graph-v1",
        student=False,
        paper="Mirage: Model-Agnostic Graph Distillation for Graph Classification",
        authors=("Mridul Gupta", "Sahil Manchanda", "Hariprasad Kodamana", "Sayan Ranu"),
        venue="ICLR",
        year=2024,
        arxiv="2310.09486",
        code="https://github.com/frigategnn/Mirage",
        licence="none stated",
    )

    @property
    def budget(self) -> Budget:
        """The bytes that are allowed; by thresholds, those that it has."""
        return Budget("bytes", self.config.max_bytes or self.payload.bytes)

    @classmethod
    def make(cls, config: MirageConfig, graphs: GraphSet, seed: int) -> TreePayload:
        """The sets of trees; nothing is random."""
        return distil(graphs, config)
