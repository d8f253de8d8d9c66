"""Diffusion models on the disk: those that ddbench trained, and pretrained pipelines; which one fits a dataset.

``ROOT/<dataset>/<key>/`` is what diffusers' own ``save_pretrained`` writes (``model_index.json``, ``unet/``,
``scheduler/``), with ``ddbench.json``, written last, saying what the model was trained on, how, and the hashes of these
files. A pretrained pipeline is a folder with ``transformer/``, ``vae/`` and ``scheduler/`` as a ``DiTPipeline`` has
them. How models are trained is in :mod:`ddbench.diffusion.train`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.config import apply_config
from ddbench.data.dataset import Dataset
from ddbench.data.specs import dataset_flags, dataset_slug, may_be_same, slug_patterns
from ddbench.diffusion.backends import Backend, LatentDiT, PixelUNet
from ddbench.diffusion.library import diffusers
from ddbench.diffusion.parts import SCHEDULER_CONFIG, alphas_of, load_part, parameters_of, pipeline_config, weight_files
from ddbench.diffusion.recipe import LATENT, PIXEL, DiffusionRecipe, unet_config
from ddbench.runtime.errors import UserError, read_each
from ddbench.runtime.files import file_hash, read_json, text_hash
from ddbench.runtime.interruption import leaving
from ddbench.runtime.numbers import exact

KIND = "ddbench-diffusion"
SCHEMA = 1
FILE = "ddbench.json"
COST = "cost.json"
SAMPLES = "samples.png"

UNET_CONFIG = "unet/config.json"
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FILES = ("model_index.json", UNET_CONFIG, UNET_WEIGHTS, SCHEDULER_CONFIG)

HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
"""A model on the hub: owner/name, with @revision if wanted."""

PIPELINE_CONFIGS = ("transformer/config.json", "vae/config.json", SCHEDULER_CONFIG)
PIPELINE_FILES = ["transformer/*", "vae/*", "scheduler/*.json"]

MAX_CLASSES = 100_000


@dataclass(frozen=True, kw_only=True)
class DiffusionModel:
    """A diffusion model in a folder.

    Attributes:
        folder: where it is.
        kind: of :data:`ddbench.diffusion.recipe.KINDS`.
        sha256: hash of the names and hashes of its files.
        parameters: how many numbers were learned, the autoencoder's included.
        classes: number of its classes.
        channels, side: of its images.
        dataset, fingerprint, class_names, recipe: what a model of ddbench's was trained on and how; empty for others.
        loss: mean over the last steps of its training; None for others.
    """

    folder: Path
    kind: str
    sha256: str
    parameters: int
    classes: int
    channels: int
    side: int
    dataset: str = ""
    fingerprint: str = ""
    class_names: tuple[str, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    loss: float | None = None

    def backend(self, device: torch.device, precision: torch.dtype = torch.float32) -> Backend:
        """The model on a device, in evaluation mode, its parameters without gradients.

        Args:
            precision: of a pretrained transformer.

        Raises:
            UserError: weights that cannot be read, are not finite, or are not those of the configuration.
        """
        if self.kind == PIXEL:
            return PixelUNet(load_part(self.folder, "unet", safe=True), alphas_of(self.folder), device)
        transformer, vae = load_part(self.folder, "transformer"), load_part(self.folder, "vae")
        return LatentDiT(transformer, vae, alphas_of(self.folder), device, precision)

    @property
    def knows_no_class(self) -> bool:
        """Whether it was trained on images without their class too, as classifier-free guidance asks it for them."""
        return bool(self.recipe.get("label_dropout", True))

    def reference(self) -> dict[str, Any]:
        """What a run keeps of its model; the recipe, if it has one, trains it again."""
        return {
            "sha256": self.sha256,
            "kind": self.kind,
            "parameters": self.parameters,
            "dataset_fingerprint": self.fingerprint or None,
            **({"recipe": self.recipe} if self.recipe else {}),
        }


def model_folders(root: Path, dataset: str | None = None) -> list[Path]:
    """Folders of the finished models under a root, of a dataset when it is given."""
    return _folders_like(root, dataset_slug(dataset) if dataset else "*")


def _folders_like(root: Path, folders: str) -> list[Path]:
    return sorted(path.parent for path in root.glob(f"{folders}/*/{FILE}"))


def write_description(
    folder: Path,
    dataset: Dataset,
    recipe: DiffusionRecipe,
    parameters: int,
    losses: list[float],
    versions: dict[str, str],
) -> dict[str, Any]:
    """The content of ``ddbench.json`` for a folder whose other files are there."""
    spec = dataset.spec
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "dataset": spec.name,
        "dataset_fingerprint": dataset.fingerprint,
        "class_names": list(spec.class_names),
        "shape": list(spec.shape),
        "preprocess": {"kind": "range", "low": -1.0, "high": 1.0},
        "recipe": recipe.to_json(),
        "seed": recipe.seed,
        "parameters": parameters,
        "losses": losses,
        "files": {name: file_hash(folder / name) for name in FILES},
        "versions": versions,
    }


def read_model(folder: Path) -> DiffusionModel:
    """Read what a folder says about its model, and check its files; no weights are loaded.

    Raises:
        UserError: no such folder, no model in it, damaged or hostile files; names the file and the value.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder (expected a diffusion model: one that ddbench diffusion train wrote, or a "
            "pretrained DiT pipeline with transformer/, vae/ and scheduler/)"
        )
    if (folder / FILE).exists():
        return _read_own(folder)
    missing = [name for name in PIPELINE_CONFIGS if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder}: no diffusion model (it has neither {FILE} nor {', '.join(missing)}); give a folder that "
            "ddbench diffusion train wrote, or a pretrained DiT pipeline with transformer/, vae/ and scheduler/"
        )
    return _read_pipeline(folder)


