"""Initial weights by scheme, where PyTorch's defaults are not what a paper used: they are part of the artefact.

Sources: Glorot and Bengio (AISTATS 2010) for ``xavier``; LeCun et al. (1998) for ``lecun``, cut off at two standard
deviations as in JAX libraries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ddbench.networks.base import Student
from ddbench.registry import unknown
from ddbench.runtime import seeds

SCHEMES = ("default", "xavier", "lecun")
"""``default`` is what :func:`ddbench.networks.build.build_student` gives."""

TRUNCATED_SD = 0.87962566103423978
"""Standard deviation of a standard normal that is cut off at -2 and 2."""


def initialise(net: Student, scheme: str, seed: int) -> Student:
    """Draw a network's weights again by a scheme, in place.

    ``xavier``: normal with variance 2 / (fan in + fan out); ``lecun``: normal with variance 1 / fan in, cut off at two
    standard deviations. Both: biases are 0; scales and shifts of norms stay as they are.

    Args:
        net: on the CPU.
        seed: names the draws; no global generator is touched.

    Returns:
        The network itself.

    Raises:
        UserError: an unknown scheme.
    """
    if scheme not in SCHEMES:
        raise unknown("initialisation", scheme, SCHEMES)
    if scheme == "default":
        return net
    generator = seeds.generator(seed, "initialise", scheme)
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            _draw(module.weight, scheme, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


@torch.no_grad()
def _draw(weight: Tensor, scheme: str, generator: torch.Generator) -> None:
    if scheme == "xavier":
        nn.init.xavier_normal_(weight, generator=generator)
        return
    sd = math.sqrt(1 / weight[0].numel()) / TRUNCATED_SD
    nn.init.trunc_normal_(weight, std=sd, a=-2 * sd, b=2 * sd, generator=generator)
