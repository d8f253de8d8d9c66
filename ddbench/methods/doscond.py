"""``doscond``: graphs whose gradients in fresh networks are those of real ones, one step each (Jin et al., KDD 2022,
arXiv:2206.07746).

With a fresh network theta a step, and for every class the gradients ``g`` of a batch of real graphs and ``g'`` of the
learned ones::

    min over edges A and labels X of   sum over classes D(g, g'(A, X))  +  b max(mean sigmoid(A) - density, 0)

Nothing is trained in between. ``A`` are logits of every possible edge, drawn relaxed at a falling temperature, ``D`` is
``|g - g'|^2 / |g|^2``, as in the public code. What differs from the paper and its code: ``methods/doscond/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench.config import setting
from ddbench.graphs.baselines import coreset
from ddbench.graphs.batches import GraphBatch, graph_items
from ddbench.graphs.graphset import GraphSet, Ints
from ddbench.graphs.relaxed import RelaxedGraphs, pairs_of
from ddbench.graphs.students import GraphStudent, build_student
from ddbench.methods.base import Context, NotFiniteError, State
from ddbench.methods.facts import Facts
from ddbench.methods.families.graphs import GraphBudget, GraphMethod, training_graphs
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.light import light
from ddbench.synset import Budget
from ddbench.training.gradient_matching import Distance
from ddbench.training.graph_matching import ClassPair, density_excess, matching_loss
from ddbench.training.optimizers import load_optimizer_state, optimizer_state

KINDS: dict[str, Distance] = {"mse": "relative-mse", "cos": "cos"}
"""Distances by the name of a metric."""

MOST_PAIRS = 2**20
"""Possible edges of all learned graphs together: a step's memory grows with them."""

NORM_GRAPHS = 16
"""Real graphs of each class that give batch norms their statistics."""


@dataclass(frozen=True, kw_only=True)
class DosCondConfig(GraphBudget):
    """Settings of the distillation."""

    iterations: int = setting(1000, at_least=1)
    """Steps, each with a fresh network."""
    lr_edges: float = setting(0.1, above=0)
    """Learning rate of the logits of edges (Adam)."""
    lr_labels: float = setting(0.1, above=0)
    """Learning rate of the logits of labels (Adam)."""
    drop_at: int = setting(400, at_least=0)
    """The step from which both rates are a tenth."""
    batch_real: int = setting(256, at_least=1)
    """Real graphs of a class in a step; all where the class has fewer."""
    metric: Literal["mse", "cos"] = "mse"
    """Distance of gradients as one vector: mse (squared, over the squared length of the real ones) or cos."""
    density: float = setting(0.1, at_least=0)
    """Weight b of what the mean probability of an edge is above the share of edges in the first graphs."""
    sure: float = setting(5.0, above=0)
    """Logit of what is in the first graphs; of what is not, its negative."""
    coldest: float = setting(0.01, above=0, at_most=1)
    """Temperature of the relaxed draws at the end of the cooling, which begins with 1."""
    cooling: int = setting(200, at_least=1, unless=("coldest", 1))
    """Steps in which the temperature falls."""


def first_graphs(config: DosCondConfig, graphs: GraphSet, seed: int) -> GraphSet:
    """The real graphs that the learned ones begin as, class by class: those of ``random`` with this seed and budget.

    Raises:
        UserError: no budget, one that holds no graph of each class, or graphs that are too large.
    """
    if not config.max_bytes:
        raise UserError("--max-bytes is missing: how many bytes may the graphs have?")
    chosen = coreset(graphs, "random", config.max_bytes, seed)
    while len(chosen) > graphs.classes and at_most(graphs.take(chosen)) > config.max_bytes:
        chosen = chosen[:-1]
    made = graphs.take(chosen[np.argsort(graphs.labels[chosen], kind="stable")])
    if at_most(made) > config.max_bytes:
        raise UserError(f"--max-bytes {config.max_bytes}: one graph of each class may have {at_most(made)}; allow more")
    if pairs_of(made) > MOST_PAIRS:
        raise UserError(
            f"--max-bytes {config.max_bytes}: so many graphs have {pairs_of(made):,} pairs of nodes, at most "
            f"{MOST_PAIRS:,} can be learned; allow fewer bytes"
        )
    return made


def at_most(graphs: GraphSet) -> int:
    """Bytes that graphs of these sizes have at most, whatever their labels and ends of edges are."""
    nodes, edges = graphs.node_labels.copy(), graphs.edge_labels.copy()
    nodes[:1], edges[:1] = np.array(graphs.node_sizes) - 1, np.array(graphs.edge_sizes) - 1
    ends = graphs.edges.copy()
    ends[:1] = graphs.nodes_per_graph.max() - 1
    widest = GraphSet(**{**vars_of(graphs), "node_labels": nodes, "edge_labels": edges, "edges": ends})
    return widest.bytes


def vars_of(graphs: GraphSet) -> dict[str, Any]:
    """The fields of a set by name."""
    return {name: getattr(graphs, name) for name in GraphSet.__dataclass_fields__}


