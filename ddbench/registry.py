"""Lazy tables of plug-ins: ``name -> "module:object"``; listing one imports nothing heavy."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from ddbench.runtime import authors
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_bytes

ALIASES: dict[str, tuple[str, ...]] = {
    # networks, as the public codes of DC, DSA, DM, MTT and RDED call them
    "convnet": ("convnet-d3-w128-in",),
    "convnetin": ("convnet-d3-w128-in",),
    "convnetbn": ("convnet-d3-w128-bn",),
    "convnetd2": ("convnet-d2-w32-in",),
    "convnetd3": ("convnet-d3-w128-in",),
    "convnetd4": ("convnet-d4-w128-in",),
    "convnetd5": ("convnet-d5-w128-in",),
    "convnetd6": ("convnet-d6-w128-in",),
    "convnetw32": ("convnet-d3-w32-in",),
    "convnetw128": ("convnet-d3-w128-in",),
    "conv3": ("convnet-d3-w128-bn",),
    "conv4": ("convnet-d4-w128-bn",),
    "mlp": ("mlp-d3-w128",),
    "vgg11": ("vgg11-in",),
    "resnet18": ("resnet18-in",),
    "resnet18ap": ("resnet18ap-in",),
    "resnet18modified": ("tv-resnet18-mod",),
    "resnet50": ("tv-resnet50",),
    "resnet101": ("tv-resnet101",),
    "efficientnetb0": ("tv-efficientnet_b0",),
    "mobilenetv2": ("tv-mobilenet_v2",),
    "swinv2t": ("tv-swin_v2_t",),
    "vit": ("vit-d6-w512",),
    # datasets
    "tiny": ("tiny-imagenet",),
    "tinyimagenet200": ("tiny-imagenet",),
    "imagenet": ("imagenet-1k",),
    "fmnist": ("fashion-mnist",),
    # flags: the first that the verb has
    "model": ("student", "students"),
    "net": ("student", "students"),
    "network": ("student", "students"),
    "arch": ("student", "students"),
    "archname": ("student", "students"),
    "studmodel": ("students",),
    "models": ("students",),
    "archs": ("students",),
    "student": ("students",),
    "students": ("student",),
    "teachermodel": ("teacher-student", "teacher"),
    "numeval": ("seeds",),
    "numexp": ("seeds", "seed"),
    "seed": ("seeds",),
    "epochevaltrain": ("epochs",),
    "trainepochs": ("epochs",),
    "evalmode": ("students",),
    "evalit": ("validate-every",),
    "subset": ("dataset",),
    "ds": ("dataset",),
    "datapath": ("data",),
    "datadir": ("data",),
    "dataroot": ("data",),
    "imagesperclass": ("ipc",),
    "imgperclass": ("ipc",),
    "spc": ("ipc",),
    "numipc": ("ipc",),
    "iteration": ("iterations",),
    "niter": ("iterations",),
    "lrimg": ("lr-images",),
    "lrnet": ("lr-net", "lr-student"),
    "lrteacher": ("lr-student", "lr"),
    "lrinit": ("lr-student",),
    "learningrate": ("lr",),
    "batchsize": ("batch",),
    "batchtrain": ("batch", "batch-student"),
    "synsteps": ("student-steps",),
    "pixinit": ("init",),
    "dsastrategy": ("augmentation",),
    "noaug": ("augmentation",),
    "aug": ("augmentation",),
    "dismetric": ("metric",),
    "zca": ("preprocess",),
    "numexperts": ("experts",),
    "bufferpath": ("buffers",),
    "savepath": ("out",),
    "savedir": ("out",),
    "outputdir": ("out",),
    "imgsize": ("size",),
    "res": ("size",),
    "imagesize": ("size",),
    "outerloop": ("outer-loops",),
    "innerloop": ("inner-epochs",),
    "rbn": ("bn-weight",),
    "rbnreg": ("bn-weight",),
    "mom": ("momentum",),
    "wd": ("weight-decay",),
}
"""What public codes call a network, a dataset or a flag, folded (:func:`fold`) -> our names for it."""


def fold(name: str) -> str:
    """A name without case, dashes and other signs: ``CIFAR-10`` and ``cifar10`` are one."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Which of the known names is meant: the same but for case and signs, another code's name for it, a near miss."""
    names = list(known)
    folded: dict[str, str] = {}
    for one in names:
        folded.setdefault(fold(one), one)
    for meant in (name, *ALIASES.get(fold(name), ())):
        if fold(meant) and fold(meant) in folded:
            return folded[fold(meant)]
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    return close[0] if close else None


