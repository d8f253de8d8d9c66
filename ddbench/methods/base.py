"""What a method is: a config, what it needs, and either one shot or a sequence of steps.

A method is written as a class with four parts that the runner (:mod:`ddbench.distillation.runner`) calls:

``setup()`` prepares (initial images, optimisers, checks); ``iterations`` says how many steps there are, 0 for a
one-shot method; ``step(i)`` does the i-th and returns its metrics; ``distilled()`` gives the product at any time.
``state()`` and ``load_state()`` make it resumable. All randomness is derived from (seed, purpose, iteration), so that
no generator state has to be kept. A method whose steps fall into parts that need nothing of each other says so in
``pieces()``; they are then shared out over processes, and ``merge()`` puts together what they leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ddbench.config import check_config, refuse_idle
from ddbench.data.dataset import Dataset, Split, class_indices
from ddbench.data.mapped import gather
from ddbench.data.preprocess import Preprocess
from ddbench.decoders.base import Decoder
from ddbench.methods.facts import Facts
from ddbench.methods.needs import Need
from ddbench.networks.build import build_student
from ddbench.registry import resolve
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.runtime.ranks import ALONE, Ranks
from ddbench.synset import Budget, Replay

C = TypeVar("C")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Context:
    """Everything that a method is given; it opens nothing by itself.

    Attributes:
        dataset: the real data; its test split is for nobody here.
        train: training images that the method may use (the dataset's, less the held-out ones).
        held_out: real training images kept for validation, possibly none.
        preprocess: pixels to network input.
        ipc: images per class.
        student: name of the network that is matched.
        seed: names every draw of the run.
        device: where to compute.
        folder: the run's folder, for caches of the method's own.
        compile: ``auto``, ``on`` or ``off``, for methods of which :meth:`Method.compiles` says so.
        console: for announcements.
        resources: what the method needs, by the needs' keys; taken by :meth:`given`.
        architectures: names of networks among them, known before they exist; taken by :meth:`architecture`.
        ranks: the processes that share the work of a step.
    """

    dataset: Dataset
    train: Split
    held_out: Split
    preprocess: Preprocess
    ipc: int
    student: str
    seed: int
    device: torch.device
    folder: Path
    compile: str
    console: Console
    resources: Mapping[str, Any] = field(default_factory=dict)
    architectures: Mapping[str, str] = field(default_factory=dict)
    ranks: Ranks = ALONE

    def given(self, need: type[Need[T]] | Need[T]) -> T:
        """What the method needs, by the class of the need or the need itself.

        While :meth:`Method.check` runs only ``early`` needs are there, since the others may have to be made first.

        Raises:
            LookupError: the method does not name it in :meth:`Method.needs`, or it is not there yet.
        """
        if need.key not in self.resources:
            raise LookupError(f"this context has no {need.key}: Method.needs does not name it, or it is not made yet")
        found: T = self.resources[need.key]
        return found

    def give(self, need: type[Need[T]] | Need[T], found: T) -> Context:
        """The same context with another resource."""
        return replace(self, resources={**self.resources, need.key: found})

    def architecture(self, need: type[Need[T]] | Need[T]) -> str | None:
        """Name of the network that a need will be given, known before it exists; None in a context made by hand."""
        return self.architectures.get(need.key)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self.dataset.spec.classes

    def network(self, seed: int) -> torch.nn.Module:
        """A fresh student for this dataset."""
        spec = self.dataset.spec
        return build_student(self.student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=seed)

    def hard_labels(self) -> Tensor:
        """Class-major labels of a synset: 0..0, 1..1, ...; int64 ``(K * ipc,)``."""
        return torch.arange(self.classes).repeat_interleave(self.ipc)

    def random_images(self, *purpose: str | int) -> Tensor:
        """The images of :meth:`random_positions`, uint8 ``(K * ipc, C, H, W)``."""
        return gather(self.train.images, self.random_positions(*purpose))

    def random_positions(self, *purpose: str | int) -> Tensor:
        """``ipc`` real images of each class, class-major: int64 ``(K * ipc,)`` positions in ``train``.

        Different ones; where a class has fewer, all of them, over and over.
        """
        generator = seeds.generator(self.seed, *purpose)
        chosen = [
            repeated(index[torch.randperm(len(index), generator=generator)], self.ipc)
            for index in class_indices(self.train.labels, self.classes)
        ]
        return torch.cat(chosen)


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """A method's product: images uint8 (pixels) or float32 (network input), labels, and what was learned with them.

    ``schedule``, ``label_scale``, ``decoder``, ``parameters``, ``patches`` and ``teacher`` are those of
    :class:`ddbench.synset.Synset`.
    """

    images: Tensor
    labels: Tensor
    learned_lr: Tensor | None = None
    stage: Tensor | None = None
    schedule: Replay | None = None
    label_scale: float | None = None
    decoder: Decoder | None = None
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    patches: int = 1
    teacher: dict[str, Any] | None = None

    @property
    def decode_factor(self) -> int:
        """Tiles a side that each stored image is cut into; 1: none."""
        return getattr(self.decoder, "factor", 1)


@dataclass(frozen=True, kw_only=True)
class State:
    """What a method must have to go on: tensors by name, and plain JSON."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


class NotFiniteError(Exception):
    """Raised by ``step`` *before* it changes anything, when a loss or gradient is not finite; says the likely cause."""


class Method(Generic[C]):
    """Base of all methods.

    Args:
        config: the method's settings.
        context: what it works on.
    """

    config_class: ClassVar[type[Any]]
    facts: ClassVar[Facts | None] = None
    """What is known of it besides its code; every method of this package says them."""
    title: ClassVar[str] = ""
    """Its name as it is written: that of its own facts, where it has them."""
    unit: ClassVar[str] = "ipc"
    """Budget unit of the product: ``ipc``, or ``all`` for the whole training set."""
    distinct: ClassVar[bool] = False
    """Whether it needs ``ipc`` different real images of every class; others begin with noise, or repeat real ones."""
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    """What data it works on (:mod:`ddbench.modalities`)."""
    variants: ClassVar[Mapping[str, str]] = {}
    """The same method for other data: modality -> ``module:Class``."""
    second_order: ClassVar[bool] = False
    """Whether it differentiates the student's gradient: the run then tries before work that the student allows it."""
    uses_student: ClassVar[bool] = True
    """Whether the synset of one that takes steps names the run's student; whether that takes part, the facts say."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if isinstance(vars(cls).get("facts"), Facts):
            cls.title = vars(cls)["facts"].title

    def __init__(self, config: C, context: Context) -> None:
        self.config = config
        self.context = context

    @classmethod
    def fitting(cls, name: str, dataset: str, modality: str) -> type[Method[Any]]:
        """The class of this method for data of a modality.

        Args:
            name, dataset: for the message.

        Raises:
            UserError: it does not work on such data.
        """
        if modality in cls.modalities:
            return cls
        if modality not in cls.variants:
            fits = " and ".join(f"{one}s" for one in (*cls.modalities, *cls.variants))
            raise UserError(
                f"--method {name} --dataset {dataset}: the method works on {fits}, this is a set of {modality}s"
            )
        found = resolve(cls.variants[modality], f"method {name}")
        assert isinstance(found, type)
        assert issubclass(found, Method)
        return found

    @classmethod
    def needs(cls, config: C) -> tuple[Need[Any], ...]:
        """What must be there before it starts (:mod:`ddbench.methods.needs`)."""
        return ()

    @classmethod
    def idle(cls, config: C, context: Context) -> Mapping[str, str]:
        """Settings that have no effect with these settings on these data, and why, such as "with --steps 0".

        They are refused where they are not at their defaults; a reason that is a :class:`ddbench.config.Here` is told
        only. What one other setting decides says its own :func:`ddbench.config.setting` (``of``, ``unless``).
        """
        return {}

    @classmethod
    def check(cls, config: C, context: Context) -> None:
        """Refuse settings that cannot work, before anything is written.

        Ranges stand in the config (:func:`ddbench.config.setting`); a method adds what depends on the data, the
        network, or several settings together.

        Raises:
            UserError: names the setting, its value and what is possible.
        """
        check_config(config)
        for told in refuse_idle(config, cls.idle(config, context)):
            context.console.say(told)

    @classmethod
    def terms_of_a_step(cls, config: C, context: Context) -> int:
        """Of how many terms a step's gradient is the sum, which the ranks of the context can share; 1: of one."""
        return 1

    @classmethod
    def compiles(cls, config: C) -> bool:
        """Whether :attr:`Context.compile` has an effect on it; else a run says that ``--compile on`` has none."""
        return False

    @classmethod
    def begins_with(cls, config: C, context: Context) -> int:
        """Images of each class that it begins with; those that are real ones are repeated where a class has fewer."""
        return context.ipc

    @property
    def iterations(self) -> int:
        """Number of steps; 0 for a one-shot method."""
        return 0

    @property
    def budget(self) -> Budget:
        """Size of the product."""
        return Budget("ipc", self.context.ipc)

    @property
    def augmentation(self) -> str:
        """Augmentation strategy that the method distils with, recorded in the synset."""
        return "none"

    def setup(self) -> None:
        """Prepare the first step."""

    def pieces(self) -> Sequence[range]:
        """Ranges of steps that need nothing of each other, in order and together all; fewer than two: of one piece.

        Known before :meth:`setup`, from settings and context alone. A process that does one of them sets the method up,
        gives it the state of its beginning, and does these steps; what :meth:`state` then says goes to :meth:`merge`.
        """
        return ()

    def alike(self) -> Sequence[range]:
        """Ranges of steps that cost about the same, in order and together all, for forecasts."""
        return [range(self.iterations)]

    def merge(self, states: Sequence[State]) -> State:
        """The state after all steps.

        Args:
            states: in the order of :meth:`pieces`, of each what it left; the first may be that of several, as they were
                done by one process, and one more that it had begun.

        Raises:
            KeyError, ValueError, RuntimeError: these are not such states.
        """
        raise NotImplementedError

    def prepare(self, steps: range | None = None) -> dict[str, Any]:
        """Make what other runs can use as well (cached latents), resumable by itself; called after :meth:`setup`.

        Args:
            steps: that are to be taken; None: all.

        Returns:
            Cost records by name: told beside the run's own cost, as those of its needs, and not counted in it.
        """
        return {}

    def step(self, iteration: int) -> dict[str, float]:
        """Do step ``iteration`` (from 0) and return its metrics.

        Raises:
            NotFiniteError: the step was not taken; the state is that of before.
        """
        raise NotImplementedError

    def distilled(self) -> Distilled:
        """The product as it is now."""
        raise NotImplementedError

    def state(self) -> State:
        """All that changes from step to step."""
        return State()

    def load_state(self, state: State) -> None:
        """Take over a state that :meth:`state` gave, after :meth:`setup`."""


def joined(states: Sequence[State], name: str) -> State:
    """One tensor of some states, the first after the other along the first axis; those that lack it have no rows."""
    found = [state.tensors[name] for state in states if name in state.tensors]
    return State(tensors={name: torch.cat(found)})


def repeated(positions: Tensor, count: int) -> Tensor:
    """``count`` of some positions ``(n,)`` in their order, begun again where there are fewer."""
    return positions[torch.arange(count) % len(positions)]


def check_ipc(ipc: int, train: Split, classes: int, class_names: tuple[str, ...], *, distinct: bool = True) -> None:
    """A method that takes different real images cannot have more of a class than there are.

    Args:
        distinct: whether the method is such a one.

    Raises:
        UserError: names the smallest class.
    """
    if ipc < 1:
        raise UserError(f"--ipc {ipc}: expected at least 1")
    if not distinct:
        return
    counts = torch.bincount(train.labels, minlength=classes)
    least = int(counts.argmin())
    if ipc > int(counts[least]):
        raise UserError(
            f"--ipc {ipc}: class {class_names[least]!r} has only {int(counts[least])} training images; choose --ipc "
            f"{int(counts[least])} or less"
        )
