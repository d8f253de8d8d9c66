"""From names and settings to a run: what the command line and a caller in Python share. Loads torch when it is used."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.config import apply_config, check_config_class, without_idle
from ddbench.data.specs import dataset_slug, modality_of
from ddbench.distillation.recipes import DEFAULT_DATASET, RUN_KEYS, Recipe, choose_recipe
from ddbench.methods import METHODS
from ddbench.modalities import modality
from ddbench.registry import load_file, suggest, unknown
from ddbench.runtime.device import begun_threads, own_threads, worker_count
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.runtime.ranks import join
from ddbench.runtime.shards import WHOLE, Shard

if TYPE_CHECKING:
    from ddbench.methods.base import Method
    from ddbench.methods.needs import Need
    from ddbench.runtime.forecast import Forecast
    from ddbench.runtime.shards import State


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
    elif method not in METHODS:
        raise UserError(f"{unknown('method', method, METHODS, '--method')}; one of your own: --method-file FILE")
    kind: type[Method[Any]] = METHODS.get(method, "--method")
    found = choose_recipe(recipe, method, {"dataset": dataset, "ipc": ipc, "student": student, "size": size})
    where = f"recipe {found.name}" if found else ""
    data = dataset or (found.run.get("dataset") if found else None)
    kind = kind.fitting(method, data, modality_of(data)) if data else kind
    config = apply_config(kind.config_class, found.config if found else {}, where)
    _check_needs(method, kind.needs(config))
    return Chosen(name=method, kind=kind, recipe=found, config=config)


def _check_needs(name: str, found: Any) -> None:
    """Refuse a method that does not say what it needs.

    Raises:
        UserError: names the method and what it returned.
    """
    from ddbench.methods.needs import Need

    if not isinstance(found, tuple | list) or not all(isinstance(need, Need) for need in found):
        raise UserError(f"--method {name}: needs() returned {found!r:.80}, expected a tuple of Need; mend the method")


def methods_in(path: Path) -> dict[str, type[Method[Any]]]:
    """The method classes of a file by their ``name`` attribute, if they have one, and by their lower-case class name.

    Raises:
        UserError: the file cannot be loaded.
    """
    from ddbench.methods.base import Method

    module = load_file(path)
    kinds = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    found: dict[str, type[Method[Any]]] = {}
    for kind in kinds:
        name = getattr(kind, "name", None)
        for one in (name, kind.__name__.lower()) if isinstance(name, str) else (kind.__name__.lower(),):
            found.setdefault(one, kind)
    return found


def register(name: str, path: Path) -> None:
    """Take the method class of a file: the one whose ``name`` attribute or lower-case class name is ``name``.

    Raises:
        UserError: the file cannot be loaded, defines no such method, or the name is taken.
    """
    found = methods_in(path)
    if name not in found:
        raise UserError(f"--method-file {path}: defines no method {name!r}; it defines: {', '.join(found) or 'none'}")
    check_config_class(getattr(found[name], "config_class", None), f"--method-file {path}", defaults=True)
    METHODS.register(name, found[name])


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
    """``runs/<dataset>-ipc<K>-<method>-s<seed>``; ``full`` for one of the whole training set, nothing for bytes."""
    budget = {"ipc": f"-ipc{ipc}", "all": "-full"}.get(unit, "")
    return Path("runs") / f"{dataset_slug(dataset)}{budget}-{method}-s{seed}"


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
    skip_broken: bool = False,
    device: str = "auto",
    threads: int = 0,
    compile: str = "auto",
    quiet: bool = False,
    workers: int = 1,
    shard: Shard = WHOLE,
    in_parts: bool = False,
    **settings: Any,
) -> Path:
    """Make a synset with a method, as ``ddbench distill``; a killed run goes on, a finished one is left as it is.

    Args:
        method, method_file: its name (``ddbench list methods``), and a Python file that defines it if none of these.
        dataset, size: name, or ``folder:PATH``, and side in pixels where it can be chosen; default ``digits``.
        ipc, student: images per class, and the network that is matched; default: a ConvNet that fits the images.
        recipe: ``auto``, ``none``, a name, or ``FILE.toml[:NAME]``; what is None elsewhere is the recipe's, if any.
        out: run folder; default: :func:`default_out`.
        preprocess, holdout: ``meanstd`` (default) or ``zca``; fraction held out of the training images (default 0.1).
        validate_every, validate_epochs, track, checkpoint_every, seed, compile: as in
            :class:`ddbench.distillation.runner.RunSettings`; validate_every is 0 by default.
        data, download: folder with the datasets, default $DDBENCH_DATA or the user's cache; fetch what is not here.
        skip_broken: leave image files that cannot be read out; else they are named and nothing is done.
        device, threads: ``auto``, ``cpu``, ``cuda[:<i>]``; 0: as many as the run was begun with, a new one 1 thread
            for images up to 16 px, else one a core, shared out over the workers.
        workers, shard, in_parts: processes that share the parts of the work out, 0: one a core, on a GPU one; which of
            the parts this process does; part by part in any case, as :func:`ddbench.runtime.jobs.engine` wants it. For
            methods whose parts need nothing of each other (RDED, SRe2L, D3HR, coresets and more).
        settings: the method's own settings by name, and flags of what it needs (``buffers``, ...).

    Returns:
        The synset's file; its folder is the run.

    Raises:
        UserError: whatever the user can mend, before anything is written where possible.
        Unfinished: the shard is done, others are not.
    """
    given = {name: value for name, value in locals().items() if name != "settings"}
    from ddbench.distillation import runner

    return runner.distill(**opened(given, settings))


def status(**given: Any) -> tuple[Path, list[State]]:
    """The folder of the run that :func:`distill` makes with the same arguments, and what became of each of its parts.

    Raises:
        UserError: as :func:`distill`.
    """
    from ddbench.distillation import pieces

    return pieces.status(**_run(given))


def forecast(seconds: float, **given: Any) -> Forecast:
    """What :func:`distill` will take with the same arguments; steps are tried for some ``seconds``.

    Raises:
        UserError: as :func:`distill`, or nothing can be tried.
    """
    from ddbench.distillation import forecast as forecasts

    return forecasts.forecast(**_run(given), seconds=seconds)


def _run(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the runner is called with, of some arguments of :func:`distill`."""
    own = {name: one.default for name, one in inspect.signature(distill).parameters.items() if name != "settings"}
    settings = {name: value for name, value in given.items() if name not in own}
    return opened(own | {name: given[name] for name in own if name in given}, settings)


