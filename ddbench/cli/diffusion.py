"""``ddbench diffusion train|info|sample``: small class-conditional diffusion models for the methods that need one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Common, own_threads
from ddbench.diffusion.recipe import DiffusionRecipe
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError, read_each, tell_damaged, visible
from ddbench.runtime.progress import Console


@dataclass(frozen=True, kw_only=True)
class TrainArgs:
    """Train a class-conditional diffusion model of pixels (8 to 64 px) on the real training images.

    Killed at any moment, the same command goes on and ends in the same bytes.
    """

    dataset: str = "digits"
    """Dataset name (ddbench list datasets), or folder:PATH, npz:PATH, hub:OWNER/NAME for your own images."""
    size: int | None = None
    """Side in pixels for image folders and ImageNet."""
    diffusions: Path = Path("diffusions")
    """Root of the diffusion models."""
    data: Path | None = None
    """Folder with the datasets; default: $DDBENCH_DATA, else the user's cache folder."""
    download: bool = False
    """Download the dataset when it is not there."""
    skip_broken: bool = False
    """Leave image files that cannot be read out, now and later (else they are named and nothing is done)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<i>."""
    threads: int = 0
    """Threads; 0: every core (1 for images up to 16 px)."""
    quiet: bool = False
    """Print results and errors only."""
    settings: DiffusionRecipe = field(default_factory=DiffusionRecipe)
    """What decides the model."""


@dataclass(frozen=True, kw_only=True)
class InfoArgs:
    """A table of the trained diffusion models, or one line about a model."""

    root: tyro.conf.Positional[Path] = Path("diffusions")
    """Root of the diffusion models, or the folder of one, pretrained ones included."""


@dataclass(frozen=True, kw_only=True)
class SampleArgs:
    """Draw plain samples of a model as a PNG grid: a row a class, 20 classes at most."""

    model: tyro.conf.Positional[str]
    """Folder of a model, or a pretrained one's name on the hub (owner/name)."""
    out: Path = Path("samples.png")
    """The picture."""
    count: int = 8
    """Images a class."""
    steps: int = 50
    """DDIM steps; a divisor of the model's timesteps (1000)."""
    guidance: float | None = None
    """Classifier-free guidance, 1: the class alone; default: 1.5, 1 for a model that was always told the class."""
    seed: int = 0
    """Names the noise."""
    download: bool = False
    """Fetch a model of the hub that is not on this machine."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<i>."""
    threads: int = 0
    """Threads; 0: every core (1 for images up to 16 px)."""


EXAMPLES = """  ddbench diffusion train --dataset digits
  ddbench diffusion train --dataset mnist --download --steps 8000
  ddbench diffusion train --dataset folder:my-images --size 32 --widths 64 128 128 --steps 80000 --device cuda
  ddbench diffusion info
  ddbench diffusion sample diffusions/digits/KEY --guidance 2 --out digits.png
  ddbench diffusion sample facebook/DiT-XL-2-256 --download --count 2 --guidance 4"""

SUBVERBS = ("train", "info", "sample")


def main(argv: list[str]) -> None:
    """Run the verb."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: ddbench diffusion {'|'.join(SUBVERBS)} [--help] ...\n\n{__doc__}\n\nexamples:\n{EXAMPLES}")
        return
    if argv[0] not in SUBVERBS:
        raise UserError(
            f"diffusion: unknown sub-verb {argv[0]!r}{suggest(argv[0], SUBVERBS)}; one of: {', '.join(SUBVERBS)}"
        )
    {"train": _train, "info": _info, "sample": _sample}[argv[0]](argv[1:])


def _train(argv: list[str]) -> None:
    args = parse(TrainArgs, argv, "ddbench diffusion train", str(TrainArgs.__doc__), EXAMPLES)
    from ddbench.cli.settings import open_dataset
    from ddbench.diffusion.library import diffusers
    from ddbench.diffusion.train import summary, train_model

    diffusers()
    common = Common(data=args.data, download=args.download, skip_broken=args.skip_broken, quiet=args.quiet)
    dataset = open_dataset(args.dataset, args.size, common)
    model = train_model(
        root=args.diffusions,
        dataset=dataset,
        recipe=args.settings,
        device=args.device,
        threads=own_threads(args.threads, dataset.spec.size),
        console=Console(args.quiet),
    )
    print(f"diffusion model of {model.dataset}: {summary(model)}: {model.folder}")


def _info(argv: list[str]) -> None:
    args = parse(InfoArgs, argv, "ddbench diffusion info", str(InfoArgs.__doc__), EXAMPLES)
    from ddbench.diffusion.store import model_folders, read_model

    folders = model_folders(args.root)
    if not folders and not args.root.is_dir():
        raise UserError(
            f"{args.root}: holds no diffusion models; train one with ddbench diffusion train --diffusions {args.root}"
        )
    rows: list[tuple[str, ...]] = [
        ("kind", "dataset", "px", "classes", "M parameters", "steps", "holdout", "last loss", "folder")
    ]
    models, damaged = read_each(folders or [args.root], read_model)
    for model in models:
        rows.append(
            (
                model.kind,
                model.dataset or "-",
                str(model.side),
                str(model.classes),
                f"{model.parameters / 1e6:.2f}",
                str(model.recipe.get("steps", "-")),
                f"{model.recipe['holdout']:g}" if model.recipe else "-",
                "-" if model.loss is None else f"{model.loss:.4f}",
                str(model.folder),
            )
        )
    if models:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print(visible("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()))
    tell_damaged(damaged, len(models) + len(damaged), "models")


def _sample(argv: list[str]) -> None:
    args = parse(SampleArgs, argv, "ddbench diffusion sample", str(SampleArgs.__doc__), EXAMPLES)
    if args.count < 1:
        raise UserError(f"--count {args.count}: expected at least 1")
    if args.out.is_dir():
        raise UserError(f"--out {args.out}: a folder; expected a file that ends in .png")
    from ddbench.diffusion.ddim import check_grid
    from ddbench.diffusion.store import check_guidance, open_model
    from ddbench.diffusion.train import SAMPLE_GUIDANCE, sample_grid
    from ddbench.runtime.device import prepare, resolve_device
    from ddbench.runtime.files import ensure_writable, write_bytes

    model = open_model(args.model, download=args.download)
    usual = SAMPLE_GUIDANCE if model.knows_no_class else 1.0
    guidance = usual if args.guidance is None else args.guidance
    check_guidance(model, guidance)
    ensure_writable(args.out.parent)
    prepare(own_threads(args.threads, model.side))
    backend = model.backend(resolve_device(args.device))
    check_grid(args.steps, None, len(backend.alphas))
    write_bytes(args.out, sample_grid(backend, seed=args.seed, count=args.count, steps=args.steps, guidance=guidance))
    print(f"samples: {args.out}")
