"""A synset of graphs: whole graphs, sets of trees, or a reference, in one file that a stranger can score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddbench.graphs.dataset import GraphDataset
from ddbench.graphs.store import Payload, facts_of, read_form, tensors_of
from ddbench.runtime.errors import UserError
from ddbench.runtime.tensors import open_tensors, write_tensors
from ddbench.synset import KIND, SCHEMA, Provenance, provenance

UNITS = ("bytes", "all")
"""Of a budget; a reference holds nothing of the real set and so fits every one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphSynset(Provenance):
    """A distilled set of graphs and its provenance.

    Attributes:
        payload: what a student learns from.
    """

    payload: Payload
    modality: str = "graph"

    def header(self) -> dict[str, Any]:
        """The JSON header of the file."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "modality": self.modality,
            "graphs": facts_of(self.payload),
            "label_kind": "hard",
            "preprocess": {},
            "budget": {"unit": self.budget.unit, "value": self.budget.value},
            "dataset": self.dataset,
            "dataset_fingerprint": self.fingerprint,
            "class_names": list(self.class_names),
            "method": self.method,
            "config": self.config,
            "seed": self.seed,
            "student": self.student,
            "versions": self.versions,
            "parents": self.parents,
        }


def write_graph_synset(path: Path, synset: GraphSynset) -> None:
    """Check and write a synset atomically; the same set gives the same bytes.

    Raises:
        UserError: it breaks the format, or the disk refuses.
    """
    check_graph_synset(path, synset)
    write_tensors(path, tensors_of(synset.payload), synset.header())


def read_graph_synset(path: Path) -> GraphSynset:
    """Read and check a synset of graphs; nothing in it is trusted.

    Raises:
        UserError: truncated, foreign, newer, of images, or with contents out of shape or range.
    """
    with open_tensors(path, KIND, SCHEMA) as (handle, header):
        if header.get("modality") != "graph":
            raise UserError(f"{path}: modality {header.get('modality')!r:.60}: this works on graphs only")
        payload = read_form(path, handle, header.get("graphs"))
    made = GraphSynset(payload=payload, **provenance(path, header))
    check_graph_synset(path, made)
    return made


def check_graph_synset(path: Path, synset: GraphSynset) -> None:
    """Refuse a synset that breaks the format.

    Raises:
        UserError: an unknown budget, one that it does not keep, another number of classes, a class without an item.
    """
    budget, payload = synset.budget, synset.payload
    if budget.unit not in UNITS or budget.value < 1:
        raise UserError(f"{path}: budget {budget.unit!r:.60} {budget.value}, expected a number of {' or '.join(UNITS)}")
    if budget.unit == "bytes" and payload.bytes > budget.value:
        raise UserError(f"{path}: {payload.bytes:,} bytes for a budget of {budget.value:,}")
    if budget.unit == "all" and len(payload) != budget.value:
        raise UserError(f"{path}: {len(payload)} graphs for a budget of all {budget.value}")
    if payload.classes != synset.classes:
        raise UserError(f"{path}: graphs of {payload.classes} classes, its header names {synset.classes}")
    missing = np.setdiff1d(np.arange(payload.classes), payload.labels)
    if len(missing):
        raise UserError(f"{path}: no item of class {missing[0]}; the file is damaged")


def check_graphs_against(path: Path, synset: GraphSynset, dataset: GraphDataset) -> None:
    """Make sure that a synset belongs to a dataset.

    Raises:
        UserError: another dataset, other classes, or labels of other kinds.
    """
    name, train = dataset.spec.name, dataset.train.graphs
    if synset.fingerprint != dataset.fingerprint:
        raise UserError(
            f"{path}: made for {synset.dataset} with fingerprint {synset.fingerprint[:12]}, but the {name} data here "
            f"has {dataset.fingerprint[:12]}: other graphs, order or split; use the data it was made for"
        )
    for what in ("classes", "node_sizes", "edge_sizes"):
        if getattr(synset.payload, what) != getattr(train, what):
            raise UserError(f"{path}: its {what} are {getattr(synset.payload, what)}, of {name} {getattr(train, what)}")
    if synset.class_names != dataset.spec.class_names:
        raise UserError(f"{path}: its class names are not those of {name}")
