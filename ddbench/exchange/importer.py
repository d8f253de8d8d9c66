"""A published set becomes a synset: read, described, checked, converted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.data.places import own_place
from ddbench.data.policy import parse_policy
from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import HUB, is_read_elsewhere, resolve_augmentation
from ddbench.decoders.base import read_decoder
from ddbench.decoders.multi_formation import MultiFormation, formation
from ddbench.exchange import convert
from ddbench.exchange.description import Description, column, describe, describe_folder
from ddbench.exchange.folders import FORM, image_size, list_classes, naming, read_folder
from ddbench.exchange.read import Content, check_path, read_file, read_tensor, tensor
from ddbench.exchange.settings import ImportSettings
from ddbench.networks.names import parse_student
from ddbench.runtime.device import versions
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash
from ddbench.runtime.pickles import load_pt
from ddbench.synset import Budget, Synset, check_against, from_header


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A synset, the transform between its pixels and what a student sees, and what it was taken for."""

    synset: Synset
    preprocess: Preprocess
    description: Description


def inspect(path: Path, settings: ImportSettings) -> Description:
    """What a published file or folder holds, as far as that can be told without its dataset.

    Raises:
        UserError: as :func:`import_synset`, where no dataset is needed.
    """
    settings.check()
    check_path(path)
    if not path.is_dir():
        return inspect_content(path, read_file(path, settings.index), settings)
    classes = list_classes(path)
    width, height = image_size(next(iter(classes.values()))[0])
    counts = torch.tensor([len(files) for files in classes.values()])
    content = Content(
        form=f"a folder of images in class folders {naming([*classes])}",
        images=torch.empty(0),
        labels=torch.arange(len(counts)).repeat_interleave(counts),
    )
    return describe_folder(path, _with_flags(content, settings), settings, (int(counts.sum()), height, width))


def inspect_content(path: Path, content: Content, settings: ImportSettings) -> Description:
    """What was read of ``path`` holds, with what the flags say.

    Raises:
        UserError: as :func:`inspect`.
    """
    content = _with_flags(content, settings)
    if content.parameters:
        channels = _exported(path, content).images.shape[1]
        content = _decoded(path, content, Preprocess("meanstd", (0.0,) * channels, (1.0,) * channels))
    return describe(path, content, settings)


def said_dataset(path: Path, settings: ImportSettings) -> str | None:
    """The dataset that an archive of ``ddbench export`` says it is of; None: a file of another form.

    Raises:
        UserError: as :func:`inspect`.
    """
    check_path(path)
    if path.is_dir() or path.suffix.lower() != ".npz":
        return None
    name = (read_file(path, settings.index).header or {}).get("dataset")
    return name if isinstance(name, str) else None


def import_synset(path: Path, *, dataset: Dataset, data: Path | None, settings: ImportSettings) -> Imported:
    """Read a published set.

    Args:
        path: a ``.pt`` file (a tensor, ``[images, labels]``, a dict, DC's ``res_*.pt``), an ``.npz`` or ``.npy`` file,
            or a folder ``CLASS/IMAGE``.
        data: data folder, where ZCA matrices are kept.

    Raises:
        UserError: a file that is none of these, whose contents do not fit the dataset, or are not what was said.
    """
    settings.check()
    check_path(path)
    _check_augmentation(settings, dataset)
    content = read_folder(path, dataset.spec) if path.is_dir() else read_file(path, settings.index)
    return import_content(path, content, dataset=dataset, data=data, settings=settings)


def _check_augmentation(settings: ImportSettings, dataset: Dataset) -> None:
    if settings.augmentation is not None:
        parse_policy(resolve_augmentation(settings.augmentation, dataset.spec.flip))


def import_content(
    path: Path, content: Content, *, dataset: Dataset, data: Path | None, settings: ImportSettings
) -> Imported:
    """Make a synset of what was read of ``path``.

    Raises:
        UserError: as :func:`import_synset`.
    """
    spec = dataset.spec
    _check_augmentation(settings, dataset)
    content = _with_flags(content, settings)
    if content.header is not None:
        return _own(path, content, dataset, settings)
    images = convert.as_images(path, content.images, spec)
    if len(images) % spec.classes:
        raise UserError(
            f"{path}: {len(images)} images (shape {list(content.images.shape)}) do not divide into the {spec.classes} "
            f"classes of {spec.name}"
        )
    described = describe(path, content, settings, spec.classes)
    _refuse_idle(path, content, described.label_form, settings)
    preprocess = convert.preprocess_of(settings, dataset, data)
    stored = convert.stored_images(path, images, described.space, preprocess)
    order, words = (
        ([*range(spec.classes)], "by folder name") if content.named else convert.class_order(settings.class_order, spec)
    )
    ipc = len(images) // spec.classes
    synset = Synset(
        images=stored,
        labels=_labels(path, content, described.label_form, settings, order, ipc),
        preprocess=preprocess.to_json(),
        budget=Budget("ipc", ipc),
        dataset=spec.name,
        fingerprint=dataset.fingerprint,
        class_names=spec.class_names,
        method=settings.method or "imported",
        config={"imported_from": path.name},
        seed=0,
        student=str(parse_student(settings.student)) if settings.student else None,
        augmentation=settings.augmentation or "dsa",
        label_scale=1.0 if described.label_form == "targets" else None,
        learned_lr=_rate(path, content.lr),
        stage=_stage(settings.stage or path, content.stage),
        decoder=formation(described.decode_factor),
        patches=described.patches,
        versions=versions(),
        parents={"imported_sha256": file_hash(path)} if path.is_file() else {},
    )
    return Imported(
        synset=synset,
        preprocess=preprocess,
        description=replace(
            described,
            stored=_stored(stored, described.space, settings, preprocess),
            class_order=words,
            notes=(*described.notes, *_doubts(path, described, content, settings)),
        ),
    )


