"""A teacher's features of real images, class by class."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ddbench.data.dataset import class_indices
from ddbench.data.limits import require_memory
from ddbench.data.mapped import gather
from ddbench.methods.base import Context
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.networks.base import Student
from ddbench.runtime.errors import UserError

BATCH = 256
"""Images that the teacher sees at once."""

FEATURE_BYTES = 20
"""Memory for each feature of a class: float32, float64, and another float64 of unit length or centred by k-means."""


class TeacherFeatures:
    """The input of the teacher's last layer for the training images of a class.

    The network is in evaluation mode, without gradients and augmentation.

    Args:
        context: with a teacher.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        net = context.given(TrainedTeacher).network(context.device)
        assert isinstance(net, Student)
        self._net = net
        self._of_class = class_indices(context.train.labels, context.classes)

    def check(self) -> None:
        """Look at a few images, before work.

        Raises:
            UserError: as :meth:`of`.
        """
        next(self._batches(0))

    def of(self, label: int) -> tuple[Tensor, Tensor]:
        """Positions of a class in ``context.train`` int64 ``(n,)``, ascending, and features float32 ``(n, D)``.

        They are on the CPU.

        Raises:
            UserError: the features do not fit into memory, or are not finite, or this teacher has none.
        """
        index, made, start = self._of_class[label], torch.empty(0), 0
        for features in self._batches(label):
            if not start:
                made = torch.empty(len(index), features.shape[1])
            made[start : start + len(features)] = features
            start += len(features)
        return index, made

    @torch.no_grad()
    def _batches(self, label: int) -> Iterator[Tensor]:
        """Features of :data:`BATCH` images at a time; the images may be a memory map."""
        context, index = self._context, self._of_class[label]
        name, path = context.dataset.spec.class_names[label], context.given(TrainedTeacher).path
        for start in range(0, len(index), BATCH):
            batch = gather(context.train.images, index[start : start + BATCH]).to(context.device)
            features = self._net.features(context.preprocess.apply(batch))
            if not start:
                needed = FEATURE_BYTES * len(index) * features.shape[1]
                what = f"keeping the teacher's features of class {name!r}"
                require_memory(needed, what, "use a teacher with fewer features")
            if not bool(torch.isfinite(features).all()):
                raise UserError(f"{path}: its features of class {name!r} are not finite; train another teacher")
            yield features


def teacher_features(context: Context) -> Iterator[tuple[Tensor, Tensor]]:
    """:meth:`TeacherFeatures.of` every class in turn; one class is in memory at a time."""
    features = TeacherFeatures(context)
    for label in range(context.classes):
        yield features.of(label)
