"""Images: every answer is a function that the rooms below have. Imports no torch at module level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ddbench.modalities.base import Modality, RunFacts, SynsetFacts, Tested, provenance_of
from ddbench.networks.names import default_student, expand_students, parse_student
from ddbench.protocols.protocol import LATER, PROTOCOLS, Protocol, changed, protocol
from ddbench.provenance import hard_label_bytes
from ddbench.runtime.errors import UserError

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset, Split
    from ddbench.data.preprocess import Preprocess
    from ddbench.measurements.suite import Choice
    from ddbench.methods.base import Method
    from ddbench.protocols.plan import Plan
    from ddbench.protocols.training import Settings
    from ddbench.synset import Synset
    from ddbench.teachers.store import Teacher


WIDEST = 112
"""Side in px of an image in the picture of a dataset."""


class ImageModality(Modality):
    """Images of one shape with a class each."""

    name = "image"
    items = "images"
    unit = "ipc"
    usual_protocol = "hard-v1"
    run_defaults: ClassVar[Mapping[str, Any]] = {"preprocess": "meanstd", "holdout": 0.1}
    metrics: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "accuracy": {"unit": "fraction", "better": "higher", "title": "Test accuracy"}
    }
    forecasts = True
    setting_names = frozenset(Protocol.__dataclass_fields__) - {"name"}
    later = LATER

    def device(self, asked: str, compile: str) -> str:
        return asked

    def survey(self, dataset: Dataset) -> Iterable[str]:
        from ddbench.data.survey import survey

        return survey(dataset).lines()

    def first_items(self, dataset: Dataset) -> bytes:
        from ddbench.data.survey import first_images
        from ddbench.preview import MAX_COLUMNS, MAX_ROWS, grid, png

        classes = dataset.spec.classes
        images, labels = first_images(dataset.train, min(classes, MAX_ROWS), MAX_COLUMNS, WIDEST)
        return png(grid(images, labels, classes))

    def small_budget(self, dataset: Dataset) -> str:
        return "--ipc 1"

    def run_student(self, student: str | None, dataset: Dataset) -> str:
        return str(parse_student(student)) if student else default_student(dataset.spec.size)

    def split(self, kind: type[Method[Any]], dataset: Dataset, said: RunFacts) -> tuple[Split, Split]:
        from ddbench.data.dataset import holdout_split, validation_sample
        from ddbench.methods.base import check_ipc
        from ddbench.networks.check import check_student

        spec = dataset.spec
        check_student(said.student, spec.channels, spec.size)
        train, held_out = holdout_split(dataset.train, said.holdout, spec.classes, dataset.root, names=spec.class_names)
        if said.validate_every and not len(held_out.labels):
            raise UserError(
                "--validate-every needs held-out training images: give --holdout 0.1 (experts then need it too), or "
                "--validate-every 0"
            )
        if kind.unit == "ipc":
            check_ipc(said.ipc, train, spec.classes, spec.class_names, distinct=kind.distinct)
        return train, validation_sample(held_out)

    def preprocess(self, dataset: Dataset, kind: str, root: Path | None) -> Preprocess:
        from ddbench.data.preprocess import fit_preprocess

        return fit_preprocess(dataset, kind, root)

    def synset(self, method: Method[Any], resolved: Mapping[str, Any]) -> Synset:
        from ddbench.methods.returned import product_of
        from ddbench.synset import Synset

        return Synset(
            **vars(product_of(method)),
            preprocess=resolved["preprocess"],
            augmentation=method.augmentation,
            **provenance_of(method, resolved),
        )

    def check_format(self, path: Path, synset: Synset) -> None:
        from ddbench.synset import check_synset

        check_synset(path, synset)

    def write(self, path: Path, synset: Synset) -> None:
        from ddbench.synset import write_synset

        write_synset(path, synset)

    def preview(self, synset: Synset, preprocess: Preprocess) -> bytes:
        from ddbench.preview import preview_png

        return preview_png(synset, preprocess)

    def read(self, path: Path) -> Synset:
        from ddbench.synset import read_synset

        return read_synset(path)

    def protocol(self, name: str) -> Protocol:
        return protocol(name)

    def changed(self, base: Protocol, **settings: Any) -> tuple[Protocol, dict[str, Any]]:
        return changed(base, **settings)

    def check_asked(self, asked: Any) -> None:
        """Every wish can be one about images."""

    def students(self, text: str) -> tuple[str, ...]:
        return expand_students(text)

    def default_student(self, synset: Synset) -> str:
        return default_student(synset.images.shape[2])

    def check_student(self, name: str, synset: Synset | None = None) -> None:
        from ddbench.networks.check import check_student

        if synset is None:
            parse_student(name)
        else:
            check_student(name, synset.images.shape[1], synset.images.shape[2])

    def pixels(self, synset: Synset) -> int:
        return synset.images.shape[2]

    def side(self, synset: Synset, asked: int | None) -> int | None:
        from ddbench.data.specs import size_to_load

        return size_to_load(synset.dataset, synset.images.shape[2], asked)

    def teacher(
        self, protocol: Protocol, synset: Synset, path: Path, given: Path | None, root: Path, begun: Sequence[Path]
    ) -> Teacher | None:
        from ddbench.protocols.teacher import protocol_teacher

        return protocol_teacher(protocol, synset, given=given, root=root, path=path, begun=begun)

    def open(
        self, path: Path, sha256: str, data: Path | None, size: int | None, teacher: Path | None, labels: Path | None
    ) -> tuple[Plan, Dataset]:
        from ddbench.data.load import load_dataset
        from ddbench.protocols.labels import read_labels
        from ddbench.protocols.plan import Plan
        from ddbench.synset import check_against, read_synset
        from ddbench.teachers.store import read_teacher

        content = read_synset(path)
        dataset = load_dataset(content.dataset, data, size=size)
        plan = Plan(
            synset=content,
            protocol=Protocol(name="none"),
            preprocess=check_against(path, content, dataset),
            flip=dataset.spec.flip,
            teacher=read_teacher(teacher) if teacher else None,
            stored=read_labels(labels) if labels else None,
            synset_sha256=sha256,
        )
        return plan, dataset

    def check(
        self,
        plan: Plan,
        dataset: Dataset,
        students: Sequence[str],
        seeds: Sequence[int],
        choices: Sequence[Choice],
    ) -> None:
        from ddbench.networks.check import check_student
        from ddbench.protocols.plan import check_plan

        for student in students:
            check_student(student, dataset.spec.channels, dataset.spec.size)
        check_plan(plan, dataset)

    def train_and_test(
        self,
        plan: Plan,
        dataset: Dataset,
        student: str,
        seeds: Sequence[int],
        settings: Settings,
        lr: float | None,
        max_images: int | None,
    ) -> list[Tested]:
        from ddbench.data.dataset import balanced
        from ddbench.protocols.training import diverged, tested_students, trained_students

        count = len(dataset.test) if max_images is None else max_images
        test = balanced(dataset.test, count, dataset.spec.classes)
        nets, compiler = trained_students(plan, student, seeds, settings, lr, tests=len(test))
        by_seed = dict(zip(seeds, nets, strict=True))
        scores = tested_students(plan, test, by_seed, settings, compiler)
        return [
            Tested(seed, net, diverged(plan, student, lr) if score is None else score)
            for (seed, net), score in zip(by_seed.items(), scores, strict=True)
        ]

    def alone(self, plan: Plan, student: str, settings: Settings) -> str | None:
        from ddbench.protocols.training import alone, fresh_student
        from ddbench.runtime.device import resolve_device

        return alone(plan, fresh_student(plan, student, 0).to(resolve_device(settings.device)))

    def describe(self, plan: Plan, dataset: Dataset) -> dict[str, Any]:
        from ddbench.protocols.plan import one_rate
        from ddbench.protocols.storage import storage

        synset, lr = plan.synset, one_rate(plan.synset)
        bound = plan.protocol.replay and synset.schedule is not None and synset.schedule.fixed is not None
        return {
            "method": synset.method,
            "dataset": synset.dataset,
            "dataset_fingerprint": synset.fingerprint,
            "modality": synset.modality,
            "budget": {"unit": synset.budget.unit, "value": synset.budget.value},
            "classes": synset.classes,
            "shape": list(synset.images.shape[1:]),
            "images": len(synset.labels),
            "decoded_images": synset.decoded_images,
            "label_kind": self.label_kind(plan.protocol, synset.label_kind),
            "student": synset.student,
            "seed": synset.seed,
            "preprocess": synset.preprocess,
            "config": synset.config,
            "learned_lr": None if lr is None else float(lr),
            "bytes": storage(plan, dataset),
            **({"fixed_network": True} if bound else {}),
        }

    def count(self, synset: Synset) -> int:
        return synset.decoded_images

    def rate(self, plan: Plan, student: str) -> tuple[float, str]:
        from ddbench.protocols.plan import learned_rate, rate_of

        replayed = plan.protocol.replay and plan.synset.learned_lr is not None
        learned = replayed or learned_rate(plan.synset, plan.protocol) is not None
        return rate_of(plan, student), "synset" if learned else "protocol"

    def protocol_from(self, name: str, settings: Mapping[str, Any]) -> Protocol:
        return changed(Protocol(name=name), **settings)[0]

    def standard(self, name: str) -> Protocol | None:
        return PROTOCOLS.get(name, "protocol") if name in PROTOCOLS else None

    def work(self, protocol: Protocol) -> int:
        return max(protocol.epochs, protocol.full_epochs)

    def words(self, count: int, shape: Sequence[int]) -> str:
        return f"{count:,} images of {' × '.join(map(str, shape))}"

    def side_of_row(self, said: SynsetFacts) -> int | None:
        from ddbench.data.specs import size_to_load

        return size_to_load(said.dataset, said.shape[-1])

    def real_settings(
        self, dataset: Dataset, preprocess: Mapping[str, Any], config: Mapping[str, Any]
    ) -> tuple[str | None, float | None]:
        from ddbench.data.specs import preprocess_kind

        kind = preprocess_kind(preprocess, (dataset.spec.mean, dataset.spec.std))
        holdout = config.get("holdout", self.run_defaults["holdout"])
        good = isinstance(holdout, int | float) and 0 <= holdout <= 0.9
        return kind, (float(holdout) if good else None)

    label_kinds = ("hard", "soft", "targets")

    def label_kind(self, protocol: Protocol, own: str) -> str:
        kinds = {"once": "teacher", "teacher": "teacher", "stored": "teacher", "hard": "hard"}
        return kinds.get(protocol.labels, own)

    def stored(
        self, tensors: Mapping[str, tuple[str, list[int], int]], header: Mapping[str, Any], protocol: Protocol
    ) -> dict[str, Any]:
        _, shape, size = tensors.get("images", ("none", [], 0))
        decoder = header.get("decoder")
        if not shape and isinstance(decoder, dict):  # parameters, of which it makes images
            made = decoder.get("shape")
            shape = [*tensors.get("labels", ("none", [], 0))[1][:1], *(made if isinstance(made, list) else [])]
            size = sum(one[2] for name, one in tensors.items() if name not in ("labels", "lr", "stage"))
        return {
            "images": shape[0] if shape else None,
            "shape": shape[1:],
            "preprocess": header.get("preprocess"),
            "bytes.images": size,
            **_labels(tensors, header, protocol, self),
        }


def _labels(
    tensors: Mapping[str, tuple[str, list[int], int]], header: Mapping[str, Any], protocol: Protocol, kind: Modality
) -> dict[str, Any]:
    """What a row must say of the labels of a file, and of its learned rates and stages."""
    dtype, shape, size = tensors.get("labels", ("none", [], 0))
    own, names, schedule = header.get("label_kind"), header.get("class_names"), header.get("schedule")
    if own not in kind.label_kinds or (own == "hard") != (dtype == "I64") or not shape:
        return {"label_kind": None}
    count, classes = shape[0], len(names) if isinstance(names, list) else 0
    said: dict[str, Any] = {"label_kind": kind.label_kind(protocol, own)}
    if header.get("decoder") is None:  # how many images another one makes only it knows
        said["decoded_images"] = count
    if protocol.labels != "once":
        said["bytes.labels"] = hard_label_bytes(count, classes) if own == "hard" else size
    elif "decoded_images" in said:
        said["bytes.labels"] = 4 * count * classes
    if not (protocol.replay and isinstance(schedule, dict) and schedule.get("fixed") is not None):
        said["bytes.other"] = sum(tensors[name][2] for name in ("lr", "stage") if name in tensors)
    if "lr" not in tensors or tensors["lr"][1]:
        said["learned_lr"] = None
    if protocol.labels != "teacher":
        said["bytes.teacher"] = 0
    said["bytes.augmentation"] = 8 if protocol.labels == "stored" else 0
    return said