def opened(given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the runner is called with, the dataset opened.

    Args:
        given: all arguments of :func:`distill` by name, but its ``settings``.
        settings: the method's own and those of its needs, as far as they are not the recipe's.
    """
    named = {name: given[name] for name in ("recipe", "dataset", "ipc", "student", "size")}
    file, out, data = (None if given[name] is None else Path(given[name]) for name in ("method_file", "out", "data"))
    chosen = choose(given["method"], method_file=file, **named)
    asked = {name: given[name] for name in RUN_KEYS if given[name] is not None}
    said = {**_DEFAULTS, **chosen.run, **asked}
    chosen.kind.fitting(chosen.name, said["dataset"], own := modality_of(said["dataset"]))
    if said.get("ipc") and modality(own).unit == "ipc" != chosen.kind.unit:
        raise UserError(f"--ipc {said['ipc']}: --method {chosen.name} has no number of images a class; leave it out")
    return _opened(chosen, settings, {**modality(own).run_defaults, **said}, given, out, data)


_HOW = ("seed", "validate_epochs", "track", "checkpoint_every", "device", "threads", "compile", "download")
"""Fields of the run's settings that are the caller's alone."""

_DEFAULTS = {"dataset": DEFAULT_DATASET, "validate_every": 0}


def _opened(
    chosen: Chosen,
    settings: Mapping[str, Any],
    said: Mapping[str, Any],
    given: Mapping[str, Any],
    out: Path | None,
    data: Path | None,
) -> dict[str, Any]:
    """What the runner is called with, the dataset opened.

    Args:
        settings: the method's own and those of its needs, as far as they are not the recipe's.
        said: values of :data:`ddbench.distillation.recipes.RUN_KEYS`.
        given: the other arguments of :func:`distill`.
    """
    from ddbench.data.load import load_dataset
    from ddbench.distillation.begin import RunSettings, Sharing
    from ddbench.distillation.folder import CONFIG

    config, flags = _settings(chosen, settings)
    ipc, student, recipe = said.get("ipc"), said.get("student"), chosen.recipe
    if ipc is None and chosen.kind.unit == "ipc":
        raise UserError("--ipc is missing: how many images per class?")
    ranks = join()
    console = Console(given["quiet"] or not ranks.leads)
    with ranks.first():
        dataset = load_dataset(
            said["dataset"],
            data,
            size=said.get("size"),
            download=given["download"],
            console=console,
            skip_broken=given["skip_broken"],
            modality=None,
        )
    side = dataset.spec.size
    if recipe is not None:
        console.say(f"recipe {chosen.name}/{recipe.name} ({recipe.source})")
    out = out or default_out(chosen.name, chosen.kind.unit, dataset.spec.name, ipc, given["seed"])
    begun = given["threads"] or begun_threads(out / CONFIG)
    own = modality(dataset.spec.modality)
    device = ranks.device(own.device(given["device"], given["compile"]))
    workers = worker_count(given["workers"], begun, device)[0]
    threads = own_threads(begun, side, ranks.beside * workers)
    how = {name: given[name] for name in _HOW} | {"threads": threads, "device": device}
    asked = Sharing(shard=given["shard"], workers=workers, in_parts=given["in_parts"])
    again = {**given, "out": out, "threads": threads, "quiet": True, "workers": 1, "shard": WHOLE, "in_parts": False}
    run = RunSettings(
        **how,
        ranks=ranks,
        sharing=replace(asked, arguments={"given": again, "settings": dict(settings)}),
        ipc=ipc or 0,
        student=own.run_student(student, dataset),
        preprocess=said["preprocess"],
        holdout=said["holdout"],
        validate_every=said["validate_every"],
        flags=flags,
        asked={"experts": recipe.experts} if recipe and recipe.experts else {},
    )
    return {
        "name": chosen.name,
        "kind": chosen.kind,
        "config": config,
        "dataset": dataset,
        "data": data,
        "settings": run,
        "out": out,
        "console": console,
    }


def _settings(chosen: Chosen, settings: Mapping[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """The method's config and the flags of its needs with settings by name.

    Raises:
        UserError: a setting of neither (with a suggestion), or of another type.
    """
    where = f"distill {chosen.name}"
    kind = chosen.kind.config_class
    own = _own(kind, settings)
    config = apply_config(kind, own, "", base=chosen.config)  # mistakes name flags, also from Python
    config = without_idle(config, chosen.config)
    flags = chosen.flags(config)
    known = [*(item.name for item in fields(kind)), *(item.name for one in flags for item in fields(one))]
    for name in settings:
        if name not in known:
            raise UserError(f"{where}: unknown setting {name!r}{suggest(name, known)}; known: {', '.join(known)}")
    return config, tuple(apply_config(type(one), _own(type(one), settings), "", base=one) for one in flags)


def _own(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {item.name: values[item.name] for item in fields(kind) if item.name in values}
