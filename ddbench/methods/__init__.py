"""Methods: what makes a synset. One file a method; the table below is all that lists them. Imports no torch."""

from __future__ import annotations

from ddbench.registry import Registry

METHODS = Registry(
    "method",
    "ddbench.methods",
    {
        "datadam": "ddbench.methods.datadam:DataDAM",
        "dm": "ddbench.methods.dm:DM",
        "full": "ddbench.methods.full:Full",
        "herding": "ddbench.methods.herding:Herding",
        "kcenter": "ddbench.methods.kcenter:KCenter",
        "kmeans": "ddbench.methods.kmeans:KMeans",
        "mtt": "ddbench.methods.mtt:MTT",
        "random": "ddbench.methods.random:Random",
    },
)

DESCRIPTIONS = {
    "datadam": "attention and distribution matching (Sajedi et al., ICCV 2023)",
    "dm": "distribution matching (Zhao and Bilen, WACV 2023)",
    "full": "all real training images: the upper row",
    "herding": "real images whose mean feature follows the class mean (Welling, ICML 2009): a coreset",
    "kcenter": "real images that cover their class, farthest first (Sener and Savarese, ICLR 2018): a coreset",
    "kmeans": "real images nearest to k-means centres of their class (as in DC-BENCH, NeurIPS 2022): a coreset",
    "mtt": "matching training trajectories (Cazenavette et al., CVPR 2022)",
    "random": "real images chosen at random: the baseline",
}
