"""Recipes: a config for one dataset, IPC and student, as TOML, with the source of its values. Imports no torch.

The files are ``methods/<name>/recipes.toml`` of the checkout; the wheel carries them as ``ddbench/_content/methods``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.config import apply_config, types_of
from ddbench.experts.recipe import ExpertRecipe
from ddbench.methods import METHODS
from ddbench.methods.needs.flags import SHIPPED
from ddbench.registry import suggest, unknown
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_toml

_PACKAGE = Path(__file__).resolve().parent.parent
MAX_BYTES = 2**20

RUN_KEYS = {
    "dataset": str,
    "ipc": int,
    "student": str,
    "size": int,
    "preprocess": str,
    "holdout": float,
    "validate_every": int,
}
"""Settings of the run that a recipe may say; those of needs (:func:`flag_kinds`) come to them."""

DEFAULT_DATASET = "digits"
"""Of a run that names none."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings for one cell.

    Attributes:
        name: e.g. ``cifar10-ipc10``.
        method: whose recipe it is.
        source: where the values are from.
        run: settings of the run (:data:`RUN_KEYS`) and flags of the method's needs.
        config: settings of the method.
        experts: number and settings of the experts that it wants (keys of :class:`ExpertRecipe` and ``experts``).
        sources: source of single values, where it differs from ``source``.
    """

    name: str
    method: str
    source: str
    run: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    experts: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def expert_recipe(self) -> ExpertRecipe:
        """The experts that it wants, its preprocess and held-out fraction included."""
        values = {name: value for name, value in self.experts.items() if name != "experts"}
        for name in ("preprocess", "holdout"):
            if name in self.run:
                values[name] = self.run[name]
        return ExpertRecipe.from_json(values, f"recipe {self.name}")


def content_folder() -> Path | None:
    """The folder with one sub-folder a method: of the checkout, or inside the installed package."""
    for folder in (_PACKAGE / "_content" / "methods", _PACKAGE.parent / "methods"):
        if folder.is_dir():
            return folder
    return None


def method_recipes(method: str) -> dict[str, Recipe]:
    """Recipes that ship with a method, by name; empty when it has none."""
    folder = content_folder()
    path = folder / method / "recipes.toml" if folder else None
    return read_recipes(path, method) if path and path.is_file() else {}


def all_recipes() -> list[Recipe]:
    """Every recipe that ships with ddbench."""
    folder = content_folder()
    names = sorted(path.parent.name for path in folder.glob("*/recipes.toml")) if folder else []
    return [recipe for name in names for recipe in method_recipes(name).values()]


def read_recipes(path: Path, method: str) -> dict[str, Recipe]:
    """Read a recipe file: one table a recipe.

    Raises:
        UserError: not TOML, too large, or a table with unknown or malformed keys.
    """
    tables = read_toml(path, "recipe file", MAX_BYTES)
    return {name: _recipe(name, table, method, f"{path}, recipe {name}") for name, table in tables.items()}


def _recipe(name: str, table: Any, method: str, where: str) -> Recipe:
    if not isinstance(table, dict):
        raise UserError(f"{where}: expected a table [{name}]")
    parts = {"source": str, "config": dict, "experts": dict, "sources": dict}
    kinds = {**RUN_KEYS, **flag_kinds(*SHIPPED)}
    if method in METHODS and not set(table) <= {*parts, *kinds}:  # asks the class: loads torch
        kind = METHODS.get(method)
        needs = kind.needs(apply_config(kind.config_class, table.get("config", {}), where))
        kinds |= flag_kinds(*(need.flags for need in needs))
    for key, value in table.items():
        kind = parts.get(key) or kinds.get(key)
        if kind is None:
            raise UserError(f"{where}: unknown key {key!r}{suggest(key, [*parts, *kinds])}")
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) != (kind is bool):
            raise UserError(f"{where}: {key} is {value!r}, expected {kind.__name__}")
    recipe = Recipe(
        name=name,
        method=method,
        source=table.get("source", ""),
        run={key: kinds[key](table[key]) for key in kinds if key in table},
        config=table.get("config", {}),
        experts=table.get("experts", {}),
        sources=table.get("sources", {}),
    )
    recipe.expert_recipe()
    return recipe


def flag_kinds(*flags: type[Any]) -> dict[str, type[Any]]:
    """Which flags of needs a recipe may set, with their types: numbers and texts; where things lie is no recipe's."""
    hints = {name: hint for one in flags for name, hint in types_of(one).items()}
    kinds = (bool, int, float, str)
    return {name: kind for name, hint in hints.items() for kind in kinds if hint in (kind, kind | None)}


def choose_recipe(wanted: str, method: str, run: dict[str, Any]) -> Recipe | None:
    """The recipe for a command.

    Args:
        wanted: ``auto`` (the shipped one for this dataset, IPC and student, if any), ``none``, a shipped recipe's name,
            or a TOML file (``FILE.toml`` with one recipe, ``FILE.toml:NAME``).
        run: what the command line says already (``dataset``, ``ipc``, ``student``; ``None``: not said; a
            dataset that is not said is digits).

    Raises:
        UserError: no such recipe or file.
    """
    if wanted == "none":
        return None
    if wanted == "auto":
        said = {**run, "dataset": run.get("dataset") or DEFAULT_DATASET}
        fitting = [
            recipe
            for recipe in method_recipes(method).values()
            if all(said.get(key) in (None, recipe.run.get(key)) for key in ("dataset", "ipc", "student", "size"))
        ]
        return fitting[0] if fitting and (run.get("ipc") is not None or "ipc" not in fitting[0].run) else None
    file, _, name = wanted.partition(".toml")
    if ".toml" in wanted:
        recipes = read_recipes(Path(file + ".toml"), method)
        name = name.lstrip(":") or (next(iter(recipes)) if len(recipes) == 1 else "")
        if name not in recipes:
            raise UserError(f"--recipe {wanted}: name one of its recipes as FILE.toml:NAME: {', '.join(recipes)}")
        return recipes[name]
    recipes = method_recipes(method)
    if wanted not in recipes:
        raise unknown(f"recipe of {method}", wanted, [*recipes, "auto", "none"], "--recipe")
    return recipes[wanted]
