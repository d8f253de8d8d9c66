"""Real images chosen by a teacher's features: what the coreset methods share. A step is a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ddbench.data.mapped import gather
from ddbench.methods.base import Distilled, Method, State, joined
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.methods.parts.features import TeacherFeatures

C = TypeVar("C")


class Coreset(Method[C], Generic[C]):
    """Base of the methods that choose ``ipc`` images of each class by a teacher's features."""

    distinct = True
    uses_student = False

    @classmethod
    def needs(cls, config: C) -> tuple[TrainedTeacher]:
        """A teacher."""
        return (TrainedTeacher(),)

    def choose(self, features: Tensor, label: int) -> Tensor:
        """Of the features ``(n, D)`` of class ``label`` the positions to keep, int64 ``(ipc,)``."""
        raise NotImplementedError

    @property
    def iterations(self) -> int:
        return self.context.classes

    def pieces(self) -> Sequence[range]:
        """Classes."""
        return [range(label, label + 1) for label in range(self.context.classes)]

    def merge(self, states: Sequence[State]) -> State:
        """The choices of all classes."""
        return joined(states, "chosen")

    def setup(self) -> None:
        """Load the teacher, and see whether it has features.

        Raises:
            UserError: as :meth:`TeacherFeatures.of`.
        """
        self._features = TeacherFeatures(self.context)
        self._features.check()
        self._chosen = torch.zeros(0, self.context.ipc, dtype=torch.int64)

    def step(self, iteration: int) -> dict[str, float]:
        """Choose of class ``iteration``; the metric ``images`` says of how many."""
        index, features = self._features.of(iteration)
        self._chosen = torch.cat([self._chosen, index[self.choose(features, iteration)].unsqueeze(0)])
        return {"images": float(len(index))}

    def distilled(self) -> Distilled:
        """The images of the classes that are done as they are stored, uint8, hard labels, class-major."""
        return Distilled(
            images=gather(self.context.train.images, self._chosen.flatten()),
            labels=torch.arange(len(self._chosen)).repeat_interleave(self.context.ipc),
        )

    def state(self) -> State:
        """Positions of the chosen images, ``(classes, ipc)``."""
        return State(tensors={"chosen": self._chosen})

    def load_state(self, state: State) -> None:
        """Take the choices over.

        Raises:
            ValueError: they are no positions of training images.
        """
        chosen = state.tensors["chosen"].cpu()
        if chosen.dtype != torch.int64 or chosen.shape[1:] != (self.context.ipc,):
            raise ValueError(f"choices are {chosen.dtype} {list(chosen.shape)}")
        if not bool(((chosen >= 0) & (chosen < len(self.context.train))).all()):
            raise ValueError("a choice is none of the training images")
        self._chosen = chosen
