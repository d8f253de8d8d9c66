"""``minimax``: samples of a diffusion model that was tuned to be like the real images and unlike its own.

Gu, Vahidian, Kungurtsev, Wang, Jiang, You, Chen: "Efficient Dataset Distillation via Minimax Diffusion", CVPR 2024
(arXiv 2311.15529); code: vimar-gu/MinimaxDiffusion. Biases, norms and class embeddings of a trained model are tuned on

    | e(x_t) - noise |^2  +  lambda_r (1 - min cos(z, real))  +  lambda_d max cos(z, past)

where z is the clean latent that the prediction implies, and each class remembers its last real latents and predictions
(:mod:`ddbench.training.minimax`). Then the running average of the weights makes plain samples. The first steps tune, a
step each; each of the last ones makes the images of a class.

Deviations are listed in ``methods/minimax/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddbench.config import setting
from ddbench.diffusion.ddim import sampling_moves
from ddbench.diffusion.draws import Draws
from ddbench.methods.base import Context, Distilled, NotFiniteError, State
from ddbench.methods.facts import Facts
from ddbench.methods.families.generation import Draw, Generation, GenerationConfig
from ddbench.runtime.device import sent
from ddbench.runtime.errors import UserError
from ddbench.training.minimax import criteria, remembered
from ddbench.training.optimizers import OptimizerSettings, load_optimizer_state, make_optimizer, optimizer_state

REAL, PAST = "real", "past"
NORMS = (nn.GroupNorm, nn.LayerNorm)

TUNED = ("tuning_steps", 0)
"""Without which the settings of the tuning have no effect."""


@dataclass(frozen=True, kw_only=True)
class MinimaxConfig(GenerationConfig):
    """Settings of Minimax; the defaults of the tuning are those of the public code."""

    tuning_steps: int = setting(12_000, at_least=0)
    """Optimiser steps of the tuning; 0: none, plain samples."""
    batch: int = setting(8, at_least=1, unless=TUNED)
    """Real images a step."""
    lr: float = setting(1e-3, above=0, expected="a positive number", unless=TUNED)
    """Learning rate of AdamW (without weight decay)."""
    representativeness: float = setting(0.002, at_least=0, unless=TUNED)
    """Weight lambda_r of the distance to remembered real images."""
    diversity: float = setting(0.008, at_least=0, unless=TUNED)
    """Weight lambda_d of the nearness to what the model made before."""
    memory: int = setting(64, at_least=1, unless=TUNED)
    """Latents of each kind that a class remembers, the newest ones."""
    ema: float = setting(0.9999, at_least=0, below=1, expected="a fraction from 0 to below 1", unless=TUNED)
    """Decay of the average of the tuned weights, which samples; it begins with the weights before tuning."""
    label_dropout: float = setting(0.1, at_least=0, below=1, expected="a fraction from 0 to below 1", unless=TUNED)
    """Probability that the model is not told the class of an image, for classifier-free guidance."""
    clip: bool = True
    """Clamp predicted images to [-1, 1] on the way, as samplers of pixels do; never latents of a pretrained model."""


def tuned_parameters(net: nn.Module) -> dict[str, nn.Parameter]:
    """What is tuned of a network: all biases, the scales of norms, the embeddings of classes; by name, in order.

    By the kind of layer: diffusers also calls a transformer's modulation ``norm1.linear``, which is not tuned.
    """
    found = {}
    for place, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias" or isinstance(module, (*NORMS, nn.Embedding)):
                found[f"{place}.{name}"] = parameter
    return found


class Minimax(Generation[MinimaxConfig]):
    """Minimax; steps of tuning, then a class a step."""

    config_class = MinimaxConfig
    facts = Facts(
        title="Minimax",
        line="samples of a diffusion model tuned to be like real images and unlike its own",
        family="generation",
        student=False,
        paper="Efficient Dataset Distillation via Minimax Diffusion",
        authors=(
            "Jianyang Gu",
            "Saeed Vahidian",
            "Vyacheslav Kungurtsev",
            "Haonan Wang",
            "Wei Jiang",
            "Yang You",
            "Yiran Chen",
        ),
        venue="CVPR",
        year=2024,
        arxiv="2311.15529",
        code="https://github.com/vimar-gu/MinimaxDiffusion",
    )

    @classmethod
    def check(cls, config: MinimaxConfig, context: Context) -> None:
        super().check(config, context)
        if config.precision == "float16" and config.tuning_steps:
            raise UserError("--precision float16: gradients of the tuning underflow in it; use bfloat16 or float32")

    @property
    def learns_no_class(self) -> bool:
        """By the tuning."""
        return bool(self.config.tuning_steps and self.config.label_dropout)

    @property
    def iterations(self) -> int:
        return self.config.tuning_steps + self.context.classes

    def alike(self) -> list[range]:
        """The tuning, and the classes."""
        tuned = self.config.tuning_steps
        return [steps for steps in (range(tuned), range(tuned, self.iterations)) if steps]

    def pieces(self) -> tuple[range, ...]:
        """None: the tuning is one chain."""
        return ()

    def setup(self) -> None:
        """Load the model, and what is tuned of it."""
        super().setup()
        config, context, backend = self.config, self.context, self.backend
        self._tuned = tuned_parameters(backend.network)
        self._average = {name: one.detach().clone() for name, one in self._tuned.items()}
        for one in self._tuned.values():
            one.requires_grad_(bool(config.tuning_steps))
        self._optimizer = make_optimizer(self._tuned.values(), OptimizerSettings(name="adamw", lr=config.lr))
        self._memory: dict[str, dict[int, Tensor]] = {REAL: {}, PAST: {}}
        self._told = torch.cat([self.labels, torch.tensor([backend.null_class])]).to(backend.device)
        self._draws = Draws(
            context.train,
            batch=config.batch,
            classes=context.classes,
            dropout=config.label_dropout,
            flip=context.dataset.spec.flip,
            seed=context.seed,
            purpose="minimax",
            timesteps=len(backend.alphas),
            shape=backend.latent_shape,
        )

    def step(self, iteration: int) -> dict[str, float]:
        """Tune once, or make the images of a class.

        Raises:
            NotFiniteError: the tuning diverges.
            UserError: the images are not finite.
        """
        label = iteration - self.config.tuning_steps
        if label < 0:
            return self._tune(iteration)
        if label == 0:
            self._memory = {REAL: {}, PAST: {}}
            self._take(self._average)
        return super().step(label)

    def _tune(self, iteration: int) -> dict[str, float]:
        config, backend = self.config, self.backend
        drawn = self._draws(iteration)
        own = (drawn.x, drawn.labels, drawn.times, drawn.noise)
        x, labels, times, noise = (sent(one, backend.device) for one in own)
        codes = torch.randn(noise.shape, generator=drawn.generator).to(noise) if backend.noisy_codes else None
        clean = backend.encode(backend.fitted(x), codes)
        kept = backend.alphas[drawn.times].view(-1, 1, 1, 1)
        signal, spread = (sent(level.sqrt().float(), backend.device) for level in (kept, 1 - kept))
        noisy = signal * clean + spread * noise
        predicted = backend.predict(noisy, times, self._told[sent(drawn.told, backend.device)])
        made = (noisy - spread * predicted) / signal
        error = (predicted - noise).square().mean()
        unlike, alike = criteria(made, labels, self._memory[REAL], self._memory[PAST])
        loss = error + config.representativeness * unlike + config.diversity * alike
        gradients = torch.autograd.grad(loss, list(self._tuned.values()), allow_unused=True)
        found = [loss.detach(), *(one.abs().sum() for one in gradients if one is not None)]
        if not bool(torch.isfinite(torch.stack(found)).all()):  # one look at the device a step
            raise NotFiniteError("the tuning of the diffusion model diverges; use a smaller --lr")
        for parameter, gradient in zip(self._tuned.values(), gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        with torch.no_grad():
            for name, parameter in self._tuned.items():
                self._average[name].lerp_(parameter, 1 - config.ema)
        remembered(self._memory[REAL], clean, labels, config.memory)
        remembered(self._memory[PAST], made.detach(), labels, config.memory)
        return {
            "loss": float(loss.detach()),
            "noise_loss": float(error.detach()),
            "representativeness_loss": float(unlike.detach()),
            "diversity_loss": float(alike.detach()),
        }

    def _take(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._tuned.items():
                parameter.copy_(weights[name])

    def draw(self, label: int) -> Draw:
        """Noise, and the plain way down."""
        moves = sampling_moves(self.backend.alphas, self.config.steps)
        return Draw(latents=self.noise(label), moves=moves, clip=self.backend.bounded and self.config.clip)

    def distilled(self) -> Distilled:
        """The images of the classes that are done; while it is tuned, what the average would make of all classes."""
        if self._images:
            return super().distilled()
        tuned = {name: one.detach().clone() for name, one in self._tuned.items()}
        self._take(self._average)
        try:
            images = [self.images_of(label)[0] for label in range(self.context.classes)]
        finally:
            self._take(tuned)
        return Distilled(images=torch.cat(images), labels=self.context.hard_labels())

    def state(self) -> State:
        """The images that are done and the average; while it is tuned, weights, optimiser and memories too."""
        tensors = {**super().state().tensors, **{f"average.{name}": one for name, one in self._average.items()}}
        if not self._images:
            tensors |= {f"tuned.{name}": one.detach() for name, one in self._tuned.items()}
            tensors |= optimizer_state(self._optimizer, "optimizer")
            for kind, memory in self._memory.items():
                tensors |= {f"{kind}.{label}": one for label, one in memory.items()}
        return State(tensors=tensors)

    def load_state(self, state: State) -> None:
        """Take all of that over.

        Raises:
            KeyError, ValueError: it is of another model.
        """
        super().load_state(state)
        tensors, device = state.tensors, self.backend.device
        weights = {}
        for name, parameter in self._tuned.items():
            self._average[name] = tensors[f"average.{name}"].to(device)
            weights[name] = tensors[f"average.{name}" if self._images else f"tuned.{name}"].to(device)
            if not weights[name].shape == self._average[name].shape == parameter.shape:
                raise ValueError(f"{name} has shape {list(weights[name].shape)}, expected {list(parameter.shape)}")
        self._take(weights)
        if self._images:
            return
        load_optimizer_state(self._optimizer, "optimizer", tensors)
        shape = self.backend.latent_shape
        for kind, memory in self._memory.items():
            memory.clear()
            for label in range(self.context.classes):
                if f"{kind}.{label}" not in tensors:
                    continue
                memory[label] = tensors[f"{kind}.{label}"].to(device)
                if memory[label].shape[1:] != shape or len(memory[label]) > self.config.memory:
                    raise ValueError(f"the memory of class {label} has shape {list(memory[label].shape)}")
