"""From names and settings to a run: what the command line and a caller in Python share. Loads torch when it is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.data.specs import dataset_slug
from ddbench.distillation.recipes import RUN_KEYS, Recipe, apply_config, choose_recipe
from ddbench.methods import METHODS
from ddbench.networks.names import default_student, parse_student
from ddbench.registry import load_file, suggest
from ddbench.runtime.device import own_threads
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console

if TYPE_CHECKING:
    from ddbench.methods.base import Method
    from ddbench.methods.needs import Need


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A method and the recipe for it.

    Attributes:
        name: the method's name.
        kind: its class.
        recipe: the recipe that fits; None: there is none, or none is wanted.
        config: the method's settings with the recipe's values.
    """

    name: str
    kind: type[Method[Any]]
    recipe: Recipe | None
    config: Any

    @property
    def run(self) -> dict[str, Any]:
        """What the recipe says about the run."""
        return {} if self.recipe is None else {key: v for key, v in self.recipe.run.items() if key in RUN_KEYS}

    def flags(self, config: Any) -> tuple[Any, ...]:
        """Flags of what the method needs with these settings, one instance a kind, with the recipe's values.

        Raises:
            UserError: the recipe sets a flag of something that the method does not need.
        """
        said = {} if self.recipe is None else {key: v for key, v in self.recipe.run.items() if key not in RUN_KEYS}
        kinds = dict.fromkeys(need.flags for need in self.kind.needs(config))
        known = {item.name for kind in kinds for item in fields(kind)}
        for key in said:
            if key not in known and self.recipe is not None:
                raise UserError(f"recipe {self.recipe.name}: {key} is a setting of nothing that {self.name} needs")
        return tuple(kind(**_own(kind, said)) for kind in kinds)


def choose(
    method: str,
    *,
    method_file: Path | None = None,
    recipe: str = "auto",
    dataset: str | None = None,
    ipc: int | None = None,
    student: str | None = None,
    size: int | None = None,
) -> Chosen:
    """The method of a name, and the recipe for a dataset, IPC, student and size as far as they are said.

    Args:
        method_file: a Python file that defines the method.
        recipe: as :func:`ddbench.distillation.recipes.choose_recipe`.

    Raises:
        UserError: no such method, file or recipe; or a recipe that does not fit the method.
    """
    if method_file is not None:
        register(method, method_file)
    kind: type[Method[Any]] = METHODS.get(method, "--method")
    found = choose_recipe(recipe, method, {"dataset": dataset, "ipc": ipc, "student": student, "size": size})
    where = f"recipe {found.name}" if found else ""
    config = apply_config(kind.config_class, found.config if found else {}, where)
    return Chosen(name=method, kind=kind, recipe=found, config=config)


def register(name: str, path: Path) -> None:
    """Take the method class of a file: the one whose ``name`` attribute or lower-case class name is ``name``.

    Raises:
        UserError: the file cannot be loaded, defines no such method, or the name is taken.
    """
    from ddbench.methods.base import Method

    module = load_file(path)
    kinds = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    for kind in kinds:
        if name in (getattr(kind, "name", None), kind.__name__.lower()):
            METHODS.register(name, kind)
            return
    listed = ", ".join(kind.__name__.lower() for kind in kinds) or "none"
    raise UserError(f"--method-file {path}: defines no method {name!r}; it defines: {listed}")


def needed_experts(chosen: Chosen) -> tuple[int, Any] | None:
    """Number and :class:`ddbench.experts.recipe.ExpertRecipe` of the experts that a recipe asks for.

    Of the method's kind where the recipe names none; None: the method needs no experts.
    """
    from ddbench.methods.needs.experts import Experts

    needs: Iterable[Need[Any]] = chosen.kind.needs(chosen.config)
    need = next((need for need in needs if isinstance(need, Experts)), None)
    if need is None:
        return None
    recipe = chosen.recipe
    if recipe is None:
        return need.asked({})
    count, experts = need.asked(recipe.experts, f"recipe {recipe.name}")
    return count, replace(
        experts, **{name: recipe.run[name] for name in ("preprocess", "holdout") if name in recipe.run}
    )


def default_out(method: str, unit: str, dataset: str, ipc: int | None, seed: int) -> Path:
    """``runs/<dataset>-ipc<K>-<method>-s<seed>``, with ``full`` for a method of the whole training set."""
    budget = f"ipc{ipc}" if unit == "ipc" else "full"
    return Path("runs") / f"{dataset_slug(dataset)}-{budget}-{method}-s{seed}"


