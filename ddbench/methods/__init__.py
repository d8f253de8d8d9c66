"""Methods: what makes a synset. One file a method; the table below is all that lists them. Imports no torch."""

from __future__ import annotations

from ddbench.registry import Registry

METHODS = Registry(
    "method",
    "ddbench.methods",
    {
        "ast": "ddbench.methods.ast:AST",
        "cda": "ddbench.methods.cda:CDA",
        "cudd": "ddbench.methods.cudd:CUDD",
        "datadam": "ddbench.methods.datadam:DataDAM",
        "datm": "ddbench.methods.datm:DATM",
        "dc": "ddbench.methods.dc:DC",
        "dm": "ddbench.methods.dm:DM",
        "dream": "ddbench.methods.dream:DREAM",
        "dsa": "ddbench.methods.dsa:DSA",
        "ftd": "ddbench.methods.ftd:FTD",
        "full": "ddbench.methods.full:Full",
        "guard": "ddbench.methods.guard:GUARD",
        "herding": "ddbench.methods.herding:Herding",
        "idc": "ddbench.methods.idc:IDC",
        "kcenter": "ddbench.methods.kcenter:KCenter",
        "kmeans": "ddbench.methods.kmeans:KMeans",
        "mtt": "ddbench.methods.mtt:MTT",
        "pdd": "ddbench.methods.pdd:PDD",
        "random": "ddbench.methods.random:Random",
        "rded": "ddbench.methods.rded:RDED",
        "sre2l": "ddbench.methods.sre2l:SRe2L",
        "tesla": "ddbench.methods.tesla:TESLA",
    },
)

DESCRIPTIONS = {
    "ast": "matching trajectories of smooth experts, with representative first images (Shen et al., 2023)",
    "cda": "SRe2L with crops that go from the whole image to details (Yin and Shen, TMLR 2024)",
    "cudd": "recovered in phases, each against a student of the earlier ones (Ma et al., 2024)",
    "datadam": "attention and distribution matching (Sajedi et al., ICCV 2023)",
    "datm": "matching trajectories of a difficulty that fits the budget, learned labels (Guo et al., ICLR 2024)",
    "dc": "gradient matching: dataset condensation (Zhao et al., ICLR 2021)",
    "dm": "distribution matching (Zhao and Bilen, WACV 2023)",
    "dream": "IDC with representative real images: one a cluster of features (Liu et al., ICCV 2023)",
    "dsa": "DC with differentiable siamese augmentation (Zhao and Bilen, ICML 2021)",
    "ftd": "matching trajectories of flat experts, moving average of the images (Du et al., CVPR 2023)",
    "full": "all real training images: the upper row",
    "guard": "SRe2L from a teacher with a flat loss, for robustness (Xue et al., AAAI 2025)",
    "herding": "real images whose mean feature follows the class mean (Welling, ICML 2009): a coreset",
    "idc": "several small images in each stored one, matched by gradients (Kim et al., ICML 2022)",
    "kcenter": "real images that cover their class, farthest first (Sener and Savarese, ICLR 2018): a coreset",
    "kmeans": "real images nearest to k-means centres of their class (as in DC-BENCH, NeurIPS 2022): a coreset",
    "mtt": "matching training trajectories (Cazenavette et al., CVPR 2022)",
    "pdd": "progressive stages over a trajectory-matching method (Chen et al., ICLR 2024)",
    "random": "real images chosen at random: the baseline",
    "rded": "stitched of the real crops that an observer finds most realistic (Sun et al., CVPR 2024)",
    "sre2l": "recovered from a teacher's weights and batch-norm statistics (Yin et al., NeurIPS 2023)",
    "tesla": "matching trajectories in constant memory, soft labels of the expert (Cui et al., ICML 2023)",
}