def open_model(name: str, *, download: bool = False) -> DiffusionModel:
    """A model by its folder, or by its name on the hub (``owner/name`` or ``owner/name@revision``).

    Args:
        download: fetch a model of the hub that is not in its cache on this machine.

    Raises:
        UserError: neither a folder nor a name, not in the cache, or as :func:`read_model`.
    """
    folder = Path(name)
    if folder.is_dir() or not HUB.fullmatch(name):
        return read_model(folder)
    diffusers()
    from huggingface_hub import snapshot_download  # a dependency of diffusers

    repository, _, revision = name.partition("@")
    try:
        wanted = {"allow_patterns": PIPELINE_FILES, "local_files_only": not download}
        found = leaving(partial(snapshot_download, repository, revision=revision or None, **wanted))
    except Exception as error:  # the library raises errors of its own, of the network and of the operating system
        remedy = "check the name and the network" if download else "give its folder, or --download to fetch it"
        raise UserError(
            f"--diffusion-model {name}: no such folder, and no model of that name in the hub's cache on this machine "
            f"({type(error).__name__}); {remedy}"
        ) from None
    return read_model(Path(found))


def find_model(
    root: Path,
    *,
    sha256: str | None = None,
    dataset: str | None = None,
    fingerprint: str | None = None,
    holdout: float | None = None,
) -> DiffusionModel | None:
    """The trained model under a root that has all that is given; of several the one of most images seen in training.

    Raises:
        UserError: none fits, but a folder that might hold it cannot be read.
    """

    def fits(model: DiffusionModel) -> bool:
        return (
            sha256 in (None, model.sha256)
            and (dataset is None or may_be_same(model.dataset, dataset, by_fingerprint=fingerprint is not None))
            and fingerprint in (None, model.fingerprint)
            and holdout in (None, model.recipe["holdout"])
        )

    own, *others = slug_patterns(dataset)
    for folders in (own, *(others if fingerprint is not None else ())):
        models, damaged = read_each(_folders_like(root, folders), read_model)
        if found := [model for model in models if fits(model)]:
            # Among equals the first path, so that every machine chooses alike.
            return max(found, key=lambda one: int(one.recipe["steps"]) * int(one.recipe["batch"]))
        if damaged and folders == own:
            raise damaged[0]
    return None


def class_map(model: DiffusionModel, dataset: Dataset) -> Tensor:
    """The model's class of each class of a dataset, int64 ``(K,)``.

    A pretrained model of the 1000 ImageNet classes serves ImageNet's subsets.
    """
    indices = dataset.spec.indices
    if not model.fingerprint and indices and model.classes != dataset.spec.classes:
        return torch.tensor(indices)
    return torch.arange(dataset.spec.classes)


def check_model(model: DiffusionModel, dataset: Dataset, holdout: float | None = None) -> None:
    """Refuse a model that cannot make images of a dataset, or that saw what it should not have seen.

    Args:
        holdout: fraction of the training images that a model of ddbench's must not have seen.

    Raises:
        UserError: other image size, channels, classes, data or held-out fraction.
    """
    spec = dataset.spec
    remedy = f"train one with {shlex.join(['ddbench', 'diffusion', 'train', *dataset_flags(spec.name, spec.size)])}"
    if model.channels != spec.channels:
        raise UserError(
            f"{model.folder}: makes images of {model.channels} channel(s), {spec.name} has {spec.channels}; {remedy}"
        )
    if not model.fingerprint:
        subset = bool(spec.indices) and max(spec.indices) < model.classes
        if model.classes != spec.classes and not subset:
            raise UserError(
                f"{model.folder}: has {model.classes} classes, {spec.name} has {spec.classes} and is no subset of "
                f"ImageNet's that it could know; {remedy}"
            )
        return
    if model.side != spec.size:
        raise UserError(
            f"{model.folder}: makes images of {model.side} px, those of {spec.name} are {spec.size} px; {remedy}"
        )
    if model.class_names != spec.class_names:
        raise UserError(
            f"{model.folder}: its {model.classes} classes ({', '.join(model.class_names[:3])}, ...) are not the "
            f"{spec.classes} of {spec.name} ({', '.join(spec.class_names[:3])}, ...); {remedy}"
        )
    if model.fingerprint != dataset.fingerprint:
        raise UserError(
            f"{model.folder}: was trained on {model.dataset} with fingerprint {model.fingerprint[:12]}, the "
            f"{spec.name} data here has {dataset.fingerprint[:12]}; {remedy}"
        )
    if holdout is not None and model.recipe["holdout"] != holdout:
        raise UserError(
            f"{model.folder}: was trained with --holdout {exact(model.recipe['holdout'])}, this run holds "
            f"{exact(holdout)} of the training images out; {remedy} --holdout {exact(holdout)}"
        )