def distill(
    method: str,
    *,
    dataset: str | None = None,
    ipc: int | None = None,
    size: int | None = None,
    student: str | None = None,
    recipe: str = "auto",
    out: Path | str | None = None,
    seed: int = 0,
    preprocess: str | None = None,
    holdout: float | None = None,
    validate_every: int | None = None,
    validate_epochs: int = 300,
    track: str = "jsonl",
    checkpoint_every: int = 0,
    method_file: Path | str | None = None,
    data: Path | str | None = None,
    download: bool = False,
    device: str = "auto",
    threads: int = 0,
    compile: str = "auto",
    quiet: bool = False,
    **settings: Any,
) -> Path:
    """Make a synset with a method, as ``ddbench distill``; a killed run goes on, a finished one is left as it is.

    What is None is the recipe's, else the default.

    Args:
        method: its name (``ddbench list methods``).
        dataset: its name, or ``folder:PATH``; default ``digits``.
        ipc: images per class; not for a method of the whole training set.
        size: side in pixels for image folders and ImageNet.
        student: network that is matched; default: a ConvNet that fits the image size.
        recipe: ``auto``, ``none``, a name, or ``FILE.toml[:NAME]``.
        out: run folder; default: :func:`default_out`.
        seed: names every draw of the run.
        preprocess: ``meanstd`` (default) or ``zca``.
        holdout: fraction of the training images held out for validation; default 0.1.
        validate_every: iterations between validations on the held-out images; 0 (default): never.
        validate_epochs: epochs of the student that is validated.
        track: ``jsonl``, ``wandb`` or ``tensorboard``.
        checkpoint_every: iterations between checkpoints; 0: every 30 seconds.
        method_file: a Python file that defines the method.
        data: folder with the datasets; default: $DDBENCH_DATA, else the user's cache folder.
        download: fetch what is not on this machine.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<i>``.
        threads: 0: 1 for images up to 16 px, else one a core.
        compile: ``auto``, ``on`` or ``off``.
        quiet: say nothing.
        settings: the method's own settings by name, and flags of what it needs (``buffers``, ...).

    Returns:
        The synset's file; its folder is the run.

    Raises:
        UserError: whatever the user can mend, before anything is written where possible.
    """
    from ddbench.data.load import load_dataset
    from ddbench.distillation import runner

    file = None if method_file is None else Path(method_file)
    chosen = choose(method, method_file=file, recipe=recipe, dataset=dataset, ipc=ipc, student=student, size=size)
    config, flags = _settings(chosen, settings)
    given = {
        "dataset": dataset,
        "ipc": ipc,
        "size": size,
        "student": student,
        "preprocess": preprocess,
        "holdout": holdout,
        "validate_every": validate_every,
    }
    said = {**chosen.run, **{key: value for key, value in given.items() if value is not None}}
    ipc = said.get("ipc")
    if ipc is None and chosen.kind.unit == "ipc":
        raise UserError("--ipc is missing: how many images per class?")
    console, root = Console(quiet), None if data is None else Path(data)
    real = load_dataset(said.get("dataset", "digits"), root, size=said.get("size"), download=download)
    name, side = said.get("student"), real.spec.size
    if chosen.recipe is not None:
        console.say(f"recipe {method}/{chosen.recipe.name} ({chosen.recipe.source})")
    return runner.distill(
        method,
        chosen.kind,
        config,
        dataset=real,
        data=root,
        settings=runner.RunSettings(
            ipc=ipc or 0,
            student=str(parse_student(name)) if name else default_student(side),
            seed=seed,
            preprocess=said.get("preprocess", "meanstd"),
            holdout=said.get("holdout", 0.1),
            validate_every=said.get("validate_every", 0),
            validate_epochs=validate_epochs,
            track=track,
            checkpoint_every=checkpoint_every,
            device=device,
            threads=own_threads(threads, side),
            compile=compile,
            flags=flags,
            asked={"experts": chosen.recipe.experts} if chosen.recipe and chosen.recipe.experts else {},
            download=download,
        ),
        out=Path(out) if out is not None else default_out(method, chosen.kind.unit, real.spec.name, ipc, seed),
        console=console,
    )


def _settings(chosen: Chosen, settings: Mapping[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """The method's config and the flags of its needs with settings by name.

    Raises:
        UserError: a setting of neither (with a suggestion), or of another type.
    """
    where = f"distill {chosen.name}"
    kind = chosen.kind.config_class
    own = _own(kind, settings)
    plain = {
        name: value for name, value in own.items() if type(getattr(chosen.config, name)) in (int, float, bool, str)
    }
    apply_config(kind, plain, where)
    config = replace(chosen.config, **{**own, **{n: _like(getattr(chosen.config, n), v) for n, v in plain.items()}})
    flags = chosen.flags(config)
    known = [*(item.name for item in fields(kind)), *(item.name for one in flags for item in fields(one))]
    for name in settings:
        if name not in known:
            raise UserError(f"{where}: unknown setting {name!r}{suggest(name, known)}; known: {', '.join(known)}")
    return config, tuple(replace(one, **_paths(one, _own(type(one), settings))) for one in flags)


def _own(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {item.name: values[item.name] for item in fields(kind) if item.name in values}


def _like(default: Any, value: Any) -> Any:
    """A whole number for a setting with a fraction is one: 10 is recorded as 10.0."""
    return float(value) if isinstance(default, float) else value


def _paths(flags: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {n: Path(v) if isinstance(getattr(flags, n), Path) else v for n, v in values.items()}
