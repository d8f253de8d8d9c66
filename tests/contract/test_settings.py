"""What every settings class promises: words below each field, and a range for each number."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields
from typing import Any, get_args

import pytest

from ddbench.config import check_config, check_config_class, setting_of, types_of
from ddbench.diffusion.recipe import DiffusionRecipe
from ddbench.experts.recipe import ExpertRecipe
from ddbench.methods import METHODS
from ddbench.protocols.protocol import PROTOCOLS, Protocol
from ddbench.teachers.recipe import TeacherRecipe

CONFIGS: dict[str, Any] = {name: METHODS.get(name).config_class for name in METHODS}
RECIPES = {"experts": ExpertRecipe, "teacher": TeacherRecipe, "diffusion": DiffusionRecipe}
FREE = {("experts", "options"), ("teacher", "options")}
"""Numbers whose meaning is the optimiser's of torch, which checks them."""


def words(config_class: type[Any]) -> dict[str, str]:
    """The string below each field, of the class and of those that it inherits from."""
    found: dict[str, str] = {}
    for kind in reversed([one for one in config_class.__mro__ if one is not object]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        for item, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                said = below.value if isinstance(below, ast.Expr) else None
                found[item.target.id] = said.value if isinstance(said, ast.Constant) else ""
    return found


def is_number(kind: Any) -> bool:
    """Whether numbers are in values of a type."""
    return kind in (int, float) or any(is_number(part) for part in get_args(kind) if not isinstance(part, str))


CLASSES = {**CONFIGS, **RECIPES, "protocol": Protocol}


@pytest.mark.parametrize("name", CLASSES)
def test_every_setting_has_words_and_every_number_a_range(name: str):
    kind = CLASSES[name]
    check_config_class(kind, name, defaults=kind is not Protocol)
    said, types = words(kind), types_of(kind)
    for item in fields(kind):
        assert said.get(item.name, "").strip(), f"{kind.__name__}.{item.name} has no words below it"
        if is_number(types[item.name]) and (name, item.name) not in FREE:
            assert setting_of(item).bounded, f"{kind.__name__}.{item.name} has no range: use setting()"


@pytest.mark.parametrize("name", [*CONFIGS, *RECIPES])
def test_defaults_are_in_range(name: str):
    check_config(CLASSES[name]())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_are_in_range(name: str):
    check_config(PROTOCOLS[name])
