"""What is installed: the wheel's content, its version, and imports that stay light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest

import ddbench

PACKAGE = Path(ddbench.__file__).resolve().parent
CHECKOUT = Path(__file__).resolve().parents[2]

CLEAN = """
import json, sys
from ddbench.cli.main import run
run([sys.argv[1]])
heavy = {"jinja2", "jsonschema", "kornia", "numpy", "rich", "scipy", "sklearn", "torch", "torchvision", "tyro"}
print("loaded", json.dumps(sorted(heavy & set(sys.modules))))
"""

TORCH_FREE = """
import sys
from ddbench.cli.main import VERBS, run
board = sys.argv[1]
commands = [[verb, "--help"] for verb in VERBS]
commands += [["list", what] for what in ("methods", "datasets", "students", "protocols", "recipes", "plans")]
commands += [["leaderboard", verb, "--leaderboard", board] for verb in ("build", "show")]
for command in commands:
    try:
        run(command)
    except SystemExit as stop:
        assert not stop.code, (command, stop.code)
    assert "torch" not in sys.modules, command
"""

RECIPES = """
import json
from ddbench.distillation.recipes import all_recipes
print(json.dumps([f"{recipe.method}/{recipe.name}" for recipe in all_recipes()]))
"""


def python(code: str, *args: object, cwd: Path) -> str:
    """Run code in a fresh interpreter with the ``ddbench`` of this one; returns its standard output."""
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-P", "-c", code, *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def installed() -> Distribution:
    """The distribution that the imported ``ddbench`` belongs to; a checkout has none."""
    try:
        found = distribution("ddbench")
    except PackageNotFoundError:
        pytest.skip("ddbench is not installed")
    if not found.files or Path(str(found.locate_file("ddbench/__init__.py"))).resolve().parent != PACKAGE:
        pytest.skip("the imported ddbench is not the installed one")
    return found


def test_version_is_that_of_the_metadata(installed: Distribution) -> None:
    assert installed.version == ddbench.__version__


def test_wheel_holds_the_package_the_cards_the_recipes_and_the_plans_only(installed: Distribution) -> None:
    names = {path.as_posix() for path in installed.files or () if "__pycache__" not in path.parts}
    package = {name.removeprefix("ddbench/") for name in names if name.startswith("ddbench/")}
    others = {name for name in names if not name.startswith(("ddbench/", f"ddbench-{ddbench.__version__}.dist-info/"))}
    assert {Path(name).name for name in others} <= {"ddbench", "ddbench.exe"}, "only the command lies outside"

    content = {name.removeprefix("_content/") for name in package if name.startswith("_content/")}
    expected = [*(CHECKOUT / "methods").rglob("README.md"), *(CHECKOUT / "methods").rglob("recipes.toml")]
    expected += (CHECKOUT / "plans").glob("*.toml")
    assert content == {path.relative_to(CHECKOUT).as_posix() for path in expected}

    source = {path.relative_to(CHECKOUT / "ddbench") for path in (CHECKOUT / "ddbench").rglob("*") if path.is_file()}
    code = {path.as_posix() for path in source if "__pycache__" not in path.parts}
    assert {name for name in package if not name.startswith("_content/")} == code
    assert {"py.typed", "leaderboard/result.schema.json", "leaderboard/templates/board.js"} <= package


def test_recipes_are_found_from_any_folder(tmp_path: Path) -> None:
    found = json.loads(python(RECIPES, cwd=tmp_path))
    assert "mtt/cifar10-ipc10" in found
    assert len(found) == len(set(found))


def test_recipes_come_from_the_wheel(installed: Distribution) -> None:
    from ddbench.distillation.recipes import content_folder

    assert content_folder() == PACKAGE / "_content" / "methods"


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_start_imports_nothing_heavy(flag: str, tmp_path: Path) -> None:
    assert python(CLEAN, flag, cwd=tmp_path).splitlines()[-1] == "loaded []"


def test_light_verbs_do_not_import_torch(tmp_path: Path) -> None:
    board = tmp_path / "board"
    board.mkdir()
    python(TORCH_FREE, board, cwd=tmp_path)
    assert (board / "index.html").is_file()
