"""The datasets by name: shape, classes, statistics, where they come from. Imports no torch."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddbench.config import check_config
from ddbench.data.catalogue import BUILTIN, REFUSED, graph_spec
from ddbench.data.spec import STATISTICS as STATISTICS
from ddbench.data.spec import DatasetSpec as DatasetSpec
from ddbench.data.spec import Statistics as Statistics
from ddbench.registry import Table, unknown
from ddbench.runtime.errors import UserError
from ddbench.runtime.folders import expanded

FOLDER, NPZ, HUB, GRAPHS = "folder:", "npz:", "hub:", "graphs:"
OWN = (FOLDER, NPZ, HUB, GRAPHS)
"""Prefixes of the names of data of a user's own: ``folder:PATH``, ``npz:PATH``, ``hub:OWNER/NAME``, ``graphs:PATH``
(``graphs:made`` is made on the spot)."""

MADE = "graphs:made"

OWN_FORMS = ("folder:PATH", "npz:PATH", "hub:OWNER/NAME", "graphs:PATH")

SIZES = range(4, 1025)
"""Sides in pixels that a resizable dataset can be given."""

PREPROCESS_KINDS: tuple[str, ...] = ("meanstd", "zca", *STATISTICS)
"""What :func:`ddbench.data.preprocess.fit_preprocess` accepts as a kind."""


def preprocess_kind(record: Mapping[str, Any], own: Statistics) -> str | None:
    """The kind by which a recorded preprocess is made; None where its numbers have no name.

    Args:
        record: as :meth:`ddbench.data.preprocess.Preprocess.to_json`; what is none has no name.
        own: the dataset's own statistics. Of several names of the same numbers these go first, then ``mtt``.
    """
    if record.get("kind") != "meanstd":
        return "zca" if record.get("kind") == "zca" else None
    numbers = [record.get(name) for name in ("mean", "std")]
    found = [tuple(one) if isinstance(one, list | tuple) else () for one in numbers]
    named = {**STATISTICS, "meanstd": own}
    kinds = [kind for kind, known in named.items() if [*known] == found and all(found)]
    return kinds[-1] if kinds else None


def is_own(name: str) -> bool:
    """Whether a dataset is a user's own: its name says where its data are, and no other machine need have them."""
    return name.startswith(OWN)


def own_form(name: str) -> str:
    """How the place of a user's own data is said, for advice: ``folder:PATH``."""
    return next(form for form in OWN_FORMS if name.startswith(form.partition(":")[0] + ":"))


def is_read_elsewhere(name: str) -> bool:
    """Whether a dataset is what lies where its name says; ``graphs:made`` lies nowhere."""
    return is_own(name) and name != MADE


def canonical(name: str) -> str:
    """A dataset's name without the slash that shells put behind the folder of a user's own when they complete it."""
    short = name.rstrip("/")
    return short if is_own(name) and short not in (*OWN, MADE) else name


def dataset_slug(name: str) -> str:
    """A dataset's name as a safe, short file name; different places get different ones."""
    if not is_own(name):
        return name.replace(":", "-")
    kind, _, path = canonical(name).partition(":")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).name).strip("-.")[:40] or "images"
    return f"{kind}-{stem}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def may_be_same(name: str, other: str, *, by_fingerprint: bool = True) -> bool:
    """Whether two names may be of one dataset: they are one, or two names of a place of a user's own, as ``folder:x``
    and ``folder:/here/x`` are, of which the fingerprint decides.

    Args:
        by_fingerprint: whether fingerprints are compared as well; else only one name in two spellings is the same.
    """
    names = {canonical(name), canonical(other)}
    if len(names) == 1 or not by_fingerprint:
        return len(names) == 1
    return all(map(is_read_elsewhere, names)) and len({_kind(one) for one in names}) == 1


