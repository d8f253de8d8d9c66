"""The settings of a protocol: how one student is trained and tested. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from ddbench.config import recorded_config, setting
from ddbench.networks.names import parse_student
from ddbench.runtime.files import text_hash

Schedule = Literal["constant", "step", "cosine", "half-cosine"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one student is trained and tested."""

    name: str
    """With its version; a protocol is never edited, a changed one gets a new version."""
    epochs: int = setting(1000, at_least=1)
    """Passes over the synset."""
    full_epochs: int = setting(100, at_least=1)
    """Passes over the whole training set for the upper row (method ``full``)."""
    optimizer: str = "sgd"
    """Of ``torch.optim``, in lower case."""
    lr: float = setting(0.01, above=0, expected="a positive number")
    """Learning rate."""
    momentum: float = setting(0.9, at_least=0, at_most=1, expected="0 to 1")
    """Momentum, for optimisers that have one."""
    weight_decay: float = setting(5e-4, at_least=0)
    """Weight decay."""
    decay_vectors: bool = True
    """Weight decay also acts on biases and on the scales and shifts of norms (1-D parameters)."""
    lr_source: Literal["protocol", "synset", "search"] = "synset"
    """``protocol`` (always ``lr``), ``synset`` (a synset that carries a learned scalar learning rate is trained with
    it, others with ``lr``), or ``search`` (the best of ``lr_grid`` on held-out *training* images, for every synset and
    baseline alike)."""
    lr_grid: tuple[float, ...] = setting(
        (0.001, 0.005, 0.01, 0.05, 0.1), above=0, at_most=100, expected="a list of numbers above 0 and up to 100"
    )
    """What a search tries."""
    lr_students: tuple[tuple[str, float], ...] = setting(
        (), above=0, at_most=100, expected='pairs of a network family and a rate up to 100, e.g. [["vgg11", 0.0005]]'
    )
    """(Family of networks, rate) pairs that replace ``lr`` for those families."""
    batch: int = setting(256, at_least=1)
    """Images a step."""
    batch_rule: Literal["fixed", "rded"] = "fixed"
    """Rule ``rded`` replaces ``batch`` by 10, 50, 100 for IPC below 10, below 50, and from 50 on, twice that from 100
    classes on, 100 for 200 classes, never above the synset's size."""
    schedule: Schedule = "step"
    """Learning-rate factor of each epoch e of E: ``step``; ``cosine`` is ``(1 + cos(pi e / E)) / 2``; ``half-cosine``
    is ``(1 + cos(pi e / 2E)) / 2``, which ends at one half."""
    schedule_students: tuple[tuple[str, str], ...] = setting((), omit_default=True)
    """(Family of networks, schedule) pairs that replace ``schedule`` for those families."""
    drops: tuple[float, ...] = setting((0.5,), above=0, at_most=1, expected="a list of numbers above 0 and up to 1")
    """With ``step``, the rate is multiplied by ``drop_factor`` after ``int(drop * E) + drop_offset`` passes."""
    drop_offset: int = setting(1, at_least=0)
    """See ``drops``."""
    drop_factor: float = setting(0.1, above=0, expected="a positive number")
    """See ``drops``."""
    rebuild: bool = False
    """A drop builds a new optimiser, which loses the momentum."""
    warmup: int = setting(0, at_least=0)
    """Epochs in which the factor rises linearly from 0.01; the schedule then runs over the remaining ones."""
    augmentation: str = "dsa"
    """A policy of :mod:`ddbench.data.policy`: ``none``, or parts joined by ``+``."""
    crop_scale: float = setting(0.08, at_least=0, at_most=1, expected="0 to 1")
    """Least share of the area that ``rrc`` keeps; 0: one over the synset's patches a side."""
    mix_alpha: float = setting(1.0, above=0, expected="a positive number")
    """Of ``cutmix`` and ``mixup``."""
    mix_probability: float = setting(1.0, at_least=0, at_most=1, expected="0 to 1")
    """Of ``cutmix`` and ``mixup``."""
    labels: Literal["own", "hard", "soft", "once", "teacher", "stored"] = "own"
    """What the student learns: ``own`` (the synset's labels, hard or soft), ``hard`` (the class of each), ``soft`` (the
    synset must have soft labels), ``once`` (a teacher labels every image before it is augmented), ``teacher`` (a
    teacher labels every view), ``stored`` (a teacher's labels of every view, replayed from ``ddbench relabel``)."""
    loss: Literal["ce", "kl", "mse-gt", "mse"] = "ce"
    """``ce``; ``kl`` of softened outputs, a teacher's and the student's; ``mse-gt`` (squared error of logits +
    ``gt_weight`` cross-entropy); ``mse`` (half the squared error of the outputs, summed over classes, to the targets,
    or to probabilities less 1/K)."""
    temperature: float = setting(1.0, above=0, expected="a positive number")
    """T of softened outputs, of ``kl`` and of soft labels."""
    tau_squared: bool = False
    """``kl`` is multiplied by T squared."""
    gt_weight: float = setting(0.025, at_least=0)
    """Of the class label in ``mse-gt``."""
    teacher_mode: Literal["eval", "batch"] = "eval"
    """``eval``, or ``batch`` (the teacher's batch norms use the statistics of the batch)."""
    test_zoom: bool = False
    """Test images are enlarged to ``side // 7 * 8`` and their centre is cut out."""
    sequential: bool = False
    """A synset of K stages is trained on stage by stage, each time with the stages before it; the ``epochs`` are
    divided by K, the schedule begins anew with each stage, the optimiser's momentum is kept, and the learning rate is
    the stage's own where one a stage was learned. A synset without stages is one stage."""
    label_smoothing: float = setting(0.0, at_least=0, at_most=1, expected="0 to 1", omit_default=True)
    """Share of a hard label that is spread over all classes, as in ``torch``'s cross-entropy."""
    focal_gamma: float = setting(0.0, at_least=0, omit_default=True)
    """Of the focal loss ``mean((1 - p_y)^gamma * -log p_y)``; 0: cross-entropy."""
    replay: bool = setting(False, omit_default=True)
    """The synset's learned recipe (:class:`ddbench.synset.Replay`) is replayed: its batches in order, its rates, its
    passes, plain SGD; the other settings of the training say nothing then."""
    init: Literal["", "xavier", "lecun"] = setting("", omit_default=True)
    """Initialisation of the students (:mod:`ddbench.networks.initialise`); empty: PyTorch's."""
    ema_decay: float = setting(0.0, at_least=0, below=1, omit_default=True, expected="0 (off) to below 1")
    """Tested is the exponential moving average of the student's weights over all steps: ``a <- d a + (1 - d) w`` after
    each, from the initial weights on; 0: the last weights."""
    ema_buffers: bool = setting(False, omit_default=True)
    """With ``ema_decay``, the running statistics of norms are averaged too, else they are the last ones."""

    @property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 of the settings; every result names it.

        Settings at their default are left out, so that a setting that is added later does not rename older protocols.
        """
        defaults = {field.name: plain(field.default) for field in fields(self)}
        return text_hash({name: value for name, value in self.settings().items() if value != defaults[name]})[:16]

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher must be at hand while the student trains."""
        return self.labels in ("once", "teacher")

    def settings(self) -> dict[str, Any]:
        """The settings as plain JSON, without the name; later ones only where they are altered."""
        return {key: plain(value) for key, value in recorded_config(self).items() if key != "name"}

    def rate(self, student: str) -> float:
        """The protocol's learning rate for a student."""
        return dict(self.lr_students).get(parse_student(student).family, self.lr)

    def batch_for(self, images: int, classes: int) -> int:
        """Images a step, for a synset of so many images."""
        if self.batch_rule == "fixed":
            return self.batch
        ipc = images / classes
        batch = 10 if ipc < 10 else 50 if ipc < 50 else 100
        if classes == 200:
            batch = 100
        elif classes >= 100:
            batch *= 2
        return min(batch, images)

    def factor(self, epoch: int, epochs: int, student: str = "") -> float:
        """Learning-rate factor in epoch ``epoch`` (from 0) of ``epochs``, for a student; empty: for any other one."""
        own = dict(self.schedule_students)
        schedule = own.get(parse_student(student).family, self.schedule) if own and student else self.schedule
        if epoch < self.warmup:
            return 0.01 + 0.99 * epoch / self.warmup
        epoch, epochs = epoch - self.warmup, max(1, epochs - self.warmup)
        if schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        if schedule == "half-cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))
        if schedule == "step":
            return self.drop_factor ** sum(epoch >= int(drop * epochs) + self.drop_offset for drop in self.drops)
        return 1.0


def plain(value: Any) -> Any:
    """A setting as JSON has it."""
    return [plain(item) for item in value] if isinstance(value, tuple) else value
