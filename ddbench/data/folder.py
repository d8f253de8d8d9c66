"""Image folders: a user's own, Tiny-ImageNet's and ImageNet's layouts, as lists of files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ddbench.data.cache import Listing
from ddbench.data.images import EXTENSIONS
from ddbench.data.look import shown
from ddbench.data.places import own_place
from ddbench.data.specs import DATASETS, FOLDER, NPZ, DatasetSpec
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_bytes
from ddbench.runtime.seeds import derive

TEST_FRACTION = 0.2
"""Of each class of a folder that comes without a test set."""

MAX_ANNOTATIONS = 16 * 2**20
"""Bytes of Tiny-ImageNet's list of validation images; it has half a million."""

SPLIT_NOTE = "no test folder: a fixed fifth of each class is the test set"

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
"""Folders that are splits, in small letters, and never classes."""

Files = list[tuple[Path, int]]


def list_folder(spec: DatasetSpec, root: Path) -> tuple[Listing, str]:
    """The files of ``folder:PATH``, and a note for its spec; ``root`` is the data folder
    (:func:`ddbench.data.places.own_place`).

    ``PATH/train/CLASS/*`` with ``PATH/test/CLASS/*`` or ``PATH/val/CLASS/*``, by any of :data:`SPLIT_WORDS` in any
    case; the validation images are the test set where there is no other, else they are left out. Without a test
    folder, or when there is ``PATH/CLASS/*`` only, a fixed stratified fifth is split off. Labels follow the sorted
    class names. Images are turned as their EXIF orientation says.

    Raises:
        UserError: no such folder, two folders for one split, a split without training images beside it, fewer than two
            classes, a class without images, a test class not trained on.
    """
    path = own_place(spec.name.removeprefix(FOLDER), root)
    if not path.is_dir():
        raise UserError(f"dataset {spec.name}: {_no_folder(path, root)}")
    path = path.resolve()
    splits = _splits(path)
    train_root = splits.get("train", path)
    names = _class_names(train_root)
    if len(names) < 2:
        raise UserError(_few_classes(train_root, names))
    others: Counter[str] = Counter()
    train = [_image_files(train_root / name, others) for name in names]
    test_root = splits.get("test", splits.get("validation"))
    notes = _left_out(path, splits, train_root)
    if train_root == path or test_root is None:
        parts = [_split_off(train_root / name, files) for name, files in zip(names, train, strict=True)]
        train, test, note = [kept for kept, _ in parts], [held for _, held in parts], SPLIT_NOTE
    else:
        test, note = _test_files(test_root, names, train_root, others), f"scored on the images in {test_root.name}/"
    notes += [note] + ([f"ignored: files with other endings ({_counted(others)})"] if others else [])
    return Listing(path, names, _labelled(train), _labelled(test), upright=True, notes=tuple(notes)), note


def _no_folder(path: Path, root: Path) -> str:
    if path.is_file():
        other = f"; a file of arrays is {NPZ}{path}" if path.suffix == ".npz" else ""
        return f"{path} is a file, expected a folder of images{other}"
    if path.is_absolute():
        return f"{path} is no folder"
    return f"{path} is no folder, neither here ({Path.cwd()}) nor in the data folder ({root}, see --data)"


def _few_classes(root: Path, names: Sequence[str]) -> str:
    """Why a folder is no set of classes, and what a set of classes is."""
    loose = sum(item.suffix.lower() in EXTENSIONS for item in root.iterdir() if item.is_file())
    there = f" and {loose} image file(s)" if loose else ""
    above = "; is this the folder of one class? Then name the one above it" if loose and not names else ""
    return (
        f"{root}: {len(names)} class folder(s){there} found, expected at least two classes, each a folder "
        f"with its images: PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE{above}"
    )


def _splits(path: Path) -> dict[str, Path]:
    """``train``, ``test`` and ``validation`` -> the folder below ``path`` that is called so; none for a flat layout.

    Raises:
        UserError: two folders for one split, or a split where nothing is to be trained on.
    """
    found: dict[str, Path] = {}
    for name in _class_names(path):
        split = SPLIT_WORDS.get(name.lower())
        if split in found:
            raise UserError(f"{path}: {found[split].name}/ and {name}/ are both the {split} split; keep or rename one")
        if split is not None:
            found[split] = path / name
    if found and "train" not in found:
        odd = next(iter(found.values())).name
        raise UserError(
            f"{path}: {odd}/ is the name of a split, and there is no train/ beside it; add it, or rename {odd}/ if it "
            "is a class"
        )
    return found