def kept_at(root: Path, dataset: str, *parts: str, begun: Sequence[str] = ()) -> Path:
    """Where what is made of a dataset belongs: ``ROOT/<slug>/<parts>``, or where that is already, made or begun of the
    same data by another name of their place.

    Args:
        parts: the last one has the fingerprint of the data in it.
        begun: names of what lies beside it while it is made.
    """
    own = root.joinpath(dataset_slug(dataset), *parts)
    if not is_read_elsewhere(dataset):
        return own
    places = [own, *(folder.joinpath(*parts) for folder in sorted(root.glob(f"{_kind(dataset)}-*")))]
    for names in ((own.name,), begun):
        for path in places:
            if any(path.with_name(name).exists() for name in names):
                return path
    return own


def slug_patterns(dataset: str | None) -> tuple[str, ...]:
    """Patterns of the folders of what was made of a dataset: its own, then those of other names of its place, where
    fingerprints decide; None: of any.
    """
    if dataset is None:
        return ("*",)
    own = dataset_slug(dataset)
    return (own, f"{_kind(dataset)}-*") if is_read_elsewhere(dataset) else (own,)


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _check_spec(name: str, spec: DatasetSpec) -> None:
    """Refuse a spec of another package that cannot be one.

    Raises:
        UserError: another name than its own, a malformed one, a shape that students cannot take, numbers that do not
            fit its channels or classes, or no reader.
    """
    if name != spec.name or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UserError(f"dataset {name!r:.80}, named {spec.name!r:.80}: expected one name of letters, digits, dots, -")
    check_config(spec, f"dataset {name!r}")
    for field in ("class_names", "mean", "std", "sizes", "indices"):
        if not isinstance(getattr(spec, field), tuple):  # what is read back from files is compared with it
            raise UserError(f"dataset {name!r}: {field} is a {type(getattr(spec, field)).__name__}, expected a tuple")
    if spec.channels not in (1, 3) or spec.size not in SIZES or spec.classes < 2:
        raise UserError(
            f"dataset {name!r}: {spec.channels} channels, side {spec.size}, {spec.classes} classes; expected 1 or 3 "
            f"channels, a side of {SIZES.start} to {SIZES.stop - 1} and at least 2 classes"
        )
    if (len(spec.mean), len(spec.std)) != (spec.channels, spec.channels) or not all(std > 0 for std in spec.std):
        raise UserError(f"dataset {name!r}: mean and std need one number a channel, of pixels in [0, 1], std above 0")
    if spec.class_names and len(spec.class_names) != spec.classes:
        raise UserError(f"dataset {name!r}: {len(spec.class_names)} class names for {spec.classes} classes")
    if not (callable(spec.reader) or (isinstance(spec.reader, str) and ":" in spec.reader)):
        raise UserError(f"dataset {name!r}: has no reader; give a function, or module:function")


DATASETS: Table[DatasetSpec] = Table(
    "dataset", "ddbench.datasets", DatasetSpec, {spec.name: spec for spec in BUILTIN}, _check_spec
)
"""The datasets by name; other packages add theirs (entry point group ``ddbench.datasets``)."""


def dataset_spec(name: str, size: int | None = None) -> DatasetSpec:
    """The spec of a dataset; of images of a user's own (:data:`OWN`) what is known before they are read.

    Args:
        name: a name of :data:`DATASETS`, or one of :data:`OWN_FORMS`.
        size: side in pixels, for resizable datasets only; image files of a user's own have no default.

    Raises:
        UserError: unknown name (with a suggestion), a set that is not taken (with the reason), a size where none
            applies or out of :data:`SIZES`, image files without a size.
    """
    if size is not None and size not in SIZES:
        raise UserError(f"--size {size}: expected {SIZES.start} to {SIZES.stop - 1} pixels")
    if is_own(name):
        return _own_spec(name, size)
    spec = _named(name)
    if size is None or size == spec.size:
        return spec
    if not spec.resizable:
        what = f"has a fixed size of {spec.size} pixels" if spec.size else "is no set of images"
        raise UserError(f"--size {size}: {name} {what}; leave --size out")
    if spec.sizes and size not in spec.sizes:
        raise UserError(f"--size {size}: {name} comes in {', '.join(map(str, spec.sizes))} pixels")
    return replace(spec, size=size)


