"""Choosing real images by a teacher's features: what the coreset methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddbench.data.dataset import class_indices
from ddbench.data.limits import require_memory
from ddbench.methods.base import Context, Distilled
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.networks.base import Student
from ddbench.runtime.errors import UserError

BATCH = 256
"""Images that the teacher sees at once."""

FEATURE_BYTES = 20
"""Memory for each feature of a class: float32, float64, and another float64 of unit length or centred by k-means."""

Choose = Callable[[Tensor, int], Tensor]
"""Of the features ``(n, D)`` of a class and its number, the positions to keep, int64 ``(ipc,)``."""


def teacher_features(context: Context) -> Iterator[tuple[Tensor, Tensor]]:
    """The input of the teacher's last layer for every training image that the method may use, class by class.

    One class is in memory at a time. The network is in evaluation mode, without gradients and augmentation.

    Args:
        context: with a teacher.

    Yields:
        Positions in ``context.train`` int64 ``(n,)``, ascending, and features float32 ``(n, D)`` on the CPU.

    Raises:
        UserError: the features of a class do not fit into memory, or are not finite, or this teacher has none.
    """
    teacher = context.given(TrainedTeacher)
    net = teacher.network(context.device)
    assert isinstance(net, Student)
    for label, index in enumerate(class_indices(context.train.labels, context.classes)):
        name = context.dataset.spec.class_names[label]
        features = _features(net, context, index, name)
        if not bool(torch.isfinite(features).all()):
            raise UserError(f"{teacher.path}: its features of class {name!r} are not finite; train another teacher")
        yield index, features


@torch.no_grad()
def _features(net: Student, context: Context, index: Tensor, name: str) -> Tensor:
    """Features float32 ``(n, D)`` of some training images; the images may be a memory map."""
    made = torch.empty(0)
    for start in range(0, len(index), BATCH):
        batch = context.train.images[index[start : start + BATCH]].to(context.device)
        features = net.features(context.preprocess.apply(batch))
        if not start:
            needed = FEATURE_BYTES * len(index) * features.shape[1]
            what = f"keeping the teacher's features of class {name!r}"
            require_memory(needed, what, "use a teacher with fewer features")
            made = torch.empty(len(index), features.shape[1])
        made[start : start + len(batch)] = features
    return made


def choose_images(context: Context, title: str, choose: Choose) -> Distilled:
    """``ipc`` real images of each class, chosen by the teacher's features.

    Args:
        context: with a teacher.
        title: of the progress display.
        choose: goes to each class in turn.

    Returns:
        Images uint8 as they are stored, hard labels, class-major.
    """
    chosen = []
    with context.console.bar(f"{title} ({context.dataset.spec.name}, ipc {context.ipc})", context.classes) as bar:
        for label, (index, features) in enumerate(teacher_features(context)):
            chosen.append(index[choose(features, label)])
            bar.advance()
    return Distilled(images=context.train.images[torch.cat(chosen)], labels=context.hard_labels())
