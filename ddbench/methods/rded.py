"""``rded``: distilled images stitched of the most realistic crops of real ones; nothing is optimised.

Sun, Shi, Yu, Lin: "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm",
CVPR 2024 (arXiv 2312.03526). Of a random pool of each class several crops an image are scored by an observer (a
network trained on the real data: the teacher), the best crop of each of the best images is kept, and ``factor x
factor`` of them are stitched to one image. Labels of every view come from the same observer when a student is trained
(protocol ``rded``), so the synset names it.

Deviations from the public code, all listed with their reasons in ``methods/rded/README.md``: every draw and the order
of the files are fixed, ties go by position, a small class is used whole, the normalisation is the synset's, pixels are
stored instead of JPEG files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.config import setting
from ddbench.data.crops import centred, draw_squares, grey_levels, jpeg, resize_squares, stitch
from ddbench.data.dataset import class_indices
from ddbench.data.mapped import gather
from ddbench.methods.base import Context, Distilled, Method, State, joined
from ddbench.methods.facts import Facts
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.training.realism import best_crops, realism

LEAST_AREA = 0.08
"""Smallest share of an image that a crop shows."""

LARGE_SIDE = 128
"""From this side on, images are stitched of 2 x 2 patches where the factor is left open."""

BATCH = {"cpu": 32, "cuda": 512}
"""Crops that the observer sees at once: the method's memory. Rounding may depend on it, so it is no setting."""

CROP_BATCH = 64
"""Crops that are stored at once."""


@dataclass(frozen=True, kw_only=True)
class RDEDConfig:
    """Settings of RDED."""

    mipc: int = setting(300, at_least=1)
    """Real images of each class that are looked at, drawn at random; all of a class that has fewer."""
    num_crop: int = setting(5, at_least=1)
    """Crops of each of them, of which the best is kept."""
    factor: int = setting(0, at_least=0)
    """Patches a side of a distilled image; 0: 1, from 128 px on 2, as published."""
    jpeg: bool = False
    """Store the images as they are after JPEG of quality 75, as the public code saves them."""


def resolved_factor(config: RDEDConfig, side: int) -> int:
    """Patches a side for images of ``side`` pixels."""
    return config.factor or (2 if side >= LARGE_SIDE else 1)


