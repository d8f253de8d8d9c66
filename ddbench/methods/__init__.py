"""Methods: what makes a synset. One file a method; the table below is all that lists them. Imports no torch."""

from __future__ import annotations

from ddbench.registry import Registry

METHODS = Registry(
    "method",
    "ddbench.methods",
    {
        "full": "ddbench.methods.full:Full",
        "mtt": "ddbench.methods.mtt:MTT",
        "random": "ddbench.methods.random:Random",
    },
)

DESCRIPTIONS = {
    "full": "all real training images: the upper row",
    "mtt": "matching training trajectories (Cazenavette et al., CVPR 2022)",
    "random": "real images chosen at random: the baseline",
}
