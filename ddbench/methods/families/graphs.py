"""What methods for graphs share: a payload, a budget in bytes, mostly one shot; and the choices of real graphs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

from ddbench.config import setting
from ddbench.graphs.baselines import coreset
from ddbench.graphs.dataset import GraphSplit
from ddbench.graphs.graphset import GraphSet
from ddbench.graphs.reference import Reference, reference
from ddbench.graphs.store import Payload
from ddbench.methods.base import Context, Distilled, Method
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget

C = TypeVar("C")


def training_graphs(context: Context) -> GraphSet:
    """The graphs that a method may use."""
    assert isinstance(context.train, GraphSplit)
    return context.train.graphs


class GraphMethod(Method[C]):
    """A method whose product is a payload."""

    modalities = ("graph",)
    unit = "bytes"

    @property
    @abstractmethod
    def payload(self) -> Payload:
        """The product as it is now."""

    def distilled(self) -> Distilled:
        """Images: there are none; the product is :attr:`payload`.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{self.title} makes graphs: ask for its payload")


class OneShotGraphs(GraphMethod[C]):
    """A method of one shot."""

    @classmethod
    @abstractmethod
    def make(cls, config: C, graphs: GraphSet, seed: int) -> Payload:
        """The product of some training graphs.

        Raises:
            UserError: the settings do not allow any.
        """

    @classmethod
    def check(cls, config: C, context: Context) -> None:
        """Make the product, so that what cannot work is told before anything is written."""
        super().check(config, context)
        _made(cls.make, config, training_graphs(context), context.seed)

    @property
    def payload(self) -> Payload:
        """The product."""
        return _made(self.make, self.config, training_graphs(self.context), self.context.seed)


@lru_cache(maxsize=1)
def _made(make: Callable[[Any, GraphSet, int], Payload], config: Any, graphs: GraphSet, seed: int) -> Payload:
    """The last product, which is asked for more than once."""
    return make(config, graphs, seed)


@dataclass(frozen=True, kw_only=True)
class GraphBudget:
    """What a choice of real graphs is allowed."""

    max_bytes: int = setting(0, at_least=0)
    """bytes that the chosen graphs have at most, such as those of another run"""


class GraphCoreset(OneShotGraphs[GraphBudget]):
    """Real training graphs, the classes in turn, of at most so many bytes."""

    config_class = GraphBudget
    how: ClassVar[str]

    @property
    def budget(self) -> Budget:
        """The bytes that are allowed."""
        return Budget("bytes", self.config.max_bytes)

    @classmethod
    def make(cls, config: GraphBudget, graphs: GraphSet, seed: int) -> GraphSet:
        """The chosen graphs."""
        if not config.max_bytes:
            raise UserError("--max-bytes is missing: how many bytes may the graphs have?")
        return graphs.take(coreset(graphs, cls.how, config.max_bytes, seed))


class RandomGraphs(GraphCoreset):
    """Graphs drawn at random; ``--seed`` names the subset."""

    title = "Random real graphs"
    how = "random"


class HerdedGraphs(GraphCoreset):
    """Herding on how often each colour of Weisfeiler and Leman is in a graph."""

    title = "Herding"
    how = "herding"


class KCenterGraphs(GraphCoreset):
    """k-Center on how often each colour of Weisfeiler and Leman is in a graph."""

    title = "k-Center"
    how = "k-center"


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """There are none."""


class FullGraphs(OneShotGraphs[NoSettings]):
    """All training graphs."""

    config_class = NoSettings
    title = "All real graphs"
    unit = "all"

    @property
    def budget(self) -> Budget:
        """All graphs."""
        return Budget("all", len(self.payload))

    @classmethod
    def make(cls, config: NoSettings, graphs: GraphSet, seed: int) -> GraphSet:
        """The training part."""
        return graphs


class ReferenceGraphs(OneShotGraphs[GraphBudget]):
    """A rule in place of graphs; it stands beside the rows of any budget."""

    config_class = GraphBudget
    how: ClassVar[str]

    @property
    def budget(self) -> Budget:
        """The bytes of the rows that it stands beside; else its own."""
        return Budget("bytes", self.config.max_bytes or self.payload.bytes)

    @classmethod
    def make(cls, config: GraphBudget, graphs: GraphSet, seed: int) -> Reference:
        """The rule."""
        made = reference(cls.how, graphs)
        if config.max_bytes and made.bytes > config.max_bytes:
            raise UserError(f"--max-bytes {config.max_bytes}: {cls.title} has {made.bytes} bytes")
        return made
