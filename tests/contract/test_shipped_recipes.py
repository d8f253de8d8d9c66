"""Every recipe that ships fits its method, its dataset, its student and its experts."""

from __future__ import annotations

import tomllib

import pytest

from ddbench.cli.buffer import Args, _from_recipe
from ddbench.config import apply_config
from ddbench.data.specs import DATASETS, PREPROCESS_KINDS
from ddbench.distillation.recipes import all_recipes, choose_recipe, content_folder
from ddbench.experts.recipe import ExpertRecipe
from ddbench.methods import METHODS
from ddbench.methods.needs.experts import Experts
from ddbench.networks.check import check_student
from ddbench.networks.names import parse_student

RECIPES = all_recipes()
IMAGES = [recipe for recipe in RECIPES if DATASETS[recipe.run["dataset"]].modality == "image"]
GRAPHS = [recipe for recipe in RECIPES if recipe not in IMAGES]


def test_there_are_recipes():
    folder = content_folder()
    assert folder is not None
    tables = {
        f"{path.parent.name}/{name}"
        for path in folder.glob("*/recipes.toml")
        for name in tomllib.loads(path.read_text(encoding="utf-8"))
    }
    assert {f"{recipe.method}/{recipe.name}" for recipe in RECIPES} == tables
    assert len(tables) > 10
    assert {recipe.method for recipe in RECIPES} <= set(METHODS)


@pytest.mark.parametrize("recipe", GRAPHS, ids=lambda recipe: f"{recipe.method}/{recipe.name}")
def test_recipe_of_graphs(recipe):
    assert len(recipe.source) > 3
    assert recipe.name == recipe.run["dataset"]
    kind = METHODS.get(recipe.method)
    apply_config(kind.config_class, recipe.config, recipe.name)
    assert choose_recipe("auto", recipe.method, {"dataset": recipe.name}) == recipe


@pytest.mark.parametrize("recipe", IMAGES, ids=lambda recipe: f"{recipe.method}/{recipe.name}")
def test_recipe(recipe):
    assert len(recipe.source) > 3, "no source"
    for setting, source in recipe.sources.items():
        assert setting in {**recipe.config, **recipe.experts, **recipe.run}
        assert len(source) > 3
    spec = DATASETS[recipe.run["dataset"]]
    size = recipe.run.get("size", spec.size)
    assert spec.resizable or "size" not in recipe.run or size == spec.size
    assert recipe.run["ipc"] >= 1
    assert recipe.name.startswith(f"{recipe.run['dataset']}-ipc{recipe.run['ipc']}")
    student = recipe.run["student"]
    assert str(parse_student(student)) == student
    check_student(student, spec.channels, size)
    assert recipe.run.get("preprocess", "meanstd") in PREPROCESS_KINDS
    assert 0 <= recipe.run.get("holdout", 0.1) <= 0.9
    config = apply_config(METHODS.get(recipe.method).config_class, recipe.config, recipe.name)
    for name, value in recipe.config.items():
        assert getattr(config, name) == value
    kind = METHODS.get(recipe.method)
    if any(isinstance(need, Experts) for need in kind.needs(kind.config_class())):
        experts = recipe.expert_recipe()
        experts.check()
        assert recipe.experts["experts"] >= 1
        if hasattr(config, "max_start_epoch"):  # NCFM takes the first and the last epoch, whatever their number
            assert config.max_start_epoch - 1 + config.expert_epochs <= experts.epochs
        assert experts.holdout == recipe.run.get("holdout", experts.holdout)
        assert experts.preprocess == recipe.run.get("preprocess", experts.preprocess)


@pytest.mark.parametrize("recipe", IMAGES, ids=lambda recipe: f"{recipe.method}/{recipe.name}")
def test_recipe_is_chosen_by_itself(recipe):
    """``--dataset D --ipc K`` (and size) find a recipe of that cell; its experts are those of ``buffer --recipe``."""
    run = {"dataset": recipe.run["dataset"], "ipc": recipe.run["ipc"], "student": recipe.run["student"]}
    found = choose_recipe("auto", recipe.method, {**run, "size": None})
    assert found is not None
    assert {key: found.run[key] for key in run} == run
    if not recipe.experts:
        return
    args = _from_recipe(f"{recipe.method}/{recipe.name}")
    wanted = recipe.expert_recipe()
    assert isinstance(args, Args)
    assert (args.dataset, args.student, args.experts) == (run["dataset"], run["student"], recipe.experts["experts"])
    for name in vars(ExpertRecipe()):
        if name not in ("options", "kind"):
            assert getattr(args.settings, name) == getattr(wanted, name), name