def _with_flags(content: Content, settings: ImportSettings) -> Content:
    """What flags name in other files, in place of what this one holds."""
    if settings.labels is not None:
        content = replace(content, labels=read_tensor(settings.labels, "labels"), named=False)
    if settings.stage is not None:
        content = replace(content, stage=read_tensor(settings.stage, "stages"))
    if settings.lr is not None:
        content = replace(content, lr=learned_lr(settings.lr))
    return content


def _refuse_idle(path: Path, content: Content, form: str, settings: ImportSettings) -> None:
    """Refuse a flag that this input leaves without effect.

    Raises:
        UserError: which flag, and why.
    """
    for flag, idle, why in (
        ("--label-form", settings.label_form != "auto" and content.labels is None, "it holds no labels"),
        (
            "--label-temperature",
            settings.label_temperature != 1 and form != "probabilities",
            f"a temperature is of probabilities, its labels are {form}",
        ),
        ("--class-order", settings.class_order != "auto" and content.named, "its folders say their class by name"),
    ):
        if idle:
            raise UserError(f"{path}: {why}; leave {flag} out")


def _labels(path: Path, content: Content, form: str, settings: ImportSettings, order: list[int], ipc: int) -> Tensor:
    found = column(content.labels)
    if found is None:
        return convert.reorder(torch.arange(len(order)).repeat_interleave(ipc), order)
    made = convert.stored_labels(found, form, settings.label_temperature)
    if made.ndim == 1 and not (int(made.min()) >= 0 and int(made.max()) < len(order)):
        where = settings.labels or path
        raise UserError(f"{where}: labels from {int(made.min())} to {int(made.max())}, expected 0 to {len(order) - 1}")
    return convert.reorder(made, order)


def _stored(stored: Tensor, space: str, settings: ImportSettings, preprocess: Preprocess) -> str:
    name = convert.with_numbers(convert.transform_name(settings), preprocess)
    if stored.dtype == torch.uint8:
        return f"uint8, seen through {name}"
    if space == "input":
        return f"float32, by {name}"
    return f"not multiples of 1/255: kept as float32 network input, taken through {name}"


IDLE_RATES = "several learned rates and no stages: no protocol uses them (--lr for one, --stage FILE)"


def _doubts(path: Path, described: Description, content: Content, settings: ImportSettings) -> list[str]:
    """What else the numbers might be, where the range leaves it open."""
    assert described.low is not None
    assert described.high is not None
    notes = []
    if content.form == FORM and not content.named and settings.patches is None:
        notes.append("RDED's images are stitched of patches: if these are theirs, say --patches 2")
    step = path.stem.removeprefix("images_")
    if any((path.parent / name).exists() for name in ("weights_best.pt", f"styles_{step}.pt")):
        notes.append("styles lie beside it: HaBa's images are contents, which its own networks must decode first")
    if len(described.lr) > 1 and described.stages == 1:
        notes.append(IDLE_RATES)
    if described.space == "input" and described.low >= 0 and settings.preprocess != "none":
        notes.append("network input without a negative value; are these pixels? (--preprocess pixels or pixels255)")
    if described.space == "input" and settings.preprocess == "auto" and not settings.mean:
        scale = described.low >= -1 and described.high <= 1
        notes.append(
            "taken for network input by mean and std; "
            + ("from -1 to 1: perhaps --mean 0.5 --std 0.5" if scale else "if it was whitened, say --preprocess zca")
        )
    return notes