def check_guidance(model: DiffusionModel, guidance: float) -> None:
    """Refuse classifier-free guidance by a model that was always told the class: its null class is noise.

    Raises:
        UserError: names the model and the guidance that it allows.
    """
    if guidance != 1 and not model.knows_no_class:
        raise UserError(
            f"--guidance {exact(guidance)}: {model.folder} was trained with --label-dropout 0 and does not know "
            "images of no class; give --guidance 1, the class alone"
        )


def _read_own(folder: Path) -> DiffusionModel:
    path = folder / FILE
    header = read_json(path, "description of a diffusion model")
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise UserError(f"{path}: no description of a diffusion model (its kind is not {KIND})")
    if header.get("schema") != SCHEMA:
        raise UserError(f"{path}: schema {header.get('schema')!r:.20}, this ddbench reads {SCHEMA}; upgrade")
    try:
        shape, names = header["shape"], header["class_names"]
        if len(shape) != 3 or any(type(side) is not int or not 1 <= side <= 1024 for side in shape):
            raise ValueError(f"shape {shape!r:.60}")
        if not 1 < len(names) <= MAX_CLASSES or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names")
        if not all(isinstance(header[name], str) for name in ("dataset", "dataset_fingerprint")):
            raise ValueError("dataset")
        recipe: DiffusionRecipe = apply_config(DiffusionRecipe, header["recipe"], "recipe")
        if recipe.to_json() != header["recipe"]:
            raise ValueError(f"recipe {header['recipe']!r:.60}")
        recipe.check(shape[1])
        files = {name: str(header["files"][name]) for name in FILES}
        parameters = int(header["parameters"])
        losses = [float(value) for value in header["losses"]]
        if not losses:
            raise ValueError("losses")
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split()):.160}); train the model again") from None
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing; train the model again, or copy its whole folder")
        if file_hash(folder / name) != expected:
            raise UserError(f"{folder / name}: its sha256 is not the one in {FILE}; copy or train the model again")
    _check_config(folder / UNET_CONFIG, unet_config(recipe, shape[0], shape[1], len(names)))
    return DiffusionModel(
        folder=folder,
        kind=PIXEL,
        sha256=text_hash(files),
        parameters=parameters,
        classes=len(names),
        channels=shape[0],
        side=shape[1],
        dataset=header["dataset"],
        fingerprint=header["dataset_fingerprint"],
        class_names=tuple(names),
        recipe=recipe.to_json(),
        loss=losses[-1],
    )


def _check_config(path: Path, wanted: dict[str, Any]) -> None:
    """Compare a network's configuration with what its recipe gives, before a network of any size is made."""
    config = read_json(path, "network configuration")
    for name, value in wanted.items():
        found = config.get(name) if isinstance(config, dict) else None
        if found != (list(value) if isinstance(value, tuple) else value):
            raise UserError(f"{path}: {name} is {found!r:.60}, {FILE} says {value!r}; train the model again")


def _read_pipeline(folder: Path) -> DiffusionModel:
    transformer, vae = pipeline_config(folder, "transformer"), pipeline_config(folder, "vae")
    try:
        norm, classes = transformer.get("norm_type"), transformer["num_embeds_ada_norm"]
        if norm != "ada_norm_zero" or type(classes) is not int or not 1 < classes <= MAX_CLASSES:
            raise ValueError(f"norm_type {norm!r}, num_embeds_ada_norm {classes!r}: no class-conditional DiT")
        if transformer["in_channels"] != vae["latent_channels"]:
            raise ValueError(
                f"the transformer's codes have {transformer['in_channels']!r} channels, the autoencoder's "
                f"{vae['latent_channels']!r}"
            )
        side = int(transformer["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
        channels = int(vae["in_channels"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: no DiT pipeline that can be used ({' '.join(str(error).split()):.200})") from None
    files: dict[str, str] = {}
    parameters = 0
    for part, config in (("transformer", transformer), ("vae", vae)):
        weights = weight_files(folder / part)
        parameters += parameters_of(folder, part, config, sum(path.stat().st_size for path in weights))
        files |= {f"{part}/{path.name}": file_hash(path) for path in (folder / part / "config.json", *weights)}
    files[SCHEDULER_CONFIG] = file_hash(folder / SCHEDULER_CONFIG)
    return DiffusionModel(
        folder=folder,
        kind=LATENT,
        sha256=text_hash(files),
        parameters=parameters,
        classes=classes,
        channels=channels,
        side=side,
    )
