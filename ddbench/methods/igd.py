"""``igd``: diffusion samples guided by their influence on a network's training, and away from each other.

Chen, Du, Huang, Wang, Zhang, Wang: "Influence-Guided Diffusion for Dataset Distillation", ICLR 2025; code:
mchen725/DD_IGD. While an image is forming, its predicted clean latent z is moved down the gradient of

    sum_c 1 - cos( grad CE(decode(z); theta_c), G_c )        (influence)
    max_m cos(z, z_m)                                        (deviation)

where theta_c are checkpoints of one network's training on real data, G_c the mean gradient of real images of the class
there, and z_m the class's images that are done. Nothing is trained: the network is an expert of the trajectory store.

Deviations are listed in ``methods/igd/README.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.config import Here, setting
from ddbench.data.dataset import class_indices
from ddbench.data.mapped import gather
from ddbench.diffusion.ddim import Move, predicted_image, sampling_moves
from ddbench.methods.base import Context
from ddbench.methods.facts import Facts
from ddbench.methods.families.generation import Draw, Generation, GenerationConfig
from ddbench.methods.needs import Need
from ddbench.methods.needs.diffusion import Diffusion
from ddbench.methods.needs.experts import Experts
from ddbench.methods.parts.judges import Judges
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.training.influence import class_gradient, direction, misleading, nearness, turning_points

BATCH = 50
"""Real images in one pass."""


@dataclass(frozen=True, kw_only=True)
class IGDConfig(GenerationConfig):
    """Settings of IGD."""

    influence: float = setting(0.005, at_least=0, below=100)
    """Strength of the pull towards images that train as real ones do, relative to the length of the noise."""
    deviation: float = setting(0.01, at_least=0, below=100)
    """Strength of the push away from the nearest image of the class that is done; 0: none."""
    guide_from: float = setting(0.6, at_least=0, at_most=1)
    """Least noisy time that is guided, as a share of all times (0: the clean image)."""
    guide_to: float = setting(0.9, at_least=0, at_most=1)
    """Noisiest time that is guided."""
    images: int = setting(200, at_least=1)
    """Real images of a class that its gradients are taken of, evenly spread over it (all of a smaller class)."""
    similarity: float = setting(0.7, at_least=-1, at_most=1)
    """The next checkpoint is one whose gradients have a mean cosine below this to those of the last one."""
    memory: int = setting(64, at_least=1, unless=("deviation", 0))
    """The next image is pushed away from so many that are done of its class, the newest ones."""
    clip: bool = True
    """Clamp predicted images to [-1, 1] on the way, as samplers of pixels do; never latents of a pretrained model."""


class IGD(Generation[IGDConfig]):
    """Influence-guided samples; a step is a class, its images one after the other."""

    config_class = IGDConfig
    second_order = True
    facts = Facts(
        title="IGD",
        line="diffusion samples that train a network as real images do, unlike each other",
        family="generation",
        paper="Influence-Guided Diffusion for Dataset Distillation",
        authors=("Mingyang Chen", "Jiawei Du", "Bo Huang", "Yi Wang", "Xiaobo Zhang", "Wei Wang"),
        venue="ICLR",
        year=2025,
        url="https://github.com/mchen725/DD_IGD",
        code="https://github.com/mchen725/DD_IGD",
    )

    @classmethod
    def needs(cls, config: IGDConfig) -> tuple[Need[Any], ...]:
        """A diffusion model, and experts: one's training is the surrogate."""
        return (Diffusion(config.precision), Experts())

    @classmethod
    def idle(cls, config: IGDConfig, context: Context) -> Mapping[str, str]:
        """All of the guidance, where there is none; a single image has none before it to be pushed away from."""
        of_guidance = ("guide_from", "guide_to", "images", "similarity")
        found: dict[str, str] = {}
        if context.ipc == 1:
            found = dict.fromkeys(("deviation", "memory"), Here("with --ipc 1: no image of the class is before it"))
        if not config.influence and not config.deviation:
            found |= dict.fromkeys(of_guidance, "with --influence 0 and --deviation 0: nothing is guided")
        elif not config.influence and context.ipc == 1:
            found |= dict.fromkeys(of_guidance, Here("with --influence 0 and --ipc 1: nothing is guided"))
        elif not config.influence:
            found |= dict.fromkeys(("images", "similarity"), "with --influence 0: no real gradient guides")
        return found

    @classmethod
    def check(cls, config: IGDConfig, context: Context) -> None:
        super().check(config, context)
        if config.guide_from > config.guide_to:
            raise UserError(f"--guide-from {config.guide_from:g}: expected at most --guide-to {config.guide_to:g}")
        times = range(config.steps if config.influence or config.deviation else 0)
        if times and not any(config.guide_from <= place / config.steps <= config.guide_to for place in times):
            raise UserError(
                f"--guide-from {config.guide_from:g} to --guide-to {config.guide_to:g}: no one of the {config.steps} "
                "steps lies there; widen it or take more --steps"
            )

    def setup(self) -> None:
        """Load the model, and the checkpoints of an expert that differ."""
        super().setup()
        store = self.context.given(Experts)
        self._expert = store.indices[seeds.derive(self.context.seed, "igd-expert") % len(store.indices)]
        self._surrogates: list[nn.Module] = []
        self._real: list[Tensor] = []

    def _real_gradients(self, net: nn.Module) -> Tensor:
        """Mean gradient of real images of every class, ``(K, P)``."""
        context, found = self.context, []
        rows = class_indices(context.train.labels, context.classes)
        for label in range(context.classes):
            index = rows[label]
            count = min(self.config.images, len(index))
            index = index[torch.linspace(0, len(index) - 1, count).round().long()]
            total: Tensor | None = None
            for part in index.split(BATCH):
                x = context.preprocess.apply(gather(context.train.images, part).to(context.device))
                labels = torch.full((len(part),), label, device=context.device)
                own = class_gradient(net, x, labels) * (len(part) / count)
                total = own if total is None else total + own
            assert total is not None  # a class without images is refused before
            found.append(total)
        return torch.stack(found)

    def _look(self) -> None:
        """Find the checkpoints and the real gradients there, once a process: they follow from data and expert."""
        if self._surrogates:
            return
        store = self.context.given(Experts)
        epochs, judges = range(store.recipe.epochs + 1), Judges(self.context, store)
        every = (self._real_gradients(judges.network(self._expert, epoch)) for epoch in epochs)
        kept = turning_points(every, self.config.similarity)
        self._surrogates = [judges.network(self._expert, epoch) for epoch in kept]
        self._real = [self._real_gradients(net) for net in self._surrogates]

    def misleading(self, latents: Tensor, label: int) -> Tensor:
        """How much a clean latent ``(1, ...)`` misleads the surrogate, a scalar that can be differentiated in it."""
        context = self.context
        images = self.backend.decode(latents, graph=True)
        if images.shape[-1] != context.dataset.spec.size:
            side = (context.dataset.spec.size,) * 2
            images = F.interpolate(images, side, mode="bilinear", antialias=True, align_corners=False)
        x, labels = context.preprocess.apply((images + 1) / 2), torch.full((len(images),), label, device=images.device)
        own = [class_gradient(net, x, labels, graph=True) for net in self._surrogates]
        return misleading(own, [real[label] for real in self._real])

    def draw(self, label: int) -> Draw:
        """Noise, guided one image after the other; ``loss`` is how much the images mislead in the end, on average."""
        config, backend = self.config, self.backend
        moves = sampling_moves(backend.alphas, config.steps)
        clip = backend.bounded and config.clip
        if not config.influence and not config.deviation:
            return Draw(latents=self.noise(label), moves=moves, clip=clip)
        self._look()
        times = len(backend.alphas)
        guided = {move.time for move in moves if config.guide_from <= move.time / times <= config.guide_to}
        done: list[Tensor] = []
        found: list[float] = []
        metrics: dict[str, float] = {}

        def correct(x: Tensor, noise: Tensor, move: Move, which: Tensor) -> Tensor:
            if move.time not in guided:
                return noise
            clean = predicted_image(x, noise, move.source)
            return noise + math.sqrt(1 - move.source) * self._push(clean, noise, label, done[-config.memory :])

        def finished(clean: Tensor) -> None:
            done.append(clean)
            with torch.enable_grad():
                found.append(float(self.misleading(clean, label).detach()))
            metrics["loss"] = sum(found) / len(found)

        return Draw(
            latents=self.noise(label),
            moves=moves,
            correction=correct,
            clip=clip,
            metrics=metrics,
            at_once=1,
            finished=finished,
        )

    def _push(self, clean: Tensor, noise: Tensor, label: int, done: Sequence[Tensor]) -> Tensor:
        """What is added to the predicted noise ``(1, ...)``: it moves the clean latent down both gradients."""
        config, push = self.config, torch.zeros_like(noise)
        with torch.enable_grad():
            z = clean.detach().requires_grad_()
            if config.influence:
                (gradient,) = torch.autograd.grad(self.misleading(z, label), z)
                push = push + config.influence * direction(gradient, noise)
            if config.deviation and done:
                (gradient,) = torch.autograd.grad(nearness(z, torch.cat(list(done))), z)
                push = push + config.deviation * direction(gradient, noise)
        return push.detach()
