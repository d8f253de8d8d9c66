"""Real images by class, for methods that compare real and synthetic batches."""

from __future__ import annotations

import torch
from torch import Tensor

from ddbench.data.dataset import class_indices
from ddbench.methods.base import Context
from ddbench.training.loops import inputs_of


class RealBatches:
    """Batches of one class of the training images, as network input on the device; preprocessed once.

    A sampler may narrow the choice: ``narrow(label, index)`` keeps only those images of the class until it is called
    again (DREAM's representatives).
    """

    def __init__(self, context: Context) -> None:
        self.inputs = inputs_of(context.train, context.preprocess, context.device)
        self.index = class_indices(context.train.labels, context.classes)
        self._choice = list(self.index)

    def narrow(self, label: int, index: Tensor) -> None:
        """Draw class ``label`` only from these images (int64 positions in the training split) from now on."""
        self._choice[label] = index

    def draw(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """Positions of ``count`` images of a class, different ones; all of them where there are no more."""
        choice = self._choice[label]
        if count >= len(choice):
            return choice
        return choice[torch.randperm(len(choice), generator=generator)[:count]]

    def batch(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """``count`` images of a class as network input ``(count, C, H, W)``."""
        return self.inputs.batch(self.draw(label, count, generator))