def _named(name: str) -> DatasetSpec:
    """A spec of :data:`DATASETS`, also of one fold of a set of graphs: ``NAME:FOLD``."""
    if name in REFUSED:
        raise UserError(f"--dataset {name}: {REFUSED[name]}")
    base, _, fold = name.rpartition(":")
    if base in DATASETS and DATASETS[base].modality == "graph":
        if fold not in map(str, range(DATASETS[base].folds)):
            raise UserError(f"--dataset {name}: {base} has no such fold; its split: {DATASETS[base].note}")
        return replace(DATASETS[base], name=name)
    if name not in DATASETS:
        raise unknown("dataset", name, [*DATASETS, *OWN_FORMS], "--dataset", meant=_as_own(name))
    return DATASETS[name]


def _as_own(name: str) -> str | None:
    """How a path that is there is written as a dataset; None where it is no such path."""
    path = expanded(name)
    if path.is_dir():
        return f"{FOLDER}{name}"
    return f"{NPZ}{name}" if path.suffix == ".npz" and path.is_file() else None


def modality_of(name: str) -> str:
    """The modality of a dataset by its name.

    Raises:
        UserError: unknown name, with a suggestion.
    """
    if is_own(name):
        return "graph" if name.startswith(GRAPHS) else "image"
    return dataset_spec(name).modality


def _own_spec(name: str, size: int | None) -> DatasetSpec:
    """What is known of images of a user's own before they are read; arrays have the size that they have."""
    name = canonical(name)
    kind, place = next((kind, name.removeprefix(kind)) for kind in OWN if name.startswith(kind))
    if not place:
        form = next(form for form in OWN_FORMS if form.startswith(kind))
        raise UserError(f"--dataset {kind} names no {form.removeprefix(kind).lower()}; write {form}")
    if kind == GRAPHS:
        if size is not None:
            raise UserError(f"--size {size}: {name} is no set of images; leave --size out")
        return graph_spec(name, 0, f"a set of graphs at {place}", "its own split, else 80 / 10 / 10 percent by seed 0")
    if size is None and kind != NPZ:
        what = "an image folder" if kind == FOLDER else "a dataset of image files"
        raise UserError(f"--dataset {name}: {what} needs --size PIXELS (images are resized and cropped to it)")
    readers = {FOLDER: "files:load_folder", NPZ: "npz:load_npz", HUB: "hub:load_hub"}
    return DatasetSpec(
        name,
        channels=0,
        size=size or 0,
        classes=0,
        class_names=(),
        mean=(),
        std=(),
        flip=True,
        source=f"image files under {place}" if kind == FOLDER else place,
        resizable=kind != NPZ,
        reader=f"ddbench.data.{readers[kind]}",
    )


def size_to_load(name: str, side: int, asked: int | None = None) -> int | None:
    """The size with which a dataset is read for images of this side, in px; None where it has one size only.

    Args:
        asked: the side that the user asks for.

    Raises:
        UserError: as :func:`dataset_spec`; another side than the images have.
    """
    if asked not in (None, side):
        raise UserError(f"--size {asked}: the synset has images of {name} with {side} pixels; leave --size out")
    return side if name.startswith((FOLDER, HUB)) or dataset_spec(name).resizable else None


def dataset_flags(name: str, side: int | None) -> list[str]:
    """The flags by which a command reads a dataset as something else has it, for advice.

    Args:
        side: of the images in px; None: nothing says it. A set that is not known here is named without.
    """
    size = None
    with contextlib.suppress(UserError):
        size = None if side is None else size_to_load(name, side)
    return ["--dataset", name, *([] if size is None else ["--size", str(size)])]


DSA = "color_crop_cutout_flip_scale_rotate"
"""All six families of DSA."""


def resolve_augmentation(text: str, flip: bool) -> str:
    """The strategy that ``dsa`` means for a dataset (no flip where ``flip`` is False); others are taken as they are."""
    if text != "dsa":
        return text
    return DSA if flip else DSA.replace("flip_", "")


def resolve_strategy(text: str, flip: bool) -> str:
    """Families of DSA joined by ``_`` as :func:`resolve_augmentation`, without flip where ``flip`` is False."""
    text = resolve_augmentation(text, flip)
    if flip or "flip" not in text.split("_"):
        return text
    return "_".join(family for family in text.split("_") if family != "flip") or "none"
