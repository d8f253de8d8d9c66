"""Folders of images as published: a folder a class, named by class, by number, or as ``ddbench export`` does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ddbench.data.images import EXTENSIONS, FORMATS, MAX_IMAGE_BYTES, read_image
from ddbench.data.limits import require_memory
from ddbench.data.specs import DatasetSpec
from ddbench.exchange import read
from ddbench.exchange.read import Content
from ddbench.exchange.write import folder_name
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import plain_file

FORM = "a folder of images"
MAX_CLASSES = 100_000


def list_classes(path: Path) -> dict[str, list[Path]]:
    """Image files of each class folder, both in the order of their names; hidden and empty folders are left out.

    Raises:
        UserError: no class folder with images, an image that is no plain file or too large.
    """
    found: dict[str, list[Path]] = {}
    for folder in sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith(".")):
        files = sorted(item for item in folder.iterdir() if item.suffix.lower() in EXTENSIONS and item.name[0] != ".")
        for file in files:
            plain_file(file, "image", MAX_IMAGE_BYTES)
        if files:
            found[folder.name] = files
        if len(found) > MAX_CLASSES:
            raise UserError(f"{path}: more than {MAX_CLASSES:,} class folders")
    if not found:
        raise UserError(f"{path}: no images in class folders; expected CLASS/IMAGE ({', '.join(sorted(EXTENSIONS))})")
    return found


def read_folder(path: Path, spec: DatasetSpec) -> Content:
    """Read ``path/CLASS/IMAGE``.

    Class folders are named as ``ddbench export`` does, by class name, or by number (``00003``, SRe2L's ``new003``).

    Raises:
        UserError: a folder that is no class, a class without images, a broken image or one of another size.
    """
    classes = list_classes(path)
    by_label, named = _match(path, classes, spec)
    files = [(file, label) for label in sorted(by_label) for file in by_label[label]]
    needed = len(files) * spec.channels * spec.size**2
    if needed > read.MAX_FILE:
        raise UserError(f"{path}: {len(files)} images of {spec.size} pixels are too large for a synset")
    require_memory(needed, f"{path}: {len(files)} images", "import fewer")
    images = torch.empty(len(files), *spec.shape, dtype=torch.uint8)
    for row, (file, _) in enumerate(files):
        _check_size(file, spec)
        images[row] = torch.from_numpy(read_image(file, spec.channels, spec.size).copy())
    labels = torch.tensor([label for _, label in files])
    return Content(form=FORM, images=images, labels=labels, named=named)


def _match(path: Path, classes: Mapping[str, list[Path]], spec: DatasetSpec) -> tuple[dict[int, list[Path]], bool]:
    """Files by label; and whether labels are the dataset's (names) or those of the publisher (numbers)."""
    names = {name: label for label, name in enumerate(spec.class_names)}
    exported = {folder_name(label, name): label for label, name in enumerate(spec.class_names)}
    known = {**names, **exported}
    if any(name in known for name in classes):
        by_label: dict[int, list[Path]] = {}
        for name, files in classes.items():
            if name not in known:
                raise UserError(f"{path / name}: a folder that is no class of {spec.name}; remove or rename it")
            if known[name] in by_label:
                raise UserError(f"{path / name}: a second folder of class {spec.class_names[known[name]]!r}")
            by_label[known[name]] = files
        for label, name in enumerate(spec.class_names):
            if label not in by_label:
                raise UserError(
                    f"{path}: no images of class {name!r} (looked for {folder_name(label, name)}/ and {name}/)"
                )
        return by_label, True
    return _by_number(path, classes, spec), False


def _by_number(path: Path, classes: Mapping[str, list[Path]], spec: DatasetSpec) -> dict[int, list[Path]]:
    numbers = {}
    for name, files in classes.items():
        match = re.fullmatch(r"(?:new|class)?_?([0-9]{1,9})", name)
        if match is None:
            wanted = f"{spec.class_names[0]}/, {folder_name(0, spec.class_names[0])}/, new000/ or 00000/"
            raise UserError(f"{path / name}: a folder that is no class of {spec.name}; expected {wanted}, ...")
        if int(match[1]) in numbers:
            raise UserError(f"{path / name}: a second folder of class number {int(match[1])}")
        numbers[int(match[1])] = files
    for scheme in (range(spec.classes), spec.indices):  # ImageNet's own numbers of a subset's classes come second
        if set(numbers) == set(scheme):
            return {label: numbers[number] for label, number in enumerate(scheme)}
    missing = next((number for number in range(spec.classes) if number not in numbers), None)
    raise UserError(
        f"{path}: {len(numbers)} class folders with numbers from {min(numbers)} to {max(numbers)}, "
        f"{spec.name} has classes 0 to {spec.classes - 1}" + ("" if missing is None else f"; {missing} is missing")
    )


def _check_size(file: Path, spec: DatasetSpec) -> None:
    width, height = image_size(file)
    if (width, height) != (spec.size, spec.size):
        raise UserError(f"{file}: {width} x {height} pixels, {spec.name} has {spec.size} x {spec.size}")


def image_size(file: Path) -> tuple[int, int]:
    """Width and height of an image file; only its beginning is read.

    Raises:
        UserError: not a readable image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as picture:
            return picture.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: not a readable image: {error}") from None


def naming(classes: Sequence[str]) -> str:
    """First names of class folders, for telling."""
    return ", ".join(classes[:3]) + (f", ... {classes[-1]}" if len(classes) > 3 else "")
