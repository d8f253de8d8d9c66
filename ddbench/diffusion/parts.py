"""The networks and the scheduler of a model in a folder: what their configurations may ask for, and loading them.

The folder may be a stranger's. The library makes whatever a configuration says, so that is bounded before it is asked.
"""

from __future__ import annotations

import math
import types
import typing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.diffusion.library import diffusers, quiet
from ddbench.networks.build import parameter_count
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_json

SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
PARTS = {"unet": "UNet2DModel", "transformer": "DiTTransformer2DModel", "vae": "AutoencoderKL"}
"""Folder of a part -> its class in the library."""

_MOST = {
    "transformer": {"num_layers": 256, "sample_size": 512},
    "vae": {"block_out_channels": 16, "layers_per_block": 64, "latent_channels": 1024, "in_channels": 1024},
}
"""What a pipeline's configuration may ask for: modules cost time and memory even where they hold no numbers."""

MAX_NUMBER = 2**20
MAX_TEXT = 200
MAX_LIST = 100_000
"""Values of a configuration: a schedule may list a number for each step."""


def pipeline_config(folder: Path, part: str) -> dict[str, Any]:
    """Configuration of a part of a pipeline, of a network that is not endless."""
    path = folder / part / "config.json"
    config: dict[str, Any] = read_json(path, "network configuration")
    _check_values(path, PARTS[part], config)
    for name, most in _MOST[part].items():
        value = config.get(name, 0)
        size = len(value) if isinstance(value, list) else value
        if type(size) is not int or not 0 <= size <= most:
            raise UserError(f"{path}: {name} is {value!r:.60}, expected {most} at most")
    return config


def _check_values(path: Path, name: str, config: Any) -> None:
    """Refuse values that are not of the types that the library's class says: it does not look, and multiplies a text
    by a number without end.

    Raises:
        UserError: no table, or a value of another type or size.
    """
    if not isinstance(config, dict):
        raise UserError(f"{path}: it is no table; copy the model again")
    for key, hint in typing.get_type_hints(getattr(diffusers(), name).__init__).items():
        if key in config and not _fits(config[key], hint):
            words = hint.__name__ if isinstance(hint, type) else str(hint)
            raise UserError(f"{path}: {key} is {config[key]!r:.60}, expected {words} of a usual size")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is one of a type, and of no endless size."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is typing.Literal:
        return value in inside
    if origin in (tuple, list):
        return isinstance(value, list) and len(value) <= MAX_LIST and all(_fits(item, inside[0]) for item in value)
    if hint in (int, float) and type(value) in (int, hint):
        return math.isfinite(value) and abs(value) <= MAX_NUMBER
    return type(value) is hint and (hint is not str or len(value) <= MAX_TEXT)


def parameters_of(folder: Path, part: str, config: dict[str, Any], weights: int) -> int:
    """How many numbers a network of this configuration learns; it is made without memory.

    Args:
        config: of :func:`pipeline_config`.
        weights: bytes of the files that hold them, so that none is made that they do not fill.

    Raises:
        UserError: the library makes no network of it, or one of more numbers than the weights.
    """
    path, name = folder / part / "config.json", PARTS[part]
    try:
        with quiet(), torch.device("meta"):
            count = parameter_count(getattr(diffusers(), name).from_config(config))
    except Exception as error:  # whatever a library makes of foreign values
        raise UserError(f"{path}: no {name} ({' '.join(str(error).split()):.160})") from None
    if count > weights:
        raise UserError(f"{path}: {name} of {count:,} numbers, its weights are {weights:,} bytes; copy the model again")
    return count


def weight_files(folder: Path) -> list[Path]:
    """Weight files of a part of a pipeline: safetensors, else what torch saved (read as weights only).

    Raises:
        UserError: there are none.
    """
    for end in ("safetensors", "bin"):
        found = sorted(folder.glob(f"diffusion_pytorch_model*.{end}"))
        if found:
            return found
    raise UserError(f"{folder}: holds no weights (diffusion_pytorch_model.safetensors); copy the whole model")


def load_part(folder: Path, part: str, *, safe: bool | None = None) -> Any:
    """A part of a model, with finite weights and without gradients.

    Args:
        safe: whether its weights must be safetensors; None: it may have what torch saved, read as weights only.

    Raises:
        UserError: a configuration of no such network, weights that cannot be read, lack a layer, or are not finite.
    """
    path, name = folder / part / "config.json", PARTS[part]
    _check_values(path, name, read_json(path, "network configuration"))
    how: dict[str, Any] = {"use_safetensors": safe, "local_files_only": True, "low_cpu_mem_usage": False}
    try:
        with quiet():
            net, told = getattr(diffusers(), name).from_pretrained(folder / part, output_loading_info=True, **how)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"{folder / part}: cannot read this {name} ({' '.join(str(error).split()):.200})") from None
    if lacking := sorted({key for key, _ in net.named_parameters()} & set(told["missing_keys"])):  # drawn at random
        raise UserError(f"{folder / part}: its weights lack {lacking[0]} (of {len(lacking)}); copy the model again")
    for key, tensor in net.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{folder / part}: {key} holds values that are NaN or infinite; train or copy it again")
    return net.requires_grad_(False).float().eval()


def alphas_of(folder: Path) -> Tensor:
    """Cumulative alphas of a scheduler's configuration, float64 ``(T,)``.

    Raises:
        UserError: not the configuration of a model that predicts noise.
    """
    path = folder / SCHEDULER_CONFIG
    config = read_json(path, "scheduler configuration")
    kind = config.get("prediction_type", "epsilon") if isinstance(config, dict) else None
    if kind != "epsilon":
        raise UserError(f"{path}: prediction_type is {kind!r}, expected 'epsilon' (a model that predicts the noise)")
    _check_values(path, "DDIMScheduler", config)
    try:
        alphas: Tensor = diffusers().DDIMScheduler.from_config(config).alphas_cumprod.double()
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path}: no scheduler ({' '.join(str(error).split()):.160})") from None
    if not bool((alphas > 0).all() and (alphas < 1).all() and (alphas.diff() < 0).all()):
        raise UserError(f"{path}: its noise levels do not grow strictly from 0 to 1")
    return alphas