class DosCond(GraphMethod[DosCondConfig]):
    """One-step gradient matching of graphs."""

    config_class = DosCondConfig
    facts = Facts(
        title="DosCond",
        line="graphs: edges and labels whose gradients in fresh networks are those of real graphs",
        family="graph distillation",
        protocol="graph-v1",
        paper="Condensing Graphs via One-Step Gradient Matching",
        authors=(
            "Wei Jin",
            "Xianfeng Tang",
            "Haoming Jiang",
            "Zheng Li",
            "Danqing Zhang",
            "Jiliang Tang",
            "Bing Yin",
        ),
        venue="KDD",
        year=2022,
        arxiv="2206.07746",
        code="https://github.com/amazon-science/doscond",
        licence="Apache-2.0",
    )

    @classmethod
    def check(cls, config: DosCondConfig, context: Context) -> None:
        """As every method's, and first graphs within the budget."""
        super().check(config, context)
        first_graphs(config, training_graphs(context), context.seed)

    @property
    def iterations(self) -> int:
        """Steps."""
        return self.config.iterations

    @property
    def budget(self) -> Budget:
        """The bytes that are allowed."""
        return Budget("bytes", self.config.max_bytes)

    @property
    def payload(self) -> GraphSet:
        """The likeliest graphs."""
        return self.graphs.whole()

    def setup(self) -> None:
        """First graphs, Adam, the real graphs of each class."""
        config, real = self.config, training_graphs(self.context)
        first = first_graphs(config, real, self.context.seed)
        self.graphs = RelaxedGraphs(first, config.sure)
        self._share = float((first.edges[:, 0] != first.edges[:, 1]).sum() / max(pairs_of(first), 1))
        self._ends = np.searchsorted(first.labels, np.arange(first.classes + 1)).tolist()
        edges, *labels = self.graphs.logits
        groups: list[dict[str, Any]] = [{"params": [edges], "lr": config.lr_edges}]
        self._adam = light(torch.optim.Adam)([*groups, {"params": labels, "lr": config.lr_labels}])
        self._real = graph_items(real)
        self._by_class = [np.flatnonzero(real.labels == label) for label in range(real.classes)]

    def step(self, iteration: int) -> dict[str, float]:
        """One step; returns the matching loss and the mean probability of an edge."""
        config, seed, graphs = self.config, self.context.seed, self.graphs
        net = self._network(iteration)
        temperature = max(config.coldest ** (iteration / config.cooling), config.coldest)
        draw = graphs.draw(temperature, seeds.generator(seed, "doscond-draw", iteration))
        pairs = [
            ClassPair(label, self._batch(iteration, label, config.batch_real), graphs.batch(begin, end, draw))
            for label, (begin, end) in enumerate(pairwise(self._ends))
        ]
        matching = matching_loss(net, list(net.parameters()), pairs, KINDS[config.metric])
        loss = matching + config.density * density_excess(graphs.edge_logits, self._share)
        found = torch.autograd.grad(loss, graphs.logits, materialize_grads=True)
        if not (bool(torch.isfinite(loss)) and all(bool(torch.isfinite(one).all()) for one in found)):
            raise NotFiniteError(f"the loss is {float(loss.detach()):g}; likely cause: too low a --coldest")
        for group, rate in zip(self._adam.param_groups, (config.lr_edges, config.lr_labels), strict=True):
            group["lr"] = rate * (0.1 if iteration >= config.drop_at else 1)
        for logits, gradient in zip(graphs.logits, found, strict=True):
            logits.grad = gradient
        self._adam.step()
        return {"loss": float(matching.detach()), "edges": float(graphs.edge_logits.detach().sigmoid().mean())}

    def _network(self, iteration: int) -> GraphStudent:
        """A fresh student; batch norms keep the statistics of some real graphs of all classes."""
        first = self.graphs.first
        seed = seeds.derive(self.context.seed, "doscond-network", iteration)
        net = build_student(self.context.student, first.node_sizes, first.edge_sizes, first.classes, seed)
        norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
        if norms:
            chosen = np.concatenate([self._chosen(iteration, label, NORM_GRAPHS) for label in range(first.classes)])
            with torch.no_grad():
                net(self._real.batch(chosen))
        for norm in norms:
            norm.eval()
        return net

    def _batch(self, iteration: int, label: int, size: int) -> GraphBatch:
        """Real graphs of a class."""
        return self._real.batch(self._chosen(iteration, label, size))

    def _chosen(self, iteration: int, label: int, size: int) -> Ints:
        own = self._by_class[label]
        if len(own) <= size:
            return own
        generator = seeds.generator(self.context.seed, "doscond-real", iteration, label)
        chosen: Ints = own[torch.randperm(len(own), generator=generator)[:size].numpy()]
        return chosen

    def state(self) -> State:
        """Logits and Adam's moments."""
        names = ("edges", "node_labels", "edge_labels")
        logits = {name: one.detach() for name, one in zip(names, self.graphs.logits, strict=True)}
        return State(tensors={**logits, **optimizer_state(self._adam, "adam")})

    def load_state(self, state: State) -> None:
        """Take them over.

        Raises:
            KeyError, RuntimeError, ValueError: they are of other graphs.
        """
        with torch.no_grad():
            for name, one in zip(("edges", "node_labels", "edge_labels"), self.graphs.logits, strict=True):
                if state.tensors[name].shape != one.shape:
                    raise ValueError(f"{name} has shape {list(state.tensors[name].shape)}, expected {list(one.shape)}")
                one.copy_(state.tensors[name])
        load_optimizer_state(self._adam, "adam", state.tensors)
