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

    # Not torch.manual_seed: before CUDA is in use it queues a formatted stack trace a call, for ever.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    state = torch.get_rng_state()
    number = derive(seed, *purpose)
    try:
        torch.default_generator.manual_seed(number)
        if cuda is not None:
            torch.cuda.manual_seed_all(number)
        yield
    finally:
        torch.set_rng_state(state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