def _own(path: Path, content: Content, dataset: Dataset, settings: ImportSettings) -> Imported:
    """A file of ``ddbench export``: its header says everything; what flags add is changed in it.

    Raises:
        UserError: arrays that are not what the header says, another dataset, or a flag that contradicts the header.
    """
    default = ImportSettings()
    for name in ("preprocess", "mean", "label_form", "label_temperature", "class_order"):
        if getattr(settings, name) != getattr(default, name):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{path}: exported by ddbench, its header says what it holds; leave {flag} out")
    header = content.header
    assert header is not None
    synset = _exported(path, content)
    theirs = synset.decoder is not None and not isinstance(synset.decoder, MultiFormation)
    for flag, value, fixed in (
        ("--decode-factor", settings.decode_factor, theirs),
        ("--patches", settings.patches, content.parameters),
    ):
        if fixed and value is not None:
            raise UserError(f"{path}: its images are made by its decoder {header['decoder']['kind']}; leave {flag} out")
    for name, value in synset.header().items():
        if name in header and header[name] != value:
            raise UserError(f"{path}: header field {name!r} is {header[name]!r:.60}, but the arrays are {value!r:.60}")
    preprocess = check_against(path, synset, dataset)
    if content.parameters:
        content = _decoded(path, content, preprocess)
    described = describe(path, content, settings, synset.classes)
    synset = replace(
        synset,
        dataset=_place(synset.dataset, dataset),
        method=settings.method or synset.method,
        student=str(parse_student(settings.student)) if settings.student else synset.student,
        augmentation=settings.augmentation or synset.augmentation,
        decoder=synset.decoder if settings.decode_factor is None else formation(settings.decode_factor),
        patches=described.patches,
    )
    stored = convert.with_numbers(f"as exported, {preprocess.kind}", preprocess)
    described = replace(described, stored=stored, class_order="the dataset's")
    if synset.learned_lr is not None and synset.learned_lr.numel() > 1 and synset.stage is None:
        described = replace(described, notes=(*described.notes, IDLE_RATES))
    return Imported(synset=synset, preprocess=preprocess, description=described)


def _place(name: str, dataset: Dataset) -> str:
    """The name by which others find the dataset: that of the file; of a user's own images that of ``dataset`` where
    nothing lies at the file's, which was a place on another machine.
    """
    kind, _, place = name.partition(":")
    if not is_read_elsewhere(name) or (f"{kind}:" == HUB and not Path(place).is_absolute()):
        return name
    return name if own_place(place, dataset.root).exists() else dataset.spec.name


def _exported(path: Path, content: Content) -> Synset:
    """What ``ddbench export`` wrote, checked.

    Raises:
        UserError: arrays that are not what its header says.
    """
    labels, images, header = content.labels, content.images, content.header
    assert header is not None
    if content.parameters:
        decoder = read_decoder(path, header.get("decoder"))
        shape = None if decoder is None else decoder.makes
        if shape is None or decoder is None:
            raise UserError(f"{path}: has no array 'images', and its header no decoder that makes some")
        decoder.check(path, shape)
        images = torch.empty(0, *shape)
    if images.dtype not in (torch.uint8, torch.float32) or images.ndim != 4 or labels is None:
        raise UserError(f"{path}: images are {images.dtype}{list(images.shape)}, or without labels")
    return from_header(
        path,
        header,
        images=images,
        parameters=content.parameters,
        labels=labels.float() if labels.is_floating_point() else labels.long(),
        lr=None if content.lr is None else content.lr.float(),
        stage=_stage(path, content.stage),
    )


def _decoded(path: Path, content: Content, preprocess: Preprocess) -> Content:
    """With the images that its parameters become, to describe them."""
    return replace(content, images=_exported(path, content).plain(preprocess).images)


def _rate(path: Path, rate: Tensor | None) -> Tensor | None:
    """A learned rate, or one a stage or step, as float32."""
    if rate is None:
        return None
    if rate.is_complex() or rate.ndim > 1 or rate.numel() == 0 or not bool((rate > 0).all()):
        raise UserError(f"{path}: the learned learning rate is {rate.reshape(-1)[:3].tolist()}, expected positive")
    return rate.float().reshape(()) if rate.numel() == 1 else rate.float()


def _stage(path: Path, stage: Tensor | None) -> Tensor | None:
    """The stage of each image as int64."""
    if stage is None:
        return None
    if stage.ndim != 1 or not bool((stage == stage.long()).all()):
        raise UserError(f"{path}: stages are {stage.dtype}{list(stage.shape)}, expected a whole number an image")
    return stage.long()


def learned_lr(text: str) -> Tensor:
    """The rate that a flag names: a number, or a ``.pt`` file that holds one.

    Raises:
        UserError: neither, or not positive.
    """
    try:
        value = torch.tensor(float(text))
    except ValueError:
        content = load_pt(Path(text))
        if not (isinstance(content, float) or (isinstance(content, Tensor) and content.numel() == 1)):
            raise UserError(f"--lr {text}: expected a number, or a .pt file that holds one") from None
        value = torch.as_tensor(float(tensor(content, Path(text), "learning rates")))
    if not 0 < float(value) < float("inf"):
        raise UserError(f"--lr {text}: the learned learning rate is {float(value):g}, expected a positive number")
    return value
