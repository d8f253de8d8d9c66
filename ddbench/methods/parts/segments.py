"""Segments of experts' trajectories: which one an iteration follows, and with what batches, augmentation and masks.

Every draw is named by (seed, purpose, iteration) with the *same* purposes for all methods that match trajectories: two
of them with one seed and the same settings follow the same segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddbench.data.augment import Draw, Strategy, draw
from ddbench.experts.store import TrajectoryStore
from ddbench.methods.parts.masking import MaskConfig, synthetic_mask
from ddbench.runtime import seeds
from ddbench.runtime.device import sent
from ddbench.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What one outer iteration follows; tensors are on the run's device.

    Attributes:
        expert: index in the store.
        start_epoch: t.
        start: theta_0 ``(P,)``.
        targets: the expert's weights ``(P,)`` by number of epochs after the start, ascending; the last one is
            theta*_{t+M}.
        batches: int64 indices into the synset for each of the N student steps; ``None``: the whole synset.
        draws: one augmentation draw a step, or ``None``.
        masks: one mask of the batch a step (:mod:`ddbench.methods.parts.masking`), or ``None``.
    """

    expert: int
    start_epoch: int
    start: Tensor
    targets: dict[int, Tensor]
    batches: list[Tensor | None]
    draws: list[Draw] | None
    masks: list[Tensor] | None = None

    @property
    def target(self) -> Tensor:
        """theta*_{t+M}: the last target."""
        return self.targets[max(self.targets)]


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The segments of one run, by iteration; nothing is kept between two.

    Attributes:
        store: the experts.
        seed: names every draw.
        order: which expert an iteration follows: any (``uniform``), or each once a round (``cycle``).
        batch: synthetic images in one student step; 0: all.
        steps: N, steps of the student.
        strategy: augmentation of its batches, or None.
        mask: settings of their masks.
    """

    store: TrajectoryStore
    seed: int
    order: Literal["uniform", "cycle"]
    batch: int
    steps: int
    strategy: Strategy | None
    mask: MaskConfig

    def draw(self, iteration: int, starts: tuple[int, int], after: tuple[int, ...], images: Tensor) -> Segment:
        """The segment of an iteration: depends on the seed and the iteration only.

        Args:
            starts: the start epoch is drawn from the first to the second, the second excluded.
            after: epochs after the start whose weights are wanted, ascending.
            images: the synset's ``(S, C, H, W)``: their number, size, device and type; a mask may look at them.

        Raises:
            UserError: an expert that does not move between start and target.
        """
        randomness = seeds.generator(self.seed, "mtt", iteration)
        expert = self._expert(iteration)
        start_epoch = int(torch.randint(*starts, (), generator=randomness))
        rows = self.store.rows(expert, start_epoch, *(start_epoch + k for k in after))
        start, *ends = (sent(row, images.device) for row in rows)
        for epochs, end in zip(after, ends, strict=True):
            if bool((start == end).all()):
                raise UserError(
                    f"{self.store.folder}: expert {expert} does not move between epochs {start_epoch} and "
                    f"{start_epoch + epochs}; record it again"
                )
        batches = synset_batches(len(images), self.batch, self.steps, randomness)
        return Segment(
            expert=expert,
            start_epoch=start_epoch,
            start=start,
            targets=dict(zip(after, ends, strict=True)),
            batches=[None if batch is None else sent(batch, images.device) for batch in batches],
            draws=self._augmentation(batches, images, randomness),
            masks=self._masks(iteration, batches, images),
        )

    def _expert(self, iteration: int) -> int:
        """Index of the expert of an iteration."""
        indices = self.store.indices
        if self.order == "uniform":
            generator = seeds.generator(self.seed, "mtt-expert", iteration)
            return indices[int(torch.randint(len(indices), (), generator=generator))]
        generator = seeds.generator(self.seed, "mtt-round", iteration // len(indices))
        return indices[int(torch.randperm(len(indices), generator=generator)[iteration % len(indices)])]

    def _augmentation(
        self, batches: list[Tensor | None], images: Tensor, randomness: torch.Generator
    ) -> list[Draw] | None:
        """Augmentation draws of the student's steps."""
        if self.strategy is None:
            return None
        counts = [len(images) if batch is None else len(batch) for batch in batches]
        return [draw(self.strategy, count, images.shape[-1], randomness) for count in counts]

    def _masks(self, iteration: int, batches: list[Tensor | None], images: Tensor) -> list[Tensor] | None:
        """Masks of the student's steps, drawn by generators of their own."""
        found = []
        for step, batch in enumerate(batches):
            shown = images if batch is None else images[: len(batch)]
            mask = synthetic_mask(self.mask, shown, self.seed, iteration, step)
            if mask is None:
                return None
            found.append(mask)
        return found


def synset_batches(images: int, batch: int, steps: int, generator: torch.Generator) -> list[Tensor | None]:
    """Index batches of one student: chunks of fresh permutations, taken from the end as in the public code.

    Args:
        batch: images a step; 0 or at least ``images``: the whole set (``None``).

    Returns:
        ``steps`` entries; the remainder of a permutation, if any, comes first.
    """
    if not batch or batch >= images:
        return [None] * steps
    chunks: list[Tensor] = []
    found: list[Tensor | None] = []
    for _ in range(steps):
        if not chunks:
            chunks = list(torch.randperm(images, generator=generator).split(batch))
        found.append(chunks.pop())
    return found
