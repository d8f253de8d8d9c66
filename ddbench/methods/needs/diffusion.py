"""The need for a diffusion model: one of the user's choice, or one trained on the real data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.diffusion.library import diffusers
from ddbench.diffusion.store import COST, DiffusionModel, check_model, find_model, open_model
from ddbench.diffusion.train import ensure_model, fitting_model
from ddbench.methods.needs import Need, Request
from ddbench.methods.needs.flags import DiffusionFlags
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import recorded_seconds


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A diffusion model, and where what it makes of real images is cached.

    Attributes:
        model: the model.
        latents: root of the cached latents, shared by all runs with the same root of models.
    """

    model: DiffusionModel
    latents: Path


def no_precision(precision: str, model: str) -> UserError:
    """That a model of pixels is asked for a pretrained one's arithmetic.

    Args:
        model: what is one of pixels.
    """
    return UserError(
        f"--precision {precision}: it is of a pretrained transformer, and {model} is one of pixels, which is always "
        "float32; leave it out"
    )


@dataclass(frozen=True)
class Diffusion(Need[Generator]):
    """A diffusion model of the classes of the dataset.

    Attributes:
        precision: what a pretrained transformer computes in.
    """

    key = "diffusion"
    flags = DiffusionFlags
    root = "diffusions"

    precision: str = "float32"

    def check(self, run: Request) -> None:
        """Refuse where the library is not installed, and an arithmetic that a model of ddbench's has not."""
        diffusers()
        if self.precision != "float32" and run.flags_of(DiffusionFlags).diffusion_model is None:
            raise no_precision(self.precision, "without --diffusion-model it")

    def look(self, run: Request) -> Generator | None:
        """The model that is asked for, else that of an earlier try, else the one of the store that fits."""
        flags, earlier = run.flags_of(DiffusionFlags), run.recorded.get(self.key)
        found = None
        if flags.diffusion_model is not None:
            found = open_model(flags.diffusion_model, download=run.download)
        elif earlier is not None:
            found = find_model(flags.diffusions, sha256=earlier["sha256"])
        found = found or fitting_model(
            root=flags.diffusions, dataset=run.dataset, holdout=run.holdout, console=run.console
        )
        return None if found is None else self._checked(found, run)

    def make(self, run: Request) -> Generator:
        """Train one, by the default recipe."""
        model = ensure_model(
            root=run.flags_of(DiffusionFlags).diffusions,
            dataset=run.dataset,
            holdout=run.holdout,
            device=run.device,
            threads=run.threads,
            console=run.console,
        )
        return self._checked(model, run)

    def _checked(self, model: DiffusionModel, run: Request) -> Generator:
        check_model(model, run.dataset, run.holdout)
        return Generator(model=model, latents=run.flags_of(DiffusionFlags).diffusions / "latents")

    def refer(self, found: Generator) -> dict[str, Any]:
        """Its hash, kind, size and data."""
        return found.model.reference()

    def cost(self, found: Generator) -> dict[str, Any]:
        """Its ``parameters``, and ``wall_seconds`` and ``cpu_seconds`` where it was trained here."""
        return {"parameters": found.model.parameters, **(recorded_seconds(found.model.folder / COST) or {})}