def _test_files(root: Path, names: Sequence[str], train_root: Path, others: Counter[str]) -> list[list[Path]]:
    """The test images of each class, possibly none of some."""
    there = _class_names(root)
    if not there:
        raise UserError(f"{root}: no class folders, so its images have no labels; expected {root.name}/CLASS/IMAGE")
    for name in there:
        if name not in names:
            raise UserError(f"{root / name}: a class that {train_root} does not have{suggest(name, names)}")
    return [_image_files(root / name, others) if name in there else [] for name in names]


def _left_out(path: Path, splits: dict[str, Path], train_root: Path) -> list[str]:
    """What lies in the folder and is not used, for a person."""
    notes = []
    if "test" in splits and "validation" in splits:
        notes.append(f"left out: {splits['validation'].name}/ (the test set is {splits['test'].name}/)")
    if train_root != path:
        odd = [name for name in _class_names(path) if path / name not in splits.values()]
        if odd:
            notes.append(f"ignored beside {train_root.name}/: {', '.join(f'{name}/' for name in odd[:5])}")
    loose = sum(item.suffix.lower() in EXTENSIONS for item in train_root.iterdir() if not item.is_dir())
    if loose:
        notes.append(f"ignored: {loose} image file(s) in {train_root}, in no class folder")
    return notes


def _counted(endings: Counter[str]) -> str:
    return ", ".join(f"{count} {ending or 'without one'}" for ending, count in endings.most_common(5))


def list_tiny_imagenet(spec: DatasetSpec, root: Path) -> Listing:
    """The files of the official layout: ``train/<wnid>/images/*``, ``val/images/*`` with ``val/val_annotations.txt``.

    Labels follow the sorted wnids. ``val/<wnid>/*``, as people rearrange it, is understood too.

    Raises:
        UserError: no such folder, another number of classes, a class without images, or a malformed annotation file.
    """
    places = [root / "tiny-imagenet-200", root / "tiny-imagenet"]
    folder = next((place.resolve() for place in places if (place / "train").is_dir()), None)
    if folder is None:
        raise UserError(f"tiny-imagenet: no folder {places[0]}{os.sep}train; needed: {spec.source}")
    names = _class_names(folder / "train")
    if len(names) != spec.classes:
        raise UserError(f"{folder / 'train'}: {len(names)} class folders, expected {spec.classes}")
    train = _labelled([_image_files(folder / "train" / name) for name in names])
    annotations = folder / "val" / "val_annotations.txt"
    if annotations.is_file():
        return Listing(folder, names, train, _annotated(annotations, names))
    test = _labelled([_image_files(folder / "val" / name) for name in names])
    return Listing(folder, names, train, test)


def list_imagenet(spec: DatasetSpec, root: Path) -> Listing:
    """The files of ImageNet-1k or of a subset: ``imagenet/{train,val}/<wnid>/*``.

    The 1000 wnids in sorted order are ImageNet's indices; a subset takes those of its spec, in its order.

    Raises:
        UserError: no such folder, not 1000 class folders, or a class without images.
    """
    folder = root / "imagenet"
    if not (folder / "train").is_dir():
        raise UserError(f"{spec.name}: no folder {folder / 'train'}; needed: {spec.source}")
    folder = folder.resolve()
    known = _class_names(folder / "train")
    expected = DATASETS["imagenet-1k"].classes
    if len(known) != expected:
        raise UserError(
            f"{folder / 'train'}: {len(known)} class folders; all {expected} wnids are needed to number the classes "
            f"(they may be empty); for other images use {FOLDER}PATH, for the archive of Imagenette itself imagenette2"
        )
    names = tuple(known[index] for index in spec.indices)
    train, test = (_labelled([_image_files(folder / part / name) for name in names]) for part in ("train", "val"))
    return Listing(folder, names, train, test)


ARCHIVE_SIDES = {"": 1024, "-320": 320, "-160": 160}
"""Ending of an archive's name -> the largest side in pixels that its images, shorter side so long, are used for."""


