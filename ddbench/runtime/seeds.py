"""Explicit randomness: every draw comes from a generator named by a seed and a purpose.

No function of ddbench leaves a global generator (torch, numpy, random) in another state than it found it.
Because a generator is derived from (seed, purpose, index), resuming needs no stored generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: stable over machines, versions and processes."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose. Draws are made on the CPU so that a GPU sees the same ones."""
    import torch

    made = torch.Generator()
    made.manual_seed(derive(seed, *purpose))
    return made


@contextmanager
def isolated(seed: int, *purpose: str | int) -> Iterator[None]:
    """Run code that insists on torch's global generators (layer initialisation, dropout) under a seed.

    Their states are put back at the end, whatever happens inside.
    """
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, *purpose))
        yield