def suggest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` where one of the known names seems to be meant, else an empty string."""
    meant = nearest(name, known)
    return f" (did you mean {meant!r}?)" if meant else ""


def unknown(kind: str, name: str, known: Iterable[str], flag: str = "", meant: str | None = None) -> UserError:
    """The error for a name that is in no table; ``meant`` is what must be meant, else a similar name is suggested."""
    names = sorted(known)
    where = f"{flag}: " if flag else ""
    hint = suggest(name, names) if meant is None else f" (did you mean {meant!r}?)"
    return UserError(f"{where}unknown {kind} {name!r}{hint}; known: {', '.join(names)}")


class Registry:
    """Names of one kind of plug-in and where their code is.

    Args:
        kind: what the names are, for messages ("method").
        group: entry-point group through which other packages add names, or None.
        builtin: name -> "module:attribute", or what finds them; called when a name is first asked for.
    """

    def __init__(
        self, kind: str, group: str | None, builtin: Mapping[str, str] | Callable[[], Mapping[str, str]]
    ) -> None:
        self.kind = kind
        self.group = group
        self._find = builtin if callable(builtin) else None
        self._table = {} if callable(builtin) else dict(builtin)
        self._objects: dict[str, Any] = {}
        self._scanned = False

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        if self._find is not None:
            self._table.update(self._find())
        if self.group is None:
            return
        for point in entry_points(group=self.group):
            try:
                self.add(point.name, point.value)
            except UserError as error:  # someone else's package must not stop every verb
                print(f"ddbench: {error}; the second is ignored", file=sys.stderr)

    def add(self, name: str, target: str) -> None:
        """Add a lazy entry.

        Raises:
            UserError: the name is taken by another target.
        """
        if self._table.get(name, target) != target:
            raise UserError(f"{self.kind} {name!r} is defined twice: {self._table[name]} and {target}; rename one")
        self._table[name] = target

    def register(self, name: str, value: Any) -> None:
        """Add an object that is already loaded (a ``--method-file``), or its newer version.

        Raises:
            UserError: the name is no text, or taken by another object.
        """
        self._check_name(name)
        self._scan()
        target = f"{getattr(value, '__module__', '?')}:{getattr(value, '__qualname__', name)}"
        if self._table.get(name, target) != target:
            raise UserError(f"{self.kind} {name!r} exists already ({self._table[name]}); rename yours")
        self._table[name] = target
        self._objects[name] = value
        authors.note(target)

    def _check_name(self, name: Any) -> None:
        if not isinstance(name, str):
            raise UserError(f"{self.kind}: name is {repr(name)[:80]}, expected str")

    def __contains__(self, name: str) -> bool:
        self._scan()
        return name in self._table

    def __iter__(self) -> Iterator[str]:
        self._scan()
        return iter(sorted(self._table))

    def origin(self, name: str) -> str:
        """``module:attribute`` of an entry."""
        self._scan()
        return self._table[name]

    def get(self, name: str, flag: str = "") -> Any:
        """Import and return the object of a name.

        Raises:
            UserError: unknown name (with a suggestion), or its code cannot be imported.
        """
        self._scan()
        if name not in self._table:
            raise unknown(self.kind, name, self._table, flag)
        if name not in self._objects:
            module, _, attribute = self._table[name].partition(":")
            authors.note(module)
            try:
                self._objects[name] = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise UserError(f"{self.kind} {name!r} ({self._table[name]}) cannot be loaded: {error}") from error
        return self._objects[name]


T = TypeVar("T")


class Table(Registry, Generic[T]):
    """A registry of objects of one type, read like a dictionary: the built-in ones in their order, then others by name.

    Names of other packages are loaded when a name is looked for that is not built in, or when all are listed. One that
    cannot be loaded, is no ``expected`` or does not pass ``check`` is told and ignored.

    Args:
        kind, group: as :class:`Registry`.
        expected: type of the entries.
        builtin: name -> entry.
        check: called with the name and an entry that is added; raises UserError for what cannot be taken.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        expected: type[T],
        builtin: Mapping[str, T],
        check: Callable[[str, T], None] = lambda name, value: None,
    ) -> None:
        super().__init__(kind, group, dict.fromkeys(builtin, "ddbench"))
        self._expected = expected
        self._check = check
        self._builtin = tuple(builtin)
        self._objects.update(builtin)

    def _scan(self) -> None:
        if self._scanned:
            return
        super()._scan()
        for name, target in list(self._table.items()):
            if name in self._objects:
                continue
            try:
                module, _, attribute = target.partition(":")
                authors.note(module)
                value = getattr(importlib.import_module(module), attribute)
                self._accept(name, value)
                self._objects[name] = value
            except Exception as error:  # someone else's code, which must not stop every verb
                del self._table[name]
                print(f"ddbench: {self.kind} {name!r} ({target}) cannot be loaded: {error}; ignored", file=sys.stderr)

    def _accept(self, name: str, value: Any) -> None:
        if not isinstance(value, self._expected):
            raise UserError(f"{self.kind} {name!r} is a {type(value).__name__}, expected {self._expected.__name__}")
        self._check(name, value)

    def register(self, name: str, value: T) -> None:
        """Add an entry; the same one again changes nothing.

        Raises:
            UserError: the name is no text or taken, or the entry cannot be taken.
        """
        self._check_name(name)
        if name in self:
            if self._objects[name] == value:
                return
            raise UserError(f"{self.kind} {name!r} exists already ({self._table[name]}); rename yours")
        self._accept(name, value)
        self._table[name] = "registered in Python"
        self._objects[name] = value

    def get(self, name: str, flag: str = "") -> T:
        """The entry of a name.

        Raises:
            UserError: unknown name (with a suggestion).
        """
        if name in self._objects:
            return self._objects[name]  # type: ignore[no-any-return]
        self._scan()
        if name not in self._objects:
            raise unknown(self.kind, name, self, flag)
        return self._objects[name]  # type: ignore[no-any-return]

    def __getitem__(self, name: str) -> T:
        try:
            return self.get(name)
        except UserError as error:
            raise KeyError(str(error)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._objects or super().__contains__(str(name))

    def __iter__(self) -> Iterator[str]:
        self._scan()
        return iter((*self._builtin, *sorted(set(self._table) - set(self._builtin))))

    def __len__(self) -> int:
        self._scan()
        return len(self._table)

    def values(self) -> list[T]:
        """The entries in order."""
        return [self._objects[name] for name in self]

    def items(self) -> list[tuple[str, T]]:
        """Names and entries in order."""
        return [(name, self._objects[name]) for name in self]


def resolve(target: str | Callable[..., Any], what: str) -> Callable[..., Any]:
    """A function that is given as itself or as ``module:function``.

    Raises:
        UserError: there is none of that name; the message begins with ``what``.
    """
    if callable(target):
        authors.note(getattr(target, "__module__", None) or "ddbench")
        return target
    module, _, name = target.partition(":")
    authors.note(module)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{what}: {target} cannot be loaded: {error}") from error
    if not callable(found):
        raise UserError(f"{what}: {target} is no function")
    return found  # type: ignore[no-any-return]


MAX_PYTHON = 4 * 2**20
"""Bytes of a file of one's own with a method, at most."""


def load_file(path: Path) -> Any:
    """Import a Python file by path under a name of its own (``ddbench_ext_<stem>``); once while it does not change.

    The module's ``__ddbench_sha256__`` is the hash of the file.

    Raises:
        UserError: no plain file, or an error while it is executed.
    """
    if path.is_dir():
        raise UserError(f"{path}: no such Python file, it is a folder")
    source = read_bytes(path, "Python file", MAX_PYTHON)
    spec = importlib.util.spec_from_file_location(f"ddbench_ext_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file (expected NAME.py)")
    digest = hashlib.sha256(source).hexdigest()
    loaded = sys.modules.get(spec.name)
    if loaded is not None and (loaded.__file__, loaded.__ddbench_sha256__) == (spec.origin, digest):
        return loaded
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__ddbench_sha256__"] = digest
    authors.note(spec.name)
    sys.modules[module.__name__] = module  # dataclasses look their annotations up there
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no __pycache__ beside a user's file
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        where = authors.place(error)
        raise UserError(
            f"{path}: {type(error).__name__} while loading it: {error}" + (f" ({where})" if where else "")
        ) from error
    finally:
        sys.dont_write_bytecode = writes
    return module