def list_archive(spec: DatasetSpec, root: Path) -> Listing:
    """The files of an archive of Imagenette's makers: ``imagenette2[-320|-160]/{train,val}/<wnid>/*``.

    Of several the one with the largest images is taken; classes stand in the order of the spec.

    Raises:
        UserError: no such folder, images that are too small for the size, other classes, or a class without images.
    """
    places = {ending: root / f"{spec.name}{ending}" for ending in ARCHIVE_SIDES}
    ending = next((ending for ending, place in places.items() if (place / "train").is_dir()), None)
    if ending is None:
        raise UserError(f"{spec.name}: no folder {places['']}{os.sep}train; needed: {spec.source}")
    folder = places[ending].resolve()
    if spec.size > ARCHIVE_SIDES[ending]:
        raise UserError(f"--size {spec.size}: the images of {folder} are smaller; unpack {spec.name}.tgz into {root}")
    for part in ("train", "val"):
        if set(_class_names(folder / part)) != set(spec.class_names):
            raise UserError(f"{folder / part}: its folders are not the classes of {spec.name}; unpack again")
    train, test = (
        _labelled([_image_files(folder / part / name) for name in spec.class_names]) for part in ("train", "val")
    )
    return Listing(folder, spec.class_names, train, test, notes=(f"from {folder.name}; {spec.note}",))


def _class_names(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")))
    except OSError as error:
        raise UserError(f"{folder}: cannot list this folder: {error.strerror or error}") from error


def _image_files(folder: Path, others: Counter[str] | None = None) -> list[Path]:
    """Image files below a class folder, in the order of their relative names; at least one.

    Links to files are followed; of folders only the class folder itself may be a link, so that no loop is walked. What
    is hidden is left aside, folders too: editors keep copies there.

    Args:
        others: counts the endings of the other files.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot list this folder: {error.strerror or error}") from error

    found = []
    for base, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  (a million names)
            if ending in EXTENSIONS and not name.startswith("."):
                found.append(Path(base, name))
            elif others is not None and not name.startswith("."):
                others[ending] += 1
    if not found:
        raise UserError(f"{folder}: a class without images; expected files ending in {', '.join(sorted(EXTENSIONS))}")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _labelled(by_class: Sequence[Sequence[Path]]) -> Files:
    return [(path, label) for label, files in enumerate(by_class) for path in files]


def _split_off(folder: Path, files: list[Path]) -> tuple[list[Path], list[Path]]:
    """A class cut into training and test files; depends on the names of its files only."""
    if len(files) < 2:
        raise UserError(f"{folder}: a class of one image; two at least are needed to split a test set off")
    count = max(1, round(TEST_FRACTION * len(files)))
    names = {path: shown(path.relative_to(folder).as_posix()) for path in files}  # a name may be no UTF-8
    held = set(sorted(files, key=lambda path: derive(0, "folder-test", shown(folder.name), names[path]))[:count])
    return [path for path in files if path not in held], [path for path in files if path in held]


def _annotated(annotations: Path, names: tuple[str, ...]) -> Files:
    """Validation files and labels of ``val_annotations.txt``, whose lines begin with a file name and a wnid."""
    labels = {name: label for label, name in enumerate(names)}
    images = annotations.parent / "images"
    found: Files = []
    try:
        lines = read_bytes(annotations, "list of annotations", MAX_ANNOTATIONS).decode("utf-8").splitlines()
    except ValueError as error:
        raise UserError(f"{annotations}: cannot read it: {error}") from error
    for number, line in enumerate(lines, 1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in labels:
            raise UserError(f"{annotations}, line {number}: {wnid[:40]!r} is none of the classes under train/")
        # A name from a file must not lead out of the folder.
        if name in ("", ".", "..") or any(mark in name for mark in "/\\:\0"):
            raise UserError(f"{annotations}, line {number}: {name[:40]!r} is no plain file name")
        if not (images / name).is_file():
            raise UserError(f"{images / name}: missing, but named in {annotations.name}, line {number}")
        found.append((images / name, labels[wnid]))
    if not found:
        raise UserError(f"{annotations}: it names no image")
    return sorted(found, key=lambda item: (item[1], item[0].name))
