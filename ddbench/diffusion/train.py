"""Training a small class-conditional diffusion model on the training images; resumable to the same bytes.

Ho, Jain, Abbeel: "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (equation 14: the mean squared error of the
predicted noise, times uniform), with classes and their random drop for classifier-free guidance (Ho, Salimans 2022).
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.data.dataset import Dataset, Split, holdout_split
from ddbench.diffusion.backends import Backend, PixelUNet
from ddbench.diffusion.ddim import STEPS, Move, sampling_moves, travel
from ddbench.diffusion.draws import Draws
from ddbench.diffusion.library import diffusers
from ddbench.diffusion.parts import SCHEDULER_CONFIG
from ddbench.diffusion.recipe import PARTIAL, DiffusionRecipe, model_folder, scheduler_config, unet_config
from ddbench.diffusion.store import (
    COST,
    FILE,
    SAMPLES,
    UNET_CONFIG,
    UNET_WEIGHTS,
    DiffusionModel,
    find_model,
    read_model,
    write_description,
)
from ddbench.networks.build import parameter_count
from ddbench.preview import MAX_ROWS, grid, png
from ddbench.runtime import device as devices
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError, memory_words
from ddbench.runtime.files import ensure_writable, write_bytes, write_json
from ddbench.runtime.interruption import Interruption, interruptible
from ddbench.runtime.light import light
from ddbench.runtime.progress import Console
from ddbench.runtime.resources import Meter
from ddbench.runtime.signs import end_turn, turn
from ddbench.runtime.tensors import finite_tensors, open_tensors, write_foreign, write_tensors
from ddbench.training.optimizers import check_gathered

CHECKPOINT_KIND = "ddbench-diffusion-checkpoint"
CHECKPOINT_SECONDS = 20.0
"""Least time between two checkpoints."""

LOSS_STEPS = 100
"""Steps whose mean loss is one entry of the curve that is kept."""

CLIP = 1.0
"""Largest norm of a step's gradient."""

SAMPLE_COLUMNS = 8
SAMPLE_GUIDANCE = 1.5
"""Images a class in the sample grid, and their guidance."""


def fitting_model(*, root: Path, dataset: Dataset, holdout: float, console: Console) -> DiffusionModel | None:
    """The model of the store that fits a dataset, said on the console; None: there is none.

    Raises:
        UserError: a folder of the store cannot be read.
    """
    found = find_model(root, dataset=dataset.spec.name, fingerprint=dataset.fingerprint, holdout=holdout)
    if found is not None:
        console.say(f"diffusion model: {found.folder} ({summary(found)})")
    return found


def ensure_model(
    *,
    root: Path,
    dataset: Dataset,
    holdout: float,
    device: str,
    threads: int,
    console: Console,
) -> DiffusionModel:
    """The model of the store that fits a dataset, else one trained by the default recipe, kept.

    Args:
        holdout: fraction of the training images that it must not have seen.

    Raises:
        UserError: as :func:`train_model`, or a folder of the store that cannot be read.
    """
    spec = dataset.spec
    found = fitting_model(root=root, dataset=dataset, holdout=holdout, console=console)
    if found is not None:
        return found
    recipe = DiffusionRecipe(holdout=holdout)
    recipe.check(spec.size)
    console.say(
        f"no diffusion model of {spec.name} at {spec.size} px in {root} (holdout {holdout:g}): training one first, "
        f"{recipe.steps} steps; it is kept for the next run"
    )
    return train_model(root=root, dataset=dataset, recipe=recipe, device=device, threads=threads, console=console)


def summary(model: DiffusionModel) -> str:
    """What a model is, in a few words."""
    size = f"{model.parameters / 1e6:.2f} M parameters, {model.classes} classes, {model.side} px"
    return f"{size}, {model.recipe['steps']} steps" if model.recipe else f"{size}, pretrained"


