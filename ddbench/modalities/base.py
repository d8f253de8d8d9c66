"""The questions that runs, evaluations and the board ask about what a synset holds. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import nn

    from ddbench.data.dataset import Dataset, Split
    from ddbench.measurements.suite import Choice
    from ddbench.methods.base import Method
    from ddbench.protocols.training import Settings
    from ddbench.synset import Provenance
    from ddbench.teachers.store import Teacher


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What of a run's settings a modality judges: flags of the same names; ``student`` None: not said."""

    ipc: int
    student: str
    holdout: float
    preprocess: str
    validate_every: int


@dataclass(frozen=True)
class Tested:
    """One student that was trained and tested.

    Attributes:
        seed: of its network.
        net: it, where it can be kept; else None.
        metrics: by name, or in words why it has none.
    """

    seed: int
    net: nn.Module | None
    metrics: dict[str, float] | str


class SynsetFacts(Protocol):
    """What a row says of a synset, as far as a modality asks."""

    @property
    def dataset(self) -> str:
        """Name of the dataset."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an item."""


class Modality(ABC):
    """What a dataset, a synset, a student, a protocol and a picture are. A plan is the modality's own: nobody looks
    into it but for ``synset``, ``protocol``, ``epochs``, ``teacher`` and ``stored``.

    Attributes:
        name: as in headers and rows.
        items: what a synset holds, in messages.
        unit: of a budget that is not the whole training set.
        usual_protocol: of an evaluation that names none.
        run_defaults: settings of a run that neither the caller nor a recipe says.
        metrics: metrics of a run, how they are read.
        setting_names: settings of a protocol.
        later: those that rows may leave out where they are 0.
        forecasts: whether ``ddbench plan`` can try its work.
        cpu_only: whether all work is done on the CPU, without a compiler.
    """

    name: ClassVar[str]
    items: ClassVar[str]
    unit: ClassVar[str]
    usual_protocol: ClassVar[str]
    run_defaults: ClassVar[Mapping[str, Any]]
    metrics: ClassVar[Mapping[str, Mapping[str, str]]]
    forecasts: ClassVar[bool]
    cpu_only: ClassVar[bool] = False

    @abstractmethod
    def device(self, asked: str, compile: str) -> str:
        """The ``--device`` that its work is done on, where ``asked`` and ``compile`` are what the user asked for.

        Raises:
            UserError: they are nothing that it can do.
        """

    # a dataset, before work

    @abstractmethod
    def survey(self, dataset: Any) -> Iterable[str]:
        """What it holds, in lines for people; the first names it and its counts."""

    @abstractmethod
    def first_items(self, dataset: Any) -> bytes:
        """A picture of its first items, a row a class, as PNG."""

    @abstractmethod
    def small_budget(self, dataset: Any) -> str:
        """Flags of a small first distillation."""

    # a run

    @abstractmethod
    def run_student(self, student: str | None, dataset: Dataset) -> str:
        """The canonical name of a run's student, by default the usual one for the data.

        Raises:
            UserError: no student of that name.
        """

    @abstractmethod
    def split(self, kind: type[Method[Any]], dataset: Dataset, said: RunFacts) -> tuple[Split, Split]:
        """What a method may use, and what is kept for validation.

        Raises:
            UserError: settings that cannot work; names the flag.
        """

    @abstractmethod
    def preprocess(self, dataset: Dataset, kind: str, root: Path | None) -> Any:
        """How data become network input: something with ``to_json()``.

        Raises:
            UserError: unknown kind.
        """

    @abstractmethod
    def synset(self, method: Method[Any], resolved: Mapping[str, Any]) -> Provenance:
        """The method's product as it is now, with its provenance."""

    @abstractmethod
    def check_format(self, path: Path, synset: Any) -> None:
        """Refuse a synset that breaks the format, as :meth:`write` does; ``path`` is for the message.

        Raises:
            UserError: names what is wrong.
        """

    @abstractmethod
    def write(self, path: Path, synset: Any) -> None:
        """Check and write a synset atomically.

        Raises:
            UserError: it breaks the format, or the disk refuses.
        """

    @abstractmethod
    def preview(self, synset: Any, preprocess: Any) -> bytes:
        """A picture of it, as PNG."""

    # an evaluation

    @abstractmethod
    def read(self, path: Path) -> Any:
        """Read and check a synset file.

        Raises:
            UserError: as :func:`ddbench.synset.read_synset`.
        """

    @abstractmethod
    def protocol(self, name: str) -> Any:
        """A protocol by name.

        Raises:
            UserError: no such one here.
        """

    @abstractmethod
    def changed(self, base: Any, **settings: Any) -> tuple[Any, dict[str, Any]]:
        """A protocol with settings that a flag altered (None: not), and what differs.

        Raises:
            UserError: one that cannot be altered, or out of range.
        """

    @abstractmethod
    def check_asked(self, asked: Any) -> None:
        """Refuse wishes (fields of :class:`ddbench.evaluation.start.Asked`) that do not fit.

        Raises:
            UserError: names the flag.
        """

    @abstractmethod
    def students(self, text: str) -> tuple[str, ...]:
        """Canonical names of a comma list.

        Raises:
            UserError: an empty or unknown name.
        """

    @abstractmethod
    def default_student(self, synset: Any) -> str:
        """The student for a synset that was made without one."""

    @abstractmethod
    def check_student(self, name: str, synset: Any = None) -> None:
        """Refuse a name that is no student's, or a student that cannot learn a synset.

        Raises:
            UserError: names it.
        """

    @abstractmethod
    def pixels(self, synset: Any) -> int:
        """Side of an item in pixels, by which threads are chosen; 0: it has none."""

    @abstractmethod
    def side(self, synset: Any, asked: int | None) -> int | None:
        """The size that the dataset is loaded with."""

    @abstractmethod
    def teacher(
        self, protocol: Any, synset: Any, path: Path, given: Path | None, root: Path, begun: Sequence[Path]
    ) -> Teacher | None:
        """The teacher for a protocol that has one.

        Args:
            path: the synset's file.
            given: file that a flag names.
            root: root of the teachers.
            begun: where what is gone on with says its teacher.

        Raises:
            UserError: none fits.
        """

    @abstractmethod
    def open(
        self, path: Path, sha256: str, data: Path | None, size: int | None, teacher: Path | None, labels: Path | None
    ) -> tuple[Any, Any]:
        """Plan (its protocol is set by the caller) and dataset of a synset.

        Raises:
            UserError: a file is missing or malformed, or they do not belong together.
        """

    @abstractmethod
    def check(
        self, plan: Any, dataset: Any, students: Sequence[str], seeds: Sequence[int], choices: Sequence[Choice]
    ) -> None:
        """Refuse what cannot work before anything is trained.

        Raises:
            UserError: students, plan, test part and measurements do not fit.
        """

    @abstractmethod
    def train_and_test(
        self,
        plan: Any,
        dataset: Any,
        student: str,
        seeds: Sequence[int],
        settings: Settings,
        lr: float | None,
        max_images: int | None,
    ) -> list[Tested]:
        """Fresh students, trained on the synset and tested once each.

        Args:
            lr: a learning rate that a search found.
            max_images: test on so many only, of the classes alike.
        """

    def alone(self, plan: Any, student: str, settings: Settings) -> str | None:
        """Why :meth:`train_and_test` trains a student's seeds one after another; None: their weights are stacked."""
        return None

    @abstractmethod
    def describe(self, plan: Any, dataset: Any) -> dict[str, Any]:
        """What an evaluation says of the synset, but the hash of its file."""

    @abstractmethod
    def count(self, synset: Any) -> int:
        """How many items a student is trained on."""

    @abstractmethod
    def rate(self, plan: Any, student: str) -> tuple[float, str]:
        """The learning rate without a search, and where it comes from."""

    # the board

    @property
    @abstractmethod
    def setting_names(self) -> frozenset[str]:
        """Settings of a protocol."""

    @abstractmethod
    def standard(self, name: str) -> Any | None:
        """The protocol of a name, as it is without alterations; None: there is none of it."""

    @property
    @abstractmethod
    def later(self) -> tuple[str, ...]:
        """Settings that a row may leave out where they are 0."""

    @abstractmethod
    def protocol_from(self, name: str, settings: Mapping[str, Any]) -> Any:
        """A protocol of a row, from its settings.

        Raises:
            UserError: an unknown setting, or a value out of range.
        """

    @abstractmethod
    def work(self, protocol: Any) -> int:
        """Passes, or updates, that a protocol trains at most."""

    @abstractmethod
    def words(self, count: int, shape: Sequence[int]) -> str:
        """So many items of a shape, in words."""

    @abstractmethod
    def side_of_row(self, said: SynsetFacts) -> int | None:
        """The size that the dataset of a row is loaded with."""

    @abstractmethod
    def real_settings(
        self, dataset: Dataset, preprocess: Mapping[str, Any], config: Mapping[str, Any]
    ) -> tuple[str | None, float | None]:
        """Preprocess kind and held-out fraction of a row of all real items; None: not one that ddbench makes.

        Args:
            dataset: of the row, read.
        """

    @abstractmethod
    def label_kind(self, protocol: Any, own: str) -> str:
        """The kind of labels that a student learns, of a synset whose own are of the kind ``own``."""

    @property
    @abstractmethod
    def label_kinds(self) -> tuple[str, ...]:
        """The kinds of a synset's own labels."""

    @abstractmethod
    def stored(
        self, tensors: Mapping[str, tuple[str, list[int], int]], header: Mapping[str, Any], protocol: Any
    ) -> dict[str, Any]:
        """What a row must say of a synset's file beside its provenance: ``images``, ``shape``, ``preprocess``,
        ``label_kind``, ``decoded_images``, ``learned_lr`` and every part of its bytes (``bytes.images``), as far as
        they follow from a header; stored labels of views are not counted.

        Args:
            tensors: name -> dtype, shape, bytes, as in the file's header.
            protocol: of the row.
        """


def provenance_of(method: Method[Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of :class:`ddbench.synset.Provenance` but the modality, of a run.

    Args:
        resolved: everything that decides the product's bytes (:func:`ddbench.distillation.runner.resolved_settings`).
    """
    context = method.context
    return {
        "budget": method.budget,
        "dataset": context.dataset.spec.name,
        "fingerprint": context.dataset.fingerprint,
        "class_names": context.dataset.spec.class_names,
        "method": resolved["method"],
        "config": {**resolved["config"], "holdout": resolved["holdout"]},
        "seed": context.seed,
        "student": context.student if method.iterations and method.uses_student else None,
        "versions": resolved["versions"],
        "parents": {need.key: resolved[need.key][need.identity] for need in method.needs(method.config)},
    }
