"""What a method needs before it starts: found or made by the run, referred to in its record, and its cost told.

A need is a small frozen object. :meth:`ddbench.methods.base.Method.needs` gives those of a method, and the run
(:mod:`ddbench.distillation.runner`) does the rest, in this order:

1. :meth:`Need.check` refuses what cannot work, before anything is written or made;
2. :meth:`Need.look` gives what is there; for an ``early`` need before ``Method.check``, which may look at it, for the
   others after it and after the run's folder was found to be free;
3. :meth:`Need.make` makes what is not there, or says which command does. These seconds are not the run's;
4. :meth:`Need.refer` is what the run's record says of it, under :attr:`Need.key`; its field :attr:`Need.identity` goes
   into the synset's ``parents``. A run that goes on gets the same again, and no other folder is taken for its own;
5. :meth:`Need.cost` is told under ``upstream`` beside the run's own cost.

The method takes it by ``context.given(TheNeed)``. Its flags, a dataclass, become flags of ``ddbench distill --method``,
settings of :func:`ddbench.distillation.start.distill` and keys of a recipe. A ``--method-file`` may define needs of its
own. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ddbench.methods.needs.flags import NoFlags

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset
    from ddbench.data.preprocess import Preprocess
    from ddbench.runtime.progress import Console

T = TypeVar("T")
F = TypeVar("F")

TOLD_OF_ALL = ("experts", "teacher")
"""Keys that the records of all runs have, null where the run needs no such thing: runs of before needs had them."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is known of a run when its needs are looked up.

    Attributes:
        method: name of the method that asks, for messages.
        dataset: the real data.
        data: root of the datasets as the user gave it; None: the default one.
        preprocess, preprocess_kind: pixels to network input, and its name
            (:data:`ddbench.data.specs.PREPROCESS_KINDS`).
        student: name of the network that is matched.
        holdout: fraction of the training images that nothing in the run may see.
        device, threads, compile: as the run's settings.
        download: whether the user allowed fetching from the network.
        console: for announcements.
        flags: instances of the needs' flags; what is not in it has its defaults.
        asked: what a recipe wants of a need beside its flags, by the need's key.
        recorded: what an earlier try of this run referred to, by the need's key.
    """

    method: str
    dataset: Dataset
    data: Path | None
    preprocess: Preprocess
    preprocess_kind: str
    student: str
    holdout: float
    device: str
    threads: int
    compile: str
    download: bool
    console: Console
    flags: tuple[Any, ...] = ()
    asked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recorded: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def flags_of(self, kind: type[F]) -> F:
        """The flags of a need."""
        return next((flags for flags in self.flags if isinstance(flags, kind)), kind())


class Need(Generic[T]):
    """A resource that a method needs. Subclasses are frozen dataclasses; their fields say which one.

    Attributes:
        key: its name in records; a method's needs have different ones.
        flags: dataclass of its flags, each with a default and words below it.
        root: the flag with the folder where such things are kept and found again; None: it has none.
        identity: field of the reference that names the very thing, e.g. a hash.
        early: looked up before ``Method.check``, also for a run that is finished; for what a run cannot make.
    """

    key: ClassVar[str]
    flags: ClassVar[type[Any]] = NoFlags
    root: ClassVar[str | None] = None
    identity: ClassVar[str] = "sha256"
    early: ClassVar[bool] = False

    def check(self, run: Request) -> None:
        """Refuse what cannot work, before anything is looked up.

        Raises:
            UserError: names the flag, its value and what is possible.
        """

    def architecture(self, run: Request) -> str | None:
        """Name of the network that it will be, known before it exists; None: it is none.

        Raises:
            UserError: no such network.
        """
        return None

    def look(self, run: Request) -> T | None:
        """The one of an earlier try of the run (``run.recorded``), else one that fits, else None.

        Raises:
            UserError: a file that may be it cannot be read.
        """
        raise NotImplementedError

    def make(self, run: Request) -> T:
        """Make it and keep it for the next run.

        Raises:
            UserError: it cannot be made here; the message names the command that makes it.
        """
        raise NotImplementedError

    def refer(self, found: T) -> dict[str, Any]:
        """What the run's record says of it: plain JSON without paths and times, with the field :attr:`identity`."""
        raise NotImplementedError

    def recorded(self, reference: dict[str, Any], run: Request) -> dict[str, Any]:
        """An earlier try's reference as it would be by what is asked for now.

        Where it differs from the reference, the folder holds another run.
        """
        return reference

    def cost(self, found: T) -> dict[str, Any] | None:
        """What it cost, as plain JSON; None where that is not known. A damaged record is no error."""
        return None