def train_model(
    *, root: Path, dataset: Dataset, recipe: DiffusionRecipe, device: str, threads: int, console: Console
) -> DiffusionModel:
    """Train a model on the training images less the held-out ones; a finished one is read, a killed one goes on.

    Nothing is chosen: the average of the weights after the last step is the model.

    Raises:
        UserError: settings out of range, a folder that cannot be written to (both before anything is written), a
            damaged checkpoint, or training that diverges.
    """
    meter = Meter()
    spec = dataset.spec
    recipe.check(spec.size)
    library = diffusers()
    place = devices.resolve_device(device)
    split, _ = holdout_split(dataset.train, recipe.holdout, spec.classes, dataset.root, names=spec.class_names)
    folder = model_folder(root, spec.name, recipe.key(dataset.fingerprint))
    partial = folder.with_name(f"{folder.name}{PARTIAL}")
    if (folder / FILE).exists():
        return _finished(folder, partial, console)
    ensure_writable(folder.parent)
    with turn(folder, "diffusion model", console.say, meter):
        if (folder / FILE).exists():  # another process trained it meanwhile
            return _finished(folder, partial, console)
        devices.prepare(threads, say=console.say)
        with seeds.isolated(recipe.seed, "diffusion", "weights"):
            net = library.UNet2DModel(**unet_config(recipe, spec.channels, spec.size, spec.classes))
        training = _Training(net.to(place), split, spec.classes, recipe, flip=spec.flip, device=place)
        progress = _Progress(partial, training, recipe, meter)
        done = progress.load()
        if done:
            console.say(f"going on after step {done} of {recipe.steps}")
            devices.go_on(progress.header, place, console.say)
        with (
            console.bar(f"diffusion model ({spec.name}, {recipe.steps} steps)", recipe.steps, done) as bar,
            interruptible(console, "step", recipe.steps, done) as progress.interruption,
        ):
            for step in range(done, recipe.steps):
                loss = training.step(step)
                if not math.isfinite(loss) or (step + 1 == recipe.steps and not training.finite()):
                    partial.unlink(missing_ok=True)
                    raise UserError(
                        f"diffusion model of {spec.name}: its training diverged, at step {step + 1} loss or weights "
                        f"are not finite; lower --lr (now {recipe.lr:g})"
                    )
                progress.note(step + 1, loss)
                bar.advance(f"loss {progress.recent:.4f}")
        net.load_state_dict(training.average)
        backend = PixelUNet(net.requires_grad_(False), training.scheduler.alphas_cumprod, place)
        guidance = SAMPLE_GUIDANCE if recipe.label_dropout else 1.0
        write_bytes(folder / SAMPLES, sample_grid(backend, seed=recipe.seed, guidance=guidance))
        _save(folder, net, library)
        write_json(
            folder / COST, meter.report(devices.describe(place), steps=recipe.steps, parameters=parameter_count(net))
        )
        versions = {**devices.versions(), "diffusers": str(library.__version__)}
        write_json(
            folder / FILE, write_description(folder, dataset, recipe, parameter_count(net), progress.losses, versions)
        )
        partial.unlink(missing_ok=True)
    return read_model(folder)


def _finished(folder: Path, partial: Path, console: Console) -> DiffusionModel:
    """A model that is trained already; what a killed training left is removed.

    Raises:
        UserError: the files are damaged.
    """
    model = read_model(folder)
    partial.unlink(missing_ok=True)
    end_turn(folder)
    console.say(f"trained already: {folder}")
    return model


def plain_samples(
    backend: Backend, labels: Tensor, noise: Tensor, *, steps: int = STEPS, guidance: float = 1.0
) -> Tensor:
    """Images float32 ``(n, C, H, W)`` in [-1, 1] by DDIM from pure noise.

    Args:
        labels: the model's classes, int64 ``(n,)``.
        noise: ``(n, *latent_shape)``.
    """
    moves, made = sampling_moves(backend.alphas, steps), []
    for part in torch.arange(len(labels)).split(backend.batch):
        y = labels[part].to(backend.device)

        def predict(x: Tensor, move: Move, y: Tensor = y) -> Tensor:
            return backend.noise(x, move.time, y, guidance)

        made.append(backend.decode(travel(noise[part].to(backend.device), moves, predict, clip=backend.bounded)).cpu())
    return torch.cat(made)


def sample_grid(
    backend: Backend,
    *,
    seed: int,
    count: int = SAMPLE_COLUMNS,
    steps: int = STEPS,
    guidance: float = SAMPLE_GUIDANCE,
) -> bytes:
    """PNG of plain samples: a row a class (the first 20), ``count`` images each."""
    classes = min(backend.classes, MAX_ROWS)
    labels = torch.arange(classes).repeat_interleave(count)
    noise = torch.stack(
        [torch.randn(backend.latent_shape, generator=seeds.generator(seed, "grid", i)) for i in range(len(labels))]
    )
    images = plain_samples(backend, labels, noise, steps=steps, guidance=guidance)
    return png(grid(backend.pixels(images, backend.side), labels, classes))


class _Training:
    """The network, its optimiser and the average of its weights; a step is named by its number."""

    def __init__(
        self, net: Any, split: Split, classes: int, recipe: DiffusionRecipe, *, flip: bool, device: torch.device
    ) -> None:
        self.net, self.recipe, self.device = net.train(), recipe, device
        self.draws = Draws(
            split,
            batch=recipe.batch,
            classes=classes,
            dropout=recipe.label_dropout,
            flip=flip and recipe.flip,
            seed=recipe.seed,
            purpose="diffusion",
        )
        self.scheduler = diffusers().DDPMScheduler(**_training_schedule())
        self.optimizer = light(torch.optim.AdamW)(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.average = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}

    def step(self, number: int) -> float:
        """Take step ``number`` (from 0); returns its loss."""
        drawn = self.draws(number)
        x, labels, times, noise = (one.to(self.device) for one in (drawn.x, drawn.told, drawn.times, drawn.noise))
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * self.recipe.factor(number)
        noisy = self.scheduler.add_noise(x, noise, times)
        loss = (self.net(noisy, times, class_labels=labels).sample - noise).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimizer.step()
        # The average follows quickly at first: the first weights are noise.
        decay = min(self.recipe.ema, (1 + number) / (10 + number))
        with torch.no_grad():
            for name, tensor in self.net.state_dict().items():
                self.average[name].lerp_(tensor, 1 - decay)
        return float(loss.detach())

    def finite(self) -> bool:
        """Whether all averaged weights are finite."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.average.values())


def _training_schedule() -> dict[str, Any]:
    """What diffusers' ``DDPMScheduler`` knows of the schedule."""
    return {name: value for name, value in scheduler_config().items() if name != "set_alpha_to_one"}


