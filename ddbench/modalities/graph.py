"""Graphs: sets of small labelled graphs with a class each (:mod:`ddbench.graphs`). Imports no torch at module level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ddbench.graphs.names import parse_student
from ddbench.graphs.protocols import PROTOCOLS, GraphProtocol
from ddbench.modalities.base import Modality, RunFacts, SynsetFacts, Tested, provenance_of
from ddbench.registry import unknown
from ddbench.runtime.errors import UserError

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset, Split
    from ddbench.graphs.dataset import GraphDataset
    from ddbench.measurements.suite import Choice
    from ddbench.methods.base import Method
    from ddbench.modalities.graph_synset import GraphSynset
    from ddbench.protocols.training import Settings

STUDENT = "gin-d2-w64-mean"
"""Where none is named: mean pooling, since a sum tells the number of nodes."""

NOT_ASKED = (
    "epochs",
    "lr",
    "augmentation",
    "label_smoothing",
    "mixup",
    "focal_gamma",
    "lr_source",
    "teacher",
    "labels",
    "calibration",
    "robustness",
    "corruptions",
    "ood",
    "corruption_reference",
    "max_images",
    "keep_weights",
    "precision",
    "at_once",
    "size",
)
"""Wishes that only images have an answer to."""


@dataclass(frozen=True)
class NoPreprocess:
    """Graphs are network input as they are."""

    def to_json(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}


@dataclass(frozen=True, kw_only=True)
class GraphPlan:
    """A synset and the protocol that it is learned by."""

    synset: GraphSynset
    protocol: GraphProtocol
    teacher: ClassVar[None] = None
    stored: ClassVar[None] = None

    @property
    def epochs(self) -> int:
        """Updates."""
        return self.protocol.updates


class GraphModality(Modality):
    """Graphs with discrete labels of nodes and edges."""

    name = "graph"
    items = "graphs"
    unit = "bytes"
    usual_protocol = "graph-v1"
    run_defaults: ClassVar[Mapping[str, Any]] = {"preprocess": "none", "holdout": 0.0}
    metrics: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "accuracy": {"unit": "fraction", "better": "higher", "title": "Test accuracy"},
        "roc_auc": {"unit": "fraction", "better": "higher", "title": "Test ROC-AUC"},
    }
    forecasts = False
    cpu_only = True
    setting_names = frozenset(GraphProtocol.__dataclass_fields__) - {"name"}
    later = ()

    def device(self, asked: str, compile: str) -> str:
        wrong = f"--device {asked}" if asked.startswith("cuda") else "--compile on" if compile == "on" else ""
        if wrong:
            raise UserError(f"{wrong}: work on graphs is done on the CPU, without a compiler; leave it out")
        return "cpu" if asked == "auto" else asked

    def survey(self, dataset: GraphDataset) -> Iterable[str]:
        from ddbench.graphs.survey import survey_lines

        return survey_lines(dataset)

    def first_items(self, dataset: GraphDataset) -> bytes:
        from ddbench.graphs.survey import first_graphs

        return first_graphs(dataset)

    def small_budget(self, dataset: GraphDataset) -> str:
        return f"--max-bytes {-(-dataset.train.graphs.bytes // 10)}"

    def run_student(self, student: str | None, dataset: Dataset) -> str:
        parse_student(student or STUDENT)
        return student or STUDENT

    def split(self, kind: type[Method[Any]], dataset: Dataset, said: RunFacts) -> tuple[Split, Split]:
        from ddbench.graphs.dataset import GraphDataset

        assert isinstance(dataset, GraphDataset)
        name = dataset.spec.name
        wrong = (
            f"--ipc {said.ipc}: a budget of {name} is in bytes; use --max-bytes"
            if said.ipc
            else f"--holdout {said.holdout:g}: {name} has a validation part of its own; leave it out"
            if said.holdout
            else f"--preprocess {said.preprocess}: graphs have none; leave it out"
            if said.preprocess != "none"
            else f"--validate-every {said.validate_every}: for images only; leave it out"
            if said.validate_every
            else ""
        )
        if wrong:
            raise UserError(wrong)
        return dataset.train, dataset.valid

    def preprocess(self, dataset: Dataset, kind: str, root: Path | None) -> NoPreprocess:
        return NoPreprocess()

    def synset(self, method: Method[Any], resolved: Mapping[str, Any]) -> GraphSynset:
        from ddbench.graphs.store import Payload
        from ddbench.methods.families.graphs import GraphMethod
        from ddbench.methods.returned import wrong
        from ddbench.modalities.graph_synset import GraphSynset

        if not isinstance(method, GraphMethod):
            raise wrong(method, "the class", type(method), "ddbench.methods.families.graphs.GraphMethod")
        payload = method.payload
        if not isinstance(payload, Payload):
            raise wrong(method, "payload", payload, "ddbench.graphs.store.Payload")
        return GraphSynset(payload=payload, **provenance_of(method, resolved))

    def check_format(self, path: Path, synset: GraphSynset) -> None:
        from ddbench.modalities.graph_synset import check_graph_synset

        check_graph_synset(path, synset)

    def write(self, path: Path, synset: GraphSynset) -> None:
        from ddbench.modalities.graph_synset import write_graph_synset

        write_graph_synset(path, synset)

    def preview(self, synset: GraphSynset, preprocess: NoPreprocess) -> bytes:
        from ddbench.graphs.picture import picture

        return picture(synset.payload)

    def read(self, path: Path) -> GraphSynset:
        from ddbench.modalities.graph_synset import read_graph_synset

        return read_graph_synset(path)

    def protocol(self, name: str) -> GraphProtocol:
        from ddbench.protocols.protocol import PROTOCOLS as OF_IMAGES

        if name in OF_IMAGES and name not in PROTOCOLS:
            raise UserError(f"--protocol {name}: it is for images, these are graphs; one of: {', '.join(PROTOCOLS)}")
        if name not in PROTOCOLS:
            raise unknown("protocol for graphs", name, PROTOCOLS, "--protocol")
        return PROTOCOLS[name]

    def changed(self, base: GraphProtocol, **settings: Any) -> tuple[GraphProtocol, dict[str, Any]]:
        return base, {}

    def check_asked(self, asked: Any) -> None:
        for name in NOT_ASKED:
            value = getattr(asked, name)
            if value != getattr(type(asked), name):  # where a dataclass keeps its defaults
                flag = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
                raise UserError(f"{flag}: for images only, but the synset has modality 'graph'; leave it out")

    def students(self, text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        for name in names:
            parse_student(name)
        return names

    def default_student(self, synset: GraphSynset) -> str:
        return STUDENT

    def check_student(self, name: str, synset: GraphSynset | None = None) -> None:
        parse_student(name)

    def pixels(self, synset: GraphSynset) -> int:
        return 0

    def side(self, synset: GraphSynset, asked: int | None) -> None:
        return None

    def teacher(
        self,
        protocol: GraphProtocol,
        synset: GraphSynset,
        path: Path,
        given: Path | None,
        root: Path,
        begun: Sequence[Path],
    ) -> None:
        return None

    def open(
        self, path: Path, sha256: str, data: Path | None, size: int | None, teacher: Path | None, labels: Path | None
    ) -> tuple[GraphPlan, GraphDataset]:
        from ddbench.data.load import load_dataset
        from ddbench.graphs.dataset import GraphDataset
        from ddbench.modalities.graph_synset import check_graphs_against

        synset = self.read(path)
        dataset = load_dataset(synset.dataset, data, modality=self.name)
        assert isinstance(dataset, GraphDataset)
        check_graphs_against(path, synset, dataset)
        return GraphPlan(synset=synset, protocol=PROTOCOLS[self.usual_protocol]), dataset

    def check(
        self,
        plan: GraphPlan,
        dataset: GraphDataset,
        students: Sequence[str],
        seeds: Sequence[int],
        choices: Sequence[Choice],
    ) -> None:
        from ddbench.graphs.scoring import learned_items
        from ddbench.graphs.splits import check_choice, check_scored
        from ddbench.graphs.training import check_batches

        for student in students:
            parse_student(student)
        if choices:
            raise UserError(f"--{choices[0].kind}: measures images only; leave it out")
        name, test, valid = dataset.spec.name, dataset.test.graphs, dataset.valid.graphs
        check_scored(name, test.labels, test.classes)
        items = learned_items(plan.synset.payload)
        if items is None:
            return
        if plan.protocol.choice == "validation":
            check_choice(name, valid.labels, plan.protocol.name)
        for student in students:
            for seed in seeds:
                check_batches(student, items, plan.protocol, seed)

    def train_and_test(
        self,
        plan: GraphPlan,
        dataset: GraphDataset,
        student: str,
        seeds: Sequence[int],
        settings: Settings,
        lr: float | None,
        max_images: int | None,
    ) -> list[Tested]:
        from ddbench.graphs.scoring import scored
        from ddbench.graphs.training import DivergedError

        made = []
        for seed in seeds:
            try:
                found = scored(plan.synset.payload, dataset, student, plan.protocol, seed)
            except DivergedError as error:
                made.append(Tested(seed, None, str(error)))
                continue
            made.append(Tested(seed, None, {"accuracy": found.accuracy, "roc_auc": found.auc}))
        return made

    def describe(self, plan: GraphPlan, dataset: GraphDataset) -> dict[str, Any]:
        synset, payload, train = plan.synset, plan.synset.payload, dataset.train.graphs
        labels = payload.packed()["labels"].nbytes
        return {
            "method": synset.method,
            "dataset": synset.dataset,
            "dataset_fingerprint": synset.fingerprint,
            "modality": synset.modality,
            "budget": {"unit": synset.budget.unit, "value": synset.budget.value},
            "classes": synset.classes,
            "shape": _shape(payload.node_sizes, payload.edge_sizes),
            "images": len(payload),
            "decoded_images": len(payload),
            "label_kind": self.label_kind(plan.protocol, "hard"),
            "student": synset.student,
            "seed": synset.seed,
            "preprocess": {},
            "config": synset.config,
            "learned_lr": None,
            "bytes": {
                "images": payload.bytes - labels,
                "labels": labels,
                "augmentation": 0,
                "teacher": 0,
                "other": 0,
                "total": payload.bytes,
                "real": train.bytes,
                "real_images": len(train),
            },
        }

    def count(self, synset: GraphSynset) -> int:
        return len(synset.payload)

    def rate(self, plan: GraphPlan, student: str) -> tuple[float, str]:
        return plan.protocol.lr, "protocol"

    def protocol_from(self, name: str, settings: Mapping[str, Any]) -> GraphProtocol:
        found = PROTOCOLS.get(name)
        if found is None:
            raise UserError(f"protocol {name!r:.60} is none for graphs: {', '.join(PROTOCOLS)}")
        if set(settings) != set(found.settings()):
            raise UserError(f"{', '.join(sorted(set(settings) ^ set(found.settings())))[:80]}: expected its settings")
        return found

    def standard(self, name: str) -> GraphProtocol | None:
        return PROTOCOLS.get(name)

    def work(self, protocol: GraphProtocol) -> int:
        return protocol.updates

    def words(self, count: int, shape: Sequence[int]) -> str:
        edges = f", {shape[1]} an edge" if len(shape) > 1 else ""
        return f"{count:,} items; {shape[0]} label(s) a node{edges}"

    def side_of_row(self, said: SynsetFacts) -> None:
        return None

    def real_settings(
        self, dataset: Dataset, preprocess: Mapping[str, Any], config: Mapping[str, Any]
    ) -> tuple[str | None, float | None]:
        return self.run_defaults["preprocess"], self.run_defaults["holdout"]

    label_kinds = ("hard",)

    def label_kind(self, protocol: GraphProtocol, own: str) -> str:
        return "hard"

    def stored(
        self, tensors: Mapping[str, tuple[str, list[int], int]], header: Mapping[str, Any], protocol: GraphProtocol
    ) -> dict[str, Any]:
        _, shape, labels = tensors.get("labels", ("none", [], 0))
        facts = header.get("graphs")
        sizes = [facts.get(name) for name in ("node_sizes", "edge_sizes")] if isinstance(facts, dict) else [None, None]
        return {
            "images": shape[0] if shape else None,
            "shape": _shape(*sizes) if all(isinstance(one, list) for one in sizes) else None,
            "decoded_images": shape[0] if shape else None,
            "preprocess": header.get("preprocess"),
            "label_kind": "hard",
            "bytes.labels": labels,
            "bytes.augmentation": 0,
            "bytes.teacher": 0,
            "bytes.other": 0,
            "learned_lr": None,
            "bytes.images": sum(size for name, (_, _, size) in tensors.items() if name != "labels"),
        }


def _shape(node_sizes: Sequence[int] | Any, edge_sizes: Sequence[int] | Any) -> list[int]:
    """Columns of labels of a node, and of an edge where it has any."""
    return [count for count in (len(node_sizes), len(edge_sizes)) if count]
