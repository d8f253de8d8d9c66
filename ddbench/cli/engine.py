"""Flags of verbs that share their jobs out over processes: here, or on a Ray cluster. Imports no torch and no ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from ddbench.runtime import jobs
from ddbench.runtime.common import Common
from ddbench.runtime.device import auto_is
from ddbench.runtime.errors import UserError

ENGINE = ("engine", "ray_address", "gpu_share")
"""The fields, for heads of the help."""


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Flags of a verb with ``--workers``."""

    engine: Literal["local", "ray"] = "local"
    """What runs the workers: processes of this machine, or Ray (docs/scale.md), where --workers 0 is as many as fit."""
    ray_address: str | None = None
    """HOST:PORT of the head of a Ray cluster; default: a cluster of this machine, for this command."""
    gpu_share: float | None = None
    """Part of a GPU that a job on Ray takes, such as 0.25: four jobs a GPU. Default: 1 where there are GPUs."""


A = TypeVar("A", bound=Any)


@contextmanager
def fan_out(args: A) -> Iterator[A]:
    """Let jobs run where the flags say for the block; gives the flags as they then hold.

    On Ray a job has one thread, if nothing else is said: the cores of this machine are not those of the nodes. What
    ``--device auto`` means is what a job gets there.

    Raises:
        UserError: flags of Ray without it; no ray, no cluster, or no node that can take a job.
    """
    if args.engine == "local":
        for flag, value in (("--ray-address", args.ray_address), ("--gpu-share", args.gpu_share)):
            if value is not None:
                raise UserError(f"{flag} {value}: give --engine ray with it")
        yield args
        return
    if args.workers < 0 or args.threads < 0:
        raise UserError(f"--workers {args.workers} --threads {args.threads}: expected at least 0")
    from ddbench.runtime.ray_jobs import cluster

    cpus = args.threads or 1
    with (
        cluster(args.ray_address, workers=args.workers, cpus=cpus, gpus=args.gpu_share, device=args.device) as ray,
        jobs.engine(ray),
        auto_is(ray.kind, elsewhere=True),
    ):
        yield replace(args, threads=cpus) if isinstance(args, Common) else args