def _save(folder: Path, net: Any, library: Any) -> None:
    """Write the model in diffusers' own format; the same weights give the same bytes."""
    scheduler = library.DDIMScheduler(**scheduler_config())
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    write_foreign(folder / UNET_WEIGHTS, weights, {"format": "pt"})
    for name, part in ((UNET_CONFIG, net), (SCHEDULER_CONFIG, scheduler)):
        write_bytes(folder / name, part.to_json_string().encode())
    index = {
        "_class_name": "DDIMPipeline",
        "_diffusers_version": library.__version__,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    write_json(folder / "model_index.json", index)


class _Progress:
    """The checkpoint of a training: weights, their average, optimiser, curve and cost after some step."""

    def __init__(self, path: Path, training: _Training, recipe: DiffusionRecipe, meter: Meter) -> None:
        self.path, self.training, self.recipe, self.meter = path, training, recipe, meter
        self.losses: list[float] = []
        self._sum, self._count = 0.0, 0
        self.interruption: Interruption
        self.header: dict[str, Any] = {}
        self._saved = time.monotonic()

    @property
    def recent(self) -> float:
        """Mean loss of the steps since the last entry of the curve; where there are none, that entry."""
        return self._sum / self._count if self._count else self.losses[-1]

    def note(self, done: int, loss: float) -> None:
        """Take the loss of the step that ended; write the checkpoint when it is due."""
        self._sum, self._count = self._sum + loss, self._count + 1
        last = done == self.recipe.steps
        if done % LOSS_STEPS == 0 or last:
            self.losses.append(round(self.recent, 6))
            self._sum, self._count = 0.0, 0
        if last or self.interruption.asked or time.monotonic() - self._saved >= CHECKPOINT_SECONDS:
            self._save(done)
            self.interruption.kept(done)

    def _save(self, done: int) -> None:
        training = self.training
        tensors = {f"net.{name}": tensor for name, tensor in training.net.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in training.average.items()}
        for index, values in training.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        header = {
            "kind": CHECKPOINT_KIND,
            "schema": 1,
            "done": done,
            "threads": torch.get_num_threads(),
            **devices.kind_record(training.device),
            "losses": self.losses,
            "sum": self._sum,
            "count": self._count,
            "wall_seconds": self.meter.wall,
            "cpu_seconds": self.meter.cpu,
        }
        write_tensors(self.path, tensors, header)
        self._saved = time.monotonic()

    def load(self) -> int:
        """Take an earlier try over; returns the steps that it did.

        Raises:
            UserError: the file is damaged, or not of this training.
        """
        if not self.path.exists():
            return 0
        training = self.training
        try:
            with open_tensors(self.path, CHECKPOINT_KIND, 1) as (handle, header):
                tensors = finite_tensors(handle)
            done = int(header["done"])
            if not 0 < done <= self.recipe.steps:
                raise ValueError(f"step {done} of {self.recipe.steps}")
            self.losses = [float(value) for value in header["losses"]]
            self._sum, self._count = float(header["sum"]), int(header["count"])
            training.net.load_state_dict(_under(tensors, "net."))
            average = _under(tensors, "average.")
            if {k: v.shape for k, v in average.items()} != {k: v.shape for k, v in training.average.items()}:
                raise ValueError("its average has other tensors")
            training.average = {name: tensor.to(training.device) for name, tensor in average.items()}
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _under(tensors, "optimizer.").items():
                index, _, part = name.partition(".")
                state.setdefault(int(index), {})[part] = tensor
            check_gathered(list(training.net.parameters()), state)
            groups = training.optimizer.state_dict()["param_groups"]
            training.optimizer.load_state_dict({"state": state, "param_groups": groups})
            wall, cpu = float(header["wall_seconds"]), float(header["cpu_seconds"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if memory_words(error):
                raise
            raise UserError(
                f"{self.path}: not a checkpoint of this model ({' '.join(str(error).split()):.160}); remove it to "
                "start again"
            ) from None
        self.meter.earlier_wall, self.meter.earlier_cpu = wall, cpu
        self.header = header
        return done


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
