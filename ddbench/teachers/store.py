"""Teachers: networks trained on real data that label views of synsets and give features; one file each.

``ROOT/<dataset>/<student>/<key>.safetensors`` holds every parameter and buffer under its name; the JSON header says
what it was trained on, how, and how well it does. How teachers are trained is in :mod:`ddbench.teachers.train`.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from ddbench.data.dataset import Dataset
from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import DatasetSpec, dataset_flags, kept_at, may_be_same, slug_patterns
from ddbench.networks.base import Student
from ddbench.networks.build import parameter_count
from ddbench.networks.names import default_student, parse_student
from ddbench.runtime.errors import UserError, read_each
from ddbench.runtime.files import file_hash, read_bytes
from ddbench.runtime.signs import TURN
from ddbench.runtime.tensors import open_tensors, read_finite, write_tensors
from ddbench.teachers.remedy import checkpoint_file as checkpoint_file
from ddbench.teachers.remedy import files_like
from ddbench.teachers.remedy import teacher_files as teacher_files
from ddbench.teachers.together import JOIN, build_together, check_member_records, check_together

KIND = "ddbench-teacher"
SCHEMA = 1

PENALTY_FIELDS = ("penalty", "penalty_weight", "penalty_step")
"""Fields of a recipe that only a penalised teacher has."""

MAX_BYTES = 4 * 2**30
MAX_SIDE = 1024
MAX_CHANNELS = 16
MAX_CLASSES = 100_000


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained network in a file.

    Attributes:
        path, sha256: the file and the hash of its bytes.
        student: name of the architecture.
        dataset, fingerprint, class_names: what it was trained on; logit k is class k.
        shape: ``(C, H, W)`` of its input.
        preprocess: how pixels become its input, as :meth:`Preprocess.to_json`.
        recipe: how it was trained (:meth:`ddbench.teachers.recipe.TeacherRecipe.to_json`).
        holdout: fraction of the training images that it never saw.
        accuracy: on the held-out images, a fraction; None when none were held out.
        test_accuracy: on the test images, measured once after the last epoch, a fraction.
        parameters: how many numbers were learned.
        bytes: its weights as float32: parameters, and the running statistics of its norms.
        members: references to the teachers that it was put together from (:mod:`ddbench.teachers.together`).
    """

    path: Path
    sha256: str
    student: str
    dataset: str
    fingerprint: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    preprocess: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    holdout: float
    accuracy: float | None
    test_accuracy: float
    parameters: int
    bytes: int
    members: tuple[dict[str, Any], ...] = ()

    def network(self, device: torch.device | str) -> Student:
        """The network on a device, in evaluation mode, its parameters without gradients.

        Raises:
            UserError: the file is not the one that was read.
        """
        if not self.path.exists():
            raise UserError(f"{self.path}: cannot read this teacher: it is gone")
        data = read_bytes(self.path, "teacher", MAX_BYTES)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise UserError(f"{self.path}: the file changed since it was read; repeat the command")
        channels, size, _ = self.shape
        net = build_together(self.student, channels=channels, size=size, classes=len(self.class_names))
        net.load_state_dict(load(data))
        return net.requires_grad_(False).to(device).eval()

    def reference(self) -> dict[str, Any]:
        """What a synset or a label file keeps of its teacher."""
        said = {
            "sha256": self.sha256,
            "student": self.student,
            "dataset_fingerprint": self.fingerprint,
            "test_accuracy": self.test_accuracy,
        }
        if not self.members:
            return said
        return {**said, "members": [{name: one.get(name) for name in said} for one in self.members]}


def default_teacher(size: int) -> str:
    """The student that teaches by default: the batch-norm twin of the field's ConvNet for images of this size in px."""
    return str(replace(parse_student(default_student(size)), norm="bn"))


