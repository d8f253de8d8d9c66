"""``expertlabels``: real images with the labels of an expert at its best epoch; nothing is distilled but the labels.

Qin, Deng, Alvarez-Melis: "A label is worth a thousand images in dataset distillation", NeurIPS 2024; code:
sunnytqin/no-distillation. The images are random ones, the very ones of method ``random``, or those of a coreset. Their
labels are what one expert says of them at an early or late epoch: the fewer the images, the earlier the best one. It is
found by training students on the labels of every epoch, and testing them on held-out *training* images.

Deviations, all listed in ``methods/expertlabels/README.md``: the epoch is not chosen on the test set; explicit seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from ddbench.config import setting
from ddbench.data.coreset import herding, k_center, k_means
from ddbench.data.mapped import gather
from ddbench.methods.base import Context, Distilled, Method, State
from ddbench.methods.facts import Facts
from ddbench.methods.needs import Need
from ddbench.methods.needs.experts import Experts
from ddbench.methods.needs.teacher import TrainedTeacher
from ddbench.methods.parts.features import teacher_features
from ddbench.methods.parts.judges import Judges
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS, changed
from ddbench.protocols.training import DivergedError, Settings, train_students
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget, Synset

BATCH = 256
"""Images that the expert judges at once."""

SWEEP = ("label_epoch", 0)
"""The choice that the settings of the sweep are of."""


@dataclass(frozen=True, kw_only=True)
class ExpertLabelsConfig:
    """Settings of expertlabels."""

    select: Literal["random", "herding", "kcenter", "kmeans"] = "random"
    """Which real images: those of the method of this name, with the same seed and teacher."""
    label_epoch: int = setting(0, at_least=0)
    """Epoch of the expert that labels; 0: the best one on held-out images."""
    every: int = setting(1, at_least=1, of=SWEEP)
    """The sweep tries each so many epochs, and always the last one."""
    sweep_students: int = setting(3, at_least=1, of=SWEEP)
    """Students that are trained on the labels of an epoch."""
    sweep_epochs: int = setting(300, at_least=1, of=SWEEP)
    """Epochs of each of them."""


class ExpertLabels(Method[ExpertLabelsConfig]):
    """Real images, labelled by an expert at the epoch that teaches best. A step is an epoch of the expert."""

    config_class = ExpertLabelsConfig
    distinct = True
    facts = Facts(
        title="Expert labels",
        line="real images with the labels of the best expert epoch",
        family="soft labels",
        protocol="soft-v1",
        paper="A Label is Worth a Thousand Images in Dataset Distillation",
        authors=("Tian Qin", "Zhiwei Deng", "David Alvarez-Melis"),
        venue="NeurIPS",
        year=2024,
        arxiv="2406.10485",
        code="https://github.com/sunnytqin/no-distillation",
    )

    @classmethod
    def needs(cls, config: ExpertLabelsConfig) -> tuple[Need[Any], ...]:
        """Experts; a coreset needs a teacher too."""
        return (Experts(),) if config.select == "random" else (Experts(), TrainedTeacher())

    @classmethod
    def check(cls, config: ExpertLabelsConfig, context: Context) -> None:
        """An epoch that the experts have, or held-out images to find one.

        Raises:
            UserError: names the flag, its value and what is possible.
        """
        super().check(config, context)
        if not config.label_epoch and not len(context.held_out.labels):
            raise UserError(
                "--label-epoch 0: the best epoch is found on held-out training images, and there are none: give "
                "--holdout 0.1 (experts then need it too), or name an epoch"
            )
        store = context.given(Experts)
        if config.label_epoch > store.recipe.epochs:
            raise UserError(
                f"--label-epoch {config.label_epoch}: the experts in {store.folder} have {store.recipe.epochs} epochs"
            )

    @property
    def epochs(self) -> list[int]:
        """Epochs of the expert that are tried, ascending; the one that is named alone."""
        if self.config.label_epoch:
            return [self.config.label_epoch]
        last = self.context.given(Experts).recipe.epochs
        return sorted({*range(self.config.every, last + 1, self.config.every), last})

    @property
    def iterations(self) -> int:
        """Epochs in the sweep; none where the epoch is named."""
        return 0 if self.config.label_epoch else len(self.epochs)

    def setup(self) -> None:
        """Choose the images, and the expert."""
        store = self.context.given(Experts)
        self._images = self._chosen()
        self._judges = Judges(self.context, store)
        self._expert = store.indices[seeds.derive(self.context.seed, "label-expert") % len(store.indices)]
        self._scores: list[float] = []

    def _chosen(self) -> Tensor:
        """The images of the method that is named, uint8 ``(K ipc, C, H, W)``."""
        context, kind = self.context, self.config.select
        if kind == "random":
            return context.random_images("random")
        rows = []
        for label, (index, features) in enumerate(teacher_features(context)):
            if kind == "kmeans":
                kept = k_means(features, context.ipc, seeds.derive(context.seed, "kmeans", label))
            else:
                kept = (herding if kind == "herding" else k_center)(features, context.ipc)
            rows.append(index[kept])
        return gather(context.train.images, torch.cat(rows))

    def step(self, iteration: int) -> dict[str, float]:
        """Try an epoch; returns it, and the mean held-out accuracy of students that learned its labels."""
        epoch = self.epochs[iteration]
        self._scores.append(self._score(epoch))
        return {"label_epoch": float(epoch), "sweep_accuracy": self._scores[-1]}

    def _score(self, epoch: int) -> float:
        config, context = self.config, self.context
        protocol, _ = changed(PROTOCOLS["soft-v1"], epochs=config.sweep_epochs)
        synset = Synset(
            images=self._images,
            labels=self.labels(epoch),
            preprocess=context.preprocess.to_json(),
            budget=Budget("ipc", context.ipc),
            dataset=context.dataset.spec.name,
            fingerprint=context.dataset.fingerprint,
            class_names=context.dataset.spec.class_names,
            method="expertlabels",
            config={},
            seed=context.seed,
        )
        plan = Plan(synset=synset, protocol=protocol, preprocess=context.preprocess, flip=context.dataset.spec.flip)
        how = Settings(device=str(context.device), threads=torch.get_num_threads())
        try:
            found = train_students(plan, context.held_out, context.student, range(config.sweep_students), how)
        except DivergedError:  # students that diverge on the labels of an epoch say that it is a bad one
            return 0.0
        return fmean(one["accuracy"] for one in found)

    @torch.no_grad()
    def labels(self, epoch: int) -> Tensor:
        """What the expert says of the images at an epoch: logits ``(K ipc, K)`` on the CPU, own class first."""
        context, net = self.context, self._judges.network(self._expert, epoch)
        pieces = self._images.split(BATCH)
        said = torch.cat([net(context.preprocess.apply(piece.to(context.device))).cpu() for piece in pieces])
        return own_first(said, context.hard_labels())

    @property
    def best(self) -> int:
        """The epoch that labels: the best so far, of equal ones the earlier; before the sweep the last of all."""
        epochs = self.epochs
        if not self._scores:
            return epochs[-1]
        return epochs[self._scores.index(max(self._scores))]

    def distilled(self) -> Distilled:
        """The images as they are stored, uint8, with the labels of the best epoch."""
        return Distilled(images=self._images, labels=self.labels(self.best))

    def state(self) -> State:
        """Held-out accuracies of the epochs that were tried."""
        return State(tensors={"scores": torch.tensor(self._scores, dtype=torch.float64)})

    def load_state(self, state: State) -> None:
        """Take over what :meth:`state` gave."""
        self._scores = state.tensors["scores"].tolist()


def own_first(logits: Tensor, classes: Tensor) -> Tensor:
    """Logits ``(n, K)`` whose largest is that of the image's own class ``(n,)``: it changes places where it is not."""
    rows, top = torch.arange(len(logits)), logits.argmax(1)
    made = logits.clone()
    made[rows, top], made[rows, classes] = logits[rows, classes], logits[rows, top]
    return made