class RDED(Method[RDEDConfig]):
    """RDED; a step is a class."""

    config_class = RDEDConfig
    facts = Facts(
        title="RDED",
        line="stitched of the real crops that an observer finds most realistic",
        family="selection",
        protocol="rded",
        student=False,
        paper="On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm",
        authors=("Peng Sun", "Bei Shi", "Daiwei Yu", "Tao Lin"),
        venue="CVPR",
        year=2024,
        arxiv="2312.03526",
        code="https://github.com/LINs-lab/RDED",
        licence="Apache-2.0",
    )

    @classmethod
    def needs(cls, config: RDEDConfig) -> tuple[TrainedTeacher]:
        """A teacher."""
        return (TrainedTeacher(),)

    @classmethod
    def check(cls, config: RDEDConfig, context: Context) -> None:
        super().check(config, context)
        side = context.dataset.spec.size
        factor = resolved_factor(config, side)
        if factor > side:
            raise UserError(f"--factor {factor}: images of {side} px have at most {side} patches a side")
        wanted = context.ipc * factor**2
        needed = f"--ipc {context.ipc} with {factor}x{factor} patches an image takes {wanted} images of each class"
        if config.mipc < wanted:
            raise UserError(f"--mipc {config.mipc}: {needed}, one crop of each; give --mipc {wanted} or more")
        counts = torch.bincount(context.train.labels, minlength=context.classes)
        least = int(counts.argmin())
        if int(counts[least]) < wanted:
            possible = int(counts[least]) // factor**2
            ways = [f"--ipc {possible} or less"] * (possible > 0) + ["a smaller --factor"] * (factor > 1)
            raise UserError(
                f"{needed}, but class {context.dataset.spec.class_names[least]!r} has only {int(counts[least])} "
                f"training images; choose {' or '.join(ways)}"
            )

    @property
    def iterations(self) -> int:
        return self.context.classes

    def pieces(self) -> Sequence[range]:
        """Classes."""
        return [range(label, label + 1) for label in range(self.context.classes)]

    def merge(self, states: Sequence[State]) -> State:
        """The crops of all classes."""
        return joined(states, "chosen")

    def setup(self) -> None:
        """Load the observer."""
        context = self.context
        self._side = context.dataset.spec.size
        self._factor = resolved_factor(self.config, self._side)
        self._net = context.given(TrainedTeacher).network(context.device)
        # What zero is in network input: the mean colour (mean/std), the mean image (ZCA).
        zero = torch.zeros(1, *context.dataset.spec.shape)
        self._canvas = context.preprocess.invert(zero).to(context.device)
        self._of_class = class_indices(context.train.labels, context.classes)
        self._chosen: list[Tensor] = []
        self._images: list[Tensor] = []

    def step(self, iteration: int) -> dict[str, float]:
        """Distil class ``iteration``.

        Returns:
            ``loss`` and ``pool_loss``: the observer's mean cross-entropy of the patches that are kept, and of all
            crops.

        Raises:
            UserError: the observer's outputs are not finite.
        """
        config, context = self.config, self.context
        generator = seeds.generator(context.seed, "crops", iteration)
        index = self._of_class[iteration]
        pool = index[torch.randperm(len(index), generator=generator)[: config.mipc]].sort().values
        boxes = draw_squares(len(pool) * config.num_crop, self._side, LEAST_AREA, generator)
        scores = self._scores(pool.repeat_interleave(config.num_crop), boxes, iteration)
        if not bool(torch.isfinite(scores).all()):
            name, path = context.dataset.spec.class_names[iteration], context.given(TrainedTeacher).path
            raise UserError(f"{path}: its outputs for crops of class {name!r} are not finite; train another teacher")
        images, crops = best_crops(scores.view(len(pool), config.num_crop), context.ipc * self._factor**2)
        kept = images * config.num_crop + crops
        self._take(torch.cat([pool[images].unsqueeze(1), boxes[kept]], 1))
        return {"loss": -float(scores[kept].mean()), "pool_loss": -float(scores.mean())}

    @torch.no_grad()
    def _scores(self, index: Tensor, boxes: Tensor, label: int) -> Tensor:
        """Realism float64 ``(n,)`` of crops of the training images at ``index``; the images may be a memory map."""
        context, made = self.context, torch.empty(len(index), dtype=torch.float64)
        size, batch = self._side // self._factor, BATCH.get(context.device.type, BATCH["cpu"])
        for start in range(0, len(index), batch):
            part = slice(start, start + batch)
            pixels = gather(context.train.images, index[part]).to(context.device).float().div_(255)
            x = context.preprocess.apply(centred(resize_squares(pixels, boxes[part], size), self._canvas))
            made[part] = realism(self._net(x), label).cpu()
        return made

    def _take(self, chosen: Tensor) -> None:
        """Stitch the patches of a class: int64 ``(ipc factor^2, 4)`` position, top, left, side; the best first.

        In float64, so that the pixels are the same on every machine.
        """
        train, size = self.context.train, self._side // self._factor
        parts = [
            grey_levels(resize_squares(gather(train.images, part[:, 0]).double(), part[:, 1:], size))
            for part in chosen.split(CROP_BATCH)
        ]
        images = stitch(torch.cat(parts), self.context.ipc, self._factor, self._side)
        self._images.append(jpeg(images) if self.config.jpeg else images)
        self._chosen.append(chosen)

    def distilled(self) -> Distilled:
        """The images of the classes that are done, uint8, hard labels, class-major, and the observer's reference."""
        context = self.context
        return Distilled(
            images=torch.cat(self._images),
            labels=torch.arange(len(self._images)).repeat_interleave(context.ipc),
            patches=self._factor,
            teacher=context.given(TrainedTeacher).reference(),
        )

    def state(self) -> State:
        """Which crops were chosen: their images are cut out again, which takes no observer."""
        return State(tensors={"chosen": torch.stack(self._chosen)} if self._chosen else {})

    def load_state(self, state: State) -> None:
        """Cut the crops of the classes that are done out again.

        Raises:
            ValueError: they are no crops of the training images.
        """
        self._chosen, self._images = [], []
        if "chosen" not in state.tensors:
            return
        chosen, count = state.tensors["chosen"].cpu(), self.context.ipc * self._factor**2
        if chosen.dtype != torch.int64 or chosen.shape[1:] != (count, 4):
            raise ValueError(f"crops are {chosen.dtype} {list(chosen.shape)}, expected int64 [classes, {count}, 4]")
        position, top, left, length = chosen.unbind(-1)
        inside = (top >= 0) & (left >= 0) & (length >= 1) & (torch.maximum(top, left) + length <= self._side)
        if not bool((inside & (position >= 0) & (position < len(self.context.train))).all()):
            raise ValueError("a crop lies outside the training images")
        for one in chosen:
            self._take(one)