def default_teachers(size: int) -> tuple[str, ...]:
    """Three that teach together by default: :func:`default_teacher`, the same a block shallower, and half as wide."""
    whole = parse_student(default_teacher(size))
    assert whole.depth is not None
    assert whole.width is not None
    shallow = replace(whole, depth=max(1, whole.depth - 1))
    return tuple(str(one) for one in (whole, shallow, replace(whole, width=whole.width // 2)))


def teacher_file(root: Path, dataset: str, student: str, key: str) -> Path:
    """Where a teacher belongs."""
    name = f"{key}.safetensors"
    begun = (checkpoint_file(Path(name)).name, f"{name}{TURN}")
    return kept_at(root, dataset, student, name, begun=begun)


def write_teacher(
    path: Path,
    net: nn.Module,
    *,
    dataset: Dataset,
    preprocess: Preprocess,
    student: str,
    recipe: dict[str, Any],
    curves: dict[str, list[float]],
    test_accuracy: float,
    versions: dict[str, str],
    members: Sequence[dict[str, Any]] = (),
) -> None:
    """Write a trained network.

    Args:
        members: references to the teachers that it is put together from.
        recipe: its settings, of which ``holdout``, ``preprocess`` and ``seed`` are looked at by readers.
        curves: ``loss``, ``train_accuracy`` and ``holdout_accuracy``, one entry an epoch.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    spec = dataset.spec
    header = {
        "kind": KIND,
        "schema": SCHEMA,
        "dataset": spec.name,
        "dataset_fingerprint": dataset.fingerprint,
        "class_names": list(spec.class_names),
        "student": student,
        "shape": list(spec.shape),
        "preprocess": preprocess.to_json(),
        "recipe": recipe,
        "seed": recipe["seed"],
        "curves": curves,
        "test_accuracy": test_accuracy,
        "versions": versions,
        **({"members": list(members)} if members else {}),
    }
    write_tensors(path, net.state_dict(), header)


def read_teacher(path: Path) -> Teacher:
    """Read and check a teacher file; nothing in it is trusted.

    Raises:
        UserError: truncated, foreign, newer, an unknown student, weights of other names or shapes, NaN, class names
            that are none; names the file and the value.
    """
    with open_tensors(path, KIND, SCHEMA) as (handle, header):
        student, shape, names = _architecture(path, header)
        net = _skeleton(student, shape, len(names))
        floats = _check_weights(path, handle, net, student)
        recipe = _get(path, header, "recipe", dict)
        holdout = _fraction(path, "recipe.holdout", recipe.get("holdout"))
        curves = _get(path, header, "curves", dict)
        held_out = curves.get("holdout_accuracy")
        if not isinstance(held_out, list):
            raise UserError(f"{path}: field 'curves.holdout_accuracy' is missing or not a list; the file is damaged")
        preprocess = _get(path, header, "preprocess", dict)
        _check_preprocess(path, preprocess, shape)
        return Teacher(
            path=path,
            sha256=file_hash(path),
            student=student,
            dataset=_get(path, header, "dataset", str),
            fingerprint=_get(path, header, "dataset_fingerprint", str),
            class_names=names,
            shape=shape,
            preprocess=preprocess,
            recipe=recipe,
            holdout=holdout,
            accuracy=_fraction(path, "curves.holdout_accuracy", held_out[-1]) if held_out else None,
            test_accuracy=_fraction(path, "test_accuracy", header.get("test_accuracy")),
            parameters=parameter_count(net),
            bytes=4 * floats,
            members=check_member_records(path, header.get("members"), len(student.split(JOIN))),
        )


def find_teacher(
    root: Path,
    *,
    sha256: str | None = None,
    dataset: str | None = None,
    fingerprint: str | None = None,
    student: str | None = None,
    preprocess_kind: str | None = None,
    preprocess: Mapping[str, Any] | None = None,
    holdout: float | None = None,
    penalty: Mapping[str, Any] = MappingProxyType({}),
) -> Teacher | None:
    """The teacher under a root that has all that is given; of several the best on its held-out images.

    Several in one file are found by their hash only.

    Args:
        sha256: of the file; what it was penalised with is then not asked.
        preprocess_kind: the recipe's kind, or ``meanstd`` or ``zca``.
        preprocess: the very transform, as :meth:`ddbench.data.preprocess.Preprocess.to_json`.
        holdout: fraction of the training images that it never saw.
        penalty: as :func:`penalty_of`; default: trained without one.

    Raises:
        UserError: none fits, but a file that might be it cannot be read.
    """

    def fits(teacher: Teacher) -> bool:
        return (
            (dataset is None or may_be_same(teacher.dataset, dataset, by_fingerprint=fingerprint is not None))
            and (fingerprint is None or teacher.fingerprint == fingerprint)
            and (student is None or teacher.student == student)
            and preprocess_kind in (None, teacher.recipe.get("preprocess"), teacher.preprocess["kind"])
            and (preprocess is None or same_preprocess(teacher.preprocess, preprocess))
            and (holdout is None or teacher.holdout == holdout)
            and (sha256 is not None or (not teacher.members and penalty_of(teacher.recipe) == dict(penalty)))
        )

    own, *others = slug_patterns(dataset)
    for folders in (own, *(others if fingerprint is not None else ())):
        files = [one for one in files_like(root, folders, student) if sha256 is None or file_hash(one) == sha256]
        teachers, damaged = read_each(files, read_teacher)
        if found := [teacher for teacher in teachers if fits(teacher)]:
            # Among equals the first path, so that every machine chooses alike.
            return min(found, key=lambda one: 1.0 if one.accuracy is None else -one.accuracy)
        if damaged and folders == own:
            raise damaged[0]
    return None


def penalty_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe (as :meth:`TeacherRecipe.to_json` gives it) says about a penalty; empty: it has none."""
    return {name: recipe[name] for name in PENALTY_FIELDS if name in recipe}


def check_teacher(teacher: Teacher, dataset: Dataset, preprocess: Preprocess) -> None:
    """Refuse a teacher that was trained on other data, or whose input is made in another way.

    Raises:
        UserError: other shape, classes (or the same in another order), fingerprint or preprocess.
    """
    spec = dataset.spec
    remedy = _how_to_train(teacher, spec)
    if teacher.shape != spec.shape:
        raise UserError(
            f"{teacher.path}: its input is {_sides(teacher.shape)}, images of {spec.name} are {_sides(spec.shape)}; "
            f"{remedy}"
        )
    if teacher.class_names != spec.class_names:
        if sorted(teacher.class_names) == sorted(spec.class_names):
            pairs = enumerate(zip(teacher.class_names, spec.class_names, strict=True))
            k, (theirs, ours) = next((k, pair) for k, pair in pairs if pair[0] != pair[1])
            raise UserError(
                f"{teacher.path}: has the classes of {spec.name} in another order (its class {k} is {theirs!r}, here "
                f"it is {ours!r}), so every label would be of another class; {remedy}"
            )
        strange = next((name for name in teacher.class_names if name not in spec.class_names), None)
        raise UserError(
            f"{teacher.path}: its {len(teacher.class_names)} classes are not the {len(spec.class_names)} of {spec.name}"
            + (f" ({strange!r} is none of them)" if strange is not None else "")
            + f"; {remedy}"
        )
    if teacher.fingerprint != dataset.fingerprint:
        raise UserError(
            f"{teacher.path}: was trained on {teacher.dataset} with fingerprint {teacher.fingerprint[:12]}, the "
            f"{spec.name} data here has {dataset.fingerprint[:12]}; {remedy}"
        )
    if not same_preprocess(teacher.preprocess, preprocess.to_json()):
        raise UserError(
            f"{teacher.path}: its input is made by {_transform(teacher.preprocess)}, here by "
            f"{_transform(preprocess.to_json())}; {remedy} and the --preprocess that is used here"
        )


def _how_to_train(teacher: Teacher, spec: DatasetSpec) -> str:
    """The command that trains a teacher like another one on a dataset; of several in a file the one that joins them."""
    names = teacher.student.split(JOIN)
    command = shlex.join(["ddbench", "teacher", *dataset_flags(spec.name, spec.size), "--student", names[0]])
    if len(names) == 1:
        return f"train one with {command}"
    return f"train its {len(names)} networks with {command} and the like, and join them with ddbench teacher join FILES"


def _skeleton(student: str, shape: tuple[int, int, int], classes: int) -> Student:
    """The network for its names and shapes; without memory, so that a file that lies about its size costs nothing.

    Some networks of other libraries look at numbers while they are made: only these are made with memory.
    """
    try:
        with torch.device("meta"):
            return build_together(student, channels=shape[0], size=shape[1], classes=classes)
    except (RuntimeError, NotImplementedError):
        return build_together(student, channels=shape[0], size=shape[1], classes=classes)


def _get(path: Path, header: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    value = header.get(name)
    if not isinstance(value, kind):
        raise UserError(f"{path}: field {name!r} is missing or not a {kind.__name__}; the file is damaged")
    return value


def _fraction(path: Path, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"{path}: field {name!r} is {value!r:.40}, expected a fraction from 0 to 1")
    return float(value)


def _architecture(path: Path, header: dict[str, Any]) -> tuple[str, tuple[int, int, int], tuple[str, ...]]:
    """Student, input shape and class names of a header."""
    names = _get(path, header, "class_names", list)
    if not 1 < len(names) <= MAX_CLASSES or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{path}: field 'class_names' holds {len(names)} entries, expected 2 or more names of classes")
    shape = _get(path, header, "shape", list)
    if (
        len(shape) != 3
        or not all(type(side) is int for side in shape)
        or not (1 <= shape[0] <= MAX_CHANNELS and 1 <= shape[1] <= MAX_SIDE and shape[1] == shape[2])
    ):
        raise UserError(
            f"{path}: field 'shape' is {shape!r:.60}, expected [C, H, W] of square images (C at most "
            f"{MAX_CHANNELS}, side at most {MAX_SIDE})"
        )
    student = _get(path, header, "student", str)
    try:
        student = check_together(student, shape[0], shape[1])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return student, (shape[0], shape[1], shape[2]), tuple(names)


def _check_weights(path: Path, handle: Any, net: nn.Module, student: str) -> int:
    """Compare names, shapes and dtypes with the student's before a byte is read, then refuse NaN.

    Returns:
        How many floating-point numbers the network has.
    """
    wanted = net.state_dict()
    names = set(handle.keys())
    odd = sorted(names ^ set(wanted))
    if odd:
        what = "has no tensor" if odd[0] in wanted else "holds a tensor"
        more = "" if odd[0] in wanted else f" that {student} does not have"
        raise UserError(f"{path}: {what} {odd[0]!r}{more}; its weights are not those of {student}")
    floats = 0
    for name, tensor in wanted.items():
        part = handle.get_slice(name)
        shape, dtype = list(part.get_shape()), part.get_dtype()
        expected = "F32" if tensor.is_floating_point() else "I64"
        if shape != list(tensor.shape) or dtype != expected:
            raise UserError(
                f"{path}: {name} is {dtype}{shape}, {student} on images and classes of this header has "
                f"{expected}{list(tensor.shape)}"
            )
        floats += math.prod(shape) if tensor.is_floating_point() else 0
    for name in wanted:
        read_finite(path, handle, name)
    return floats


def _check_preprocess(path: Path, record: dict[str, Any], shape: tuple[int, int, int]) -> None:
    """Refuse a preprocess record that belongs to no image of this shape; a ZCA is not fitted again for that."""
    if record.get("kind") == "zca":
        if record.get("dims") != list(shape):
            raise UserError(f"{path}: a ZCA of images {record.get('dims')!r:.40}, expected {list(shape)}")
        return
    try:
        made = Preprocess.from_json(record, None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if len(made.mean) != shape[0]:
        raise UserError(f"{path}: preprocess of {len(made.mean)} channels, its images have {shape[0]}")


def same_preprocess(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of one transform; what two machines compute differently of a ZCA is left out."""
    return all(record.get(name) == value for name, value in other.items() if name not in ("matrix_sha256", "probe"))


def _transform(record: dict[str, Any]) -> str:
    if record.get("kind") == "zca":
        return f"zca (eps {record.get('eps')}, data {str(record.get('dataset_fingerprint'))[:12]})"
    return f"mean {record.get('mean')} and std {record.get('std')}"


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
